"""What requests begin with: a vendor's prompt cache serves what has stayed the same, from the first byte on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.messages import Message
    from alloy.providers.base import Provider, Request

__all__ = ["Prefix"]


class Prefix:
    """Remembers what the last request began with, and says where the next one differs."""

    __slots__ = ("_count", "_messages", "_model", "_system", "_tools")

    def __init__(self) -> None:
        self._model: tuple[str, str] | None = None
        self._system: str | None = None
        self._tools: Any = ()
        self._messages: Sequence[Message] = ()
        self._count = 0

    def follow(self, request: Request, provider: Provider, *, edited: bool) -> dict[str, Any] | None:
        """Goes on to the next request.

        Args:
            request: the request.
            provider: who is asked.
            edited: whether its messages aren't simply the history's, which only grows, so that a look at one of them is enough.

        Returns:
            What broke the beginning that both should have in common, JSON-ready: `what` (``model``, ``tools``, ``system``,
            ``messages``) and `at`, the first message that isn't the same; None if nothing did.
        """
        what, at = [], None
        model = (provider.name, provider.model)
        if self._model is not None:
            if model != self._model:
                what.append("model")
            if request.tools is not self._tools and request.tools != self._tools:
                what.append("tools")
            if request.system != self._system:
                what.append("system")
            at = self._first_other(request.messages, edited=edited)
            if at is not None:
                what.append("messages")
        self._model, self._system, self._tools = model, request.system, request.tools
        self._messages, self._count = request.messages, len(request.messages)
        return {"what": what, "at": at} if what else None

    def _first_other(self, messages: Sequence[Message], *, edited: bool) -> int | None:
        """The first message that isn't as it was, but for the last one, which may have got longer."""
        before, last = self._messages, self._count - 1
        if not edited and len(messages) > last and messages[last] is before[last]:
            return None
        for index in range(min(last, len(messages))):
            if messages[index] is not before[index]:
                return index
        return len(messages) if len(messages) <= last else None
