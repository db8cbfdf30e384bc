"""Promises P1 to P4 over HTTP: a run against a server in another process is cancelled at every await point."""

from __future__ import annotations

import gc
import subprocess
import sys
from contextlib import aclosing, nullcontext
from typing import TYPE_CHECKING

import httpx
import pytest

import alloy
from alloy.providers import Anthropic, ChatCompletions
from alloy.providers.http import Endpoint
from alloy.testing import sweep

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVER = """
import asyncio, sys

HEAD = b"HTTP/1.1 200 OK\\r\\ncontent-type: %s\\r\\ntransfer-encoding: chunked\\r\\n\\r\\n"
CALL = [
    '{"choices":[{"index":0,"delta":{"content":"Let me see. "}}]}',
    '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"id":"c1","function":{"name":"add","arguments":"{\\\\"a\\\\":1"}}]}}]}',
    '{"choices":[{"index":0,"delta":{"tool_calls":[{"index":0,"function":{"arguments":",\\\\"b\\\\":2}"}}]}}]}',
    '{"choices":[{"index":0,"delta":{},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":5,"completion_tokens":5}}',
    "[DONE]",
]
WORDS = [
    '{"choices":[{"index":0,"delta":{"content":"It is 3."}}]}',
    '{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":3}}',
    "[DONE]",
]

async def answer(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            length = next(int(line[15:]) for line in head.lower().split(b"\\r\\n") if line.startswith(b"content-length:"))
            body = await reader.readexactly(length)
            writer.write(HEAD % b"text/event-stream")
            for event in WORDS if b'"role":"tool"' in body else CALL:
                data = f"data: {event}\\n\\n".encode()
                writer.write(b"%x\\r\\n%s\\r\\n" % (len(data), data))
                await writer.drain()
            writer.write(b"0\\r\\n\\r\\n")
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server in a process of its own, so that its sockets aren't counted with ours."""
    with subprocess.Popen([sys.executable, "-c", SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
        yield f"http://127.0.0.1:{int(server.stdout.readline())}/v1"
        server.stdin.close()
        server.stdout.close()


@alloy.tool
async def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@pytest.mark.parametrize(("own", "points"), [(False, 9), (True, 45)])
def test_p1_p2_p3_p4_hold_wherever_a_run_over_http_is_cancelled(url, own, points):
    texts = set()

    async def scenario(probe):
        async with httpx.AsyncClient() if own else nullcontext() as client:
            provider = ChatCompletions("m", "sk-not-a-real-key", url, client=client)
            options = {"tools": [add], "middleware": [probe], "on_event": probe, "timeout": 1000, "max_retries": 0}
            texts.add((await alloy.run("1 + 2?", provider=provider, **options)).text)

    assert sweep(scenario) > points
    assert texts == {"It is 3."}


@pytest.mark.anyio
async def test_p4_an_answer_that_is_left_in_the_middle_leaves_no_generator_to_the_garbage_collector(url):
    left = []
    before = sys.get_asyncgen_hooks()
    sys.set_asyncgen_hooks(finalizer=lambda generator: left.append(generator.__qualname__))
    try:
        endpoint = Endpoint(url, provider="p", model="m", headers={})
        async with endpoint.post("/chat/completions", b"{}", stream=True) as reply, aclosing(reply.chunks()) as chunks:
            first = await anext(chunks)
        del reply, chunks
        gc.collect()
    finally:
        sys.set_asyncgen_hooks(*before)

    assert first.startswith(b"data: ")
    assert left == []


def test_p4_no_connection_is_left_when_nobody_answers():
    async def scenario(probe):
        provider = Anthropic("m", "sk-not-a-real-key", "http://localhost:9")
        with pytest.raises(alloy.RunError, match="network"):
            await alloy.run("Hi.", provider=provider, middleware=[probe], on_event=probe, max_retries=0)

    assert sweep(scenario, sides=("task", "scope")) > 3
