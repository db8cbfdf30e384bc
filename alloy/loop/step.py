"""A run at the point where an answer's calls are acted on, as data: enough to go on from there in another process."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003  pydantic reads the annotations
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Self

from alloy._secrets import without_keys
from alloy.errors import SessionError
from alloy.history import UNKNOWN_OUTCOME
from alloy.loop.toolrun import NOT_EXECUTED
from alloy.messages import Message, TextBlock, ToolResultBlock
from alloy.result import StopReason, ToolCall  # noqa: TC001  likewise
from alloy.usage import Usage  # noqa: TC001  likewise

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = ["Step"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Where a run is, between an answer with calls and the results of all of them.

    The history before it is kept beside it; it holds neither `prompt` nor `message` yet.

    Attributes:
        v: the version of this shape.
        request_id: the run's id.
        request: the user's words that the run is about.
        prompt: what waits to be put into the history with the answer; None if nothing does.
        message: the answer, with its calls.
        records: for each call its outcome, or None if it has none yet.
        begun: for each call whether it was begun.
        calls: the calls of the turns before.
        turn: in which turn, from 1.
        turns: how many answers the run has taken.
        stop_reason: why the model stopped.
        usage: tokens of the run so far.
    """

    v: Literal[1] = 1
    request_id: str
    request: Message
    prompt: Message | None
    message: Message
    records: tuple[ToolCall | None, ...]
    begun: tuple[bool, ...]
    calls: tuple[ToolCall, ...]
    turn: int
    turns: int
    stop_reason: StopReason | None
    usage: Usage

    @property
    def results(self) -> tuple[ToolResultBlock, ...]:
        """A result for each call, also where it won't be gone on with: that it wasn't executed, or that nobody knows."""
        return tuple(
            ToolResultBlock(call.id, record.content, record.is_error, record.name)
            if record is not None
            else ToolResultBlock(call.id, (TextBlock(UNKNOWN_OUTCOME if begun else NOT_EXECUTED),), True, call.name)
            for call, record, begun in zip(self.message.tool_uses, self.records, self.begun, strict=True)
        )

    def to_json(self) -> Mapping[str, Any]:
        """The step as a JSON object; `ToolCall.data` that is no JSON is left out, and so are API keys in use that are in it."""
        step = replace(
            self,
            records=tuple(record and _plain(record) for record in self.records),
            calls=tuple(map(_plain, self.calls)),
        )
        document: Mapping[str, Any] = _steps().dump_python(step, mode="json")
        return document

    @classmethod
    def from_json(cls, document: Any, *, session_id: str) -> Self:
        """Reads what `to_json` wrote.

        Args:
            document: the JSON object.
            session_id: whose it is, for the error.

        Raises:
            SessionError: it is no such object.
        """
        from pydantic import ValidationError  # noqa: PLC0415  64 ms that only JSON needs

        try:
            step = _steps().validate_python(document)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False, include_input=False)[0]
            at = ".".join(map(str, first["loc"]))
            raise SessionError(
                session_id, f"its suspended step can't be read: {first['type'].replace('_', ' ')} at {at or 'the top'}"
            ) from None
        if not len(step.message.tool_uses) == len(step.records) == len(step.begun):
            raise SessionError(session_id, "its suspended step can't be read: not one record for each call")
        return step  # type: ignore[return-value]  # a Step


def _plain(call: ToolCall) -> ToolCall:
    from pydantic_core import PydanticSerializationError, from_json, to_json  # noqa: PLC0415  only JSON needs it

    try:
        data = from_json(without_keys(to_json(call.data).decode()))
    except (PydanticSerializationError, ValueError):
        data = None
    return replace(call, data=data)


@cache
def _steps() -> TypeAdapter[Step]:
    from pydantic import TypeAdapter  # noqa: PLC0415  64 ms that only JSON needs

    return TypeAdapter(Step)
