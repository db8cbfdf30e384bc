"""Two ways of doing the same, by turns, and what comes of it as a row of a table."""

from __future__ import annotations

import asyncio
import gc
import statistics
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

__all__ = ["Effort", "Row", "by_turns", "measured", "row", "seconds"]

Side: TypeAlias = "Callable[[], Awaitable[float]]"
"""Does its work once, and says what it took."""


@dataclass(frozen=True, slots=True)
class Effort:
    """How thoroughly to measure.

    Attributes:
        pairs: how often each side has its turn.
        repeat: how often the work is done in one turn, where that is short.
        turns: how many turns a long conversation has.
    """

    pairs: int = 9
    repeat: int = 50
    turns: int = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        topic: the module that measured it.
        what: what was measured.
        ratio: Alloy's cost as a multiple of the floor's, the median of all pairs.
        spread: the least and the greatest ratio of a pair.
        best: the least that Alloy took as a multiple of the least that the floor took.
        aim: what the ratio should be at most; None where it only tells what a floor does.
    """

    topic: str
    what: str
    ratio: float
    spread: tuple[float, float]
    best: float
    aim: float | None = None


def row(topic: str, what: str, pairs: Sequence[tuple[float, float]], aim: float | None = None) -> Row:
    """A row of pairs: what Alloy took and what the floor took, in one unit."""
    ratios = [ours / floor for ours, floor in pairs]
    best = min(ours for ours, _ in pairs) / min(floor for _, floor in pairs)
    return Row(topic, what, statistics.median(ratios), (min(ratios), max(ratios)), best, aim)


def by_turns(ours: Side, floor: Side, pairs: int) -> list[tuple[float, float]]:
    """What each side took, by turns, in an event loop of their own."""
    return asyncio.run(measured(ours, floor, pairs))


async def measured(ours: Side, floor: Side, pairs: int) -> list[tuple[float, float]]:
    """What each side took, by turns; a first pair only warms up."""
    return [(await ours(), await floor()) for _ in range(pairs + 1)][1:]


async def seconds(work: Callable[[], Awaitable[object]], repeat: int) -> float:
    """Processor time of this process for doing something once, in seconds."""
    gc.collect()
    begun = time.process_time()
    for _ in range(repeat):
        await work()
    return (time.process_time() - begun) / repeat
