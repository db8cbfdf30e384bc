"""Measures what tools leave, hold and cost: ``python -m tests.benchmarks.tools --help``. Processes and memory need Linux.

- Processes: commands that begin a child, a grandchild and a process in a session of its own are cancelled, half of them at any
  moment, half when all of that runs. Those that are left are counted by their name.
- Memory: one command prints gigabytes.
- Cost: processor time of a tool call in a run, that of the run without calls taken off, against calling the function.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

import anyio

import alloy
from alloy.providers import Completion, Scripted
from alloy.testing import calls
from alloy.tools import Bash, read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from alloy.messages import Block

    Work = Callable[[], Awaitable[None]]

LONG = "98765.4321"  # seconds, and what the processes are known by
FORKS = f"sleep {LONG} & (sleep {LONG} & sleep {LONG}) & (setsid sleep {LONG} &); echo ready; wait"
BESIDE = 25
ROUNDS = 7
SHELL = Bash(restricted=False)


# --- Processes -------------------------------------------------------------------------------------------------------


def left() -> int:
    """How many processes of the commands there are."""
    found = 0
    for process in Path("/proc").iterdir():
        try:
            found += process.name.isdigit() and LONG.encode() in (process / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
    return found


async def cancelled_command(moment: float | None) -> None:
    """Cancels a command after so many seconds, or else when all its processes run."""
    script = Scripted([calls("bash", command=FORKS)])
    with anyio.move_on_after(moment):
        async with alloy.stream("Go.", provider=script, tools=[SHELL]) as run:
            async for envelope in run:
                if envelope.event == "tool_progress" and "ready" in envelope.payload["text"]:
                    break


async def cancelled_commands(count: int) -> tuple[int, int]:
    """Cancels so many commands; how many of their processes were seen at once, and how many are left."""
    moments = random.Random(1)
    room = anyio.Semaphore(BESIDE)
    most = 0

    async def one(number: int) -> None:
        nonlocal most
        async with room:
            await cancelled_command(moments.uniform(0, 0.3) if number % 2 else None)
            if number % 50 == 0:
                most = max(most, left())

    async with anyio.create_task_group() as group:
        for number in range(count):
            group.start_soon(one, number)
    return most, left()


# --- Memory ----------------------------------------------------------------------------------------------------------


def memory(line: str) -> int:
    """This process's memory in bytes, by a line of man 5 proc_pid_status: VmRSS is what it has, VmHWM its peak."""
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(row.split()[1]) * 1024 for row in status if row.startswith(f"{line}:"))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


async def printed(gigabytes: int) -> tuple[int, int]:
    """Has a command print so much; this process's memory before, and its peak meanwhile, in bytes."""
    await run_of([alloy.ToolUseBlock("1", "bash", {"command": "seq 100000"})], SHELL)
    gc.collect()
    forget_peak()
    before = memory("VmRSS")
    await run_of([alloy.ToolUseBlock("1", "bash", {"command": f"yes | head -c {gigabytes}000000000"})], SHELL)
    return before, memory("VmHWM")


# --- Cost ------------------------------------------------------------------------------------------------------------


class Answers:
    """A provider that gives one answer after the other, at once."""

    name = "instant"
    model = "answers"

    def __init__(self, answers: Sequence[Completion]) -> None:
        self._answers = iter(answers)
        self._given: Completion | None = None

    def stream(self, request: object) -> Self:
        self._given = next(self._answers)
        return self

    async def __aenter__(self) -> Self:
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


def answer(blocks: Sequence[Block]) -> Completion:
    asks = any(isinstance(block, alloy.ToolUseBlock) for block in blocks)
    return Completion(message=alloy.Message("assistant", tuple(blocks)), stop_reason="tool_use" if asks else "end_turn")


async def run_of(blocks: Sequence[Block], *tools: alloy.Tool) -> None:
    """A run whose model first says this, if it's anything, and then that it's done."""
    done = answer([alloy.TextBlock("Done.")])
    answers = [answer(blocks), done] if blocks else [done]
    result = await alloy.run("Go.", provider=Answers(answers), tools=tools, tool_timeout=600)
    assert not any(call.is_error for call in result.tool_calls), result.tool_calls[0]


@alloy.tool
async def double(number: int) -> int:
    """Doubles a number."""
    return 2 * number


@alloy.tool
def blocking_double(number: int) -> int:
    """Doubles a number, in a thread."""
    return 2 * number


def whole(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def in_a_run(count: int, tool: alloy.Tool, **arguments: object) -> Work:
    """So many calls of a tool, in one answer."""
    blocks = [alloy.ToolUseBlock(f"call_{number}", tool.name, arguments) for number in range(count)]
    return lambda: run_of(blocks, tool)


def in_a_row(count: int, function: Callable[[], Awaitable[object]]) -> Work:
    """So many calls of a function, without a run."""

    async def work() -> None:
        for _ in range(count):
            await function()

    return work


def works(count: int, file: Path) -> dict[str, dict[str, Work]]:
    """For each kind of tool: so many calls in a run, the same run without them, and so many without a run."""

    async def opened() -> str:
        return whole(file)

    return {
        "async tool": {
            "alloy": in_a_run(count, double, number=21),
            "await": in_a_row(count, lambda: double(21)),
        },
        "sync tool": {
            "alloy": in_a_run(count, blocking_double, number=21),
            "to_thread": in_a_row(count, lambda: asyncio.to_thread(blocking_double, 21)),
        },
        "read": {
            "alloy": in_a_run(count, read, path=str(file)),
            "open": in_a_row(count, opened),
            "to_thread": in_a_row(count, lambda: asyncio.to_thread(whole, file)),
        },
    }


async def seconds(work: Work) -> float:
    gc.collect()
    begun = time.process_time()
    await work()
    return time.process_time() - begun


async def costs(kind: dict[str, Work], count: int) -> dict[str, float]:
    """Microseconds for each call, each way; the medians of several rounds in which all take turns."""
    kind = kind | {"without": lambda: run_of([], double)}
    measured: dict[str, list[float]] = {name: [] for name in kind}
    for number in range(ROUNDS + 1):
        for name, work in kind.items():
            taken = await seconds(work)
            if number:  # the first round only warms up
                measured[name].append(taken / count * 1e6)
    medians = {name: statistics.median(values) for name, values in measured.items()}
    without = medians.pop("without")
    return medians | {"alloy": medians["alloy"] - without}


# --- Printing --------------------------------------------------------------------------------------------------------


async def print_all(options: argparse.Namespace, file: Path) -> None:
    if options.gigabytes:
        before, peak = await printed(options.gigabytes)
        say(
            f"memory while a command prints {options.gigabytes} GB: {before >> 10} kB before, {peak >> 10} kB at its peak"
        )
    if options.commands:
        begun = time.perf_counter()
        most, rest = await cancelled_commands(options.commands)
        took = time.perf_counter() - begun
        say(f"processes after {options.commands} cancelled commands: {rest} left, up to {most} at once; {took:.0f} s")
    if options.calls:
        say("\nkind         microseconds per call, and alloy's as a multiple of the others'")
        for name, kind in works(options.calls, file).items():
            row = await costs(kind, options.calls)
            alloys = row.pop("alloy")
            others = "   ".join(f"{other} {cost:.1f} ({alloys / cost:.1f}x)" for other, cost in row.items())
            say(f"{name:<12} alloy {alloys:>7.1f}   {others}")


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(words: Sequence[str] | None = None) -> None:
    """Measures and prints it all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=int, default=10, help="what one command prints; 0 to leave it out")
    parser.add_argument("--commands", type=int, default=1000, help="how many are cancelled")
    parser.add_argument(
        "--calls",
        type=int,
        default=300,
        help="how many tool calls an answer has; the results of many are shortened, which costs as well",
    )
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        file = Path(folder).resolve() / "file.txt"
        file.write_text("".join(f"line {number} of twenty\n" for number in range(20)), encoding="utf-8")
        asyncio.run(print_all(options, file))


if __name__ == "__main__":
    main()
