"""Each message is encoded once: what a provider sends grows with the history, the work for it doesn't."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

    from alloy.messages import Message

__all__ = ["Memo"]

T = TypeVar("T")


class Memo(Generic[T]):
    """Remembers what a function made of a message, by the message's identity.

    What was used least recently is forgotten when it gets too much.

    Args:
        function: encodes a message; must depend on nothing else.
        size: how large a result is, in bytes.
        limit: how much to remember at most, in bytes.
    """

    __slots__ = ("_entries", "_function", "_limit", "_size", "_total")

    def __init__(
        self, function: Callable[[Message], T], *, size: Callable[[T], int], limit: int = 64 * 1024 * 1024
    ) -> None:
        self._function = function
        self._size = size
        self._limit = limit
        self._total = 0
        self._entries: dict[int, tuple[Message, T]] = {}

    def __call__(self, message: Message) -> T:
        """What the function makes, or made, of `message`."""
        entry = self._entries.pop(id(message), None)
        if entry is None:
            entry = (message, self._function(message))  # the message is kept, so nobody else gets its id
            self._total += self._size(entry[1])
        self._entries[id(message)] = entry
        while self._total > self._limit:
            _, old = self._entries.pop(next(iter(self._entries)))
            self._total -= self._size(old)
        return entry[1]
