"""Whether the thousandth turn of a conversation costs what the tenth does: in process, and over HTTP with each request encoded."""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import time
from typing import TYPE_CHECKING, Any, Self

import httpx

import alloy
from alloy.providers import Completion
from tests.benchmarks.compare import row
from tests.benchmarks.server import address, serving
from tests.benchmarks.workloads import PROVIDERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alloy.providers.base import Provider
    from tests.benchmarks.compare import Effort, Row

__all__ = ["WIDE", "Answers", "rows"]

WIDE = 10_000_000
"""A window that nothing is compacted for, in tokens."""


class Answers:
    """A provider that asks for a tool so many times, and is done then; it keeps no requests.

    Args:
        rounds: how often it asks for the tool.
        text: what the model says besides, each time.
    """

    name = "answers"
    model = "instant"

    def __init__(self, rounds: int, text: str = "") -> None:
        self._rounds = rounds
        self._text = text
        self._asked = 0
        self._given: Completion | None = None

    def stream(self, request: object) -> Self:
        blocks: list[Any] = [alloy.TextBlock(f"{self._text}{self._asked}")]
        if self._asked < self._rounds:
            city = {"city": f"City {self._asked}"}
            blocks.append(alloy.ToolUseBlock(f"call_{self._asked}", "weather", city))
        message = alloy.Message("assistant", tuple(blocks))
        self._given = Completion(message=message, stop_reason="tool_use" if len(blocks) == 2 else "end_turn")
        self._asked += 1
        return self

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Completion:
        given, self._given = self._given, None
        if given is None:
            raise StopAsyncIteration
        return given


class Clock:
    """A tool that notes the processor time at each call, which is once a turn."""

    def __init__(self) -> None:
        self._times: list[float] = []

    async def weather(self, city: str) -> str:
        """The weather in a city."""
        self._times.append(time.process_time())
        return f"It rains in {city}."

    def late_and_early(self) -> tuple[float, float]:
        """What one of the last turns took and what one of the first did, in seconds; the very first don't count."""
        taken = [after - before for before, after in zip(self._times, self._times[1:], strict=False)]
        window = max(1, min(50, len(taken) // 4))
        begin = min(window, 5)
        return statistics.median(taken[-window:]), statistics.median(taken[begin : begin + window])


async def by_alloy(provider: Provider, turns: int) -> tuple[float, float]:
    """A late and an early turn of one run."""
    clock = Clock()
    gc.collect()
    tool = alloy.tool(clock.weather)
    await alloy.run("Go on.", provider=provider, tools=[tool], max_turns=turns + 1, max_tokens=WIDE)
    return clock.late_and_early()


async def by_hand(url: str) -> tuple[float, float]:
    """The same on httpx, which encodes all messages for each request."""
    clock = Clock()
    gc.collect()
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Go on."}]
    async with httpx.AsyncClient(timeout=60) as client:
        while True:
            response = await client.post(f"{url}/chat/completions", json={"model": "m", "messages": messages})
            messages.append(message := response.json()["choices"][0]["message"])
            if not message.get("tool_calls"):
                return clock.late_and_early()
            for call in message["tool_calls"]:
                text = await clock.weather(**json.loads(call["function"]["arguments"]))
                messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})


def rows(effort: Effort) -> Iterator[Row]:
    """Measures it all."""
    repeat, what = range(max(1, effort.pairs // 3)), f"turn {effort.turns:,} / turn 10"
    yield row(
        "long", f"{what}, no network", [asyncio.run(by_alloy(Answers(effort.turns), effort.turns)) for _ in repeat], 1.3
    )
    with serving() as server:
        url = address(server, rounds=effort.turns)
        for wire, adapter in PROVIDERS.items():
            asyncio.run(by_alloy(adapter(url), 10))  # only warms up
            taken = [asyncio.run(by_alloy(adapter(url), effort.turns)) for _ in repeat]
            yield row("long", f"{what}, over HTTP: {wire}", taken, 1.3)
        yield row("long", f"{what}, over HTTP: by hand on httpx", [asyncio.run(by_hand(url)) for _ in repeat])
