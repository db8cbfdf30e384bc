"""What a long conversation holds in memory."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import TYPE_CHECKING

import alloy
from tests.benchmarks.compare import row
from tests.benchmarks.long import WIDE, Answers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.compare import Effort, Row

__all__ = ["rows"]

SAYS = 400
"""Characters that the model says in each turn, besides its call."""
GIVES = 2000
"""Characters that the tool gives each time."""


@alloy.tool
async def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}. ".ljust(GIVES, "x")


async def _held(turns: int) -> tuple[float, float]:
    """What a run holds at its end, its result included, in bytes; and its text in UTF-8."""
    provider = Answers(turns, text="word " * (SAYS // 5))
    gc.collect()
    tracemalloc.start()
    result = await alloy.run("Go on.", provider=provider, tools=[weather], max_turns=turns + 1, max_tokens=WIDE)
    gc.collect()
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    said = sum(len(message.text.encode()) for message in result.messages)
    given = sum(len(block.text.encode()) for message in result.messages for block in message.tool_results)
    return held, said + given


def rows(effort: Effort) -> Iterator[Row]:
    """Measures it all."""
    asyncio.run(_held(2))  # what is imported on the way isn't the conversation's
    held = [asyncio.run(_held(effort.turns)) for _ in range(max(1, effort.pairs // 3))]
    yield row("memory", f"a conversation of {effort.turns:,} tool rounds / its text", held, 1.5)
