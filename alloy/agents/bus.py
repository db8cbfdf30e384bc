"""The bus: envelopes from agents, and messages for them, to whoever listens, by topic.

Publishing never waits: a listener is a function that takes the envelope and returns. Who wants to await envelopes takes a
`Subscription`, which is such a listener with a bounded buffer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Protocol

from alloy._ids import new_id
from alloy.errors import CursorError, EmptyPromptError, InvalidOptionError
from alloy.events import Envelope

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alloy.events import Sink

__all__ = ["Bus", "LocalBus", "check_number", "message_envelope"]

MAX_DEPTH = 100  # how long a chain of listeners that publish what they are given may get

_log = logging.getLogger("alloy")


class Bus(Protocol):
    """Takes envelopes to the listeners of a topic, all of one topic in the order in which they were published.

    Envelopes of an agent are numbered: their `seq` strictly increases over all that is published on its topic, and so is a
    cursor to resume from. An envelope with seq 0, such as a message, is delivered and never kept.
    """

    def publish(self, topic: str, envelope: Envelope) -> None:
        """Gives the envelope to everybody who listens to the topic now.

        It never waits, and never raises for a listener's fault. What a listener publishes meanwhile comes after it.
        """
        ...

    def attach(self, topic: str, sink: Sink, on_close: Callable[[], None] | None = None) -> Callable[[], None]:
        """From now on `sink` gets what is published on the topic.

        Args:
            topic: what to listen to.
            sink: takes each envelope; must not block. If it raises, that is logged and it gets no more.
            on_close: called once when nothing more will come, because the topic was closed or the sink raised; not when it
                is detached.

        Returns:
            What detaches it at once; calling it again does nothing.
        """
        ...

    async def recent(self, topic: str, after: int | None) -> Sequence[Envelope]:
        """What is kept of a topic, in order.

        Args:
            topic: whose.
            after: only what has a greater number; None for all that is kept, whatever else there was.

        Raises:
            CursorError: something after `after` isn't kept any more, or `after` is a number that the topic hasn't come to.
        """
        ...

    def newest(self, topic: str) -> int:
        """The newest number on the topic, 0 if there was none; numbering goes on from there when an agent starts again."""
        ...

    def forget(self, topic: str) -> None:
        """Drops what is kept of the topic, but for its newest number; who listens goes on listening."""
        ...

    def close(self, topic: str) -> None:
        """Lets everybody who listens to the topic go, once they got what was published; what is kept stays."""
        ...


class LocalBus:
    """The bus of one event loop; only to be used on that loop's thread. `Bus` says what its methods do.

    Args:
        replay: how many envelopes are kept of each topic for `recent`; 0 keeps none.

    Raises:
        InvalidOptionError: `replay` is no such number.
    """

    __slots__ = ("_deliveries", "_delivering", "_depth", "_kept", "_listeners", "_newest", "_replay")

    def __init__(self, *, replay: int = 512) -> None:
        check_number("replay", "a number of envelopes, 0 or more", replay, least=0)
        self._replay = replay
        self._newest: dict[str, int] = {}
        self._kept: dict[str, _Kept] = {}
        self._listeners: dict[str, dict[_Listener, None]] = {}
        self._deliveries: list[
            _Delivery
        ] = []  # a list, since it is nearly always empty, and an empty deque takes 700 bytes
        self._delivering = False
        self._depth = 0

    def publish(self, topic: str, envelope: Envelope) -> None:
        """Gives the envelope to everybody who listens to the topic now; see `Bus.publish`.

        Raises:
            RecursionError: listeners publish in answer to each other without end; the one that gets this is let go.
        """
        if self._depth == MAX_DEPTH:
            raise RecursionError(
                f"{MAX_DEPTH} listeners published in answer to each other; publish from a task instead"
            )
        self._keep(topic, envelope)
        if topic in self._listeners:
            self._deliver(tuple(self._listeners[topic]), envelope)

    def attach(self, topic: str, sink: Sink, on_close: Callable[[], None] | None = None) -> Callable[[], None]:
        """From now on `sink` gets what is published on the topic; see `Bus.attach`."""
        listener = _Listener(topic, sink, on_close)
        self._listeners.setdefault(topic, {})[listener] = None

        def detach() -> None:
            listener.drop()
            self._remove(listener)

        return detach

    async def recent(self, topic: str, after: int | None) -> Sequence[Envelope]:
        """What is kept of a topic, in order; see `Bus.recent`.

        Raises:
            CursorError: something after `after` isn't kept any more, or `after` is a number that the topic hasn't come to.
        """
        kept = self._kept.get(topic)
        newest = self.newest(topic)
        oldest = newest if kept is None else kept.after
        if after is not None and not oldest <= after <= newest:
            raise CursorError(topic, after, oldest)
        return () if kept is None else [envelope for envelope in kept.envelopes if envelope.seq > (after or 0)]

    def newest(self, topic: str) -> int:
        """The newest number on the topic, 0 if there was none."""
        return self._newest.get(topic, 0)

    def forget(self, topic: str) -> None:
        """Drops what is kept of the topic, but for its newest number."""
        self._kept.pop(topic, None)

    def close(self, topic: str) -> None:
        """Lets everybody who listens to the topic go, once they got what was published."""
        listeners = self._listeners.pop(topic, None)
        if listeners:
            self._deliver(tuple(listeners), None)

    def _keep(self, topic: str, envelope: Envelope) -> None:
        newest = self._newest.get(topic, 0)
        if envelope.seq <= newest:  # a message, or numbered by somebody else: it would put what is kept out of order
            return
        self._newest[topic] = envelope.seq
        if not self._replay:
            return
        kept = self._kept.get(topic)
        if kept is None:
            kept = self._kept[topic] = _Kept(newest or envelope.seq - 1)  # what came before is from another life
        if len(kept.envelopes) == self._replay:
            kept.after = kept.envelopes.popleft().seq
        kept.envelopes.append(envelope)

    def _deliver(self, listeners: tuple[_Listener, ...], envelope: Envelope | None) -> None:
        """Delivers now or, when a listener asks for it, after what is being delivered. No envelope says that it's the end."""
        self._deliveries.append((listeners, envelope, self._depth + 1))
        if self._delivering:
            return
        self._delivering = True
        try:
            while self._deliveries:
                listeners, envelope, self._depth = self._deliveries.pop(0)
                if envelope is None:
                    for listener in listeners:
                        listener.close()
                else:
                    self._hand(listeners, envelope)
        finally:
            self._delivering = False
            self._depth = 0

    def _hand(self, listeners: tuple[_Listener, ...], envelope: Envelope) -> None:
        for listener in listeners:
            sink = listener.sink
            if sink is None:  # detached by a listener before it
                continue
            try:
                sink(envelope)
            except (Exception, asyncio.CancelledError):  # noqa: BLE001  the listener's fault; nobody cancels a plain function
                _log.exception("a listener of topic %r raised; it gets no more envelopes", listener.topic)
                self._remove(listener)
                listener.close()

    def _remove(self, listener: _Listener) -> None:
        listeners = self._listeners.get(listener.topic)
        if listeners is not None:
            listeners.pop(listener, None)
            if not listeners:
                del self._listeners[listener.topic]


class _Kept:
    """What is kept of a topic: everything after the number `after`."""

    __slots__ = ("after", "envelopes")

    def __init__(self, after: int) -> None:
        self.after = after
        self.envelopes: deque[Envelope] = deque()


class _Listener:
    __slots__ = ("on_close", "sink", "topic")

    def __init__(self, topic: str, sink: Sink, on_close: Callable[[], None] | None) -> None:
        self.topic = topic
        self.sink: Sink | None = sink
        self.on_close = on_close

    def drop(self) -> None:
        self.sink = self.on_close = None

    def close(self) -> None:
        on_close = self.on_close
        self.drop()
        if on_close is not None:
            try:
                on_close()
            except (Exception, asyncio.CancelledError):  # noqa: BLE001  the listener's fault, and logged
                _log.exception("a listener of topic %r raised when it was let go", self.topic)


_Delivery = tuple[tuple[_Listener, ...], Envelope | None, int]


def message_envelope(text: str, *, request_id: str | None = None, agent_id: str | None = None) -> Envelope:
    """A message for the agents that listen to a topic; it has no number, so no bus keeps it.

    Args:
        text: what to say to them.
        request_id: the id of the request that each makes of it; a new one by default.
        agent_id: the agent that says it, if one does.

    Raises:
        InvalidOptionError: `text` is no text.
        EmptyPromptError: it is blank.
    """
    if not isinstance(text, str):
        raise InvalidOptionError("text", "text", text)
    if not text.strip():
        raise EmptyPromptError
    return Envelope(
        seq=0,
        correlation_id=new_id() if request_id is None else request_id,
        turn=0,
        ts_ms=int(time.time() * 1000),
        event="message",
        payload={"text": text},
        agent_id=agent_id,
    )


def check_number(option: str, expected: str, value: Any, *, least: int) -> None:
    """Checks an option that is a number of something.

    Raises:
        InvalidOptionError: it is no whole number, or less than `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidOptionError(option, expected, value)
