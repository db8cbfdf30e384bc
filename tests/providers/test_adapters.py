"""What is the same at every adapter: settings, errors, and when an answer is streamed."""

from __future__ import annotations

import json

import anyio
import httpx
import pytest

import alloy
from alloy.errors import InvalidOptionError, ProviderError, UnknownOptionError
from alloy.messages import Message, RawBlock, as_user_message
from alloy.providers import XAI, Anthropic, ChatCompletions, Gemini, OpenAI
from alloy.providers.base import Completion, Request, ToolSpec

HI = as_user_message("Hi")
URL = "http://somewhere.test/v1"
LOOK = ToolSpec("look", "Looks.", {"type": "object", "properties": {}})
ADAPTERS = {
    "anthropic": lambda **settings: Anthropic("claude-sonnet-5-5", "key-0123456789", URL, **settings),
    "openai": lambda **settings: OpenAI("gpt-6.1-sol", "key-0123456789", URL, **settings),
    "xai": lambda **settings: XAI("grok-4.7", "key-0123456789", URL, **settings),
    "chat": lambda **settings: ChatCompletions("m", "key-0123456789", URL, **settings),
    "gemini": lambda **settings: Gemini("gemini-3.8-flash", "key-0123456789", URL, **settings),
}
every_adapter = pytest.mark.parametrize("name", ADAPTERS)

BOOK = {
    "title": "Book",
    "type": "object",
    "properties": {"name": {"type": "string"}, "year": {"type": "integer", "default": 0}},
    "required": ["name"],
}
STRICT_BOOK = {
    "title": "Book",
    "type": "object",
    "properties": {"name": {"type": "string"}, "year": {"type": "integer"}},
    "required": ["name", "year"],
    "additionalProperties": False,
}
FORMAT = {"name": "Book", "schema": STRICT_BOOK, "strict": True}


def sent(name, *, tools=(), **settings):
    return json.loads(ADAPTERS[name](**settings).encode(Request(messages=[HI], tools=tools, stream=False)))


def at(body, path):
    for step in path.split("."):
        body = body[step]
    return body


# --- Settings --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "paths"),
    [
        ("anthropic", ["max_tokens", "temperature", "top_p", "output_config.effort"]),
        ("openai", ["max_output_tokens", "temperature", "top_p", "reasoning.effort"]),
        ("xai", ["max_output_tokens", "temperature", "top_p", "reasoning.effort"]),
        ("chat", ["max_tokens", "temperature", "top_p", "reasoning_effort"]),
        (
            "gemini",
            [
                "generationConfig.maxOutputTokens",
                "generationConfig.temperature",
                "generationConfig.topP",
                "generationConfig.thinkingConfig.thinkingLevel",
            ],
        ),
    ],
)
def test_a_setting_has_one_name_everywhere(name, paths):
    body = sent(name, max_tokens=9, temperature=0.5, top_p=0.9, effort="low")

    assert [at(body, path) for path in paths] == [9, 0.5, 0.9, "LOW" if name == "gemini" else "low"]


@pytest.mark.parametrize(
    ("name", "required", "named"),
    [
        ("anthropic", {"type": "any"}, {"type": "tool", "name": "look"}),
        ("openai", "required", {"type": "function", "name": "look"}),
        ("xai", "required", {"type": "function", "name": "look"}),
        ("chat", "required", {"type": "function", "function": {"name": "look"}}),
        ("gemini", {"mode": "ANY"}, {"mode": "ANY", "allowedFunctionNames": ["look"]}),
    ],
)
def test_a_tool_can_be_required_or_named_in_the_same_words(name, required, named):
    def choice(asked):
        body = sent(name, tools=(LOOK,), tool_choice=asked)
        return body["toolConfig"]["functionCallingConfig"] if name == "gemini" else body["tool_choice"]

    assert choice("required") == required
    assert choice({"name": "look"}) == named
    assert choice(named) == named
    assert choice("auto") in ("auto", {"type": "auto"}, {"mode": "AUTO"})
    assert choice("none") in ("none", {"type": "none"}, {"mode": "NONE"})


def test_a_custom_tool_is_named_as_such():
    sql = ToolSpec("sql", "", {"properties": {"query": {}}}, {"openai": {"type": "custom"}})

    assert sent("openai", tools=(sql,), tool_choice={"name": "sql"})["tool_choice"] == {"type": "custom", "name": "sql"}


@pytest.mark.parametrize(
    ("name", "path", "value"),
    [
        ("openai", "text.format", {"type": "json_schema"} | FORMAT),
        ("xai", "text.format", {"type": "json_schema"} | FORMAT),
        ("chat", "response_format", {"type": "json_schema", "json_schema": FORMAT}),
        (
            "anthropic",
            "output_config.format",
            {"type": "json_schema", "schema": STRICT_BOOK | {"required": ["name"]}},
        ),
        ("gemini", "generationConfig.responseJsonSchema", BOOK | {"properties": STRICT_BOOK["properties"]}),
    ],
)
def test_an_answer_by_a_schema_is_asked_for_in_the_same_words(name, path, value):
    assert at(sent(name, response_schema=BOOK), path) == value


@pytest.mark.parametrize("name", ["openai", "chat", "anthropic"])
def test_a_schema_that_cannot_be_enforced_goes_as_it_is(name):
    anything = {"type": "object", "additionalProperties": {"type": "string"}}
    body = sent(name, response_schema=anything)
    form = {
        "openai": lambda: body["text"]["format"],
        "chat": lambda: body["response_format"]["json_schema"],
        "anthropic": lambda: body["output_config"]["format"] | {"name": "answer", "strict": False},
    }[name]()

    assert (form["name"], form["schema"], form["strict"]) == ("answer", anything, False)


def test_what_only_a_vendor_has_goes_beside_the_common_settings():
    body = sent("openai", response_schema=BOOK, text={"verbosity": "low"}, effort="high", reasoning={"summary": "auto"})

    assert body["text"] == {"verbosity": "low", "format": {"type": "json_schema"} | FORMAT}
    assert body["reasoning"] == {"summary": "auto", "effort": "high"}


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("openai", {"response_schema": BOOK, "text": {"format": {"type": "json_object"}}}),
        ("openai", {"effort": "low", "reasoning": {"effort": "high"}}),
        ("chat", {"response_schema": BOOK, "response_format": {"type": "json_object"}}),
        ("gemini", {"effort": "low", "thinking_budget": 5}),
    ],
)
def test_two_settings_that_say_the_same_are_an_error(name, settings):
    with pytest.raises(InvalidOptionError, match="beside"):
        ADAPTERS[name](**settings)


def test_a_host_that_takes_no_schema_says_what_it_takes():
    with pytest.raises(InvalidOptionError, match="json_object"):
        ChatCompletions("deepseek-v4-pro", "key-0123456789", compat="deepseek", response_schema=BOOK)


@pytest.mark.parametrize(("effort", "budget"), [("none", 0), ("low", 1024), ("medium", 8192), ("high", 24_576)])
def test_effort_is_a_budget_for_older_models_of_gemini(effort, budget):
    old = Gemini("gemini-2.5-flash", "key-0123456789", URL, effort=effort)
    body = json.loads(old.encode(Request(messages=[HI])))

    assert body["generationConfig"]["thinkingConfig"] == {"thinkingBudget": budget}
    with pytest.raises(InvalidOptionError, match="thinking_budget"):
        Gemini("gemini-2.5-flash", "key-0123456789", URL, effort="extreme")


@every_adapter
def test_what_cannot_be_is_said_at_once(name):
    with pytest.raises(UnknownOptionError, match="temperature"):
        ADAPTERS[name](temprature=1)
    with pytest.raises(InvalidOptionError, match="tool_choice"):
        ADAPTERS[name](tool_choice="requird")
    with pytest.raises(InvalidOptionError, match="model"):
        type(ADAPTERS[name]())(" ")


@pytest.mark.parametrize(
    ("name", "setting"), [("anthropic", "stop"), ("openai", "include"), ("chat", "stop"), ("gemini", "stop")]
)
def test_a_text_is_no_list_of_texts(name, setting):
    with pytest.raises(InvalidOptionError, match="a list of texts"):
        ADAPTERS[name](**{setting: "END"})


# --- Tools -----------------------------------------------------------------------------------------------------------


@every_adapter
def test_a_strict_tool_meets_the_vendors_rules(name):
    place = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
    schema = {
        "type": "object",
        "properties": {"to": {"$ref": "#/$defs/Place", "description": "Where to."}, "days": {"type": "integer"}},
        "required": ["to"],
        "$defs": {"Place": place},
    }
    body = sent(name, tools=(ToolSpec("go", "Goes.", schema, {"strict": True}),))
    (tool,) = body["tools"]
    match name:
        case "gemini":
            assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
            return
        case "anthropic":
            strict, found = tool["strict"], tool["input_schema"]
        case "chat":
            strict, found = tool["function"]["strict"], tool["function"]["parameters"]
        case _:
            strict, found = tool["strict"], tool["parameters"]

    assert strict is True
    assert found["properties"]["to"] == {"anyOf": [{"$ref": "#/$defs/Place"}], "description": "Where to."}
    assert found["required"] == (["to"] if name == "anthropic" else ["to", "days"])
    assert found["additionalProperties"] is found["$defs"]["Place"]["additionalProperties"] is False


@pytest.mark.parametrize("name", ["anthropic", "openai", "chat"])
def test_a_tool_that_cannot_be_strict_is_not(name):
    schema = {"type": "object", "properties": {"any": {}}}
    (tool,) = sent(name, tools=(ToolSpec("go", "Goes.", schema, {"strict": True}),))["tools"]
    told = tool.get("function", tool)

    assert told.get("strict", False) is False
    assert (told.get("parameters") or told["input_schema"]) == schema


@pytest.mark.anyio
async def test_a_tool_that_a_vendor_has_natively_is_ours_to_run():
    @alloy.tool(options={"anthropic": {"type": "memory_20250818"}})
    async def memory(command: str, path: str) -> str:
        """Remembers."""
        return f"{command} {path}"

    call = {"type": "tool_use", "id": "toolu_1", "name": "memory", "input": {"command": "view", "path": "/memories"}}
    answers = [
        {"content": [call], "stop_reason": "tool_use"},
        {"content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn"},
    ]
    bodies = []

    def respond(request):
        bodies.append(json.loads(request.content))
        return httpx.Response(200, json=answers.pop(0))

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        with anyio.fail_after(5):
            result = await alloy.run("Hi", provider=ADAPTERS["anthropic"](client=client, cache=None), tools=[memory])

    assert result.text == "Done."
    assert bodies[1]["tools"] == [{"name": "memory", "type": "memory_20250818"}]
    assert bodies[1]["messages"][1]["content"] == [call]
    assert bodies[1]["messages"][2]["content"][0]["content"] == [{"type": "text", "text": "view /memories"}]


# --- Asking ----------------------------------------------------------------------------------------------------------


@every_adapter
def test_a_request_that_cannot_be_sent_says_who_was_asked(name):
    adapter = ADAPTERS[name]()
    with pytest.raises(ProviderError) as caught:
        adapter.encode(Request(messages=[Message("user", (RawBlock("x", {}),))]))

    assert (caught.value.provider, caught.value.model) == (adapter.name, adapter.model)
    assert caught.value.kind == "invalid_request"


async def is_streamed(name, **settings):
    """Whether an answer that nobody watches is asked for as a stream."""
    asked = []

    def respond(request):
        body = json.loads(request.content)
        asked.append(bool(body.get("stream")) or "alt=sse" in str(request.url))
        return httpx.Response(503, text="no")

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        with pytest.raises(ProviderError):
            async with ADAPTERS[name](client=client, **settings).stream(Request(messages=[HI], stream=False)):
                pass
    return asked[0]


@pytest.mark.anyio
@every_adapter
async def test_an_answer_that_may_get_long_is_streamed_though_nobody_watches(name):
    assert await is_streamed(name)
    assert await is_streamed(name, max_tokens=16_385)
    assert not await is_streamed(name, max_tokens=16_384)


@pytest.mark.anyio
async def test_the_limit_counts_wherever_it_is_said():
    assert not await is_streamed("gemini", extra_body={"generationConfig": {"maxOutputTokens": 9}})
    assert await is_streamed("chat", max_tokens=9, extra_body={"max_tokens": 100_000})


@pytest.mark.anyio
async def test_sound_is_fetched_whole_as_streams_hold_none_that_can_be_played():
    assert not await is_streamed("chat", extra_body={"audio": {"voice": "alloy", "format": "wav"}})


@pytest.mark.anyio
async def test_a_stream_that_nobody_watched_is_asked_for_again_when_it_breaks():
    said = 'data: {"choices": [{"delta": {"content": "Hello"}%s}]}\n\n'
    bodies = [said % "", said % ', "finish_reason": "stop"' + "data: [DONE]\n\n"]

    def respond(request):
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=bodies.pop(0))

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        provider = ADAPTERS["chat"](client=client)
        with anyio.fail_after(5):
            result = await alloy.run("Hi", provider=provider, retry_backoff=0)

    assert (result.text, bodies) == ("Hello", [])


@pytest.mark.anyio
async def test_who_does_not_watch_gets_nothing_but_the_end():
    text = 'data: {"choices": [{"delta": {"content": "Hello"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n'

    def respond(request):
        return httpx.Response(200, headers={"content-type": "text/event-stream"}, text=text)

    async with (
        httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client,
        ADAPTERS["chat"](client=client).stream(Request(messages=[HI], stream=False)) as items,
    ):
        assert [type(item) async for item in items] == [Completion]


# --- What a failure took ---------------------------------------------------------------------------------------------

FAILED = {
    "openai": {
        "status": "failed",
        "error": {"code": "server_error", "message": "It broke."},
        "usage": {"input_tokens": 7, "output_tokens": 5},
    },
    "chat": {
        "choices": [{"message": {"content": "So"}, "finish_reason": "insufficient_system_resource"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5},
    },
    "gemini": {
        "candidates": [{"content": {"parts": []}, "finishReason": "MALFORMED_FUNCTION_CALL"}],
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 5},
    },
}
REFUSED = {
    "anthropic": {
        "content": [],
        "stop_reason": "refusal",
        "usage": {"input_tokens": 7, "output_tokens": 5},
    },
    "openai": {
        "status": "incomplete",
        "incomplete_details": {"reason": "content_filter"},
        "output": [],
        "usage": {"input_tokens": 7, "output_tokens": 5},
    },
    "chat": {
        "choices": [{"message": {"content": ""}, "finish_reason": "content_filter"}],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5},
    },
    "gemini": {
        "promptFeedback": {"blockReason": "SAFETY"},
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 5},
    },
}


async def used(name, document, **options):
    """What a run took whose every answer is this one, and what its envelopes say of that."""
    told = []
    transport = httpx.MockTransport(lambda request: httpx.Response(200, json=document))
    async with httpx.AsyncClient(transport=transport) as client:
        provider = ADAPTERS[name](client=client)
        with anyio.fail_after(5), pytest.raises(alloy.RunError) as caught:
            await alloy.run("Hi", provider=provider, retry_backoff=0, on_event=told.append, **options)
    turns = [envelope.payload["usage"] for envelope in told if envelope.event == "turn_end"]
    usage = caught.value.result.usage
    assert turns == [usage.as_dict()]
    return usage.input_tokens, usage.output_tokens, usage.requests


@pytest.mark.anyio
@pytest.mark.parametrize("name", REFUSED)
async def test_a_refusal_that_was_paid_for_is_counted(name):
    assert await used(name, REFUSED[name]) == (7, 5, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("name", FAILED)
async def test_a_failure_that_was_paid_for_is_counted_at_each_attempt(name):
    assert await used(name, FAILED[name], max_retries=2) == (21, 15, 3)


@pytest.mark.anyio
async def test_a_failure_that_says_nothing_of_a_price_costs_nothing():
    assert await used("openai", {"status": "failed", "error": {"message": "No."}}, max_retries=1) == (0, 0, 0)
