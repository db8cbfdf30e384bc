"""The Responses API: what is sent, and to whom."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy.errors import InvalidOptionError, MissingKeyError, ProviderError, UnknownOptionError
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    RawBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    VideoBlock,
)
from alloy.providers import ChatCompletions, from_string
from alloy.providers.base import Provider, ToolSpec
from alloy.providers.openai import ENCRYPTED, OpenAI
from alloy.providers.xai import XAI
from tests.providers import rules_openai
from tests.providers.histories import TEXTS, requests
from tests.providers.openai_words import (
    HI,
    URL,
    items,
    provider,
    reasoning,
    result,
    said,
    sent,
    whole,
)

LOOK = ToolSpec("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}})


# --- What is sent -------------------------------------------------------------------------------------------------------


def test_a_request_holds_the_whole_history_and_nothing_is_stored():
    history = [
        HI,
        Message("assistant", (TextBlock("Looking."), ToolUseBlock("c1", "look", {"at": "é"}))),
        Message("user", (result("c1", "a"), TextBlock("And?"))),
    ]

    assert sent(history, system="Be brief.", stream=True) == {
        "model": "gpt-6.1-sol",
        "store": False,
        "stream": True,
        "include": [ENCRYPTED],
        "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Looking.", "annotations": []}],
            },
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at":"é"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "a"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And?"}]},
        ],
    }


def test_settings_are_fields_of_the_request():
    settings = {
        "reasoning": {"effort": "high", "summary": "auto", "mode": "pro", "context": "all_turns"},
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {}, "strict": True}, "verbosity": "low"},
        "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
        "service_tier": "flex",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "top_p": 0.9,
    }
    body = sent(to=provider(**settings, max_tokens=9, extra_body={"temperature": 1, "truncation": "auto"}))

    assert body.items() >= (settings | {"max_output_tokens": 9, "temperature": 1, "truncation": "auto"}).items()
    assert "max_output_tokens" not in sent()


@pytest.mark.parametrize(
    ("model", "settings", "included"),
    [
        ("gpt-6.1-sol", {}, [ENCRYPTED]),
        ("o4-mini", {"include": ["web_search_call.action.sources"]}, ["web_search_call.action.sources", ENCRYPTED]),
        ("gpt-6.1-sol", {"store": True}, None),
        ("gpt-4.1-mini", {}, None),
        ("openai/gpt-4o", {}, None),
        ("ft:gpt-4o:mine", {}, None),
        ("gpt-5.2-chat-latest", {}, None),
        ("grok-4-1-fast-non-reasoning", {}, None),
        ("gpt-6.1-sol", {"extra_body": {"include": []}}, []),
    ],
)
def test_encrypted_reasoning_is_asked_for_where_it_is_needed_and_taken(model, settings, included):
    assert sent(to=provider(model, **settings)).get("include") == included


@pytest.mark.parametrize("field", ["previous_response_id", "conversation"])
def test_the_whole_history_goes_with_no_reference_to_a_stored_one(field):
    with pytest.raises(InvalidOptionError, match=field):
        provider(extra_body={field: "resp_1"})


def test_tools_say_whether_they_are_strict_and_may_be_of_the_vendors_types():
    tools = (
        LOOK,
        ToolSpec("strictly", "", LOOK.input_schema, {"strict": True, "xai": {"strict": False}}),
        ToolSpec(
            "sql",
            "Runs it.",
            {"properties": {"query": {}}},
            {"openai": {"type": "custom", "format": {"type": "text"}}},
        ),
        ToolSpec("shell", "", {}, {"strict": True, "openai": {"type": "shell"}}),
    )
    search = {"type": "web_search", "search_context_size": "low"}
    body = sent(to=provider(server_tools=[search], tool_choice="required"), tools=tools)

    function = {"type": "function", "name": "look", "description": "Looks.", "parameters": LOOK.input_schema}
    assert body["tools"] == [
        function | {"strict": False},
        function
        | {"name": "strictly", "description": "", "strict": True}
        | {"parameters": LOOK.input_schema | {"required": ["at"], "additionalProperties": False}},
        {"type": "custom", "name": "sql", "description": "Runs it.", "format": {"type": "text"}},
        {"type": "shell"},
        search,
    ]
    assert body["tool_choice"] == "required"
    assert (
        sent(to=provider(tool_choice="required", parallel_tool_calls=False))
        .keys()
        .isdisjoint({"tools", "tool_choice", "parallel_tool_calls"})
    )


def test_media_are_sent_as_the_api_takes_them():
    data = b"\x89PNG"
    encoded = base64.b64encode(data).decode()
    blocks = (
        ImageBlock("image/png", data),
        ImageBlock("image/png", url="https://x.test/a.png"),
        AudioBlock("audio/mpeg", data),
        DocumentBlock("application/pdf", data, name="a.pdf"),
        DocumentBlock("application/pdf", url="https://x.test/a.pdf"),
        DocumentBlock("text/plain", b"words", name="a.txt"),
    )

    assert items(Message("user", blocks))[0]["content"] == [
        {"type": "input_image", "image_url": f"data:image/png;base64,{encoded}"},
        {"type": "input_image", "image_url": "https://x.test/a.png"},
        {"type": "input_audio", "input_audio": {"data": encoded, "format": "mp3"}},
        {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{encoded}"},
        {"type": "input_file", "file_url": "https://x.test/a.pdf"},
        {"type": "input_text", "text": "a.txt:\n\nwords"},
    ]


@pytest.mark.parametrize("block", [VideoBlock("video/mp4", b"x"), AudioBlock("audio/wav", url="https://x.test/a.wav")])
def test_media_that_the_api_cannot_take_are_refused_before_sending(block):
    with pytest.raises(ProviderError) as caught:
        sent([Message("user", (block,))])

    assert caught.value.kind == "invalid_request"


@pytest.mark.parametrize(
    ("block", "output"),
    [
        (result("c", "a", "b"), "a\n\nb"),
        (result("c", "gone", is_error=True), "Error: gone"),
        (result("c", "Error: gone", is_error=True), "Error: gone"),
        (result("c", AudioBlock("audio/wav", b"x")), "(audio of type audio/wav, which can't be shown here)"),
        (
            result("c", "a", ImageBlock("image/png", b"x"), is_error=True),
            [
                {"type": "input_text", "text": "Error:"},
                {"type": "input_text", "text": "a"},
                {"type": "input_image", "image_url": "data:image/png;base64,eA=="},
            ],
        ),
        (
            result("c", DocumentBlock("application/pdf", b"x", name="a.pdf")),
            [{"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,eA=="}],
        ),
    ],
)
def test_results_of_tools_hold_text_images_and_files(block, output):
    assert items(HI, Message("assistant", (ToolUseBlock("c", "look"),)), Message("user", (block,)))[-1] == {
        "type": "function_call_output",
        "call_id": "c",
        "output": output,
    }


def test_of_an_answer_of_another_provider_text_and_calls_are_sent():
    blocks = (
        ThinkingBlock("Hm.", "signed", extra={"item": reasoning()}),
        TextBlock("Look", extra={"item": {"type": "message", "id": "msg_1"}, "part": {"type": "refusal"}}),
        ImageBlock("image/png", b"x"),
        ServerToolUseBlock("s", "search", {}, {"type": "web_search_call"}),
        RawBlock("compaction", {"type": "compaction"}),
        ToolUseBlock("functions.look:0", "files.look", extra={"item": {"id": "fc_1"}}),
    )
    answer = Message("assistant", blocks, origin="elsewhere")
    text, image, function, output = items(HI, answer, Message("user", (result("functions.look:0", "x"),)))[1:]

    assert text["content"][0]["text"] == "Look"
    assert image["content"][0]["text"] == "(image of type image/png, made by another model)"
    assert function == {
        "type": "function_call",
        "call_id": output["call_id"],
        "name": "files_look",
        "arguments": "{}",
    }
    assert len(output["call_id"]) == 24


def test_what_was_seen_of_a_broken_off_answer_is_sent_as_text():
    own = provider()
    cut = Message("assistant", (TextBlock("So f"),), origin=own.origin, interrupted=True)

    assert items(HI, cut, HI, to=own)[1]["content"] == [{"type": "output_text", "text": "So f", "annotations": []}]


def own_blocks():
    """Blocks of answers of its own, as its decoder makes them, and some that a session may have lost parts of."""
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": "commentary"}
    text = {"type": "output_text", "annotations": [], "logprobs": []}
    made = [
        *whole(reasoning(2), said("Hm.") | {"phase": "final_answer"}).message.content,
        *whole({"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}}).message.content,
        *whole(reasoning(4), said("")).message.content,
        ThinkingBlock("Hm.", "sealed", extra={"item": {"type": "reasoning", "id": "rs_1", "summary": []}}),
        ThinkingBlock("Hm.", extra={"item": {"type": "reasoning", "id": "rs_3", "summary": []}}),
        ThinkingBlock("Hm.", "sealed"),
        ThinkingBlock("Hm."),
        TextBlock("One.", extra={"item": item, "part": text}),
        TextBlock("Two.", extra={"part": text}),
        TextBlock("No.", extra={"part": {"type": "refusal"}}),
        RawBlock("compaction", {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}),
    ]
    return TEXTS | st.sampled_from(made)


@pytest.mark.parametrize("model", ["gpt-6.1-sol", "gpt-4.1"])
def test_whatever_is_sent_keeps_the_rules(model):
    asked = provider(model)

    @given(requests(asked.origin, own=own_blocks(), own_call_id="call_{}"))
    def keeps(request):
        body = json.loads(asked.encode(request))
        rules_openai.check(body)
        if model == "gpt-4.1":
            assert all(item["type"] != "reasoning" for item in body["input"])

    keeps()


def test_the_checker_sees_what_the_api_would_refuse():
    good = sent([HI, Message("assistant", (ToolUseBlock("c", "look"),)), Message("user", (result("c", "x"),))])
    rules_openai.check(good)
    user, function, output = good["input"]
    for wrong in (
        [user, function],
        [user, output],
        [user, function, output, output],
        [user, function | {"arguments": "["}, output],
        [user, function | {"call_id": "x" * 65}, output | {"call_id": "x" * 65}],
        [user, reasoning()],
        [user, reasoning(), user],
        [user, {"type": "reasoning", "summary": []}, said("Hm.")],
        [user | {"content": []}],
    ):
        with pytest.raises(AssertionError):
            rules_openai.check(good | {"input": wrong})


# --- Who is asked -------------------------------------------------------------------------------------------------------


@pytest.fixture
def no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "XAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_string_names_the_vendors_own_api(no_keys):
    no_keys.setenv("OPENAI_API_KEY", "sk-1")
    no_keys.setenv("XAI_API_KEY", "xai-1")
    openai, xai, chat = from_string("openai:gpt-6.1-sol"), from_string("xai:grok-4.7"), from_string("openai-chat:gpt")

    assert isinstance(openai, Provider)
    assert (type(openai), openai.name, openai.model) == (OpenAI, "openai", "gpt-6.1-sol")
    assert (type(xai), xai.name, xai.model) == (XAI, "xai", "grok-4.7")
    assert (type(chat), chat.name) == (ChatCompletions, "openai")
    assert repr(xai) == "XAI('grok-4.7', base_url='https://api.x.ai/v1')"


def test_the_address_may_stand_in_the_environment(no_keys):
    no_keys.setenv("OPENAI_API_KEY", "sk-1")
    no_keys.setenv("OPENAI_BASE_URL", URL)

    assert URL in repr(OpenAI("m"))
    assert "api.openai.com" in repr(OpenAI("m", base_url="https://api.openai.com/v1"))


def test_a_vendors_key_is_sent_to_nobody_else(no_keys):
    no_keys.setenv("OPENAI_API_KEY", "sk-of-openai-1")
    no_keys.setenv("XAI_API_KEY", "xai-of-xai-1")

    assert "authorization" not in OpenAI("m", base_url=URL)._endpoint._headers
    assert "authorization" not in XAI("m", base_url=URL)._endpoint._headers
    assert XAI("m", base_url=URL).name == "xai"


def test_the_address_of_a_known_host_says_who_it_is():
    azure = OpenAI("mine", "key-0123456789", "https://me.openai.azure.com/openai/v1")

    assert azure.name == "azure"
    assert "api-key" in azure._endpoint._headers


def test_two_accounts_do_not_read_each_others_reasoning(no_keys):
    origins = {OpenAI("m", key, url).origin for key in ("key-one-1", "key-two-2") for url in (URL, "http://other.test")}

    assert len(origins) == 4
    assert OpenAI("m", "key-one-1", URL).origin == OpenAI("other", "key-one-1", URL).origin


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: OpenAI("gpt"), MissingKeyError),
        (lambda: XAI("grok"), MissingKeyError),
        (lambda: OpenAI(" "), InvalidOptionError),
        (lambda: OpenAI("m", "k", URL, temprature=1), UnknownOptionError),
        (lambda: OpenAI("m", "k", "ftp://x"), InvalidOptionError),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_sent(no_keys, make, error):
    with pytest.raises(error):
        make()
