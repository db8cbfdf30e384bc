"""A server on loopback that means ill, and what such servers do."""

from __future__ import annotations

import contextlib
import gzip
import itertools
import json
import socket
import ssl
import struct
import threading
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from alloy.providers.limits import LIMITS

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "sk-a/very+secret=key-0123456789"


class Connection:
    """A client's connection, seen by somebody who means ill.

    Attributes:
        sock: what the client hears.
        beneath: the same without TLS, if there is any.
    """

    def __init__(self, sock: socket.socket, beneath: socket.socket) -> None:
        self.sock = sock
        self.beneath = beneath

    def send(self, *parts: bytes) -> None:
        for part in parts:
            self.sock.sendall(part)

    def forever(self, part: bytes) -> None:
        """Sends it until the client hangs up."""
        block = part * max(1, 64 * 1024 // len(part))
        while True:
            self.sock.sendall(block)

    def request(self) -> bytes:
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._received()
        head, _, body = data.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line[15:]) for line in lines if line.startswith(b"content-length:"))
        while len(body) < length:
            body += self._received()
        return head + b"\r\n\r\n" + body

    def hang(self) -> None:
        """Waits for the client to hang up."""
        while self.sock.recv(65536):
            pass

    def reset(self) -> None:
        """Hangs up as a crash does."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _received(self) -> bytes:
        data = self.sock.recv(65536)
        if not data:
            raise ConnectionError
        return data


class Server:
    """Serves each connection in a thread; `script` gets the connection once the request is read, or before with `early`."""

    def __init__(
        self, script: Callable[[Connection], None], *, early: bool = False, tls: ssl.SSLContext | None = None
    ) -> None:
        self.requests: list[bytes] = []
        self._script = script
        self._early = early
        self._tls = tls
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self._listener.getsockname()[1]}/v1"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing = True
        socket.create_connection(self._listener.getsockname()).close()  # wakes up who accepts
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive(), "the client never hung up"
        self._listener.close()

    def _accept(self) -> None:
        while True:
            sock, _ = self._listener.accept()
            if self._closing:
                sock.close()
                return
            self._threads.append(threading.Thread(target=self._serve, args=(sock,), daemon=True))
            self._threads[-1].start()

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError), sock, sock.dup() as beneath:
            spoken = self._tls.wrap_socket(sock, server_side=True) if self._tls else sock
            with spoken:
                connection = Connection(spoken, beneath)
                if not self._early:
                    self.requests.append(connection.request())
                self._script(connection)


def plain(*parts: bytes) -> Callable[[Connection], None]:
    """Sends this, and hangs up."""
    return lambda connection: connection.send(*parts)


def waiting(*parts: bytes) -> Callable[[Connection], None]:
    """Sends this, and waits for the client to hang up."""

    def script(connection: Connection) -> None:
        connection.send(*parts)
        connection.hang()

    return script


def endless(start: bytes, part: bytes) -> Callable[[Connection], None]:
    """Sends this, and then that for ever."""

    def script(connection: Connection) -> None:
        connection.send(start)
        connection.forever(part)

    return script


def head(content_type: str = "text/event-stream", *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", f"content-type: {content_type}", *headers, "", "")).encode()


def whole(document: object, *headers: str, status: str = "200 OK") -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return head("application/json", f"content-length: {len(body)}", *headers, status=status) + body


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(**fields: object) -> bytes:
    return event(choices=[{"index": 0, "delta": fields}])


def call(**fields: object) -> bytes:
    return delta(tool_calls=[fields])


def in_turn(*answers: bytes) -> Callable[[Connection], None]:
    """Sends each client another one."""
    remaining = iter(answers)
    return lambda connection: connection.send(next(remaining))


def tls(purpose: int) -> ssl.SSLContext:
    """TLS without certificates, which no honest client speaks."""
    context = ssl.SSLContext(purpose)
    if purpose == ssl.PROTOCOL_TLS_CLIENT:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AECDH:@SECLEVEL=0")
    return context


def said(message: bytes | dict[str, object], finish: str = "stop") -> bytes:
    """A whole answer."""
    message = message if isinstance(message, bytes) else json.dumps(message).encode()
    return b'{"choices":[{"finish_reason":"%b","message":%b}]}' % (finish.encode(), message)


def counting(start: bytes, make: Callable[[int], bytes]) -> Callable[[Connection], None]:
    """Sends this, and then something else each time, for ever."""

    def script(connection: Connection) -> None:
        connection.send(start)
        for number in itertools.count(0, 200):
            connection.send(b"".join(make(number + step) for step in range(200)))

    return script


# --- The attacks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Attack:
    """What a server does, and what the client makes of it.

    Attributes:
        script: what the server does.
        kind: the kind of error that it ends in.
        says: a part of the error's message.
        stream: whether a stream is asked for.
        limits: what is even smaller than in `SMALL`.
        timeout: how long the server may be silent, in seconds.
    """

    script: Callable[[Connection], None]
    kind: str
    says: str = ""
    stream: bool = True
    limits: dict[str, float] = field(default_factory=dict)
    timeout: float = 10.0


CHUNKED = head("text/event-stream", "transfer-encoding: chunked")
JSON = head("application/json")
GZIPPED = head("text/event-stream", "content-encoding: gzip")
DEFLATE = zlib.compressobj(9, wbits=31)
BOMB = b"".join(DEFLATE.compress(bytes(1024 * 1024)) for _ in range(100)) + DEFLATE.flush()  # a hundred kilobytes
END = event(choices=[{"finish_reason": "stop"}], usage={"prompt_tokens": 1}) + b"data: [DONE]\n\n"
EMPTY_BLOCKS = gzip.compress(b"")[:10] + b"\x00\x00\x00\xff\xff"

ATTACKS = {
    "an endless status line": Attack(endless(b"HTTP/1.1 200 ", b"a"), "network", "too long"),
    "an endless header line": Attack(endless(b"HTTP/1.1 200 OK\r\nx-a: ", b"a"), "network", "too long"),
    "endless headers": Attack(endless(b"HTTP/1.1 200 OK\r\n", b"x-a: b\r\n"), "network", "too long"),
    "a hundred kilobytes of cookies": Attack(plain(head("text/html", *["set-cookie: a=b; expires=Fri, 31 Dec 9999"] * 2000)), "invalid_request"),
    "endless information before the answer": Attack(endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"), "timeout", "no answer began", timeout=0.05),
    "an endless chunk header": Attack(endless(CHUNKED, b"1"), "network"),
    "an endless chunk extension": Attack(endless(CHUNKED + b"1;", b"a"), "network"),
    "endless trailers": Attack(endless(CHUNKED + b"0\r\n", b"x-a: b\r\n"), "network"),
    "an endless body": Attack(endless(JSON, b" "), "unknown", "bytes", stream=False),
    "an endless body in chunks of two bytes": Attack(endless(head("application/json", "transfer-encoding: chunked"), b"2\r\n  \r\n"), "unknown", "values", stream=False),
    "an endless error": Attack(endless(head("text/plain", status="500 Oh"), b"a"), "server_error"),
    "an error whose reason never comes": Attack(waiting(head("text/plain", "content-length: 9", status="500 Oh")), "server_error", limits={"error_seconds": 0.05}),
    "an endless page": Attack(endless(head("text/html"), b"<p>"), "invalid_request"),
    "an endless line": Attack(endless(head(), b"a"), "unknown", "event of the stream"),
    "an endless line in chunks of two bytes": Attack(endless(CHUNKED, b"2\r\naa\r\n"), "unknown", "values"),
    "an endless comment": Attack(endless(head() + b":", b"a"), "unknown", "event of the stream"),
    "an event of endless data lines": Attack(endless(head(), b"data: ab\n"), "unknown", "event of the stream"),
    "an event of endless empty lines of data": Attack(endless(head(), b"data\r"), "unknown", "event of the stream"),
    "an event of endless unknown lines": Attack(endless(head(), b"ab\n"), "unknown", "no stream of events"),
    "unknown lines and comments in turn": Attack(endless(head(), b"ab\n:\n"), "unknown", "no stream of events"),
    "lines of data and comments in turn": Attack(endless(head(), b"data: " + b"a" * 90 + b"\n:\n"), "unknown", "event of the stream"),
    "endless comments behind many data lines": Attack(endless(head() + b"data: a\n" * 9_000, b":\n"), "unknown", "values"),
    "an endless id": Attack(endless(head(), b"id: " + b"a" * 90_000 + b"\n"), "unknown", "event of the stream"),
    "endless comments": Attack(endless(head(), b": ping\n\n"), "unknown", "values"),
    "endless empty events": Attack(endless(head(), b"data: {}\n\n"), "unknown", "values"),
    "endless blanks": Attack(endless(head(), delta(content=" ")), "unknown", "values"),
    "endless small words": Attack(endless(head(), delta(content="é€")), "unknown", "values"),
    "endless big words": Attack(endless(head(), delta(content="a" * 1000)), "unknown", "characters"),
    "endless thoughts": Attack(endless(head(), delta(reasoning_details=[{"type": "a", "text": "a" * 500}])), "unknown", "characters"),
    "endless annotations": Attack(endless(head(), delta(annotations=[{}] * 500)), "unknown", "values"),
    "endless numbers": Attack(endless(head(), delta(annotations=[{"a": [10**9] * 500}])), "unknown", "values"),
    "endless arguments": Attack(endless(head(), call(index=0, function={"arguments": "a"})), "unknown", "values"),
    "arguments that may be whole at each piece": Attack(counting(head(), lambda n: call(index=0, id=f"{n}", function={"name": "a", "arguments": '"{}'})), "unknown", "values"),
    "a call for each of a million numbers": Attack(counting(head(), lambda n: call(index=n, function={"name": "a"})), "unknown", "50 tools"),
    "endless calls by one id": Attack(counting(head(), lambda n: call(index=n, id="a", function={"name": "a"})), "unknown", "50 tools"),
    "endless calls without an index": Attack(counting(head(), lambda n: call(id=f"{n}", function={"name": "a"})), "unknown", "50 tools"),
    "a name of a megabyte": Attack(plain(head() + call(index=0, function={"name": "a" * 100_000})), "unknown", "4096 characters"),
    "an id of a megabyte": Attack(plain(head() + call(index=0, id="a" * 100_000, function={"name": "a"})), "unknown", "4096 characters"),
    "an answer of empty lists": Attack(endless(JSON + b"[", b"[],"), "unknown", "values", stream=False),
    "an answer of calls": Attack(plain(whole(said(b'{"tool_calls":[%b{}]}' % (b'{"id":"a","function":{"name":"a"}},' * 1100)))), "unknown", "50 tools", stream=False),
    "a drip": Attack(endless(head(), b":"), "timeout", "0 seconds", limits={"seconds": 0.0}),
    "a drip of an answer": Attack(endless(JSON, b" "), "timeout", "0 seconds", stream=False, limits={"seconds": 0.0}),
    "a small body that becomes a big one": Attack(plain(head("application/json", "content-encoding: gzip"), BOMB), "unknown", "bytes", stream=False),
    "a small stream that becomes a big one": Attack(plain(GZIPPED, BOMB), "unknown", "bytes"),
    "a small error that becomes a big one": Attack(plain(head("text/plain", "content-encoding: gzip", status="500 Oh"), BOMB), "server_error"),
    "endless compressed nothing": Attack(endless(GZIPPED + EMPTY_BLOCKS, EMPTY_BLOCKS[10:]), "unknown", "bytes"),
    "what is compressed twice": Attack(plain(head("text/event-stream", "content-encoding: gzip, gzip"), gzip.compress(BOMB)), "unknown", "gzip"),
    "a compression that wasn't asked for": Attack(plain(head("text/event-stream", "content-encoding: br"), BOMB), "unknown", "'br'"),
    "another one": Attack(plain(head("text/event-stream", "content-encoding: zstd"), BOMB), "unknown", "'zstd'"),
    "no compression at all": Attack(plain(GZIPPED, delta(content="Hello")), "network", "compressed"),
    # What is no HTTP, or HTTP in an odd way.
    "what HTTP was in 1991": Attack(plain(b"<p>Hello</p>" * 10), "network"),
    "an alert of TLS": Attack(plain(b"\x15\x03\x03\x00\x02\x02\x46"), "network"),
    "the request itself": Attack(plain(b"POST /v1/chat/completions HTTP/1.1\r\nauthorization: Bearer " + KEY.encode() + b"\r\n\r\n"), "network"),
    "nothing at all": Attack(plain(), "network"),
    "a head that is cut": Attack(plain(b"HTTP/1.1 200 OK\r\ncontent-ty"), "network"),
    "two lengths": Attack(plain(head("application/json", "content-length: 5", "content-length: 6") + b"{}"), "network"),
    "a length that is none": Attack(plain(head("application/json", "content-length: -1") + b"{}"), "network"),
    "a length that promises more": Attack(plain(head("application/json", "content-length: 9999999999999") + said({"content": "Hello"})), "network"),
    "a length that promises less": Attack(plain(head("application/json", "content-length: 9") + said({"content": "Hello"})), "network", stream=False),
    "a chunk of a negative length": Attack(plain(CHUNKED + b"-5\r\nhello\r\n"), "network"),
    "a status of 0": Attack(plain(head(status="0 OK")), "network"),
    "a status of 999": Attack(plain(head(status="999 OK")), "server_error"),
    "status 101": Attack(plain(head("text/event-stream", "upgrade: h2c", "connection: upgrade", status="101 Switching") + delta(content="Hello")), "network"),
    "status 204": Attack(plain(b"HTTP/1.1 204 No Content\r\n\r\n" + delta(content="Hello")), "network"),
    "status 304": Attack(plain(b"HTTP/1.1 304 Not Modified\r\n\r\n" + delta(content="Hello")), "unknown", "304"),
    "a redirect to nowhere": Attack(plain(head(status="302 Found")), "unknown", "302"),
    "a redirect to no address": Attack(plain(head("text/html", "location: http://[" + "a" * 50_000, status="302 Found")), "invalid_request", "somewhere"),
    "headers that are no ASCII": Attack(plain(b"HTTP/1.1 500 Oh\r\nx-request-id: \xff\xfe\r\ncontent-length: 0\r\n\r\n"), "server_error"),
    "a picture": Attack(plain(head("image/png") + bytes(range(256)) * 100), "network"),
    "a picture instead of a document": Attack(plain(head("image/png") + bytes(range(256)) * 100), "network", stream=False),
    # What is no JSON, or JSON in an odd way.
    "lists in lists": Attack(plain(head() + b"data: " + b"[" * 1000 + b"\n\n"), "network"),
    "lists in lists instead of an answer": Attack(plain(whole(b"[" * 1000)), "network", stream=False),
    "lists in lists instead of a reason": Attack(plain(whole(b'{"error":' + b"[" * 50_000, status="500 Oh")), "server_error"),
    "a reason in lists": Attack(plain(whole(b'{"error":{"message":' + b"[" * 190 + b"]" * 190 + b"}}", status="400 No")), "invalid_request"),
    "a reason that never ends for a regular expression": Attack(plain(whole({"error": {"message": "invalid_" * 100_000}}, status="400 No")), "invalid_request", limits={"error": LIMITS.error}),
    "a code of many digits": Attack(plain(whole({"error": {"message": "No", "code": "9" * 50_000}}, status="400 No")), "invalid_request"),
    "a code of odd digits": Attack(plain(whole({"error": {"message": "No", "code": "\u00b2"}}, status="400 No")), "invalid_request"),
    "half a character": Attack(plain(head() + b'data: {"choices":[{"delta":{"content":"\\ud800"}}]}\n\n'), "network"),
    "what is no UTF-8": Attack(plain(whole(said(b'{"content":"\xff\xc3"}'))), "network", stream=False),
    "a number of too many digits": Attack(plain(head() + b'data: {"choices":' + b"9" * 50_000 + b"}\n\n"), "network"),
    "an index that is a list": Attack(plain(head() + call(index=[], function={"name": "a"})), "server_error"),
    "an end that is an object": Attack(plain(head() + event(choices=[{"finish_reason": {"a": 1}}]), b"data: [DONE]\n\n"), "server_error"),
    "a use of NaN tokens": Attack(plain(head() + b'data: {"choices":[],"usage":{"prompt_tokens":NaN}}\n\ndata: [DONE]\n\n'), "server_error"),
    "a use of 1e999 tokens": Attack(plain(head() + b'data: {"choices":[],"usage":{"prompt_tokens":1e999}}\n\ndata: [DONE]\n\n'), "server_error"),
    "a use of more tokens than can be": Attack(plain(head() + event(usage={"prompt_tokens": 10**4000}), b"data: [DONE]\n\n"), "server_error"),
}  # fmt: skip
