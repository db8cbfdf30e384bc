"""The answers of Anthropic's Messages API; pure.

Source: Anthropic's API reference, "Messages" and "Streaming Messages".
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from alloy.errors import ProviderError
from alloy.history import unique_id
from alloy.messages import (
    Message,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from alloy.providers.anthropic_encode import CONTAINER
from alloy.providers.base import Completion, TextDelta, ThinkingDelta, ToolCallDelta
from alloy.providers.errors import error_from_document
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from alloy.messages import Block
    from alloy.providers.base import Delta
    from alloy.providers.sse import ServerEvent
    from alloy.result import StopReason

__all__ = ["AnthropicDecoder", "usage_of"]

_STOP_REASONS: Mapping[str, StopReason] = {
    "compaction": "pause_turn",  # it goes on from the summary when it gets that back
    "end_turn": "end_turn",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "context_window",
    "pause_turn": "pause_turn",
    "refusal": "refusal",
    "stop_sequence": "stop_sequence",
    "tool_use": "tool_use",
}
_STATUSES = {
    "api_error": 500,
    "authentication_error": 401,
    "billing_error": 402,
    "invalid_request_error": 400,
    "not_found_error": 404,
    "overloaded_error": 529,
    "permission_error": 403,
    "rate_limit_error": 429,
    "request_too_large": 413,
    "timeout_error": 504,
}
"""What an error has for a status where it comes alone; inside a stream the status was 200."""


@dataclass(slots=True)
class _Part:
    """A block while it arrives.

    Attributes:
        block: the vendor's block, without what is below.
        pieces: of its text, its thinking, or the text of its arguments.
        blank: its text, as long as that is blank.
        call: which call of ours it is, from 0, and its id in the history.
    """

    block: dict[str, Any]
    pieces: list[str] = field(default_factory=list)
    blank: str = ""
    call: tuple[int, str] | None = None


class AnthropicDecoder:
    """Decodes one answer, streamed or whole; see `alloy.providers.http.Decoder`.

    Args:
        provider: who answers.
        model: which model was asked.
        origin: the provider's fingerprint.
        taken: the call ids that the history has already.
    """

    def __init__(self, *, provider: str, model: str, origin: str, taken: Iterable[str] = ()) -> None:
        self.done = False
        self._provider = provider
        self._model = model
        self._origin = origin
        self._taken = set(taken)
        self._parts: list[_Part] = []
        self._by_index: dict[int, _Part] = {}
        self._calls = 0
        self._usage: dict[str, Any] = {}
        self._stop: str | None = None
        self._details: Mapping[str, Any] = {}
        self._container: Mapping[str, Any] = {}

    # --- what the transport calls ------------------------------------------------------------------------------------

    def feed(self, event: ServerEvent) -> Iterable[Delta]:
        """Takes the stream's next event."""
        data = event.data.strip()
        if self.done or not data or data == "[DONE]":  # other hosts send that after the end
            return ()
        document = event.json()
        if not isinstance(document, dict) or event.event == "error":
            raise _failed(document)
        if document.get("type") == "content_block_delta":  # nearly every event
            return self._grow(document.get("index"), _dict(document.get("delta")))
        return self._event(document)

    def _event(self, document: Mapping[str, Any]) -> Iterator[Delta]:
        match document.get("type"):
            case "message_start":
                message = _dict(document.get("message"))
                self._take(message)
                for index, block in enumerate(_dicts(message.get("content"))):
                    yield from self._begin(index, block)
            case "content_block_start":
                yield from self._begin(document.get("index"), _dict(document.get("content_block")))
            case "message_delta":
                self._take(_dict(document.get("delta")) | {"usage": document.get("usage")})
            case "message_stop":
                self.done = True
            case "error":
                raise _failed(document)
            case _:
                pass  # pings, the ends of blocks, and what the API may add: its versioning policy has clients ignore that

    def end(self) -> Completion:
        """Takes the stream's end."""
        if not self.done:
            raise ProviderError("the stream ended in the middle of the answer", kind="network")
        return self._completion()

    def whole(self, document: Any) -> Completion:
        """Takes an answer that came as one JSON document."""
        if not isinstance(document, dict) or not isinstance(document.get("content"), list):
            raise _failed(document)
        self._take(document)
        for index, block in enumerate(_dicts(document["content"])):
            for _ in self._begin(index, block):
                pass  # nobody watches
        return self._completion()

    # --- pieces ------------------------------------------------------------------------------------------------------

    def _take(self, message: Mapping[str, Any]) -> None:
        """Takes what is said of the whole message; counts are totals so far, so the latest ones count."""
        self._model = str(message.get("model") or self._model)[:200]
        self._usage |= {name: value for name, value in _dict(message.get("usage")).items() if value is not None}
        self._stop = str(message.get("stop_reason") or "") or self._stop
        self._details = _dict(message.get("stop_details")) or self._details
        self._container = _dict(message.get("container")) or self._container

    def _begin(self, index: Any, block: Mapping[str, Any]) -> Iterator[Delta]:
        part = _Part(dict(block))
        self._parts.append(part)
        self._by_index[_index(index)] = part
        match block.get("type"):
            case "text":
                yield from self._said(part, str(part.block.pop("text", None) or ""))
            case "thinking":
                yield from self._thought(part, str(part.block.pop("thinking", None) or ""))
            case "tool_use":
                call_id = unique_id(str(block.get("id") or ""), self._taken)
                part.call = (self._calls, call_id)
                self._calls += 1
                yield ToolCallDelta(part.call[0], call_id, str(block.get("name") or ""), "")
            case _:
                pass

    def _grow(self, index: Any, delta: dict[str, Any]) -> Sequence[Delta]:
        part = self._by_index.get(_index(index))
        if part is None:
            raise ProviderError("the stream holds a piece of a block that never began", kind="server_error")
        kind, block = delta.get("type"), part.block.get("type")
        if kind == "text_delta" and block == "text" and isinstance(text := delta.get("text"), str):
            return self._said(part, text)
        if kind == "thinking_delta" and block == "thinking" and isinstance(text := delta.get("thinking"), str):
            return self._thought(part, text)
        match delta:
            case {"type": "signature_delta", "signature": signature}:
                part.block["signature"] = signature
            case {"type": "citations_delta", "citation": citation}:
                _merge(part.block, {"citations": [citation]})
            case {"type": "input_json_delta", "partial_json": str(text)}:
                part.pieces.append(text)
                if part.call and text:
                    return (ToolCallDelta(*part.call, str(part.block.get("name") or ""), text),)
            case _:
                _merge(part.block, delta)
        return ()

    def _said(self, part: _Part, text: str) -> Sequence[Delta]:
        """Text; blanks are held back until something follows them, since the API takes no blank text back."""
        if not part.pieces:
            text = part.blank + text
            if not text.strip():
                part.blank = text
                return ()
        if not text:
            return ()
        part.pieces.append(text)
        return (TextDelta(text),)

    def _thought(self, part: _Part, text: str) -> Sequence[Delta]:
        if not text:
            return ()
        part.pieces.append(text)
        return (ThinkingDelta(text),)

    # --- the whole ---------------------------------------------------------------------------------------------------

    def _completion(self) -> Completion:
        content = tuple(block for part in self._parts if (block := _block(part)) is not None)
        if self._container:
            content = (*content, RawBlock(CONTAINER, self._container))
        usage = usage_of(self._usage, server_calls=sum(isinstance(block, ServerToolUseBlock) for block in content))
        message = Message(
            "assistant", content, provider=self._provider, model=self._model, origin=self._origin, usage=usage
        )
        stop = _STOP_REASONS.get(self._stop or "", "unknown")
        said = [str(self._details[name]) for name in ("category", "explanation") if self._details.get(name)]
        return Completion(
            message=message,
            stop_reason="tool_use" if stop == "end_turn" and message.tool_uses else stop,
            usage=usage,
            raw_stop_reason=self._stop,
            detail=": ".join(said) or None,
        )


def usage_of(raw: Mapping[str, Any], *, server_calls: int = 0) -> Usage:
    """Usage as Alloy counts it; the API's input tokens leave out what a cache served or took.

    Args:
        raw: what the API reports. Its totals leave out what a compaction on its side took, so that is added; what it says
            of another model's part is left where it is, since that has another price.
        server_calls: the vendor's calls in the answer, since the API counts only those that cost extra.
    """
    compactions = [one for one in _dicts(raw.get("iterations")) if one.get("type") == "compaction"]
    usage = sum((_tokens(one) for one in compactions), start=_tokens(raw))
    counted = sum(map(_count, _dict(raw.get("server_tool_use")).values()))
    return replace(usage, server_tool_calls=max(server_calls, counted), requests=1)


def _tokens(raw: Mapping[str, Any]) -> Usage:
    output = _count(raw.get("output_tokens"))
    thinking = _count(_dict(raw.get("output_tokens_details")).get("thinking_tokens"))
    return Usage(
        input_tokens=_count(raw.get("input_tokens")),
        cache_read_tokens=_count(raw.get("cache_read_input_tokens")),
        cache_write_tokens=_count(raw.get("cache_creation_input_tokens")),
        output_tokens=output,
        reasoning_tokens=min(thinking, output),
    )


def _block(part: _Part) -> Block | None:
    block, text = part.block, "".join(part.pieces)
    match block:
        case {"type": "text"}:
            return TextBlock(text, extra=_extra(block)) if text else None
        case {"type": "thinking"}:
            signature = str(block.get("signature") or "") or None
            return ThinkingBlock(text, signature, _extra(block, "signature"))
        case {"type": "tool_use"} if part.call:
            value, invalid = _arguments(block.get("input"), text)
            name = str(block.get("name") or "unnamed")
            return ToolUseBlock(part.call[1], name, value, invalid, extra=_extra(block, "id", "name", "input"))
        case {"type": str(kind), "id": str(call_id), "name": str(name)} if kind.endswith("_tool_use"):
            value, _ = _arguments(block.get("input"), text)
            return ServerToolUseBlock(call_id, name, value, block | {"input": value})
        case {"type": str(kind), "tool_use_id": str(call_id)} if kind.endswith("_tool_result"):
            name = kind.removesuffix("_tool_result")
            return ServerToolResultBlock(call_id, name, block, is_error=_is_error(block))
        case _:
            return RawBlock(str(block.get("type") or "unknown"), block)


def _extra(block: Mapping[str, Any], *known: str) -> dict[str, Any] | None:
    """What of a block Alloy has no name for, such as citations or who called a tool."""
    return {name: value for name, value in block.items() if name not in ("type", *known) and value} or None


def _arguments(given: Any, streamed: str) -> tuple[dict[str, Any], str | None]:
    """A call's arguments, and their text where they are no JSON object."""
    if not streamed.strip():
        return (given, None) if isinstance(given, dict) else ({}, None if given is None else to_json(given).decode())
    try:
        value = from_json(streamed)
    except ValueError:
        return {}, streamed
    return (value, None) if isinstance(value, dict) else ({}, streamed)


def _is_error(block: Mapping[str, Any]) -> bool:
    kind = str(_dict(block.get("content")).get("type") or "")
    return bool(block.get("is_error")) or kind.endswith("_error")


def _merge(block: dict[str, Any], delta: Mapping[str, Any]) -> None:
    """Adds a piece: text to text, lists to lists, anything else as it is."""
    for name, value in delta.items():
        old = block.get(name)
        if name == "type":
            continue
        if (isinstance(old, str) and isinstance(value, str)) or (isinstance(old, list) and isinstance(value, list)):
            block[name] = old + value  # type: ignore[operator]  # both are text, or both lists
        elif value is not None:
            block[name] = value


def _failed(document: Any) -> ProviderError:
    error = error_from_document(document)
    status = _STATUSES.get(error.code or "")
    if status and error.status is None:
        error = error_from_document(document, status=status)
    if error.kind == "unknown":
        error.kind = "server_error"  # the request was accepted, so what broke is on their side
    error.request_id = (
        str(document["request_id"]) if isinstance(document, dict) and document.get("request_id") else None
    )
    return error


def _index(value: Any) -> int:
    """Which block is meant; the latest one where a host doesn't number them."""
    return value if isinstance(value, int) else -1


def _count(value: Any) -> int:
    return max(0, int(value)) if isinstance(value, int | float) and math.isfinite(value) else 0


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())
