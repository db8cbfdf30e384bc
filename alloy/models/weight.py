"""What of a message counts: its texts, and what is known without reading; pure."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
)
from alloy.models.families import UNKNOWN_SIZE
from alloy.models.media import image_size, pages, seconds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from alloy.messages import Block, MediaBlock, Message
    from alloy.models.families import Family

__all__ = ["Weight", "json_strings", "size_of", "weigh"]

_SEALED = 1 / 6.5
"""What a character of encrypted text costs, as recorded answers show that say how much they thought."""
_UNKNOWN_LENGTH = {"audio": 60.0, "video": 60.0}  # seconds, of what is known by its URL alone
_UNKNOWN_PAGES = 5
_MOST_VALUES = 200_000  # of one JSON document
_LONGEST_WORD = 2048
_LONGEST_NUMBER = 2048  # bits
_UNREAD = frozenset({"id", "type", "status", "call_id", "tool_use_id"})
"""Members of a vendor's item that its model isn't shown."""


class Weight(NamedTuple):
    """What a message's tokens come from.

    Attributes:
        texts: what has to be counted.
        tokens: what needn't be.
    """

    texts: list[str]
    tokens: float


def weigh(message: Message, family: Family) -> Weight:
    """What of a message counts, for a family of models."""
    scale = _Scale(family)
    for block in message.content:
        scale.put(block)
    return Weight(scale.texts, scale.tokens + family.message)


def size_of(message: Message, most: int) -> int:
    """How much there is to count in a message, about in characters; not much more than `most` is looked at."""
    size = 0
    for block in message.content:
        for text in _strings(block):
            size += len(text)
            if size > most:
                return size
    return size


def json_strings(value: Any) -> str:
    """The names and values of a JSON document, however deep, as a text that has as many tokens as its JSON."""
    return '{"' + '":"'.join(text for _, text in islice(_members(value), _MOST_VALUES)) + '"}'


class _Scale:
    def __init__(self, family: Family) -> None:
        self._family = family
        self.texts: list[str] = []
        self.tokens = 0.0

    def put(self, block: Block) -> None:
        match block:
            case TextBlock(text=text, extra=extra):
                self.texts.append(text)
                self._signed(extra)
            case ThinkingBlock(text=text, signature=signature):
                self._thinking(text, signature or "")
            case ToolUseBlock(name=name, input=arguments, invalid=invalid, extra=extra):
                self.texts += [name, json_strings(arguments) if invalid is None else invalid]
                self.tokens += self._family.call
                self._signed(extra)
            case ToolResultBlock(content=content):
                self.tokens += self._family.call
                for part in content:
                    self.put(part)
            case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
                self._media(block)
            case ServerToolUseBlock(raw=raw) | ServerToolResultBlock(raw=raw) | RawBlock(data=raw):
                self._item(raw)
            case _:
                assert_never(block)

    def _thinking(self, text: str, signature: str) -> None:
        """Counts what was thought: as shown, or by the length of what's encrypted, whichever is shorter to tell.

        What is shown may be a summary, so where the encrypted text is clearly longer, it counts.
        """
        hidden = self._sealed(signature)
        if hidden > len(text) / 2:
            self.tokens += hidden
        else:
            self.texts.append(text)

    def _signed(self, extra: Mapping[str, Any] | None) -> None:
        """Counts the thinking that Gemini puts into other blocks."""
        signature = (extra or {}).get("thoughtSignature")
        if isinstance(signature, str):
            self.tokens += self._sealed(signature)

    def _sealed(self, text: str) -> float:
        return max(0, len(text) - self._family.seal) * _SEALED

    def _media(self, block: MediaBlock) -> None:
        family, data = self._family, block.data
        match block:
            case ImageBlock():
                width, height = (image_size(data) if data else None) or UNKNOWN_SIZE
                self.tokens += family.image(max(width, 1), max(height, 1))
            case DocumentBlock(media_type=media_type, name=name):
                self.texts.append(name or "")
                if data is not None and media_type.startswith("text/"):
                    self.texts.append(data.decode(errors="replace"))
                else:
                    self.tokens += family.page * (_UNKNOWN_PAGES if data is None else pages(data))
            case AudioBlock():
                self.tokens += family.audio * _length(block)
            case VideoBlock():
                self.tokens += family.video * _length(block)
            case _:
                assert_never(block)

    def _item(self, raw: Any) -> None:
        texts: list[str] = []
        for name, text in islice(_members(raw), _MOST_VALUES):
            if name in _UNREAD:
                continue
            if "encrypted" in name or "ignature" in name:
                self.tokens += self._sealed(text)
            elif len(text) > _LONGEST_WORD and " " not in text[:_LONGEST_WORD]:
                self.tokens += self._family.image(*UNKNOWN_SIZE)  # an image or the like
            else:
                texts.append(text)
        self.texts.append('":"'.join(texts))


def _length(block: AudioBlock | VideoBlock) -> float:
    return _UNKNOWN_LENGTH[block.type] if block.data is None else seconds(block.data, block.type)


def _strings(block: Block) -> Iterable[str]:
    match block:
        case TextBlock(text=text) | ThinkingBlock(text=text):
            return (text,)
        case ToolUseBlock(input=arguments, invalid=invalid):
            return _values(arguments) if invalid is None else (invalid,)
        case ToolResultBlock(content=content):
            return (text for part in content for text in _strings(part))
        case DocumentBlock(data=bytes(data)):
            return (data.decode("latin-1"),)
        case ServerToolUseBlock(raw=raw) | ServerToolResultBlock(raw=raw) | RawBlock(data=raw):
            return _values(raw)
        case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
            return ()
        case _:
            assert_never(block)


def _values(value: Any) -> Iterator[str]:
    return (text for _, text in _members(value))


def _members(value: Any) -> Iterator[tuple[str, str]]:
    """All names and scalars in a JSON value, each with the name that it stands under; without recursion."""
    waiting: list[tuple[str, Any]] = [("", value)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, str):
            yield name, value
        elif isinstance(value, Mapping):
            waiting.extend((str(key), inner) for key, inner in value.items())
            yield from (("", str(key)) for key in value if key not in _UNREAD)
        elif isinstance(value, list | tuple):
            waiting.extend((name, inner) for inner in value)
        elif isinstance(value, int) and value.bit_length() > _LONGEST_NUMBER:  # Python refuses to write it
            yield name, "0" * (value.bit_length() * 3 // 10)
        else:
            yield name, str(value)
