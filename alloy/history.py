"""What makes a history one that every API accepts: checking it, and mending it.

A history is a sequence of messages that starts with the user and takes turns. Tool results are a user message of their own
that directly follows the calls: first the results, one for each call, in the order of the calls.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from alloy._ids import new_id
from alloy.errors import HistoryError, HistoryProblem
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    Message,
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
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from alloy.messages import Block, ResultContent

__all__ = ["UNKNOWN_OUTCOME", "check_history", "own_call_ids", "repair_history", "unique_id", "without_blanks"]

UNKNOWN_OUTCOME = "No result is available: this call was interrupted and may or may not have taken effect."
"""What stands in for a result that was never seen."""


def check_history(messages: Sequence[Message]) -> None:
    """Checks that every API would accept these messages, as far as all of them agree.

    They take turns, beginning with the user; tool results may be followed by the user's next prompt. Every call has exactly
    one result, in the message right after it and in order; call ids are unique; nothing is empty or blank; blocks stand
    where they belong. An empty history is valid.

    Raises:
        HistoryError: with everything that is wrong.
    """
    problems = list(_problems(messages))
    if problems:
        raise HistoryError(problems)


def _problems(messages: Sequence[object]) -> Iterator[HistoryProblem]:
    seen: set[str] = set()
    previous: Message | None = None
    for index, message in enumerate(messages):
        if not isinstance(message, Message):
            yield HistoryProblem(index, "no_message", f"{type(message).__name__} is no alloy.Message")
            continue
        yield from _order_problems(index, message, previous)
        yield from _content_problems(index, message)
        yield from _result_problems(index, message, previous)
        for call in message.tool_uses:
            if not call.id or call.id in seen:
                yield HistoryProblem(index, "call_id", f"call id {call.id!r} is {'used twice' if call.id else 'empty'}")
            seen.add(call.id)
        previous = message
    if previous is not None and previous.role == "assistant":
        for call in previous.tool_uses:
            yield HistoryProblem(len(messages) - 1, "unanswered_call", f"call {call.id!r} has no result")


def _order_problems(index: int, message: Message, previous: Message | None) -> Iterator[HistoryProblem]:
    if previous is None:
        if message.role != "user":
            yield HistoryProblem(index, "first_turn", "the first message isn't the user's")
    elif message.role == previous.role and (message.role == "assistant" or not _only_results(previous)):
        yield HistoryProblem(index, "two_turns", f"two {message.role} turns in a row")


def _content_problems(index: int, message: Message) -> Iterator[HistoryProblem]:
    if not message.content:
        yield HistoryProblem(index, "empty_message", "no content")
    for block in message.content:
        if not isinstance(block, _BELONGS[message.role]):
            yield HistoryProblem(index, "misplaced_block", f"{type(block).__name__} in a {message.role}'s message")
        elif isinstance(block, TextBlock) and not block.text.strip():
            yield HistoryProblem(index, "blank_text", "blank text")
        elif isinstance(block, ToolResultBlock) and not _substantial(block.content):
            yield HistoryProblem(
                index, "blank_text", f"the result of call {block.tool_use_id!r} is blank or has blank text"
            )


def _result_problems(index: int, message: Message, previous: Message | None) -> Iterator[HistoryProblem]:
    if message.role != "user":
        return
    expected = [call.id for call in previous.tool_uses] if previous and previous.role == "assistant" else []
    found = [block.tool_use_id for block in message.tool_results]
    for call_id in expected:
        if call_id not in found:
            yield HistoryProblem(index, "unanswered_call", f"call {call_id!r} has no result")
    for position, call_id in enumerate(found):
        if call_id not in expected:
            yield HistoryProblem(index, "orphan_result", f"a result for {call_id!r}, which the turn before didn't call")
        elif call_id in found[:position]:
            yield HistoryProblem(index, "second_result", f"a second result for call {call_id!r}")
    if found != expected and sorted(found) == sorted(expected):
        yield HistoryProblem(index, "result_order", "the results aren't in the order of the calls")
    if any(not isinstance(block, ToolResultBlock) for block in message.content[: len(found)]):
        yield HistoryProblem(index, "result_order", "something stands before a tool result")


def _only_results(message: Message) -> bool:
    return all(isinstance(block, ToolResultBlock) for block in message.content)


def _substantial(content: Sequence[ResultContent]) -> bool:
    return bool(content) and all(not isinstance(block, TextBlock) or block.text.strip() for block in content)


_BELONGS: Mapping[str, tuple[type, ...]] = {
    "user": (TextBlock, ToolResultBlock, ImageBlock, AudioBlock, VideoBlock, DocumentBlock),
    "assistant": (
        TextBlock,
        ThinkingBlock,
        ToolUseBlock,
        ImageBlock,
        AudioBlock,
        VideoBlock,
        DocumentBlock,
        ServerToolUseBlock,
        ServerToolResultBlock,
        RawBlock,
    ),
}


# --- Answers ---------------------------------------------------------------------------------------------------------


def without_blanks(message: Message) -> Message:
    """The message without blank text and without blocks that its role can't have."""
    kept = _kept(message)
    return message if len(kept) == len(message.content) else dataclasses.replace(message, content=kept)


def own_call_ids(message: Message, taken: AbstractSet[str]) -> Message:
    """The message with calls whose ids are unique and not in `taken`."""
    ids = [block.id for block in message.content if isinstance(block, ToolUseBlock)]
    if all(ids) and len(set(ids)) == len(ids) and taken.isdisjoint(ids):
        return message
    return dataclasses.replace(message, content=_with_own_ids(message.content, set(taken))[0])


# --- Repair ----------------------------------------------------------------------------------------------------------


def repair_history(messages: Iterable[Message]) -> tuple[Message, ...]:
    """The same conversation in a form that `check_history` accepts.

    Unanswered calls get an error result that says so, results without a call and blank or misplaced blocks go, a second call
    of one id gets an id of its own, neighbours of one role become one message, and what stands before the user's first turn
    goes. A valid history comes back unchanged.
    """
    repaired: list[Message] = []
    ids: set[str] = set()
    calls: dict[str, ToolUseBlock] = {}
    for message in messages:
        kept = _kept(message)
        if message.role == "user":
            results, rest = _results_for(calls, message), tuple(b for b in kept if not isinstance(b, ToolResultBlock))
            calls = {}
            kept = results + rest
        elif calls:
            _append(repaired, Message("user", _results_for(calls, None)))
            calls = {}
        if message.role == "assistant" and kept:
            kept, calls = _with_own_ids(kept, ids)
        if kept and (repaired or message.role == "user"):
            _append(repaired, message if kept == message.content else dataclasses.replace(message, content=kept))
        else:
            calls = {}
    if calls:
        _append(repaired, Message("user", _results_for(calls, None)))
    return tuple(repaired)


def _append(repaired: list[Message], message: Message) -> None:
    last = repaired[-1] if repaired else None
    if last and last.role == message.role and (message.role == "assistant" or not _only_results(last)):
        repaired[-1] = dataclasses.replace(last, content=last.content + message.content)
    else:
        repaired.append(message)


def _kept(message: Message) -> tuple[Block, ...]:
    belonging = _BELONGS[message.role]
    return tuple(
        [
            block
            for block in message.content
            if isinstance(block, belonging) and not (isinstance(block, TextBlock) and not block.text.strip())
        ]
    )


def _with_own_ids(blocks: tuple[Block, ...], taken: set[str]) -> tuple[tuple[Block, ...], dict[str, ToolUseBlock]]:
    """Blocks in which no call has an id of `taken`, to which they are added; and the calls by the ids they had."""
    calls: dict[str, ToolUseBlock] = {}
    out: list[Block] = []
    for block in blocks:
        if isinstance(block, ToolUseBlock):
            own = unique_id(block.id, taken)
            call = block if own == block.id else dataclasses.replace(block, id=own)
            calls[block.id if block.id not in calls else own] = call
            out.append(call)
        else:
            out.append(block)
    return tuple(out), calls


def unique_id(wanted: str, taken: set[str]) -> str:
    """An id that nobody has yet: `wanted` if it is free, else with a number behind it.

    Args:
        wanted: the id that a call came with; may be empty.
        taken: all ids of the history; the new one is added.
    """
    base = wanted or f"call_{len(taken) + 1}"
    own, number = base, 1
    while own in taken:
        number += 1
        own = f"{base}_{number if number < 100 else new_id()}"  # who takes all numbers can't keep us busy
    taken.add(own)
    return own


def _results_for(calls: Mapping[str, ToolUseBlock], message: Message | None) -> tuple[Block, ...]:
    found: dict[str, ToolResultBlock] = {}
    for result in message.tool_results if message else ():
        found.setdefault(result.tool_use_id, result)
    return tuple(_result_for(call, found.get(asked)) for asked, call in calls.items())


def _result_for(call: ToolUseBlock, result: ToolResultBlock | None) -> ToolResultBlock:
    if result is None:
        return ToolResultBlock(call.id, (TextBlock(UNKNOWN_OUTCOME),), is_error=True, name=call.name)
    if _substantial(result.content) and result.tool_use_id == call.id:
        return result
    content = tuple(block for block in result.content if not isinstance(block, TextBlock) or block.text.strip())
    return dataclasses.replace(result, tool_use_id=call.id, content=content or (TextBlock("(no output)"),))
