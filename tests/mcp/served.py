"""Tools of ours, served over stdio; they misbehave where a test wants them to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import anyio

import alloy


@alloy.tool
async def add(a: int, b: int) -> dict[str, int]:
    """Adds."""
    return {"sum": a + b}


@alloy.tool
def prints() -> str:
    """Prints, and reads what isn't there."""
    sys.stdout.write("this would break the protocol\n")
    os.write(1, b"and this as well\n")
    return repr(sys.stdin.read()) + subprocess.run(["cat"], capture_output=True, text=True, check=True).stdout


@alloy.tool
async def fails() -> str:
    """Fails."""
    raise alloy.ToolError("no luck")


@alloy.tool
async def breaks() -> str:
    """Breaks."""
    raise ValueError("a bug")


@alloy.tool
async def steps(context: alloy.ToolContext) -> alloy.ToolOutput:
    """Tells of its progress."""
    context.report("one")
    context.report("two")
    return alloy.ToolOutput("done", media=(alloy.ImageBlock("image/png", b"data"),))


def note(path: str, state: str) -> None:
    Path(path).write_text(state)


@alloy.tool
async def waits(path: str) -> str:
    """Waits until it is cancelled, and writes that down."""
    note(path, "begun")
    try:
        await anyio.sleep_forever()
    finally:
        note(path, "cancelled")


ALONE = []


@alloy.tool(concurrency_safe=False)
async def alone() -> str:
    """Can't run beside itself."""
    ALONE.append(1)
    most = len(ALONE)
    for _ in range(10):
        await anyio.lowlevel.checkpoint()
        most = max(most, len(ALONE))
    ALONE.pop()
    return str(most)


TOOLS = [add, prints, fails, breaks, steps, waits, alone]

if __name__ == "__main__":
    anyio.run(lambda: alloy.mcp.serve(TOOLS, name="served", version="7", instructions="Add.", tool_timeout=20))
    sys.stdout.write("the output is ours again\n")
