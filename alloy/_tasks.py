"""Threads and tasks that have an owner."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import math
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakSet

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from anyio.abc import TaskGroup

__all__ = [
    "background",
    "call_soon",
    "cancelled_alone",
    "deadline_scope",
    "ending_alone",
    "last_words",
    "run_in_thread",
    "stuck_threads",
    "task_group",
    "was_cancelled",
]

T = TypeVar("T")

_abandoned: set[threading.Thread] = set()
_cancellations: WeakSet[asyncio.CancelledError] = WeakSet()
_scope_class: type[anyio.CancelScope] | None = None


class _Call:
    """A function called in a thread of its own."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self.done = anyio.Event()
        self.value: Any = None
        self.error: BaseException | None = None
        self._function = function
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()

    def run(self) -> None:
        try:
            self.value = self._context.run(self._function)
        except BaseException as error:  # noqa: BLE001  whoever awaits the call gets it
            self.error = error
        finally:
            _abandoned.discard(threading.current_thread())
        call_soon(self._loop, self.done.set)


def call_soon(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *args: Any) -> None:
    """Has an event loop call a function soon, from another thread, which never waits; nothing happens if the loop has gone."""
    with contextlib.suppress(RuntimeError):  # the loop is closed, and nobody waits any more
        loop.call_soon_threadsafe(function, *args)


async def run_in_thread(
    function: Callable[..., T],
    /,
    *args: Any,
    name: str = "alloy worker",
    stop: Callable[[], object] | None = None,
    within: float = 0.0,
) -> T:
    """Calls a blocking function without blocking the event loop.

    Each call has a daemon thread of its own: the pools of asyncio and anyio wait for their threads when the interpreter
    exits, so one stuck call would hang the process. A call whose waiter is cancelled goes on by itself, since a thread can't
    be stopped; it is counted in `stuck_threads` until it ends. With `stop` it's told to end, and waited for.

    Args:
        function: what to call, with `args`.
        name: the thread's name, for whoever looks at a stack dump.
        stop: has the function end soon; called when the waiter is cancelled.
        within: how long to wait then until it has ended, in seconds.

    Returns:
        What the function returns.

    Raises:
        BaseException: whatever the function raises.
    """
    call = _Call(functools.partial(function, *args))
    thread = threading.Thread(target=call.run, name=name, daemon=True)
    thread.start()
    try:
        await call.done.wait()
    except BaseException:
        if stop is not None:
            stop()
            await _patiently(call.done, within)
        if thread.is_alive() and not call.done.is_set():
            _abandoned.add(thread)
        raise
    if call.error is not None:
        raise call.error
    return call.value  # type: ignore[no-any-return]  # what the function returned, of the type it returns


async def _patiently(event: anyio.Event, seconds: float) -> None:
    """Waits for an event for so long, in the course of a cancellation, however often that is repeated."""
    with anyio.CancelScope(shield=True, deadline=anyio.current_time() + seconds) as scope:
        while not event.is_set() and not scope.cancel_called:
            with contextlib.suppress(asyncio.CancelledError):  # the first one is on its way already
                await event.wait()


def stuck_threads() -> tuple[str, ...]:
    """The names of threads whose caller has given up on them and that still run."""
    return tuple(sorted(thread.name for thread in list(_abandoned) if thread.is_alive()))


@asynccontextmanager
async def background(function: Callable[[], Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Runs `function` in a task while the body runs, and cancels it when the body ends.

    Unlike a bare task group it lets the body's own exception through as it is, not inside an ExceptionGroup, and ``task.cancel()``
    of the function's task ends the function, not the body. The body begins when the function has begun, and neither without the
    other. `function` must not raise, and has to tell whoever waits for it that it was cancelled.
    """
    raised: BaseException | None = None
    begun = anyio.Event()
    cancelled = False

    async def begin() -> None:
        if anyio.current_effective_deadline() == -math.inf:
            return
        begun.set()
        with ending_alone:
            if cancelled:
                _cancel_again()
            await function()

    while not begun.is_set():  # once, but if its task is cancelled before its first step: anyio ends the group with it
        async with task_group() as group:
            group.start_soon(begin)
            await _begun(begun)
            try:
                yield
            except anyio.get_cancelled_exc_class():
                raise
            except BaseException as error:  # noqa: BLE001  raised again below
                raised = error
            group.cancel_scope.cancel()
        cancelled = True
    if raised is not None:
        raise raised


async def _begun(event: anyio.Event) -> None:
    """Waits until something has begun. Who is cancelled when it has gets that at the next await, where he can end what began."""
    try:
        await event.wait()
    except asyncio.CancelledError as error:
        if not event.is_set():
            raise
        if cancelled_alone(error):  # a scope says it again by itself
            _cancel_again()


def _cancel_again() -> None:
    """Has the current task get a cancellation at its next await."""
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()
        task.cancel()


class _EndingAlone:
    """See `ending_alone`. It has no state, so all tasks share one."""

    __slots__ = ()

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        return error is not None and cancelled_alone(error)


ending_alone = _EndingAlone()
"""A block that ``task.cancel()`` ends, and nothing but the block: anyio would cancel the task group around the task, too. Whoever waits
for what the block does has to be told. When a scope around it is cancelled, the cancellation goes on."""


def cancelled_alone(error: BaseException) -> bool:
    """Whether this is a cancellation that no cancel scope around here asked for, so that it is this task's only."""
    return isinstance(error, asyncio.CancelledError) and anyio.current_effective_deadline() != -math.inf


@asynccontextmanager
async def task_group() -> AsyncIterator[TaskGroup]:
    """anyio's task group, for children that run what others wrote; `was_cancelled` knows what it's cancelled with.

    A task group inside of a child takes its own cancellations off the count of this one's task (anyio 4.16), after which
    ``Task.cancelling`` says that nobody has cancelled it.
    """
    try:
        async with anyio.create_task_group() as group:
            yield group
    except asyncio.CancelledError as error:  # children don't end a group with one, so the task itself was cancelled
        _cancellations.add(error)
        raise


def was_cancelled(error: BaseException) -> bool:
    """Whether this is a cancellation of the current task, not one that somebody else's task died of and passed on."""
    if not isinstance(error, asyncio.CancelledError):
        return False
    task = asyncio.current_task()
    return error in _cancellations or (task is not None and task.cancelling() > 0)


def deadline_scope(deadline: float) -> anyio.CancelScope:
    """A cancel scope with a deadline by the event loop's clock.

    ``anyio.CancelScope(...)`` looks for the event loop's library each time, and then makes the scope twice.
    """
    global _scope_class  # noqa: PLW0603  it can be asked for only while an event loop runs
    if _scope_class is None:
        _scope_class = type(anyio.CancelScope())
    return _scope_class(deadline=deadline)


async def last_words(function: Callable[[], Awaitable[T]], *, within: float) -> T | None:
    """Awaits `function` even if the surroundings are cancelled, for at most `within` seconds.

    Returns:
        What it returns, or None where the time didn't suffice.
    """
    with anyio.move_on_after(within, shield=True):
        return await function()
    return None
