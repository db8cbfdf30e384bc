"""Anthropic's answers: what no recording holds, and what nobody should send."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy.errors import ProviderError
from alloy.history import check_history
from alloy.messages import (
    Message,
    RawBlock,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    as_user_message,
    messages_to_json,
)
from alloy.providers.anthropic import Anthropic
from alloy.providers.base import Request, TextDelta, ToolCallDelta
from alloy.providers.errors import error_from_response
from alloy.providers.sse import ServerEvent

HI = as_user_message("Hi")
OWN = Anthropic("claude-sonnet-5-5", "sk-0123456789")
TYPES = {"message_start", "content_block_start", "content_block_delta", "content_block_stop", "message_delta", "error"}
FIELDS = {"message", "content_block", "delta", "index", "usage", "error"}
NAMES = {"type", "id", "name", "input", "text", "thinking", "signature", "citations", "citation", "partial_json", "content"} | {
    "stop_reason", "stop_details", "container", "usage", "model", "input_tokens", "output_tokens", "iterations",
}  # fmt: skip


def sent(messages):
    return json.loads(OWN.encode(Request(messages=messages)))


def decoded(*documents, end=True):
    """What a stream of these events becomes."""
    decoder = OWN.decoder(Request(messages=[HI]))
    deltas = []
    start = {"type": "message_start", "message": {"model": "m", "usage": {"input_tokens": 3, "output_tokens": 1}}}
    for document in (start, *documents, *([{"type": "message_stop"}] if end else [])):
        deltas += decoder.feed(ServerEvent(json.dumps(document), document["type"]))
    return deltas, decoder.end()


def begins(index, block):
    return {"type": "content_block_start", "index": index, "content_block": block}


def grows(index, delta=None, **fields):
    return {"type": "content_block_delta", "index": index, "delta": delta or fields}


def stops(reason, **more):
    usage = more.pop("usage", {})
    return {"type": "message_delta", "delta": {"stop_reason": reason} | more, "usage": usage}


# --- Answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ("end_turn", "end_turn"),
        ("max_tokens", "max_tokens"),
        ("stop_sequence", "stop_sequence"),
        ("tool_use", "tool_use"),
        ("pause_turn", "pause_turn"),
        ("compaction", "pause_turn"),
        ("refusal", "refusal"),
        ("model_context_window_exceeded", "context_window"),
        ("steered", "unknown"),
        (None, "unknown"),
    ],
)
def test_every_stop_reason_has_its_meaning(raw, reason):
    _, completion = decoded(begins(0, {"type": "text", "text": "Hi"}), stops(raw))

    assert (completion.stop_reason, completion.raw_stop_reason) == (reason, raw)


def test_counts_are_totals_so_far():
    _, completion = decoded(
        stops("end_turn", usage={"input_tokens": 30, "output_tokens": 5, "cache_read_input_tokens": None}),
        stops("end_turn", usage={"output_tokens": 9, "server_tool_use": {"web_search_requests": 2, "other": 1}}),
    )

    assert (completion.usage.input_tokens, completion.usage.output_tokens) == (30, 9)
    assert completion.usage.server_tool_calls == 3


def test_blocks_and_pieces_that_nobody_knows_are_kept_and_go_back():
    block = {"type": "hologram", "depth": 1, "text": "a", "layers": [1]}
    _, completion = decoded(
        {"type": "something_new"},
        begins(0, block),
        grows(0, type="hologram_delta", text="b", layers=[2], depth=2, shine=None),
        stops("end_turn"),
    )

    grown = {"type": "hologram", "depth": 2, "text": "ab", "layers": [1, 2]}
    assert completion.message.content == (RawBlock("hologram", grown),)
    assert sent([HI, completion.message, HI])["messages"][1]["content"] == [grown]


def test_blank_text_is_held_back_and_comes_with_what_follows():
    text = {"type": "text", "text": ""}
    deltas, completion = decoded(
        begins(0, text),
        grows(0, type="text_delta", text="\n\n"),
        begins(1, text),
        grows(1, type="text_delta", text="\n"),
        grows(1, type="text_delta", text="So."),
        stops("end_turn"),
    )

    assert deltas == [TextDelta("\nSo.")]
    assert completion.message.content == (TextBlock("\nSo."),)


@pytest.mark.parametrize(
    ("pieces", "arguments", "invalid"),
    [
        ([], {}, None),
        ([""], {}, None),
        (['{"a"', ": 1}"], {"a": 1}, None),
        (['{"a": "x'], {}, '{"a": "x'),
        (["[1]"], {}, "[1]"),
    ],
)
def test_arguments_are_an_object_or_kept_as_they_were_written(pieces, arguments, invalid):
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    grown = [grows(0, type="input_json_delta", partial_json=piece) for piece in pieces]
    deltas, completion = decoded(begins(0, call), *grown, stops("max_tokens" if invalid else "end_turn"))

    assert completion.message.tool_uses == (ToolUseBlock("toolu_1", "look", arguments, invalid),)
    assert completion.stop_reason == ("max_tokens" if invalid else "tool_use")
    assert deltas == [ToolCallDelta(0, "toolu_1", "look", piece) for piece in ["", *filter(None, pieces)]]


def test_hosts_that_repeat_their_ids_get_ids_of_our_own():
    call = {"type": "tool_use", "id": "call_0", "name": "look", "input": {"at": 1}}
    document = {"content": [call, call | {"id": ""}], "stop_reason": "tool_use"}
    history = [HI]
    for _ in range(2):
        message = OWN.decoder(Request(messages=history)).whole(document).message
        history += [
            message,
            Message("user", tuple(ToolResultBlock(c.id, (TextBlock("x"),)) for c in message.tool_uses)),
        ]

    check_history(history)


@pytest.mark.parametrize("document", [None, [], "text", {}, {"content": "text"}, {"type": "error"}])
def test_what_is_no_answer_is_an_error(document):
    with pytest.raises(ProviderError):
        OWN.decoder(Request(messages=[HI])).whole(document)


def test_a_piece_of_a_block_that_never_began_is_an_error():
    with pytest.raises(ProviderError, match="never began"):
        decoded(grows(3, type="text_delta", text="Hi"))


ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["text", "tool_use", "x_delta", ""]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(sorted(NAMES)), inner, max_size=6),
    max_leaves=12,
)
KINDS = ["text", "thinking", "tool_use", "x_tool_use", "x_tool_result", "new"]
DELTAS = ["text_delta", "thinking_delta", "signature_delta", "citations_delta", "input_json_delta", "new_delta"]
BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS)}, optional=dict.fromkeys(sorted(NAMES - {"type"}), ANY_JSON)
)
PIECES = st.fixed_dictionaries(
    {"type": st.sampled_from(DELTAS)}, optional=dict.fromkeys(sorted(NAMES - {"type"}), ANY_JSON)
)
EVENTS = st.one_of(
    st.builds(begins, st.sampled_from([0, 1, None]), BLOCKS),
    st.builds(grows, st.sampled_from([0, 1, None]), delta=PIECES),
    st.fixed_dictionaries({"type": st.sampled_from(sorted(TYPES))}, optional=dict.fromkeys(sorted(FIELDS), ANY_JSON)),
)


@given(st.lists(EVENTS, max_size=6))
def test_whatever_comes_is_an_answer_or_an_error_and_an_answer_can_be_sent_back(documents):
    decoder = OWN.decoder(Request(messages=[HI]))
    try:
        for document in documents:
            list(decoder.feed(ServerEvent(json.dumps(document))))
        list(decoder.feed(ServerEvent('{"type": "message_stop"}')))
        message = decoder.end().message
    except ProviderError:
        return
    sent([HI, message])
    messages_to_json([message])


@given(ANY_JSON)
def test_whatever_comes_whole_is_an_answer_or_an_error(document):
    try:
        message = OWN.decoder(Request(messages=[HI])).whole(document).message
    except ProviderError:
        return
    sent([HI, message])


def test_done_before_the_end_is_no_end():
    decoder = OWN.decoder(Request(messages=[HI]))
    list(decoder.feed(ServerEvent("[DONE]", "data")))
    with pytest.raises(ProviderError) as caught:
        decoder.end()

    assert caught.value.kind == "network"


# --- Errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("api_error", 500, "server_error"),
        ("authentication_error", 401, "auth"),
        ("billing_error", 402, "quota"),
        ("invalid_request_error", 400, "invalid_request"),
        ("not_found_error", 404, "invalid_request"),
        ("overloaded_error", 529, "overloaded"),
        ("permission_error", 403, "auth"),
        ("rate_limit_error", 429, "rate_limited"),
        ("request_too_large", 413, "context_overflow"),
        ("timeout_error", 504, "timeout"),
        ("new_error", None, "server_error"),
    ],
)
def test_an_error_inside_a_stream_is_what_it_would_be_alone(code, status, kind):
    document = {"type": "error", "error": {"type": code, "message": "Sorry"}, "request_id": "req_1"}
    with pytest.raises(ProviderError) as caught:
        decoded(begins(0, {"type": "text", "text": "Hi"}), document)
    error = caught.value

    assert (error.kind, error.status, error.code, error.message) == (kind, status, code, "Sorry")
    assert error.request_id == "req_1"
    if status:
        alone = error_from_response(status, {}, json.dumps(document).encode())
        assert (alone.kind, alone.status, alone.code) == (kind, status, code)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("prompt is too long: 210000 tokens > 200000 maximum", "context_overflow"),
        ("input length and `max_tokens` exceed context limit: 190000 + 64000 > 200000", "context_overflow"),
        ("Your credit balance is too low to access the Anthropic API.", "quota"),
        ("messages.3.content.0: The block is bound to a different conversation", "invalid_request"),
    ],
)
def test_a_bad_request_is_told_apart_by_its_words(message, kind):
    document = {"type": "error", "error": {"type": "invalid_request_error", "message": message}}
    error = error_from_response(400, {}, json.dumps(document).encode())
    with pytest.raises(ProviderError) as streamed:
        decoded(document)

    assert error.kind == streamed.value.kind == kind
