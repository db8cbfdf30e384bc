"""What is made of a message, or of a history's beginning, is made once: a history grows, the work for it doesn't."""

from __future__ import annotations

from operator import is_
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alloy.messages import Message

__all__ = ["Appended", "Growing", "Memo"]

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


class Appended(list["Message"]):
    """Messages to which some are appended, and of which at most the last is replaced: when it comes again, that one tells enough."""

    __slots__ = ()


class Growing(Generic[T]):
    """Remembers what was made of histories, so that one which goes on costs only what is new in it.

    A history is known by its messages' identities; one that doesn't begin with what is remembered is begun anew. What was
    used least recently is forgotten when it gets too much.

    Args:
        start: makes what nothing was added to yet.
        add: adds a message to it, in place.
        size: how large it is, in bytes.
        limit: how much to remember at most, in bytes.
    """

    __slots__ = ("_add", "_entries", "_limit", "_size", "_start", "_total")

    def __init__(
        self,
        start: Callable[[], T],
        add: Callable[[T, Message], object],
        *,
        size: Callable[[T], int],
        limit: int = 32 * 1024 * 1024,
    ) -> None:
        self._start = start
        self._add = add
        self._size = size
        self._limit = limit
        self._total = 0
        self._entries: dict[int, tuple[Sequence[Message], list[Message], T]] = {}

    def __call__(self, messages: Sequence[Message], *, without: int = 0) -> T:
        """What is made of these messages, which nobody may change; good until the next call.

        Args:
            messages: the history.
            without: how many of its last messages to leave out.
        """
        end = len(messages) - without
        if end <= 0:
            return self._start()
        key = id(messages[0])
        # taken out while it is changed, so that neither an error nor another thread meets it half done
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._total -= self._size(entry[2])
        if entry is None or not _goes_on(entry[0], entry[1], messages, end):
            entry = messages, [], self._start()
        _, known, made = entry
        for message in messages[len(known) : end]:
            self._add(made, message)
            known.append(message)
        self._entries[key] = (messages, known, made)  # the messages are kept, so nobody else gets their ids
        self._total += self._size(made)
        while self._total > self._limit:
            *_, old = self._entries.pop(next(iter(self._entries)))
            self._total -= self._size(old)
        return made


def _goes_on(source: Sequence[Message], known: Sequence[Message], messages: Sequence[Message], end: int) -> bool:
    """Whether messages up to `end` begin with those that are known, which were in `source`."""
    if len(known) > end:
        return False
    if messages is source and isinstance(source, Appended):
        return messages[len(known) - 1] is known[-1]
    return all(map(is_, known, messages))
