"""Where a run's approvals wait: asking for one, answering it by its id, and what is waiting."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

import anyio
from anyio.lowlevel import checkpoint

from alloy._secrets import without_keys
from alloy.errors import ApprovalSettledError, InvalidOptionError, UnknownApprovalError
from alloy.tools.decision import NOBODY, ApprovalRequest, Decision

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from typing import Any

    from alloy.events import Emitter
    from alloy.loop.middleware import RunContext
    from alloy.messages import ToolUseBlock
    from alloy.tools.decision import Outcome

__all__ = ["Ask", "Desk", "Foresees", "Keeper"]

REMEMBERED = 256  # approvals that were settled

Ask: TypeAlias = "Callable[[ApprovalRequest], Awaitable[Decision]]"
"""Answers an approval."""


class Keeper(Protocol):
    """Saves the step that a run is at, so that another process can go on with it."""

    @property
    def active(self) -> bool:
        """Whether the step was saved, or may have been, so that what follows has to be saved as well."""
        ...

    async def keep(self) -> bool:
        """Saves the step as it is now; False if it couldn't be."""
        ...

    async def done(self) -> None:
        """Saves that the step is over."""
        ...


@runtime_checkable
class Foresees(Protocol):
    """Middleware that can tell which calls it is going to ask about, so that nobody has to be asked about one after the other."""

    async def would_ask(self, call: ToolUseBlock, run: RunContext) -> str | None:
        """The reason that the call will be asked about with, when its turn comes; None if it seems that it won't."""
        ...


class _Ticket:
    """An approval that waits."""

    __slots__ = ("decided", "decision", "request")

    def __init__(self, request: ApprovalRequest) -> None:
        self.request = request
        self.decision: Decision | None = None
        self.decided = anyio.CancelScope()


class Desk:
    """The approvals of one run.

    Args:
        events: where to tell of them.

    Attributes:
        answerable: whether there is somebody who can call `approve` and `deny`.
        keeper: what saves the run's step before anybody is asked; None where nothing is kept.
        settled: what those that have ended came to, by id, oldest first.
        changed: the arguments that somebody has given instead of a call's own, by the call's id.
    """

    __slots__ = (
        *("_ahead", "_answer", "_asked", "_events", "_timeout", "_waiting"),
        *("answerable", "changed", "keeper", "settled"),
    )

    def __init__(self, events: Emitter) -> None:
        self.answerable = False
        self.keeper: Keeper | None = None
        self.settled: dict[str, Outcome] = {}
        self.changed: dict[str, Mapping[str, Any]] = {}
        self._events = events
        self._waiting: dict[str, _Ticket] = {}
        self._ahead: dict[str, _Ticket] = {}
        self._asked: dict[str, int] = {}
        self._answer: Ask | None = None
        self._timeout: float | None = None

    def use(self, answer: Ask | None, timeout: float | None) -> None:
        """Has approvals answered by a function, and expire, from here on; a None leaves what was said before."""
        self._answer = answer or self._answer
        self._timeout = timeout or self._timeout

    # --- asking -------------------------------------------------------------------------------------------------------

    async def ask(self, call: ToolUseBlock, reason: str) -> Decision:
        """Asks whether a call may be executed, and waits for the answer.

        Raises:
            Exception: what the function raises that is to answer.
        """
        if not isinstance(reason, str):
            raise InvalidOptionError("reason", "text", reason)
        ticket = self._asked_ahead(call, reason)
        if ticket is None:
            if self.keeper is not None and self._can_wait:
                await self.keeper.keep()  # before it is told, so that whoever hears of it can rely on it
            ticket = self._open(call, reason)
        try:
            await self._wait(ticket)
        finally:
            if ticket.decision is None:
                self._settle(ticket, Decision("cancelled", "the call was cancelled"))
        assert ticket.decision is not None  # noqa: S101  settled above at the latest
        return ticket.decision

    async def ask_ahead(self, calls: Iterable[tuple[ToolUseBlock, str]]) -> None:
        """Asks about calls whose turn comes later, each with its reason; `ask` then waits for the answer, if it isn't there."""
        expected = [(call, reason) for call, reason in calls if call.id not in self._asked]
        if expected and self.keeper is not None:
            await self.keeper.keep()
        self._ahead |= {call.id: self._open(call, reason) for call, reason in expected}

    def withdraw(self, calls: Iterable[ToolUseBlock]) -> None:
        """Settles what was asked ahead about these calls and nobody waits for."""
        for call in calls if self._ahead else ():
            ticket = self._ahead.pop(call.id, None)
            if ticket is not None:
                self._settle(ticket, Decision("cancelled", "the call isn't waiting for this any more"))

    def _asked_ahead(self, call: ToolUseBlock, reason: str) -> _Ticket | None:
        """What was asked ahead, if it is about just this: an answer to something else is none."""
        ticket = self._ahead.get(call.id)
        if ticket is None or (ticket.request.arguments, ticket.request.reason) != (call.input, without_keys(reason)):
            self.withdraw([call])
            return None
        return self._ahead.pop(call.id)

    @property
    def _can_wait(self) -> bool:
        return self.answerable or self._answer is not None

    def _open(self, call: ToolUseBlock, reason: str) -> _Ticket:
        number = self._asked[call.id] = self._asked.get(call.id, 0) + 1
        request = ApprovalRequest(
            id=call.id if number == 1 else f"{call.id}#{number}",
            call_id=call.id,
            name=call.name,
            arguments=call.input,
            reason=without_keys(reason),
            request_id=self._events.correlation_id,
        )
        ticket = self._waiting[request.id] = _Ticket(request)
        self.settled.pop(request.id, None)
        self._events.emit(
            "approval_requested",
            id=request.id,
            call_id=request.call_id,
            name=request.name,
            arguments=request.arguments,
            reason=request.reason,
        )
        return ticket

    async def _wait(self, ticket: _Ticket) -> None:
        if not self._can_wait:
            self._settle(ticket, Decision.deny(NOBODY))
            await checkpoint()
            return
        timeout = math.inf if self._timeout is None else self._timeout
        with anyio.move_on_after(timeout), ticket.decided:
            if ticket.decision is not None:  # answered by whoever heard of it first
                await checkpoint()
            elif self._answer is None:
                await anyio.sleep_forever()
            else:
                self._settle(ticket, await self._answered(self._answer, ticket.request))
        if ticket.decision is None:
            self._settle(ticket, Decision("expired", f"nobody has approved it within {timeout:g} seconds"))

    async def _answered(self, answer: Ask, request: ApprovalRequest) -> Decision:
        decision = await answer(request)
        if not isinstance(decision, Decision):
            raise InvalidOptionError("ask", "a function that returns a Decision: Decision.allow() or .deny()", decision)
        return decision

    def _settle(self, ticket: _Ticket, decision: Decision) -> None:
        if ticket.decision is not None:
            return
        ticket.decision = decision
        request_id = ticket.request.id
        del self._waiting[request_id]
        self.remember({request_id: decision.outcome})
        if decision.arguments is not None:
            self.changed[ticket.request.call_id] = decision.arguments
        ticket.decided.cancel()
        self._events.emit(
            "approval_settled", id=request_id, decision=decision.outcome, by=decision.by, reason=decision.reason
        )

    # --- answering ----------------------------------------------------------------------------------------------------

    def waiting(self) -> tuple[ApprovalRequest, ...]:
        """What waits, oldest first."""
        return tuple(ticket.request for ticket in self._waiting.values())

    def approve(self, approval_id: str, arguments: Mapping[str, Any] | None = None, by: str | None = None) -> None:
        """Allows a call.

        Raises:
            ApprovalError: it can't be answered.
            InvalidOptionError: the arguments are no mapping.
        """
        self._settle(self._find(approval_id), Decision.allow(arguments, by=by))

    def deny(self, approval_id: str, reason: str = "", by: str | None = None) -> None:
        """Doesn't allow a call.

        Raises:
            ApprovalError: it can't be answered.
        """
        self._settle(self._find(approval_id), Decision.deny(reason, by=by))

    def _find(self, approval_id: str) -> _Ticket:
        ticket = self._waiting.get(approval_id)
        if ticket is not None:
            return ticket
        if approval_id in self.settled:
            raise ApprovalSettledError(approval_id, self.settled[approval_id])
        raise UnknownApprovalError(approval_id)

    def remember(self, settled: Mapping[str, Outcome]) -> None:
        """Takes in what other approvals came to."""
        self.settled.update(settled)
        while len(self.settled) > REMEMBERED:
            del self.settled[next(iter(self.settled))]
