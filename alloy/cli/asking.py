"""Asking the person at the terminal: for the next line, and whether a call may be executed."""

from __future__ import annotations

import asyncio
import json
import sys
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import anyio

from alloy._tasks import call_soon, run_in_thread
from alloy.errors import ApprovalError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alloy.cli.rendering import View
    from alloy.events import Envelope
    from alloy.loop.run import RunStream
    from alloy.tools.decision import ApprovalRequest

__all__ = ["Approver", "Keyboard"]

CHOICES = "allow? [y]es, [n]o, [e]dit: "
NOT_INTERACTIVE = "it needs approval, and nobody is at a terminal to give it"


class Keyboard:
    """Reads lines. A line that nobody waits for any more is given to whoever asks next, since reading it can't be stopped."""

    def __init__(self) -> None:
        self._reading: _Reading | None = None

    async def line(self, prompt: str) -> str:
        """Waits for the next line.

        Raises:
            EOFError: there are no more.
        """
        with _terminal_restored():
            if self._reading is None:
                self._reading = _Reading(prompt)
            else:
                sys.stdout.write(prompt)
                sys.stdout.flush()
            await self._reading.done.wait()
        reading, self._reading = self._reading, None
        if reading.error is not None:
            raise reading.error
        return reading.line


class _Reading:
    def __init__(self, prompt: str) -> None:
        self.done = anyio.Event()
        self.line = ""
        self.error: BaseException | None = None
        self._prompt = prompt
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, name="alloy prompt", daemon=True).start()

    def _read(self) -> None:
        try:
            self.line = input(self._prompt).strip()
        except BaseException as error:  # noqa: BLE001  whoever waits for the line gets it
            self.error = error
        call_soon(self._loop, self.done.set)


class Approver:
    """Asks the person about calls that wait for approval; denies them where there is none.

    Args:
        view: where to say what is wrong with an answer.
        keyboard: where to read from; None if nobody is there.
    """

    def __init__(self, view: View, keyboard: Keyboard | None) -> None:
        self._view = view
        self._keyboard = keyboard
        self._asking: tuple[str, anyio.CancelScope] | None = None

    def heed(self, envelope: Envelope) -> None:
        """Asks no further about what is settled already."""
        over = envelope.event in ("response", "approval_settled")
        if self._asking is not None and over and envelope.payload.get("id", self._asking[0]) == self._asking[0]:
            self._asking[1].cancel()

    async def answer(self, run: RunStream) -> None:
        """Answers whatever waits in a run, one after the other."""
        while waiting := run.approvals():
            request = waiting[0]
            with suppress(ApprovalError):  # it was settled while the person thought
                if self._keyboard is None:
                    run.deny(request.id, NOT_INTERACTIVE)
                else:
                    await self._ask(run, request, self._keyboard)

    async def _ask(self, run: RunStream, request: ApprovalRequest, keyboard: Keyboard) -> None:
        with anyio.CancelScope() as scope:
            self._asking = (request.id, scope)
            try:
                await self._until_answered(run, request, keyboard)
            except EOFError:
                run.deny(request.id, "the person has left")
            finally:
                self._asking = None

    async def _until_answered(self, run: RunStream, request: ApprovalRequest, keyboard: Keyboard) -> None:
        while True:
            match (await keyboard.line(CHOICES)).lower():
                case "y" | "yes":
                    return run.approve(request.id)
                case "n" | "no":
                    return run.deny(request.id)
                case "e" | "edit":
                    arguments = await self._edited(request, keyboard)
                    if arguments is not None:
                        return run.approve(request.id, arguments)
                case _:
                    pass

    async def _edited(self, request: ApprovalRequest, keyboard: Keyboard) -> Any:
        """Other arguments; None if what was typed is none."""
        await run_in_thread(self._view.say, json.dumps(request.arguments, ensure_ascii=False, default=repr))
        try:
            arguments = json.loads(await keyboard.line("arguments: "))
        except ValueError as error:
            await run_in_thread(self._view.say, f"that is no JSON: {error}")
            return None
        if not isinstance(arguments, dict):
            await run_in_thread(self._view.say, "the arguments have to be a JSON object")
            return None
        return arguments


@contextmanager
def _terminal_restored() -> Iterator[None]:
    """Leaves the terminal's mode as it was, also where a line is given up while it is typed."""
    try:
        import termios  # noqa: PLC0415  not on Windows
    except ImportError:
        yield
        return
    before = termios.tcgetattr(sys.stdin)
    try:
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
