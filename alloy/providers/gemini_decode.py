"""The answers of Gemini's GenerateContent; pure."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from alloy.errors import ProviderError
from alloy.history import unique_id
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
    ToolUseBlock,
    VideoBlock,
)
from alloy.providers.base import Completion, TextDelta, ThinkingDelta, ToolCallDelta
from alloy.providers.errors import error_from_document
from alloy.providers.gemini_args import Arguments
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from alloy.errors import ErrorKind
    from alloy.messages import Block, MediaBlock
    from alloy.providers.base import Delta
    from alloy.providers.sse import ServerEvent
    from alloy.result import StopReason

__all__ = ["GeminiDecoder", "usage_of"]

_REFUSALS = (
    "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "ESCALATION", "MODEL_ARMOR",
    "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
)  # fmt: skip
_STOP_REASONS: Mapping[str, StopReason] = {
    "STOP": "end_turn",
    "MAX_TOKENS": "max_tokens",
    "TOO_MANY_TOOL_CALLS": "pause_turn",
    "UNEXPECTED_TOOL_CALL": "end_turn",
    **dict.fromkeys(_REFUSALS, "refusal"),
}
_FAILURES: Mapping[str, ErrorKind] = {
    "MALFORMED_FUNCTION_CALL": "server_error",
    "MALFORMED_RESPONSE": "server_error",
    "UNEXPECTED_TOOL_CALL": "server_error",
    "MISSING_THOUGHT_SIGNATURE": "invalid_request",
}
_PROSE = frozenset({"text", "thought"})
_SOURCES = ("groundingMetadata", "urlContextMetadata", "citationMetadata", "logprobsResult")
_MEDIA: Mapping[str, type[MediaBlock]] = {"image": ImageBlock, "audio": AudioBlock, "video": VideoBlock}


class _Prose:
    """Text or thinking while it arrives, in parts that aren't signed."""

    def __init__(self, *, thought: bool) -> None:
        self.thought = thought
        self._pieces: list[str] = []
        self._blank = ""

    def add(self, text: str) -> Sequence[Delta]:
        """Takes a piece; blank ones count only if something follows."""
        if not self._pieces:
            if not text.strip():
                self._blank += text
                return ()
            text = self._blank + text
        self._pieces.append(text)
        return (ThinkingDelta(text) if self.thought else TextDelta(text),)

    @property
    def text(self) -> str:
        """All of it."""
        return "".join(self._pieces)


class _Call:
    """A call while it arrives, which on Vertex AI may be in pieces."""

    def __init__(self, index: int, call_id: str, name: str, extra: dict[str, Any]) -> None:
        self.index = index
        self.id = call_id
        self.name = name
        self.extra = extra
        self.arguments = Arguments()

    def block(self, *, complete: bool) -> ToolUseBlock:
        """The call; arguments that the answer's end cut off are invalid."""
        text = self.arguments.invalid if complete else self.arguments.invalid or to_json(self.arguments.value).decode()
        return ToolUseBlock(self.id, self.name, {} if text else self.arguments.value, text, extra=self.extra)

    def delta(self, arguments: str) -> ToolCallDelta:
        """A piece of it."""
        return ToolCallDelta(self.index, self.id, self.name, arguments)


class GeminiDecoder:
    """Decodes one answer, streamed or whole; see `alloy.providers.decoder.Decoder`.

    Args:
        provider: who answers.
        model: which model was asked.
        origin: the provider's fingerprint.
        taken: the call ids that the history has already.
    """

    done = False  # no event says that it is the last: some answers go on after a finish reason

    def __init__(self, *, provider: str, model: str, origin: str, taken: Iterable[str] = ()) -> None:
        self._provider = provider
        self._model = model
        self._origin = origin
        self._taken = set(taken)
        self._blocks: list[Block] = []
        self._open: _Prose | _Call | None = None
        self._calls = 0
        self._server_calls = 0
        self._finish: str | None = None
        self._detail: str | None = None
        self._block_reason: str | None = None
        self._answered = False
        self._sources: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}

    # --- what the transport calls ------------------------------------------------------------------------------------

    def feed(self, event: ServerEvent) -> Iterable[Delta]:
        """Takes the stream's next event."""
        if event.data.strip():
            return self._chunks(event.json())
        if event.unknown and event.unknown[0].lstrip()[:1] in ("[", "{"):
            return self._chunks(_bare(event.unknown))
        return ()

    def end(self) -> Completion:
        """Takes the stream's end."""
        pending = self._finish == "STOP" and self._blocks and isinstance(self._blocks[-1], ServerToolUseBlock)
        if (self._finish is None and not self._block_reason) or pending:
            raise ProviderError("the stream ended in the middle of the answer", kind="network")
        return self._completion()

    def whole(self, document: Any) -> Completion:
        """Takes an answer that came as one JSON document; a list is a stream's events."""
        for _ in self._chunks(document):
            pass  # nobody watches
        if isinstance(document, list):
            return self.end()
        if not self._answered and not self._block_reason:
            raise ProviderError("the answer has no candidate", kind="server_error")
        return self._completion()

    # --- pieces ------------------------------------------------------------------------------------------------------

    def _chunks(self, document: Any) -> Iterator[Delta]:
        for chunk in document if isinstance(document, list) else (document,):
            if not isinstance(chunk, dict) or chunk.get("error"):
                raise _failed(chunk)
            self._model = str(chunk.get("modelVersion") or self._model).removeprefix("models/")[:200]
            self._usage |= _dict(chunk.get("usageMetadata"))
            if (feedback := _dict(chunk.get("promptFeedback"))).get("blockReason"):
                self._block_reason = str(feedback["blockReason"])
                self._detail = feedback.get("blockReasonMessage") or _blocked(feedback)
            for candidate in _dicts(chunk.get("candidates")):
                if not candidate.get("index"):
                    yield from self._candidate(candidate)

    def _candidate(self, candidate: Mapping[str, Any]) -> Iterator[Delta]:
        self._answered = True
        for part in _dicts(_dict(candidate.get("content")).get("parts")):
            text, prose = part.get("text"), part.keys() <= _PROSE
            if text or not prose:
                self._finish = None  # it wasn't the end yet
                if prose and isinstance(text, str):
                    yield from self._prose(text, thought=bool(part.get("thought")))
                else:
                    yield from self._part(part)
        if candidate.get("finishReason"):
            self._finish = str(candidate["finishReason"])
            yield from self._close(complete=self._finish != "MAX_TOKENS")
            self._detail = candidate.get("finishMessage") or _blocked(candidate)
        for name in _SOURCES:
            if name in candidate and (found := _dict(candidate[name])):
                self._sources[name] = self._sources.get(name, {}) | found

    def _part(self, part: Mapping[str, Any]) -> Iterator[Delta]:
        if isinstance(call := part.get("functionCall"), dict):
            yield from self._call(part, call)
            return
        yield from self._close()
        match part:
            case {"text": str(text)}:
                yield from self._signed(part, text)
            case {"executableCode": dict() as use} | {"toolCall": dict() as use}:
                self._server_calls += 1
                name = "code_execution" if "executableCode" in part else str(use.get("toolType") or "tool").lower()
                use_id = str(use.get("id") or f"{name}_{self._server_calls}")
                given = use if "executableCode" in part else _dict(use.get("args"))
                self._blocks.append(ServerToolUseBlock(use_id, name, given, raw=part))
            case {"codeExecutionResult": dict() as result} | {"toolResponse": dict() as result}:
                self._blocks.append(self._server_result(part, result))
            case {"inlineData": {"data": str(data), **media}} if not part.get("thought"):
                self._medium(str(media.get("mimeType") or ""), part, data=_decoded(data))
            case {"fileData": {"fileUri": str(url), **media}} if not part.get("thought"):
                self._medium(str(media.get("mimeType") or ""), part, url=url)
            case _:
                self._blocks.append(RawBlock("part", part))

    def _prose(self, text: str, *, thought: bool) -> Sequence[Delta]:
        prose = self._open
        if isinstance(prose, _Prose) and prose.thought == thought:
            return prose.add(text)
        ended = tuple(self._close())
        prose = self._open = _Prose(thought=thought)
        return (*ended, *prose.add(text))

    def _signed(self, part: Mapping[str, Any], text: str) -> Iterator[Delta]:
        """Text with a signature, which stays apart from other text; blank text is kept as it came."""
        extra = {name: value for name, value in part.items() if name not in ("text", "thought")}
        if part.get("thought"):
            signature = extra.pop("thoughtSignature", None)
            self._blocks.append(ThinkingBlock(text, signature, extra or None))
            if text:
                yield ThinkingDelta(text)
        elif text.strip():
            self._blocks.append(TextBlock(text, extra))
            yield TextDelta(text)
        else:
            self._blocks.append(RawBlock("part", part))

    def _call(self, part: Mapping[str, Any], piece: Mapping[str, Any]) -> Iterator[Delta]:
        call = self._open
        name = str(piece.get("name") or "")
        if name or not isinstance(call, _Call):
            yield from self._close()
            if not name and not piece.get("args"):
                return  # the end of a call that has ended
            call_id = str(piece.get("id") or "")
            extra = {"id": call_id} if call_id else {}
            call = self._open = _Call(self._calls, unique_id(call_id, self._taken), name or "unnamed", extra)
            self._calls += 1
            if piece.get("willContinue"):
                yield call.delta("")
        call.extra |= {name: value for name, value in part.items() if name not in ("functionCall", "thought")}
        call.arguments.take(piece)
        if not piece.get("willContinue"):
            yield from self._close()

    def _close(self, *, complete: bool = True) -> Iterator[Delta]:
        """Ends what is open: what comes next is another block."""
        match self._open:
            case _Prose(thought=True, text=text) if text:
                self._blocks.append(ThinkingBlock(text))
            case _Prose(thought=False, text=text) if text:
                self._blocks.append(TextBlock(text))
            case _Call() as call:
                block = call.block(complete=complete)
                self._blocks.append(block)
                yield call.delta(to_json(block.input).decode() if block.invalid is None else block.invalid)
            case _:
                pass
        self._open = None

    def _server_result(self, part: Mapping[str, Any], result: Mapping[str, Any]) -> ServerToolResultBlock:
        use = next((block for block in reversed(self._blocks) if isinstance(block, ServerToolUseBlock)), None)
        name = use.name if use else str(result.get("toolType") or "code_execution").lower()
        failed = result.get("outcome") not in (None, "OUTCOME_OK")
        return ServerToolResultBlock(str(result.get("id") or (use.id if use else name)), name, part, failed)

    def _medium(self, media_type: str, part: Mapping[str, Any], **where: Any) -> None:
        kind = _MEDIA.get(media_type.partition("/")[0], DocumentBlock)
        self._blocks.append(kind(media_type or "application/octet-stream", **where))
        fields = {name: value for name, value in part.items() if name not in ("inlineData", "fileData", "thought")}
        if fields:
            self._blocks.append(RawBlock("part_fields", fields))

    # --- the whole ---------------------------------------------------------------------------------------------------

    def _completion(self) -> Completion:
        for _ in self._close():
            pass  # there was no finish reason, so nobody watches
        calls = any(isinstance(block, ToolUseBlock) for block in self._blocks)
        finish = self._finish or "STOP"
        queries = _dict(self._sources.get("groundingMetadata")).get("webSearchQueries") or ()
        usage = usage_of(self._usage, server_tool_calls=self._server_calls or len(queries))
        paid = usage if self._usage else None
        if self._block_reason and not self._blocks:
            said = f"the prompt was blocked: {self._detail or self._block_reason}"
            raise ProviderError(said, kind="refused", code=self._block_reason, usage=paid)
        if finish in _FAILURES and not (finish == "UNEXPECTED_TOOL_CALL" and calls):
            said = self._detail or f"the model broke off: {finish}"
            raise ProviderError(said, kind=_FAILURES[finish], code=finish, usage=paid)
        reason = _STOP_REASONS.get(finish, "unknown")
        message = Message(
            "assistant", self._content(), provider=self._provider, model=self._model, origin=self._origin, usage=usage
        )
        return Completion(
            message=message,
            stop_reason="tool_use" if calls and reason == "end_turn" else reason,
            usage=usage,
            raw_stop_reason=self._finish,
            detail=None if finish == "STOP" else self._detail,
        )

    def _content(self) -> tuple[Block, ...]:
        """The blocks; what the answer rests on is with its last text."""
        last = next((i for i, block in reversed([*enumerate(self._blocks)]) if isinstance(block, TextBlock)), None)
        if last is not None and self._sources:
            text = self._blocks[last]
            if isinstance(text, TextBlock):
                self._blocks[last] = TextBlock(text.text, {**(text.extra or {}), **self._sources})
        return tuple(self._blocks)


def usage_of(raw: Mapping[str, Any], *, server_tool_calls: int = 0) -> Usage:
    """Usage as Alloy counts it.

    The vendor's prompt holds what a cache served, but not what tools of the vendor's own read; its candidates don't hold the
    thoughts.
    """
    prompt, cached, candidates, thoughts, tools = (
        max(0, int(value)) if isinstance(value := raw.get(name), int | float) else 0
        for name in (
            "promptTokenCount",
            "cachedContentTokenCount",
            "candidatesTokenCount",
            "thoughtsTokenCount",
            "toolUsePromptTokenCount",
        )
    )
    return Usage(
        input_tokens=max(0, prompt - cached) + tools,
        cache_read_tokens=cached,
        output_tokens=candidates + thoughts,
        reasoning_tokens=thoughts,
        server_tool_calls=server_tool_calls,
        requests=1,
    )


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _blocked(document: Mapping[str, Any]) -> str | None:
    """The categories for which something was blocked."""
    ratings = [rating for rating in _dicts(document.get("safetyRatings")) if rating.get("blocked")]
    return ", ".join(str(rating.get("category")) for rating in ratings) or None


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        raise ProviderError("the answer holds media that is no base64", kind="server_error") from None


def _bare(lines: Iterable[str]) -> Any:
    """JSON in the place of events, as from a proxy that drops the query."""
    text = "\n".join(lines)
    try:
        return from_json(text)
    except ValueError:
        raise ProviderError(f"the stream holds no events: {text[:80]!r}", kind="network") from None


def _failed(document: Any) -> ProviderError:
    error = error_from_document(document)
    if error.kind == "unknown":
        error.kind = "server_error"  # the request was accepted, so what broke is on their side
    return error
