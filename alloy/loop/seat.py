"""A call's place in its run: what a tool can do there besides returning."""

from __future__ import annotations

import math
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio

from alloy.messages import ToolUseBlock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from alloy.loop.toolrun import ToolRunner
    from alloy.tools.decision import ApprovalRequest, Decision
    from alloy.usage import Usage

__all__ = ["CallSeat"]


class CallSeat:
    """The place of one call.

    Args:
        runner: what the calls of the run share.
        call: which one.
        scope: what ends it when its time is up; the time stands still while a person is asked.
    """

    __slots__ = ("_asking", "_left", "_scope", "call", "runner")

    def __init__(self, runner: ToolRunner, call: ToolUseBlock, scope: anyio.CancelScope) -> None:
        self.runner = runner
        self.call = call
        self._scope = scope
        self._asking = 0
        self._left = math.inf

    async def ask(self, reason: str) -> Decision:
        """Asks for approval of the call."""
        with self._paused():
            return await self.runner.desk.ask(self.call, reason)

    async def pass_on(self, request: ApprovalRequest) -> Decision:
        """Asks for approval of a call that is made inside of this one."""
        inner = ToolUseBlock(f"{self.call.id}/{request.id}", request.name, request.arguments)
        with self._paused():
            return await self.runner.desk.ask(inner, request.reason)

    def tell(self, envelope: Mapping[str, Any]) -> None:
        """Sends an envelope of a run that is inside of this call."""
        events = self.runner.events
        events.emit("tool_progress", id=self.call.id, name=self.call.name, text="", envelope=envelope)

    def count(self, usage: Usage) -> None:
        """Adds what was paid for inside of this call."""
        self.runner.count(usage)

    @contextmanager
    def _paused(self) -> Iterator[None]:
        if not self._asking:
            self._left = self._scope.deadline - anyio.current_time()
            self._scope.deadline = math.inf
        self._asking += 1
        try:
            yield
        finally:
            self._asking -= 1
            if not self._asking:
                self._scope.deadline = anyio.current_time() + self._left
