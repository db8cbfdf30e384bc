"""Shorter histories out of long ones; nothing here asks anybody, and every outcome is a history that can be sent.

A history that was shortened begins with one message of the user's: what the user said first, word for word, then one block that
stands for what was taken out (it begins with `MARK`), and then the user's words that followed, if what is kept begins with them.
The block has a summary, and behind it what the user said in the part that was taken out, a line for each message.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alloy.messages import Message, RawBlock, TextBlock, ThinkingBlock, ToolResultBlock, ToolUseBlock
from alloy.models.text import estimated_tokens

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from alloy.messages import Block

__all__ = [
    "MARK",
    "Parts",
    "clear_results",
    "clipped",
    "fitting",
    "forget_thinking",
    "join",
    "note",
    "removed",
    "shrink",
    "split",
    "standing_in",
    "words_of_user",
]

MARK = "<conversation_summary>"
END = "</conversation_summary>"
WORDS = "<user_messages>"
WORDS_END = "</user_messages>"
LONGEST_WORDS = (
    2_000,
    1_000,
    500,
    250,
    125,
)  # characters of one message of the user's, as far as all of them have room
_SAID = "What the user said in that part, word for word:"
LEFT_OUT = "Earlier parts of this conversation were left out to save space."
CLEARED = "[This result was cleared to save space. Call the tool again if you need it.]"
SHORT = 400  # characters that aren't worth clearing
NO_WORDS = "(no words)"


@dataclass(frozen=True, slots=True)
class Parts:
    """A history by its parts.

    Attributes:
        head: what the user said first.
        summary: what stands for what was taken out before; None if nothing was.
        words: what the user said in that.
        rest: all that follows.
    """

    head: tuple[Block, ...]
    summary: str | None
    words: tuple[str, ...]
    rest: tuple[Message, ...]


def standing_in(summary: str, words: Sequence[str] = ()) -> TextBlock:
    """The block that stands for what is taken out: a summary, and what the user said in it."""
    lines = [MARK, summary]
    if words:
        lines += ["", _SAID, WORDS, *(f"- {one}" for one in words), WORDS_END]
    return TextBlock("\n".join((*lines, END)))


def words_of_user(messages: Sequence[Message]) -> list[str]:
    """What the user says in some messages, one line for each."""
    said = (message.text for message in messages if message.role == "user")
    return [" ".join(clipped(text, LONGEST_WORDS[0]).split()) for text in said if text.strip()]


def fitting(words: Sequence[str], limit: int) -> list[str]:
    """What the user said in so many tokens: long messages are cut in their middle, then left out, and at last the oldest are."""
    shorter: list[str] = []
    for longest in LONGEST_WORDS:
        shorter = [" ".join(clipped(one, longest).split()) for one in words]
        if sum(map(_tokens, shorter)) <= limit:
            return shorter
    left = sum(map(_tokens, shorter))
    kept = dict(enumerate(shorter))
    for index in sorted(kept, key=lambda index: (len(words[index]) <= LONGEST_WORDS[-1], index)):
        if left <= limit:
            break
        left -= _tokens(kept.pop(index))
    return list(kept.values())


def _tokens(line: str) -> int:
    return int(estimated_tokens(line)) + 2


def note(summary: str | None) -> str:
    """What stands for messages that nobody has summarised, with the summary there was."""
    return LEFT_OUT if summary is None else f"{summary.removesuffix(LEFT_OUT).rstrip()}\n\n{LEFT_OUT}".strip()


def split(messages: Sequence[Message]) -> Parts:
    """Takes a history apart, also one that was shortened before."""
    first = messages[0]
    for index, block in enumerate(first.content):
        if isinstance(block, TextBlock) and block.text.startswith(MARK):
            after = first.content[index + 1 :]
            rest = (Message("user", after), *messages[1:]) if after else tuple(messages[1:])
            return Parts(first.content[:index], *_read(block.text), rest)
    return Parts(first.content, None, (), tuple(messages[1:]))


def _read(text: str) -> tuple[str, tuple[str, ...]]:
    """The summary and the user's words in a block that `standing_in` made."""
    summary, _, rest = text.removeprefix(MARK).removesuffix(END).partition(WORDS)
    words = rest.partition(WORDS_END)[0].splitlines()
    summary = summary.strip().removesuffix(_SAID).strip()
    return summary, tuple(line.removeprefix("- ") for line in words if line.strip())


def join(
    head: tuple[Block, ...], summary: str, recent: Sequence[Message], words: Sequence[str] = ()
) -> tuple[Message, ...]:
    """Puts a history together again, with a summary and the user's words in place of what isn't there any more."""
    blocks = (*head, standing_in(summary, words))
    if recent and recent[0].role == "user":
        blocks, recent = (*blocks, *recent[0].content), recent[1:]
    return (Message("user", blocks), *recent)


def recent_from(rest: Sequence[Message], keep: int, count: Callable[[Message], int]) -> int:
    """Where the recent part begins: as early as it isn't larger than `keep` tokens, and never between calls and results.

    It has the last step at least, however large that is.
    """
    start, tokens = len(rest), 0
    for index in range(len(rest) - 1, -1, -1):
        tokens += count(rest[index])
        if tokens > keep and start < len(rest):
            break
        if not rest[index].tool_results:
            start = index
            if tokens > keep:
                break
    return start


def clear_results(messages: Sequence[Message], until: int, keep: int) -> tuple[Message, ...]:
    """Takes the content out of old tool results.

    Args:
        messages: the history.
        until: only results before this index are old.
        keep: how many of the newest results of the whole history stay in any case.
    """
    cleared = list(messages)
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        results = message.tool_results
        if results and keep <= 0 and index < until:
            content = tuple(map(_cleared, message.content))
            if any(new is not old for new, old in zip(content, message.content, strict=True)):
                cleared[index] = dataclasses.replace(message, content=content)
        keep -= len(results)
    return tuple(cleared)


def _cleared(block: Block) -> Block:
    if not isinstance(block, ToolResultBlock):
        return block
    if all(isinstance(part, TextBlock) for part in block.content) and len(block.text) <= SHORT:
        return block
    return dataclasses.replace(block, content=(TextBlock(CLEARED),))


def forget_thinking(before: Sequence[Message], after: Sequence[Message], *, bound: bool) -> tuple[Message, ...]:
    """The shorter history without what its change makes untrue: what requests took and, if `bound`, thinking.

    Anthropic's signed thinking is valid behind an unchanged beginning alone
    (https://platform.claude.com/docs/en/build-with-claude/extended-thinking).
    """
    same = next(
        (index for index, (old, new) in enumerate(zip(before, after, strict=False)) if old is not new),
        min(len(before), len(after)),
    )
    return (*after[:same], *(_unbound(message, bound=bound) for message in after[same:]))


def _unbound(message: Message, *, bound: bool) -> Message:
    if message.role == "user":
        return message
    content = tuple(block for block in message.content if not _is_thinking(block)) if bound else message.content
    if message.usage is None and len(content) == len(message.content):
        return message
    return dataclasses.replace(message, content=content or (TextBlock(NO_WORDS),), usage=None)


def _is_thinking(block: Block) -> bool:
    return isinstance(block, ThinkingBlock) or (isinstance(block, RawBlock) and "thinking" in block.kind)


def removed(before: Sequence[Message], after: Sequence[Message]) -> tuple[Message, ...]:
    """Which messages a shorter history has lost, or has no longer as they were, but for thinking and earlier summaries."""
    kept = {id(block) for message in after for block in message.content}
    return tuple(
        message
        for message in before
        if any(not (id(block) in kept or _is_thinking(block) or _is_summary(block)) for block in message.content)
    )


def _is_summary(block: Block) -> bool:
    return isinstance(block, TextBlock) and block.text.startswith(MARK)


# --- Shrinking -------------------------------------------------------------------------------------------------------


def shrink(
    messages: Sequence[Message], fits: Callable[[Sequence[Message]], bool], *, everything: bool
) -> tuple[Message, ...] | None:
    """Shortens the longest texts of a history until it fits, leaving their beginnings and ends.

    Args:
        messages: the history.
        fits: whether a history is short enough.
        everything: whether to shorten whatever is long, or only tool results.

    Returns:
        The history with texts as long as fits, or None if nothing helps.
    """
    longest = max((len(text) for message in messages for text in _texts(message)), default=0)
    least, most = 100, max(longest, 100)
    best: tuple[Message, ...] | None = None
    while least <= most:
        limit = (least + most) // 2
        attempt = tuple(_shrunk(message, limit, everything=everything) for message in messages)
        if fits(attempt):
            best, least = attempt, limit + max(limit // 20, 1)
        else:
            most = limit - 1
    return best


def clipped(text: str, limit: int) -> str:
    """The text, or its beginning and end where it is longer than `limit` characters."""
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out to save space ...]\n{text[-half:]}"


def _texts(message: Message) -> Iterator[str]:
    for block in message.content:
        match block:
            case TextBlock(text=text):
                yield text
            case ToolResultBlock():
                yield block.text
            case ToolUseBlock(input=given):
                yield from _strings(given)
            case _:
                pass


def _strings(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            for item in value.values():
                yield from _strings(item)
        case list() | tuple():
            for item in value:
                yield from _strings(item)
        case _:
            pass


def _shrunk(message: Message, limit: int, *, everything: bool) -> Message:
    content = tuple(_shrunk_block(block, limit, everything=everything) for block in message.content)
    if all(new is old for new, old in zip(content, message.content, strict=True)):
        return message
    return dataclasses.replace(message, content=content, usage=None)


def _shrunk_block(block: Block, limit: int, *, everything: bool) -> Block:
    match block:
        case ToolResultBlock(content=parts) if len(block.text) > limit or (everything and _has_media(block)):
            rest = () if everything else tuple(part for part in parts if not isinstance(part, TextBlock))
            text = clipped(block.text, limit) or CLEARED
            return dataclasses.replace(block, content=(TextBlock(text), *rest))
        case TextBlock(text=text) if everything and len(text) > limit:
            return TextBlock(clipped(text, limit))
        case ToolUseBlock(input=given) if everything and any(len(text) > limit for text in _strings(given)):
            return dataclasses.replace(block, input=_clipped_values(given, limit), extra=None)
        case _:
            return block


def _has_media(block: ToolResultBlock) -> bool:
    return any(not isinstance(part, TextBlock) for part in block.content)


def _clipped_values(value: Any, limit: int) -> Any:
    match value:
        case str():
            return clipped(value, limit)
        case dict():
            return {key: _clipped_values(item, limit) for key, item in value.items()}
        case list() | tuple():
            return [_clipped_values(item, limit) for item in value]
        case _:
            return value
