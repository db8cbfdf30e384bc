"""Whether a model is made to answer by a schema by its API, by a tool or in words; and what its API is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel

import alloy
from alloy.errors import InvalidOptionError
from alloy.loop.output import OutputType
from alloy.messages import as_user_message
from alloy.providers import (
    XAI,
    Anthropic,
    ChatCompletions,
    Fallback,
    Gemini,
    OpenAI,
    Request,
    Retrying,
    Scripted,
    ToolSpec,
)
from alloy.providers.base import structured_output
from alloy.providers.chat_encode import Encoder
from alloy.providers.compat import HOSTS
from alloy.providers.local_prompt import encode as encode_local

BOOK = {
    "title": "Book",
    "type": "object",
    "properties": {"name": {"type": "string"}, "year": {"type": "integer", "default": 0}},
    "required": ["name"],
}
STRICT = BOOK | {"additionalProperties": False}
STRICT["properties"] = {"name": {"type": "string"}, "year": {"type": "integer"}}
TREE = {
    "type": "object",
    "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}},
    "$defs": {
        "Tree": {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#/$defs/Tree"}}}}
    },
}
ANY_KEYS = {"type": "object", "additionalProperties": {"type": "integer"}}
LOOSE = {"type": "object", "properties": {f"p{n}": {"type": "integer"} for n in range(11)}}
TOOL = ToolSpec("look_up", "Looks a word up.", {"type": "object", "properties": {}})
KEY = "key-0123456789"


def anthropic(model="claude-sonnet-5-5", **settings):
    return Anthropic(model, KEY, cache=None, **settings)


def chat(host, model="model", **settings):
    return ChatCompletions(
        model, KEY, base_url=HOSTS[host].base_url or "https://x.openai.azure.com", compat=host, **settings
    )


def sent(adapter, tools=()):
    request = Request(messages=[as_user_message("Which book?")], tools=tools, response_schema=BOOK)
    return json.loads(adapter.encode(request))


WAYS = [
    (OpenAI("gpt-6.1-sol", KEY), BOOK, "native", "native"),
    (OpenAI("gpt-4o", KEY), TREE, "native", "native"),
    (OpenAI("gpt-4.1", KEY), ANY_KEYS, "native", "native"),
    (OpenAI("gpt-4-turbo", KEY), BOOK, "tool", "tool"),
    (OpenAI("gpt-4", KEY), BOOK, "tool", "tool"),
    (OpenAI("gpt-3.5-turbo", KEY), BOOK, "tool", "tool"),
    (OpenAI("o1-mini", KEY), BOOK, "prompt", "prompt"),
    (XAI("grok-5", KEY), BOOK, "native", "native"),
    (anthropic(), BOOK, "native", "native"),
    (anthropic("claude-opus-4-1-20250805"), BOOK, "native", "native"),
    (anthropic("claude-opus-4-20250514"), BOOK, "tool", "tool"),
    (anthropic("claude-sonnet-4-0"), BOOK, "tool", "tool"),
    (anthropic("claude-sonnet-4@20250514"), BOOK, "tool", "tool"),
    (anthropic("claude-3-7-sonnet-latest"), BOOK, "tool", "tool"),
    (anthropic("kimi-k3"), BOOK, "tool", "tool"),
    (anthropic(), TREE, "tool", "tool"),
    (anthropic(), ANY_KEYS, "tool", "tool"),
    (anthropic(), LOOSE, "tool", "tool"),
    (anthropic(citations=True), BOOK, "tool", "tool"),
    (Gemini("gemini-3.8-flash", KEY), TREE, "native", "native"),
    (Gemini("gemini-2.5-flash", KEY), BOOK, "native", "tool"),
    (Gemini("gemini-2.5-flash", KEY, server_tools=[{"googleSearch": {}}]), BOOK, "prompt", "prompt"),
    (Gemini("gemma-4-27b-it", KEY), BOOK, "prompt", "prompt"),
    (chat("openai", "gpt-6.1-sol"), BOOK, "native", "native"),
    (chat("deepseek"), BOOK, "tool", "tool"),
    (chat("zai"), BOOK, "tool", "tool"),
    (chat("groq"), BOOK, "native", "tool"),
    (chat("mistral"), BOOK, "native", "tool"),
    (chat("vllm"), BOOK, "native", "tool"),
    (ChatCompletions("model", base_url="http://localhost:1234/v1"), BOOK, "native", "tool"),
    (Scripted([]), BOOK, "native", "native"),
    (Scripted([], structured_output="prompt"), BOOK, "prompt", "prompt"),
    (Retrying(chat("deepseek")), BOOK, "tool", "tool"),
    (Retrying(Scripted([], structured_output="prompt")), BOOK, "prompt", "prompt"),
    (Fallback(OpenAI("gpt-6.1-sol", KEY), anthropic()), BOOK, "native", "native"),
    (Fallback(OpenAI("gpt-6.1-sol", KEY), anthropic()), TREE, "tool", "tool"),
    (Fallback(chat("deepseek"), OpenAI("gpt-6.1-sol", KEY), OpenAI("o1-mini", KEY)), BOOK, "prompt", "prompt"),
]


@pytest.mark.parametrize(("provider", "schema", "alone", "beside_tools"), WAYS, ids=repr)
def test_the_surest_way_that_model_and_schema_allow_is_taken(provider, schema, alone, beside_tools):
    assert structured_output(provider, schema, tools=False) == alone
    assert structured_output(provider, schema, tools=True) == beside_tools


def test_a_script_is_made_to_answer_in_one_of_the_three_ways():
    with pytest.raises(InvalidOptionError, match="native, tool, prompt"):
        Scripted([], structured_output="json")


def test_openai_is_sent_a_format_beside_what_else_is_said_of_the_text():
    form = {"type": "json_schema", "name": "Book", "strict": True, "schema": STRICT | {"required": ["name", "year"]}}

    assert sent(OpenAI("gpt-6.1-sol", KEY))["text"] == {"format": form}
    assert sent(OpenAI("gpt-6.1-sol", KEY, text={"verbosity": "low"}))["text"] == {"verbosity": "low", "format": form}


def test_chat_completions_is_sent_a_response_format():
    form = {"name": "Book", "strict": True, "schema": STRICT | {"required": ["name", "year"]}}

    assert sent(chat("openai"))["response_format"] == {"type": "json_schema", "json_schema": form}


def test_a_host_without_schemas_is_never_sent_one():
    with pytest.raises(alloy.ProviderError, match="response_schema") as caught:
        sent(chat("deepseek"))

    assert caught.value.kind == "invalid_request"


def test_anthropic_is_sent_a_format_beside_the_effort_and_beside_tools():
    form = {"type": "json_schema", "schema": STRICT}

    assert sent(anthropic())["output_config"] == {"format": form}
    body = sent(anthropic(effort="low"), (TOOL,))
    assert body["output_config"] == {"effort": "low", "format": form}
    assert [tool["name"] for tool in body["tools"]] == ["look_up"]
    assert "tool_choice" not in body


def test_gemini_is_sent_a_json_schema_beside_the_other_settings():
    body = sent(Gemini("gemini-3.8-flash", KEY, max_tokens=100), (TOOL,))

    generation = body["generationConfig"]
    assert generation["maxOutputTokens"] == 100
    assert generation["responseMimeType"] == "application/json"
    assert generation["responseJsonSchema"]["required"] == ["name"]
    assert "toolConfig" not in body


def test_the_embedded_model_is_held_to_the_schema_by_its_grammar():
    request = Request(messages=[as_user_message("Which book?")], response_schema=BOOK)

    body = json.loads(encode_local(request, {}))

    assert body["response_format"]["json_schema"]["schema"] == BOOK


@pytest.mark.parametrize(
    "adapter",
    [OpenAI("gpt-6.1-sol", KEY), anthropic(), Gemini("gemini-3.8-flash", KEY), chat("openai")],
    ids=lambda adapter: adapter.name,
)
def test_a_request_without_a_schema_is_sent_as_ever(adapter):
    request = Request(messages=[as_user_message("Which book?")])
    before = adapter.encode(request)
    sent(adapter)

    assert adapter.encode(request) == before
    assert not {"text", "response_format", "output_config", "generationConfig"} & json.loads(before).keys()


def test_a_schema_is_worded_once_for_all_requests_of_a_run(monkeypatch):
    worded = []
    monkeypatch.setattr("alloy.providers.chat_encode.answer_format", lambda schema: worded.append(schema) or {})
    encoder = Encoder(HOSTS["openai"], "", {"model": "m"})
    request = Request(messages=[as_user_message("Which book?")], response_schema=BOOK)

    for _ in range(3):
        encoder.encode(request)

    assert worded == [BOOK]


# --- Recorded answers ------------------------------------------------------------------------------------------------

EXCHANGES = Path(__file__).parent.parent / "wire" / "exchanges"


class Sum(BaseModel):
    """A sum that a model was asked for."""

    integer_a: int
    integer_b: int
    answer: int


class Weather(BaseModel):
    """Weather that a model was asked for."""

    city: str
    weather: str


def recorded(adapter, recording):
    """What an adapter makes of a recorded answer that came whole."""
    body = json.loads((EXCHANGES / f"{recording}.json").read_text())["response"]["body"]
    return adapter.decoder(Request(messages=[], stream=False)).whole(body)


@pytest.mark.parametrize(
    ("adapter", "recording", "kind", "value"),
    [
        (Gemini("gemini-3-pro-preview", KEY), "gemini-google-5902c04213", Sum, Sum(integer_a=2, integer_b=2, answer=4)),
        (
            chat("llama_cpp"),
            "chat_completions-llama_cpp-6feffc15e8",
            Weather,
            Weather(city="London", weather="all fire and brimstone"),
        ),
    ],
)
def test_a_recorded_answer_by_a_schema_becomes_a_value(adapter, recording, kind, value):
    assert OutputType(kind).from_text(recorded(adapter, recording).message.text) == value


def test_a_recorded_refusal_to_answer_by_a_schema_is_a_refusal():
    assert recorded(chat("openrouter"), "chat_completions-openrouter-b20d9c55a1").stop_reason == "refusal"


def test_a_host_that_writes_calls_into_its_json_is_given_a_tool_instead():
    answer = recorded(chat("mistral"), "chat_completions-mistral-ce6ab8be5e")

    assert answer.message.tool_uses == ()
    assert '{"type": "function"' in answer.message.text
    assert structured_output(chat("mistral"), BOOK, tools=True) == "tool"
