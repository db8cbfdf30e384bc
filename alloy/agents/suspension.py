"""A request that waits for approval outlives its process: it is in the session, and goes on from there when the agent starts again."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import anyio

from alloy.agents.registry import AgentRequest
from alloy.errors import SessionError
from alloy.events import Emitter
from alloy.loop.conversation import History
from alloy.loop.desk import Desk
from alloy.loop.step import Step
from alloy.messages import Message
from alloy.sessions import Session
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alloy.agents.owner import Owner
    from alloy.loop.turns import Loop
    from alloy.result import Result
    from alloy.tools.decision import ApprovalRequest

__all__ = ["KEY", "Answers", "StepKeeper", "begin_run", "give_up", "requeue", "step_in", "take_back", "with_step"]

KEY = "alloy.suspended"
"""Where a session's metadata has the step of a request that waits for approval."""

SAVING = 10.0  # seconds for a save


class StepKeeper:
    """Saves an agent's session together with the step that a request of its is at.

    Args:
        owner: the agent's.
        run: the request's run.
        request: the request.

    Attributes:
        active: whether the step was saved, or may have been.
        messages: the history before the step.
    """

    __slots__ = ("_kept", "_lock", "_owner", "_request", "_run", "_saved", "_wanted", "active", "messages")

    def __init__(self, owner: Owner, run: Loop, request: AgentRequest) -> None:
        self.active = False
        self._owner = owner
        self._run = run
        self._request = request
        self._lock = anyio.Lock()
        self._wanted = 0
        self._saved = 0  # the last of those wanted that a save has taken along
        self._kept = False
        self.messages = tuple(owner.history.messages)

    async def keep(self) -> bool:
        """Saves the step as it is now; several that ask at once are served together. False if it couldn't be saved."""
        self.active = True  # before it is looked at, so that whatever begins from here on asks as well
        self._wanted += 1
        mine = self._wanted
        async with self._lock:
            if self._saved >= mine:
                return self._kept
            step = self._run.step(self._request.message)
            if step is None or not self._can_be_written(step):
                return False
            self._owner.suspended = step
            self.messages = tuple(self._owner.history.messages)
            self._saved, self._kept = self._wanted, False
            self._kept = await self._save()
            return self._kept

    async def done(self) -> None:
        """Saves the history with the whole step in it, which is over."""
        self.active = False
        self._owner.suspended = None
        async with self._lock:
            await self._save()

    def stays(self, result: Result) -> bool:
        """Whether the request is gone on with when the agent starts again: it wasn't its own end, but the agent's."""
        ended_with_agent = result.status == "cancelled" or not isinstance(result.error, Exception | None)
        return self.active and self._owner.suspended is not None and ended_with_agent

    def _can_be_written(self, step: Step) -> bool:
        try:
            with_step(Session(id=self._owner.name), step)
        except ValueError:  # its text may quote the step
            self._owner.not_saved(SessionError(self._owner.name, "a call in it is nothing that can be written as JSON"))
            return False
        return True

    async def _save(self) -> bool:
        try:
            await self._owner.save(self._owner.history.messages, self._owner.spent, within=SAVING)
        except SessionError as error:
            self._owner.not_saved(error)
            return False
        return True


def begin_run(owner: Owner, run: Loop, request: AgentRequest) -> None:
    """Gives a request's run what it begins with: the user's words, or the step that it had come to."""
    desk = run.desk
    desk.answerable = True
    if owner.answered:
        desk.remember(owner.answered)
    keeper = StepKeeper(owner, run, request) if owner.store is not None else None
    desk.keeper = keeper
    if keeper is None or owner.suspended is None or owner.suspended.request_id != request.id:
        owner.history.say(request.message)
    else:
        keeper.active = True
        run.resume(owner.suspended)


def give_up(owner: Owner, request: AgentRequest) -> None:
    """Has a request that somebody cancels not be gone on with; what was done of it stays in the history."""
    step = owner.suspended
    if step is None or step.request_id != request.id:
        return
    owner.suspended = None
    owner.unsaved = True
    if owner.run is None or owner.running is not request:  # a run that has begun keeps its step itself
        owner.history.prompt = step.prompt
        owner.history.commit(step.message, Message("user", step.results))
        owner.usage += step.usage


def take_back(owner: Owner, run: Loop, result: Result) -> Usage:
    """Takes a step out of the history again that is gone on with later.

    Returns:
        What the request took that isn't counted with the step.
    """
    if run.desk.settled:
        owner.answered = run.desk.settled
    step, keeper = owner.suspended, run.desk.keeper
    if step is None or not isinstance(keeper, StepKeeper):
        return result.usage
    owner.history = History(keeper.messages, None)
    return _minus(result.usage, step.usage)


def requeue(owner: Owner) -> None:
    """Puts the request that waited for approval before all others."""
    step = owner.suspended
    if step is None or step.request_id in {request.id for request in owner.registry}:
        return
    request = AgentRequest(step.request, owner.emitter(step.request_id), owner.registry, owner.seq)
    owner.registry.add(request, first=True)
    owner.inbox.put_first(request)


class Answers:
    """Where an agent's approvals are answered.

    Args:
        owner: the agent's.
        request: the request that they belong to; any by default.
    """

    __slots__ = ("_owner", "_request")

    def __init__(self, owner: Owner, request: AgentRequest | None = None) -> None:
        self._owner = owner
        self._request = request

    def waiting(self) -> tuple[ApprovalRequest, ...]:
        """What waits, oldest first."""
        return self._desk().waiting()

    def approve(self, approval_id: str, arguments: Mapping[str, Any] | None = None, by: str | None = None) -> None:
        """Allows a call.

        Raises:
            ApprovalError: it can't be answered.
        """
        self._desk().approve(approval_id, arguments, by)

    def deny(self, approval_id: str, reason: str = "", by: str | None = None) -> None:
        """Doesn't allow a call.

        Raises:
            ApprovalError: it can't be answered.
        """
        self._desk().deny(approval_id, reason, by)

    def _desk(self) -> Desk:
        owner = self._owner
        if owner.run is not None and self._request in (None, owner.running):
            return owner.run.desk
        desk = Desk(Emitter(""))  # on which nothing waits any more
        desk.remember(owner.answered or {})
        return desk


# --- In the session --------------------------------------------------------------------------------------------------


def step_in(session: Session) -> tuple[Step | None, Usage]:
    """The step that a session has, if it has one, and what all other requests took.

    Raises:
        SessionError: the step can't be read.
    """
    document = session.metadata.get(KEY)
    if document is None:
        return None, session.usage
    step = Step.from_json(document, session_id=session.id)
    return step, _minus(session.usage, step.usage)


def with_step(session: Session, step: Step | None) -> Session:
    """A session with this step, and no other."""
    if step is None and KEY not in session.metadata:
        return session
    others = {key: value for key, value in session.metadata.items() if key != KEY}
    return dataclasses.replace(session, metadata=others if step is None else {**others, KEY: step.to_json()})


def _minus(usage: Usage, part: Usage) -> Usage:
    """What is left of a usage without a part of it."""
    parts = part.as_dict()
    return Usage(**{name: count - parts[name] for name, count in usage.as_dict().items()})
