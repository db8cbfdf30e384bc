"""Who is next: callers take turns, whatever each of them wants; what is interactive goes first, and mostly so; no I/O."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from alloy.providers.base import Priority

__all__ = ["FairQueue"]

IN_A_ROW = 9
"""How many that are interactive go before one of the batch does, if both wait."""


class _Waiter(Protocol):
    @property
    def caller(self) -> str: ...
    @property
    def priority(self) -> Priority: ...


T = TypeVar("T", bound=_Waiter)


class FairQueue(Generic[T]):
    """What waits, in two lanes; in each, callers take turns, and what one caller wants keeps its order."""

    __slots__ = ("_lanes", "_row", "_size")

    def __init__(self) -> None:
        self._lanes: dict[Priority, OrderedDict[str, OrderedDict[T, None]]] = {
            "interactive": OrderedDict(),
            "batch": OrderedDict(),
        }
        self._row = 0
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __iter__(self) -> Iterator[T]:
        """All that waits, lane by lane and caller by caller."""
        for lane in self._lanes.values():
            for waiting in lane.values():
                yield from waiting

    def add(self, waiter: T) -> None:
        """Puts it behind what its caller has waiting; a caller who had nothing waiting is the last to have a turn."""
        self._lanes[waiter.priority].setdefault(waiter.caller, OrderedDict())[waiter] = None
        self._size += 1

    def first(self) -> T | None:
        """Who is next; the same until something is removed or nobody waited."""
        interactive, batch = self._lanes["interactive"], self._lanes["batch"]
        lane = batch if batch and (not interactive or self._row >= IN_A_ROW) else interactive
        return next(iter(next(iter(lane.values())))) if lane else None

    def pop(self, waiter: T) -> None:
        """Takes out who was next; its caller goes to the end."""
        self.remove(waiter)
        lane = self._lanes[waiter.priority]
        if waiter.caller in lane:
            lane.move_to_end(waiter.caller)
        self._row = self._row + 1 if waiter.priority == "interactive" and self._lanes["batch"] else 0

    def remove(self, waiter: T) -> None:
        """Takes one out that waits no more."""
        lane = self._lanes[waiter.priority]
        waiting = lane[waiter.caller]
        del waiting[waiter]
        if not waiting:
            del lane[waiter.caller]
        self._size -= 1

    def ahead(self, waiter: T) -> int:
        """How many will likely go before one that waits, or is about to."""
        before = 0
        for priority, lane in self._lanes.items():
            if priority == waiter.priority:
                mine: Collection[T] = lane.get(waiter.caller, ())
                own = len(mine) - (waiter in mine)
                before += sum(min(len(waiting), own + 1) for caller, waiting in lane.items() if caller != waiter.caller)
                before += own
            elif priority == "interactive":
                before += sum(map(len, lane.values()))
        return before
