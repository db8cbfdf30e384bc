"""A call's place in its run: when it began, and what a tool can do there besides returning."""

from __future__ import annotations

import asyncio
import math
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from alloy._secrets import without_keys
from alloy._tasks import call_soon
from alloy.messages import ToolUseBlock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from alloy.loop.toolrun import ToolRunner
    from alloy.tools.decision import ApprovalRequest, Decision
    from alloy.usage import Usage

__all__ = ["CallSeat"]


class CallSeat:
    """The place of one call, from the envelope that tells of its beginning on.

    Args:
        runner: what the calls of the run share.
        call: which one.

    Attributes:
        seq: the number of the envelope that told of its beginning.
        scope: what ends it when its time is up, once it has one; the time stands still while a person is asked.
        over: whether it has ended, so that it has nothing more to report.
    """

    __slots__ = ("_asking", "_at", "_left", "_loop", "_thread", "call", "over", "runner", "scope", "seq")

    def __init__(self, runner: ToolRunner, call: ToolUseBlock) -> None:
        self.seq = runner.events.emit("tool_start", id=call.id, name=call.name, arguments=call.input)
        self.runner = runner
        self.call = call
        self.scope: anyio.CancelScope | None = None
        self.over = False
        self._asking = 0
        self._left = math.inf
        self._thread = threading.get_ident()
        self._loop = asyncio.get_running_loop()
        self._at = time.perf_counter()

    def elapsed_ms(self) -> int:
        """How long it has taken until now, in milliseconds."""
        return round((time.perf_counter() - self._at) * 1000)

    def end(self, text: str, *, is_error: bool, error: str | None) -> None:
        """Tells of its end."""
        self.runner.events.emit(
            "tool_end",
            id=self.call.id,
            name=self.call.name,
            start_event_seq=self.seq,
            duration_ms=self.elapsed_ms(),
            text=text,
            is_error=is_error,
            error=error,
        )

    def report(self, text: str) -> None:
        """Tells of its progress, from whatever thread, until it is over."""
        if threading.get_ident() == self._thread:
            self._progress(without_keys(text), None)
        else:
            call_soon(self._loop, self._progress, without_keys(text), None)

    def tell(self, envelope: Mapping[str, Any]) -> None:
        """Sends an envelope of a run that is inside of this call."""
        self._progress("", envelope)

    def _progress(self, text: str, envelope: Mapping[str, Any] | None) -> None:
        if not self.over:
            self.runner.events.emit("tool_progress", id=self.call.id, name=self.call.name, text=text, envelope=envelope)

    async def ask(self, reason: str) -> Decision:
        """Asks for approval of the call."""
        with self._paused():
            return await self.runner.desk.ask(self.call, reason)

    async def pass_on(self, request: ApprovalRequest) -> Decision:
        """Asks for approval of a call that is made inside of this one."""
        inner = ToolUseBlock(f"{self.call.id}/{request.id}", request.name, request.arguments)
        with self._paused():
            return await self.runner.desk.ask(inner, request.reason)

    def count(self, usage: Usage) -> None:
        """Adds what was paid for inside of this call."""
        self.runner.count(usage)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        scope = self.scope
        assert scope is not None  # noqa: S101  only what runs can ask
        if not self._asking:
            self._left = scope.deadline - anyio.current_time()
            scope.deadline = math.inf
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
            if not self._asking:
                scope.deadline = anyio.current_time() + self._left
