"""A recorder of envelopes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alloy.events import Envelope, EventName

__all__ = ["Recorder"]


class Recorder:
    """Keeps every envelope; pass it as ``on_event``.

    Attributes:
        envelopes: all of them, in order.
    """

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []

    def __call__(self, envelope: Envelope) -> None:
        self.envelopes.append(envelope)

    @property
    def events(self) -> list[EventName]:
        """The names, in order."""
        return [envelope.event for envelope in self.envelopes]

    @property
    def text(self) -> str:
        """The text that was streamed."""
        return "".join(envelope.payload["text"] for envelope in self.named("text_delta"))

    def named(self, event: EventName) -> list[Envelope]:
        """The envelopes of one name, in order."""
        return [envelope for envelope in self.envelopes if envelope.event == event]

    def clear(self) -> None:
        """Forgets them all."""
        self.envelopes.clear()
