"""Assertions on what a run did; each raises AssertionError with what was there instead."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.events import Envelope, EventName
    from alloy.result import Result, ToolCall

__all__ = ["assert_called", "assert_not_called", "check_envelopes"]

_STARTS: dict[EventName, EventName] = {"run_start": "response", "turn_start": "turn_end", "tool_start": "tool_end"}


def assert_called(result: Result, tool: str, /, **arguments: Any) -> ToolCall:
    """Asserts that a tool was called, with at least these arguments.

    Returns:
        The first such call.
    """
    found = [call for call in result.tool_calls if call.name == tool]
    for call in found:
        if all(name in call.arguments and call.arguments[name] == value for name, value in arguments.items()):
            return call
    seen = ", ".join(f"{call.name}({dict(call.arguments)})" for call in found or result.tool_calls) or "no calls at all"
    raise AssertionError(f"{tool} wasn't called with {arguments}; there were {seen}")


def assert_not_called(result: Result, tool: str, /) -> None:
    """Asserts that a tool was never called."""
    found = [dict(call.arguments) for call in result.tool_calls if call.name == tool]
    if found:
        raise AssertionError(f"{tool} was called with {found}")


def check_envelopes(envelopes: Sequence[Envelope]) -> None:
    """Asserts what holds for the envelopes of any one run that has ended.

    Numbers strictly increase; they belong to one request; starts and ends pair; there is exactly one ``response``, the last.
    """
    seqs = [envelope.seq for envelope in envelopes]
    _expect(all(a < b for a, b in pairwise(seqs)), f"numbers don't strictly increase: {seqs}")
    ids = {envelope.correlation_id for envelope in envelopes}
    _expect(len(ids) == 1, f"several requests: {sorted(ids)}")
    names = [envelope.event for envelope in envelopes]
    asked = [envelope.payload["id"] for envelope in envelopes if envelope.event == "approval_requested"]
    settled = [envelope.payload["id"] for envelope in envelopes if envelope.event == "approval_settled"]
    _expect(sorted(asked) == sorted(settled), f"approvals don't pair: {sorted(asked)} and {sorted(settled)}")
    _expect(names.count("response") == 1 and names[-1] == "response", f"not one response at the end: {names}")
    for start, end in _STARTS.items():
        begun = {envelope.seq for envelope in envelopes if envelope.event == start}
        ended = [envelope.payload["start_event_seq"] for envelope in envelopes if envelope.event == end]
        _expect(sorted(begun) == sorted(ended), f"{start} and {end} don't pair: {sorted(begun)} and {sorted(ended)}")


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)
