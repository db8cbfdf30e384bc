"""Every recorded Gemini exchange means what its recording says, however its bytes arrive."""

from __future__ import annotations

import base64
import json
from itertools import accumulate, pairwise

import pytest

from alloy.errors import ProviderError
from alloy.history import check_history
from alloy.messages import (
    AudioBlock,
    ImageBlock,
    Message,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    as_user_message,
)
from alloy.providers.base import Request, TextDelta, ThinkingDelta, ToolCallDelta
from alloy.providers.errors import error_from_response
from alloy.providers.gemini import Gemini
from alloy.providers.sse import EventParser

WIRE = "gemini"
PROMPT = as_user_message("What now?")

STOPS = {
    "stop:STOP": ("end_turn", "tool_use"),
    "stop:MAX_TOKENS": ("max_tokens",),
    "stop:SAFETY": ("refusal",),
    "stop:MODEL_ARMOR": ("refusal",),
    "stop:UNEXPECTED_TOOL_CALL": ("tool_use",),
}
KINDS = {  # the first that fits
    "error-auth": "auth",
    "error-context-overflow": "context_overflow",
    "error-not-found": "invalid_request",
    "retry-info-in-body": "rate_limited",
}
BLOCKED = {"gemini-vertex-dfe1682163": "MODEL_ARMOR"}


def provider(exchange):
    return Gemini(exchange.model, base_url="http://somewhere.test/v1beta")


def decode(exchange, chunks=None, history=(PROMPT,)):
    """The deltas and the completion, or raises."""
    if exchange.status >= 400:
        raise error_from_response(exchange.status, exchange.headers, exchange.raw)
    decoder = provider(exchange).decoder(Request(messages=history, stream=exchange.sse is not None))
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
        return "error", error.kind, error.status, error.code
    return completion, joined(deltas)


def joined(deltas):
    """Text, thinking and arguments by call, out of deltas."""
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    thinking = "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta))
    calls = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            calls[delta.index, delta.name] = calls.get((delta.index, delta.name), "") + delta.arguments
    return text, thinking, [(name, json.loads(arguments)) for (_, name), arguments in calls.items()]


# --- The recordings, read without any code of ours -------------------------------------------------------------------


def documents(exchange):
    if exchange.sse is None:
        return exchange.body if isinstance(exchange.body, list) else [exchange.body]
    lines = exchange.sse.decode().replace("\r\n", "\n").split("\n")
    return [json.loads(line[5:]) for line in lines if line.startswith("data:")]


def parts(exchange):
    for document in documents(exchange):
        for candidate in document.get("candidates", []):
            yield from candidate.get("content", {}).get("parts", [])


def said(exchange, *, thought):
    return "".join(p["text"] for p in parts(exchange) if "text" in p and p.get("thought", False) == thought)


def called(exchange):
    """Each call's name and arguments; those in pieces have one text argument each in the recordings."""
    calls = []
    for part in parts(exchange):
        call = part.get("functionCall")
        if call and call.get("name"):
            calls.append((call["name"], dict(call.get("args", {}))))
        for piece in (call or {}).get("partialArgs", []):
            arguments = calls[-1][1]
            key = piece["jsonPath"].removeprefix("$.")
            arguments[key] = arguments.get(key, "") + piece["stringValue"]
    return calls


def reported(exchange):
    """The usage that was reported last."""
    return [document.get("usageMetadata", {}) for document in documents(exchange)][-1]


# --- What an answer is -----------------------------------------------------------------------------------------------


def test_an_answer_says_what_was_recorded(answered):
    if answered.id in BLOCKED:
        return
    deltas, completion = decode(answered)
    message = completion.message
    thinking = "".join(block.text for block in message.content if isinstance(block, ThinkingBlock))

    assert message.text == said(answered, thought=False)
    assert thinking == said(answered, thought=True)
    assert [(call.name, dict(call.input)) for call in message.tool_uses] == called(answered)
    assert not any(call.invalid for call in message.tool_uses)
    assert message.role == "assistant"
    assert message.provider == "gemini"
    assert message.origin == provider(answered).origin
    assert message.model == next((d["modelVersion"].split("/")[-1] for d in documents(answered) if "modelVersion" in d), "a-model")  # fmt: skip
    if answered.sse is not None:
        assert joined(deltas) == (message.text, thinking, called(answered))


def test_an_answer_stops_for_the_recorded_reason(answered):
    if answered.id in BLOCKED:
        return
    _, completion = decode(answered)
    candidates = [c for document in documents(answered) for c in document["candidates"] if "finishReason" in c]
    last = candidates[-1] if candidates else {}

    assert completion.raw_stop_reason == last.get("finishReason")
    assert all(completion.stop_reason in STOPS[feature] for feature in answered.features & STOPS.keys())
    assert (completion.stop_reason == "tool_use") == bool(called(answered))
    if last.get("finishReason") != "STOP" and "finishMessage" in last:
        assert completion.detail == last["finishMessage"]
    elif "stop:SAFETY" in answered.features:
        assert completion.detail == "HARM_CATEGORY_HATE_SPEECH"
    else:
        assert completion.detail is None


def test_what_the_index_says_of_an_answer_holds(answered):
    if answered.id in BLOCKED:
        return
    _, completion = decode(answered)
    content = completion.message.content

    assert any(isinstance(block, ThinkingBlock) for block in content) == ("thinking" in answered.features)
    assert bool(completion.message.tool_uses) == ("tool-call" in answered.features)
    assert (len(completion.message.tool_uses) > 1) == ("parallel-tool-calls" in answered.features)
    assert bool(completion.usage.cache_read_tokens) == ("cache-read-usage" in answered.features)
    assert bool(completion.usage.reasoning_tokens) == ("reasoning-usage" in answered.features)
    assert any(isinstance(block, ImageBlock) for block in content) == ("image-output" in answered.features)
    assert any(isinstance(block, AudioBlock) for block in content) == ("inline-data-output" in answered.features)
    found = {block.name for block in content if isinstance(block, ServerToolUseBlock)}
    assert ("code_execution" in found) == ("server-tool:code_execution" in answered.features)
    assert ("file_search" in found) == ("server-tool:toolCall" in answered.features)
    extras = {name for block in content if isinstance(block, TextBlock) for name in block.extra or {}}
    assert ("groundingMetadata" in extras) == ("grounding" in answered.features)
    assert ("citationMetadata" in extras) == ("citations" in answered.features)
    assert ("logprobsResult" in extras) == ("logprobs" in answered.features)


def test_usage_adds_up_to_what_was_reported(answered):
    if answered.id in BLOCKED:
        return
    _, completion = decode(answered)
    usage, raw = completion.usage, reported(answered)

    assert usage.requests == 1
    assert usage.total_tokens == raw.get("totalTokenCount", 0)
    assert usage.cache_read_tokens == raw.get("cachedContentTokenCount", 0)
    assert usage.reasoning_tokens == raw.get("thoughtsTokenCount", 0)
    assert usage.output_tokens == raw.get("candidatesTokenCount", 0) + raw.get("thoughtsTokenCount", 0)
    assert usage.prompt_tokens == raw.get("promptTokenCount", 0) + raw.get("toolUsePromptTokenCount", 0)
    assert bool(usage.server_tool_calls) == bool(answered.features & {"server-tool:code_execution", "server-tool:toolCall"})  # fmt: skip
    assert completion.message.usage == usage


def test_vendor_run_tools_are_kept_as_they_came(answered):
    if answered.id in BLOCKED:
        return
    _, completion = decode(answered)
    kept = (ServerToolUseBlock, ServerToolResultBlock)
    names = {"executableCode", "codeExecutionResult", "toolCall", "toolResponse"}

    assert [b.raw for b in completion.message.content if isinstance(b, kept)] == [
        part for part in parts(answered) if part.keys() & names
    ]
    assert not any(b.is_error for b in completion.message.content if isinstance(b, ServerToolResultBlock))
    uses = [b.id for b in completion.message.content if isinstance(b, ServerToolUseBlock)]
    assert [b.tool_use_id for b in completion.message.content if isinstance(b, ServerToolResultBlock)] == uses


def test_media_in_an_answer_are_kept(answered):
    if answered.id in BLOCKED:
        return
    _, completion = decode(answered)
    media = [block for block in completion.message.content if isinstance(block, ImageBlock | AudioBlock)]

    assert [(block.media_type, base64.b64encode(block.data).decode()) for block in media] == [
        (part["inlineData"]["mimeType"], part["inlineData"]["data"]) for part in parts(answered) if "inlineData" in part
    ]


def test_an_answer_goes_back_with_every_signature_in_its_own_part(answered):
    if answered.id in BLOCKED:
        return
    _, completion = decode(answered)
    if not completion.message.content:
        return
    results = tuple(ToolResultBlock(call.id, (TextBlock("done"),)) for call in completion.message.tool_uses)
    history = [PROMPT, completion.message, Message("user", (*results, TextBlock("Go on.")))]
    contents = json.loads(provider(answered).encode(Request(messages=history)))["contents"]
    sent = contents[1]["parts"]

    for part in parts(answered):
        signature = part.get("thoughtSignature")
        if signature and "partialArgs" not in part.get("functionCall", {}):
            same = [p for p in sent if p.get("thoughtSignature") == signature]
            assert same == [with_args(part)]
    unsigned = "".join(p["text"] for p in parts(answered) if "text" in p and not ({"thought", "thoughtSignature"} & p.keys()))  # fmt: skip
    assert "".join(p["text"] for p in sent if p.keys() == {"text"}) == unsigned
    assert [p["functionCall"]["name"] for p in sent if "functionCall" in p] == [name for name, _ in called(answered)]
    if results:
        signed = next(p for p in sent if "functionCall" in p)
        assert signed["thoughtSignature"]


def with_args(part):
    call = part.get("functionCall")
    return part | {"functionCall": {"args": {}} | call} if call else part


def test_an_answer_and_its_results_form_a_history(answered):
    if answered.id in BLOCKED:
        return
    history = [PROMPT]
    for _ in range(2):  # made-up ids must not repeat
        _, completion = decode(answered, history=history)
        message = completion.message
        if not message.content:
            return
        history.append(message)
        results = tuple(ToolResultBlock(call.id, (TextBlock("done"),)) for call in message.tool_uses)
        history.append(Message("user", (*results, TextBlock("Go on."))))

    check_history(history)


# --- Errors ----------------------------------------------------------------------------------------------------------


def test_an_error_has_its_kind_status_and_code(failed):
    with pytest.raises(ProviderError) as caught:
        decode(failed)
    error, said = caught.value, failed.body["error"]

    assert error.kind == next(kind for feature, kind in KINDS.items() if feature in failed.features)
    assert (error.status, error.code, error.message) == (said["code"], said["status"], said["message"])
    assert error.retry_after == (48.0 if "retry-info-in-body" in failed.features else None)
    assert error.retryable == (error.kind == "rate_limited")


def test_a_blocked_prompt_is_refused_with_its_reason(answered):
    if answered.id not in BLOCKED:
        return
    with pytest.raises(ProviderError, match="Prompt Injection and Jailbreak") as caught:
        decode(answered)

    assert (caught.value.kind, caught.value.code) == ("refused", BLOCKED[answered.id])


# --- However it arrives ----------------------------------------------------------------------------------------------


def test_a_stream_is_the_same_however_it_is_cut_into_chunks(streamed):
    stream = streamed.sse
    whole = outcome(streamed)
    lf = stream.replace(b"\r\n", b"\n")

    assert whole[0] != "error"
    assert outcome(streamed, [stream[i : i + 1] for i in range(len(stream))]) == whole
    places = [0, *accumulate(streamed.chunk_sizes or [7, 100, 1]), len(stream)]
    assert outcome(streamed, [stream[a:b] for a, b in pairwise(places)]) == whole
    assert outcome(streamed, [lf[i : i + 13] for i in range(0, len(lf), 13)]) == whole


def test_a_stream_is_the_same_as_one_json_array(streamed):
    completion, _ = outcome(streamed)
    array = json.dumps(documents(streamed), indent=1)
    request = Request(messages=[PROMPT])

    assert provider(streamed).decoder(request).whole(json.loads(array)) == completion
    assert outcome(streamed, [array.encode()])[0] == completion  # said to be events, but isn't


def test_a_cut_stream_is_an_error(streamed):
    """But for what follows the last text that says that it is the end."""
    whole, _ = outcome(streamed)
    stream = streamed.sse
    end = stream.rindex(b"data:")
    lines = [place for place in range(end) if stream[place : place + 5] == b"data:"]
    cuts = sorted(
        {*lines, *(place + size for place in lines for size in (4, 20, 200)), end, end + 30, len(stream) - 20}
    )

    for cut in cuts:
        found = outcome(streamed, [stream[:cut]])
        assert found[0] == "error", cut
        assert found[1] == "network"
    assert outcome(streamed, [stream])[0] == whole


def test_a_cut_array_is_an_error(streamed):
    found = documents(streamed)
    for count in range(1, len(found)):
        decoder = provider(streamed).decoder(Request(messages=[PROMPT]))
        with pytest.raises(ProviderError) as caught:
            decoder.whole(found[:count])
        assert caught.value.kind == "network"


def test_blank_signed_text_is_kept_for_the_next_request(answered):
    signed = [part for part in parts(answered) if part.get("thoughtSignature") and part.get("text") == ""]
    if signed:
        _, completion = decode(answered)
        assert [block.data for block in completion.message.content if isinstance(block, RawBlock)] == signed
