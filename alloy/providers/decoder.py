"""What every adapter makes of an answer: the pure half that `alloy.providers.http` drives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from pydantic_core import to_json

from alloy.messages import TextBlock, ThinkingBlock, ToolUseBlock
from alloy.providers.base import TextDelta, ThinkingDelta, ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from alloy.errors import ProviderError
    from alloy.messages import Message
    from alloy.providers.base import Completion, Delta, ProviderItem
    from alloy.providers.limits import Tally
    from alloy.providers.sse import ServerEvent
    from alloy.usage import Usage

__all__ = ["NOBODY", "Decoder", "Listener", "decode", "deltas_of"]


class Decoder(Protocol):
    """What an adapter makes of one answer; pure, made anew for each request."""

    @property
    def done(self) -> bool:
        """Whether the stream's terminal event has come, after which nothing follows."""
        ...

    def feed(self, event: ServerEvent) -> Iterable[Delta]:
        """Takes the stream's next event.

        Raises:
            ProviderError: it is an error, or makes no sense.
        """
        ...

    def end(self) -> Completion:
        """Takes the stream's end.

        Raises:
            ProviderError: it ended before its terminal event (kind ``network``).
        """
        ...

    def whole(self, document: Any) -> Completion:
        """Takes an answer that came as one JSON document.

        Raises:
            ProviderError: it is an error, or no answer.
        """
        ...


class Listener(Protocol):
    """Who wants to know what an answer says besides its words."""

    def replied(self, status: int, headers: Mapping[str, str]) -> None:
        """Takes the response's status, and its headers by names in lower case."""
        ...

    def failed(self, error: ProviderError) -> None:
        """Takes the error that the server answered with, at once or later on."""
        ...

    def completed(self, usage: Usage) -> None:
        """Takes what the whole answer took."""
        ...


class _Nobody:
    """Who doesn't."""

    def replied(self, status: int, headers: Mapping[str, str]) -> None:
        pass

    def failed(self, error: ProviderError) -> None:
        pass

    def completed(self, usage: Usage) -> None:
        pass


NOBODY = _Nobody()
"""A listener that nobody is."""


def decode(decoder: Decoder, events: Iterable[ServerEvent], tally: Tally, items: list[ProviderItem]) -> None:
    """Has a stream's events decoded, and adds what they say to `items`; when it raises, what came before is there.

    Raises:
        ProviderError: an event is an error or makes no sense, or the answer is too much.
    """
    for event in events:
        for delta in decoder.feed(event):
            tally.take(delta)
            items.append(delta)


def deltas_of(message: Message) -> Iterator[Delta]:
    """A whole answer for somebody who wanted to watch."""
    calls = 0
    for block in message.content:
        match block:
            case TextBlock(text=text) if text:
                yield TextDelta(text)
            case ThinkingBlock(text=text) if text:
                yield ThinkingDelta(text)
            case ToolUseBlock():
                arguments = to_json(block.input).decode() if block.invalid is None else block.invalid
                yield ToolCallDelta(calls, block.id, block.name, arguments)
                calls += 1
            case _:
                pass
