"""Chat Completions: what is sent, and the quirks that no recording holds."""

from __future__ import annotations

import base64
import dataclasses
import json
import re

import pytest

from alloy._memo import Memo
from alloy.errors import InvalidOptionError, MissingKeyError, ProviderError, UnknownOptionError, UnknownProviderError
from alloy.history import check_history
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
    as_user_message,
)
from alloy.providers import from_string
from alloy.providers.base import Provider, Request, ToolCallDelta, ToolSpec
from alloy.providers.chat import ChatCompletions
from alloy.providers.chat_decode import usage_of
from alloy.providers.compat import HOSTS, UNKNOWN_HOST, compat_for
from alloy.providers.sse import ServerEvent

URL = "http://somewhere.test/v1"
HI = as_user_message("Hi")


def provider(host=None, **options):
    if host is None:
        return ChatCompletions("m", "sk-0123456789", URL, **options)
    return ChatCompletions("m", "sk-0123456789", HOSTS[host].base_url or URL, compat=host, **options)


def sent(messages, *, to=None, **request):
    return json.loads((to or provider()).encode(Request(messages=messages, **request)))


def answer(origin=None, *blocks):
    return Message("assistant", blocks, origin=origin)


def result(call_id, *content, **options):
    return ToolResultBlock(call_id, tuple(TextBlock(c) if isinstance(c, str) else c for c in content), **options)


def streamed(*deltas, finish="tool_calls", to=None, history=(HI,)):
    """What a stream of these deltas becomes."""
    decoder = (to or provider()).decoder(Request(messages=history))
    out = []
    for delta in deltas:
        document = {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
        out += decoder.feed(ServerEvent(json.dumps(document)))
    if finish:
        list(decoder.feed(ServerEvent(json.dumps({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}))))
    list(decoder.feed(ServerEvent("[DONE]")))
    return out, decoder.end()


def call(index, call_id, name, arguments, **more):
    piece = {"id": call_id, "function": {"name": name, "arguments": arguments}} | more
    return {"tool_calls": [piece if index is None else piece | {"index": index}]}


def calls_of(*deltas, **options):
    _, completion = streamed(*deltas, **options)
    check_history(
        [HI, completion.message, Message("user", tuple(result(c.id, "x") for c in completion.message.tool_uses))]
    )
    return [(c.id, c.name, c.invalid or dict(c.input)) for c in completion.message.tool_uses]


# --- What is sent ----------------------------------------------------------------------------------------------------


def test_a_conversation_is_sent_turn_by_turn():
    history = [
        HI,
        answer(None, TextBlock("Looking."), ToolUseBlock("c1", "look", {"at": "é"}), ToolUseBlock("c2", "look")),
        Message("user", (result("c1", "a"), result("c2", "b", is_error=True))),
        answer(None, TextBlock("Done.")),
        as_user_message("Thanks"),
    ]

    assert sent(history, system="Be brief.")["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "content": "Looking.",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"at":"é"}'}},
                {"id": "c2", "type": "function", "function": {"name": "look", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "a"},
        {"role": "tool", "tool_call_id": "c2", "content": "Error: b"},
        {"role": "assistant", "content": "Done."},
        {"role": "user", "content": "Thanks"},
    ]


def test_media_are_sent_as_the_api_takes_them():
    data = b"\x89PNG"
    encoded = base64.b64encode(data).decode()
    blocks = (
        TextBlock("See:"),
        ImageBlock("image/png", data),
        ImageBlock("image/png", url="https://x.test/a.png"),
        AudioBlock("audio/mpeg", data),
        DocumentBlock("application/pdf", data, name="a.pdf"),
        DocumentBlock("text/plain", b"words", name="a.txt"),
        VideoBlock("video/mp4", data),
    )

    assert sent([Message("user", blocks)])["messages"][0]["content"] == [
        {"type": "text", "text": "See:"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{encoded}"}},
        {"type": "image_url", "image_url": {"url": "https://x.test/a.png"}},
        {"type": "input_audio", "input_audio": {"data": encoded, "format": "mp3"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{encoded}"}},
        {"type": "text", "text": "a.txt:\n\nwords"},
        {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{encoded}"}},
    ]


@pytest.mark.parametrize(
    ("host", "block"),
    [
        ("openai", VideoBlock("video/mp4", b"x")),
        (None, AudioBlock("audio/wav", url="https://x.test/a.wav")),
        (None, DocumentBlock("application/pdf", url="https://x.test/a.pdf")),
    ],
)
def test_media_that_the_api_cannot_take_are_refused_before_sending(host, block):
    with pytest.raises(ProviderError) as caught:
        sent([Message("user", (block,))], to=provider(host))

    assert caught.value.kind == "invalid_request"


def test_media_of_a_result_follow_in_a_turn_of_the_user():
    history = [
        HI,
        answer(None, ToolUseBlock("c1", "shot")),
        Message("user", (result("c1", ImageBlock("image/png", b"x"), name="shot"),)),
        as_user_message("And?"),
    ]
    tool, user = sent(history)["messages"][2:]

    assert tool == {"role": "tool", "tool_call_id": "c1", "content": "(see the attached media)"}
    assert [part.get("text") for part in user["content"]] == ["Attached to the result of shot:", None, "And?"]


def test_thinking_goes_back_to_where_it_came_from_and_nowhere_else():
    own = provider()
    thinking = ThinkingBlock("Hm.", extra={"field": "reasoning", "reasoning_details": [{"type": "reasoning.text"}]})
    blocks = (thinking, TextBlock("Yes."), ToolUseBlock("c", "t", extra={"extra_content": {"g": 1}}))
    tail = Message("user", (result("c", "x"),))

    mine = sent([HI, answer(own.origin, *blocks), tail], to=own)["messages"][1]
    other = sent([HI, answer("another", *blocks), tail], to=own)["messages"][1]

    assert mine["reasoning"] == "Hm."
    assert mine["reasoning_details"] == [{"type": "reasoning.text"}]
    assert mine["tool_calls"][0]["extra_content"] == {"g": 1}
    assert set(other) == {"role", "content", "tool_calls"}
    assert "extra_content" not in other["tool_calls"][0]


def test_an_answer_that_was_broken_off_goes_back_as_text():
    own = provider()
    thinking = ThinkingBlock("Hm.", extra={"field": "reasoning"})
    message = dataclasses.replace(answer(own.origin, thinking, TextBlock("Ye")), interrupted=True)

    assert sent([HI, message, HI], to=own)["messages"][1] == {"role": "assistant", "content": "Ye"}


def test_a_text_that_another_api_splits_at_its_citations_is_one_again():
    message = answer("another", TextBlock("It is "), TextBlock("blue", extra={"citations": [{}]}), TextBlock("."))

    assert sent([HI, message, HI])["messages"][1]["content"] == "It is blue."


def test_what_a_tool_tells_another_adapter_is_not_sent():
    tool = ToolSpec("t", "T", {"type": "object"}, {"strict": True, "anthropic": {"defer_loading": True}})

    assert sent([HI], tools=(tool,))["tools"][0]["function"].keys() == {"name", "description", "parameters", "strict"}


def test_turns_that_meet_when_foreign_thinking_goes_are_one():
    history = [HI, answer("another", ThinkingBlock("Hm.")), as_user_message("Well?")]

    assert sent(history)["messages"] == [{"role": "user", "content": "Hi\n\nWell?"}]


def test_thinking_in_parts_goes_back_in_parts():
    own = provider("mistral")
    message = answer(own.origin, ThinkingBlock("Hm.", extra={"field": "content"}), TextBlock("Yes."))

    assert sent([HI, message, HI], to=own)["messages"][1]["content"] == [
        {"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]},
        {"type": "text", "text": "Yes."},
    ]


def test_deepseek_gets_reasoning_with_every_tool_call():
    history = [HI, answer("another", ToolUseBlock("c", "t")), Message("user", (result("c", "x"),))]

    assert sent(history, to=provider("deepseek"))["messages"][1]["reasoning_content"] == ""


def test_mistral_gets_call_ids_of_nine_characters_in_pairs():
    ids = ["toolu_01FS6PPeAPQTDNqXK3a3eRHr", "functions.read:0", "abcDEF123"]
    calls = answer(None, *(ToolUseBlock(call_id, "t") for call_id in ids))
    history = [HI, calls, Message("user", tuple(result(call_id, "x") for call_id in ids)), as_user_message("So?")]
    _, assistant, *results, filler, user = sent(history, to=provider("mistral"))["messages"]
    made = [call["id"] for call in assistant["tool_calls"]]

    assert all(re.fullmatch("[A-Za-z0-9]{9}", call_id) for call_id in made)
    assert len(set(made)) == 3
    assert made[2] == "abcDEF123"
    assert [r["tool_call_id"] for r in results] == made
    assert (filler["role"], user["role"]) == ("assistant", "user")


def test_an_interrupted_answer_is_sent_as_its_text():
    message = Message("assistant", (TextBlock("I was"),), interrupted=True)

    assert sent([HI, message, HI])["messages"][1] == {"role": "assistant", "content": "I was"}


def test_arguments_that_were_no_object_go_back_as_an_empty_one():
    history = [HI, answer(None, ToolUseBlock("c", "t", invalid='{"a')), Message("user", (result("c", "x"),))]

    assert sent(history)["messages"][1]["tool_calls"][0]["function"]["arguments"] == "{}"


def test_settings_are_put_where_the_host_wants_them():
    settings = {"max_tokens": 9, "temperature": 0.5, "effort": "low", "extra_body": {"store": False}}
    openai = sent([HI], to=provider("openai", **settings))
    router = sent([HI], to=provider("openrouter", **settings))

    assert openai["max_completion_tokens"] == 9
    assert openai["reasoning_effort"] == "low"
    assert openai["store"] is False
    assert openai["stream_options"] == {"include_usage": True}
    assert (router["max_tokens"], router["reasoning"]) == (9, {"effort": "low"})
    assert "stream_options" not in sent([HI], to=provider("mistral"))
    assert "stream" not in sent([HI], stream=False)


def test_tools_are_sent_with_their_options_and_the_choice_only_with_tools():
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    tool = ToolSpec("t", "Does.", schema, {"strict": True})
    with_choice = provider(tool_choice="required")

    body = sent([HI], to=with_choice, tools=(tool,))
    assert body["tools"] == [
        {
            "type": "function",
            "function": {"name": "t", "description": "Does.", "parameters": schema, "strict": True},
        }
    ]
    assert body["tool_choice"] == "required"
    assert "tool_choice" not in sent([HI], to=with_choice)


def test_tools_that_the_host_runs_go_with_ours():
    search = {"type": "web_search", "web_search": {"enable": True}}
    searching = provider("zai", server_tools=[search], tool_choice="auto")
    body = sent([HI], to=searching, tools=(ToolSpec("t", "T", {"type": "object"}),))

    assert [tool["type"] for tool in body["tools"]] == ["function", "web_search"]
    assert sent([HI], to=searching)["tools"] == [search]
    assert sent([HI], to=searching)["tool_choice"] == "auto"


def test_a_host_that_takes_no_references_gets_schemas_without():
    place = {"type": "object", "properties": {"city": {"type": "string"}}}
    schema = {"type": "object", "properties": {"to": {"$ref": "#/$defs/Place"}}, "$defs": {"Place": place}}
    tools = (ToolSpec("go", "Goes.", schema),)

    def parameters(host):
        return sent([HI], to=provider(host), tools=tools)["tools"][0]["function"]["parameters"]

    assert parameters("zai") == {"type": "object", "properties": {"to": place}}
    assert parameters("openai") == schema


def test_a_message_is_encoded_once():
    encoded = []
    memo = Memo(lambda message: encoded.append(message) or b"12345", size=len, limit=12)
    messages = [as_user_message(text) for text in "abc"]

    for message in (messages[0], messages[0], messages[1], messages[0], messages[2], messages[0], messages[1]):
        memo(message)

    assert [message.text for message in encoded] == ["a", "b", "c", "b"]


# --- What comes back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("deltas", "calls"),
    [
        ([call(0, "a", "t", '{"x":'), call(0, "", "", "1}")], [("a", "t", {"x": 1})]),
        ([call(0, "a", "t", ""), call(0, None, None, "")], [("a", "t", {})]),
        ([call(0, "a", "t", ""), call(0, "a", "t", "{}")], [("a", "t", {})]),
        ([call(0, "a", "t", '{"x":'), call(0, "b", "", "1}")], [("a", "t", {"x": 1})]),
        ([call(0, "a", "t", "{}"), call(0, "b", "t", '{"y":2}')], [("a", "t", {}), ("b", "t", {"y": 2})]),
        ([call(0, "a", "t", "{}"), call(0, "b", "u", '{"y":'), call(0, "b", "", "2}")], [("a", "t", {}), ("b", "u", {"y": 2})]),
        ([call(1, "b", "u", "{"), call(0, "a", "t", "{"), call(1, "", "", "}"), call(0, "", "", "}")], [("b", "u", {}), ("a", "t", {})]),
        ([call(None, "a", "t", "{}"), call(None, "b", "t", "{}")], [("a", "t", {}), ("b", "t", {})]),
        ([call(None, "a", "t", '{"x":'), call(None, None, None, "1}")], [("a", "t", {"x": 1})]),
        ([call(None, None, "t", "{}"), call(None, None, "u", "{}")], [("call_1", "t", {}), ("call_2", "u", {})]),
        ([call(0, "same", "t", "{}"), call(1, "same", "t", "{}")], [("same", "t", {}), ("same_2", "t", {})]),
        ([call(0, "a", "t", "null")], [("a", "t", {})]),
        ([call(0, "a", "t", "[1]")], [("a", "t", "[1]")]),
        ([call(0, "a", "t", '"{}"')], [("a", "t", '"{}"')]),
        ([call(0, "a", "t", '{"x": 1')], [("a", "t", '{"x": 1')]),
        ([call(0, "a", "t", {"x": 1})], [("a", "t", {"x": 1})]),
        ([{"tool_calls": None}, {"tool_calls": []}, call(0, "a", "t", None)], [("a", "t", {})]),
        ([{"function_call": {"name": "t", "arguments": '{"x"'}}, {"function_call": {"arguments": ":1}"}}], [("call_1", "t", {"x": 1})]),
        ([{"function_call": {"name": "", "arguments": ""}}], []),
        ([call(0, "a", "", '{"x":1}')], [("a", "unnamed", {"x": 1})]),
    ],
)  # fmt: skip
def test_calls_are_put_together_however_they_are_numbered(deltas, calls):
    if calls:
        assert calls_of(*deltas) == calls
    else:
        assert streamed(*deltas)[1].stop_reason == "end_turn"


def test_a_call_id_that_the_history_has_already_gets_a_number():
    history = (HI, answer(None, ToolUseBlock("0", "t")), Message("user", (result("0", "x"),)))
    deltas, completion = streamed(call(0, "0", "t", "{}"), history=history)

    assert completion.message.tool_uses[0].id == "0_2"
    assert deltas == [ToolCallDelta(0, "0_2", "t", "{}")]


@pytest.mark.parametrize(
    ("finish", "deltas", "reason"),
    [
        ("stop", [{"content": "x"}], "end_turn"),
        ("stop", [call(0, "a", "t", "{}")], "tool_use"),
        ("tool_calls", [{"content": "x"}], "end_turn"),
        (None, [{"content": "x"}], "end_turn"),
        (None, [call(0, "a", "t", "{}")], "tool_use"),
        ("length", [call(0, "a", "t", "{")], "max_tokens"),
        ("content_filter", [], "refusal"),
        ("stop", [{"refusal": "No."}], "refusal"),
        ("model_context_window_exceeded", [{"content": "x"}], "context_window"),
        ("a_new_one", [{"content": "x"}], "unknown"),
    ],
)
def test_every_finish_reason_has_a_meaning(finish, deltas, reason):
    _, completion = streamed(*deltas, finish=finish)

    assert (completion.stop_reason, completion.raw_stop_reason) == (reason, finish)


@pytest.mark.parametrize(
    ("finish", "kind"), [("insufficient_system_resource", "overloaded"), ("error", "server_error")]
)
def test_a_finish_reason_that_is_a_failure_is_one(finish, kind):
    with pytest.raises(ProviderError) as caught:
        streamed({"content": "x"}, finish=finish)

    assert caught.value.kind == kind


@pytest.mark.parametrize(
    "event",
    [
        ServerEvent('{"error": {"message": "Overloaded", "code": 503}, "choices": []}'),
        ServerEvent('{"message": "Overloaded", "code": 503}', event="error"),
        ServerEvent('[{"error": {"message": "Overloaded", "code": 503}}]'),
        ServerEvent('{"object": "error", "message": "Overloaded", "code": 503}'),
        ServerEvent("", unknown=('error: {"message": "Overloaded", "code": 503}',)),
        ServerEvent("", unknown=('{"error": {"message": "Overloaded", "code": 503}}',)),
    ],
)
def test_an_error_in_a_stream_is_found_in_any_shape(event):
    decoder = provider().decoder(Request(messages=[HI]))
    with pytest.raises(ProviderError) as caught:
        list(decoder.feed(event))

    assert (caught.value.kind, caught.value.status, caught.value.message) == ("overloaded", 503, "Overloaded")


@pytest.mark.parametrize(
    "document", [{}, [], None, {"choices": []}, {"choices": None}, {"object": "error", "message": "x"}]
)
def test_a_whole_answer_without_choices_is_an_error(document):
    with pytest.raises(ProviderError):
        provider().decoder(Request(messages=[HI], stream=False)).whole(document)


@pytest.mark.parametrize(
    "junk", [None, 1, "x", [], [1], {"index": 0}, {"delta": 1}, {"delta": {"tool_calls": [1, {}]}}]
)
def test_choices_of_no_known_shape_do_no_harm(junk):
    decoder = provider().decoder(Request(messages=[HI]))
    list(decoder.feed(ServerEvent(json.dumps({"choices": [junk], "usage": {"prompt_tokens": None}}))))
    list(decoder.feed(ServerEvent("[DONE]")))

    assert decoder.end().message.content == ()


def test_blank_text_before_a_call_is_no_text():
    deltas, completion = streamed({"content": "\n"}, {"content": "\n"}, call(0, "a", "t", "{}"))

    assert [type(block) for block in completion.message.content] == [ToolUseBlock]
    assert [type(delta) for delta in deltas] == [ToolCallDelta]


def test_only_the_first_choice_counts():
    choices = [{"index": 1, "message": {"content": "b"}}, {"index": 0, "message": {"content": "a"}}]
    completion = provider().decoder(Request(messages=[HI], stream=False)).whole({"choices": choices})

    assert completion.message.text == "b"


def test_audio_comes_with_its_transcript():
    piece = base64.b64encode(b"ab").decode()
    _, completion = streamed(
        {"audio": {"id": "x", "transcript": "Hel"}}, {"audio": {"transcript": "lo", "data": piece}}, {"audio": {"data": piece}},
        finish="stop", to=provider(extra_body={"audio": {"format": "pcm16"}}),
    )  # fmt: skip

    assert completion.message.content == (TextBlock("Hello"), AudioBlock("audio/pcm16", b"abab"))


def test_pictures_in_an_answer_are_kept():
    url = "data:image/png;base64," + base64.b64encode(b"png").decode()
    _, completion = streamed({"images": [{"type": "image_url", "image_url": {"url": url}}]}, finish="stop")

    assert completion.message.content == (ImageBlock("image/png", b"png"),)


@pytest.mark.parametrize(
    ("raw", "counts"),
    [
        ({}, (0, 0, 0, 0, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}, (10, 0, 0, 5, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 3}}, (3, 4, 3, 5, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 22, "completion_tokens_details": {"reasoning_tokens": 7}}, (10, 0, 0, 12, 7)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 22}, (10, 0, 0, 12, 7)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "completion_tokens_details": {"reasoning_tokens": 9}}, (10, 0, 0, 5, 5)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 115, "cache_read_input_tokens": 100}, (10, 100, 0, 5, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "cache_read_input_tokens": 100}, (10, 100, 0, 5, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "prompt_cache_hit_tokens": 4, "prompt_cache_miss_tokens": 6}, (6, 4, 0, 5, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "cached_tokens": 4}, (6, 4, 0, 5, 0)),
        ({"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15, "num_cached_tokens": 4}, (6, 4, 0, 5, 0)),
        ({"prompt_tokens": None, "completion_tokens": "x", "prompt_tokens_details": None}, (0, 0, 0, 0, 0)),
    ],
)  # fmt: skip
def test_usage_is_counted_the_same_way_for_every_host(raw, counts):
    usage = usage_of(raw)

    found = (usage.input_tokens, usage.cache_read_tokens, usage.cache_write_tokens, usage.output_tokens)
    assert (*found, usage.reasoning_tokens) == counts


# --- Who is asked ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_keys(monkeypatch):
    for compat in HOSTS.values():
        for name in (*compat.key_variables, compat.url_variable or "NONE"):
            monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_string_names_a_provider(no_keys):
    no_keys.setenv("GROQ_API_KEY", "gsk_1")
    made = from_string("groq:openai/gpt-oss:120b")

    assert isinstance(made, Provider)
    assert (made.name, made.model) == ("groq", "openai/gpt-oss:120b")
    assert "api.groq.com" in repr(made)


def test_a_string_follows_the_address_in_the_environment(no_keys):
    no_keys.setenv("OPENAI_API_KEY", "sk-1")
    no_keys.setenv("OPENAI_BASE_URL", URL)

    assert URL in repr(from_string("openai:gpt"))


def test_a_string_that_names_nobody_is_refused(no_keys):
    with pytest.raises(UnknownProviderError, match="did you mean 'openai'"):
        from_string("openia:gpt")
    with pytest.raises(InvalidOptionError, match="openai:<model>"):
        from_string("openai")
    with pytest.raises(MissingKeyError, match="OPENAI_API_KEY"):
        from_string("openai:gpt")


def test_a_vendors_key_is_sent_to_nobody_else(no_keys):
    no_keys.setenv("OPENAI_API_KEY", "sk-of-openai-1")
    elsewhere = ChatCompletions("m", base_url=URL)

    assert "authorization" not in elsewhere._endpoint._headers


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://me.openai.azure.com/openai/v1", "azure"),
        ("https://api.deepseek.com", "deepseek"),
        ("http://127.0.0.1:11434/v1", "ollama"),
        ("http://localhost:11434/v1", "ollama"),
        ("https://api.openai.com.evil.test/v1", UNKNOWN_HOST.name),
        (URL, UNKNOWN_HOST.name),
    ],
)
def test_a_host_is_told_from_its_address(url, name):
    assert compat_for(url).name == name


def test_the_hosts_ways_can_be_set():
    own = dataclasses.replace(UNKNOWN_HOST, name="mine", max_tokens="max_completion_tokens")

    assert sent([HI], to=provider(compat=own, max_tokens=3))["max_completion_tokens"] == 3
    with pytest.raises(InvalidOptionError, match="compat"):
        provider(compat="nobody")
    with pytest.raises(UnknownOptionError, match="temperature"):
        provider(temprature=1)


def test_azure_gets_its_key_in_its_own_header():
    endpoint = provider("azure")._endpoint

    assert endpoint._headers["api-key"].header == "sk-0123456789"
