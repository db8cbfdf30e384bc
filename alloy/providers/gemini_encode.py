"""A request in the words of Gemini's GenerateContent; pure."""

from __future__ import annotations

import base64
import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias, assert_never

from pydantic_core import to_json

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
from alloy.providers.gemini_schema import gemini_schema
from alloy.providers.options import SchemaMemo, ToolMemo, lesser, tool_options
from alloy.providers.transcript import for_origin

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from alloy.messages import Block, MediaBlock, Message
    from alloy.providers.base import Request, ToolSpec

__all__ = ["NO_SIGNATURE", "Encoder", "answer_format", "is_old", "over"]

NO_SIGNATURE = "skip_thought_signature_validator"
"""What a call that no Gemini model wrote has for a signature (Google's page on thought signatures)."""

_NESTABLE = frozenset({"image/png", "image/jpeg", "image/webp", "application/pdf", "text/plain"})
"""Media that a tool's result can hold, since Gemini 3."""

_Turn: TypeAlias = Literal["user", "results", "model"]


class _Result(NamedTuple):
    """A tool's result, but for the name and id, which are those of its call."""

    call_id: str
    name: str
    rest: bytes


class _Sent(NamedTuple):
    """One message as it is sent: its results, its other parts, and what each of its calls is called."""

    turn: _Turn
    results: tuple[_Result, ...]
    parts: tuple[bytes, ...]
    calls: tuple[tuple[str, bytes], ...] = ()

    @property
    def size(self) -> int:
        """How much it is, in bytes."""
        return sum(map(len, self.parts)) + sum(len(result.rest) for result in self.results)


class _Turns:
    """Turns as they are sent, each followed by a comma, and the last one, which may go on; and what each call is called."""

    __slots__ = ("calls", "done", "last", "parts")

    def __init__(self) -> None:
        self.done = bytearray()
        self.last: _Turn = "user"
        self.parts: list[bytes] = []
        self.calls: dict[str, bytes] = {}

    @property
    def open(self) -> bytes:
        """The last one, if there is any."""
        role = b"model" if self.last == "model" else b"user"
        return b'{"role":"' + role + b'","parts":[' + b",".join(self.parts) + b"]}" if self.parts else b""


class Encoder:
    """Makes request bodies for one provider.

    Args:
        origin: the provider's own; a message of another origin loses what only its own can read.
        model: the model's name, which tells what it takes.
        settings: fields of every request; ``toolConfig`` is sent with tools of ours only.
        server_tools: tools that the vendor runs, as its reference has them.
        extra: further fields, which win over all others; objects are merged.
        combine: whether the endpoint wants to be told that tools of both kinds are used.
    """

    def __init__(
        self,
        *,
        origin: str,
        model: str,
        settings: Mapping[str, Any],
        server_tools: Sequence[Mapping[str, Any]] = (),
        extra: Mapping[str, Any] | None = None,
        combine: bool = True,
    ) -> None:
        self._origin = origin
        self._old = is_old(model)
        self._settings = settings
        self._server_tools = list(server_tools)
        self._extra = extra or {}
        self._combine = combine and not self._old
        self._memo = Memo(self._message, size=lambda sent: sent.size)
        self._turns = Growing(_Turns, self._add, size=lambda turns: len(turns.done))
        self._declarations = ToolMemo(_declaration)
        self._format = SchemaMemo(answer_format)

    def encode(self, request: Request) -> bytes:
        """The body to send.

        Raises:
            ProviderError: something in it that the API can't take (kind ``invalid_request``).
        """
        fields = over(self._fields(request), self._extra)
        if request.max_tokens is not None:
            generation = fields.get("generationConfig") or {}
            limit = lesser(generation.get("maxOutputTokens"), request.max_tokens)
            fields["generationConfig"] = {**generation, "maxOutputTokens": limit}
        turns = self._turns(request.messages)
        # after a pause; a conversation must end with the user
        end = b',{"role":"user","parts":[{"text":"Continue."}]}]' if turns.last == "model" else b"]"
        rest = b"," + to_json(fields)[1:] if fields else b"}"
        return b"".join((b'{"contents":[', turns.done, turns.open, end, rest))

    # --- everything but the conversation -----------------------------------------------------------------------------

    def _fields(self, request: Request) -> dict[str, Any]:
        fields = dict(self._settings)
        if request.system and request.system.strip():
            fields["systemInstruction"] = {"parts": [{"text": request.system}]}
        if request.response_schema is not None:
            fields["generationConfig"] = fields.get("generationConfig", {}) | self._format(request.response_schema)
        tools = list(self._server_tools)
        if request.tools:
            tools.append({"functionDeclarations": self._declarations(request.tools)})
            config = dict(fields.get("toolConfig", {}))
            if not config and any(tool_options(tool, "gemini").get("strict") for tool in request.tools):
                config["functionCallingConfig"] = {"mode": "VALIDATED"}
            if self._server_tools and self._combine:
                config["includeServerSideToolInvocations"] = True
            if config:
                fields["toolConfig"] = config
        else:
            fields.pop("toolConfig", None)
        if tools:
            fields["tools"] = tools
        return fields

    # --- the conversation --------------------------------------------------------------------------------------------

    def _add(self, turns: _Turns, message: Message) -> None:
        """Adds a message: neighbours of one side become one, but results stay apart from what else the user says."""
        sent = self._memo(message)
        turns.calls.update(sent.calls)
        results = [_response(result, turns.calls.get(result.call_id)) for result in sent.results]
        pieces: tuple[tuple[_Turn, Sequence[bytes]], ...] = (("results", results), (sent.turn, sent.parts))
        for turn, parts in pieces:
            if not parts:
                continue
            if turn != turns.last and turns.parts:
                turns.done += turns.open + b","
                turns.parts = []
            turns.last = turn
            turns.parts += parts

    def _message(self, message: Message) -> _Sent:
        message = for_origin(message, self._origin)
        return self._model(message) if message.role == "assistant" else self._user(message)

    def _user(self, message: Message) -> _Sent:
        results: list[_Result] = []
        parts: list[dict[str, Any]] = []
        for block in message.content:
            match block:
                case ToolResultBlock():
                    nested, apart = self._media(block)
                    results.append(_result(block, nested, apart=bool(apart)))
                    if apart:
                        parts.append({"text": f"Attached to the result of {block.name or 'the tool'}:"})
                        parts += map(_medium, apart)
                case TextBlock(text=text):
                    if text.strip():
                        parts.append({"text": text})
                case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
                    parts.append(_medium(block))
                case _:
                    raise _refused(f"a {type(block).__name__} in a user's message")
        return _Sent("user", tuple(results), tuple(map(to_json, parts)))

    def _media(self, result: ToolResultBlock) -> tuple[list[MediaBlock], list[MediaBlock]]:
        """The media of a result that go inside it, and those that have to follow it."""
        media = [block for block in result.content if not isinstance(block, TextBlock)]
        inside = [b for b in media if not self._old and b.data is not None and b.media_type in _NESTABLE]
        return inside, [block for block in media if block not in inside]

    def _model(self, message: Message) -> _Sent:
        parts: list[dict[str, Any]] = []
        calls: list[tuple[str, bytes]] = []
        for block in message.content:
            match block:
                case ToolUseBlock():
                    parts.append(_call(block, first=not calls))
                    named = {name: value for name, value in parts[-1]["functionCall"].items() if name != "args"}
                    calls.append((block.id, _json(named)[1:-1]))
                case RawBlock(kind="part_fields", data=data) if parts:
                    parts[-1] |= data
                case _:
                    parts += _part(block)
        return _Sent("model", (), tuple(map(_json, parts)), tuple(calls))


def _json(value: Mapping[str, Any]) -> bytes:
    return to_json(value, inf_nan_mode="null")  # JSON has no NaN, but answers may


def answer_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What of the generation's settings makes the answer keep to a schema."""
    return {"responseMimeType": "application/json", "responseJsonSchema": gemini_schema(schema)}


def is_old(model: str) -> bool:
    """Whether a model is of before Gemini 3."""
    return re.search(r"gemini-[12](?!\d)", model) is not None


def over(fields: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The fields with others over them; where both have an object, its members are merged."""
    merged = dict(fields)
    for name, value in extra.items():
        both = isinstance(value, dict) and isinstance(merged.get(name), dict)
        merged[name] = merged[name] | value if both else value
    return merged


def _declaration(tool: ToolSpec) -> dict[str, Any]:
    options = {name: value for name, value in tool_options(tool, "gemini").items() if name != "strict"}
    declaration = {"name": tool.name, "description": tool.description}
    return declaration | {"parametersJsonSchema": gemini_schema(tool.input_schema)} | options


def _part(block: Block) -> Iterator[dict[str, Any]]:
    """A block of an answer as its part, if it is one."""
    match block:
        case TextBlock(text=text, extra=extra):
            if text.strip():
                yield {"text": text} | _signed(extra)
        case ThinkingBlock(text=text, signature=signature, extra=extra):
            if text or signature:
                signed = {"thoughtSignature": signature} if signature else {}
                yield {"text": text, "thought": True} | signed | dict(extra or {})
        case ServerToolUseBlock(raw=raw) | ServerToolResultBlock(raw=raw) | RawBlock(kind="part", data=raw):
            yield dict(raw)
        case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
            yield _medium(block)
        case RawBlock():
            pass  # no part of its own
        case ToolUseBlock() | ToolResultBlock():
            raise _refused(f"a {type(block).__name__} in an assistant's message")
        case _:
            assert_never(block)


def _signed(extra: Mapping[str, Any] | None) -> dict[str, Any]:
    signature = (extra or {}).get("thoughtSignature")
    return {"thoughtSignature": signature} if signature else {}


def _call(block: ToolUseBlock, *, first: bool) -> dict[str, Any]:
    """A call. One of our own provider has the id that it came with, if any; the first of a step must be signed."""
    call_id = block.id if block.extra is None else block.extra.get("id")
    call = {"name": block.name, "args": dict(block.input)}
    part = {"functionCall": call | ({"id": call_id} if call_id else {})} | _signed(block.extra)
    return part | ({"thoughtSignature": NO_SIGNATURE} if first and "thoughtSignature" not in part else {})


def _result(block: ToolResultBlock, nested: Sequence[MediaBlock], *, apart: bool) -> _Result:
    text = "\n\n".join(part.text for part in block.content if isinstance(part, TextBlock) and part.text.strip())
    if not text and (apart or block.is_error or not nested):
        text = "(see the attached media)" if apart or nested else "(no output)"
    response = {"error" if block.is_error else "output": text} if text else {}
    rest: dict[str, Any] = {"response": response}
    if nested:
        rest["parts"] = list(map(_medium, nested))
    return _Result(block.tool_use_id, block.name, to_json(rest)[1:-1])


def _response(result: _Result, call: bytes | None) -> bytes:
    named = call if call is not None else to_json({"name": result.name or "unknown", "id": result.call_id})[1:-1]
    return b'{"functionResponse":{' + named + b"," + result.rest + b"}}"


def _medium(block: MediaBlock) -> dict[str, Any]:
    if block.data is not None:
        return {"inlineData": {"mimeType": block.media_type, "data": base64.b64encode(block.data).decode()}}
    typed = {} if block.media_type.endswith("/*") else {"mimeType": block.media_type}
    return {"fileData": {"fileUri": block.url} | typed}


def _refused(what: str) -> ProviderError:
    return ProviderError(f"Gemini can't be sent {what}", kind="invalid_request")
