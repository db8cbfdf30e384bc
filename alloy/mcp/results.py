"""What a tool gives back, from the protocol's words to Alloy's and the other way."""

from __future__ import annotations

import base64
import binascii
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, TypeAlias, assert_never
from urllib.parse import unquote, urlsplit

from mcp import types
from pydantic_core import PydanticSerializationError, to_json, to_jsonable_python

from alloy.messages import AudioBlock, DocumentBlock, ImageBlock, MediaBlock, TextBlock, VideoBlock
from alloy.tools.base import ToolOutput

if TYPE_CHECKING:
    from alloy.result import ToolCall

__all__ = ["call_result", "tool_output"]

_Content: TypeAlias = (
    types.TextContent | types.ImageContent | types.AudioContent | types.ResourceLink | types.EmbeddedResource
)


def tool_output(result: types.CallToolResult) -> ToolOutput:
    """What a server answered, as an output.

    Texts and descriptions of links are the text. Images, sound, films and PDFs are media; other binary resources are only
    described. Structured content is `data`; it is the text, too, where there is no other.
    """
    texts: list[str] = []
    media: list[MediaBlock] = []
    for part in result.content:
        found = _part(part)
        if isinstance(found, str):
            texts.append(found)
        else:
            media.append(found)
    data = result.structured_content
    if data is not None and not any(text.strip() for text in texts):
        texts = [to_json(data).decode()]
    return ToolOutput("\n".join(texts), data=data, media=tuple(media), is_error=result.is_error)


def _part(part: _Content) -> str | MediaBlock:
    match part:
        case types.TextContent():
            return part.text
        case types.ImageContent():
            return _media(part.mime_type, part.data, f"an image of type {part.mime_type}")
        case types.AudioContent():
            return _media(part.mime_type, part.data, f"sound of type {part.mime_type}")
        case types.ResourceLink():
            facts = [part.title or part.name, part.mime_type, part.description]
            return f"[resource {part.uri}: {', '.join(fact for fact in facts if fact)}]"
        case types.EmbeddedResource():
            return _resource(part.resource)
        case _:
            assert_never(part)


def _resource(resource: types.TextResourceContents | types.BlobResourceContents) -> str | MediaBlock:
    if isinstance(resource, types.TextResourceContents):
        return f"[resource {resource.uri}]\n{resource.text}"
    kind = resource.mime_type or "application/octet-stream"
    return _media(kind, resource.blob, f"resource {resource.uri}, of type {kind}", name=_file(resource.uri))


def _media(kind: str, data: str, what: str, *, name: str | None = None) -> str | MediaBlock:
    """The block of this media type; in words, what can't be shown."""
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        return f"[{what}; it can't be read, since it isn't base64]"
    match kind.partition("/")[0].lower():
        case "image":
            return ImageBlock(kind, content)
        case "audio":
            return AudioBlock(kind, content)
        case "video":
            return VideoBlock(kind, content)
        case _:
            pass
    if kind.partition(";")[0].strip().lower() == "application/pdf":
        return DocumentBlock("application/pdf", content, name=name)
    return f"[{what}, {len(content)} bytes; it can't be shown]"


def _file(uri: str) -> str | None:
    try:
        return PurePosixPath(unquote(urlsplit(uri).path)).name or None
    except ValueError:
        return None


def call_result(call: ToolCall) -> types.CallToolResult:
    """The record of a call, for a client.

    An error is a result that says so. `data` that is a JSON object is the structured content.
    """
    content: list[_Content] = [_content(block) for block in call.content]
    return types.CallToolResult(content=content, structured_content=_structured(call.data), is_error=call.is_error)


def _content(block: TextBlock | MediaBlock) -> _Content:
    match block:
        case TextBlock():
            return types.TextContent(text=block.text)
        case ImageBlock(data=bytes() as data):
            return types.ImageContent(data=_base64(data), mime_type=block.media_type)
        case AudioBlock(data=bytes() as data):
            return types.AudioContent(data=_base64(data), mime_type=block.media_type)
        case VideoBlock(data=bytes() as data):
            return _embedded("video", block.media_type, data)
        case DocumentBlock(data=bytes() as data):
            return _embedded(block.name or "document", block.media_type, data)
        case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
            return types.ResourceLink(name=block.type, uri=str(block.url), mime_type=block.media_type)
        case _:
            assert_never(block)


def _embedded(name: str, kind: str, data: bytes) -> types.EmbeddedResource:
    uri = f"attachment:///{name}"
    return types.EmbeddedResource(resource=types.BlobResourceContents(uri=uri, mime_type=kind, blob=_base64(data)))


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _structured(data: Any) -> dict[str, Any] | None:
    if data is None or isinstance(data, str | bytes | bytearray | list | tuple | int | float):
        return None  # what isn't an object was no structured content before 2026-07-28
    try:
        plain = to_jsonable_python(data)
    except (PydanticSerializationError, ValueError):
        return None
    return plain if isinstance(plain, dict) else None
