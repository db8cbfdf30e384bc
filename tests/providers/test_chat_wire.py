"""Every recorded Chat Completions exchange means what its recording says, however its bytes arrive."""

from __future__ import annotations

import json
from itertools import accumulate, pairwise

import pytest

from alloy.errors import ProviderError
from alloy.history import check_history
from alloy.messages import Message, TextBlock, ThinkingBlock, ToolResultBlock, as_user_message
from alloy.providers.base import Request, TextDelta, ThinkingDelta, ToolCallDelta
from alloy.providers.chat import ChatCompletions
from alloy.providers.errors import error_from_response
from alloy.providers.sse import EventParser

WIRE = "chat_completions"
PROMPT = as_user_message("What now?")

STOPS = {
    "stop:stop": ("end_turn", "refusal"),
    "stop:eos": ("end_turn",),
    "stop:tool_calls": ("tool_use",),
    "stop:tool_call": ("tool_use",),
    "stop:function_call": ("tool_use",),
    "stop:length": ("max_tokens",),
    "stop:content_filter": ("refusal",),
    "no-finish-reason": ("end_turn", "tool_use"),
}
KINDS = {  # the first that fits
    "error-context-overflow": "context_overflow",
    "error-auth": "auth",
    "error-not-found": "invalid_request",
    "error-rate-limit": "rate_limited",
    "error-server": "server_error",
    "error-in-200": "refused",
    "error-400": "invalid_request",
    "error-422": "invalid_request",
}
STREAM_ERRORS = {
    "chat_completions-groq-22ae6d4120": ("invalid_request", 400, "tool_use_failed"),
    "chat_completions-gpustack-d2b3e05949": ("server_error", None, None),
    "chat_completions-openrouter-15e7a4984e": ("server_error", 502, None),
}


def provider(exchange):
    return ChatCompletions(exchange.model, base_url="http://somewhere.test/v1")


def decode(exchange, chunks=None):
    """The deltas and the completion, or raises."""
    if exchange.status >= 400:
        raise error_from_response(exchange.status, exchange.headers, exchange.raw)
    decoder = provider(exchange).decoder(Request(messages=[PROMPT], stream=exchange.sse is not None))
    if exchange.sse is None:
        return [], decoder.whole(exchange.body)
    parser = EventParser()
    events = [event for chunk in chunks or [exchange.sse] for event in parser.feed(chunk)] + parser.end()
    return [delta for event in events for delta in decoder.feed(event)], decoder.end()


def outcome(exchange, chunks=None):
    """What came of it, to be compared."""
    try:
        deltas, completion = decode(exchange, chunks)
    except ProviderError as error:
        return "error", error.kind, error.status, error.code, error.message
    return completion, joined(deltas)


def joined(deltas):
    """Text, thinking and arguments by call, out of deltas."""
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    thinking = "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta))
    calls = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            calls[delta.index] = calls.get(delta.index, "") + delta.arguments
    return text, thinking, calls


def documents(exchange):
    """The JSON of an answer, read without any code of ours."""
    if exchange.sse is None:
        return [exchange.body]
    lines = exchange.sse.decode().replace("\r\n", "\n").split("\n")
    return [json.loads(line[5:]) for line in lines if line.startswith("data:") and line[5:].strip() != "[DONE]"]


def pieces(exchange):
    for document in documents(exchange):
        for choice in (document.get("choices") or [])[:1]:
            yield choice.get("delta") or choice.get("message") or {}


def said(exchange):
    out = []
    for piece in pieces(exchange):
        content = piece.get("content") or ""
        out += [part.get("text", "") for part in content] if isinstance(content, list) else [content]
        out.append(piece.get("refusal") or "")
    return "".join(out).strip()


def thought(exchange):
    out = []
    for piece in pieces(exchange):
        plain = piece.get("reasoning_content") or piece.get("reasoning") or ""
        parts = piece["content"] if isinstance(piece.get("content"), list) else []
        out += [
            plain,
            *(part["thinking"][0]["text"] for part in parts if part["type"] == "thinking" and part["thinking"]),
        ]
    return "".join(out)


def called(exchange):
    """Each call's name and arguments' text; whole answers and streams that number their calls."""
    calls = {}
    for piece in pieces(exchange):
        for place, call in enumerate(piece.get("tool_calls") or []):
            key = call.get("index", place) if exchange.sse is not None else place
            name, arguments = calls.get(key, ("", ""))
            function = call["function"]
            calls[key] = (name or function.get("name"), arguments + (function.get("arguments") or ""))
        if (piece.get("function_call") or {}).get("name"):
            calls[0] = (piece["function_call"]["name"], piece["function_call"]["arguments"])
    return list(calls.values())


def test_an_answer_says_what_was_recorded(answered):
    deltas, completion = decode(answered)
    message = completion.message

    assert message.text.strip() == said(answered)
    assert "".join(block.text for block in message.content if isinstance(block, ThinkingBlock)) == thought(answered)
    assert [(c.name, c.invalid if c.invalid is not None else dict(c.input)) for c in message.tool_uses] == [
        (name, read(arguments)) for name, arguments in called(answered)
    ]
    assert all(completion.stop_reason in STOPS[feature] for feature in answered.features & STOPS.keys())
    assert message.role == "assistant"
    assert message.origin == provider(answered).origin
    if answered.sse is not None:
        text, thinking, calls = joined(deltas)
        assert text == message.text
        assert thinking == thought(answered)
        assert list(calls.values()) == [arguments for _, arguments in called(answered)]


def read(arguments):
    """The object, or the text where it is none."""
    try:
        value = json.loads(arguments or "{}")
    except ValueError:
        return arguments
    return value if isinstance(value, dict) else arguments


def test_what_the_index_says_of_an_answer_holds(answered):
    _, completion = decode(answered)
    calls = completion.message.tool_uses

    assert any(isinstance(block, ThinkingBlock) for block in completion.message.content) == (
        "thinking" in answered.features
    )
    assert bool(calls) == bool(answered.features & {"tool-call", "stop:function_call"})
    assert (len(calls) > 1) == ("parallel-tool-calls" in answered.features)
    assert any(call.invalid for call in calls) == bool(
        answered.features & {"tool-args-invalid-json"} or (calls and "max-tokens" in answered.features)
    )
    assert bool(completion.usage.cache_read_tokens) == ("cache-read-usage" in answered.features)
    assert bool(completion.usage.cache_write_tokens) == ("cache-write-usage" in answered.features)


def test_usage_adds_up_to_what_was_reported(answered):
    reported = {}
    for document in documents(answered):
        for usage in (document.get("x_groq", {}).get("usage"), document.get("usage")):
            reported = usage or reported
    _, completion = decode(answered)
    usage = completion.usage
    reasoning = (reported.get("completion_tokens_details") or {}).get("reasoning_tokens") or 0

    assert usage.requests == 1
    assert usage.prompt_tokens == reported["prompt_tokens"]
    assert usage.total_tokens == reported["total_tokens"]
    assert usage.output_tokens == reported["total_tokens"] - reported["prompt_tokens"]
    assert usage.reasoning_tokens in (
        min(reasoning, usage.output_tokens),
        reported["total_tokens"] - reported["prompt_tokens"] - reported["completion_tokens"],
    )


def test_an_answer_and_its_results_form_a_history(answered):
    _, completion = decode(answered)
    history = [PROMPT]
    for _ in range(2):  # hosts that repeat their ids do it in every answer
        again = provider(answered).decoder(Request(messages=history, stream=answered.sse is not None))
        message = redecoded(answered, again) if answered.sse is not None else again.whole(answered.body).message
        history.append(message)
        results = tuple(ToolResultBlock(call.id, (TextBlock("done"),)) for call in message.tool_uses)
        history.append(Message("user", (*results, TextBlock("Go on."))))

    check_history([turn for turn in history if turn.content])
    assert completion.message.content == history[1].content


def redecoded(exchange, decoder):
    parser = EventParser()
    for event in parser.feed(exchange.sse) + parser.end():
        list(decoder.feed(event))
    return decoder.end().message


def test_an_error_has_its_kind_status_and_code(failed):
    with pytest.raises(ProviderError) as caught:
        decode(failed)
    error = caught.value

    if failed.id in STREAM_ERRORS:
        assert (error.kind, error.status, error.code) == STREAM_ERRORS[failed.id]
        return
    expected = [kind for feature, kind in KINDS.items() if feature in failed.features]
    inner = failed.body.get("error") if isinstance(failed.body, dict) else None
    inner = inner if isinstance(inner, dict) else failed.body
    codes = [inner.get("code"), inner.get("type")]
    assert error.kind == expected[0]
    assert error.status == (max(failed.status, 400))
    assert error.code == next((c for c in codes if c is not None and not isinstance(c, int)), None)
    assert error.message
    assert error.retry_after == (1.0 if "error-429-retry-after" in failed.features else None)
    assert error.retryable == (error.kind in ("rate_limited", "server_error"))


def test_a_stream_is_the_same_however_it_is_cut_into_chunks(streamed):
    stream = streamed.sse
    whole = outcome(streamed)

    assert outcome(streamed, [stream[i : i + 1] for i in range(len(stream))]) == whole
    sizes = streamed.chunk_sizes or [7, 100, 1]
    places = [0, *accumulate(sizes), len(stream)]
    assert outcome(streamed, [stream[a:b] for a, b in pairwise(places)]) == whole
    crlf = stream.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    assert outcome(streamed, [crlf[i : i + 13] for i in range(0, len(crlf), 13)]) == whole


def test_a_cut_stream_is_an_error_or_the_whole_answer(streamed):
    whole, _ = outcome(streamed)
    stream = streamed.sse
    ends = [place + 1 for place in range(len(stream)) if stream[place : place + 1] == b"\n"]
    cuts = sorted({*ends, *(end - 3 for end in ends if end > 3)})
    outcomes = [outcome(streamed, [stream[:cut]]) for cut in cuts]

    assert outcomes[0][0] == "error"
    for cut in outcomes:
        assert cut[0] == whole or cut[:2] == ("error", "network")


def test_a_recorded_error_in_a_stream_is_an_error_wherever_it_is_cut(failed):
    if failed.sse is None:
        return
    events = failed.sse.split(b"\n\n")
    for count in range(1, len(events), max(1, len(events) // 40)):
        assert outcome(failed, [b"\n\n".join(events[:count]) + b"\n\n"])[0] == "error"
