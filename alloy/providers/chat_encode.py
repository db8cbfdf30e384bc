"""A request in the words of Chat Completions; pure."""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from pydantic_core import from_json, to_json

from alloy._memo import Growing, Memo
from alloy.errors import ProviderError
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    RawBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
)
from alloy.providers.cache_key import cache_key
from alloy.providers.gemini_schema import gemini_schema
from alloy.providers.options import SchemaMemo, ToolMemo, lesser, tool_options
from alloy.providers.strict_schema import OPENAI, answer_format, strict_schema
from alloy.providers.transcript import ANY_CALL_ID, CallIds, for_origin, is_own

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from alloy.messages import Block, MediaBlock, Message
    from alloy.providers.base import Request, ToolSpec
    from alloy.providers.compat import Compat

__all__ = ["Encoder"]

_CALL_IDS = {
    "any": ANY_CALL_ID,
    "at_most_40": CallIds("(?s:.{1,40})"),
    "alphanumeric_9": CallIds("[A-Za-z0-9]{9}", 9),
}
_AUDIO_FORMATS = {"audio/mpeg": "mp3", "audio/x-wav": "wav", "audio/wave": "wav", "audio/vnd.wave": "wav"}


class _Sent(NamedTuple):
    """One message as it is sent."""

    role: str
    json: bytes


class _Turns:
    """Messages as they are sent, each followed by a comma, and the last one, which may become one with the next."""

    __slots__ = ("done", "held")

    def __init__(self) -> None:
        self.done = bytearray()
        self.held: _Sent | None = None


class Encoder:
    """Makes request bodies for one provider.

    Args:
        compat: what its host wants otherwise.
        origin: the provider's own; a message of another origin loses what only its own can read.
        settings: fields of every request, such as the model.
        keyed: whether requests say which conversation they belong to, for the host's cache.
    """

    def __init__(self, compat: Compat, origin: str, settings: Mapping[str, Any], *, keyed: bool = False) -> None:
        self._compat = compat
        self._origin = origin
        self._settings = settings
        self._keyed = keyed and "prompt_cache_key" not in settings
        self._tools = ToolMemo(lambda tool: _tool(tool, compat))
        self._format = SchemaMemo(lambda schema: {"type": "json_schema", "json_schema": answer_format(schema)})
        self._memo: Memo[tuple[_Sent, ...]] = Memo(self._message, size=lambda sent: sum(len(one.json) for one in sent))
        self._turns = Growing(_Turns, self._add, size=lambda turns: len(turns.done))

    def encode(self, request: Request) -> bytes:
        """The body to send.

        Raises:
            ProviderError: something in it that the API can't take (kind ``invalid_request``).
        """
        fields: dict[str, Any] = dict(self._settings)
        if tools := [*self._tools(request.tools), *fields.get("tools", ())]:
            fields["tools"] = tools
        else:
            for name in ("tools", "tool_choice", "parallel_tool_calls"):
                fields.pop(name, None)
        if request.max_tokens is not None:
            limits = (self._compat.max_tokens, "max_completion_tokens", "max_tokens")
            name = next((name for name in limits if name in fields), limits[0])
            fields[name] = lesser(fields.get(name), request.max_tokens)
        if request.response_schema is not None:
            if not self._compat.response_schema:
                raise _refused("a response_schema")
            fields["response_format"] = self._format(request.response_schema)
        if request.stream:
            fields["stream"] = True
            if self._compat.stream_usage:
                fields["stream_options"] = {"include_usage": True}
        if self._keyed:
            fields["prompt_cache_key"] = cache_key(request)
        turns = self._turns(request.messages)
        sent: list[bytes | bytearray] = [turns.held.json] if turns.held else []
        if request.system and request.system.strip():
            system = _sent({"role": "system", "content": request.system}).json
            sent = [system, b",", turns.done, *sent] if sent else [system]
        else:
            sent = [turns.done, *sent]
        return b"".join((to_json(fields)[:-1], b',"messages":[', *sent, b"]}"))

    def _add(self, turns: _Turns, message: Message) -> None:
        """Adds a message: neighbouring user turns as one, and whatever the host wants between turns."""
        for sent in self._memo(message):
            held = turns.held
            if held and held.role == sent.role == "user":
                turns.held = _merged(held, sent)
                continue
            if held:
                turns.done += held.json + b","
                if self._compat.assistant_after_tool and held.role == "tool" and sent.role == "user":
                    turns.done += _sent({"role": "assistant", "content": "I have the results."}).json + b","
            turns.held = sent

    def _message(self, message: Message) -> tuple[_Sent, ...]:
        own = is_own(message, self._origin)
        message = for_origin(message, self._origin, _CALL_IDS[self._compat.call_ids])
        if message.role == "assistant":
            return tuple(map(_sent, self._assistant(message if own else _as_text(message))))
        return tuple(map(_sent, self._user(message)))

    def _user(self, message: Message) -> Iterator[dict[str, Any]]:
        parts: list[dict[str, Any]] = []
        for block in message.content:
            match block:
                case ToolResultBlock():
                    yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block)}
                    parts += _media_of(block, self._compat)
                case TextBlock(text=text):
                    if text.strip():
                        parts.append({"type": "text", "text": text})
                case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
                    parts.append(_medium(block, self._compat))
                case _:
                    raise _refused(f"a {type(block).__name__} in a user's message")
        if parts:
            yield {"role": "user", "content": _content(parts)}

    def _assistant(self, message: Message) -> Iterator[dict[str, Any]]:
        text = "\n\n".join(b.text for b in message.content if isinstance(b, TextBlock) and b.text.strip())
        sent: dict[str, Any] = {"role": "assistant", "content": text or None}
        _replay(sent, message, self._compat)
        calls = [_call(call) for call in message.tool_uses]
        if calls:
            sent["tool_calls"] = calls
            if self._compat.reasoning_required:
                sent.setdefault("reasoning_content", "")
        if sent["content"] or calls:
            yield sent


def _as_text(message: Message) -> Message:
    """Another model's answer with its media only mentioned, and with names for calls that the API takes."""
    content: list[Block] = []
    for block in message.content:
        match block:
            case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
                content.append(TextBlock(f"({block.type} of type {block.media_type}, made by another model)"))
            case ToolUseBlock(name=name):
                content.append(replace(block, name=re.sub("[^A-Za-z0-9_-]", "_", name)[:64] or "unnamed"))
            case _:
                content.append(block)
    return replace(message, content=tuple(content))


def _call(call: ToolUseBlock) -> dict[str, Any]:
    function = {"name": call.name, "arguments": to_json(call.input, inf_nan_mode="null").decode()}
    return dict(call.extra or {}) | {"id": call.id, "type": "function", "function": function}


def _sent(message: Mapping[str, Any]) -> _Sent:
    return _Sent(message["role"], to_json(message, inf_nan_mode="null"))  # JSON has no NaN, but answers may


def _merged(first: _Sent, second: _Sent) -> _Sent:
    parts = [part for sent in (first, second) for part in _parts(from_json(sent.json)["content"])]
    return _sent({"role": first.role, "content": _content(parts)})


def _parts(content: Any) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _content(parts: Sequence[Mapping[str, Any]]) -> Any:
    """Content without media as plain text, which every host takes."""
    if all(part["type"] == "text" for part in parts):
        return "\n\n".join(part["text"] for part in parts)
    return list(parts)


def _tool(tool: ToolSpec, compat: Compat) -> dict[str, Any]:
    options = tool_options(tool, "chat_completions")
    strict = strict_schema(tool.input_schema, OPENAI) if options.get("strict") else None
    if options.get("strict"):
        options["strict"] = strict is not None
    schema = tool.input_schema if strict is None else strict
    parameters = schema if compat.references else gemini_schema(schema)
    function = {"name": tool.name, "description": tool.description, "parameters": parameters}
    return {"type": "function", "function": function | options}


def _result(block: ToolResultBlock) -> str:
    text = "\n\n".join(part.text for part in block.content if isinstance(part, TextBlock) and part.text.strip())
    media = any(not isinstance(part, TextBlock) for part in block.content)
    text = text or ("(see the attached media)" if media else "(no output)")
    return f"Error: {text}" if block.is_error and not text.lower().startswith("error") else text


def _media_of(result: ToolResultBlock, compat: Compat) -> Iterator[dict[str, Any]]:
    """The media of a result, which the API takes from the user only."""
    media = [part for part in result.content if not isinstance(part, TextBlock)]
    if media:
        yield {"type": "text", "text": f"Attached to the result of {result.name or 'the tool call'}:"}
        yield from (_result_media(block, compat) for block in media)


def _result_media(block: MediaBlock, compat: Compat) -> dict[str, Any]:
    try:
        return _medium(block, compat)
    except ProviderError:
        return {"type": "text", "text": f"({block.type} of type {block.media_type}, which can't be shown here)"}


def _medium(block: MediaBlock, compat: Compat) -> dict[str, Any]:
    if compat.media or (isinstance(block, DocumentBlock) and block.media_type.startswith("text/")):
        return _media(block, compat)
    raise _refused(f"this {block.type}: {compat.name} takes nothing but text")


def _media(block: MediaBlock, compat: Compat) -> dict[str, Any]:
    match block:
        case ImageBlock():
            return {"type": "image_url", "image_url": {"url": _url(block)}}
        case VideoBlock() if compat.video:
            return {"type": "video_url", "video_url": {"url": _url(block)}}
        case VideoBlock():
            raise _refused(f"a video, which {compat.name} doesn't take")
        case AudioBlock(data=bytes(data)):
            kind = _AUDIO_FORMATS.get(block.media_type, block.media_type.partition("/")[2])
            return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}
        case AudioBlock():
            raise _refused("audio by URL; give its bytes")
        case DocumentBlock(data=bytes(data)) if block.media_type.startswith("text/"):
            return {"type": "text", "text": f"{block.name or 'Document'}:\n\n{data.decode(errors='replace')}"}
        case DocumentBlock(data=bytes()):
            return {"type": "file", "file": {"filename": block.name or "document.pdf", "file_data": _url(block)}}
        case DocumentBlock():
            raise _refused("a document by URL; give its bytes")
        case _:
            assert_never(block)


def _url(block: MediaBlock) -> str:
    if block.data is None:
        return block.url or ""
    return f"data:{block.media_type};base64,{base64.b64encode(block.data).decode()}"


def _refused(what: str) -> ProviderError:
    return ProviderError(f"Chat Completions can't be sent {what}", kind="invalid_request")


def _replay(sent: dict[str, Any], message: Message, compat: Compat) -> None:
    """Puts back what the provider itself put into an answer besides text and calls."""
    for block in message.content:
        match block:
            case ThinkingBlock(text=text, extra=extra):
                fields = dict(extra or {})
                field = fields.pop("field", None)
                if field == "content":
                    thinking = {"type": "thinking", "thinking": [{"type": "text", "text": text}]}
                    sent["content"] = [thinking, *(_parts(sent["content"]) if sent["content"] else ())]
                elif field and text:
                    sent[field] = text
                sent.update(fields)
            case TextBlock(extra=extra) if extra and compat.annotations and "annotations" in extra:
                sent["annotations"] = extra["annotations"]
            case RawBlock(kind="message_fields", data=data):
                sent.update(data)
            case _:
                pass
