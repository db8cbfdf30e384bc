"""What a piece of a streamed answer costs, by wire format and by how the server sends, against reading the events by hand."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, get_args

from tests.benchmarks.compare import measured, row, seconds
from tests.benchmarks.server import Pace, serving
from tests.benchmarks.wire import FORMATS
from tests.benchmarks.workloads import Streaming

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.compare import Effort, Row
    from tests.benchmarks.workloads import Work

__all__ = ["rows"]

_AIMS: dict[str, float] = {"burst": 1.3, "paced": 1.1}


async def _pairs(workload: Streaming, server: str, pairs: int) -> list[tuple[float, float]]:
    async def checked(work: Work) -> None:
        workload.check(await work())

    async with workload.prepared(server) as (ours, floor):
        return await measured(
            partial(seconds, partial(checked, ours), 1), partial(seconds, partial(checked, floor), 1), pairs
        )


def rows(effort: Effort) -> Iterator[Row]:
    """Measures it all."""
    with serving() as server:
        for pace in get_args(Pace):
            for wire in FORMATS:
                workload = Streaming(wire, pace, 2 * effort.turns)
                pairs = asyncio.run(_pairs(workload, server, effort.pairs))
                yield row("stream", f"a delta, {pace}: {wire} / httpx by hand", pairs, _AIMS.get(pace))
