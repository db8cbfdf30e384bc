"""What is made of a message is made once: a history grows, the work for it doesn't."""

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
        function: makes something of a message; must depend on nothing else.
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

    def __contains__(self, message: Message) -> bool:
        return id(message) in self._entries

    def __call__(self, message: Message) -> T:
        """What the function makes, or made, of `message`."""
        entry = self._entries.get(id(message))
        return self.remember(message, self._function(message) if entry is None else entry[1])

    def remember(self, message: Message, made: T) -> T:
        """Takes what was made of `message` elsewhere, such as in a thread, and gives it back."""
        known = self._entries.pop(id(message), None)
        if known is not None:
            self._total -= self._size(known[1])
        self._entries[id(message)] = (message, made)  # the message is kept, so nobody else gets its id
        self._total += self._size(made)
        while self._total > self._limit:
            _, old = self._entries.pop(next(iter(self._entries)))
            self._total -= self._size(old)
        return made
