"""The answers of Chat Completions, from whoever sends them; pure."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from alloy.errors import ProviderError
from alloy.history import unique_id
from alloy.messages import (
    AudioBlock,
    ImageBlock,
    Message,
    RawBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)
from alloy.providers.base import Completion, TextDelta, ThinkingDelta, ToolCallDelta
from alloy.providers.errors import error_from_document
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from alloy.errors import ErrorKind
    from alloy.messages import Block
    from alloy.providers.base import Delta
    from alloy.providers.sse import ServerEvent
    from alloy.result import StopReason

__all__ = ["ChatDecoder", "usage_of"]

_STOP_REASONS: Mapping[str, StopReason] = {
    "content_filter": "refusal",
    "content_filtered": "refusal",
    "end_turn": "end_turn",
    "eos": "end_turn",
    "function_call": "tool_use",
    "length": "max_tokens",
    "max_output_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "model_context_window_exceeded": "context_window",
    "model_length": "context_window",
    "refusal": "refusal",
    "sensitive": "refusal",
    "stop": "end_turn",
    "stop_sequence": "stop_sequence",
    "tool_call": "tool_use",
    "tool_calls": "tool_use",
    "tool_use": "tool_use",
}
_FAILURES = frozenset({"error", "insufficient_system_resource", "network_error"})
_PLAIN = frozenset({"content", "role"})
_KEPT_FIELDS = ("extra_content", "thought_signature")
_CALL_FIELDS = frozenset({"id", "type", "index", "function"})
_LOOKED_AT = 16 * 1024 * 1024
"""How many characters of a call's arguments are looked at, all in all, to see whether they are whole."""


@dataclass(slots=True, eq=False)
class _Call:
    """A tool call while it arrives; `position` says which of the answer it is, from 0."""

    position: int
    wire_id: str = ""
    id: str = ""
    name: str = ""
    pieces: list[str] = field(default_factory=list)
    length: int = 0
    looked_at: int = 0
    extra: dict[str, Any] = field(default_factory=dict)

    def is_followed_by(self, call_id: str, name: str) -> bool:
        """Whether a piece with this call's index begins another call: some hosts number all calls 0."""
        if not (name and call_id and self.wire_id) or call_id == self.wire_id:
            return False
        if name != self.name:
            return True
        self.looked_at += self.length
        return self.length > 0 and self.looked_at <= _LOOKED_AT and _object("".join(self.pieces)) is not None

    def add(self, arguments: str) -> None:
        """Takes a piece of the arguments."""
        self.pieces.append(arguments)
        self.length += len(arguments)

    def block(self, taken: set[str]) -> ToolUseBlock:
        """The call, now that all of it is here."""
        call_id = self.id or unique_id("", taken)
        text = "".join(self.pieces)
        arguments = {} if text.strip() == "null" else _object(text)
        invalid = text if arguments is None else None
        return ToolUseBlock(call_id, self.name or "unnamed", arguments or {}, invalid, extra=self.extra or None)


@dataclass(slots=True, eq=False)
class _Detail:
    """An entry of OpenRouter's ``reasoning_details`` while it arrives."""

    fields: dict[str, Any] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def add(self, piece: Mapping[str, Any]) -> None:
        """Takes a piece: texts grow, everything else is replaced."""
        for name, value in piece.items():
            if name in ("text", "summary") and isinstance(value, str):
                self.texts.setdefault(name, []).append(value)
                self.fields[name] = ""
            elif value is not None:
                self.fields[name] = value
            else:
                self.fields.setdefault(name)

    def whole(self) -> dict[str, Any]:
        """The entry, now that all of it is here."""
        return self.fields | {name: "".join(pieces) for name, pieces in self.texts.items()}


class ChatDecoder:
    """Decodes one answer, streamed or whole; see `alloy.providers.decoder.Decoder`.

    Args:
        provider: who answers.
        model: which model was asked.
        origin: the provider's fingerprint.
        taken: the call ids that the history has already.
        usage_due: whether usage was asked for, so that a stream without it was cut.
        audio_type: the media type of audio that was asked for.
    """

    def __init__(
        self,
        *,
        provider: str,
        model: str,
        origin: str,
        taken: Iterable[str] = (),
        usage_due: bool = False,
        audio_type: str = "audio/wav",
    ) -> None:
        self.done = False
        self._provider = provider
        self._model = model
        self._origin = origin
        self._taken = set(taken)
        self._usage_due = usage_due
        self._audio_type = audio_type
        self._choice: Any = None
        self._finish: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._blank: list[str] = []
        self._text: list[str] = []
        self._refusal: list[str] = []
        self._thinking: list[str] = []
        self._thinking_field: str | None = None
        self._details: list[_Detail] = []
        self._calls: list[_Call] = []
        self._by_index: dict[Any, _Call] = {}
        self._text_extra: dict[str, Any] = {}
        self._fields: dict[str, Any] = {}
        self._audio: list[str] = []
        self._images: list[ImageBlock] = []
        self._executed: dict[Any, Mapping[str, Any]] = {}

    # --- what the transport calls ------------------------------------------------------------------------------------

    def feed(self, event: ServerEvent) -> Iterable[Delta]:
        """Takes the stream's next event."""
        if self.done:
            return ()
        for line in event.unknown:
            _raise_stray_error(line)
        data = event.data.strip()
        if data == "[DONE]":
            self.done = True
        elif data:
            chunk = event.json()
            if event.event == "error" or not isinstance(chunk, dict):
                raise _failed(chunk)
            return self._chunk(chunk)
        return ()

    def end(self) -> Completion:
        """Takes the stream's end."""
        if not self.done:
            if self._finish is None:
                raise ProviderError("the stream ended in the middle of the answer", kind="network")
            if self._usage is None and self._usage_due:
                raise ProviderError("the stream ended before its usage", kind="network")
        return self._completion()

    def whole(self, document: Any) -> Completion:
        """Takes an answer that came as one JSON document."""
        if not isinstance(document, dict) or document.get("error") or not document.get("choices"):
            raise _failed(document, status=200)
        choice = next(_dicts(document["choices"]), {})
        message = _dict(choice.get("message"))
        calls = [call | {"index": index} for index, call in enumerate(_dicts(message.get("tool_calls")))]
        self._chunk(document | {"choices": [choice | {"delta": message | {"tool_calls": calls}}]})
        return self._completion()

    # --- pieces ------------------------------------------------------------------------------------------------------

    def _chunk(self, chunk: Mapping[str, Any]) -> Sequence[Delta]:
        if chunk.get("error") or chunk.get("object") == "error" or chunk.get("type") == "error":
            raise _failed(chunk)
        self._model = str(chunk.get("model") or self._model)[:200]
        if groq := _dict(chunk.get("x_groq")):
            if groq.get("error"):
                raise _failed(groq)
            self._take_usage(groq.get("usage"))
        self._take_usage(chunk.get("usage"))
        for name in ("citations", "search_results"):
            if chunk.get(name):
                self._text_extra[name] = chunk[name]
        deltas: list[Delta] = []
        for choice in _dicts(chunk.get("choices")):
            deltas += self._take_choice(choice)
        return deltas

    def _take_choice(self, choice: Mapping[str, Any]) -> Iterable[Delta]:
        index = choice.get("index") or 0
        self._choice = index if self._choice is None else self._choice
        if index != self._choice:
            return ()
        finish = choice.get("finish_reason")
        if choice.get("error") and finish in (None, "", "error"):
            raise _failed(choice)
        self._take_usage(choice.get("usage"))
        self._finish = finish or self._finish
        delta = _dict(choice.get("delta") or (not (self._text or self._calls) and choice.get("message")))
        content = delta.get("content")
        if isinstance(content, str) and (len(delta) == 1 or delta.keys() <= _PLAIN):  # nearly every chunk
            return self._said(content)
        return self._delta(delta)

    def _take_usage(self, usage: Any) -> None:
        if isinstance(usage, dict) and usage:
            self._usage = usage

    def _delta(self, delta: Mapping[str, Any]) -> Iterator[Delta]:
        yield from self._reasoning(delta)
        content = delta.get("content")
        if isinstance(content, str):
            yield from self._said(content)
        elif isinstance(content, list):
            for part in content:
                yield from self._part(part)
        if isinstance(refusal := delta.get("refusal"), str) and refusal:
            self._refusal.append(refusal)
            yield from self._said(refusal)
        for call in _dicts(delta.get("tool_calls")):
            yield from self._call(call)
        legacy = delta.get("function_call")
        if isinstance(legacy, dict) and (legacy.get("name") or self._calls):
            yield from self._call({"index": "function_call", "function": legacy})
        yield from self._extras(delta)

    def _said(self, text: str) -> Sequence[Delta]:
        """Text; blanks are held back until something follows them, since a blank text is none."""
        if not self._text:
            if not text.strip():
                self._blank.append(text)
                return ()
            text = "".join((*self._blank, text))
        self._text.append(text)
        return (TextDelta(text),) if text else ()

    def _thought(self, text: str, name: str) -> Iterator[Delta]:
        if text:
            self._thinking_field = self._thinking_field or name
            self._thinking.append(text)
            yield ThinkingDelta(text)

    def _part(self, part: Any) -> Iterator[Delta]:
        """A part of content that is a list, as Mistral's."""
        match part:
            case {"type": "thinking", "thinking": str(text)}:
                yield from self._thought(text, "content")
            case {"type": "thinking", "thinking": [*pieces]}:
                yield from self._thought("".join(str(piece.get("text") or "") for piece in _dicts(pieces)), "content")
            case {"text": str(text)}:
                yield from self._said(text)
            case {"type": "image_url"}:
                self._image(part)
            case _:
                self._text_extra.setdefault("parts", []).append(part)  # such as Mistral's references

    def _reasoning(self, delta: Mapping[str, Any]) -> Iterator[Delta]:
        details = list(_dicts(delta.get("reasoning_details")))
        for detail in details:
            _merge_detail(self._details, detail)
        for name in ("reasoning_content", "reasoning"):
            if isinstance(text := delta.get(name), str) and text:
                yield from self._thought(text, name)
                return
        for detail in details:
            yield from self._thought(str(detail.get("text") or detail.get("summary") or ""), "")

    def _call(self, piece: Mapping[str, Any]) -> Iterator[Delta]:
        function = _dict(piece.get("function"))
        call_id, name = str(piece.get("id") or ""), str(function.get("name") or "")
        call = self._call_for(piece.get("index"), call_id, name)
        if call_id and not call.wire_id:
            call.wire_id = call_id
            call.id = unique_id(call_id, self._taken)
        call.name = call.name or name
        arguments = function.get("arguments")
        if isinstance(arguments, dict | list):
            arguments = to_json(arguments).decode()
        arguments = str(arguments or "")
        call.add(arguments)
        call.extra |= {key: value for key, value in piece.items() if key not in _CALL_FIELDS and value is not None}
        yield ToolCallDelta(call.position, call.id, call.name, arguments)

    def _call_for(self, index: Any, call_id: str, name: str) -> _Call:
        """The call that a piece belongs to: by its index if there is one, else by its id, else the latest."""
        call: _Call | None
        if index is not None:
            call = self._by_index.get(index)
            if call is not None and call.is_followed_by(call_id, name):
                call = None
        elif call_id:
            call = next((call for call in self._calls if call.wire_id == call_id), None)
        else:
            call = self._calls[-1] if self._calls and not name else None
        if call is None:
            call = _Call(len(self._calls))
            self._calls.append(call)
        if index is not None:
            self._by_index[index] = call
        return call

    def _extras(self, delta: Mapping[str, Any]) -> Iterator[Delta]:
        """What only some hosts have."""
        audio = _dict(delta.get("audio"))
        if isinstance(data := audio.get("data"), str) and data:
            self._audio.append(data)
        if isinstance(transcript := audio.get("transcript"), str):
            yield from self._said(transcript)
        for image in _dicts(delta.get("images")):
            self._image(image)
        if delta.get("annotations"):
            self._text_extra.setdefault("annotations", []).extend(_dicts(delta["annotations"]))
        for tool in _dicts(delta.get("executed_tools")):
            self._executed[tool.get("index", len(self._executed))] = tool
        self._fields |= {name: delta[name] for name in _KEPT_FIELDS if delta.get(name)}

    def _image(self, image: Mapping[str, Any]) -> None:
        url = str(_dict(image.get("image_url")).get("url") or "")
        head, _, data = url.partition(",")
        if head.startswith("data:"):
            self._images.append(ImageBlock(head[5:].partition(";")[0], _decoded(data)))
        elif url:
            self._images.append(ImageBlock("image/*", url=url))

    # --- the whole ---------------------------------------------------------------------------------------------------

    def _completion(self) -> Completion:
        usage = usage_of(self._usage or {}, server_tool_calls=len(self._executed))
        if self._finish in _FAILURES:
            kind: ErrorKind = "overloaded" if self._finish == "insufficient_system_resource" else "server_error"
            said, paid = f"the host broke the answer off: {self._finish}", usage if self._usage else None
            raise ProviderError(said, kind=kind, code=self._finish, usage=paid)
        content = tuple(self._blocks())
        message = Message(
            "assistant", content, provider=self._provider, model=self._model, origin=self._origin, usage=usage
        )
        return Completion(
            message=message,
            stop_reason=self._stop_reason(calls=bool(message.tool_uses)),
            usage=usage,
            raw_stop_reason=self._finish,
            detail="".join(self._refusal) or None,
        )

    def _stop_reason(self, *, calls: bool) -> StopReason:
        reason = _STOP_REASONS.get(self._finish or "stop", "unknown")
        match reason:
            case "end_turn" if self._refusal:
                return "refusal"
            case "end_turn" if calls:
                return "tool_use"
            case "tool_use" if not calls:
                return "end_turn"
            case _:
                return reason

    def _blocks(self) -> Iterator[Block]:
        if self._thinking or self._details:
            extra: dict[str, Any] = {"field": self._thinking_field} if self._thinking_field else {}
            if self._details:
                extra["reasoning_details"] = [detail.whole() for detail in self._details]
            yield ThinkingBlock("".join(self._thinking), extra=extra or None)
        for number, tool in enumerate(self._executed.values()):
            arguments = _object(str(tool.get("arguments") or "")) or {}
            yield ServerToolUseBlock(f"executed_{number}", str(tool.get("type") or "tool"), arguments, raw=tool)
        if self._text:
            yield TextBlock("".join(self._text), extra=self._text_extra or None)
        yield from self._images
        if self._audio:
            yield AudioBlock(self._audio_type, b"".join(map(_decoded, self._audio)))
        for call in self._calls:
            if call.name or call.length:
                yield call.block(self._taken)
        if self._fields:
            yield RawBlock("message_fields", self._fields)


def usage_of(raw: Mapping[str, Any], *, server_tool_calls: int = 0) -> Usage:
    """Usage as Alloy counts it, from what any host reports.

    Most count cached tokens in the prompt and reasoning in the completion. Whoever doesn't is known by its total: xAI leaves
    reasoning out of the completion, Google the thoughts that it doesn't mention otherwise.
    """
    prompt, completion, total = (_count(raw, name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    inside, outside = _dict(raw.get("prompt_tokens_details")), _dict(raw.get("completion_tokens_details"))
    cached = ("prompt_cache_hit_tokens", "cache_read_input_tokens", "cached_tokens", "num_cached_tokens")
    read = _count(inside, "cached_tokens") or next((n for name in cached if (n := _count(raw, name))), 0)
    written = _count(inside, "cache_write_tokens") or _count(raw, "cache_creation_input_tokens")
    reasoning = _count(outside, "reasoning_tokens") or _count(raw, "reasoning_tokens")
    missing = total - prompt - completion
    if missing > 0 and missing == read + written:
        prompt += missing
    elif missing > 0 and reasoning in (0, missing):
        completion += missing
        reasoning = missing
    return Usage(
        input_tokens=prompt - read - written if read + written <= prompt else prompt,
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_tokens=completion,
        reasoning_tokens=min(reasoning, completion),
        server_tool_calls=server_tool_calls or _count(raw, "num_search_queries"),
        requests=1,
    )


def _count(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    return max(0, int(value)) if isinstance(value, int | float) else 0


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is, if it is one; no text at all is an empty object."""
    if not text.strip():
        return {}
    try:
        value = from_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        raise ProviderError("the answer holds media that is no base64", kind="server_error") from None


def _merge_detail(details: list[_Detail], piece: dict[str, Any]) -> None:
    """Adds a piece of OpenRouter's ``reasoning_details``; the pieces of one entry follow each other."""
    last = details[-1].fields if details else {}
    same = last.get("type") == piece.get("type") and last.get("index") == piece.get("index")
    if not same or piece.get("type") == "reasoning.encrypted":
        details.append(_Detail())
    details[-1].add(piece)


def _raise_stray_error(line: str) -> None:
    """Some hosts put an error into a stream as a line that is no event."""
    name, _, value = line.partition(":")
    if name == "error" or line.startswith("{"):
        text = value if name == "error" else line
        document = _object(text)
        if name == "error" or (document and (document.get("error") or document.get("detail"))):
            raise _failed(document or text)


def _failed(document: Any, *, status: int | None = None) -> ProviderError:
    error = error_from_document(document, status=status)
    if error.kind == "unknown":
        error.kind = "server_error"  # the request was accepted, so what broke is on their side
    return error
