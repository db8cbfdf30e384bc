"""What an agent is to do, in order: requests, of which only so many may wait, and changes to the agent itself."""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio

from alloy.agents.registry import AgentRequest
from alloy.errors import AgentBusyError, AgentClosedError, QueueFullError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Change", "Inbox"]


@dataclass(slots=True, eq=False)
class Change:
    """Something to be changed about the agent, between two requests.

    Attributes:
        apply: changes it, at once.
        done: whether it was.
    """

    apply: Callable[[], None]
    done: anyio.Event = field(default_factory=anyio.Event)


class Inbox:
    """The one way in. Putting in never waits; one task takes out.

    Args:
        agent: whose it is, for errors.
        max_pending: how many requests may wait while one runs.

    Attributes:
        closed: why nothing is taken in any more; None while it is.
        pending: how many requests wait.
        busy: whether one runs.
        attend: called once, when there is something to do or nothing more to come, where nobody takes things out yet.
    """

    __slots__ = ("_agent", "_items", "_max_pending", "_waiter", "attend", "busy", "closed", "pending")

    def __init__(self, agent: str, max_pending: int) -> None:
        self._agent = agent
        self._max_pending = max_pending
        self._items: deque[AgentRequest | Change] | None = None  # made when first needed: it takes 760 bytes
        self._waiter: asyncio.Future[None] | None = None
        self.closed: Callable[[], AgentClosedError] | None = None
        self.pending = 0
        self.busy = False
        self.attend: Callable[[], None] | None = None

    def offer(self, request: AgentRequest) -> int:
        """Takes a request in, or says why not.

        Returns:
            How many requests go before it.

        Raises:
            AgentClosedError: the inbox is closed.
            AgentBusyError: something runs, and nothing may wait.
            QueueFullError: as many wait as may.
        """
        if self.closed is not None:
            raise self.closed()
        before = self.pending + self.busy
        if before > self._max_pending:
            if self._max_pending == 0:
                raise AgentBusyError(self._agent)
            raise QueueFullError(self._agent, self._max_pending)
        self.pending += 1
        self._put(request)
        return before

    def put_first(self, request: AgentRequest) -> None:
        """Takes a request in that was accepted before, and goes before all others."""
        self.pending += 1
        if self._items is None:
            self._items = deque()
        self._items.appendleft(request)
        self._wake()

    def put(self, change: Change) -> None:
        """Takes a change in.

        Raises:
            AgentClosedError: the inbox is closed.
        """
        if self.closed is not None:
            raise self.closed()
        self._put(change)

    def remove(self, request: AgentRequest) -> None:
        """Takes a request out that isn't wanted any more; whoever waits behind it moves up."""
        if self._items is not None and request in self._items:
            self._items.remove(request)
            self.pending -= 1
        else:  # it was taken already, and hasn't begun
            self.done()

    def close(self, why: Callable[[], AgentClosedError]) -> None:
        """Takes nothing in from here on, and says why; what is in stays."""
        self.closed = why
        self._wake()

    def open(self) -> None:
        """Takes things in again."""
        self.closed = None

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self.busy and not self._items

    async def take(self) -> AgentRequest | Change | None:
        """Waits for the next thing to do; a request makes the inbox busy until `done`. None: closed, and empty."""
        while not self._items:
            if self.closed is not None:
                return None
            # A bare future: an anyio.Event would cost each idle agent half a kilobyte more.
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        item = self._items.popleft()
        if isinstance(item, AgentRequest):
            self.pending -= 1
            self.busy = True
        return item

    def leftover(self) -> Change | None:
        """A change that nobody has taken; requests before it go, since they have ended."""
        while self._items:
            item = self._items.popleft()
            if isinstance(item, Change):
                return item
        self.pending = 0
        return None

    def done(self) -> None:
        """What was taken is done."""
        self.busy = False

    def _put(self, item: AgentRequest | Change) -> None:
        if self._items is None:
            self._items = deque()
        self._items.append(item)
        self._wake()

    def _wake(self) -> None:
        attend, self.attend = self.attend, None
        if attend is not None:
            attend()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
