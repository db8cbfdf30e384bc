"""Messages and their content blocks, JSON in and out, and what makes a history one that an API accepts.

A history is a sequence of messages that starts with the user and takes turns. Tool results are a user message of their own
that directly follows the calls: first the results, one for each call, in the order of the calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence  # noqa: TC003  pydantic reads the annotations
from collections.abc import Set as AbstractSet  # noqa: TC003
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from alloy.errors import HistoryError, HistoryProblem, InvalidOptionError
from alloy.usage import Usage  # noqa: TC001  pydantic reads the annotations

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
    "UNKNOWN_OUTCOME",
    "AudioBlock",
    "Block",
    "DocumentBlock",
    "ImageBlock",
    "MediaBlock",
    "Message",
    "RawBlock",
    "ResultContent",
    "ServerToolResultBlock",
    "ServerToolUseBlock",
    "TextBlock",
    "ThinkingBlock",
    "ToolResultBlock",
    "ToolUseBlock",
    "VideoBlock",
    "as_user_message",
    "check_history",
    "messages_from_json",
    "messages_to_json",
    "own_call_ids",
    "repair_history",
    "without_blanks",
]

UNKNOWN_OUTCOME = "No result is available: this call was interrupted and may or may not have taken effect."
"""What stands in for a result that was never seen."""

_BYTES_AS_BASE64 = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}


class _ByType:
    """Tells pydantic that a union is told apart by `type`, without importing pydantic for it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import Discriminator  # noqa: PLC0415  64 ms that only JSON needs

        return handler.generate_schema(Annotated[source, Discriminator("type")])


_BY_TYPE = _ByType()


@dataclass(frozen=True, slots=True)
class TextBlock:
    """Text.

    Attributes:
        text: the text.
        extra: what the provider that wrote it wants back with it, such as a signature; JSON.
    """

    text: str
    extra: Mapping[str, Any] | None = None
    type: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class ThinkingBlock:
    """The model's reasoning, as far as it is shown.

    Attributes:
        text: the reasoning or a summary of it; may be empty where only the signature counts.
        signature: what proves to its own provider that it is genuine.
        extra: what else the provider wants back with it; JSON.
    """

    text: str
    signature: str | None = None
    extra: Mapping[str, Any] | None = None
    type: Literal["thinking"] = "thinking"


@dataclass(frozen=True, slots=True)
class ToolUseBlock:
    """The model asks for a tool to be run.

    Attributes:
        id: what the result refers to; unique within a history.
        name: which tool.
        input: the arguments, a JSON object.
        invalid: the arguments as the model wrote them, where they were no JSON object; `input` is empty then.
        extra: what the provider wants back with the call; JSON.
    """

    id: str
    name: str
    input: Mapping[str, Any] = field(default_factory=dict)
    invalid: str | None = None
    extra: Mapping[str, Any] | None = None
    type: Literal["tool_use"] = "tool_use"


@dataclass(frozen=True, slots=True)
class _Media:
    __pydantic_config__: ClassVar[Any] = _BYTES_AS_BASE64

    media_type: str
    data: bytes | None = None
    url: str | None = None

    def __post_init__(self) -> None:
        if (self.data is None) == (self.url is None):
            raise InvalidOptionError("data", f"bytes, or else url=..., for a {type(self).__name__}", self.data)


@dataclass(frozen=True, slots=True)
class ImageBlock(_Media):
    """An image: either its bytes or where it is.

    Attributes:
        media_type: such as ``image/png``.
        data: the file's bytes.
        url: where the provider can fetch it.
    """

    type: Literal["image"] = "image"


@dataclass(frozen=True, slots=True)
class AudioBlock(_Media):
    """A sound recording; see `ImageBlock` for the attributes."""

    type: Literal["audio"] = "audio"


@dataclass(frozen=True, slots=True)
class VideoBlock(_Media):
    """A film; see `ImageBlock` for the attributes."""

    type: Literal["video"] = "video"


@dataclass(frozen=True, slots=True)
class DocumentBlock(_Media):
    """A document, such as a PDF; see `ImageBlock` for the other attributes.

    Attributes:
        name: its file name, shown to the model where the API can.
    """

    name: str | None = None
    type: Literal["document"] = "document"


MediaBlock: TypeAlias = ImageBlock | AudioBlock | VideoBlock | DocumentBlock
ResultContent: TypeAlias = TextBlock | MediaBlock
"""What a tool result can hold."""


@dataclass(frozen=True, slots=True)
class ToolResultBlock:
    """What a tool gave back.

    Attributes:
        tool_use_id: the call that it answers.
        content: text and media, never blank.
        is_error: whether the call failed; the text then says how.
        name: the tool, for APIs that want it.
    """

    tool_use_id: str
    content: tuple[Annotated[ResultContent, _BY_TYPE], ...]
    is_error: bool = False
    name: str = ""
    type: Literal["tool_result"] = "tool_result"

    @property
    def text(self) -> str:
        """The text of it all."""
        return "".join(block.text for block in self.content if isinstance(block, TextBlock))


@dataclass(frozen=True, slots=True)
class ServerToolUseBlock:
    """A call that the vendor ran itself, such as a web search; nothing for us to answer.

    Attributes:
        id: the vendor's id of the call.
        name: which tool.
        input: the arguments.
        raw: the vendor's item, to be sent back as it is.
    """

    id: str
    name: str
    input: Mapping[str, Any]
    raw: Mapping[str, Any]
    type: Literal["server_tool_use"] = "server_tool_use"


@dataclass(frozen=True, slots=True)
class ServerToolResultBlock:
    """What a tool that the vendor ran gave.

    Attributes:
        tool_use_id: the call that it answers.
        name: which tool.
        raw: the vendor's item, to be sent back as it is.
        is_error: whether it failed.
    """

    tool_use_id: str
    name: str
    raw: Mapping[str, Any]
    is_error: bool = False
    type: Literal["server_tool_result"] = "server_tool_result"


@dataclass(frozen=True, slots=True)
class RawBlock:
    """An item of a vendor's that means something to that vendor alone and goes back as it is.

    Attributes:
        kind: the vendor's name for it, such as ``redacted_thinking``.
        data: the item.
    """

    kind: str
    data: Mapping[str, Any]
    type: Literal["raw"] = "raw"


Block: TypeAlias = (
    TextBlock
    | ThinkingBlock
    | ToolUseBlock
    | ToolResultBlock
    | ImageBlock
    | AudioBlock
    | VideoBlock
    | DocumentBlock
    | ServerToolUseBlock
    | ServerToolResultBlock
    | RawBlock
)
"""Any part of a message."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of one side.

    Attributes:
        role: whose turn it was.
        content: its blocks, in order, never none.
        provider: who wrote it, for an assistant's message.
        model: which model wrote it.
        origin: a fingerprint of adapter, endpoint and account; signed and opaque blocks go back only there.
        usage: what writing it took.
        interrupted: whether only what was seen of a broken-off answer is here.
    """

    role: Literal["user", "assistant"]
    content: tuple[Annotated[Block, _BY_TYPE], ...]
    provider: str | None = None
    model: str | None = None
    origin: str | None = None
    usage: Usage | None = None
    interrupted: bool = False

    @property
    def text(self) -> str:
        """The text of it all, without thinking."""
        return "".join(block.text for block in self.content if isinstance(block, TextBlock))

    @property
    def tool_uses(self) -> tuple[ToolUseBlock, ...]:
        """The calls that want a result."""
        return tuple(block for block in self.content if isinstance(block, ToolUseBlock))

    @property
    def tool_results(self) -> tuple[ToolResultBlock, ...]:
        """The results that it brings."""
        return tuple(block for block in self.content if isinstance(block, ToolResultBlock))


def as_user_message(prompt: str | Block | Sequence[Block] | Message) -> Message:
    """A user's message out of whatever a prompt may be.

    Raises:
        InvalidOptionError: it is none of these.
    """
    match prompt:
        case Message(role="user"):
            return prompt
        case str():
            return Message("user", (TextBlock(prompt),))
        case TextBlock() | ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
            return Message("user", (prompt,))
        case [*blocks] if blocks and all(isinstance(block, ResultContent) for block in blocks):
            return Message("user", tuple(blocks))
    raise InvalidOptionError("prompt", "text, a user's Message, or text and media blocks", prompt)


# --- JSON ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Saved:
    v: Literal[1]
    messages: tuple[Message, ...]


def messages_to_json(messages: Iterable[Message]) -> bytes:
    """Messages as a JSON document, with its version; media as base64."""
    return _saved().dump_json(_Saved(1, tuple(messages)))


def messages_from_json(document: str | bytes) -> tuple[Message, ...]:
    """Reads what `messages_to_json` wrote.

    Raises:
        HistoryError: it is no such document, or of a version that this Alloy doesn't know.
    """
    from pydantic import ValidationError  # noqa: PLC0415  64 ms that only JSON needs

    try:
        return _saved().validate_json(document).messages
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        at = ".".join(str(part) for part in first["loc"])
        index = next((part for part in first["loc"] if isinstance(part, int)), 0)
        problem = HistoryProblem(index, "unreadable", f"{first['msg']}{f' at {at}' if at else ''}")
        cure = "expected what messages_to_json() writes, version 1"
        raise HistoryError([problem], cure=cure) from None


@cache
def _saved() -> TypeAdapter[_Saved]:
    from pydantic import TypeAdapter  # noqa: PLC0415  64 ms that only JSON needs

    return TypeAdapter(_Saved)


# --- Validity --------------------------------------------------------------------------------------------------------


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
    ids = [call.id for call in message.tool_uses]
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
    return tuple(
        block
        for block in message.content
        if isinstance(block, _BELONGS[message.role]) and not (isinstance(block, TextBlock) and not block.text.strip())
    )


def _with_own_ids(blocks: tuple[Block, ...], taken: set[str]) -> tuple[tuple[Block, ...], dict[str, ToolUseBlock]]:
    """Blocks in which no call has an id of `taken`, to which they are added; and the calls by the ids they had."""
    calls: dict[str, ToolUseBlock] = {}
    out: list[Block] = []
    for block in blocks:
        if isinstance(block, ToolUseBlock):
            own = _unique(block.id, taken)
            call = block if own == block.id else dataclasses.replace(block, id=own)
            calls[block.id if block.id not in calls else own] = call
            out.append(call)
        else:
            out.append(block)
    return tuple(out), calls


def _unique(wanted: str, taken: set[str]) -> str:
    """`wanted`, or with a number behind it if it is taken or empty; taken from now on."""
    own, number = wanted or "call", 1
    while own in taken:
        number += 1
        own = f"{wanted or 'call'}_{number}"
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
