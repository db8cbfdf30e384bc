"""The answers of OpenAI's Responses API, whole or streamed; pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from alloy.errors import ProviderError
from alloy.history import unique_id
from alloy.messages import Message, ServerToolUseBlock, TextBlock, ThinkingBlock, ToolUseBlock
from alloy.providers.base import Completion, TextDelta, ThinkingDelta, ToolCallDelta
from alloy.providers.errors import error_from_document
from alloy.providers.openai_items import (
    CLIENT_CALLS,
    arguments_text,
    as_dict,
    client_call,
    custom_call,
    dicts,
    function_call,
    is_hosted,
    linked,
    texts,
    thinking,
    vendors_item,
)
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from alloy.messages import Block
    from alloy.providers.base import Delta
    from alloy.providers.sse import ServerEvent
    from alloy.result import StopReason

__all__ = ["ResponsesDecoder", "usage_of"]

_INCOMPLETE: Mapping[str, StopReason] = {
    "content_filter": "refusal",
    "max_messages": "max_tokens",
    "max_output_tokens": "max_tokens",
    "steered": "pause_turn",
}
_TERMINAL = frozenset({"response.cancelled", "response.completed", "response.failed", "response.incomplete"})


@dataclass(slots=True, eq=False)
class _Item:
    """An output item while it arrives.

    Attributes:
        index: its place in the output.
        fields: what is known of it.
        done: whether that is all.
        call_id: the id that a call of ours gets.
        call: which call of ours it is, from 0.
        pieces: its text or arguments, as streamed.
        held: blanks that aren't shown until something follows them.
        part: which part of the thinking was shown last.
    """

    index: int
    fields: Mapping[str, Any]
    done: bool = False
    call_id: str = ""
    call: int | None = None
    pieces: list[str] = field(default_factory=list)
    held: str = ""
    part: tuple[str, Any] | None = None

    @property
    def type(self) -> str:
        """The vendor's name for what it is."""
        return str(self.fields.get("type") or "")

    def whole(self) -> Mapping[str, Any]:
        """The item; put together from its pieces where the server never said that it was done."""
        text = "".join(self.pieces)
        if self.done or not text:
            return self.fields
        if self.type == "message":
            return {**self.fields, "content": [{"type": "output_text", "text": text, "annotations": []}]}
        return {**self.fields, "arguments": text} if self.type == "function_call" else self.fields


class ResponsesDecoder:
    """Decodes one answer, streamed or whole; see `alloy.providers.decoder.Decoder`.

    Args:
        provider: who answers.
        model: which model was asked.
        origin: the provider's fingerprint.
        taken: the call ids that the history has already.
        custom: the custom tools that the application runs, each with the argument that its text becomes.
    """

    def __init__(
        self,
        *,
        provider: str,
        model: str,
        origin: str,
        taken: Iterable[str] = (),
        custom: Mapping[str, str] | None = None,
    ) -> None:
        self.done = False
        self._provider = provider
        self._model = model
        self._origin = origin
        self._taken = set(taken)
        self._custom = custom or {}
        self._response: Mapping[str, Any] = {}
        self._items: list[_Item] = []
        self._by_index: dict[int, _Item] = {}
        self._by_id: dict[str, _Item] = {}
        self._calls = 0

    # --- what the transport calls ------------------------------------------------------------------------------------

    def feed(self, event: ServerEvent) -> Iterable[Delta]:
        """Takes the stream's next event."""
        data = event.data.strip()
        if self.done or not data or data == "[DONE]":
            return ()
        document = event.json()
        if not isinstance(document, dict):
            raise _failed(document)
        kind = document.get("type") or ("error" if document.get("error") else event.event)
        if kind == "response.output_text.delta":  # nearly every event
            return self._said(self._item(document), str(document.get("delta") or ""))
        if kind == "error":
            raise _failed(document)
        return self._event(str(kind), document)

    def end(self) -> Completion:
        """Takes the stream's end."""
        if not self.done:
            raise ProviderError("the stream ended in the middle of the answer", kind="network")
        return self._completion()

    def whole(self, document: Any) -> Completion:
        """Takes an answer that came as one JSON document."""
        if not isinstance(document, dict) or ("output" not in document and "status" not in document):
            raise _failed(document)
        for _ in self._finish(document):
            pass  # nobody watches
        return self._completion()

    def _event(self, kind: str, document: Mapping[str, Any]) -> Iterator[Delta]:
        text = str(document.get("delta") or "")
        match kind:
            case "response.output_item.added":
                yield from self._begin(document.get("output_index"), as_dict(document.get("item")))
            case "response.output_item.done":
                yield from self._complete(document)
            case "response.refusal.delta":
                yield from self._said(self._item(document), text)
            case "response.reasoning_summary_text.delta":
                yield from self._thought(self._item(document), text, ("summary", document.get("summary_index")))
            case "response.reasoning_text.delta":
                yield from self._thought(self._item(document), text, ("content", document.get("content_index")))
            case "response.function_call_arguments.delta":
                yield from self._argued(self._item(document), text)
            case _ if kind in _TERMINAL:
                status = kind.removeprefix("response.")
                yield from self._finish({"status": status} | as_dict(document.get("response")))
                self.done = True
            case _:
                return  # whatever it tells is in the items, too

    # --- items -------------------------------------------------------------------------------------------------------

    def _begin(self, index: Any, fields: Mapping[str, Any]) -> Iterator[Delta]:
        item = _Item(index if isinstance(index, int) else len(self._items), fields)
        self._items.append(item)
        self._by_index[item.index] = item
        if fields.get("id"):
            self._by_id[str(fields["id"])] = item
        if item.type == "function_call" and fields.get("call_id") and fields.get("name"):
            self._number(item)
            yield ToolCallDelta(item.call or 0, item.call_id, str(fields["name"]), "")

    def _number(self, item: _Item) -> None:
        """Gives a call of ours its number and its id, once."""
        if item.call is None:
            item.call = self._calls
            item.call_id = unique_id(str(item.fields.get("call_id") or item.fields.get("id") or ""), self._taken)
            self._calls += 1

    def _item(self, document: Mapping[str, Any]) -> _Item | None:
        """The item that an event belongs to: by its place, else by its id, else the latest."""
        index = document.get("output_index")
        if isinstance(index, int) and (found := self._by_index.get(index)):
            return found
        by_id = self._by_id.get(str(document.get("item_id") or as_dict(document.get("item")).get("id") or ""))
        return by_id or (self._items[-1] if self._items and index is None else None)

    def _complete(self, document: Mapping[str, Any]) -> Iterator[Delta]:
        fields, item = as_dict(document.get("item")), self._item(document)
        if item is None or (item.done and item.fields.get("id") != fields.get("id")):
            yield from self._begin(document.get("output_index"), fields)
            item = self._items[-1]
        yield from self._end(item, fields)

    def _end(self, item: _Item, fields: Mapping[str, Any]) -> Iterator[Delta]:
        """All of an item; what of it wasn't streamed is shown now."""
        if not item.done:
            item.fields, item.done = fields, True
            if not item.pieces:
                yield from self._unstreamed(item)

    def _unstreamed(self, item: _Item) -> Iterator[Delta]:
        for block in self._blocks(item):
            match block:
                case TextBlock(text=text):
                    yield TextDelta(text)
                case ThinkingBlock(text=text) if text:
                    yield ThinkingDelta(text)
                case ToolUseBlock():
                    arguments = arguments_text(item.fields) or to_json(block.input).decode()
                    yield ToolCallDelta(item.call or 0, block.id, block.name, arguments)
                case _:
                    pass

    def _finish(self, response: Mapping[str, Any]) -> Iterator[Delta]:
        """The end of the answer, with all of its items or, from some, with none."""
        _check_status(response)
        self._response = response
        self._model = str(response.get("model") or self._model)[:200]
        for index, fields in enumerate(dicts(response.get("output"))):
            item = self._by_index.get(index)
            if item is None or item.type != fields.get("type"):
                item = self._by_id.get(str(fields.get("id") or ""))
            if item is None:
                yield from self._begin(index, fields)
                item = self._items[-1]
            yield from self._end(item, fields)

    # --- pieces ------------------------------------------------------------------------------------------------------

    def _said(self, item: _Item | None, text: str) -> Sequence[Delta]:
        """Text; blanks are held back until something follows them, since a blank text is none."""
        if item is None:
            raise ProviderError("a text in the stream belongs to no item", kind="server_error")
        if not item.pieces:
            text = item.held + text
            if not text.strip():
                item.held = text
                return ()
        if not text:
            return ()
        item.pieces.append(text)
        return (TextDelta(text),)

    def _thought(self, item: _Item | None, text: str, part: tuple[str, Any]) -> Iterator[Delta]:
        if item is None or not text:
            return
        if item.part not in (None, part):
            text = "\n\n" + text
        item.part = part
        item.pieces.append(text)
        yield ThinkingDelta(text)

    def _argued(self, item: _Item | None, text: str) -> Iterator[Delta]:
        if item is not None and item.call is not None and text:
            item.pieces.append(text)
            yield ToolCallDelta(item.call, item.call_id, str(item.fields["name"]), text)

    # --- the answer --------------------------------------------------------------------------------------------------

    def _completion(self) -> Completion:
        items = sorted(self._items, key=lambda item: item.index)
        answered = {item.fields.get("call_id") for item in items if item.type.endswith("_output")}
        blocks = [block for item in items for block in self._blocks(item, answered)]
        counted = sum(isinstance(block, ServerToolUseBlock) for block in blocks)
        usage = usage_of(as_dict(self._response.get("usage")), server_tool_calls=counted)
        reason = as_dict(self._response.get("incomplete_details")).get("reason")
        refusal = "".join(_refusals(items))
        message = Message(
            "assistant",
            tuple(linked(blocks)),
            provider=self._provider,
            model=self._model,
            origin=self._origin,
            usage=usage,
        )
        return Completion(
            message=message,
            stop_reason=self._stop_reason(message, refused=bool(refusal)),
            usage=usage,
            raw_stop_reason=str(reason or self._response.get("status") or "completed"),
            detail=refusal or None,
        )

    def _stop_reason(self, message: Message, *, refused: bool) -> StopReason:
        if self._response.get("status") == "incomplete":
            reason = as_dict(self._response.get("incomplete_details")).get("reason")
            return _INCOMPLETE.get(str(reason), "unknown")
        if message.tool_uses:
            return "tool_use"
        return "refusal" if refused else "end_turn"

    def _blocks(self, item: _Item, answered: Iterable[Any] = ()) -> Iterator[Block]:
        fields, kind = item.whole(), item.type
        if kind == "message":
            yield from texts(fields)
        elif kind == "reasoning":
            yield thinking(fields)
        elif kind == "function_call":
            self._number(item)
            yield function_call(fields, item.call_id)
        elif kind == "custom_tool_call" and fields.get("name") in self._custom:
            self._number(item)
            yield custom_call(fields, item.call_id, self._custom[str(fields["name"])])
        elif kind in CLIENT_CALLS and not is_hosted(fields) and fields.get("call_id") not in answered:
            self._number(item)
            yield client_call(fields, item.call_id)
        else:
            yield from vendors_item(fields, kind)


def _refusals(items: Iterable[_Item]) -> Iterator[str]:
    for item in items:
        if item.type == "message":
            yield from (str(part.get("refusal") or "") for part in dicts(item.whole().get("content")))


def _check_status(response: Mapping[str, Any]) -> None:
    status = response.get("status")
    if response.get("error") or status == "failed":
        error = _failed({"error": response.get("error")})
        if usage := as_dict(response.get("usage")):
            error.usage = usage_of(usage)
        raise error
    if status in ("queued", "in_progress"):
        raise ProviderError(
            f"the answer isn't there yet (it is {status}): it runs in the background, which only a stream can wait for",
            kind="invalid_request",
            code=str(status),
        )
    if status not in (None, "completed", "incomplete"):
        raise ProviderError(f"the answer has the status {status!r}", code=str(status))


def usage_of(raw: Mapping[str, Any], *, server_tool_calls: int = 0) -> Usage:
    """Usage as Alloy counts it: the API's input tokens include those that a cache served or took.

    Args:
        raw: what the vendor reports.
        server_tool_calls: how many the answer shows, for vendors that don't count them.
    """
    inside, outside = as_dict(raw.get("input_tokens_details")), as_dict(raw.get("output_tokens_details"))
    gross, output = _count(raw, "input_tokens"), _count(raw, "output_tokens")
    read, written = _count(inside, "cached_tokens"), _count(inside, "cache_write_tokens")
    return Usage(
        input_tokens=max(0, gross - read - written),
        cache_read_tokens=read,
        cache_write_tokens=written,
        output_tokens=output,
        reasoning_tokens=min(_count(outside, "reasoning_tokens"), output),
        server_tool_calls=_count(raw, "num_server_side_tools_used") or server_tool_calls,
        requests=1,
    )


def _failed(document: Any) -> ProviderError:
    if isinstance(document, dict) and document.get("type") == "error":
        document = {name: value for name, value in document.items() if name != "type"}
    error = error_from_document(document)
    if error.kind == "unknown":  # the request was accepted, so what broke is theirs, unless it is an image of ours
        error.kind = "invalid_request" if "image" in (error.code or "") else "server_error"
    return error


def _count(raw: Mapping[str, Any], name: str) -> int:
    value = raw.get(name)
    return max(0, int(value)) if isinstance(value, int | float) else 0
