"""Messages and their content blocks, and their JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence  # noqa: TC003  pydantic reads the annotations
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

from alloy._quick import quick
from alloy.errors import HistoryError, HistoryProblem, InvalidOptionError
from alloy.usage import Usage  # noqa: TC001  pydantic reads the annotations

if TYPE_CHECKING:
    from pydantic import TypeAdapter

__all__ = [
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
    "messages_from_json",
    "messages_to_json",
]


_BYTES_AS_BASE64 = {"ser_json_bytes": "base64", "val_json_bytes": "base64"}


class _ByType:
    """Tells pydantic that a union is told apart by `type`, without importing pydantic for it."""

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic import Discriminator  # noqa: PLC0415  64 ms that only JSON needs

        return handler.generate_schema(Annotated[source, Discriminator("type")])


_BY_TYPE = _ByType()


@quick
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


@quick
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


@quick
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


@quick
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


@quick
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
        return tuple([block for block in self.content if isinstance(block, ToolUseBlock)])

    @property
    def tool_results(self) -> tuple[ToolResultBlock, ...]:
        """The results that it brings."""
        return tuple([block for block in self.content if isinstance(block, ToolResultBlock)])


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
