"""The example web service, over real sockets, with clients that stall, vanish and come back."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
import uvicorn

import alloy
from alloy.providers import Scripted
from alloy.providers.base import Completion, TextDelta
from examples import service

pytestmark = pytest.mark.anyio

WORDS = 40


class Gated:
    """Answers with some words, one request for each time that the gate is opened."""

    name = "gated"
    model = "words"

    def __init__(self) -> None:
        self.gate = anyio.Semaphore(0)
        self.asked = anyio.Event()

    @asynccontextmanager
    async def stream(self, request):
        async def items():
            self.asked.set()
            await self.gate.acquire()
            text = "".join(f"word{number} " for number in range(WORDS))
            for word in text.split(" ")[:-1]:
                await anyio.lowlevel.checkpoint()
                yield TextDelta(word + " ")
            yield Completion(message=alloy.Message("assistant", (alloy.TextBlock(text),)), stop_reason="end_turn")

        answer = items()
        try:
            yield answer
        finally:
            await answer.aclose()


@asynccontextmanager
async def serving(monkeypatch, provider, **options):
    """The service on a free port, and its URL."""
    monkeypatch.setattr(service, "CONFIG", alloy.Config(provider=provider, **options))
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    server = uvicorn.Server(
        uvicorn.Config(service.app, log_level="error", timeout_graceful_shutdown=1, ws="none", lifespan="on")
    )
    async with anyio.create_task_group() as group:
        group.start_soon(server.serve, [listening])
        try:
            yield f"http://127.0.0.1:{listening.getsockname()[1]}/conversations/ada"
        finally:
            server.should_exit = True
            while open_ones:
                open_ones.pop().vanish()


open_ones: list[Listener] = []


class Listener:
    """A client that reads server-sent events by hand, so that it can stop whenever it likes."""

    def __init__(self) -> None:
        self.envelopes: list[dict] = []

    async def connect(self, url: str, query: str = "") -> None:
        self.url = httpx.URL(url)
        open_ones.append(self)
        reader, self._writer = await asyncio.open_connection(self.url.host, self.url.port)
        last = f"Last-Event-ID: {self.envelopes[-1]['seq']}\r\n" if self.envelopes else ""
        self._writer.write(
            f"GET {self.url.path}/events{query} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{last}\r\n".encode()
        )
        self._reader = reader
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")

    async def read(self, count: int | None = None, until: str | None = None) -> None:
        """Reads some envelopes, or those up to the end of a request."""
        while count is None or count > 0:
            line = await self._reader.readline()
            if line.startswith(b"data:"):
                self.envelopes.append(json.loads(line[5:]))
                count = None if count is None else count - 1
                if (self.envelopes[-1]["event"], self.envelopes[-1]["correlation_id"]) == ("response", until):
                    return
            elif not line:
                return

    def vanish(self) -> None:
        self._writer.transport.abort()

    @property
    def numbers(self) -> list[int]:
        return [envelope["seq"] for envelope in self.envelopes]


async def test_a_message_is_accepted_watched_and_answered(monkeypatch):
    with anyio.fail_after(20):
        async with serving(monkeypatch, Scripted(["Hello, Ada."])) as url, httpx.AsyncClient() as client:
            accepted = await client.post(f"{url}/messages", json={"text": "Hello.", "id": "m1"})
            listener = Listener()
            await listener.connect(url, "?request=m1")
            await listener.read()
            answer = await client.get(f"{url}/requests/m1")

    assert (accepted.status_code, accepted.json()) == (202, {"id": "m1"})
    assert listener.envelopes[-1]["event"] == "response"
    assert answer.json() == {"status": "completed", "text": "Hello, Ada.", "tokens": 15}


async def test_a_full_queue_is_429_with_retry_after_and_a_repeated_id_is_accepted_once(monkeypatch):
    provider = Gated()
    with anyio.fail_after(20):
        async with serving(monkeypatch, provider, max_pending=1) as url, httpx.AsyncClient() as client:
            for number, expected in enumerate([202, 202, 429]):
                refused = await client.post(f"{url}/messages", json={"text": "Go.", "id": f"m{number}"})
                assert refused.status_code == expected
            again = await client.post(f"{url}/messages", json={"text": "Go.", "id": "m0"})
            other = await client.post(f"{url}/messages", json={"text": "Stop.", "id": "m0"})
            empty = await client.post(f"{url}/messages", json={"text": " "})
            cancelled = await client.delete(f"{url}/requests/m1")
            ended = await client.get(f"{url}/requests/m1")
            late = await client.delete(f"{url}/requests/m1")
            unknown = await client.delete(f"{url}/requests/m7")
            provider.gate.release()
            done = await client.get(f"{url}/requests/m0")

    assert refused.headers["retry-after"] == "1"
    assert (again.status_code, other.status_code, empty.status_code) == (202, 409, 400)
    assert (cancelled.status_code, ended.json(), late.status_code) == (202, {"status": "cancelled"}, 409)
    assert unknown.status_code == 404
    assert "m7" in unknown.json()["error"]
    assert done.json()["status"] == "completed"


async def test_a_cursor_that_is_too_old_is_410(monkeypatch):
    with anyio.fail_after(20):
        async with serving(monkeypatch, Scripted(["word " * 600])) as url, httpx.AsyncClient() as client:
            await client.post(f"{url}/messages", json={"text": "Talk.", "id": "m1"})
            await client.get(f"{url}/requests/m1")
            gone = await client.get(f"{url}/events", headers={"last-event-id": "3"})

    assert gone.status_code == 410
    assert "after 3" in gone.json()["error"]


async def reads(listener, last):
    await listener.read(until=last)


async def returns(listener, after, last):
    await listener.read(count=after)
    listener.vanish()
    await listener.connect(str(listener.url))
    await listener.read(until=last)


async def test_hundreds_of_clients_that_stall_and_vanish_neither_slow_the_agent_nor_miss_anything(monkeypatch):
    messages = 8
    provider = Gated()
    steady, fickle, stalled, gone = ([Listener() for _ in range(75)] for _ in range(4))
    queued = messages - 1
    last = f"m{messages - 1}"
    told = messages * (WORDS + 4) + queued  # run_start, turn_start, turn_end and response beside the words

    with anyio.fail_after(50):
        async with serving(monkeypatch, provider, max_pending=messages) as url, httpx.AsyncClient(timeout=30) as client:
            await client.post(f"{url}/messages", json={"text": "Go.", "id": "m0"})
            for listener in (*steady, *fickle, *stalled, *gone):
                await listener.connect(url)
            for number in range(1, messages):
                await client.post(f"{url}/messages", json={"text": "Go.", "id": f"m{number}"})
            async with anyio.create_task_group() as group:
                for number in range(75):
                    group.start_soon(reads, steady[number], last)
                    group.start_soon(returns, fickle[number], 1 + 3 * number, last)
                    gone[number].vanish()
                    provider.gate.release()
                ended = [await client.get(f"{url}/requests/m{number}") for number in range(messages)]

    assert [answer.json()["status"] for answer in ended] == ["completed"] * messages
    for listener in (*steady, *fickle):
        first = listener.numbers[0]
        assert listener.numbers == list(range(first, first + len(listener.numbers)))  # nothing twice, nothing missing
        assert told - 4 <= len(listener.numbers) <= told  # the first request had begun when they came
