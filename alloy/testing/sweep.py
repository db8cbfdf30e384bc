"""The cancellation sweep: runs and agents are cancelled at each of their await points, one after the other, and must leave nothing
behind."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import os
import threading
import warnings
from collections.abc import Awaitable, Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from alloy._tasks import background, stuck_threads
from alloy.errors import AgentError, RunError
from alloy.history import check_history
from alloy.loop.middleware import Middleware
from alloy.loop.run import run
from alloy.providers.scripted import Scripted
from alloy.testing.asserts import check_envelopes
from alloy.testing.recorder import Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Generator, Iterator, Sequence

    from alloy.agents.agent import Agent
    from alloy.events import Envelope
    from alloy.loop.middleware import RunContext
    from alloy.messages import Message
    from alloy.result import Result

__all__ = ["Probe", "Side", "sweep"]

Side: TypeAlias = Literal["task", "one task", "scope", "deadline", "all tasks"] | Callable[[], Awaitable[object] | None]
"""Who cancels: ``task.cancel()`` from plain asyncio, ``task.cancel()`` of the very task that waits at the point and of no other, a
cancel scope, a clock that jumps past every deadline, ``task.cancel()`` of all the tasks that there are, as when the event loop is shut
down; or a function that does something to what the scenario has made, and
returns None or what is to be awaited in a task of its own."""

SIDES: tuple[Side, ...] = ("task", "scope", "deadline")
"""What is done to a run."""

_JUMP = 1e6  # seconds
JOIN = 5.0  # seconds that a thread has to end


class Probe(Middleware):
    """Sees what a run or an agent does; pass it as middleware and as ``on_event``, and agents to `watch`.

    Attributes:
        recorder: the envelopes.
        results: the results that runs ended with.
        agents: those that it watches.
    """

    def __init__(self) -> None:
        self.recorder = Recorder()
        self.results: list[Result] = []
        self.agents: list[Agent] = []
        self._run: RunContext | None = None

    def __call__(self, envelope: Envelope) -> None:
        self.recorder(envelope)

    def watch(self, agent: Agent) -> Agent:
        """Watches an agent, too, and returns it."""
        self.agents.append(agent)
        return agent

    async def session_start(self, run: RunContext) -> None:
        """Remembers the run."""
        self._run = run

    async def session_end(self, result: Result, run: RunContext) -> None:  # noqa: ARG002  the hook's signature
        """Remembers the result."""
        self.results.append(result)

    def check_now(self) -> None:
        """Asserts that the histories could be sent at this moment."""
        if self._run is not None:
            check_history(self._run.messages)
        for agent in self.agents:
            with contextlib.suppress(AgentError):  # it hasn't been entered yet
                check_history(agent.messages)


def sweep(
    scenario: Callable[[Probe], Awaitable[object]],
    *,
    sides: Sequence[Side] = SIDES,
    after: Callable[[Probe], Awaitable[object]] | None = None,
) -> int:
    """Runs a scenario once undisturbed, then once for each of its await points and each side, cancelled there.

    The points are found by counting: every time any task of the scenario waits for something is one. At each of them the
    histories must be valid; after each cancellation there must be one outcome of the run, or of each request that an agent
    accepted, paired envelopes, a history that the next run can go on from, and no task, thread or file descriptor that wasn't
    there before.

    Args:
        scenario: an async function that runs something with ``middleware=[probe], on_event=probe``.
        sides: who cancels.
        after: awaited at the end of each; asserts what else has to hold.

    Returns:
        The number of cancellations that were tried.

    Raises:
        AssertionError: something didn't hold, with the point at which.
    """
    points = _once(scenario, after, None, "task")
    tried = 0
    for side in sides:
        with _unawaited() if side == "all tasks" else contextlib.nullcontext():
            for point in range(1, points + 1):
                try:
                    _once(scenario, after, point, side)
                except Exception as error:
                    name = side if isinstance(side, str) else side.__name__
                    raise AssertionError(
                        f"cancelled by {name} at await point {point} of {points}: {error!r}"
                    ) from error
                tried += 1
    return tried


@contextlib.contextmanager
def _unawaited() -> Iterator[None]:
    """Leaves out what Python says of coroutines in tasks that were cancelled before they had begun: anyio wraps them."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
        yield
        gc.collect()


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
        return asyncio.Task(_Counted(coroutine, self), loop=loop, **options)

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


class _Counted(Coroutine[Any, Any, Any]):
    """A coroutine whose await points are counted. It isn't wrapped in another, which could be cancelled before it has begun this."""

    def __init__(self, coroutine: Any, points: _Points) -> None:
        self._coroutine = coroutine
        self._points = points

    def send(self, value: Any) -> Any:
        awaited = self._coroutine.send(value)
        self._points.passed()
        return awaited

    def throw(self, *error: Any) -> Any:
        awaited = self._coroutine.throw(*error)
        self._points.passed()
        return awaited

    def close(self) -> None:
        self._coroutine.close()

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._coroutine.__await__()  # type: ignore[no-any-return]  # a coroutine's

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)  # its state, which anyio asks for


def _once(
    scenario: Callable[[Probe], Awaitable[object]],
    after: Callable[[Probe], Awaitable[object]] | None,
    at: int | None,
    side: Side,
) -> int:
    """One run of the scenario, cancelled at point `at`; returns how many points it passed."""
    probe = Probe()
    points = _Points(at, probe.check_now)
    threads = set(threading.enumerate())
    with asyncio.Runner(loop_factory=_Clock) as runner:
        runner.get_loop().set_task_factory(points.task)
        runner.run(_watched(scenario, probe, points, side))
        if after is not None:
            runner.run(_completed(after(probe)))
    if points.error is not None:
        raise points.error
    _check_threads(threads)
    return points.count


async def _completed(awaitable: Awaitable[object]) -> None:
    await awaitable


async def _watched(scenario: Callable[[Probe], Awaitable[object]], probe: Probe, points: _Points, side: Side) -> None:
    files = _descriptors()
    await _disturbed(scenario, probe, points, side)
    left = {str(task) for task in asyncio.all_tasks() if task is not asyncio.current_task()}
    _expect(not left, f"tasks left: {left}")
    _expect(_descriptors() <= files, "file descriptors left")
    for agent in probe.agents:
        await _check_agent(agent, [one for one in probe.recorder.envelopes if one.agent_id == agent.name])
    if probe.recorder.envelopes and not probe.agents:
        check_envelopes(probe.recorder.envelopes)
        _expect(len(probe.results) == 1, f"{len(probe.results)} outcomes")
        await _goes_on(probe.results[0].messages)


async def _disturbed(scenario: Callable[[Probe], Awaitable[object]], probe: Probe, points: _Points, side: Side) -> None:
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    assert task is not None and isinstance(loop, _Clock)  # noqa: S101, PT018  the runner made them
    with anyio.CancelScope() as scope:
        if side == "task":
            points.act = task.cancel
        elif side == "one task":
            points.act = _cancel_this
        elif side == "scope":
            points.act = scope.cancel
        elif side == "deadline":
            points.act = lambda: _jump(loop)
        elif side == "all tasks":
            points.act = _cancel_all
        # Cancellation is what was asked for, and a deadline may surface as an error of the run's.
        with contextlib.suppress(asyncio.CancelledError, TimeoutError, *((RunError,) if side == "deadline" else ())):
            if callable(side):
                async with _acting(side, points):
                    await _counting(scenario(probe), points)
            else:
                await _counting(scenario(probe), points)
    while task.cancelling():
        task.uncancel()


async def _counting(awaitable: Awaitable[object], points: _Points) -> None:
    points.active = True
    try:
        await awaitable
    finally:
        points.active = False


@contextlib.asynccontextmanager
async def _acting(function: Callable[[], Awaitable[object] | None], points: _Points) -> AsyncIterator[None]:
    """Has the function called at the point, and what it returns awaited in a task of its own."""
    asked = anyio.Event()
    doing: list[Awaitable[object]] = []

    def act() -> None:
        done = function()
        if inspect.isawaitable(done):
            doing.append(done)
            asked.set()

    async def do() -> None:
        await asked.wait()
        with contextlib.suppress(AgentError):  # what it would cancel has ended
            await doing[0]

    points.act = act
    async with background(do):
        await checkpoint()
        yield


def _jump(loop: _Clock) -> None:
    loop.ahead += _JUMP


def _cancel_this() -> None:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  it waits at this point
    task.cancel()


def _cancel_all() -> None:
    for task in asyncio.all_tasks():
        task.cancel()


async def _check_agent(agent: Agent, envelopes: Sequence[Envelope]) -> None:
    """Checks that an agent has ended, each of its requests once."""
    try:
        health = agent.health()
    except AgentError:
        _expect(not envelopes, "an agent that was never entered has told something")
        return
    _expect((health.state, health.running, health.pending) == ("closed", None, 0), f"it hasn't ended: {health}")
    seqs = [envelope.seq for envelope in envelopes]
    _expect(all(one < two for one, two in pairwise(seqs)), f"numbers don't strictly increase: {seqs}")
    requests = {one.correlation_id for one in envelopes if one.event != "runtime_event"}
    for request_id in requests:
        own = [envelope for envelope in envelopes if envelope.correlation_id == request_id]
        names = [envelope.event for envelope in own]
        if "run_start" in names:
            check_envelopes(own)
        _expect(names.count("response") == 1 and names[-1] == "response", f"not one response at the end: {names}")
    await _goes_on(agent.messages)


async def _goes_on(messages: Sequence[Message]) -> None:
    check_history(messages)
    after = await run("Go on.", messages=messages, provider=Scripted(["Fine."]))
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
