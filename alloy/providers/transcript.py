"""History of one provider made acceptable to another; pure.

Thinking, signatures and opaque items mean something only to whom they came from: the same adapter, endpoint and account, which
is what `Message.origin` says. There they go back as they were. Anybody else gets what was said and which tools were called.

Everything here looks at one message at a time, so that what an adapter makes of it can be remembered.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Literal, TypeAlias, TypeVar, assert_never

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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from alloy.messages import Block, Message

__all__ = ["ANY_CALL_ID", "CallIds", "Role", "for_origin", "is_own", "turns"]

Role: TypeAlias = Literal["user", "assistant"]
T = TypeVar("T")

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class CallIds:
    """What ids of tool calls may look like at a provider's.

    An id that may not be there becomes one that may, always the same one, so a call and its result still belong together.

    Attributes:
        allowed: a regular expression that matches a whole id.
        length: how long the ids are that stand for others, in letters and digits, at most 40.
    """

    allowed: str
    length: int = 24

    def __call__(self, call_id: str) -> str:
        """The id itself if it is allowed, else the one that stands for it."""
        return call_id if re.fullmatch(self.allowed, call_id) else _digest(call_id, self.length)


ANY_CALL_ID = CallIds("(?s:.*)")
"""For a provider that takes every id."""


def is_own(message: Message, origin: str) -> bool:
    """Whether all of an assistant's message can go back to the provider of `origin`: it came from there, and whole."""
    return message.origin == origin and not message.interrupted


def for_origin(message: Message, origin: str, call_ids: CallIds = ANY_CALL_ID) -> Message:
    """The message as the provider of `origin` can take it.

    What came from there stays as it is. Of other answers, and of those that were broken off, only text, calls and media stay,
    without their `extra`; texts that follow each other, as where an API splits them at citations, become one.

    Args:
        message: of either role.
        origin: the provider's own fingerprint.
        call_ids: what ids of calls may look like there; ids of calls and results alike are rewritten.

    Returns:
        The message, the same object if nothing changes; its content may be empty, which `turns` leaves out.
    """
    content = message.content
    if message.role == "assistant" and not is_own(message, origin):
        content = tuple(_foreign(content))
    content = tuple(_renamed(block, call_ids) for block in content)
    unchanged = len(content) == len(message.content) and all(
        a is b for a, b in zip(content, message.content, strict=True)
    )
    return message if unchanged else dataclasses.replace(message, content=content)


def turns(messages: Iterable[tuple[Role, Iterable[T]]]) -> Iterator[tuple[Role, list[T]]]:
    """Encoded messages as turns: those without parts go, and neighbours of one role become one.

    Args:
        messages: each one's role and encoded parts.
    """
    filled = ((role, parts) for role, given in messages if (parts := list(given)))
    for role, group in groupby(filled, key=lambda message: message[0]):
        yield role, [part for _, parts in group for part in parts]


def _foreign(blocks: Iterable[Block]) -> Iterator[Block]:
    for is_text, group in groupby(blocks, key=lambda block: isinstance(block, TextBlock)):
        if is_text:
            neighbours = [block for block in group if isinstance(block, TextBlock)]
            text = "".join(block.text for block in neighbours)
            if text.strip():
                yield neighbours[0] if neighbours == [TextBlock(text)] else TextBlock(text)
        else:
            yield from (kept for block in group if (kept := _spoken(block)) is not None)


def _spoken(block: Block) -> Block | None:
    """What everybody understands of a block that isn't text."""
    match block:
        case ToolUseBlock():
            return block if block.extra is None else dataclasses.replace(block, extra=None)
        case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock() | TextBlock() | ToolResultBlock():
            return block
        case ThinkingBlock() | RawBlock() | ServerToolUseBlock() | ServerToolResultBlock():
            return None
        case _:
            assert_never(block)


def _renamed(block: Block, call_ids: CallIds) -> Block:
    match block:
        case ToolUseBlock(id=call_id) if (own := call_ids(call_id)) != call_id:
            return dataclasses.replace(block, id=own)
        case ToolResultBlock(tool_use_id=call_id) if (own := call_ids(call_id)) != call_id:
            return dataclasses.replace(block, tool_use_id=own)
        case _:
            return block


def _digest(text: str, length: int) -> str:
    number = int.from_bytes(hashlib.sha256(text.encode(errors="surrogatepass")).digest(), "big")
    digits = []
    for _ in range(length):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(digits)
