"""What one turn has come to so far."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from alloy.loop.toolrun import ToolBatch, ToolRunner
from alloy.usage import Usage

if TYPE_CHECKING:
    from alloy.events import Emitter
    from alloy.messages import Message
    from alloy.providers.base import Completion
    from alloy.result import Result

__all__ = ["Turn", "announce", "since"]

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

    def spend(self, usage: Usage) -> None:
        """Counts what was paid for."""
        self.usage = usage if self.usage is _NOTHING else self.usage + usage

    def take(self, message: Message, runner: ToolRunner) -> None:
        """Takes an answer, whole, and the calls in it."""
        self.message = message
        calls = message.tool_uses
        self.batch = ToolBatch(runner, calls) if calls else None


def since(at: float) -> int:
    """Milliseconds since then, by ``time.perf_counter()``."""
    return round((time.perf_counter() - at) * 1000)


def announce(events: Emitter, result: Result, start_seq: int, started: float) -> None:
    """Tells of a request's end, as its last envelope.

    Args:
        events: of the request.
        result: how it ended.
        start_seq: the number of the envelope that told of its beginning.
        started: when that was, by ``time.perf_counter()``.
    """
    events.emit(
        "response",
        status=result.status,
        text=result.text,
        stop_reason=result.stop_reason,
        usage=result.usage.as_dict(),
        turns=result.turns,
        tool_calls=len(result.tool_calls),
        error=result.error and {"type": type(result.error).__name__, "message": str(result.error)},
        start_event_seq=start_seq,
        duration_ms=since(started),
    )
