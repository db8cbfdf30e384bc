"""Answering approvals, wherever they wait: of a stream, of an agent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alloy.tools.decision import ApprovalRequest

__all__ = ["Answering", "Answers"]


class Answers(Protocol):
    """Where approvals are answered; a `Desk` is such."""

    def waiting(self) -> tuple[ApprovalRequest, ...]:
        """What waits, oldest first."""
        ...

    def approve(self, approval_id: str, arguments: Mapping[str, Any] | None = None, by: str | None = None) -> None:
        """Allows a call."""
        ...

    def deny(self, approval_id: str, reason: str = "", by: str | None = None) -> None:
        """Doesn't allow a call."""
        ...


class Answering:
    """What can be asked to answer approvals."""

    __slots__ = ()

    def _answers(self) -> Answers:
        raise NotImplementedError

    def approvals(self) -> tuple[ApprovalRequest, ...]:
        """The calls that wait for approval, oldest first; never waits itself."""
        return self._answers().waiting()

    def approve(self, approval_id: str, arguments: Mapping[str, Any] | None = None, *, by: str | None = None) -> None:
        """Allows a call that waits, at once.

        Args:
            approval_id: the `id` of its ``approval_requested`` envelope.
            arguments: what it is executed with instead of the model's own.
            by: who has decided, for those who watch.

        Raises:
            UnknownApprovalError: there is no such approval, or it isn't remembered.
            ApprovalSettledError: it was answered already, or it is too late.
            InvalidOptionError: `arguments` is no mapping.
        """
        self._answers().approve(approval_id, arguments, by)

    def deny(self, approval_id: str, reason: str = "", *, by: str | None = None) -> None:
        """Denies a call that waits, at once; it isn't executed, and the model reads the reason.

        Args:
            approval_id: the `id` of its ``approval_requested`` envelope.
            reason: why.
            by: who has decided, for those who watch.

        Raises:
            UnknownApprovalError: there is no such approval, or it isn't remembered.
            ApprovalSettledError: it was answered already, or it is too late.
        """
        self._answers().deny(approval_id, reason, by)
