"""Answers by the Responses API that no recording holds: streams, ends and errors."""

from __future__ import annotations

import json

import pytest

from alloy.errors import ProviderError
from alloy.messages import (
    TextBlock,
    ThinkingBlock,
)
from alloy.providers.base import Request, TextDelta, ThinkingDelta, ToolCallDelta
from alloy.providers.errors import error_from_response
from alloy.providers.sse import ServerEvent
from tests.providers.openai_words import (
    HI,
    added,
    call,
    delta,
    done,
    end,
    provider,
    reasoning,
    said,
    streamed,
    whole,
)

# --- Streams ------------------------------------------------------------------------------------------------------------


def test_items_that_end_out_of_order_stay_in_their_places():
    a, b = call("c1", arguments='{"at":1}', id="fc_1"), call("c2", arguments='{"at":2}', id="fc_2")
    deltas, completion = streamed(
        added(0, a | {"arguments": ""}),
        added(1, b | {"arguments": ""}),
        delta("function_call_arguments", 1, '{"at"'),
        delta("function_call_arguments", 0, '{"at":1}'),
        delta("function_call_arguments", 1, ":2}"),
        done(1, b),
        done(0, a),
        end(),
    )

    assert [(c.id, c.input["at"]) for c in completion.message.tool_uses] == [("c1", 1), ("c2", 2)]
    assert [(d.index, d.id, d.arguments) for d in deltas] == [
        (0, "c1", ""),
        (1, "c2", ""),
        (1, "c2", '{"at"'),
        (0, "c1", '{"at":1}'),
        (1, "c2", ":2}"),
    ]


def test_items_that_come_out_of_order_stand_in_theirs():
    _, completion = streamed(done(1, said("b")), done(0, reasoning()), end())

    assert [type(block) for block in completion.message.content] == [ThinkingBlock, TextBlock]


def test_encrypted_reasoning_is_taken_from_the_item_that_is_done():
    _, completion = streamed(
        added(0, reasoning(encrypted_content="begun")), done(0, reasoning()), done(1, said("a")), end()
    )

    assert completion.message.content[0].signature == "sealed"


@pytest.mark.parametrize("output", [[], [reasoning(), said("Yes.")]], ids=["empty", "whole"])
def test_the_items_of_the_stream_and_of_its_end_are_the_same(output):
    deltas, completion = streamed(
        added(0, reasoning()), done(0, reasoning()), added(1, said("")), done(1, said("Yes.")), end(output=output)
    )

    assert [type(block) for block in completion.message.content] == [ThinkingBlock, TextBlock]
    assert deltas == [TextDelta("Yes.")]


def test_a_stream_that_holds_nothing_but_its_end_is_an_answer():
    deltas, completion = streamed(end(output=[reasoning(summary=[{"text": "Hm."}]), said("Yes."), call()]))

    assert deltas == [
        ThinkingDelta("Hm."),
        TextDelta("Yes."),
        ToolCallDelta(0, "c1", "look", ""),
        ToolCallDelta(0, "c1", "look", "{}"),
    ]
    assert completion.message.text == "Yes."


def test_an_item_whose_end_was_never_told_is_what_was_streamed_of_it():
    _, completion = streamed(
        added(0, said("") | {"content": []}),
        delta("output_text", 0, "So f"),
        added(1, call(arguments="")),
        delta("function_call_arguments", 1, '{"at":1}'),
        end("incomplete", incomplete_details={"reason": "max_output_tokens"}),
    )

    assert completion.message.text == "So f"
    assert dict(completion.message.tool_uses[0].input) == {"at": 1}
    assert completion.stop_reason == "max_tokens"


def test_events_without_places_belong_to_their_items():
    def bare(event):
        return {name: value for name, value in event.items() if name != "output_index"}

    a, b = said("a") | {"id": "m1"}, said("b") | {"id": "m2"}
    deltas, completion = streamed(
        bare(added(0, a | {"content": []})),
        bare(delta("output_text", 0, "a", item_id="m1")),
        bare(done(0, a)),
        bare(added(1, b | {"content": []})),
        bare(delta("output_text", 1, "b", item_id="m2")),
        bare(done(1, b)),
        end(output=[a, b]),
    )

    assert completion.message.text == "ab"
    assert deltas == [TextDelta("a"), TextDelta("b")]


def test_parts_of_a_summary_are_told_apart():
    parts = [{"type": "summary_text", "text": text} for text in ("One.", "Two.")]
    deltas, completion = streamed(
        added(0, reasoning()),
        delta("reasoning_summary_text", 0, "One.", summary_index=0),
        delta("reasoning_summary_text", 0, "Two", summary_index=1),
        delta("reasoning_summary_text", 0, ".", summary_index=1),
        done(0, reasoning(summary=parts)),
        done(1, said("a")),
        end(),
    )

    assert completion.message.content[0].text == "One.\n\nTwo."
    assert "".join(d.text for d in deltas if isinstance(d, ThinkingDelta)) == "One.\n\nTwo."


def test_blanks_are_shown_when_something_follows_them():
    deltas, completion = streamed(
        added(0, said("") | {"content": []}),
        delta("output_text", 0, "\n"),
        delta("output_text", 0, " a"),
        done(0, said("\n a")),
        end(),
    )

    assert deltas == [TextDelta("\n a")]
    assert completion.message.text == "\n a"


@pytest.mark.parametrize(
    "data", ["", "[DONE]", '{"type": "keepalive"}', '{"type": "response.new.thing", "delta": "x"}']
)
def test_events_that_end_nothing_are_no_end(data):
    decoder = provider().decoder(Request(messages=[HI]))
    list(decoder.feed(ServerEvent(json.dumps(done(0, said("a"))))))

    assert list(decoder.feed(ServerEvent(data))) == []
    with pytest.raises(ProviderError, match="middle") as caught:
        decoder.end()
    assert caught.value.kind == "network"


# --- How answers end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("max_output_tokens", "max_tokens"),
        ("max_messages", "max_tokens"),
        ("content_filter", "refusal"),
        ("steered", "pause_turn"),
        ("something_new", "unknown"),
    ],
)
def test_an_incomplete_answer_says_why(reason, stop):
    completion = whole(said("a"), status="incomplete", incomplete_details={"reason": reason})

    assert (completion.stop_reason, completion.raw_stop_reason) == (stop, reason)


def test_a_refusal_says_what_it_says():
    completion = whole(said("") | {"content": [{"type": "refusal", "refusal": "I won't."}]})

    assert (completion.stop_reason, completion.detail, completion.message.text) == ("refusal", "I won't.", "I won't.")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "server_error", "message": "Sorry."}, "server_error"),
        ({"code": "rate_limit_exceeded", "message": "Limit."}, "rate_limited"),
        ({"code": "insufficient_quota", "message": "You exceeded your current quota."}, "quota"),
        ({"code": "invalid_prompt", "message": "Flagged as violating our usage policy."}, "refused"),
        ({"code": "bio_policy", "message": "No."}, "refused"),
        ({"code": "misalignment_policy_violation", "message": "No."}, "refused"),
        ({"code": "failed_to_download_image", "message": "No."}, "invalid_request"),
        ({"code": "context_length_exceeded", "message": "Too long."}, "context_overflow"),
        ({"code": "server_is_overloaded", "message": "Busy."}, "overloaded"),
        ({"message": "Sorry."}, "server_error"),
    ],
)
def test_an_error_in_an_answer_has_a_kind(error, kind):
    for fails in (
        lambda: whole(status="failed", error=error),
        lambda: streamed(end("failed", error=error)),
        lambda: streamed({"type": "error", "sequence_number": 1} | error),
        lambda: streamed({"type": "error", "error": error}),
        lambda: streamed({"error": error}),
    ):
        with pytest.raises(ProviderError) as caught:
            fails()
        assert (caught.value.kind, caught.value.code) == (kind, error.get("code"))


@pytest.mark.parametrize("response", [{"status": "failed"}, {"status": "cancelled"}, {"status": "expired"}])
def test_an_answer_that_came_to_nothing_is_an_error(response):
    with pytest.raises(ProviderError):
        whole(**response)
    with pytest.raises(ProviderError):
        streamed(end(response["status"], **response))


@pytest.mark.parametrize("document", [[], "text", {}, {"detail": "No."}, {"error": "No."}])
def test_a_document_that_is_no_answer_is_an_error(document):
    with pytest.raises(ProviderError):
        provider().decoder(Request(messages=[HI])).whole(document)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"code": "invalid-argument", "error": "This model's maximum prompt length is 9."}, "context_overflow"),
        (429, {"error": {"code": "insufficient_quota", "message": "Quota."}}, "quota"),
        (429, {"error": {"code": "rate_limit_exceeded", "message": "Slow down."}}, "rate_limited"),
        (503, {"error": {"code": "server_is_overloaded", "message": "Busy."}}, "overloaded"),
    ],
)
def test_a_refused_request_has_a_kind(status, body, kind):
    assert error_from_response(status, {}, json.dumps(body).encode()).kind == kind


def test_usage_has_the_cache_apart():
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 15},
    }
    counted = whole(said("a"), {"type": "web_search_call", "id": "w"}, usage=usage).usage

    assert (counted.input_tokens, counted.cache_read_tokens, counted.cache_write_tokens) == (10, 60, 30)
    assert (counted.output_tokens, counted.reasoning_tokens, counted.server_tool_calls) == (20, 15, 1)
    assert whole(said("a"), usage={"num_server_side_tools_used": 3}).usage.server_tool_calls == 3
    assert whole(said("a"), usage=None).usage.requests == 1
