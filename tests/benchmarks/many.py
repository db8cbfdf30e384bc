"""What many runs at once take: two tool rounds each, with a server that thinks for 50 ms, each side in a process of its own."""

from __future__ import annotations

import asyncio
import gc
import json
import resource
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.compare import row
from tests.benchmarks.http import bare_client, provider_at, run_by_alloy, run_by_hand
from tests.benchmarks.server import address, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from tests.benchmarks.compare import Effort, Row

__all__ = ["rows"]

FILES = 16_384
_ROOT = Path(__file__).parent.parent.parent
_WHAT = (("processor time", 0.15), ("time by the clock", 0.3), ("peak memory", 1.2))


def _more_files() -> None:
    """Has this process, and those that it begins, open as many files as there are connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(FILES, hard)), hard))


async def _together(work: Callable[[], Awaitable[None]], count: int) -> tuple[float, float, int]:
    """What so many at once took, after one alone: seconds of the processor and by the clock, and the peak of the memory.

    Raises:
        Exception: what one of them failed of.
    """
    await work()
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    await asyncio.gather(*(work() for _ in range(count)))
    took = time.process_time() - cpu, time.perf_counter() - wall
    return *took, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


async def _side(name: str, url: str, count: int) -> tuple[float, float, int]:
    if name == "alloy":
        async with provider_at(url) as provider:
            return await _together(partial(run_by_alloy, provider), count)
    async with bare_client() as client:
        return await _together(partial(run_by_hand, client, url), count)


def _taken(name: str, url: str, count: int) -> list[float]:
    command = [sys.executable, "-m", "tests.benchmarks.many", name, url, str(count)]
    taken: list[float] = json.loads(subprocess.run(command, cwd=_ROOT, check=True, stdout=subprocess.PIPE).stdout)
    return taken


def rows(effort: Effort) -> Iterator[Row]:
    """Measures it all; one run that fails is raised."""
    _more_files()
    with serving() as server:
        url = address(server, deltas=20, rounds=2, think=50)
        pairs = [
            (_taken("alloy", url, effort.turns), _taken("by hand", url, effort.turns))
            for _ in range(max(1, effort.pairs // 3))
        ]
    for at, (what, aim) in enumerate(_WHAT):
        each = [(ours[at], floor[at]) for ours, floor in pairs]
        yield row("many", f"{effort.turns:,} runs at once: {what} / httpx by hand", each, aim)


if __name__ == "__main__":
    _more_files()
    sys.stdout.write(json.dumps(asyncio.run(_side(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
