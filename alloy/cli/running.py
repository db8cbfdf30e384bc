"""Runs that a person watches and may interrupt: one question, or a conversation."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections import deque
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager, redirect_stdout, suppress
from typing import TYPE_CHECKING, Self, assert_never, cast

import anyio

from alloy import providers
from alloy._tasks import run_in_thread
from alloy.cli.asking import Approver, Keyboard
from alloy.errors import (
    AlloyError,
    ConfigurationError,
    DeadlineExceededError,
    MissingExtraError,
    ProviderError,
    RunError,
)
from alloy.loop.run import stream
from alloy.providers.base import Provider

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from io import TextIOWrapper

    from alloy.cli.rendering import View
    from alloy.errors import ErrorKind
    from alloy.events import Envelope
    from alloy.loop.config import Config
    from alloy.loop.run import RunStream
    from alloy.result import Result

__all__ = ["CANCELLED", "CONFIGURATION", "FAILED", "HALTED", "MAX_TURNS", "ask", "converse", "explain"]

FAILED, CONFIGURATION, MAX_TURNS, HALTED = 1, 2, 3, 4
CANCELLED = 128  # and the signal's number, as shells do
HELP = "/exit or Ctrl-D leaves; Ctrl-C cancels an answer"
_PASTE_OFF = "\x1b[?2004l"  # what readline switched on for the line that was given up

_HINTS: Mapping[ErrorKind, str] = {
    "rate_limited": "wait a little and ask again",
    "overloaded": "wait a little and ask again",
    "server_error": "ask again later",
    "timeout": "ask again later",
    "network": "check the connection, and the provider's address if you set one",
    "context_overflow": "ask with less text, or choose a model with a larger window",
    "quota": "check the account's plan and credit",
    "auth": "check the provider's API key",
}


class _Signals:
    """SIGINT, SIGTERM and SIGHUP, as the cancellation of what is being awaited; the second one ends the process at once.

    Args:
        on_kill: called before the second one's end.

    Attributes:
        received: the one that came.
    """

    def __init__(self, on_kill: Callable[[], None]) -> None:
        self.received: signal.Signals | None = None
        self._on_kill = on_kill
        self._scope: anyio.CancelScope | None = None
        names = ("SIGINT", "SIGTERM", "SIGHUP")  # what the parent chose to ignore, as nohup does, stays ignored
        every = [signal.Signals[name] for name in names if hasattr(signal, name)]
        self._before = {number: handler for number in every if (handler := signal.getsignal(number)) != signal.SIG_IGN}

    def __enter__(self) -> Self:
        loop = asyncio.get_running_loop()
        for number in self._before:
            try:
                loop.add_signal_handler(number, self._take, number)
            except NotImplementedError:  # Windows
                signal.signal(number, lambda number, _: loop.call_soon_threadsafe(self._take, signal.Signals(number)))
        return self

    def __exit__(self, *_: object) -> None:
        loop = asyncio.get_running_loop()
        for number, handler in self._before.items():
            with suppress(NotImplementedError):
                loop.remove_signal_handler(number)
            signal.signal(number, handler)

    @contextmanager
    def cancel(self) -> Iterator[None]:
        """Has a signal cancel the body, and one that came before it."""
        with anyio.CancelScope() as scope:
            self._scope = scope
            if self.received is not None:
                scope.cancel()
            try:
                yield
            finally:
                self._scope = None

    def cancel_nothing(self) -> None:
        """Has a signal cancel nothing more of the body of `cancel`."""
        self._scope = None

    def forget(self) -> None:
        """Goes on as if none had come."""
        self.received = None

    def _take(self, number: signal.Signals) -> None:
        if self.received is not None:
            self._on_kill()
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        self.received = number
        if self._scope is not None:
            self._scope.cancel()


async def ask(prompt: str, config: Config, view: View, *, interactive: bool) -> int:
    """Asks one question and shows the answer.

    Args:
        prompt: the question.
        config: how to run it.
        view: shows it.
        interactive: whether there is a person to be asked for approval.

    Returns:
        The exit code.

    Raises:
        ConfigurationError: nothing could be asked.
        OSError: the answer can't be written.
    """
    with _Signals(view.release) as signals:
        approver = Approver(view, Keyboard() if interactive else None)
        result = await _watch(prompt, config, view, signals, approver)
        return await _outcome(result, view, signals)


async def converse(config: Config, view: View) -> int:
    """Asks what is typed at the terminal, with all that was said before as history, until the person leaves.

    Args:
        config: how to run each question; its provider is held ready all the while.
        view: shows the answers.

    Returns:
        The exit code: 0 unless a signal ended it.

    Raises:
        ConfigurationError: the provider can't be used.
        ProviderError: the provider can't be started.
        OSError: the answers can't be written.
    """
    if isinstance(config.provider, str):
        config = config.with_options(provider=providers.from_string(config.provider))
    started = False
    with _Signals(view.release) as signals:
        with signals.cancel():
            async with AsyncExitStack() as stack:
                await _start(config.provider, view, stack)
                signals.cancel_nothing()
                started = True
                await _talk(config, view, signals)
        if signals.received is None or (started and signals.received == signal.SIGINT):
            return 0
        await run_in_thread(view.fail, "cancelled")
        return CANCELLED + signals.received


async def _start(provider: object, view: View, stack: AsyncExitStack) -> None:
    """Has the provider ready before the first question, since an embedded model takes seconds to load."""
    if isinstance(provider, AbstractAsyncContextManager) and isinstance(provider, Provider):
        await run_in_thread(view.busy, f"starting {provider.name}:{provider.model}")
        await stack.enter_async_context(provider)
        await run_in_thread(view.end_line)


async def _talk(config: Config, view: View, signals: _Signals) -> None:
    """Question and answer, until the person leaves or the process has to."""
    _prepare_input()
    keyboard = Keyboard()
    approver = Approver(view, keyboard)
    await run_in_thread(view.say, HELP)
    while (line := await _read_line(view, signals, keyboard)) is not None:
        try:
            result = await _watch(line, config, view, signals, approver)
            await _outcome(result, view, signals)
            config = config.with_options(messages=result.messages)
        except AlloyError as error:
            await run_in_thread(view.fail, explain(error))
        if signals.received == signal.SIGINT:
            signals.forget()


async def _watch(prompt: str, config: Config, view: View, signals: _Signals, approver: Approver) -> Result:
    """Shows a run to its end; a signal cancels it, and what it still tells is shown, too.

    What has happened is shown in one go, since a thread for each delta would cost more than the delta. A tool that prints would
    mix its words with the answer, so they go to standard error.
    """
    told: deque[Envelope] = deque()

    def hear(envelope: Envelope) -> None:
        told.append(envelope)
        approver.heed(envelope)

    with redirect_stdout(sys.stderr):
        try:
            async with stream(prompt, config, on_event=hear) as run:
                while await _goes_on(run, signals):
                    if told:
                        await run_in_thread(_show, told, view)
                    with signals.cancel():
                        await approver.answer(run)
        except RunError as error:
            return error.result
        finally:
            await run_in_thread(_show, told, view)
    return run.result


def _show(told: deque[Envelope], view: View) -> None:
    while told:
        view.show(told.popleft())


async def _goes_on(run: RunStream, signals: _Signals) -> bool:
    """Waits for the next thing to happen; False at the end, or as soon as a signal has come."""
    envelope = None
    if signals.received is None:
        with signals.cancel():
            envelope = await anext(run, None)
    return envelope is not None


async def _outcome(result: Result, view: View, signals: _Signals) -> int:
    """Says how a run ended, unless well, and returns the exit code."""
    match result.status:
        case "completed":
            return 0
        case "max_turns":
            said, code = f"stopped after {result.turns} turns; --max-turns allows more", MAX_TURNS
        case "halted":
            said, code = f"halted: {result.error}", HALTED
        case "cancelled":
            said, code = "cancelled", CANCELLED + (signals.received or signal.SIGINT)
        case "failed":
            error = result.error or RuntimeError("no cause is known")
            said, code = explain(error), CONFIGURATION if isinstance(error, ConfigurationError) else FAILED
        case _:
            assert_never(result.status)
    await run_in_thread(view.fail, said)
    return code


def explain(error: BaseException) -> str:
    """An error in one line, with what to do about it."""
    match error:
        case ProviderError(kind=kind) if kind in _HINTS:
            return f"{error}; {_HINTS[kind]}"
        case MissingExtraError(extra="local"):
            return f"{error}; or choose another model with --provider"
        case DeadlineExceededError():
            return f"{error}; --timeout allows more"
        case AlloyError():
            return str(error)
        case _:
            return f"{type(error).__name__}: {error}"


# --- The terminal ----------------------------------------------------------------------------------------------------


async def _read_line(view: View, signals: _Signals, keyboard: Keyboard) -> str | None:
    """The next question; None if the person leaves, or the process has to."""
    while signals.received is None:
        line = None
        with signals.cancel(), suppress(EOFError):
            line = await keyboard.line("> ")
        if line is None:
            break
        if line == "/exit":
            return None
        if re.fullmatch(r"/\w+", line):
            await run_in_thread(view.say, f"there is no command {line}; {HELP}")
        elif line:
            return line
    sys.stdout.write(_PASTE_OFF + "\n" if os.environ.get("TERM") != "dumb" else "\n")
    sys.stdout.flush()
    return None


def _prepare_input() -> None:
    """Gives `input` arrow keys and history, and pasted lines as one question, where there is GNU readline."""
    cast("TextIOWrapper", sys.stdin).reconfigure(errors="replace")
    try:
        import readline  # noqa: PLC0415  not on Windows
    except ImportError:
        return
    if "GNU" in (readline.__doc__ or ""):
        readline.parse_and_bind("set enable-bracketed-paste on")
