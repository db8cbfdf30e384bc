"""HTTP/1.1 as RFC 9110 and RFC 9112 have it, for a client that posts: a request's bytes, and a response out of bytes; no I/O.

It is strict where a server could make one answer look like another: framing that contradicts itself is refused, and so is whatever
a header can't carry. A line may end with a newline only, as RFC 9112 (section 2.2) allows, but never in a chunked body's framing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from alloy.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MAX_HEAD", "ResponseParser", "request_head"]

MAX_HEAD = 100 * 1024
"""How long a response's head, or its trailers, may get, in bytes."""
MAX_CHUNK_LINE = 4 * 1024
"""How long the line before a chunk may get, in bytes."""

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_NAME = re.compile(_WORD)
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
_FRAMING = ("content-length", "transfer-encoding")
_END = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([0-9]{3})(?: [^\x00\r\n]*)?\r?\n")
_FIELD = re.compile(rb"(%b):[ \t]*([^\x00\r\n]*?)[ \t]*\r?\n" % _WORD.encode())
_FOLDED = re.compile(rb"[ \t]*\r?\n[ \t]+")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\x00\r\n]*)?\r\n")


def request_head(host: str, target: str, headers: Mapping[str, str]) -> bytes:
    """The start of a POST request, up to the number that is its length; that, two ends of line and the body follow.

    Args:
        host: the server's name and port, unless a header says otherwise.
        target: the path and query, as they are sent.
        headers: names in lower case, and values.

    Raises:
        ProviderError: no header can carry it (kind ``invalid_request``), or one says how the request is framed.
    """
    fields = {"host": host, **headers}
    for name, value in fields.items():
        if not _NAME.fullmatch(name):
            raise _unsendable(f"no header is called {name!r}")
        if name in _FRAMING:
            raise _unsendable(f"the header {name!r} follows from the request")
        if not _VALUE.fullmatch(value) or value != value.strip(" \t"):
            raise _unsendable(f"no header can say what {name!r} should")
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"POST {target} HTTP/1.1\r\n{lines}content-length: ".encode("latin-1")


def _unsendable(why: str) -> ProviderError:
    return ProviderError(f"the request can't be sent ({why})", kind="invalid_request")


def _broken(what: str) -> ProviderError:
    return ProviderError(f"the connection failed (no HTTP: {what})", kind="network")


class ResponseParser:
    """Turns bytes, split anywhere, into one response; answers that are only information (1xx) are passed over.

    Attributes:
        status: the HTTP status; 0 until the head is there.
        headers: the headers, their names in lower case, those of one name joined by commas.
        complete: whether the body's end has come.
        reusable: whether the connection can be used again once the response is complete.
        chunks: how many chunks have come, for their framing takes work, too.
    """

    __slots__ = ("_at", "_body", "_buffer", "_left", "_searched", "chunks", "complete", "headers", "reusable", "status")

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.complete = False
        self.reusable = False
        self.chunks = 0
        self._body: list[bytes] = []
        self._buffer = b""
        self._at = 0  # where in the buffer to go on
        self._searched = 0
        self._left: int | None = (
            0  # bytes of the body, or of a chunk and the line's end behind it; None until the connection ends
        )

    def feed(self, data: bytes) -> None:
        """Takes the next bytes.

        Raises:
            ProviderError: they are no HTTP, or too many for what they should be (kind ``network``).
        """
        self._buffer = self._buffer[self._at :] + data if self._at < len(self._buffer) else data
        self._at = 0
        if not self.status and not self._head():
            return
        if self.complete:
            pass
        elif self.chunks:
            self._chunked()
        else:
            self._plain()
        if self.complete and self._at < len(self._buffer):
            self.reusable = False  # what comes behind an answer belongs to nothing

    def take(self) -> bytes:
        """The body's bytes that came since it was last asked for."""
        body = self._body
        if not body:
            return b""
        taken = body[0] if len(body) == 1 else b"".join(body)
        body.clear()
        return taken

    def end(self) -> None:
        """Takes the connection's end.

        Raises:
            ProviderError: the response isn't complete (kind ``network``).
        """
        if self.complete:
            return
        if not self.status:
            raise _broken("the server hung up without an answer")
        if self.chunks or self._left is not None:
            raise _broken("the server hung up in the middle of an answer")
        self.complete = True

    # --- The head ----------------------------------------------------------------------------------------------------

    def _head(self) -> bool:
        """Takes the head, if it's whole."""
        while not self.status:
            found = _END.search(self._buffer, max(self._at, self._searched))
            end = found.end() if found else len(self._buffer)
            if end - self._at > MAX_HEAD:
                raise _broken("the answer's head is too long")
            if not found:
                self._check_start()
                self._searched = max(0, len(self._buffer) - self._at - 2)
                return False
            self._take_head(self._buffer[self._at : end])
            self._at, self._searched = end, 0
        return True

    def _check_start(self) -> None:
        """Refuses soon what no answer begins with, since the end of its head might never come."""
        start = self._buffer[self._at : self._at + 7]
        if start != b"HTTP/1."[: len(start)]:
            raise _broken("the answer begins with something else")

    def _take_head(self, head: bytes) -> None:
        line = _STATUS_LINE.match(head)
        if not line:
            raise _broken("the answer begins with something else")
        status = int(line[2])
        if status < 100 or status == 101:
            raise _broken(f"the answer has the status {status}")
        headers = self._fields(head, line.end())
        if status >= 200:
            self.status, self.headers = status, headers
            self._frame(newest=line[1] == b"1")

    def _fields(self, head: bytes, at: int) -> dict[str, str]:
        """The header or trailer lines from there to the empty one."""
        if b"\n " in head or b"\n\t" in head:
            head = head[:at] + _FOLDED.sub(b" ", head[at:])
        fields: dict[str, str] = {}
        end = len(head) - (2 if head.endswith(b"\r\n") else 1)
        while at < end:
            field = _FIELD.match(head, at)
            if not field:
                raise _broken("a line of the answer's head is no header")
            name, value = field[1].decode("ascii").lower(), field[2].decode("latin-1")
            known = fields.get(name)
            fields[name] = value if known is None else f"{known}, {value}"
            at = field.end()
        return fields

    def _frame(self, *, newest: bool) -> None:
        """Finds out where the body ends: RFC 9112, section 6.3."""
        headers = self.headers
        self.reusable = newest and "close" not in _words(headers.get("connection", ""))
        coding, length = headers.get("transfer-encoding"), headers.get("content-length")
        if self.status in (204, 304):
            self.complete = True
        elif coding is not None:
            if coding.lower() != "chunked" or not newest:
                raise _broken("the answer is transferred in a coding that isn't known")
            self.reusable = self.reusable and length is None
            self.chunks, self._left = 1, 0
        elif length is not None:
            lengths = set(_words(length))
            said = lengths.pop() if lengths else ""
            if lengths or not (said.isascii() and said.isdigit() and len(said) <= 18):
                raise _broken("the answer's length is none")
            self._left = int(said)
            self.complete = not self._left
        else:
            self._left, self.reusable = None, False

    # --- The body ----------------------------------------------------------------------------------------------------

    def _plain(self) -> None:
        here = self._buffer[self._at :] if self._at else self._buffer
        self._at = len(self._buffer)
        if self._left is not None:
            if len(here) > self._left:
                self._at -= len(here) - self._left
                here = here[: self._left]
            self._left -= len(here)
            self.complete = not self._left
        if here:
            self._body.append(here)

    def _chunked(self) -> None:
        """Takes chunks: RFC 9112, section 7.1."""
        buffer, at, body, left = self._buffer, self._at, self._body, self._left or 0
        size, count = len(buffer), 0
        try:
            while True:
                if left > 2:  # the rest of a chunk, and the end of its line
                    piece = buffer[at : at + left - 2]
                    if piece:
                        body.append(piece)
                    at += len(piece)
                    left -= len(piece)
                if left == 2 and size - at >= 2:
                    if buffer[at : at + 2] != b"\r\n":
                        raise _broken("a chunk of the answer is longer than it should be")
                    at, left = at + 2, 0
                if left or at == size:
                    return
                line = _CHUNK_LINE.match(buffer, at)
                if not line:
                    self._check_chunk_line(buffer[at : at + MAX_CHUNK_LINE + 1])
                    return
                count += 1
                left = int(line[1], 16)
                if not left:
                    self._trailers(at, line.end())
                    at = self._at
                    return
                at, left = line.end(), left + 2
        finally:
            self._at, self._left = at, left
            self.chunks += count

    def _check_chunk_line(self, line: bytes) -> None:
        """Raises where no further bytes could make it the line before a chunk."""
        if (
            len(line) > MAX_CHUNK_LINE
            or b"\n" in line
            or not re.match(rb"[0-9A-Fa-f]{1,16}(?:[ \t]*;|[ \t]*\r?\Z)", line)
        ):
            raise _broken("a chunk of the answer has no length")

    def _trailers(self, last: int, at: int) -> None:
        """Takes what is behind the last chunk; until all of it is there, the last chunk is as if it hadn't come."""
        found = _END.search(self._buffer, max(at - 1, self._searched))
        if (found.end() if found else len(self._buffer)) - at > MAX_HEAD:
            raise _broken("the answer's trailers are too long")
        if not found:
            self._at, self._searched = last, max(0, len(self._buffer) - last - 2)
            return
        if found.end() - at > 2:
            self._fields(self._buffer[at : found.end()], 0)
        self._at, self.complete = found.end(), True


def _words(value: str) -> list[str]:
    """The words of a header that is a list, in lower case."""
    return [word for word in (part.strip().lower() for part in value.split(",")) if word]
