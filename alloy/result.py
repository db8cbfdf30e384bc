"""How a run ended, and what it did."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  pydantic reads the annotations
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeAlias

from alloy._quick import quick
from alloy.messages import Message, ResultContent  # noqa: TC001  likewise
from alloy.usage import Usage

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    Output_co = TypeVar("Output_co", default=Any, covariant=True)
else:
    from typing import TypeVar

    Output_co = TypeVar("Output_co", covariant=True)  # the default is for type checkers until Python 3.13

__all__ = ["Output_co", "Result", "Status", "StopReason", "ToolCall"]

Status: TypeAlias = Literal["completed", "max_turns", "halted", "cancelled", "failed"]
"""The five ways in which an accepted request ends."""

StopReason: TypeAlias = Literal[
    "end_turn", "tool_use", "max_tokens", "stop_sequence", "pause_turn", "refusal", "context_window", "unknown"
]
"""Why the model stopped writing, in the same words for every provider."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One tool call and its outcome.

    Attributes:
        id: the call's id in the history.
        name: which tool.
        arguments: what it was called with.
        content: what the model was given back.
        is_error: whether it failed, or wasn't executed.
        data: the structured value, for tools that return one.
        turn: in which turn, from 1.
        duration_ms: how long it took, in milliseconds.
    """

    id: str
    name: str
    arguments: Mapping[str, Any]
    content: tuple[ResultContent, ...]
    is_error: bool
    data: Any = None
    turn: int = 0
    duration_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result(Generic[Output_co]):
    """What a run did.

    Attributes:
        status: how it ended.
        output: the result of the `output_type`, where the run completed; else None.
        text: the model's last words, empty where it ended otherwise.
        messages: the whole history, to continue from.
        usage: tokens of all its requests, paid for whatever the status.
        tool_calls: every call, in order.
        stop_reason: why the model stopped the last time it did.
        turns: how many answers it took.
        error: what ended it, where it failed or was halted.
        request_id: its id, the `correlation_id` of its envelopes.
    """

    status: Status
    output: Output_co = None  # type: ignore[assignment]  # so that who knows that it completed needn't check it
    text: str = ""
    messages: tuple[Message, ...] = ()
    usage: Usage = Usage()  # noqa: RUF009  frozen
    tool_calls: tuple[ToolCall, ...] = ()
    stop_reason: StopReason | None = None
    turns: int = 0
    error: BaseException | None = None
    request_id: str = ""
