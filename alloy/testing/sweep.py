"""The cancellation sweep: a run is cancelled at each of its await points, one after the other, and must leave nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import anyio

from alloy._tasks import stuck_threads
from alloy.history import check_history
from alloy.loop.middleware import Middleware
from alloy.loop.run import run
from alloy.providers.scripted import Scripted
from alloy.testing.asserts import check_envelopes
from alloy.testing.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator

    from alloy.events import Envelope
    from alloy.loop.middleware import RunContext
    from alloy.result import Result

__all__ = ["Probe", "Side", "sweep"]

Side: TypeAlias = Literal["task", "scope", "deadline"]
"""Who cancels: ``task.cancel()`` from plain asyncio, a cancel scope, or a clock that jumps past every deadline."""

_JUMP = 1e6  # seconds
JOIN = 5.0  # seconds that a thread has to end


class Probe(Middleware):
    """Sees what a run does; pass it as middleware and as ``on_event``.

    Attributes:
        recorder: the envelopes.
        results: the results that the run ended with; one, if all is well.
    """

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.results: list[Result] = []
        self._run: RunContext | None = None

    def __call__(self, envelope: Envelope) -> None:
        self.recorder(envelope)

    async def session_start(self, run: RunContext) -> None:
        """Remembers the run."""
        self._run = run

    async def session_end(self, result: Result, run: RunContext) -> None:  # noqa: ARG002  the hook's signature
        """Remembers the result."""
        self.results.append(result)

    def check_now(self) -> None:
        """Asserts that the run's history could be sent at this moment."""
        if self._run is not None:
            check_history(self._run.messages)


def sweep(scenario: Callable[[Probe], Awaitable[object]], *, sides: tuple[Side, ...] = get_args(Side)) -> int:
    """Runs a scenario once undisturbed, then once for each of its await points and each side, cancelled there.

    The points are found by counting: every time any task of the scenario waits for something is one. At each of them the
    history must be valid; after each cancellation there must be one outcome, paired envelopes, a history that the next run
    can go on from, and no task, thread or file descriptor that wasn't there before.

    Args:
        scenario: an async function that runs something with ``middleware=[probe], on_event=probe``.
        sides: who cancels.

    Returns:
        The number of cancellations that were tried.

    Raises:
        AssertionError: something didn't hold, with the point at which.
    """
    points = _once(scenario, None, "task")
    tried = 0
    for side in sides:
        for point in range(1, points + 1):
            try:
                _once(scenario, point, side)
            except Exception as error:
                raise AssertionError(f"cancelled by {side} at await point {point} of {points}: {error!r}") from error
            tried += 1
    return tried


class _Clock(asyncio.SelectorEventLoop):
    """An event loop whose clock can jump."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead


class _Points:
    """Counts the await points of all tasks, and does something at one of them."""

    def __init__(self, at: int | None, check: Callable[[], None]) -> None:
        self.count = 0
        self.active = False
        self.act: Callable[[], object] | None = None
        self._at = at
        self._check = check
        self.error: Exception | None = None

    def task(self, loop: asyncio.AbstractEventLoop, coroutine: Any, **options: Any) -> asyncio.Task[Any]:
        """A task factory for the event loop."""
        return asyncio.Task(_counted(coroutine, self), loop=loop, **options)

    def passed(self) -> None:
        if not self.active:
            return
        self.count += 1
        try:
            self._check()
        except Exception as error:  # noqa: BLE001  told when the scenario has ended
            self.error = self.error or error
        if self.count == self._at and self.act is not None:
            self.act()


class _Counted:
    def __init__(self, coroutine: Coroutine[Any, Any, Any], points: _Points) -> None:
        self._coroutine = coroutine
        self._points = points

    def __await__(self) -> Generator[Any, Any, Any]:
        send: Callable[[], Any] = lambda: self._coroutine.send(None)  # noqa: E731  each step sets the next
        while True:
            try:
                awaited = send()
            except StopIteration as stop:
                return stop.value
            self._points.passed()
            try:
                value = yield awaited
            except BaseException as error:  # noqa: BLE001  thrown on into the coroutine
                send = _thrower(self._coroutine, error)
            else:
                send = _sender(self._coroutine, value)


def _sender(coroutine: Coroutine[Any, Any, Any], value: Any) -> Callable[[], Any]:
    return lambda: coroutine.send(value)


def _thrower(coroutine: Coroutine[Any, Any, Any], error: BaseException) -> Callable[[], Any]:
    return lambda: coroutine.throw(error)


async def _counted(coroutine: Coroutine[Any, Any, Any], points: _Points) -> Any:
    return await _Counted(coroutine, points)


def _once(scenario: Callable[[Probe], Awaitable[object]], at: int | None, side: Side) -> int:
    """One run of the scenario, cancelled at point `at`; returns how many points it passed."""
    probe = Probe()
    points = _Points(at, probe.check_now)
    threads = set(threading.enumerate())
    with asyncio.Runner(loop_factory=_Clock) as runner:
        runner.get_loop().set_task_factory(points.task)
        runner.run(_watched(scenario, probe, points, side))
    if points.error is not None:
        raise points.error
    _check_threads(threads)
    return points.count


async def _watched(scenario: Callable[[Probe], Awaitable[object]], probe: Probe, points: _Points, side: Side) -> None:
    files = _descriptors()
    await _disturbed(scenario, probe, points, side)
    left = {str(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    _expect(not left, f"tasks left: {left}")
    _expect(_descriptors() <= files, "file descriptors left")
    if probe.recorder.envelopes:
        check_envelopes(probe.recorder.envelopes)
        _expect(len(probe.results) == 1, f"{len(probe.results)} outcomes")
        await _goes_on(probe.results[0])


async def _disturbed(scenario: Callable[[Probe], Awaitable[object]], probe: Probe, points: _Points, side: Side) -> None:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert task is not None and isinstance(loop, _Clock)  # noqa: S101, PT018  the runner made them
    with anyio.CancelScope() as scope:
        ways: dict[Side, Callable[[], object]] = {
            "task": task.cancel,
            "scope": scope.cancel,
            "deadline": lambda: _jump(loop),
        }
        points.act = ways[side]
        points.active = True
        # Cancellation is what was asked for, and a deadline may surface as an error of the run's.
        with contextlib.suppress(asyncio.CancelledError, TimeoutError, *_expected(side)):
            await scenario(probe)
        points.active = False
    while task.cancelling():
        task.uncancel()


def _expected(side: Side) -> tuple[type[Exception], ...]:
    from alloy.errors import RunError  # noqa: PLC0415  needed here alone

    return (RunError,) if side == "deadline" else ()


def _jump(loop: _Clock) -> None:
    loop.ahead += _JUMP


async def _goes_on(result: Result) -> None:
    check_history(result.messages)
    after = await run("Go on.", messages=result.messages, provider=Scripted(["Fine."]))
    _expect(after.text == "Fine.", "the next run didn't succeed")
    check_history(after.messages)


def _check_threads(before: set[threading.Thread]) -> None:
    new = [thread for thread in threading.enumerate() if thread not in before]
    for thread in new:
        thread.join(JOIN)
    left = [thread.name for thread in new if thread.is_alive() and thread.name not in stuck_threads()]
    _expect(not left, f"threads left: {left}")


def _descriptors() -> set[str]:
    folder = Path("/proc/self/fd")
    if not folder.exists():
        return set()
    return {name for name in os.listdir(folder) if os.path.exists(folder / name)}  # noqa: PTH110, PTH208  no Path a descriptor


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
