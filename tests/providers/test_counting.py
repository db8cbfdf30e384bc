"""Asking a vendor how many tokens a request has."""

from __future__ import annotations

import json

import httpx
import pytest

from alloy.errors import ProviderError
from alloy.messages import ImageBlock, Message, TextBlock, as_user_message
from alloy.providers import (
    XAI,
    Anthropic,
    ChatCompletions,
    CountsTokens,
    Fallback,
    Gemini,
    OpenAI,
    Request,
    Retrying,
    Scripted,
    ToolSpec,
)

pytestmark = pytest.mark.anyio

KEY = "sk-a-very-secret-key-0123456789"
TOOL = ToolSpec("weather", "What the weather is like.", {"type": "object", "properties": {"city": {"type": "string"}}})
REQUEST = Request(messages=[as_user_message("Hello!")], system="Be brief.", tools=(TOOL,))


class Vendor:
    """Answers every request with the same, and keeps what came."""

    def __init__(self, document, status=200):
        self.requests = []
        self.client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        self._reply = (status, document)

    def answer(self, request):
        self.requests.append(request)
        status, document = self._reply
        return httpx.Response(status, json=document)

    @property
    def path(self):
        return self.requests[0].url.path

    @property
    def body(self):
        return json.loads(self.requests[0].content)


async def test_anthropic_is_sent_the_request_without_what_is_only_about_the_answer():
    vendor = Vendor({"input_tokens": 403})
    settings = {
        "max_tokens": 100,
        "temperature": 0.5,
        "stop": ["END"],
        "effort": "low",
        "thinking": {"type": "adaptive"},
    }
    provider = Anthropic("claude-opus-5-5", KEY, "https://api.test", client=vendor.client, **settings)

    assert await provider.count_tokens(REQUEST) == 403
    assert vendor.path == "/v1/messages/count_tokens"
    assert vendor.body.keys() == {"model", "messages", "system", "tools", "output_config", "thinking"}
    assert vendor.body["messages"][0]["content"][0]["text"] == "Hello!"
    assert vendor.requests[0].headers["x-api-key"] == KEY


async def test_openai_is_sent_the_request_without_what_is_only_about_the_answer():
    vendor = Vendor({"object": "response.input_tokens", "input_tokens": 57})
    provider = OpenAI("gpt-6-luna", KEY, "https://api.test/v1", client=vendor.client, max_tokens=9, effort="low")

    assert await provider.count_tokens(REQUEST) == 57
    assert vendor.path == "/v1/responses/input_tokens"
    assert vendor.body.keys() == {"model", "input", "instructions", "tools", "reasoning"}


async def test_gemini_is_sent_the_whole_request_inside_of_another():
    vendor = Vendor({"totalTokens": 31, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 31}]})
    provider = Gemini("gemini-3.8-flash", KEY, "https://api.test/v1beta", client=vendor.client, max_tokens=9)

    assert await provider.count_tokens(REQUEST) == 31
    assert vendor.path == "/v1beta/models/gemini-3.8-flash:countTokens"
    inner = vendor.body["generateContentRequest"]
    assert inner.pop("model") == "models/gemini-3.8-flash"
    assert inner.keys() == {"contents", "systemInstruction", "tools", "generationConfig"}


async def test_vertex_is_sent_what_counts_as_it_is():
    vendor = Vendor({"totalTokens": 31, "totalBillableCharacters": 80})
    url = "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/google"
    provider = Gemini(
        "gemini-3.8-flash", KEY, url, client=vendor.client, safety_settings=[], tool_choice="auto", temperature=0.5
    )

    assert await provider.count_tokens(REQUEST) == 31
    assert vendor.path.endswith("/publishers/google/models/gemini-3.8-flash:countTokens")
    assert vendor.body.keys() == {"contents", "systemInstruction", "tools", "generationConfig"}


async def test_a_long_request_is_counted_whole():
    vendor = Vendor({"input_tokens": 2})
    provider = Anthropic("claude-opus-5-5", KEY, "https://api.test", client=vendor.client)
    image = ImageBlock("image/png", bytes(1_000_000))

    await provider.count_tokens(Request(messages=[Message("user", (TextBlock("Look:"), image))]))

    assert len(vendor.body["messages"][0]["content"][1]["source"]["data"]) > 1_000_000


@pytest.mark.parametrize(
    "provider",
    [ChatCompletions("m", KEY, "https://api.test/v1"), XAI("grok-4.7", KEY), Retrying(Scripted(["Hi."]))],
    ids=lambda provider: type(provider).__name__,
)
async def test_who_has_no_endpoint_for_it_says_what_to_do(provider):
    with pytest.raises(ProviderError, match="counts tokens; estimate with") as raised:
        await provider.count_tokens(REQUEST)

    assert raised.value.kind == "invalid_request"
    assert not raised.value.retryable
    assert (raised.value.provider, raised.value.model) == (provider.name, provider.model)


async def test_providers_of_providers_pass_the_question_on():
    vendor = Vendor({"input_tokens": 403})
    provider = Anthropic("claude-opus-5-5", KEY, "https://api.test", client=vendor.client)

    for around in (Retrying(provider), Fallback(provider, Scripted(["Hi."])), Fallback(Retrying(provider), provider)):
        assert isinstance(around, CountsTokens)
        assert await around.count_tokens(REQUEST) == 403


@pytest.mark.parametrize(
    ("status", "document", "kind"),
    [
        (401, {"error": {"type": "authentication_error", "message": f"bad key {KEY}"}}, "auth"),
        (429, {"error": {"type": "rate_limit_error", "message": "slow down"}}, "rate_limited"),
        (200, {"tokens": 5}, "server_error"),
        (200, {"input_tokens": "many"}, "server_error"),
        (200, {"input_tokens": -1}, "server_error"),
        (200, {"input_tokens": True}, "server_error"),
        (200, [1, 2], "server_error"),
    ],
)
async def test_an_answer_that_is_no_number_is_an_error(status, document, kind):
    vendor = Vendor(document, status)
    provider = Anthropic("claude-opus-5-5", KEY, "https://api.test", client=vendor.client)

    with pytest.raises(ProviderError) as raised:
        await provider.count_tokens(REQUEST)

    assert (raised.value.kind, raised.value.provider, raised.value.model) == (kind, "anthropic", "claude-opus-5-5")
    assert KEY not in str(raised.value)


async def test_a_stream_in_place_of_a_number_is_an_error():
    answer = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=b"data: {}\n\n")
    client = httpx.AsyncClient(transport=httpx.MockTransport(lambda request: answer))

    with pytest.raises(ProviderError, match="should be a number"):
        await Anthropic("claude-opus-5-5", KEY, "https://api.test", client=client).count_tokens(REQUEST)
