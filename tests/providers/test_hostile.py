"""A hostile server can't hurt: whatever it sends ends in a typed error, in little memory and without blocking anybody.

``python -m tests.providers.test_hostile`` tries each attack against the real limits in a process of its own, and prints what
that took.
"""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import gzip
import json
import math
import random
import resource
import ssl
import subprocess
import sys
import threading
import time
import tracemalloc
import zlib
from typing import TYPE_CHECKING
from urllib.parse import quote

import anyio
import httpx
import pytest

import alloy
from alloy.errors import DeadlineExceededError, ProviderError
from alloy.history import unique_id
from alloy.messages import as_user_message
from alloy.providers import http
from alloy.providers.base import Request
from alloy.providers.chat import ChatCompletions
from alloy.providers.errors import error_from_response
from alloy.providers.limits import LIMITS, PIECE, Inflater
from alloy.providers.sse import EventParser
from tests.providers.hostile_server import (
    ATTACKS,
    END,
    GZIPPED,
    KEY,
    Server,
    delta,
    endless,
    head,
    in_turn,
    plain,
    said,
    tls,
    waiting,
    whole,
)

if TYPE_CHECKING:
    from tests.providers.hostile_server import Connection

pytestmark = pytest.mark.anyio

SMALL = dataclasses.replace(
    LIMITS,
    body=256 * 1024,
    body_values=5_000,
    stream=1024 * 1024,
    stream_values=50_000,
    event=128 * 1024,
    error=64 * 1024,
    text=64 * 1024,
    calls=50,
    name=4096,
)
MEMORY = 16 * 1024 * 1024
"""What an answer may take under the small limits, in bytes; without limits it would be all that there is."""


async def ask(provider: ChatCompletions, *, stream: bool = True, prompt: str = "Hi") -> list[object]:
    async with provider.stream(Request(messages=[as_user_message(prompt)], stream=stream)) as items:
        return [item async for item in items]


async def failure(server: Server, *, stream: bool = True, prompt: str = "Hi", **options: object) -> ProviderError:
    with anyio.fail_after(10), pytest.raises(ProviderError) as caught:
        await ask(ChatCompletions("m", KEY, server.url, **options), stream=stream, prompt=prompt)
    return caught.value


@pytest.mark.parametrize("name", ATTACKS)
async def test_whatever_a_server_sends_ends_in_an_error_and_takes_little_memory(name, monkeypatch):
    attack = ATTACKS[name]
    monkeypatch.setattr(http, "LIMITS", dataclasses.replace(SMALL, **attack.limits))
    monkeypatch.setattr(http, "CONNECT_TIMEOUT", max(attack.timeout, 0.05))
    async with http.lease_client():
        tracemalloc.start()
        try:
            with Server(attack.script) as server:
                error = await failure(server, stream=attack.stream, timeout=attack.timeout)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert error.kind == attack.kind
    assert attack.says in error.message
    assert (error.provider, error.model) == ("chat_completions", "m")
    assert len(str(error)) < 3000
    assert peak < MEMORY


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE, 3 * PIECE + 258])
@pytest.mark.parametrize("cut", [1, 7, 1000, 10**6])
def test_what_is_decompressed_comes_in_small_pieces_and_is_whole(size, cut):
    body = random.Random(size).randbytes(64) * (size // 64) + bytes(size % 64)
    packed = gzip.compress(body)
    inflater = Inflater()

    pieces = [piece for at in range(0, len(packed), cut) for piece in inflater.feed(packed[at : at + cut])]

    assert b"".join(pieces) == body
    assert max(map(len, pieces), default=0) <= PIECE


def test_what_a_chunk_holds_comes_with_it_and_not_with_the_next():
    packed = gzip.compress(bytes(10 * PIECE))
    for cut in range(20, len(packed)):
        whole = zlib.decompressobj(wbits=31).decompress(packed[:cut])
        assert sum(map(len, Inflater().feed(packed[:cut]))) == len(whole)


def test_comments_inside_an_event_make_it_no_longer():
    parser = EventParser(max_event=1000)

    events = [event for piece in (b"data: a\n", *[b": ping\n"] * 1000, b"\n") for event in parser.feed(piece)]

    assert [event.data for event in events] == ["a"]


async def test_an_honest_compressed_stream_is_read_as_it_comes():
    deflate = zlib.compressobj(wbits=31)
    heard = anyio.Event()
    loop = asyncio.get_running_loop()

    def script(connection: Connection) -> None:
        first = deflate.compress(delta(content="Hello")) + deflate.flush(zlib.Z_SYNC_FLUSH)
        connection.send(GZIPPED, first)
        asyncio.run_coroutine_threadsafe(heard.wait(), loop).result(5)
        connection.send(deflate.compress(END) + deflate.flush())

    with Server(script) as server, anyio.fail_after(10):
        async with ChatCompletions("m", KEY, server.url).stream(Request(messages=[as_user_message("Hi")])) as items:
            heard_first = await anext(items)
            heard.set()
            *_, completion = [item async for item in items]

    assert heard_first.text == "Hello"
    assert completion.message.text == "Hello"
    assert b"\r\naccept-encoding: gzip\r\n" in server.requests[0].lower()


async def test_an_answer_that_a_client_of_ones_own_has_read_is_taken_from_it():
    body = gzip.compress(said({"content": "Hello"}))
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    transport = httpx.MockTransport(lambda request: httpx.Response(200, content=body, headers=headers))
    async with httpx.AsyncClient(transport=transport) as client:
        items = await ask(ChatCompletions("m", KEY, "http://a.test", client=client), stream=False)

    assert items[-1].message.text == "Hello"


def test_a_new_id_is_found_soon_though_all_numbers_are_taken():
    class Taken(set):
        looked = 0

        def __contains__(self, name: object) -> bool:
            self.looked += 1
            return super().__contains__(name)

    taken = Taken({"a", *(f"a_{number}" for number in range(10_000))})

    assert len({unique_id("a", taken) for _ in range(10)}) == 10
    assert taken.looked < 2000


# --- Time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [b": ping\n\n", delta(content="a")])
async def test_who_never_ends_is_ended_by_the_runs_timeout(part):
    with Server(endless(head(), part)) as server, anyio.fail_after(10), pytest.raises(alloy.RunError) as caught:
        await alloy.run(
            "Hi", provider=ChatCompletions("m", KEY, server.url), timeout=0.1, on_event=lambda envelope: None
        )

    assert isinstance(caught.value.cause, DeadlineExceededError)


@pytest.mark.parametrize(
    "value",
    ["NaN", "inf", "-1", "1e308", "1" * 500, "9999999999", "Fri, 31 Dec 9999 23:59:59 GMT", "Mon, 01 Jan 0001 00:00:00 -0000", "Fri, 31 Dec 9999 23:59:59 -2359", "99" * 5000 + " Jan 2026 00:00:00"],
)  # fmt: skip
async def test_nobody_waits_for_ages_because_a_server_says_so(value):
    busy = whole({"error": {"message": "busy"}}, f"retry-after: {value}", "connection: close", status="503 Busy")
    with Server(
        in_turn(busy, whole(said({"content": "Hello"})))
    ) as server:  # without a deadline, which would end a wait
        provider = ChatCompletions("m", KEY, server.url)
        try:
            result = await alloy.run("Hi", provider=provider, retry_backoff=0)
        except alloy.RunError as error:
            result = error.result

    assert result.text == "Hello" or 600 < result.error.retry_after < math.inf


def test_a_delay_in_a_body_is_bounded_in_digits():
    body = {"error": {"message": "busy", "details": [{"retryDelay": "9" * 500 + "s"}]}}

    assert error_from_response(429, {}, json.dumps(body).encode()).retry_after is None


async def test_thousands_of_small_chunks_leave_time_for_others():
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    body = b"20\r\n" + b": " * 16 + b"\r\n"
    body = body * 10_000 + b"0\r\n\r\n"
    with Server(plain(head("text/event-stream", "transfer-encoding: chunked") + body)) as server, anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            async with http.Endpoint(server.url, provider="p", model="m", headers={}).post(
                "/", b"", stream=True
            ) as reply:
                seen = [(turns, len(piece)) async for piece in reply.chunks()]
            tasks.cancel_scope.cancel()

    assert sum(size for _, size in seen) == 320_000
    for turn in {turn for turn, _ in seen}:
        assert sum(size for at, size in seen if at == turn) <= 32 * 1024


# --- Connections -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("early", "sent", "kind"),
    [
        (True, b"", "network"),
        (False, b"", "network"),
        (False, b"HTTP/1.1 200", "network"),
        (False, head(), "network"),
        (False, head() + delta(content="Hello")[:20], "network"),
        (False, head() + delta(content="Hello"), "network"),
        (False, head("text/plain", "content-length: 9", status="500 Oh"), "server_error"),
    ],
)
async def test_a_connection_may_break_at_any_point(early, sent, kind):
    def script(connection: Connection) -> None:
        connection.send(sent)
        connection.reset()

    with Server(script, early=early) as server:
        error = await failure(server)

    assert (error.kind, error.retryable) == (kind, True)


async def test_an_answer_that_comes_before_the_request_was_read_is_an_answer():
    def script(connection: Connection) -> None:
        connection.send(whole(said({"content": "Hello"})))
        connection.request()

    with Server(script, early=True) as server, anyio.fail_after(10):
        items = await ask(ChatCompletions("m", KEY, server.url), stream=False)

    assert items[-1].message.text == "Hello"


async def test_who_never_reads_a_long_request_is_a_timeout():
    done = threading.Event()

    def script(connection: Connection) -> None:
        connection.send(head(status="413 No"))
        done.wait(10)

    with Server(script, early=True) as server:
        error = await failure(server, timeout=0.1, prompt="long " * 4_000_000)
        done.set()

    assert error.kind == "timeout"


async def test_who_speaks_no_tls_is_a_network_error():
    with Server(waiting(head() * 100), early=True) as server:
        server.url = server.url.replace("http:", "https:")
        error = await failure(server)

    assert error.kind == "network"


async def test_broken_tls_in_the_middle_of_an_answer_is_a_network_error():
    def script(connection: Connection) -> None:
        connection.send(head() + delta(content="Hello"))
        connection.beneath.sendall(b"\x17\x03\x03\x00\x20" + bytes(32))
        connection.beneath.recv(1)

    async with httpx.AsyncClient(verify=tls(ssl.PROTOCOL_TLS_CLIENT)) as client:
        with Server(script, tls=tls(ssl.PROTOCOL_TLS_SERVER)) as server:
            error = await failure(server, client=client)

    assert error.kind == "network"


# --- Keys ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["location", "refresh"])
@pytest.mark.parametrize("status", ["200 OK", "301 Moved", "302 Found", "303 See Other", "307 Go", "308 Go"])
@pytest.mark.parametrize("own", [False, True])
async def test_a_key_goes_nowhere_else(header, status, own):
    with Server(plain()) as other:
        value = f"0; url={other.url}/x" if header == "refresh" else f"{other.url}/x"
        async with httpx.AsyncClient(follow_redirects=True) as client:
            page = head("text/html", f"{header}: {value}", status=status)
            with Server(plain(page, b"<meta http-equiv=refresh>")) as server:
                await failure(server, **({"client": client} if own else {}))

    assert other.requests == []


ECHOES = {
    "as it is": KEY,
    "in a URL": quote(KEY, safe=""),
    "in JSON": KEY.replace("/", "\\/"),
    **{f"in base64 behind {n} bytes": base64.b64encode(b"x" * n + KEY.encode() + b"!").decode() for n in range(3)},
    "in base64 as it is sent": base64.b64encode(f"Bearer {KEY}".encode()).decode(),
    "in base64 for URLs": base64.urlsafe_b64encode(f"Bearer {KEY}".encode()).decode(),
}


@pytest.mark.parametrize("form", ECHOES)
@pytest.mark.parametrize("place", ["message", "code", "request id", "page", "event", "location", "status line"])
async def test_a_key_that_comes_back_is_not_shown(form, place):
    echo = ECHOES[form]
    answers = {
        "message": whole({"error": {"message": f"no {echo}, no"}}, status="401 No"),
        "code": whole({"error": {"message": "no", "code": echo}}, status="401 No"),
        "request id": whole({"error": {"message": "no"}}, f"x-request-id: {echo}", status="401 No"),
        "page": head("text/plain", status="401 No") + f"you sent {echo}".encode(),
        "event": head() + f"data: not {echo}\n\n".encode(),
        "location": head("text/html", f"location: http://a.test/{echo}", status="302 Found"),
        "status line": f"{echo}\r\n\r\n".encode(),
    }
    with Server(plain(answers[place])) as server:
        error = await failure(server)

    shown = f"{error} {error!r} {error.message} {error.code} {error.request_id} {error.args}"
    assert not [part for part in (KEY[:12], KEY[-12:], echo[4:-4]) if part in shown], shown


@pytest.mark.parametrize("length", range(1990 - len(KEY), 2001))
def test_a_key_that_is_cut_off_is_not_shown_either(length):
    endpoint = http.Endpoint("http://a.test", provider="p", model="m", headers={"authorization": f"Bearer {KEY}"})
    error = error_from_response(401, {}, json.dumps({"error": {"message": "x" * length + KEY + "y"}}).encode())

    assert KEY[:8] not in str(endpoint._signed(error, None))


async def test_an_error_steers_no_terminal():
    error = {"error": {"message": "\x1b[2Jgone\x9b\r\x00", "code": "\x1b]0;title\x07"}}
    with Server(plain(whole(error, status="400 No"))) as server:
        caught = await failure(server)

    assert all(character.isprintable() for character in f"{caught}{caught.code}")


# --- What is kept ----------------------------------------------------------------------------------------------------

EVIL = "a\r\nx-evil: 1\r\n\r\nPOST /evil HTTP/1.1\r\n\r\n"


def called(arguments: object, **fields: object) -> bytes:
    function = {"name": "look", "arguments": arguments}
    return said({"tool_calls": [{"id": "a", "function": function, **fields}], **fields}, "tool_calls")


ODD = {
    "NaN in arguments": called('{"a": NaN, "b": [-Infinity]}'),
    "arguments that are beyond all numbers": called('{"a": 1e999}'),
    "NaN in an object": called("x").replace(b'"x"', b'{"a": NaN, "b": 1e999}'),
    "NaN in what is sent back": called("{}", extra_content={"a": "x"}).replace(b'"x"', b"NaN"),
    "NaN in reasoning": called("{}", reasoning_details=[{"type": "x"}]).replace(b'"x"', b"[NaN, -1e999]"),
    "lists in lists in arguments": called("[" * 100_000),
    "objects in objects in arguments": called('{"a":' * 190 + "1" + "}" * 190),
    "objects in objects in an object": called("x").replace(b'"x"', b'{"a":' * 180 + b"1" + b"}" * 180),
    "a number of many digits": called('{"a": %s}' % ("9" * 4000)),
    "half a character in arguments": called('{"a": "\\ud800"}'),
    "one key twice": called('{"a": 1, "a": 2}'),
    "arguments that are a number": called(5),
    "a name of nothing": said({"tool_calls": [{"id": "", "function": {"name": "", "arguments": "{"}}]}, "tool_calls"),
    "a name of a request": said({"tool_calls": [{"id": EVIL, "function": {"name": EVIL, "arguments": EVIL}}]}, "tool_calls"),
    "one id for all": said({"tool_calls": [{"id": "a", "function": {"name": "look"}}] * 500}, "tool_calls"),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
async def test_after_any_answer_the_history_can_be_sent_in_honest_json(name):
    @alloy.tool
    def look(a: object = None) -> str:
        """Looks."""
        return repr(a)[:10]

    with Server(
        in_turn(whole(ODD[name], f"x-request-id: {EVIL[:1]}", "connection: close"), whole(said({"content": "Fine."})))
    ) as server:
        with anyio.fail_after(10):
            result = await alloy.run("Hi", provider=ChatCompletions("m", KEY, server.url), tools=[look])

    first, second = (request.partition(b"\r\n\r\n") for request in server.requests)
    assert result.text == "Fine."
    _, message, *_ = json.loads(second[2], parse_constant=pytest.fail)["messages"]
    for call in message["tool_calls"]:
        json.loads(call["function"]["arguments"], parse_constant=pytest.fail)
    assert [line.split(b":")[0] for line in first[0].split(b"\r\n")] == [
        line.split(b":")[0] for line in second[0].split(b"\r\n")
    ]


# --- As a program ----------------------------------------------------------------------------------------------------


async def measure(name: str, url: str) -> dict[str, object]:
    """Asks a hostile server under the real limits, and says what that took."""
    attack = ATTACKS[name]
    stalls = [0.0]

    async def watch() -> None:
        while True:
            before = time.perf_counter()
            await anyio.sleep(0.005)
            stalls.append(time.perf_counter() - before)

    provider = ChatCompletions("m", KEY, url, timeout=attack.timeout)
    options = {"on_event": lambda envelope: None} if attack.stream else {}
    async with anyio.create_task_group() as tasks, provider:
        tasks.start_soon(watch)
        before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
        try:
            await alloy.run("Hi", provider=provider, max_retries=0, timeout=60, **options)
            said = "an answer"
        except alloy.RunError as error:
            said = str(error.cause)
        taken, seconds = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, time.perf_counter() - began
        tasks.cancel_scope.cancel()
    return {"memory": taken / 1024, "seconds": seconds, "stall": max(stalls), "said": said}


def main() -> None:
    """Prints a row for each attack, or for those that are named."""
    sys.stdout.write(f"{'attack':52} {'memory':>8} {'time':>7} {'stall':>7}  outcome\n")
    for name in sys.argv[1:] or ATTACKS:
        with Server(ATTACKS[name].script) as server:
            command = [sys.executable, "-m", "tests.providers.test_hostile", "measure", name, server.url]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
        row = json.loads(done.stdout)
        sys.stdout.write(
            f"{name:52} {row['memory']:5.0f} MB {row['seconds']:5.1f} s {row['stall']:5.2f} s  {row['said'][:100]}\n"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        sys.stdout.write(json.dumps(asyncio.run(measure(*sys.argv[2:]))))
    else:
        main()
