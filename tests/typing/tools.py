"""A function that was made a tool can still be called as what it was, and is checked as that."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, assert_type

import alloy

if TYPE_CHECKING:
    from collections.abc import Mapping


@alloy.tool
def add(a: int, b: int = 1) -> int:
    """Adds."""
    return a + b


@alloy.tool(name="look_up", timeout=5, concurrency_safe=False)
async def look(word: str, context: alloy.ToolContext) -> alloy.ToolOutput:
    """Looks a word up."""
    context.report(f"looking for {word}")
    return alloy.ToolOutput("nothing", data={"hits": 0})


async def the_signature_is_kept(context: alloy.ToolContext) -> None:
    assert_type(add(1, b=2), int)
    assert_type(await look("word", context), alloy.ToolOutput)
    add("1")  # type: ignore[arg-type]  # the assertion
    await look("word")  # type: ignore[call-arg]  # the assertion


def a_wrong_option_is_an_error() -> None:
    alloy.tool(add, timeouts=5)  # type: ignore[call-overload]  # the assertion
    alloy.Tool(name="x", description="x", schema={})  # type: ignore[call-arg]  # the assertion


class Clock(alloy.Tool):
    """A tool as a class."""

    name = "clock"
    description = "Tells the time."

    async def execute(self, arguments: Mapping[str, Any], context: alloy.ToolContext) -> str:
        """Tells the time."""
        return f"{arguments} at noon, turn {context.turn}"


TOOLS: list[alloy.Tool] = [add, look, Clock()]
