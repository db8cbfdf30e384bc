"""Subscriptions: a topic's envelopes, to be iterated at the reader's own pace.

The reader never holds the publisher up: its buffer is bounded, and what it is too slow for is counted and told to it.
"""

from __future__ import annotations

import asyncio
import difflib
import time
from collections import deque
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal, Self

import anyio
from anyio.lowlevel import checkpoint

from alloy.agents.bus import check_number
from alloy.errors import CursorError, InvalidOptionError
from alloy.events import EVENT_NAMES, Envelope

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from alloy.agents.bus import Bus
    from alloy.events import EventName

__all__ = ["Subscription", "subscribe"]

CHECKPOINT_EVERY = 64  # envelopes that a reader takes in one go before others have their turn


def subscribe(
    bus: Bus,
    topic: str,
    *,
    request_id: str | None = None,
    events: Collection[EventName] | None = None,
    after: int | None = None,
    buffer: int = 1024,
    agent: str,
) -> Subscription:
    """What is published on a topic, as something to iterate: ``async with subscribe(...) as envelopes``.

    It begins when the block is entered: with what is published from then on, or with what is kept since `after`, or since
    the beginning of the request. A reader that falls behind by more than `buffer` envelopes loses the oldest and is told by
    a ``lagged`` envelope in their place: `missed` says how many, or is None where nobody can know. Envelopes that aren't
    asked for take no room and aren't counted.

    Args:
        bus: where.
        topic: what to listen to.
        request_id: only this request's; the iteration ends by itself after its ``response``.
        events: only these; ``lagged`` comes in any case.
        after: the `seq` of the last envelope that was seen, to go on from there without a gap; 0 for the beginning.
        buffer: how many envelopes the reader may be behind.
        agent: the agent's name, for errors.

    Raises:
        InvalidOptionError: an option is none of these.
    """
    check_number("buffer", "a number of envelopes, 1 or more", buffer, least=1)
    if after is not None:
        check_number("after", "an envelope's seq, or 0 for the beginning", after, least=0)
    if request_id is not None and not isinstance(request_id, str):
        raise InvalidOptionError("request_id", "a request's id", request_id)
    return Subscription(bus, topic, request_id, None if events is None else _names(events), after, buffer, agent)


class Subscription:
    """A topic's envelopes: an async context manager, and inside its block an async iterator for one task at a time.

    Made by `subscribe`. Cancelling whoever waits for an envelope loses none. Leaving the block ends every iteration.

    Attributes:
        since: the newest number when the request was accepted, where it is known: it tells the request from an earlier one of
            its id, and whether its beginning is still kept.
        over: says on entering whether nothing will come any more.
    """

    __slots__ = (
        "_after",
        "_agent",
        "_buffer",
        "_bus",
        "_detach",
        "_ended",
        "_events",
        "_given",
        "_lost",
        "_reading",
        "_replayed",
        "_request_id",
        "_seen",
        "_size",
        "_state",
        "_topic",
        "_unbegun",
        "_waiter",
        "over",
        "since",
    )

    def __init__(
        self,
        bus: Bus,
        topic: str,
        request_id: str | None,
        events: frozenset[str] | None,
        after: int | None,
        size: int,
        agent: str,
    ) -> None:
        self._bus = bus
        self._topic = topic
        self._request_id = request_id
        self._events = events
        self._after = after
        self._size = size
        self._agent = agent
        self._state: Literal["new", "open", "left"] = "new"
        self.since: int | None = None
        self._unbegun = request_id is not None and after is None  # nothing of the request was seen yet
        self._replayed: deque[Envelope] = deque()  # comes first, and isn't bounded: the bus bounds it
        self._lost = _Lost()  # what is missing between the two
        self._buffer: deque[Envelope] = deque()
        self._seen = after or 0  # live envelopes up to this number are repeats
        self._ended = False
        self._detach: Callable[[], None] = _nothing
        self._reading = False
        self._waiter: asyncio.Future[None] | None = None
        self.over: Callable[[], bool] | None = None
        self._given = 0

    async def __aenter__(self) -> Self:
        if self._state != "new":
            raise RuntimeError("a subscription is entered once; subscribe again")
        self._state = "open"
        if self.over is not None and self.over():
            self.close()  # nothing will come that could end it
        plain = self._request_id is None and self._events is None and self._after is None
        if not self._ended:
            self._detach = self._bus.attach(self._topic, self._take if plain else self._choose, self.close)
        try:
            if self._after is not None or self._request_id is not None:
                await self._replay()
        except BaseException:
            self._leave()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Envelope:
        envelope = await self.pull()
        if envelope is None:
            raise StopAsyncIteration
        return envelope

    async def pull(self) -> Envelope | None:
        """The next envelope, or None at the end.

        Raises:
            RuntimeError: outside of the block.
            BusyResourceError: another task is waiting for an envelope already.
        """
        if self._reading or self._state != "open":
            self._check_reader()
        self._given += 1
        if self._given % CHECKPOINT_EVERY == 0:
            await self._pause()
        while True:
            if self._replayed:
                return self._replayed.popleft()
            if (last := self._lost.last) is not None:
                return self._lost.tell(last)
            if self._buffer:
                return self._buffer.popleft()
            if self._ended:
                return None
            await self._wait()

    def close(self) -> None:
        """Ends it from outside: what is buffered is still given, and then the iteration ends."""
        self._ended = True
        self._detach()
        self._wake()

    # --- the publisher's side --------------------------------------------------------------------------------------------

    def _take(self, envelope: Envelope) -> None:
        buffer = self._buffer
        if len(buffer) == self._size:
            self._lost.add(buffer.popleft())
        buffer.append(envelope)
        waiter = self._waiter
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def _choose(self, envelope: Envelope) -> None:
        if self._is_of_request(envelope) and not 0 < envelope.seq <= self._seen:
            self._follow(envelope)
            if self._is_wanted(envelope):
                self._take(envelope)

    def _is_of_request(self, envelope: Envelope) -> bool:
        return self._request_id in (None, envelope.correlation_id) or envelope.event == "lagged"

    def _is_wanted(self, envelope: Envelope) -> bool:
        return self._events is None or envelope.event in self._events

    def _follow(self, envelope: Envelope) -> None:
        """Sees where the request begins and ends, also where that isn't what the reader asked for."""
        if self._request_id is None or envelope.event == "lagged":
            return
        if self._unbegun:
            self._unbegun = False
            if _is_amid(envelope):
                self._replayed.append(_lagged(envelope, envelope.seq - 1, missed=None, first_seq=None))
                self._wake()
        if envelope.event == "response":
            self.close()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # --- the reader's side -------------------------------------------------------------------------------------------------

    async def _replay(self) -> None:
        """Puts what is kept before what came since, without a gap or a repeat."""
        try:
            kept = await self._bus.recent(self._topic, self._after)
        except CursorError as error:
            raise CursorError(self._agent, error.after, error.oldest) from None
        if self.since is not None and self._after is None:
            kept = self._kept_since(self.since, kept)
        elif self._after is None and any(envelope.correlation_id == self._request_id for envelope in kept):
            self._replayed.clear()  # the request's beginning is looked for here, not in what came meanwhile
            self._unbegun = True
        mine = [envelope for envelope in kept if self._is_of_request(envelope)]
        for envelope in mine:
            self._follow(envelope)
            if self._is_wanted(envelope):
                self._replayed.append(envelope)
            if self._request_id is not None and envelope.event == "response":
                break  # what comes after it is another's, such as a message of this id that was refused
        if kept:
            self._seen = kept[-1].seq
        self._lost.forget_until(self._seen)
        while self._buffer and 0 < self._buffer[0].seq <= self._seen:
            self._buffer.popleft()
        if self._after and self._request_id is not None and not self._ended:
            await self._look_back(self._after)

    def _kept_since(self, since: int, kept: Sequence[Envelope]) -> Sequence[Envelope]:
        """What is kept since the request was accepted; tells if that isn't all."""
        self._unbegun = False
        self._replayed.clear()  # what came meanwhile may have looked like the middle of the request, and isn't
        later = [envelope for envelope in kept if envelope.seq > since]
        last = later[0].seq - 1 if later else self._bus.newest(self._topic)
        if last > since:
            here = Envelope(
                seq=last,
                correlation_id=self._request_id or "",
                turn=0,
                ts_ms=int(time.time() * 1000),
                event="lagged",
                payload={},
                agent_id=self._agent,
            )
            self._replayed.append(_lagged(here, last, missed=None, first_seq=None))
        return later

    async def _look_back(self, after: int) -> None:
        """Ends at once where the cursor is at the request's end already, which is where a client that reconnects often is."""
        for envelope in await self._bus.recent(self._topic, None):
            of_request = envelope.correlation_id == self._request_id
            if of_request and envelope.event == "response" and envelope.seq <= after:
                self.close()

    async def _wait(self) -> None:
        # A bare future, since publishing to a hundred readers must not cost a hundred anyio events.
        self._waiter = asyncio.get_running_loop().create_future()
        self._reading = True
        try:
            await self._waiter
        finally:
            self._reading = False
            self._waiter = None

    async def _pause(self) -> None:
        self._reading = True
        try:
            await checkpoint()
        finally:
            self._reading = False

    def _check_reader(self) -> None:
        if self._reading:
            raise anyio.BusyResourceError("reading from")
        if self._state == "new" or not self._given:  # a reader that had begun when the block was left just ends
            raise RuntimeError(
                "iterate inside the block: async with subscribe(...) as envelopes: async for ... in envelopes"
            )

    def _leave(self) -> None:
        self._state = "left"
        self._replayed.clear()
        self._lost.forget_all()
        self._buffer.clear()
        self.close()


class _Lost:
    """What a reader was too slow for."""

    __slots__ = ("count", "first_seq", "last")

    def __init__(self) -> None:
        self.forget_all()

    def forget_all(self) -> None:
        self.count = 0
        self.first_seq = 0
        self.last: Envelope | None = None

    def add(self, envelope: Envelope) -> None:
        missed, first_seq = 1, envelope.seq
        if envelope.event == "lagged":  # from a bus that lost something itself
            missed = envelope.payload["missed"] or 1
            first_seq = envelope.payload["first_seq"] or first_seq
        if not self.count:
            self.first_seq = first_seq
        self.count += missed
        self.last = envelope

    def forget_until(self, seq: int) -> None:
        """Leaves out what turned up again, which is everything up to `seq`; then `count` is how many there were at most."""
        if self.last is None or not 0 < self.first_seq <= seq:
            return
        if self.last.seq <= seq:
            self.forget_all()
            return
        self.first_seq = seq + 1
        self.count = min(self.count, self.last.seq - seq)

    def tell(self, last: Envelope) -> Envelope:
        """The envelope that tells of it, for once."""
        told = _lagged(last, last.seq, missed=self.count, first_seq=self.first_seq)
        self.forget_all()
        return told


def _lagged(like: Envelope, last_seq: int, *, missed: int | None, first_seq: int | None) -> Envelope:
    return Envelope(
        seq=last_seq,
        correlation_id=like.correlation_id,
        turn=like.turn,
        ts_ms=like.ts_ms,
        event="lagged",
        payload={"missed": missed, "first_seq": first_seq, "last_seq": last_seq},
        agent_id=like.agent_id,
    )


def _is_amid(envelope: Envelope) -> bool:
    """Whether something of its request must have come before; a request that never ran can begin with its cancellation or end."""
    if envelope.event in ("request_queued", "run_start"):
        return False
    return envelope.turn > 0 or bool(envelope.payload.get("start_event_seq"))


def _names(events: Any) -> frozenset[str]:
    if isinstance(events, str) or not isinstance(events, Collection):
        raise InvalidOptionError("events", "a collection of event names", events)
    for name in events:
        if name not in EVENT_NAMES:
            near = difflib.get_close_matches(str(name), EVENT_NAMES, n=3)
            raise InvalidOptionError("events", f"event names, such as {', '.join(near or EVENT_NAMES)}", name)
    return frozenset((*events, "lagged"))


def _nothing() -> None:
    pass
