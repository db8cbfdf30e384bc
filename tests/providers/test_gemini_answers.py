"""Answers of Gemini that no recording holds."""

from __future__ import annotations

import base64
import json

import pytest

from alloy.errors import ProviderError
from alloy.messages import (
    ImageBlock,
    RawBlock,
    ServerToolResultBlock,
    TextBlock,
    ToolUseBlock,
    as_user_message,
)
from alloy.providers.base import Request, TextDelta, ToolCallDelta
from alloy.providers.errors import error_from_response
from alloy.providers.gemini import Gemini
from alloy.providers.gemini_decode import usage_of
from alloy.providers.sse import ServerEvent

URL = "http://somewhere.test/v1beta"
HI = as_user_message("Hi")


def provider(model="gemini-3.8-flash", **settings):
    return Gemini(model, "key-0123456789", URL, **settings)


def sent(messages, *, to=None, **request):
    return json.loads((to or provider()).encode(Request(messages=messages, **request)))


def inline(kind, data):
    return {"inlineData": {"mimeType": kind, "data": base64.b64encode(data).decode()}}


def chunk(*parts, finish=None, **candidate):
    candidate |= {"content": {"role": "model", "parts": list(parts)}}
    return {"candidates": [candidate | ({"finishReason": finish} if finish else {})]}


def streamed(*chunks):
    """What a stream of these chunks becomes."""
    decoder = provider().decoder(Request(messages=[HI]))
    deltas = [delta for one in chunks for delta in decoder.feed(ServerEvent(json.dumps(one)))]
    return deltas, decoder.end()


def whole(document):
    return provider().decoder(Request(messages=[HI], stream=False)).whole(document)


TEXT = {"text": "Hm"}
CALL = {"functionCall": {"name": "t", "args": {"x": 1}}}
REFUSALS = [
    "SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "ESCALATION", "MODEL_ARMOR",
    "IMAGE_SAFETY", "IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION",
]  # fmt: skip


@pytest.mark.parametrize(
    ("finish", "part", "reason"),
    [
        ("STOP", TEXT, "end_turn"),
        ("STOP", CALL, "tool_use"),
        ("MAX_TOKENS", TEXT, "max_tokens"),
        ("MAX_TOKENS", CALL, "max_tokens"),
        ("UNEXPECTED_TOOL_CALL", CALL, "tool_use"),
        ("TOO_MANY_TOOL_CALLS", TEXT, "pause_turn"),
        *((finish, TEXT, "refusal") for finish in REFUSALS),
        ("OTHER", TEXT, "unknown"),
        ("NO_IMAGE", TEXT, "unknown"),
        ("IMAGE_OTHER", TEXT, "unknown"),
        ("FINISH_REASON_UNSPECIFIED", TEXT, "unknown"),
        ("A_NEW_ONE", TEXT, "unknown"),
    ],
)
def test_every_finish_reason_has_a_meaning(finish, part, reason):
    _, completion = streamed(chunk(part), chunk(finish=finish, finishMessage="So."))

    assert (completion.stop_reason, completion.raw_stop_reason) == (reason, finish)
    assert completion.detail == (None if finish == "STOP" else "So.")
    assert whole(chunk(part, finish=finish)).stop_reason == reason


@pytest.mark.parametrize(
    ("finish", "kind"),
    [
        ("MALFORMED_FUNCTION_CALL", "server_error"),
        ("MALFORMED_RESPONSE", "server_error"),
        ("UNEXPECTED_TOOL_CALL", "server_error"),
        ("MISSING_THOUGHT_SIGNATURE", "invalid_request"),
    ],
)
def test_a_finish_reason_that_is_a_failure_is_one(finish, kind):
    for decode in (streamed, whole):
        with pytest.raises(ProviderError, match="Sorry") as caught:
            decode(chunk(TEXT, finish=finish, finishMessage="Sorry."))
        assert (caught.value.kind, caught.value.code) == (kind, finish)
        assert caught.value.retryable == (kind == "server_error")


@pytest.mark.parametrize("decode", [streamed, whole])
def test_a_blocked_prompt_is_refused(decode):
    feedback = {"blockReason": "SAFETY", "safetyRatings": [{"category": "HARM_CATEGORY_X", "blocked": True}]}
    with pytest.raises(ProviderError, match="blocked: HARM_CATEGORY_X") as caught:
        decode({"promptFeedback": feedback})

    assert (caught.value.kind, caught.value.code, caught.value.retryable) == ("refused", "SAFETY", False)


@pytest.mark.parametrize("document", [{}, {"usageMetadata": {}}, {"candidates": []}, {"candidates": None}])
def test_a_whole_answer_without_a_candidate_can_be_asked_for_again(document):
    with pytest.raises(ProviderError) as caught:
        whole(document)

    assert caught.value.retryable


@pytest.mark.parametrize(
    "document",
    [
        {"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}},
        [{"error": {"code": 503, "message": "The model is overloaded.", "status": "UNAVAILABLE"}}],
    ],
)
def test_an_error_in_an_answer_is_found_in_any_shape(document):
    for decode in (streamed, whole):
        with pytest.raises(ProviderError) as caught:
            decode(document)
        error = caught.value
        assert (error.kind, error.status, error.code) == ("overloaded", 503, "UNAVAILABLE")
    again = error_from_response(503, {}, json.dumps(document).encode())
    assert (again.kind, again.status, again.code) == ("overloaded", 503, "UNAVAILABLE")


@pytest.mark.parametrize("junk", [None, 1, "x", []])
def test_an_event_of_no_known_shape_is_an_error(junk):
    if junk == []:
        junk = [None]
    with pytest.raises(ProviderError):
        streamed(junk)


@pytest.mark.parametrize(
    "candidate", [None, 1, {}, {"content": None}, {"content": {"parts": None}}, {"content": {"parts": [None, 1]}}]
)
def test_candidates_of_no_known_shape_do_no_harm(candidate):
    _, completion = streamed({"candidates": [candidate], "usageMetadata": None}, chunk(finish="STOP"))

    assert completion.message.content == ()


def test_only_the_first_candidate_counts():
    _, completion = streamed(chunk({"text": "b"}, index=1), chunk({"text": "a"}, finish="STOP", index=0))

    assert completion.message.text == "a"


def test_signed_text_stays_apart():
    signed = {"text": "b", "thoughtSignature": "S"}
    deltas, completion = streamed(chunk({"text": "a"}), chunk(signed), chunk({"text": "c"}), chunk({"text": "d"}, finish="STOP"))  # fmt: skip

    assert completion.message.content == (TextBlock("a"), TextBlock("b", {"thoughtSignature": "S"}), TextBlock("cd"))
    assert deltas == [TextDelta("a"), TextDelta("b"), TextDelta("c"), TextDelta("d")]


def test_blank_text_counts_only_before_text():
    deltas, completion = streamed(chunk({"text": "\n"}), chunk({"text": "a"}), chunk(CALL), chunk({"text": "\n"}, finish="STOP"))  # fmt: skip

    assert [type(block) for block in completion.message.content] == [TextBlock, ToolUseBlock]
    assert completion.message.text == "\na"
    assert deltas[0] == TextDelta("\na")


def test_a_picture_keeps_its_signature_and_a_thought_one_is_no_answer():
    picture = inline("image/png", b"x") | {"thoughtSignature": "S"}
    sketch = inline("image/png", b"y") | {"thought": True}
    _, completion = streamed(chunk(sketch, picture, finish="STOP"))

    assert completion.message.content == (
        RawBlock("part", sketch),
        ImageBlock("image/png", b"x"),
        RawBlock("part_fields", {"thoughtSignature": "S"}),
    )
    assert sent([HI, completion.message, HI])["contents"][1]["parts"] == [sketch, picture]


def test_a_part_that_nobody_knows_is_kept():
    part = {"brandNew": {"a": 1}, "thoughtSignature": "S"}
    _, completion = streamed(chunk(part, finish="STOP"))

    assert sent([HI, completion.message, HI])["contents"][1]["parts"] == [part]


def test_code_that_failed_is_an_error():
    failed = {"codeExecutionResult": {"outcome": "OUTCOME_FAILED", "output": "boom"}}
    _, completion = streamed(chunk({"executableCode": {"code": "x"}}, failed, finish="STOP"))
    (_, block) = completion.message.content

    assert isinstance(block, ServerToolResultBlock)
    assert (block.is_error, block.tool_use_id) == (True, "code_execution_1")


def test_a_stream_that_ends_while_code_runs_was_cut():
    with pytest.raises(ProviderError) as caught:
        streamed(chunk({"executableCode": {"code": "x"}}, finish="STOP"))

    assert caught.value.kind == "network"


def test_ids_are_kept_where_there_are_any_and_made_where_not():
    named = {"functionCall": {"name": "t", "id": "f0"}}
    deltas, completion = streamed(chunk(CALL, named, named, finish="STOP"))

    assert [call.id for call in completion.message.tool_uses] == ["call_1", "f0", "f0_2"]
    assert [(d.index, d.id, d.arguments) for d in deltas] == [(0, "call_1", '{"x":1}'), (1, "f0", "{}"), (2, "f0_2", "{}")]  # fmt: skip


def pieces(*partial, more=True):
    return {"functionCall": {"partialArgs": list(partial), "willContinue": more}}


def test_arguments_in_pieces_are_put_in_their_places():
    deltas, completion = streamed(
        chunk({"functionCall": {"name": "t", "willContinue": True}, "thoughtSignature": "S"}),
        chunk(pieces({"jsonPath": "$.a", "stringValue": "x", "willContinue": True}, {"jsonPath": "$.n", "numberValue": 1})),
        chunk(pieces({"jsonPath": "$.a", "stringValue": "y"}, {"jsonPath": "$['b c'][1].d", "boolValue": True})),
        chunk(pieces({"jsonPath": '$["b c"][0]', "nullValue": "NULL_VALUE"}, more=False)),
        chunk({"functionCall": {"name": "u"}}, finish="STOP"),
    )  # fmt: skip
    first, second = completion.message.tool_uses

    assert first.input == {"a": "xy", "n": 1, "b c": [None, {"d": True}]}
    assert first.extra == {"thoughtSignature": "S"}
    assert (second.name, second.input) == ("u", {})
    assert deltas == [
        ToolCallDelta(0, "call_1", "t", ""),
        ToolCallDelta(0, "call_1", "t", '{"a":"xy","n":1,"b c":[null,{"d":true}]}'),
        ToolCallDelta(1, "call_2", "u", "{}"),
    ]


def test_arguments_that_the_limit_cuts_off_are_invalid():
    start = {"functionCall": {"name": "t", "willContinue": True}}
    half = pieces({"jsonPath": "$.a", "stringValue": "x", "willContinue": True})
    _, completion = streamed(chunk(start), chunk(half), chunk(finish="MAX_TOKENS"))

    assert [(call.invalid, call.input) for call in completion.message.tool_uses] == [('{"a":"x"}', {})]


@pytest.mark.parametrize("path", ["", "a", "$", "$.", "$[0]", "$.a.b[", "$.list.x", "$.list[99999999]", "x.a"])
def test_arguments_without_a_place_are_an_error(path):
    start = {"functionCall": {"name": "t", "args": {"list": [1]}, "willContinue": True}}
    with pytest.raises(ProviderError):
        streamed(chunk(start), chunk(pieces({"jsonPath": path, "stringValue": "x"})), chunk(finish="STOP"))


def test_arguments_that_are_no_object_are_invalid():
    _, completion = streamed(chunk({"functionCall": {"name": "t", "args": [1]}}, finish="STOP"))

    assert completion.message.tool_uses[0].invalid == "[1]"


@pytest.mark.parametrize(
    ("raw", "counts"),
    [
        ({}, (0, 0, 0, 0)),
        ({"promptTokenCount": 10, "candidatesTokenCount": 5, "thoughtsTokenCount": 7}, (10, 0, 12, 7)),
        ({"promptTokenCount": 10, "cachedContentTokenCount": 4, "toolUsePromptTokenCount": 3}, (9, 4, 0, 0)),
        ({"promptTokenCount": None, "candidatesTokenCount": "x", "thoughtsTokenCount": -1}, (0, 0, 0, 0)),
    ],
)
def test_usage_is_counted_without_overlap(raw, counts):
    usage = usage_of(raw)

    assert (usage.input_tokens, usage.cache_read_tokens, usage.output_tokens, usage.reasoning_tokens) == counts


def test_counts_that_a_later_chunk_leaves_out_stay():
    _, completion = streamed(
        chunk(TEXT) | {"usageMetadata": {"promptTokenCount": 3, "thoughtsTokenCount": 4}},
        chunk(finish="STOP") | {"usageMetadata": {"candidatesTokenCount": 5}},
    )

    assert (completion.usage.prompt_tokens, completion.usage.output_tokens) == (3, 9)
