"""The embedded model: what it is told, and what is made of the JSON that it writes."""

from __future__ import annotations

import json

import pytest

from alloy.errors import ProviderError
from alloy.messages import ImageBlock, Message, TextBlock, ToolResultBlock, ToolUseBlock
from alloy.providers.base import Request, TextDelta, ToolCallDelta, ToolSpec
from alloy.providers.chat_decode import ChatDecoder
from alloy.providers.local_prompt import CallDecoder, chooses, encode
from alloy.providers.sse import EventParser

WEATHER = ToolSpec("weather", "The weather in a city.", {"type": "object", "properties": {"city": {"type": "string"}}})
REPLY = ToolSpec("reply", "Answers a letter.", {"type": "object", "properties": {"to": {"type": "string"}}})
ASKED = Message("user", (TextBlock("Is it raining in Oslo?"),))
CALLED = Message("assistant", (ToolUseBlock("c1", "weather", {"city": "Oslo"}),))
RAIN = {"type": "object", "properties": {"rain": {"type": "boolean"}}, "required": ["rain"]}
TOLD = Message("user", (ToolResultBlock("c1", (TextBlock("rain"),)),))


def body(request):
    return json.loads(encode(request, {"model": "m"}))


def branches(sent):
    return set(sent["response_format"]["json_schema"]["schema"]["$defs"])


def chunk(content, finish=None):
    return {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": finish}]}


def decoder(*, taken=(), by_schema=False):
    chat = ChatDecoder(provider="local", model="m", origin="o", taken=taken)
    return CallDecoder(chat, reply="reply", taken=taken, by_schema=by_schema)


def decode(pieces, *, finish="stop", taken=(), by_schema=False):
    """What a stream of these pieces gives: the deltas and the completion."""
    parser, decoding, deltas = EventParser(), decoder(taken=taken, by_schema=by_schema), []
    lines = [json.dumps(chunk(piece)) for piece in pieces] + [json.dumps(chunk("", finish)), "[DONE]"]
    for line in lines:
        for event in parser.feed(f"data: {line}\n\n".encode()):
            deltas += decoding.feed(event)
    return deltas, decoding.end()


# --- What it is told -------------------------------------------------------------------------------------------------


def test_a_question_may_be_answered_by_a_call_or_in_words():
    sent = body(Request(messages=[ASKED], tools=(WEATHER,)))
    assert branches(sent) == {"weather", "reply"}
    assert "weather(city?): The weather in a city." in sent["messages"][0]["content"]
    assert sent["messages"][-1] == {"role": "user", "content": "Is it raining in Oslo?"}


def test_a_result_is_answered_in_words_and_with_the_question_at_hand():
    request = Request(messages=[ASKED, CALLED, TOLD], tools=(WEATHER,))
    sent = body(request)
    assert not chooses(request)
    assert "response_format" not in sent
    assert "rain" in sent["messages"][-1]["content"]
    assert "Is it raining in Oslo?" in sent["messages"][-1]["content"]


def test_after_an_answer_tools_may_be_called_again():
    answered = Message("assistant", (TextBlock("It rains."),))
    request = Request(messages=[ASKED, CALLED, TOLD, answered, ASKED], tools=(WEATHER,))
    assert chooses(request)
    assert json.loads(body(request)["messages"][-2]["content"]) == {"name": "reply", "arguments": {"text": "It rains."}}


def test_without_tools_it_is_a_plain_conversation():
    sent = body(Request(messages=[ASKED], system="Be brief.", stream=False))
    assert sent["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Is it raining in Oslo?"},
    ]
    assert "stream" not in sent


def test_a_tool_called_reply_is_told_from_a_reply():
    assert branches(body(Request(messages=[ASKED], tools=(REPLY,)))) == {"reply", "reply_2"}


def test_a_failed_call_is_told_as_an_error():
    failed = Message("user", (ToolResultBlock("c1", (TextBlock("no such city"),), is_error=True),))
    sent = body(Request(messages=[ASKED, CALLED, failed], tools=(WEATHER,)))
    assert "Error: no such city" in sent["messages"][-1]["content"]


def test_line_numbers_stay_out_of_results_and_tabs_inside_lines_do_not():
    lines = Message("user", (ToolResultBlock("c1", (TextBlock("     1\tone\n    20\ttwo\t3"),)),))
    sent = body(Request(messages=[ASKED, CALLED, lines], tools=(WEATHER,)))
    assert "one\ntwo\t3" in sent["messages"][-1]["content"]


def test_references_inside_a_schema_hold_where_the_schema_goes():
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    tool = ToolSpec(
        "walk", "", {"type": "object", "properties": {"at": {"$ref": "#/$defs/Node"}}, "$defs": {"Node": node}}
    )
    schema = body(Request(messages=[ASKED], tools=(tool,)))["response_format"]["json_schema"]["schema"]
    reference = schema["$defs"]["walk"]["$defs"]["Node"]["properties"]["next"]["$ref"]
    assert reference == schema["$defs"]["walk"]["properties"]["at"]["$ref"] == "#/$defs/walk/$defs/Node"


def test_an_answer_by_a_schema_is_held_to_it_with_tools_and_without():
    answered = Message("assistant", (TextBlock('{"rain": true}'),))
    request = Request(messages=[ASKED, answered, ASKED], tools=(WEATHER,), response_schema=RAIN)
    sent = body(request)
    assert sent["response_format"]["json_schema"]["schema"]["$defs"]["reply"] == RAIN
    assert json.loads(sent["messages"][-2]["content"]) == {"name": "reply", "arguments": {"rain": True}}
    for messages, tools in ([ASKED], ()), ([ASKED, CALLED, TOLD], (WEATHER,)):
        sent = body(Request(messages=messages, tools=tools, response_schema=RAIN))
        assert sent["response_format"]["json_schema"]["schema"] == RAIN


@pytest.mark.parametrize(
    "content", [ImageBlock("image/png", b"p"), ToolResultBlock("c1", (ImageBlock("image/png", b"p"),))]
)
def test_an_image_is_refused(content):
    before = [ASKED, CALLED] if isinstance(content, ToolResultBlock) else []
    with pytest.raises(ProviderError, match="text only") as raised:
        encode(Request(messages=[*before, Message("user", (content,))]), {})
    assert raised.value.kind == "invalid_request"


# --- What it says ----------------------------------------------------------------------------------------------------

CALL = '{"name": "weather", "arguments": {"city": "a } in \\"Oslo\\"", "days": {"n": 2} } }\n'
WORDS = '{ "name":"reply","arguments": {"text": "5 \\u00b0C,\\n\\"rain\\" \\ud83c\\udf27 {brr}"}}'
SAID = '5 °C,\n"rain" 🌧 {brr}'


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_words_arrive_while_they_are_written(size):
    deltas, completion = decode([WORDS[i : i + size] for i in range(0, len(WORDS), size)])
    assert all(isinstance(delta, TextDelta) and delta.text for delta in deltas)
    assert "".join(delta.text for delta in deltas) == completion.message.text == SAID
    assert completion.stop_reason == "end_turn"
    assert size > 3 or len(deltas) >= 10


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_call_arrives_in_pieces_that_make_its_arguments(size):
    deltas, completion = decode([CALL[i : i + size] for i in range(0, len(CALL), size)])
    arguments = {"city": 'a } in "Oslo"', "days": {"n": 2}}
    assert completion.message.content == (ToolUseBlock("call_1", "weather", arguments),)
    assert all(isinstance(delta, ToolCallDelta) for delta in deltas)
    assert {(delta.index, delta.id, delta.name) for delta in deltas} == {(0, "call_1", "weather")}
    assert json.loads("".join(delta.arguments for delta in deltas)) == arguments
    assert completion.stop_reason == "tool_use"


def test_a_call_has_an_id_that_the_history_does_not_have():
    _, completion = decode([CALL], taken=["call_2", "other"])
    assert completion.message.tool_uses[0].id not in ("call_2", "other")


@pytest.mark.parametrize("end", range(len(CALL) - 3))
def test_a_call_that_was_cut_is_no_call_to_run(end):
    deltas, completion = decode(list(CALL[:end]), finish="length")
    assert completion.stop_reason == "max_tokens"
    for call in completion.message.tool_uses:
        assert call.input == {}
        assert call.invalid == "".join(delta.arguments for delta in deltas)


@pytest.mark.parametrize("end", range(len(WORDS)))
def test_words_that_were_cut_are_what_was_seen_of_them(end):
    deltas, completion = decode(list(WORDS[:end]), finish="length")
    assert SAID.startswith(completion.message.text)
    assert completion.message.text == "".join(delta.text for delta in deltas)


@pytest.mark.parametrize("size", [1, 3, 100])
def test_an_answer_by_a_schema_is_the_json_in_the_reply(size):
    written = '{"name": "reply", "arguments": {"rain": true, "at": {"city": "Oslo"}}}'
    deltas, completion = decode([written[at : at + size] for at in range(0, len(written), size)], by_schema=True)
    assert completion.message.text == '{"rain": true, "at": {"city": "Oslo"}}'
    assert completion.stop_reason == "end_turn"
    assert "".join(delta.text for delta in deltas) == completion.message.text


def test_an_answer_that_comes_whole_is_the_same():
    for text in (CALL, WORDS):
        document = {"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]}
        assert decoder().whole(document).message.content == decode([text])[1].message.content
