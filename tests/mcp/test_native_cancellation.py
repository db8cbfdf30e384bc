"""``task.cancel()`` of a connection's own task ends the connection: whoever asks it is told, and nobody waits for ever."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

from alloy.errors import MCPServerError
from tests.mcp.test_connect import call, tiny

pytestmark = pytest.mark.anyio


def connection_task() -> asyncio.Task:
    (task,) = (task for task in asyncio.all_tasks() if "background" in task.get_name())
    return task


async def test_tools_of_a_connection_whose_task_was_cancelled_say_so_and_the_block_goes_on():
    ended = []
    async with tiny() as server:
        assert (await call(server, "echo", words="hello")).text == "hello"
        task = connection_task()
        task.cancel()
        await asyncio.wait([task])
        with anyio.fail_after(5), pytest.raises(MCPServerError, match="cancelled the connection's task"):
            await call(server, "echo", words="?")
        ended.append("whole")

    assert ended == ["whole"]


async def test_entering_a_connection_whose_task_is_cancelled_while_it_starts_says_so():
    async def cancel():
        while not any("background" in task.get_name() for task in asyncio.all_tasks()):
            await anyio.lowlevel.checkpoint()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        connection_task().cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        with anyio.fail_after(10), pytest.raises(MCPServerError, match="cancelled the connection's task"):
            async with tiny():
                raise AssertionError
