"""Envelopes: what happens during a run, in one shape for everybody who watches.

The names are frozen: they are the catalogue below, and nothing else is ever sent.

================== ==============================================================================================
event              payload
================== ==============================================================================================
run_start          provider, model, tools (names)
turn_start         (nothing)
text_delta         text
thinking_delta     text
tool_call_delta    index, id, name, arguments (a piece of the JSON text)
approval_requested id, call_id, name, arguments, reason
approval_settled   id, decision (allow, deny, expired or cancelled), by (who, or None), reason
tool_start         id, name, arguments
tool_progress      id, name, text, envelope (one of a run inside of the call, or None)
tool_end           id, name, text, is_error, start_event_seq, duration_ms, error (its type, or None)
turn_end           stop_reason, text, usage, start_event_seq, duration_ms, error (its type, or None)
retry              attempt, delay_s, error (type, kind, message), next (who is asked then)
compaction         before_messages, after_messages, before_tokens, after_tokens (or None), methods (what was done)
request_queued     position
request_cancelled  reason
response           status, text, stop_reason, usage, turns, tool_calls (how many), error (type, message), start_event_seq, duration_ms
lagged             missed (how many envelopes), first_seq, last_seq
message            text
runtime_event      kind, and what belongs to it
================== ==============================================================================================
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["EVENT_NAMES", "Emitter", "Envelope", "EventName", "Sink"]

EventName: TypeAlias = Literal[
    "approval_requested",
    "approval_settled",
    "compaction",
    "lagged",
    "message",
    "request_cancelled",
    "request_queued",
    "response",
    "retry",
    "run_start",
    "runtime_event",
    "text_delta",
    "thinking_delta",
    "tool_call_delta",
    "tool_end",
    "tool_progress",
    "tool_start",
    "turn_end",
    "turn_start",
]
EVENT_NAMES: tuple[EventName, ...] = get_args(EventName)
"""Every event there is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """One thing that happened.

    Attributes:
        v: the version of this shape.
        seq: its number; strictly increasing within a run.
        correlation_id: the request that it belongs to.
        turn: in which turn, from 1; 0 before the first.
        ts_ms: when, in milliseconds since the epoch.
        event: what.
        payload: what belongs to it, JSON-ready; see the table at the top of this module.
        agent_id: the agent, if one runs the request.
    """

    v: int = 1
    seq: int
    correlation_id: str
    turn: int
    ts_ms: int
    event: EventName
    payload: Mapping[str, Any]
    agent_id: str | None = None

    def to_json(self) -> bytes:
        """The envelope as one line of JSON, without the line's end."""
        from pydantic_core import to_json  # noqa: PLC0415  what doesn't write JSON doesn't pay for it

        return to_json(self, fallback=repr)


Sink: TypeAlias = "Callable[[Envelope], None]"
"""Takes envelopes; must not block, and can't be awaited."""


class _Unfrozen:
    """An envelope while it is made: what is frozen takes five times as long to fill, and there is one for each token."""

    __slots__ = tuple(field.name for field in fields(Envelope))

    def __init__(
        self,
        seq: int,
        correlation_id: str,
        turn: int,
        ts_ms: int,
        event: EventName,
        payload: Mapping[str, Any],
        agent_id: str | None,
    ) -> None:
        self.v = 1
        self.seq = seq
        self.correlation_id = correlation_id
        self.turn = turn
        self.ts_ms = ts_ms
        self.event = event
        self.payload = payload
        self.agent_id = agent_id


class Emitter:
    """Numbers and stamps envelopes and hands them to a sink.

    Args:
        correlation_id: the request's id.
        sink: where they go; None if nobody watches.
        agent_id: the agent, if one runs the request.
        clock: seconds since the epoch.
        numbers: where the numbers come from, for requests that share them; from 1 by default.

    Attributes:
        watched: whether anybody gets the envelopes.
    """

    __slots__ = ("_clock", "_numbers", "_sink", "agent_id", "correlation_id", "seq", "turn", "watched")

    def __init__(
        self,
        correlation_id: str,
        sink: Sink | None = None,
        *,
        agent_id: str | None = None,
        clock: Callable[[], float] = time.time,
        numbers: Iterator[int] | None = None,
    ) -> None:
        self.correlation_id = correlation_id
        self.agent_id = agent_id
        self.seq = 0
        self.turn = 0
        self.watched = sink is not None
        self._sink = sink
        self._clock = clock
        self._numbers = numbers or itertools.count(1)

    def emit(self, event: EventName, /, **payload: Any) -> int:
        """Sends one envelope and returns its number."""
        self.seq = next(self._numbers)
        if self._sink is not None:
            made = _Unfrozen(
                self.seq, self.correlation_id, self.turn, int(self._clock() * 1000), event, payload, self.agent_id
            )
            made.__class__ = Envelope  # type: ignore[assignment]  # both have the same slots
            self._sink(made)  # type: ignore[arg-type]  # it is one now
        return self.seq
