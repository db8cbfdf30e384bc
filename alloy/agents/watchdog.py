"""A watchdog: a thread that notices when the event loop is blocked, and says by what."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_stack
from typing import TYPE_CHECKING

import anyio

import alloy
from alloy._tasks import call_soon, last_words

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Block", "Watchdog"]

SHOWN = 12  # frames in the log, innermost first
ENDING = 1.0  # seconds that the thread has to end

_FRAMEWORKS = (
    *(f"{Path(file).parent}{os.sep}" for file in (alloy.__file__, anyio.__file__, asyncio.__file__)),
    "<frozen importlib",
)

_log = logging.getLogger("alloy")


@dataclass(frozen=True, slots=True)
class Block:
    """A time in which the event loop didn't run.

    Attributes:
        seconds: how long.
        frame: what it was doing, as ``file:line function``; None where nobody could look, because something held the
            interpreter's lock or the whole process was stopped.
    """

    seconds: float
    frame: str | None


class Watchdog:
    """Notices when the running event loop doesn't come round for a while: something blocks it that should be awaited.

    It is a daemon thread that asks the loop for a sign of life a few times each threshold, and nothing else.

    Args:
        threshold: how long the loop may take for one round, in seconds.
        told: called on the event loop when it runs again.
    """

    def __init__(self, threshold: float, told: Callable[[Block], None]) -> None:
        self._threshold = threshold
        self._told = told
        self._loop = asyncio.get_running_loop()
        self._watched = threading.get_ident()
        self._alive = threading.Event()
        self._stopped = threading.Event()
        self._ended = anyio.Event()
        self._thread = threading.Thread(target=self._watch, name="alloy watchdog", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    async def stop(self) -> None:
        """Ends the thread, and waits for that for a second at most."""
        self._stopped.set()
        self._alive.set()
        await last_words(self._ended.wait, within=ENDING)
        if self._ended.is_set():
            self._thread.join(ENDING)  # it has nothing left to do

    def _watch(self) -> None:
        while not self._stopped.is_set() and not self._loop.is_closed():
            self._watch_a_round()
            self._stopped.wait(self._threshold / 4)
        call_soon(self._loop, self._ended.set)

    def _watch_a_round(self) -> None:
        self._alive.clear()
        asked = time.monotonic()
        call_soon(self._loop, self._alive.set)
        frame = None
        if not self._alive.wait(self._threshold) and not self._stopped.is_set():
            frame = self._look()
            while not self._alive.wait(self._threshold) and not self._stopped.is_set() and not self._loop.is_closed():
                pass
        seconds = time.monotonic() - asked
        if seconds >= self._threshold and not self._stopped.is_set():
            if frame is None:
                _log.warning(
                    "the event loop was blocked for %.3g s by what nobody could see: C code that keeps the interpreter's "
                    "lock, or the process was stopped",
                    seconds,
                )
            call_soon(self._loop, self._told, Block(seconds, frame))

    def _look(self) -> str | None:
        """Says what blocks the loop, while it does."""
        innermost = sys._current_frames().get(self._watched)  # noqa: SLF001  documented, in spite of its name
        if innermost is None:
            return None
        stack: list[_Frame] = []
        for frame, line in walk_stack(innermost):
            stack.append((frame.f_code.co_filename, line, frame.f_code.co_qualname))
            if frame.f_code.co_name == "_run_once":  # what is outside of the event loop doesn't block it
                break
        del innermost, frame  # a frame keeps all that its function has
        culprit = _shown(_culprit(stack))
        _log.warning(
            "the event loop has been blocked for %g s by %s; await it, or call it in a thread. Innermost first: %s",
            self._threshold,
            culprit,
            " < ".join(map(_shown, stack[:SHOWN])),
        )
        return culprit


_Frame = tuple[str, int, str]


def _culprit(stack: Sequence[_Frame]) -> _Frame:
    """The function that a framework has called and that doesn't come back, not what it calls in turn.

    Args:
        stack: where the loop's thread is, innermost first.
    """
    found = None
    for frame in stack:
        if frame[0].startswith(_FRAMEWORKS):
            if found is not None:
                break
        else:
            found = frame
    return found or stack[0]


def _shown(frame: _Frame) -> str:
    file, line, function = frame
    return f"{file}:{line} {function}"
