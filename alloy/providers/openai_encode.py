"""A request in the words of OpenAI's Responses API; pure."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from pydantic_core import from_json, to_json

from alloy._memo import Growing, Memo
from alloy.errors import ProviderError
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
from alloy.providers.cache_key import cache_key
from alloy.providers.openai_items import CLIENT_CALLS
from alloy.providers.options import SchemaMemo, ToolMemo, lesser, named_tool, tool_options
from alloy.providers.strict_schema import OPENAI, answer_format, strict_schema
from alloy.providers.transcript import CallIds, for_origin, is_own

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from alloy.messages import MediaBlock, Message, ResultContent
    from alloy.providers.base import Request, ToolSpec

__all__ = ["CALL_IDS", "Encoder", "custom_tools"]

CALL_IDS = CallIds("[A-Za-z0-9_:-]{1,64}")
"""What the API takes as a ``call_id``: at most 64 characters; a colon was seen, other signs weren't."""

_AUDIO_FORMATS = {"audio/mpeg": "mp3", "audio/x-wav": "wav", "audio/wave": "wav", "audio/vnd.wave": "wav"}
_OUTPUTS = {"function_call": "function_call_output", "custom_tool_call": "custom_tool_call_output"}


class _Sent(NamedTuple):
    """One input item as it is sent.

    Attributes:
        json: the item; for a result, as if it answered a plain function call.
        call: the call's id and item, where its result must be another kind of item.
        result: the tool result that it is.
    """

    json: bytes
    call: tuple[str, Mapping[str, Any]] | None = None
    result: ToolResultBlock | None = None


class _Items:
    """Input items as they are sent, and the calls among them whose results must be another kind of item."""

    __slots__ = ("calls", "done")

    def __init__(self) -> None:
        self.done = bytearray()
        self.calls: dict[str, Mapping[str, Any]] = {}


class Encoder:
    """Makes request bodies for one provider.

    Args:
        origin: the provider's own; a message of another origin loses what only its own can read.
        settings: fields of every request, such as the model.
        vendor: the key of a tool's options for this vendor alone.
        reasons: whether the model takes reasoning items.
        keyed: whether requests say which conversation they belong to, for the vendor's cache.
    """

    def __init__(self, origin: str, settings: Mapping[str, Any], vendor: str, *, reasons: bool, keyed: bool) -> None:
        self._origin = origin
        self._settings = settings
        self._tools = ToolMemo(lambda tool: _tool(tool, vendor))
        self._format = SchemaMemo(lambda schema: {"type": "json_schema"} | answer_format(schema))
        self._reasons = reasons
        self._keyed = keyed and "prompt_cache_key" not in settings
        self._stored = bool(settings.get("store"))
        self._memo: Memo[tuple[_Sent, ...]] = Memo(self._message, size=lambda sent: sum(len(one.json) for one in sent))
        self._items = Growing(_Items, self._add, size=lambda items: len(items.done))

    def encode(self, request: Request) -> bytes:
        """The body to send.

        Raises:
            ProviderError: something in it that the API can't take (kind ``invalid_request``).
        """
        fields = self._fields(request)
        return b"".join((to_json(fields)[:-1], b',"input":[', self._items(request.messages).done, b"]}"))

    def _add(self, items: _Items, message: Message) -> None:
        """Adds a message."""
        for sent in self._memo(message):
            if sent.call:
                items.calls[sent.call[0]] = sent.call[1]
            answered = items.calls.get(sent.result.tool_use_id) if sent.result else None
            if items.done:
                items.done += b","
            items.done += sent.json if not (answered and sent.result) else _json(_output(sent.result, answered))

    def _fields(self, request: Request) -> dict[str, Any]:
        """Everything but the conversation."""
        fields: dict[str, Any] = dict(self._settings)
        if tools := [*self._tools(request.tools), *fields.get("tools", ())]:
            fields["tools"] = tools
            if name := named_tool(fields.get("tool_choice")):
                custom = any(tool["type"] == "custom" and tool.get("name") == name for tool in tools)
                fields["tool_choice"] = {"type": "custom" if custom else "function", "name": name}
        else:
            for name in ("tools", "tool_choice", "parallel_tool_calls"):
                fields.pop(name, None)
        if request.response_schema is not None:
            fields["text"] = {**fields.get("text", {}), "format": self._format(request.response_schema)}
        if request.system and request.system.strip():
            fields["instructions"] = request.system
        if self._keyed:
            fields["prompt_cache_key"] = cache_key(request)
        if request.max_tokens is not None:
            fields["max_output_tokens"] = lesser(fields.get("max_output_tokens"), request.max_tokens)
        if request.stream:
            fields["stream"] = True
        return fields

    def _message(self, message: Message) -> tuple[_Sent, ...]:
        if message.role == "user":
            return tuple(_user(for_origin(message, self._origin, CALL_IDS)))
        own = is_own(message, self._origin)
        if own and not self._reasons and any(isinstance(block, ThinkingBlock) for block in message.content):
            return tuple(_assistant(for_origin(message, "", CALL_IDS), own=False, stored=False))
        return tuple(_assistant(for_origin(message, self._origin, CALL_IDS), own=own, stored=self._stored))


def custom_tools(request: Request, vendor: str) -> dict[str, str]:
    """The custom tools that the application runs, each with the one argument that its text becomes."""
    return {
        tool.name: next(iter(tool.input_schema.get("properties", ())), "input")
        for tool in request.tools
        if tool_options(tool, vendor).get("type") == "custom"
    }


def _tool(tool: ToolSpec, vendor: str) -> dict[str, Any]:
    """A tool; one of a type of the vendor's is nothing but its options."""
    options = tool_options(tool, vendor)
    match options.get("type", "function"):
        case "function":
            schema = strict_schema(tool.input_schema, OPENAI) if options.get("strict") else None
            described = {"name": tool.name, "description": tool.description, "parameters": schema or tool.input_schema}
            # Left out, strict means true, and the API changes the schema.
            return {"type": "function"} | described | options | {"strict": schema is not None}
        case "custom":
            return {"name": tool.name, "description": tool.description} | dict(tool.options[vendor])
        case _:
            return dict(tool.options[vendor])


# --- Answers ---------------------------------------------------------------------------------------------------------


def _assistant(message: Message, *, own: bool, stored: bool) -> Iterator[_Sent]:
    items: list[tuple[dict[str, Any], str | None]] = []
    for block in message.content:
        match block:
            case TextBlock():
                _add_text(items, block, own=own)
            case ToolUseBlock():
                items.append((_call(block, own=own), block.id))
            case ThinkingBlock() if own and (reasoning := _reasoning(block, stored=stored)):
                items.append((reasoning, None))
            case ServerToolUseBlock(raw=item) | ServerToolResultBlock(raw=item) | RawBlock(data=item) if own:
                items.append((dict(item), None))
            case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock() if not own:
                made = TextBlock(f"({block.type} of type {block.media_type}, made by another model)")
                _add_text(items, made, own=False)
            case _:
                pass  # media of an answer of its own stand in another item, and reasoning that nobody can read goes
    while items and items[-1][0].get("type") == "reasoning":
        items.pop()  # it must be followed by what it led to
    for item, call_id in items:
        special = call_id is not None and (item["type"] != "function_call" or "caller" in item)
        yield _Sent(_json(item), call=(call_id, item) if special and call_id is not None else None)


def _add_text(items: list[tuple[dict[str, Any], str | None]], block: TextBlock, *, own: bool) -> None:
    """The text as a message of its own, or as the next part of the message before it."""
    extra = (block.extra or {}) if own else {}
    part = dict(extra.get("part") or {"type": "output_text", "annotations": []})
    part["refusal" if part.get("type") == "refusal" else "text"] = block.text
    last = items[-1][0] if items else {}
    if "part" in extra and "item" not in extra and last.get("type") == "message":
        last["content"].append(part)
    elif block.text.strip():
        head = extra.get("item") or {"type": "message", "role": "assistant"}
        items.append(({**head, "content": [part]}, None))


def _json(value: Mapping[str, Any]) -> bytes:
    return to_json(value, inf_nan_mode="null")  # JSON has no NaN, but answers may


def _call(call: ToolUseBlock, *, own: bool) -> dict[str, Any]:
    item = dict((call.extra or {}).get("item") or {}) if own else {}
    kind = item.get("type", "function_call")
    if kind == "custom_tool_call":
        return item | {"call_id": call.id, "name": call.name, "input": next(iter(call.input.values()), "")}
    if kind in CLIENT_CALLS:
        return item | {"call_id": call.id, CLIENT_CALLS[kind]: call.input}
    written = item.pop("arguments", None)
    arguments = written if written and from_json(written) == call.input else _json(call.input).decode()
    name = call.name if own else re.sub("[^A-Za-z0-9_-]", "_", call.name)[:64] or "unnamed"
    return item | {"type": "function_call", "call_id": call.id, "name": name, "arguments": arguments}


def _reasoning(block: ThinkingBlock, *, stored: bool) -> dict[str, Any] | None:
    """The reasoning item, if whoever reads it can: encrypted, in plain, or by its id where answers are stored."""
    item = dict((block.extra or {}).get("item") or {})
    if block.signature is not None and item:
        item["encrypted_content"] = block.signature
    return item if block.signature is not None or item.get("content") or stored else None


# --- The user's turn -------------------------------------------------------------------------------------------------


def _user(message: Message) -> Iterator[_Sent]:
    parts: list[dict[str, Any]] = []
    for block in message.content:
        match block:
            case ToolResultBlock():
                yield _Sent(to_json(_output(block)), result=block)
            case TextBlock(text=text):
                if text.strip():
                    parts.append(_text(text))
            case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
                parts.append(_media(block))
            case _:
                raise _refused(f"a {type(block).__name__} in a user's message")
    if parts:
        yield _Sent(to_json({"type": "message", "role": "user", "content": parts}))


def _output(result: ToolResultBlock, call: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What answers a call; each kind of call has its own kind of answer."""
    kind = call["type"] if call else "function_call"
    item: dict[str, Any] = {"type": _OUTPUTS.get(kind, f"{kind}_output"), "call_id": result.tool_use_id}
    match kind:
        case "shell_call":
            code = {"type": "exit", "exit_code": 1 if result.is_error else 0}
            streams = (
                {"stdout": "", "stderr": _plain(result)}
                if result.is_error
                else {"stdout": _plain(result), "stderr": ""}
            )
            return item | {"output": [streams | {"outcome": code}]}
        case "apply_patch_call":
            return item | {"status": "failed" if result.is_error else "completed", "output": _plain(result)}
        case "local_shell_call":
            return item | {"output": _plain(result)}
        case _:
            caller = {"caller": call["caller"]} if call and "caller" in call else {}
            return item | {"output": _result(result)} | caller


def _plain(result: ToolResultBlock) -> str:
    return "\n\n".join(part["text"] for part in map(_result_part, result.content) if "text" in part) or "(no output)"


def _result(result: ToolResultBlock) -> Any:
    """Text as text, which every host takes, and media among it as parts."""
    parts = [_result_part(part) for part in result.content]
    if all("text" in part for part in parts):
        text = _plain(result)
        return f"Error: {text}" if result.is_error and not text.lower().startswith("error") else text
    return [_text("Error:"), *parts] if result.is_error else parts


def _result_part(part: ResultContent) -> dict[str, Any]:
    match part:
        case TextBlock(text=text):
            return _text(text if text.strip() else "(blank)")
        case ImageBlock() | DocumentBlock():
            return _media(part)
        case AudioBlock() | VideoBlock():
            return _text(f"({part.type} of type {part.media_type}, which can't be shown here)")
        case _:
            assert_never(part)


def _text(text: str) -> dict[str, Any]:
    return {"type": "input_text", "text": text}


def _media(block: MediaBlock) -> dict[str, Any]:
    match block:
        case ImageBlock():
            return {"type": "input_image", "image_url": _url(block)}
        case AudioBlock(data=bytes(data)):
            kind = _AUDIO_FORMATS.get(block.media_type, block.media_type.partition("/")[2])
            return {"type": "input_audio", "input_audio": {"data": base64.b64encode(data).decode(), "format": kind}}
        case AudioBlock():
            raise _refused("audio by URL; give its bytes")
        case VideoBlock():
            raise _refused("a video")
        case DocumentBlock(data=bytes(data)) if block.media_type.startswith("text/"):
            return _text(f"{block.name or 'Document'}:\n\n{data.decode(errors='replace')}")
        case DocumentBlock(data=bytes()):
            return {"type": "input_file", "filename": block.name or "document.pdf", "file_data": _url(block)}
        case DocumentBlock():
            return {"type": "input_file", "file_url": _url(block)}
        case _:
            assert_never(block)


def _url(block: MediaBlock) -> str:
    if block.data is None:
        return block.url or ""
    return f"data:{block.media_type};base64,{base64.b64encode(block.data).decode()}"


def _refused(what: str) -> ProviderError:
    return ProviderError(f"the Responses API can't be sent {what}", kind="invalid_request")
