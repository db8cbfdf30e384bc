"""What a callable is: its name, whether it blocks, whether it yields; and calling it without blocking the event loop."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

import anyio

from alloy._tasks import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["call", "call_and_stop", "innermost", "is_async", "name_of", "yields"]

T = TypeVar("T")


async def call(function: Callable[..., Any], *args: Any, name: str) -> Any:
    """Calls a function, in a thread of its own unless it's async; `name` is the tool's."""
    if is_async(function):
        return await function(*args)
    value = await run_in_thread(function, *args, name=f"alloy tool {name}")
    return await value if inspect.isawaitable(value) else value


async def call_and_stop(function: Callable[[], T], stop: Callable[[], object], *, name: str, within: float) -> T:
    """Calls a function in a thread of its own; when cancelled, tells it to stop, and waits until it has.

    Args:
        function: what to call.
        stop: has it end soon; called when the caller is cancelled.
        name: the tool's.
        within: how long to wait after that, in seconds. A thread that takes longer is left, and counted as stuck.

    Returns:
        What the function returns.

    Raises:
        BaseException: whatever the function raises.
    """
    ended = anyio.Event()
    outcome: list[T] = []
    failure: list[BaseException] = []
    patience = anyio.CancelScope(shield=True)

    async def wait() -> None:
        try:
            with patience:
                outcome.append(await run_in_thread(function, name=f"alloy tool {name}"))
        except Exception as error:  # noqa: BLE001  raised again below, as it is
            failure.append(error)
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        try:
            await ended.wait()
        except BaseException:
            stop()
            patience.deadline = anyio.current_time() + within
            raise
    for error in failure:
        raise error
    return outcome[0]


def is_async(function: Any) -> bool:
    """Whether calling it gives an awaitable at once, so that it needs no thread."""
    return inspect.iscoroutinefunction(_plain(function))


def yields(function: Any) -> bool:
    """Whether calling it gives a generator, async or not."""
    plain = _plain(function)
    return inspect.isgeneratorfunction(plain) or inspect.isasyncgenfunction(plain)


def name_of(function: Any) -> str:
    """What it's called; a `functools.partial` as the function in it, an object as its class."""
    while isinstance(function, functools.partial) and not hasattr(function, "__name__"):
        function = function.func
    return str(getattr(function, "__name__", type(function).__name__))


def innermost(function: Any) -> Any:
    """The plain function in partials, methods, callable objects and decorators made with `functools.wraps`."""
    return inspect.unwrap(_plain(function))


def _plain(function: Any) -> Any:
    while True:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, staticmethod) or inspect.ismethod(function):
            function = function.__func__
        elif inspect.isroutine(function) or inspect.isclass(function) or not callable(function):
            return function
        else:
            function = type(function).__call__
