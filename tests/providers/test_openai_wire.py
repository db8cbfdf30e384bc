"""Every recorded Responses exchange means what its recording says, however its bytes arrive, and goes back as it came."""

from __future__ import annotations

import base64
import json
from itertools import accumulate, groupby, pairwise
from pathlib import Path

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
    as_user_message,
    messages_from_json,
    messages_to_json,
)
from alloy.providers.base import Request, TextDelta, ThinkingDelta, ToolCallDelta, ToolSpec
from alloy.providers.errors import error_from_response
from alloy.providers.openai import ENCRYPTED, OpenAI
from alloy.providers.sse import EventParser

WIRE = "openai_responses"
PROMPT = as_user_message("What now?")

FAILURES = {
    "openai_responses-chatgpt_codex-e05f3ffc58": ("auth", 401, None),
    "openai_responses-openai-4965c6be3f": ("auth", 401, "invalid_api_key"),
    "openai_responses-openai-204c6a3db0": ("invalid_request", None, "queued"),
    "openai_responses-openai-c5644187c9": ("context_overflow", 400, "context_length_exceeded"),
    "openai_responses-openai-dcd0e6150f": ("invalid_request", None, "in_progress"),
    "openai_responses-openai-e492be0b88": ("rate_limited", None, "rate_limit_exceeded"),
    "openai_responses-openai-ea32f18de1": ("invalid_request", 400, "invalid_value"),
    "openai_responses-xai-1f0d4616fa": ("auth", 400, "invalid-argument"),
}


def provider(exchange, **settings):
    return OpenAI(exchange.model, base_url="http://somewhere.test/v1", **settings)


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
    """Text, thinking and calls, out of deltas."""
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    thinking = "".join(delta.text for delta in deltas if isinstance(delta, ThinkingDelta))
    calls = {}
    for delta in deltas:
        if isinstance(delta, ToolCallDelta):
            assert delta.id
            _, arguments = calls.get(delta.index, ("", ""))
            calls[delta.index] = delta.name, arguments + delta.arguments
    return text, thinking, list(calls.values())


# --- The same facts, read without any code of ours -------------------------------------------------------------------


def documents(exchange):
    lines = exchange.sse.decode().replace("\r\n", "\n").split("\n")
    return [json.loads(line[5:]) for line in lines if line.startswith("data:") and line[5:].strip() != "[DONE]"]


def final(exchange):
    """The response object at the end."""
    return exchange.body if exchange.sse is None else documents(exchange)[-1]["response"]


def output(exchange):
    """The output items, in order: for a stream those that were said to be done."""
    if exchange.sse is None:
        return exchange.body["output"]
    done = [event for event in documents(exchange) if event["type"] == "response.output_item.done"]
    return [event["item"] for event in sorted(done, key=lambda event: event["output_index"])]


def said(item):
    return "".join(part.get("text", part.get("refusal", "")) for part in item.get("content", []))


def thought(item):
    return "\n\n".join(part["text"] for part in [*item["summary"], *(item.get("content") or [])] if part["text"])


def called(exchange):
    """Every call that waits for us: its name and arguments."""
    items = output(exchange)
    answered = {item.get("call_id") for item in items if item["type"].endswith("_output")}
    for item in items:
        if item["type"] == "function_call":
            yield item["name"], item["arguments"]
        elif item["type"] in ("local_shell_call", "apply_patch_call"):
            yield item["type"].removesuffix("_call"), json.dumps(item.get("action", item.get("operation")))
        elif item["type"] == "shell_call":
            assert item["call_id"] in answered


def stop(exchange):
    response = final(exchange)
    if response["status"] == "incomplete":
        return {"max_output_tokens": "max_tokens"}[response["incomplete_details"]["reason"]]
    if any(True for _ in called(exchange)):
        return "tool_use"
    parts = [part for item in output(exchange) if item["type"] == "message" for part in item["content"]]
    return "refusal" if any(part["type"] == "refusal" for part in parts) else "end_turn"


def read(arguments):
    """The object, or the text where it is none."""
    try:
        return json.loads(arguments or "{}")
    except ValueError:
        return arguments


def test_an_answer_says_what_was_recorded(answered):
    deltas, completion = decode(answered)
    message = completion.message
    items = output(answered)
    texts = [text for item in items if item["type"] == "message" and (text := said(item)).strip()]
    thoughts = [thought(item) for item in items if item["type"] == "reasoning"]
    calls = list(called(answered))

    assert message.text == "".join(texts)
    assert [block.text for block in message.content if isinstance(block, ThinkingBlock)] == thoughts
    assert [(c.name, c.invalid if c.invalid is not None else dict(c.input)) for c in message.tool_uses] == [
        (name, read(arguments)) for name, arguments in calls
    ]
    assert completion.stop_reason == stop(answered)
    assert message.role == "assistant"
    assert message.origin == provider(answered).origin
    assert message.model == final(answered)["model"]
    if answered.sse is not None:
        assert joined(deltas) == (message.text, "".join(thoughts), calls)


def test_what_the_index_says_of_an_answer_holds(answered):
    _, completion = decode(answered)
    content, usage = completion.message.content, completion.usage
    plain_calls = [call for call in completion.message.tool_uses if call.name not in ("local_shell", "apply_patch")]
    unlisted = (
        "openai_responses-chatgpt_codex-1cbeb179ab"  # its calls are only in the stream, where the index didn't look
    )

    assert any(isinstance(block, ThinkingBlock) for block in content) == ("thinking" in answered.features)
    assert bool(plain_calls) == ("tool-call" in answered.features or answered.id == unlisted)
    assert (len(plain_calls) > 1) == ("parallel-tool-calls" in answered.features)
    assert any(isinstance(b, ThinkingBlock) and b.signature for b in content) == (
        "encrypted-content" in answered.features
    )
    assert bool(usage.cache_read_tokens) == ("cache-read-usage" in answered.features)
    assert bool(usage.reasoning_tokens) == ("reasoning-usage" in answered.features)
    assert (completion.stop_reason == "refusal") == ("refusal" in answered.features)
    assert (completion.stop_reason == "max_tokens") == ("max-tokens" in answered.features)


def test_usage_adds_up_to_what_was_reported(answered):
    _, completion = decode(answered)
    usage, reported = completion.usage, final(answered)["usage"]
    inside = reported.get("input_tokens_details") or {}
    servers = [
        item
        for item in output(answered)
        if item["type"].endswith("_call")
        and item["type"] not in ("function_call", "local_shell_call", "apply_patch_call")
    ]
    programs = [item for item in output(answered) if item["type"] == "program"]

    assert usage.requests == 1
    assert usage.prompt_tokens == reported["input_tokens"]
    assert usage.output_tokens == reported["output_tokens"]
    assert usage.total_tokens == reported["total_tokens"]
    assert usage.cache_read_tokens == inside.get("cached_tokens", 0)
    assert usage.cache_write_tokens == inside.get("cache_write_tokens", 0)
    assert usage.reasoning_tokens == (reported.get("output_tokens_details") or {}).get("reasoning_tokens", 0)
    assert usage.server_tool_calls == reported.get("num_server_side_tools_used", len(servers) + len(programs))
    assert completion.message.usage == usage


def test_items_of_the_vendor_are_kept_whole(answered):
    _, completion = decode(answered)
    ours = {"message", "reasoning", "function_call", "local_shell_call", "apply_patch_call"}
    kept = [
        block.data if isinstance(block, RawBlock) else block.raw
        for block in completion.message.content
        if isinstance(block, RawBlock | ServerToolUseBlock | ServerToolResultBlock)
    ]
    images = [base64.b64decode(i["result"]) for i in output(answered) if i["type"] == "image_generation_call"]

    assert kept == [item for item in output(answered) if item["type"] not in ours]
    assert [block.data for block in completion.message.content if isinstance(block, ImageBlock)] == images


def test_an_answer_goes_back_as_it_came(answered):
    """Every item in order and whole, but for reasoning that nothing follows."""
    asked = OpenAI("gpt-5", base_url="http://somewhere.test/v1", store=True)
    decoder = asked.decoder(Request(messages=[PROMPT]))
    message = decoder.whole(final(answered) | {"output": output(answered)}).message
    sent = json.loads(asked.encode(Request(messages=[PROMPT, message, PROMPT])))["input"][1:-1]
    expected = output(answered)
    while expected and expected[-1]["type"] == "reasoning":
        expected.pop()
    for item in expected:
        if item["type"] == "function_call" and isinstance(read(item["arguments"]), str):
            item["arguments"] = "{}"  # cut off, and no API promises to take half an object

    assert sent == expected


def test_a_session_on_disk_changes_nothing_of_what_is_sent(answered):
    _, completion = decode(answered)
    history = [PROMPT, completion.message, PROMPT]
    asked = provider(answered)

    assert asked.encode(Request(messages=messages_from_json(messages_to_json(history)))) == asked.encode(
        Request(messages=history)
    )


def test_an_answer_and_its_results_form_a_history(answered):
    history = [PROMPT]
    for _ in range(2):  # the same ids in every answer
        decoder = provider(answered).decoder(Request(messages=history, stream=answered.sse is not None))
        if answered.sse is None:
            message = decoder.whole(answered.body).message
        else:
            parser = EventParser()
            for event in parser.feed(answered.sse) + parser.end():
                list(decoder.feed(event))
            message = decoder.end().message
        history.append(message)
        results = tuple(ToolResultBlock(call.id, (TextBlock("done"),)) for call in message.tool_uses)
        history.append(Message("user", (*results, TextBlock("Go on."))))

    check_history([turn for turn in history if turn.content])


# --- Errors and cuts -------------------------------------------------------------------------------------------------


def test_an_error_has_its_kind_status_and_code(failed):
    with pytest.raises(ProviderError) as caught:
        decode(failed)
    error = caught.value

    assert (error.kind, error.status, error.code) == FAILURES[failed.id]
    assert error.message
    assert error.retryable == (error.kind == "rate_limited")


def test_a_stream_is_the_same_however_it_is_cut_into_chunks(streamed):
    stream = streamed.sse
    whole = outcome(streamed)

    assert outcome(streamed, [stream[i : i + 1] for i in range(len(stream))]) == whole
    places = [0, *accumulate(streamed.chunk_sizes or [7, 100, 1]), len(stream)]
    assert outcome(streamed, [stream[a:b] for a, b in pairwise(places)]) == whole
    for ending in (b"\r\n", b"\r"):
        other = stream.replace(b"\r\n", b"\n").replace(b"\n", ending)
        assert outcome(streamed, [other[i : i + 13] for i in range(0, len(other), 13)]) == whole


def test_a_cut_stream_is_an_error_never_an_answer(streamed):
    stream = streamed.sse
    whole, _ = outcome(streamed)
    places = set(accumulate(streamed.chunk_sizes))
    lines = [place + 1 for place in range(len(stream)) if stream[place : place + 1] == b"\n"]
    step = max(1, len(lines) // 60)
    end = stream.rindex(b"data: {")  # the terminal event, in which the answer ends
    cuts = sorted({*places, *lines[::step], *(line - 3 for line in lines[::step]), end, end + 40} - {0, len(stream)})

    for cut in cuts:
        kind, *rest = outcome(streamed, [stream[:cut]])
        if cut < stream.index(b"\n", end):
            assert (kind, rest[0]) == ("error", "network")
        else:
            assert kind == whole


def test_a_recorded_error_in_a_stream_is_an_error_wherever_it_is_cut(failed):
    if failed.sse is None:
        return
    events = failed.sse.split(b"\n\n")
    for count in range(1, len(events)):
        assert outcome(failed, [b"\n\n".join(events[:count]) + b"\n\n"])[0] == "error"


# --- Requests: what was sent then is what would be sent today --------------------------------------------------------

NOT_COMPARED = {  # what others send and this adapter doesn't, or the other way round
    "item": {"status", "detail", "annotations", "logprobs", "prompt_cache_breakpoint"},
    "body": {"previous_response_id", "stream", "input"},
}
SETTINGS = {
    "max_output_tokens",
    "temperature",
    "top_p",
    "reasoning",
    "text",
    "tool_choice",
    "parallel_tool_calls",
    "store",
}
SETTINGS |= {"prompt_cache_key", "prompt_cache_options", "service_tier", "metadata"}
FUNCTION = {"type", "name", "description", "parameters"}


def imported(exchange):
    """The provider, and the request that it must have been; or None where another's way can't be told in ours."""
    body = exchange.request
    native = [tool for tool in body.get("tools") or [] if tool["type"] != "function"]
    settings = {name: body[name] for name in SETTINGS & body.keys()}
    if "max_output_tokens" in settings:
        settings["max_tokens"] = settings.pop("max_output_tokens")
    rest = (
        body.keys()
        - SETTINGS
        - {"model", "input", "instructions", "tools", "stream", "include", "previous_response_id"}
    )
    asked = provider(
        exchange,
        server_tools=native,
        include=body.get("include") or [],
        extra_body={name: body[name] for name in rest},
        **{"store": True} | settings,
    )
    tools = tuple(
        ToolSpec(
            tool["name"], tool.get("description"), tool["parameters"], {k: tool[k] for k in tool.keys() - FUNCTION}
        )
        for tool in body.get("tools") or []
        if tool["type"] == "function"
    )
    items = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    system, messages = body.get("instructions"), []
    for side, group in groupby(items, key=side_of):
        match side:
            case "answer":
                document = {"status": "completed", "model": asked.model, "output": list(map(long_form, group))}
                messages.append(asked.decoder(Request(messages=[])).whole(document).message)
            case "results":
                messages.append(Message("user", tuple(map(result, group))))
            case "user":
                messages += [Message("user", tuple(map(media, parts_of(item["content"])))) for item in group]
            case "system":
                system = "".join(text_of(item["content"]) for item in group)
    return asked, Request(messages=messages, system=system, tools=tools, stream=bool(body.get("stream")))


def side_of(item):
    """Whose an input item is."""
    match item:
        case {"role": "system" | "developer"}:
            return "system"
        case {"role": "user"}:
            return "user"
        case {"output": _}:
            return "results"
        case _:
            return "answer"


def long_form(item):
    """A message in the form that answers have."""
    if "type" in item:
        return item
    content = item["content"]
    parts = content if isinstance(content, list) else [{"type": "output_text", "text": content}]
    return {"type": "message", "role": "assistant", "content": parts}


def result(item):
    content = item["output"] if isinstance(item["output"], list) else parts_of(item["output"])
    return ToolResultBlock(item["call_id"], tuple(map(media, content)))


def text_of(content):
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def parts_of(content):
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


def media(part):
    def data(url):
        return url.partition(":")[2].partition(";")[0], base64.b64decode(url.partition(",")[2])

    match part:
        case {"type": "input_text", "text": text}:
            return TextBlock(text)
        case {"type": "input_image", "image_url": url}:
            return ImageBlock(*data(url)) if url.startswith("data:") else ImageBlock("image/png", url=url)
        case {"type": "input_file", "file_data": url, "filename": name}:
            return DocumentBlock(*data(url), name=name)


def normal(item):
    """An input item without what may differ between two ways of writing it."""
    item = {name: value for name, value in item.items() if name not in NOT_COMPARED["item"]}
    if item.get("role"):
        item["type"] = "message"
        kind = "output_text" if item["role"] == "assistant" else "input_text"
        parts = [{"type": kind, "text": item["content"]}] if isinstance(item["content"], str) else item["content"]
        item["content"] = [normal(part) for part in parts]
    if isinstance(item.get("output"), list):
        item["output"] = [normal(part) for part in item["output"]]
    if isinstance(item.get("image_url"), str) and item["image_url"].startswith("data:"):
        item["image_url"] = item["image_url"].rstrip("=")
    if isinstance(item.get("arguments"), str):
        item["arguments"] = json.loads(item["arguments"])
    return item


def test_a_recorded_request_is_what_would_be_sent_for_its_history(exchange):
    if not exchange.request or not exchange.request.get("input"):
        return
    asked, request = imported(exchange)
    sent = json.loads(asked.encode(request))
    items = exchange.request["input"]
    items = items if isinstance(items, list) else [{"role": "user", "content": items}]
    expected = [normal(item) for item in items if item.get("role") not in ("system", "developer")]

    assert [normal(item) for item in sent["input"]] == expected
    for name in exchange.request.keys() - NOT_COMPARED["body"] - {"tools", "include"}:
        assert sent.get(name) == (exchange.request[name] or None if name == "instructions" else exchange.request[name])
    asked_for = set(exchange.request.get("include") or [])
    assert asked_for <= set(sent.get("include", [])) <= asked_for | {ENCRYPTED}
    tools = sorted(exchange.request.get("tools") or [], key=lambda tool: tool["type"] != "function")  # ours come first
    for mine, theirs in zip(sent.get("tools", []), tools, strict=True):
        assert {k: v for k, v in mine.items() if k != "strict" or k in theirs} == theirs


FOLLOWS = {
    "openai_responses-openai-044ead2d81": "openai_responses-openai-69ba114d69",  # a compaction
    "openai_responses-pydantic_gateway-e2b3e8f40e": "openai_responses-pydantic_gateway-ffd5cb86bc",  # a call
}


def test_the_next_request_of_a_recorded_conversation_is_what_was_sent(exchange):
    if exchange.id not in FOLLOWS:
        return
    before = json.loads((Path(__file__).parent.parent / f"wire/exchanges/{FOLLOWS[exchange.id]}.json").read_text())
    asked, request = imported(exchange)
    place = len(request.messages) - 2  # the answer, and what followed it
    history = list(request.messages)
    decoder = asked.decoder(Request(messages=history[:place]))
    history[place] = decoder.whole(before["response"]["body"]).message
    sent = json.loads(asked.encode(Request(messages=history)))["input"]

    for mine, theirs in zip(map(normal, sent), map(normal, exchange.request["input"]), strict=True):
        assert {name: mine.get(name) for name in theirs} == theirs  # some leave ids out
    ends = [item.get("encrypted_content", item.get("id")) for item in before["response"]["body"]["output"]]
    assert [item.get("encrypted_content", item.get("id")) for item in sent[-1 - len(ends) : -1]] == ends
