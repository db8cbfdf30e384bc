"""What survives of a conversation: sessions, and the stores that keep them."""

from alloy.sessions.base import Session, SessionStore
from alloy.sessions.file import FileStore
from alloy.sessions.memory import MemoryStore

__all__ = ["FileStore", "MemoryStore", "Session", "SessionStore"]
