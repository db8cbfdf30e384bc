"""Every recorded exchange with Anthropic's Messages API means what its recording says, and requests are made as they were."""

from __future__ import annotations

import base64
import json
from itertools import accumulate, pairwise

import pytest

from alloy.errors import ProviderError
from alloy.history import check_history
from alloy.messages import (
    DocumentBlock,
    ImageBlock,
    Message,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    as_user_message,
)
from alloy.providers.anthropic import Anthropic
from alloy.providers.base import Request, TextDelta, ThinkingDelta, ToolCallDelta, ToolSpec
from alloy.providers.errors import error_from_response
from alloy.providers.sse import EventParser

WIRE = "anthropic"
PROMPT = as_user_message("What now?")
STOPS = {"model_context_window_exceeded": "context_window"}  # the others have the same name
OPAQUE = {
    "redacted_thinking": "redacted-thinking",
    "compaction": "block:compaction",
    "fallback": "block:fallback",
}
KINDS = {
    "error-context-overflow": "context_overflow",
    "error-auth": "auth",
    "error-not-found": "invalid_request",
    "error-400": "invalid_request",
}


IDS_REDACTED = {"anthropic-anthropic-35680955ff"}
"""Where the recorder took ids out in another way for a call than for its result."""


# --- What Alloy makes of it ------------------------------------------------------------------------------------------


def provider(exchange):
    return Anthropic(exchange.model, base_url="http://somewhere.test")


def decode(exchange, chunks=None):
    """The deltas and the completion, or raises."""
    if exchange.status >= 400:
        raise error_from_response(exchange.status, exchange.headers, exchange.raw)
    decoder = provider(exchange).decoder(Request(messages=[PROMPT]))
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
        return "error", error.kind
    return completion, joined(deltas)


def joined(deltas):
    """Text, thinking and calls, out of deltas."""
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    thinking = "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta))
    calls = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            _, _, arguments = calls.get(delta.index, ("", "", ""))
            calls[delta.index] = (delta.id, delta.name, arguments + delta.arguments)
    return text, thinking, calls


# --- What was recorded, read without any code of ours ----------------------------------------------------------------


def events(exchange):
    lines = exchange.sse.decode().split("\n")
    return [json.loads(line[5:]) for line in lines if line.startswith("data:") and line[5:].strip() != "[DONE]"]


def recorded(exchange):
    """The answer as the document that the API sends to who doesn't stream."""
    if exchange.sse is None:
        return exchange.body
    message, blocks, arguments = {}, {}, {}
    for event in events(exchange):
        match event:
            case {"type": "message_start"}:
                message = dict(event["message"])
            case {"type": "content_block_start", "index": index, "content_block": block}:
                blocks[index] = dict(block)
            case {"type": "content_block_delta", "index": index, "delta": {"partial_json": piece}}:
                arguments[index] = arguments.get(index, "") + piece
            case {"type": "content_block_delta", "index": index, "delta": delta}:
                add(blocks[index], delta)
            case {"type": "message_delta", "delta": delta, "usage": usage}:
                message["usage"] = message["usage"] | {k: v for k, v in usage.items() if v is not None}
                message |= delta
    for index, text in arguments.items():
        blocks[index]["input"] = json.loads(text or "{}")
    return message | {"content": list(blocks.values())}


def add(block, delta):
    match delta["type"]:
        case "citations_delta":
            block["citations"] = [*(block.get("citations") or []), delta["citation"]]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case kind:
            name = {"text_delta": "text", "thinking_delta": "thinking", "compaction_delta": "content"}[kind]
            block[name] = (block[name] or "") + delta[name]


def said(exchange):
    """The blocks that a history holds: a blank text is none, and what a block doesn't say is left out."""
    return [
        normal(block) for block in recorded(exchange)["content"] if block["type"] != "text" or block["text"].strip()
    ]


def normal(block):
    return {name: value for name, value in block.items() if not (name == "citations" and not value)}


def as_block(block):
    """The vendor's block that one of ours stands for."""
    match block:
        case TextBlock(text=text, extra=extra):
            return {"type": "text", "text": text} | (extra or {})
        case ThinkingBlock(text=text, signature=signature, extra=extra):
            return {"type": "thinking", "thinking": text, "signature": signature} | (extra or {})
        case ToolUseBlock(id=call_id, name=name, input=arguments, extra=extra):
            return {"type": "tool_use", "id": call_id, "name": name, "input": arguments} | (extra or {})
        case ServerToolUseBlock(raw=raw) | ServerToolResultBlock(raw=raw) | RawBlock(data=raw):
            return raw


# --- Answers ---------------------------------------------------------------------------------------------------------


def test_an_answer_says_what_was_recorded(answered):
    _, completion = decode(answered)
    message, document = completion.message, recorded(answered)
    blocks = [as_block(block) for block in message.content if getattr(block, "kind", "") != "container"]

    assert blocks == said(answered)
    assert completion.raw_stop_reason == document["stop_reason"]
    assert completion.stop_reason == STOPS.get(document["stop_reason"], document["stop_reason"])
    assert (message.role, message.provider, message.model) == ("assistant", "anthropic", document["model"])
    assert message.origin == provider(answered).origin


def test_deltas_are_pieces_of_the_message(streamed):
    deltas, completion = decode(streamed)
    text, thinking, calls = joined(deltas)
    blocks = said(streamed)

    assert text == "".join(block["text"] for block in blocks if block["type"] == "text") == completion.message.text
    assert thinking == "".join(block["thinking"] for block in blocks if block["type"] == "thinking")
    assert [(i, name, json.loads(arguments or "{}")) for i, name, arguments in calls.values()] == [
        (block["id"], block["name"], block["input"]) for block in blocks if block["type"] == "tool_use"
    ]
    assert all(delta.text for delta in deltas if not isinstance(delta, ToolCallDelta))


def test_what_the_index_says_of_an_answer_holds(answered):
    _, completion = decode(answered)
    content, features = completion.message.content, answered.features
    calls = completion.message.tool_uses
    raw = {block.kind for block in content if isinstance(block, RawBlock)}
    served = [block for block in content if isinstance(block, ServerToolUseBlock)]
    results = [block for block in content if isinstance(block, ServerToolResultBlock)]

    assert any(isinstance(block, ThinkingBlock) for block in content) == ("thinking" in features)
    assert bool(calls) == ("tool-call" in features)
    assert (len(calls) > 1) == ("parallel-tool-calls" in features)
    assert any(not call.input for call in calls) == ("tool-call-no-args" in features)
    assert any(block.extra for block in content if isinstance(block, TextBlock)) == ("citations" in features)
    assert raw - {"container"} == {kind for kind, feature in OPAQUE.items() if feature in features}
    assert {f"server-tool:{block.name}" for block in served if block.raw["type"] == "server_tool_use"} <= features
    assert bool(results) == ("server-tool-result" in features)
    assert any(block.is_error for block in results) == ("server-tool-error" in features)
    assert bool(completion.usage.cache_read_tokens) == ("cache-read-usage" in features)
    assert bool(completion.usage.cache_write_tokens) == ("cache-write-usage" in features)


def test_usage_is_what_was_reported(answered):
    reported = recorded(answered)["usage"]
    usage = decode(answered)[1].usage
    counted = (reported.get("server_tool_use") or {}).values()
    calls = [block for block in recorded(answered)["content"] if block["type"] in ("server_tool_use", "mcp_tool_use")]
    parts = [reported, *(one for one in reported.get("iterations") or [] if one["type"] == "compaction")]

    assert usage.requests == 1
    assert usage.input_tokens == sum(part["input_tokens"] for part in parts)
    assert usage.cache_read_tokens == sum(part["cache_read_input_tokens"] or 0 for part in parts)
    assert usage.cache_write_tokens == sum(part["cache_creation_input_tokens"] or 0 for part in parts)
    assert usage.output_tokens == sum(part["output_tokens"] for part in parts)
    assert usage.reasoning_tokens == (reported.get("output_tokens_details") or {}).get("thinking_tokens", 0)
    assert usage.server_tool_calls == max(len(calls), sum(counted))


def test_an_answer_and_its_results_form_a_history_that_can_be_sent(answered):
    _, completion = decode(answered)
    message = completion.message
    results = tuple(ToolResultBlock(call.id, (TextBlock("done"),)) for call in message.tool_uses)
    if not message.content:
        return
    history = [PROMPT, message, Message("user", (*results, TextBlock("Go on.")))]
    check_history(history)
    if completion.stop_reason == "pause_turn":
        history.pop()  # it goes back as it is to be continued
    sent = json.loads(provider(answered).encode(Request(messages=history)))["messages"]

    assert [turn["role"] for turn in sent] == [turn.role for turn in history]
    if answered.id not in IDS_REDACTED:
        assert sent[1]["content"] == said(answered)


def test_a_refusal_says_why(answered):
    details = recorded(answered).get("stop_details")
    _, completion = decode(answered)

    assert completion.detail == (f"{details['category']}: {details['explanation']}" if details else None)
    assert bool(details) == ("stop-details" in answered.features)


def test_an_error_has_its_kind_status_and_code(failed):
    with pytest.raises(ProviderError) as caught:
        decode(failed)
    error = caught.value

    assert error.kind == next(kind for feature, kind in KINDS.items() if feature in failed.features)
    assert (error.status, error.code) == (failed.status, failed.body["error"]["type"])
    assert error.message == failed.body["error"]["message"]
    assert not error.retryable


# --- Streams ---------------------------------------------------------------------------------------------------------


def test_a_stream_is_the_same_however_it_is_cut_into_chunks(streamed):
    stream = streamed.sse
    whole = outcome(streamed)

    assert outcome(streamed, [stream[i : i + 1] for i in range(len(stream))]) == whole
    sizes = streamed.chunk_sizes or [7, 100, 1]
    places = [0, *accumulate(sizes), len(stream)]
    assert outcome(streamed, [stream[a:b] for a, b in pairwise(places)]) == whole
    for newline in (b"\r\n", b"\r"):
        other = stream.replace(b"\r\n", b"\n").replace(b"\n", newline)
        assert outcome(streamed, [other[i : i + 13] for i in range(0, len(other), 13)]) == whole


def test_a_cut_stream_is_an_error(streamed):
    stream = streamed.sse
    end = stream.index(b"}", stream.index(b'"message_stop"', stream.rindex(b"event: message_stop"))) + 1
    lines = [place + 1 for place in range(end) if stream[place : place + 1] == b"\n"]
    cuts = sorted({*lines, *(line - 3 for line in lines if line > 3), end - 1})

    assert {outcome(streamed, [stream[:cut]]) for cut in cuts} == {("error", "network")}
    assert outcome(streamed, [stream[:end]]) == outcome(streamed)


def test_a_stream_and_the_document_that_it_builds_mean_the_same(streamed):
    _, completion = decode(streamed)
    whole = provider(streamed).decoder(Request(messages=[PROMPT])).whole(recorded(streamed))

    assert whole == completion


# --- Requests --------------------------------------------------------------------------------------------------------

NOT_OURS = {
    "anthropic-anthropic-39d0a4aa81": "a file uploaded into a container is no block of ours",
    "anthropic-anthropic-052c751f40": "a system's turn between the others is no message of ours",
}
"""Requests that a history can't say."""


def imported(exchange):
    """A provider and a request that say what was asked."""
    body = dict(exchange.request)
    settings = {name: body.pop(name) for name in ("max_tokens", "temperature", "thinking") if name in body}
    if "stop_sequences" in body:
        settings["stop"] = body.pop("stop_sequences")
    if "tool_choice" in body:
        choice = body.pop("tool_choice")
        if "disable_parallel_tool_use" in choice:
            settings["parallel_tool_calls"] = not choice["disable_parallel_tool_use"]
        settings["tool_choice"] = {k: v for k, v in choice.items() if k != "disable_parallel_tool_use"}
    output = body.get("output_config", {})
    if output.keys() <= {"effort", "format"} and body.pop("output_config", None):
        settings |= {"effort": output["effort"]} if "effort" in output else {}
        settings |= {"response_schema": output["format"]["schema"]} if "format" in output else {}
    tools = body.pop("tools", [])
    settings["server_tools"] = [tool for tool in tools if tool.get("type", "custom") != "custom"]
    system = body.pop("system", None)
    system = "".join(block["text"] for block in system) if isinstance(system, list) else system
    stream, messages = body.pop("stream", False), body.pop("messages")
    settings["citations"] = "citations" in json.dumps([m for m in messages if m["role"] == "user"])
    to = Anthropic(
        body.pop("model", exchange.model), base_url="http://somewhere.test", cache=None, extra_body=body, **settings
    )
    specs = tuple(spec(tool) for tool in tools if tool.get("type", "custom") == "custom")
    return to, Request(messages=[message(to, one) for one in messages], system=system, tools=specs, stream=stream)


def spec(tool):
    options = {k: v for k, v in tool.items() if k not in ("name", "description", "input_schema", "cache_control")}
    return ToolSpec(tool["name"], tool.get("description", ""), tool["input_schema"], {"anthropic": options})


def message(to, sent):
    content = [{"type": "text", "text": sent["content"]}] if isinstance(sent["content"], str) else sent["content"]
    if sent["role"] == "assistant":
        answer = {"content": content, "stop_reason": "end_turn"}
        return to.decoder(Request(messages=[])).whole(answer).message
    return Message("user", tuple(user_block(block) for block in content))


def user_block(block):
    match block:
        case {"type": "text", "text": text}:
            return TextBlock(text)
        case {"type": "tool_result", "tool_use_id": call_id, "content": content}:
            parts = [{"type": "text", "text": content}] if isinstance(content, str) else content
            inner = tuple(user_block(part) for part in parts)
            return ToolResultBlock(call_id, inner, is_error=block.get("is_error", False))
        case {"type": "image", "source": {"type": "url", "url": url}}:
            return ImageBlock("image/*", url=url)
        case {"type": "image", "source": {"media_type": media_type, "data": data}}:
            return ImageBlock(media_type, base64.b64decode(data))
        case {"type": "document", "source": {"type": "url", "url": url}}:
            return DocumentBlock("application/pdf", url=url, name=block.get("title"))
        case {"type": "document", "source": {"type": "text", "data": data}}:
            return DocumentBlock("text/plain", data.encode(), name=block.get("title"))
        case {"type": "document", "source": {"media_type": media_type, "data": data}}:
            return DocumentBlock(media_type, base64.b64decode(data), name=block.get("title"))


def comparable(body):
    """A request without what isn't history or a setting's value.

    That is: where caching is asked for, plain text as a list of one block, defaults, the order of tools, and the model, which
    one host has in its path.
    """
    body = {
        name: value for name, value in body.items() if name != "model" and not (name == "stream" and value is False)
    }
    if "tools" not in body:
        body.pop("tool_choice", None)
    if isinstance(body.get("system"), list):
        body["system"] = "".join(block["text"] for block in body["system"])
    body["messages"] = [turn | {"content": plain(turn["content"])} for turn in body["messages"]]
    body["tools"] = sorted((plain_block(tool) for tool in body.get("tools", [])), key=lambda tool: tool["name"])
    return body


def plain(content):
    content = [{"type": "text", "text": content}] if isinstance(content, str) else content
    return [plain_block(block) for block in content]


def plain_block(block):
    defaults = {"is_error": False, "citations": None, "description": ""}
    block = {
        name: value
        for name, value in block.items()
        if name != "cache_control" and (name not in defaults or value not in (defaults[name], []))
    }
    return block | {"content": plain(block["content"])} if block.get("type") == "tool_result" else block


def test_a_request_is_made_as_it_was(exchange):
    if exchange.request is None or exchange.id in NOT_OURS:
        return
    to, request = imported(exchange)

    assert comparable(json.loads(to.encode(request))) == comparable(exchange.request)


def test_an_answer_that_was_sent_back_goes_back_as_it_is(exchange):
    """Also of requests whose other turns can't be said."""
    for sent in (exchange.request or {}).get("messages", []):
        if sent["role"] == "assistant":
            to = provider(exchange)
            history = [PROMPT, message(to, sent)]
            assert plain(json.loads(to.encode(Request(messages=history)))["messages"][1]["content"]) == plain(
                sent["content"]
            )
