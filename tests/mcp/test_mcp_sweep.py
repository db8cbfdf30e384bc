"""A connection that is cancelled at any of its await points leaves no task, thread, descriptor or process."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

import alloy
import alloy.errors
from alloy.testing import calls, sweep
from alloy.testing.sweep import SIDES
from tests.mcp.test_connect import TINY

SCRIPT = [calls("tiny__echo", words="hello"), "Done."]


async def one_call(probe):
    with contextlib.suppress(alloy.errors.MCPServerError):  # what a clock that jumps makes of a start
        async with alloy.mcp.connect(TINY) as server:
            await alloy.run(
                "Go.",
                provider=alloy.providers.Scripted(SCRIPT),
                tools=server.tools,
                middleware=[probe],
                on_event=probe,
            )


def children():
    """The processes that this one has begun."""
    return {child for task in Path("/proc/self/task").iterdir() for child in (task / "children").read_text().split()}


@pytest.mark.parametrize("side", SIDES)
def test_a_connection_that_is_cancelled_anywhere_leaves_nothing(side):
    before = children()

    assert sweep(one_call, sides=(side,)) > 50
    assert children() <= before
