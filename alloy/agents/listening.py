"""What an agent is connected with, and what it hears there."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alloy.agents.registry import checked_name
from alloy.errors import AlloyError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from alloy.agents.bus import Bus
    from alloy.agents.owner import Owner
    from alloy.events import Envelope
    from alloy.sessions import Session, SessionStore

__all__ = ["Watching", "hear"]

_log = logging.getLogger("alloy")


@dataclass(frozen=True, slots=True)
class Watching:
    """What an agent is connected with.

    Attributes:
        bus: where its envelopes go, and messages come from.
        topics: the topics it listens to.
        store: where its session is saved.
        on_shutdown: called with the session when the agent has ended.
    """

    bus: Bus
    topics: tuple[str, ...] = ()
    store: SessionStore | None = None
    on_shutdown: Callable[[Session], Awaitable[object]] | None = None


def hear(owner: Owner, envelope: Envelope) -> None:
    """Gives an agent what was published on a topic, if it is a message; tells why not where it isn't accepted."""
    if envelope.event != "message":
        return
    try:
        owner.submit(envelope.payload.get("text"), checked_name("request_id", envelope.correlation_id))
    except AlloyError as error:
        _log.warning("a message was refused: %s", error)
        owner.emit("message_refused", envelope.correlation_id, reason=str(error), error=type(error).__name__)
