"""An event loop with a clock and a schedule of its own: hours pass in no time, and what happened can be repeated exactly."""

from __future__ import annotations

import asyncio
import itertools
import selectors
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator

__all__ = ["HangError", "VirtualLoop", "run_virtually"]

T = TypeVar("T")

ROUNDS = 100_000  # without time passing, until it is taken for a hang


class HangError(AssertionError):
    """Something waits for what will never happen; the text says what each task waits for."""


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock stands still while anything can be done, and then jumps to the next timer.

    What runs on it must not use threads or sockets, which it doesn't wait for.

    Args:
        seed: shuffles tasks that could go on at the same moment, the same way for the same seed; None for asyncio's order.
        limit: how long anything may take, in seconds of its own time; what takes longer is a hang.
    """

    def __init__(self, seed: int | None = None, *, limit: float = 86_400.0) -> None:
        self._now = 0.0
        self._limit = limit
        self._rounds = 0
        self._chance = None if seed is None else Random(seed)  # noqa: S311  a schedule is no secret
        self._serial = itertools.count()
        self._serials: WeakKeyDictionary[asyncio.Task[Any], int] = WeakKeyDictionary()
        super().__init__(_Selector(self))
        self.set_task_factory(_numbered)

    def time(self) -> float:
        """Seconds since the loop was made, in its own time."""
        return self._now

    def create_numbered(self, coroutine: Coroutine[Any, Any, T], **options: Any) -> asyncio.Task[T]:
        """A task that knows when it was made, so that schedules don't depend on addresses in memory."""
        task = asyncio.Task(coroutine, loop=self, **options)
        self._serials[task] = next(self._serial)
        return task

    def waits(self, timeout: float | None) -> None:
        """What the loop does where others wait: lets time pass, or chooses who goes first.

        Raises:
            HangError: nothing will ever happen, or not within the limit.
        """
        if timeout is None or self._now + timeout > self._limit:
            raise HangError("nothing more will happen, but these wait:\n" + "\n".join(self._stacks()))
        self._rounds = 0 if timeout else self._rounds + 1
        if self._rounds > ROUNDS:
            raise HangError("time stands still, since these never rest:\n" + "\n".join(self._stacks()))
        self._now += timeout
        if self._chance is not None:
            ready = sorted(self._ready, key=self._age)  # type: ignore[attr-defined]  # asyncio has no public name for it
            self._chance.shuffle(ready)
            self._ready.clear()  # type: ignore[attr-defined]  # likewise
            self._ready.extend(ready)  # type: ignore[attr-defined]  # likewise

    def _age(self, handle: Any) -> int:
        task = getattr(handle._callback, "__self__", None)  # noqa: SLF001  likewise
        return self._serials.get(task, -1) if isinstance(task, asyncio.Task) else -1

    def _stacks(self) -> Iterator[str]:
        for task in sorted(asyncio.all_tasks(self), key=lambda task: self._serials.get(task, -1)):
            yield f"{task.get_name()}: {' > '.join(_places(task.get_coro())) or 'not begun'}"


class _Selector(selectors.DefaultSelector):
    """Never waits: the loop's time passes in its place."""

    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found: list[tuple[selectors.SelectorKey, int]] = super().select(0)
        self._loop.waits(0 if found else timeout)
        return found


def run_virtually(coroutine: Coroutine[Any, Any, T], seed: int | None = None, *, limit: float = 86_400.0) -> T:
    """Runs a coroutine on a `VirtualLoop`, as `asyncio.run` would.

    Args:
        coroutine: what to run.
        seed: of the schedule; None for asyncio's order.
        limit: how long it may take, in seconds of the loop's time.

    Raises:
        HangError: it waits for what will never happen.
        BaseException: what the coroutine raises.
    """
    with asyncio.Runner(loop_factory=lambda: VirtualLoop(seed, limit=limit)) as runner:
        return runner.run(coroutine)


def _numbered(loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
    assert isinstance(loop, VirtualLoop)  # noqa: S101  whose factory it is
    return loop.create_numbered(coroutine, **options)


def _places(waiting: Any) -> Iterator[str]:
    """Where a coroutine is suspended, outermost first."""
    while waiting is not None:
        frame = (
            getattr(waiting, "cr_frame", None)
            or getattr(waiting, "gi_frame", None)
            or getattr(waiting, "ag_frame", None)
        )
        if frame is not None:
            yield f"{frame.f_code.co_name} ({frame.f_code.co_filename.rpartition('/')[2]}:{frame.f_lineno})"
        waiting = (
            getattr(waiting, "cr_await", None)
            or getattr(waiting, "gi_yieldfrom", None)
            or getattr(waiting, "ag_await", None)
        )
