"""What the benchmarks' server says: the same answer in four wire formats, streamed or whole, as the vendors shape it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["FORMATS", "Answer", "Format", "word"]

_ID = "06c839edbdd88254016a3c11a88b2c819088dec76bd24ec72b"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model says.

    Attributes:
        deltas: in how many pieces of text.
        call: the number of the tool call that it makes, if it makes one.
    """

    deltas: int
    call: int | None = None

    @property
    def words(self) -> Iterator[str]:
        """The pieces of text."""
        return map(word, range(self.deltas))

    @property
    def call_id(self) -> str:
        """The call's id."""
        return f"call_{self.call}"

    @property
    def arguments(self) -> str:
        """The call's arguments."""
        return json.dumps({"city": f"City {self.call}"})


def word(number: int) -> str:
    """The piece of text with this number."""
    return f" word{number}"


@dataclass(frozen=True, slots=True)
class Format:
    """A wire format.

    Attributes:
        path: how its requests' paths end.
        result: what stands in a request once for each tool result.
        events: an answer as a stream's events.
        document: an answer as one document.
    """

    path: str
    result: bytes
    events: Callable[[Answer], Iterator[bytes]]
    document: Callable[[Answer], dict[str, Any]]


def _event(document: dict[str, Any], *, named: bool = True) -> bytes:
    data = b"data: " + json.dumps(document, separators=(",", ":")).encode() + b"\n\n"
    return b"event: " + document["type"].encode() + b"\n" + data if named else data


# --- Anthropic Messages ----------------------------------------------------------------------------------------------


def _messages_document(answer: Answer) -> dict[str, Any]:
    text = "".join(answer.words)
    content: list[dict[str, Any]] = [{"type": "text", "text": text}] if text else []
    if answer.call is not None:
        arguments = json.loads(answer.arguments)
        content.append({"type": "tool_use", "id": answer.call_id, "name": "weather", "input": arguments})
    return {
        "id": f"msg_{_ID}",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": content,
        "stop_reason": "end_turn" if answer.call is None else "tool_use",
        "stop_sequence": None,
        "usage": {"input_tokens": 25, "output_tokens": max(1, answer.deltas)},
    }


def _messages_events(answer: Answer) -> Iterator[bytes]:
    document = _messages_document(answer)
    yield _event({"type": "message_start", "message": document | {"content": [], "stop_reason": None}})
    for index, block in enumerate(document["content"]):
        if block["type"] == "text":
            start, deltas = (
                {"type": "text", "text": ""},
                [{"type": "text_delta", "text": text} for text in answer.words],
            )
        else:
            start, deltas = block | {"input": {}}, [{"type": "input_json_delta", "partial_json": answer.arguments}]
        yield _event({"type": "content_block_start", "index": index, "content_block": start})
        for delta in deltas:
            yield _event({"type": "content_block_delta", "index": index, "delta": delta})
        yield _event({"type": "content_block_stop", "index": index})
    end = {"stop_reason": document["stop_reason"], "stop_sequence": None}
    yield _event({"type": "message_delta", "delta": end, "usage": document["usage"]})
    yield _event({"type": "message_stop"})


# --- OpenAI Responses ------------------------------------------------------------------------------------------------


def _responses_document(answer: Answer) -> dict[str, Any]:
    text = "".join(answer.words)
    output: list[dict[str, Any]] = []
    if text:
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        output.append(
            {"id": f"msg_{_ID}", "type": "message", "status": "completed", "content": [part], "role": "assistant"}
        )
    if answer.call is not None:
        call = {"id": f"fc_{answer.call}", "call_id": answer.call_id, "name": "weather", "arguments": answer.arguments}
        output.append({"type": "function_call", "status": "completed"} | call)
    return {
        "id": f"resp_{_ID}",
        "object": "response",
        "created_at": 1782321576,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": "gpt-5-mini",
        "output": output,
        "usage": {"input_tokens": 25, "output_tokens": max(1, answer.deltas), "total_tokens": 25 + answer.deltas},
    }


def _responses_events(answer: Answer) -> Iterator[bytes]:
    document = _responses_document(answer)
    begun = document | {"status": "in_progress", "output": [], "usage": None}
    for number, event in enumerate(
        [
            {"type": "response.created", "response": begun},
            {"type": "response.in_progress", "response": begun},
            *(event for index, item in enumerate(document["output"]) for event in _item_events(answer, index, item)),
            {"type": "response.completed", "response": document},
        ]
    ):
        yield _event(event | {"sequence_number": number})


def _item_events(answer: Answer, index: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    place = {"item_id": item["id"], "output_index": index}
    if item["type"] == "message":
        part = item["content"][0]
        empty, place = part | {"text": ""}, place | {"content_index": 0}
        begun = item | {"status": "in_progress", "content": []}
        yield {"type": "response.output_item.added", "output_index": index, "item": begun}
        yield {"type": "response.content_part.added", "part": empty} | place
        for text in answer.words:
            more = {"delta": text, "logprobs": [], "obfuscation": "x3uaYFWq8F"[: len(text)]}
            yield {"type": "response.output_text.delta"} | place | more
        yield {"type": "response.output_text.done", "text": part["text"], "logprobs": []} | place
        yield {"type": "response.content_part.done", "part": part} | place
    else:
        begun = item | {"status": "in_progress", "arguments": ""}
        yield {"type": "response.output_item.added", "output_index": index, "item": begun}
        yield {"type": "response.function_call_arguments.delta", "delta": answer.arguments} | place
        yield {"type": "response.function_call_arguments.done", "arguments": answer.arguments} | place
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


# --- Chat Completions ------------------------------------------------------------------------------------------------


def _chat(kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{_ID}",
        "object": kind,
        "created": 1782321576,
        "model": "gpt-4.1-mini",
        "service_tier": "default",
        "system_fingerprint": "fp_560af6e559",
        "choices": [{"index": 0} | choice],
    }


def _chat_usage(answer: Answer) -> dict[str, int]:
    tokens = max(1, answer.deltas)
    return {"prompt_tokens": 25, "completion_tokens": tokens, "total_tokens": 25 + tokens}


def _chat_call(answer: Answer) -> dict[str, Any]:
    return {
        "id": answer.call_id,
        "type": "function",
        "function": {"name": "weather", "arguments": answer.arguments},
    }


def _chat_document(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.words) or None, "refusal": None}
    if answer.call is not None:
        message["tool_calls"] = [_chat_call(answer)]
    reason = "stop" if answer.call is None else "tool_calls"
    return _chat("chat.completion", {"message": message, "finish_reason": reason}) | {"usage": _chat_usage(answer)}


def _chat_events(answer: Answer) -> Iterator[bytes]:
    reason = "stop" if answer.call is None else "tool_calls"
    deltas: list[dict[str, Any]] = [{"role": "assistant", "content": "", "refusal": None}]
    deltas += [{"content": text} for text in answer.words]
    if answer.call is not None:
        deltas.append({"tool_calls": [_chat_call(answer) | {"index": 0}]})
    for delta in deltas:
        choice = {"delta": delta, "logprobs": None, "finish_reason": None}
        yield _event(_chat("chat.completion.chunk", choice) | {"usage": None}, named=False)
    last = _chat("chat.completion.chunk", {"delta": {}, "logprobs": None, "finish_reason": reason})
    yield _event(last | {"usage": None}, named=False)
    yield _event(last | {"choices": [], "usage": _chat_usage(answer)}, named=False)
    yield b"data: [DONE]\n\n"


# --- Gemini ----------------------------------------------------------------------------------------------------------


def _gemini(answer: Answer, parts: list[dict[str, Any]], *, last: bool) -> dict[str, Any]:
    tokens = max(1, answer.deltas)
    candidate = {"content": {"parts": parts, "role": "model"}, "index": 0} | ({"finishReason": "STOP"} if last else {})
    usage = {"promptTokenCount": 25, "candidatesTokenCount": tokens, "totalTokenCount": 25 + tokens}
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": "gemini-2.5-flash",
        "responseId": _ID[:22],
    }


def _gemini_call(answer: Answer) -> list[dict[str, Any]]:
    call = {"id": answer.call_id, "name": "weather", "args": json.loads(answer.arguments)}
    return [{"text": ""}] if answer.call is None else [{"functionCall": call}]


def _gemini_document(answer: Answer) -> dict[str, Any]:
    text = "".join(answer.words)
    return _gemini(answer, ([{"text": text}] if text else []) + _gemini_call(answer), last=True)


def _gemini_events(answer: Answer) -> Iterator[bytes]:
    for text in answer.words:
        yield _event(_gemini(answer, [{"text": text}], last=False), named=False)
    yield _event(_gemini(answer, _gemini_call(answer), last=True), named=False)


FORMATS = {
    "anthropic": Format("/v1/messages", b'"type":"tool_result"', _messages_events, _messages_document),
    "responses": Format("/responses", b'"type":"function_call_output"', _responses_events, _responses_document),
    "chat": Format("/chat/completions", b'"role":"tool"', _chat_events, _chat_document),
    "gemini": Format("enerateContent", b'"functionResponse"', _gemini_events, _gemini_document),
}
"""Every wire format, by the name that the benchmarks use."""
