"""Sessions that last as long as the process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from anyio.lowlevel import checkpoint

from alloy.sessions.base import check_id, check_owner, saved

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.sessions.base import Session

__all__ = ["MemoryStore"]


class MemoryStore:
    """Keeps sessions in memory: for tests, and for agents that are restarted within one process."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    async def load(self, session_id: str) -> Session | None:
        """The session with this id, or None; see `SessionStore`."""
        check_id(session_id)
        await checkpoint()
        return self._sessions.get(session_id)

    async def save(self, session: Session) -> Session:
        """Saves a session; see `SessionStore`."""
        await checkpoint()
        stored = self._sessions.get(session.id)
        if stored is None:
            check_owner(session, None, 0)
        else:
            check_owner(session, stored.revision, stored.created_ms)
        self._sessions[session.id] = new = saved(session, session.revision + 1)
        return new

    async def delete(self, session_id: str) -> None:
        """Deletes the session with this id; see `SessionStore`."""
        check_id(session_id)
        await checkpoint()
        self._sessions.pop(session_id, None)

    async def ids(self) -> Sequence[str]:
        """The ids of all sessions, sorted."""
        await checkpoint()
        return tuple(sorted(self._sessions))

    def __repr__(self) -> str:
        return f"<MemoryStore of {len(self._sessions)} sessions>"
