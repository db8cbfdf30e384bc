"""The requests of an agent, by id: those that wait, the one that runs, and those that have ended, up to a bound."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio
from anyio.lowlevel import checkpoint

from alloy.errors import InvalidOptionError, RequestCancelledError, RequestConflictError, UnknownRequestError
from alloy.loop.run import outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alloy.events import Emitter
    from alloy.messages import Message
    from alloy.result import Result

__all__ = ["AgentRequest", "Registry", "checked_name"]

State: TypeAlias = Literal["queued", "running", "settled"]

LONGEST_NAME = 128  # characters


class AgentRequest:
    """One accepted message, and what becomes of it.

    Attributes:
        message: the user's words.
        events: where to tell what happens.
        inside: the agents in whose requests it was made, which it mustn't make wait for it.
        scope: what cancels its run.
        state: where it is.
        result: how it ended, once it has.
    """

    __slots__ = ("_settled", "events", "inside", "message", "result", "scope", "state")

    def __init__(self, message: Message, events: Emitter, inside: frozenset[object]) -> None:
        self.message = message
        self.events = events
        self.inside = inside
        self.scope = anyio.CancelScope()
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
        """
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

    __slots__ = ("_agent", "_open", "_remember", "_settled")

    def __init__(self, agent: str, remember: int) -> None:
        self._agent = agent
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
            raise UnknownRequestError(self._agent, request_id)
        return found

    def known(self, request_id: str, message: Message) -> AgentRequest | None:
        """The request of this id and message, if there was one already.

        Raises:
            RequestConflictError: the id belongs to another message.
        """
        found = self._open.get(request_id) or self._settled.get(request_id)
        if found is not None and found.message.content != message.content:
            raise RequestConflictError(self._agent, request_id)
        return found

    def add(self, request: AgentRequest) -> None:
        """Takes in a new one."""
        self._open[request.id] = request

    def settle(self, request: AgentRequest, result: Result) -> None:
        """Ends one, and forgets the oldest of those that have ended where there are too many."""
        self._open.pop(request.id, None)
        request.settle(result)
        self._settled[request.id] = request
        if len(self._settled) > self._remember:
            del self._settled[next(iter(self._settled))]

    def __iter__(self) -> Iterator[AgentRequest]:
        """Those that haven't ended, oldest first."""
        return iter(tuple(self._open.values()))

    def __len__(self) -> int:
        return len(self._open)


def checked_name(option: str, value: Any) -> str:
    """A name or an id that can be printed, sent and stored.

    Raises:
        InvalidOptionError: it is empty, too long, or has characters that can't be printed.
    """
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_NAME or not value.isprintable():
        raise InvalidOptionError(option, f"1 to {LONGEST_NAME} printable characters", value)
    return value
