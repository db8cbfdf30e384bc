"""The requests of an agent, by id: those that wait, the one that runs, and those that have ended, up to a bound."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from alloy.errors import (
    AgentDeadlockError,
    InvalidOptionError,
    RequestCancelledError,
    RequestConflictError,
    UnknownRequestError,
)
from alloy.loop.run import outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from alloy.events import Emitter
    from alloy.messages import Message
    from alloy.result import Result

__all__ = ["AgentRequest", "Registry", "check_deadlock", "checked_name", "current", "waiting"]

State: TypeAlias = Literal["queued", "running", "settled"]

LONGEST_NAME = 128  # characters


class AgentRequest:
    """One accepted message, and what becomes of it.

    Attributes:
        message: the user's words.
        events: where to tell what happens.
        since: the newest envelope's number when it was accepted.
        registry: its agent's requests.
        waiters: the requests, of any agents, that wait for its end.
        scope: what cancels its run, once it runs.
        state: where it is.
        result: how it ended, once it has.
    """

    __slots__ = ("_settled", "events", "message", "registry", "result", "scope", "since", "state", "waiters")

    def __init__(self, message: Message, events: Emitter, registry: Registry, since: int) -> None:
        self.message = message
        self.events = events
        self.since = since
        self.registry = registry
        self.waiters: list[AgentRequest] = []
        self.scope: anyio.CancelScope | None = None
        self.state: State = "queued"
        self.result: Result | None = None
        self._settled: anyio.Event | None = None

    @property
    def id(self) -> str:
        """Its id, the `correlation_id` of its envelopes."""
        return self.events.correlation_id

    def settle(self, result: Result) -> None:
        """Ends it; whoever waits for it goes on."""
        self.state, self.result = "settled", result
        if self._settled is not None:
            self._settled.set()

    async def wait(self) -> Result:
        """Waits for its end; the result, whatever its status."""
        while self.result is None:
            self._settled = self._settled or anyio.Event()
            await self._settled.wait()
        await checkpoint()
        return self.result

    async def outcome(self) -> Result:
        """Waits for its end.

        Raises:
            RunError: it failed or was halted.
            RequestCancelledError: it was cancelled.
            AgentDeadlockError: whoever asks is a request that it waits for.
        """
        with waiting(self.registry.agent, (self,)):
            result = await self.wait()
        if result.status == "cancelled":
            raise RequestCancelledError(self.id, result)
        return outcome(result)


class Registry:
    """Finds requests by their ids.

    Args:
        agent: whose they are, for errors.
        remember: how many that have ended are remembered.
    """

    __slots__ = ("_open", "_remember", "_settled", "agent")

    def __init__(self, agent: str, remember: int) -> None:
        self.agent = agent
        self._remember = remember
        self._open: dict[str, AgentRequest] = {}
        self._settled: dict[str, AgentRequest] = {}

    def find(self, request_id: str) -> AgentRequest:
        """The request of this id.

        Raises:
            UnknownRequestError: there is none, or it isn't remembered.
        """
        found = self._open.get(request_id) or self._settled.get(request_id)
        if found is None:
            raise UnknownRequestError(self.agent, request_id)
        return found

    def known(self, request_id: str, message: Message) -> AgentRequest | None:
        """The request of this id and message, if there was one already.

        Raises:
            RequestConflictError: the id belongs to another message.
        """
        found = self._open.get(request_id) or self._settled.get(request_id)
        if found is not None and found.message.content != message.content:
            raise RequestConflictError(self.agent, request_id)
        return found

    def add(self, request: AgentRequest, *, first: bool = False) -> None:
        """Takes in a new one; before all others, if it goes first."""
        if first:
            self._open = {request.id: request, **self._open}
        else:
            self._open[request.id] = request

    def settle(self, request: AgentRequest, result: Result) -> None:
        """Ends one, and forgets the oldest of those that have ended where there are too many."""
        self._open.pop(request.id, None)
        request.settle(result)
        self._settled[request.id] = request
        if len(self._settled) > self._remember:
            del self._settled[next(iter(self._settled))]

    def behind(self, request: AgentRequest) -> Sequence[AgentRequest]:
        """Those that were accepted after one that hasn't ended, and have to wait for it."""
        accepted = tuple(self._open.values())
        return accepted[accepted.index(request) + 1 :]

    def __contains__(self, request_id: str) -> bool:
        return request_id in self._open or request_id in self._settled

    def __iter__(self) -> Iterator[AgentRequest]:
        """Those that haven't ended, oldest first."""
        return iter(tuple(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)


current: ContextVar[AgentRequest | None] = ContextVar("alloy_current_request", default=None)
"""The request in whose run the current task is."""


def check_deadlock(agent: str, requests: Iterable[AgentRequest]) -> None:
    """Checks that the current task may wait for requests.

    Raises:
        AgentDeadlockError: it is in the run of a request that one of them waits for.
    """
    asking = current.get()
    if asking is not None and not _held_up_by(asking).isdisjoint(requests):
        raise AgentDeadlockError(agent)


@contextmanager
def waiting(agent: str, requests: Sequence[AgentRequest]) -> Iterator[None]:
    """Notes that the request in whose run the current task is, if there is one, waits for others.

    Raises:
        AgentDeadlockError: one of them waits for it.
    """
    check_deadlock(agent, requests)
    asking = current.get()
    if asking is not None:
        for request in requests:
            request.waiters.append(asking)
    try:
        yield
    finally:
        if asking is not None:
            for request in requests:
                request.waiters.remove(asking)


def _held_up_by(request: AgentRequest) -> set[AgentRequest]:
    """A request and all that can't end before it has: those that wait for it, those behind it, and so on."""
    found: set[AgentRequest] = set()
    unseen = [request]
    while unseen:
        one = unseen.pop()
        if one.result is None and one not in found:
            found.add(one)
            unseen += one.waiters
            unseen += one.registry.behind(one)
    return found


def checked_name(option: str, value: Any) -> str:
    """A name or an id that can be printed, sent and stored.

    Raises:
        InvalidOptionError: it is empty, too long, or has characters that can't be printed.
    """
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_NAME or not value.isprintable():
        raise InvalidOptionError(option, f"1 to {LONGEST_NAME} printable characters", value)
    return value
