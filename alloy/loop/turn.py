"""What one turn has come to so far."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from alloy.loop.toolrun import ToolBatch, ToolRunner
from alloy.usage import Usage

if TYPE_CHECKING:
    from alloy.messages import Message
    from alloy.providers.base import Completion

__all__ = ["Turn", "since"]

_NOTHING = Usage()


class Turn:
    """What a turn has come to so far."""

    __slots__ = ("at", "batch", "completion", "emitted", "error", "message", "next_prompt", "seq", "shown", "usage")

    def __init__(self, seq: int) -> None:
        self.seq = seq
        self.at = time.perf_counter()
        self.completion: Completion | None = None
        self.message: Message | None = None
        self.batch: ToolBatch | None = None
        self.shown: list[str] = []
        self.emitted = False
        self.error: str | None = None
        self.next_prompt: Message | None = None
        self.usage = _NOTHING

    def take(self, message: Message, runner: ToolRunner) -> None:
        """Takes an answer, whole, and the calls in it."""
        self.message = message
        calls = message.tool_uses
        self.batch = ToolBatch(runner, calls) if calls else None


def since(at: float) -> int:
    """Milliseconds since then, by ``time.perf_counter()``."""
    return round((time.perf_counter() - at) * 1000)
