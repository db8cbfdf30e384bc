"""What a callable is: its name, whether it blocks, whether it yields; and calling it without blocking the event loop."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING, Any

from alloy._tasks import run_in_thread

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["call", "innermost", "is_async", "name_of", "yields"]


async def call(function: Callable[..., Any], *args: Any, name: str) -> Any:
    """Calls a function, in a thread of its own unless it's async; `name` is the tool's."""
    if is_async(function):
        return await function(*args)
    value = await run_in_thread(function, *args, name=f"alloy tool {name}")
    return await value if inspect.isawaitable(value) else value


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
