"""What the loop itself costs, without a network: a turn of a run of ten tool rounds."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import TYPE_CHECKING, Any

import alloy
from alloy.providers import Scripted
from alloy.testing import calls
from tests.benchmarks.compare import by_turns, row, seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.benchmarks.compare import Effort, Row

__all__ = ["rows"]

ROUNDS = 10
"""Tool rounds of a short run; an answer follows."""


async def rain(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


weather = alloy.tool(rain, name="weather")


async def run_by_alloy(rounds: int) -> None:
    """One run, answered from a script."""
    script = Scripted([calls("weather", city=f"City {number}") for number in range(rounds)] + ["Done."])
    assert (await alloy.run("Go on.", provider=script, tools=[weather], max_turns=rounds + 1)).text == "Done."


def answer_by_hand(number: int, rounds: int) -> dict[str, Any]:
    """A line of the same script, as a chat API would say it."""
    if number == rounds:
        return {"role": "assistant", "content": "Done."}
    function = {"name": "weather", "arguments": json.dumps({"city": f"City {number}"})}
    return {"role": "assistant", "tool_calls": [{"id": f"call_{number}", "function": function}]}


async def run_by_hand(rounds: int) -> None:
    """The barest loop: it validates, counts, limits, tells and keeps nothing, and one failure ends it."""
    functions: dict[str, Callable[..., Any]] = {"weather": rain}
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Go on."}]
    for number in range(rounds + 1):
        await asyncio.sleep(0)
        message = answer_by_hand(number, rounds)
        messages.append(message)
        for call in message.get("tool_calls", ()):
            arguments = json.loads(call["function"]["arguments"])
            text = await functions[call["function"]["name"]](**arguments)
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})
    assert messages[-1]["content"] == "Done."


def rows(effort: Effort) -> Iterator[Row]:
    """Measures it."""
    pairs = by_turns(
        partial(seconds, partial(run_by_alloy, ROUNDS), effort.repeat),
        partial(seconds, partial(run_by_hand, ROUNDS), effort.repeat),
        effort.pairs,
    )
    yield row("loop", "a turn without a network / the barest loop", pairs, 8)
