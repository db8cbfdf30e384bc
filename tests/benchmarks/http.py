"""What HTTP costs a run, against a loop written by hand on httpx and json, with nothing streamed but where the first delta counts."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import httpx

import alloy
from alloy.providers import ChatCompletions
from tests.benchmarks.compare import measured, row, seconds
from tests.benchmarks.server import address, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.benchmarks.compare import Effort, Row

__all__ = ["LAST", "bare_client", "provider_at", "rows", "run_by_alloy", "run_by_hand"]

ROUNDS = 10
"""Tool rounds of a run; an answer follows."""
DELTAS = 20
LAST = f" word{DELTAS - 1}"
"""How the answer ends."""
WHOLE = 1000
"""For how many tokens an answer is asked, so that it isn't streamed."""
_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


@alloy.tool
async def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


def provider_at(url: str) -> ChatCompletions:
    """The adapter that is measured."""
    return ChatCompletions("gpt-4.1-mini", "key", url, compat="openai", max_tokens=WHOLE)


def bare_client() -> httpx.AsyncClient:
    """httpx as it comes, but for limits that a thousand requests at once would meet."""
    return httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None, max_keepalive_connections=None))


async def run_by_alloy(provider: ChatCompletions) -> None:
    """One run."""
    assert (await alloy.run("Go on.", provider=provider, tools=[weather])).text.endswith(LAST)


async def run_by_hand(client: httpx.AsyncClient, url: str) -> None:
    """The same, as short as it can be written."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Go on."}]
    fields = {"model": "gpt-4.1-mini", "max_completion_tokens": WHOLE, "tools": [_WEATHER], "messages": messages}
    while True:
        response = await client.post(f"{url}/chat/completions", json=fields, headers={"authorization": "Bearer key"})
        response.raise_for_status()
        message = response.json()["choices"][0]["message"]
        messages.append(message)
        if not message.get("tool_calls"):
            assert message["content"].endswith(LAST)
            return
        for call in message["tool_calls"]:
            city = json.loads(call["function"]["arguments"])["city"]
            text = f"It rains in {city}."
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})


async def first_by_alloy(provider: ChatCompletions) -> float:
    """Streams an answer; the processor time when its first delta was there, in seconds."""
    at = 0.0
    async with alloy.stream("Go on.", provider=provider) as run:
        async for _ in run.text_deltas():
            at = at or time.process_time()
    return at


async def first_by_hand(client: httpx.AsyncClient, url: str) -> float:
    """The same, as short as it can be written."""
    at = 0.0
    fields = {"model": "gpt-4.1-mini", "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
    headers = {"authorization": "Bearer key"}
    async with client.stream("POST", f"{url}/chat/completions", json=fields, headers=headers) as response:
        async for line in response.aiter_lines():
            if not at and line.startswith("data: ") and line != "data: [DONE]":
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    at = time.process_time()
    return at


async def _until_first(work: Callable[[], Awaitable[float]], repeat: int) -> float:
    costs = []
    for _ in range(repeat):
        begun = time.process_time()
        costs.append(await work() - begun)
    return statistics.median(costs)


async def _turns(url: str, effort: Effort) -> list[tuple[float, float]]:
    async with bare_client() as client, provider_at(url) as provider:
        ours, floor = partial(run_by_alloy, provider), partial(run_by_hand, client, url)
        return await measured(
            partial(seconds, ours, effort.repeat), partial(seconds, floor, effort.repeat), effort.pairs
        )


async def _first(url: str, effort: Effort) -> list[tuple[float, float]]:
    async with bare_client() as client, provider_at(url) as provider:
        ours, floor = partial(first_by_alloy, provider), partial(first_by_hand, client, url)
        return await measured(
            partial(_until_first, ours, effort.repeat), partial(_until_first, floor, effort.repeat), effort.pairs
        )


def rows(effort: Effort) -> Iterator[Row]:
    """Measures it all."""
    with serving() as server:
        url = address(server, deltas=DELTAS, rounds=ROUNDS)
        yield row("http", "a turn over HTTP / httpx by hand", asyncio.run(_turns(url, effort)), 0.5)
        url = address(server, pace="paced", deltas=2)
        yield row("http", "the first delta / httpx by hand", asyncio.run(_first(url, effort)), 1.1)
