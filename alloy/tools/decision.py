"""What is asked of a person before a call is executed, and the answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeAlias

from alloy.errors import InvalidOptionError

__all__ = ["NOBODY", "ApprovalRequest", "Decision", "Outcome"]

Outcome: TypeAlias = Literal["allow", "deny", "expired", "cancelled"]
"""What an approval can come to."""

NOBODY = "it needs approval, and nobody is there who could give it"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequest:
    """A call that waits for somebody to approve it.

    Attributes:
        id: what it is answered by: the call's id, with ``#2`` and so on behind it where one call asks again.
        call_id: the id of the call, as in the history.
        name: which tool.
        arguments: what it is to be called with.
        reason: why it needs approval.
        request_id: the id of the run.
    """

    id: str
    call_id: str
    name: str
    arguments: Mapping[str, Any]
    reason: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Decision:
    """An answer; it is true if the call is allowed. Made by `allow` and `deny`.

    Attributes:
        outcome: what it came to.
        reason: why, for the model where the call isn't allowed.
        arguments: what the call is executed with instead, if they were changed.
        by: who has decided, if that was said.
    """

    outcome: Outcome
    reason: str = ""
    arguments: Mapping[str, Any] | None = None
    by: str | None = None

    def __post_init__(self) -> None:
        given: Any = self.arguments
        if given is not None:
            if not isinstance(given, Mapping):
                raise InvalidOptionError("arguments", "a mapping, or None for the call's own", given)
            object.__setattr__(self, "arguments", dict(given))
        for name in ("reason", "by"):
            text = getattr(self, name)
            if not isinstance(text, str) and (name == "reason" or text is not None):
                raise InvalidOptionError(name, "text", text)

    @classmethod
    def allow(cls, arguments: Mapping[str, Any] | None = None, *, by: str | None = None) -> Self:
        """The call may be executed; with other `arguments`, if there are any."""
        return cls("allow", arguments=arguments, by=by)

    @classmethod
    def deny(cls, reason: str = "", *, by: str | None = None) -> Self:
        """The call isn't executed; the model reads the reason."""
        return cls("deny", reason, by=by)

    def __bool__(self) -> bool:
        """Whether the call is allowed."""
        return self.outcome == "allow"
