"""Where an agent's envelopes go: to its bus, and to the function of its options."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alloy.agents.bus import Bus
    from alloy.events import Envelope, Sink

__all__ = ["publisher"]


def publisher(bus: Bus, topic: str, on_event: Sink | None) -> Sink:
    """What publishes envelopes on a topic, and calls `on_event` with each."""
    return partial(bus.publish, topic) if on_event is None else _Both(bus, topic, on_event).publish


class _Both:
    """Calls `on_event` in the order of the numbers, also where a listener of the bus makes the agent tell more meanwhile."""

    __slots__ = ("_bus", "_on_event", "_publishing", "_topic", "_untold")

    def __init__(self, bus: Bus, topic: str, on_event: Sink) -> None:
        self._bus = bus
        self._topic = topic
        self._on_event = on_event
        self._publishing = False
        self._untold: list[Envelope] = []

    def publish(self, envelope: Envelope) -> None:
        self._untold.append(envelope)
        if self._publishing:
            self._bus.publish(self._topic, envelope)
            return
        self._publishing = True
        try:
            self._bus.publish(self._topic, envelope)
        finally:
            self._publishing = False
        while self._untold:
            self._on_event(self._untold.pop(0))
