"""Anthropic: what is sent."""

from __future__ import annotations

import base64
import json
import re

import pytest

from alloy.errors import InvalidOptionError, MissingKeyError, ProviderError, ToolDefinitionError, UnknownOptionError
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    RawBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
    as_user_message,
)
from alloy.providers import from_string
from alloy.providers.anthropic import Anthropic
from alloy.providers.anthropic_encode import Encoder
from alloy.providers.base import Provider, Request, ToolSpec
from alloy.providers.options import tool_options

HI = as_user_message("Hi")
LOOK = ToolSpec("look", "Looks.", {"type": "object"})
EPHEMERAL = {"type": "ephemeral"}


def provider(**settings):
    return Anthropic("claude-sonnet-5-5", "sk-0123456789", **settings)


OWN = provider()


def sent(messages, *, to=OWN, **request):
    return json.loads(to.encode(Request(messages=messages, **request)))


def answer(*blocks, origin=OWN.origin):
    return Message("assistant", blocks, origin=origin)


def result(call_id, *content, **options):
    return ToolResultBlock(call_id, tuple(TextBlock(c) if isinstance(c, str) else c for c in content), **options)


# --- What is sent ----------------------------------------------------------------------------------------------------


def test_a_conversation_is_sent_turn_by_turn():
    history = [
        HI,
        answer(
            ThinkingBlock("", "signed"),
            TextBlock("Looking."),
            ToolUseBlock("c1", "look", {"at": "é"}, extra={"caller": {"type": "direct"}}),
            ToolUseBlock("c2", "look"),
        ),
        Message("user", (result("c1", "a"), result("c2", "b", is_error=True))),
        answer(TextBlock("Done.")),
        as_user_message("Thanks"),
    ]
    body = sent(history, system="Be brief.", tools=(LOOK,), stream=False)

    assert body == {
        "model": "claude-sonnet-5-5",
        "max_tokens": 64_000,
        "system": [{"type": "text", "text": "Be brief.", "cache_control": EPHEMERAL}],
        "tools": [
            {"name": "look", "description": "Looks.", "input_schema": {"type": "object"}, "cache_control": EPHEMERAL}
        ],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "", "signature": "signed"},
                    {"type": "text", "text": "Looking."},
                    {
                        "type": "tool_use",
                        "id": "c1",
                        "name": "look",
                        "input": {"at": "é"},
                        "caller": {"type": "direct"},
                    },
                    {"type": "tool_use", "id": "c2", "name": "look", "input": {}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": [{"type": "text", "text": "a"}]},
                    {
                        "type": "tool_result",
                        "tool_use_id": "c2",
                        "content": [{"type": "text", "text": "b"}],
                        "is_error": True,
                        "cache_control": EPHEMERAL,
                    },
                ],
            },
            {"role": "assistant", "content": [{"type": "text", "text": "Done."}]},
            {"role": "user", "content": [{"type": "text", "text": "Thanks", "cache_control": EPHEMERAL}]},
        ],
    }


def test_images_and_documents_are_sent_as_the_api_takes_them():
    data = b"\x89PNG"
    encoded = base64.b64encode(data).decode()
    blocks = (
        ImageBlock("image/png", data),
        ImageBlock("image/png", url="https://x.test/a.png"),
        DocumentBlock("application/pdf", data, name="a.pdf"),
        DocumentBlock("application/pdf", url="https://x.test/a.pdf"),
        DocumentBlock("text/markdown", b"# words", name="a.md"),
    )
    cited = {"citations": {"enabled": True}}
    content = sent([Message("user", blocks)], to=provider(cache=None, citations=True))["messages"][0]["content"]

    assert content == [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": encoded}},
        {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}},
        {
            "type": "document",
            "source": {"type": "base64", "media_type": "application/pdf", "data": encoded},
            "title": "a.pdf",
        }
        | cited,
        {"type": "document", "source": {"type": "url", "url": "https://x.test/a.pdf"}} | cited,
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "# words"},
            "title": "a.md",
        }
        | cited,
    ]


@pytest.mark.parametrize("block", [AudioBlock("audio/wav", b"x"), VideoBlock("video/mp4", b"x")])
def test_sound_and_films_are_refused_before_sending_unless_a_tool_or_another_model_made_them(block):
    with pytest.raises(ProviderError, match=f"can't be sent {block.type}") as caught:
        sent([Message("user", (block,))])
    history = [HI, answer(ToolUseBlock("c", "look")), Message("user", (result("c", block),)), answer(block), HI]
    turns = sent(history)["messages"]

    assert (caught.value.kind, caught.value.provider) == ("invalid_request", "anthropic")
    assert (
        turns[2]["content"][0]["content"][0]["text"]
        == f"({block.type} of type {block.media_type}, which can't be shown here)"
    )
    assert turns[3]["content"][0]["text"] == f"({block.type} of type {block.media_type}, made by another model)"


def test_pictures_of_a_failed_call_stand_behind_all_results():
    picture = ImageBlock("image/png", url="https://x.test/a.png")
    calls = answer(ToolUseBlock("c1", "look"), ToolUseBlock("c2", "look"))
    results = Message("user", (result("c1", picture, is_error=True), result("c2", "b", picture)))
    first, second, after = sent([HI, calls, results], to=provider(cache=None))["messages"][2]["content"]

    assert first["content"] == [{"type": "text", "text": "(see the attached media)"}]
    assert [part["type"] for part in second["content"]] == ["text", "image"]
    assert after == {"type": "image", "source": {"type": "url", "url": "https://x.test/a.png"}}


def test_thinking_without_a_signature_and_at_the_end_stays_at_home():
    cut_off = answer(ThinkingBlock("Hm.", "signed"), TextBlock("So"), ThinkingBlock("And", None))
    trailing = answer(TextBlock("So"), ThinkingBlock("And", "signed"), RawBlock("redacted_thinking", {"data": "x"}))
    only = answer(ThinkingBlock("Hm.", "signed"))

    assert [b["type"] for b in sent([HI, cut_off, HI])["messages"][1]["content"]] == ["thinking", "text"]
    assert [b["type"] for b in sent([HI, trailing, HI])["messages"][1]["content"]] == ["text"]
    assert [turn["role"] for turn in sent([HI, only, HI])["messages"]] == ["user"]


def test_a_call_of_the_vendors_without_a_result_goes_back_only_to_be_continued():
    code = {"type": "server_tool_use", "id": "s1", "name": "code_execution", "input": {}}
    nested = {"type": "server_tool_use", "id": "s2", "name": "web_search", "input": {}, "caller": {"tool_id": "s1"}}
    blocks = (
        TextBlock("Running."),
        ServerToolUseBlock("s1", "code_execution", {}, code),
        ServerToolUseBlock("s2", "web_search", {}, nested),
    )
    paused, calling = answer(*blocks), answer(*blocks, ToolUseBlock("c", "look", extra={"caller": {"tool_id": "s1"}}))

    assert sent([HI, paused])["messages"][1]["content"][1:] == [code, nested]
    assert sent([HI, paused, HI])["messages"][1]["content"] == [{"type": "text", "text": "Running."}]
    assert sent([HI, calling, Message("user", (result("c", "x"),))])["messages"][1]["content"][1:3] == [code, nested]


def test_names_of_calls_that_other_models_made_up_are_made_to_fit():
    foreign = answer(ToolUseBlock("functions.look:0", "functions.look"), origin="elsewhere")
    calls, results = sent([HI, foreign, Message("user", (result("functions.look:0", "x"),))])["messages"][1:]

    assert calls["content"][0]["name"] == "functions_look"
    assert calls["content"][0]["id"] == results["content"][0]["tool_use_id"] != "functions.look:0"


# --- Tools -----------------------------------------------------------------------------------------------------------


def test_options_of_a_tool_are_for_everybody_or_for_one_adapter():
    tool = ToolSpec("t", "T", {}, {"strict": True, "anthropic": {"defer_loading": True}, "openai": {"strict": False}})

    assert tool_options(tool, "anthropic") == {"strict": True, "defer_loading": True}
    assert tool_options(tool, "openai") == {"strict": False}
    assert tool_options(tool, "gemini") == {"strict": True}


def test_an_option_that_a_vendor_does_not_have_is_not_sent_to_it():
    tool = ToolSpec("t", "T", {}, {"defer_loading": True, "input_examples": [{}]})

    assert tool_options(tool, "anthropic") == {"defer_loading": True, "input_examples": [{}]}
    assert tool_options(tool, "openai") == {"defer_loading": True}
    assert tool_options(tool, "gemini") == tool_options(tool, "chat_completions") == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"stric": True}, "unknown option 'stric'"),
        ({"type": "memory_20250818"}, "{'anthropic': {'type': ...}}"),
        ({"anthropic": True}, r"options['anthropic'] must be a mapping"),
    ],
)
def test_an_option_that_nobody_knows_is_an_error_that_says_where_it_belongs(options, says):
    with pytest.raises(ToolDefinitionError, match=re.escape(says)):
        sent([HI], tools=(ToolSpec("t", "T", {}, options),))


def test_a_tool_has_what_the_api_can_be_told_of_it():
    options = {
        "strict": True,
        "input_examples": [{"at": "x"}],
        "anthropic": {"allowed_callers": ["code_execution_20260521"]},
    }
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    tools = (
        ToolSpec("look", "", schema, options),
        ToolSpec("memory", "Own words.", {"type": "object"}, {"anthropic": {"type": "memory_20250818"}}),
    )
    search = {"type": "web_search_20250305", "name": "web_search"}

    assert sent([HI], tools=tools, to=provider(server_tools=[search], cache=None))["tools"] == [
        {
            "name": "look",
            "input_schema": schema | {"required": []},
            "strict": True,
            "input_examples": [{"at": "x"}],
            "allowed_callers": ["code_execution_20260521"],
        },
        {"name": "memory", "type": "memory_20250818"},
        search,
    ]


@pytest.mark.parametrize(
    ("settings", "choice"),
    [
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
        (
            {"tool_choice": {"type": "tool", "name": "look"}, "parallel_tool_calls": True},
            {"type": "tool", "name": "look", "disable_parallel_tool_use": False},
        ),
    ],
)
def test_the_choice_of_tools_goes_with_tools_only(settings, choice):
    assert sent([HI], tools=(LOOK,), to=provider(**settings))["tool_choice"] == choice
    assert "tool_choice" not in sent([HI], to=provider(**settings))


# --- Caching and containers ------------------------------------------------------------------------------------------


def marks(body):
    tools = [tool["name"] for tool in body.get("tools", []) if "cache_control" in tool]
    turns = [i for i, turn in enumerate(body["messages"]) if any("cache_control" in part for part in turn["content"])]
    return tools, "cache_control" in json.dumps(body.get("system", [])), turns


def test_the_cache_is_asked_for_behind_what_stays_and_behind_the_last_turns():
    history = [HI, answer(TextBlock("1")), HI, answer(TextBlock("2")), HI]
    deferred = ToolSpec("later", "", {"type": "object"}, {"anthropic": {"defer_loading": True}})

    assert marks(sent(history, system="S", tools=(LOOK,))) == (["look"], True, [2, 4])
    assert marks(sent(history, tools=(LOOK, deferred))) == (["look"], False, [2, 4])
    assert marks(sent(history, tools=(deferred,))) == ([], False, [2, 4])
    assert marks(sent([HI])) == ([], False, [0])
    assert marks(sent([HI, answer(TextBlock("1"))])) == ([], False, [0])
    assert marks(sent(history, system="S", tools=(LOOK,), to=provider(cache=None))) == ([], False, [])


def test_breakpoints_of_ones_own_leave_room_for_the_newest_turns_first():
    history = [HI, answer(TextBlock("1")), HI]
    own = [
        ToolSpec(name, "", {"type": "object"}, {"anthropic": {"cache_control": {"type": "ephemeral", "ttl": "1h"}}})
        for name in "abcd"
    ]

    assert marks(sent(history, system="S", tools=(own[0], LOOK))) == (["a"], True, [0, 2])
    assert marks(sent(history, system="S", tools=(*own[:2], LOOK))) == (["a", "b"], False, [0, 2])
    assert marks(sent(history, system="S", tools=(*own[:3], LOOK))) == (["a", "b", "c"], False, [2])
    assert marks(sent(history, system="S", tools=(*own, LOOK))) == (["a", "b", "c", "d"], False, [])
    assert marks(sent(history, tools=(own[0], LOOK))) == (["a", "look"], False, [0, 2])
    automatic = provider(extra_body={"cache_control": {"type": "ephemeral"}})
    assert marks(sent(history, system="S", tools=(LOOK,), to=automatic)) == ([], True, [0, 2])
    last = sent(history, tools=(own[0],))["tools"][0]
    assert last["cache_control"] == {"type": "ephemeral", "ttl": "1h"}


def test_a_prompt_can_be_cached_for_an_hour():
    (block,) = sent([HI], to=provider(cache="1h"))["messages"][0]["content"]

    assert block["cache_control"] == {"type": "ephemeral", "ttl": "1h"}


def test_a_container_is_used_again_until_it_expires():
    used = answer(TextBlock("1"), RawBlock("container", {"id": "c1", "expires_at": "1970-01-01T00:01:40Z"}))
    again = answer(TextBlock("2"), RawBlock("container", {"id": "c2"}))
    code = [{"type": "code_execution_20260521", "name": "code_execution"}]

    def container(*messages, now=99.0, tools=code, **settings):
        encoder = Encoder(OWN.origin, settings, server_tools=tools, now=lambda: now)
        return json.loads(encoder.encode(Request(messages=messages))).get("container")

    assert container(HI, used, HI) == "c1"
    assert container(HI, used, HI, now=100.0) is None
    assert container(HI, used, HI, again, HI, now=100.0) == "c2"
    assert container(HI, used, HI, tools=()) is None
    assert container(HI, used, HI, container="mine") == "mine"
    assert container(HI, Message("assistant", used.content, origin="elsewhere"), HI) is None


# --- Settings --------------------------------------------------------------------------------------------------------


def test_settings_become_fields():
    to = provider(
        max_tokens=100,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        stop=["END"],
        thinking={"type": "adaptive", "display": "summarized"},
        effort="high",
        response_schema={"type": "object"},
        extra_body={"service_tier": "auto", "max_tokens": 200},
    )
    body = sent([HI], to=to)
    del body["messages"]

    assert body == {
        "model": "claude-sonnet-5-5",
        "max_tokens": 200,
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "stop_sequences": ["END"],
        "thinking": {"type": "adaptive", "display": "summarized"},
        "output_config": {"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
        "service_tier": "auto",
        "stream": True,
    }


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        ("claude-fable-5-2", 64_000),
        ("claude-haiku-4-5-20251001", 64_000),
        ("claude-opus-4-5", 64_000),
        ("claude-opus-4-1@20250805", 32_000),
        ("claude-opus-4-20250514", 32_000),
        ("claude-3-7-sonnet-latest", 64_000),
        ("claude-3-haiku-20240307", 4096),
        ("deepseek-flash", 8192),
    ],
)
def test_the_limit_that_the_api_wants_is_one_that_the_model_takes(model, limit):
    assert sent([HI], to=Anthropic(model, "sk-0123456789"))["max_tokens"] == limit


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"max_output_tokens": 5}, UnknownOptionError, "max_output_tokens"),
        ({"cache": "2h"}, InvalidOptionError, "cache"),
        ({"stop": "END"}, InvalidOptionError, "stop"),
        ({"betas": "a-beta"}, InvalidOptionError, "betas"),
        ({"model": " "}, InvalidOptionError, "model"),
    ],
)
def test_a_wrong_setting_says_so(settings, error, message):
    with pytest.raises(error, match=message):
        Anthropic(**({"model": "claude-opus-5-5", "api_key": "sk-0123456789"} | settings))


def test_the_key_is_anthropics_own_and_is_not_shown(monkeypatch):
    monkeypatch.delenv("ANTHROPIC_BASE_URL", raising=False)
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    with pytest.raises(MissingKeyError, match="ANTHROPIC_API_KEY"):
        Anthropic("claude-opus-5-5")
    keyless = Anthropic("m", base_url="http://localhost:8080/v1")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-from-the-environment")
    own = Anthropic("claude-opus-5-5")

    assert isinstance(own, Provider)
    assert (own.name, own.model) == ("anthropic", "claude-opus-5-5")
    assert "sk-" not in repr(own)
    assert repr(keyless) == "Anthropic('m', base_url='http://localhost:8080')"
    assert own.origin != Anthropic("claude-opus-5-5", "sk-another").origin
    assert keyless.origin == Anthropic("m", base_url="http://localhost:8080").origin  # the key goes to Anthropic alone
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://proxy.test")
    assert Anthropic("m").origin != Anthropic("m", base_url="http://other.test").origin
    assert (
        repr(from_string("anthropic:claude-opus-5-5")) == "Anthropic('claude-opus-5-5', base_url='http://proxy.test')"
    )
