"""Anthropic's API against somebody else's idea of it: a simulated vendor on loopback that fails on demand."""

from __future__ import annotations

import anyio
import httpx
import pytest
from llmock.scenarios import Fail, StreamFault, ToolFault
from llmock.testing import LLMockServer

from alloy.errors import ProviderError
from alloy.history import check_history
from alloy.messages import AudioBlock, Message, TextBlock, ToolResultBlock, as_user_message
from alloy.providers.anthropic import Anthropic
from alloy.providers.base import Request, TextDelta, ToolSpec

pytestmark = pytest.mark.anyio
both_ways = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])

HI = as_user_message("What is the weather in Oslo?")
WEATHER = ToolSpec("weather", "The weather.", {"type": "object", "properties": {"city": {"type": "string"}}})


@pytest.fixture(scope="module")
def vendor():
    with LLMockServer() as server:
        yield server


@pytest.fixture
def faults(vendor):
    vendor.state.scenarios.clear()
    return vendor.state.scenarios


async def ask(vendor, history, *, stream, tools=(), max_tokens=1000):
    """Everything that came, the completion last."""
    provider = Anthropic("claude-sonnet-4-5", "sk-0123456789", vendor.base_url("anthropic"), max_tokens=max_tokens)
    with anyio.fail_after(10):
        async with provider.stream(Request(messages=history, stream=stream, tools=tools)) as items:
            return [item async for item in items]


@both_ways
async def test_a_tool_is_called_and_its_result_answered(vendor, faults, stream):
    first = (await ask(vendor, [HI], stream=stream, tools=(WEATHER,)))[-1]
    (call,) = first.message.tool_uses
    history = [HI, first.message, Message("user", (ToolResultBlock(call.id, (TextBlock("Rain."),)),))]
    check_history(history)
    *deltas, second = await ask(vendor, history, stream=stream, tools=(WEATHER,))

    assert (first.stop_reason, call.name) == ("tool_use", "weather")
    assert second.stop_reason == "end_turn"
    assert second.message.text
    assert "".join(delta.text for delta in deltas if isinstance(delta, TextDelta)) == second.message.text * stream


async def test_an_answer_that_may_get_long_is_streamed_though_nobody_watches(vendor, faults):
    faults.add(StreamFault("truncate", after_chunks=2))
    with pytest.raises(ProviderError) as caught:
        await ask(vendor, [HI], stream=False, max_tokens=64_000)

    assert caught.value.kind == "network"


@both_ways
@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request"), (401, "auth"), (429, "rate_limited"), (500, "server_error"), (529, "overloaded")],
)
async def test_a_failure_has_its_kind_and_its_wait(vendor, faults, stream, status, kind):
    faults.add(Fail(status, retry_after=2))
    with pytest.raises(ProviderError) as caught:
        await ask(vendor, [HI], stream=stream)

    error = caught.value
    assert (error.kind, error.status, error.retry_after) == (kind, status, 2.0)
    assert (error.provider, error.model) == ("anthropic", "claude-sonnet-4-5")


@pytest.mark.parametrize("kind", ["disconnect", "truncate", "malformed"])
async def test_a_broken_stream_is_no_answer(vendor, faults, kind):
    faults.add(StreamFault(kind, after_chunks=2))
    with pytest.raises(ProviderError) as caught:
        await ask(vendor, [HI], stream=True)

    assert caught.value.kind == "network"


async def test_a_call_with_broken_arguments_is_kept_as_the_model_wrote_it(vendor, faults):
    faults.add(ToolFault("malformed_arguments"))
    completion = (await ask(vendor, [HI], stream=True, tools=(WEATHER,)))[-1]

    assert completion.message.tool_uses[0].invalid


async def test_a_request_says_who_asks_and_by_which_version():
    asked = []

    def answer(request):
        asked.append(request)
        return httpx.Response(200, json={"content": [{"type": "text", "text": "Rain."}], "stop_reason": "end_turn"})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as client:
        settings = {"max_tokens": 9, "betas": ["a", "b"], "extra_headers": {"Anthropic-Version": "2099-01-01"}}
        provider = Anthropic("m", "sk-0123456789", "https://x.test/anthropic/v1/", client=client, **settings)
        async with provider, provider.stream(Request(messages=[HI], stream=False)) as items:
            assert [item.message.text async for item in items] == ["Rain."]
    (request,) = asked

    assert str(request.url) == "https://x.test/anthropic/v1/messages"
    names = ("x-api-key", "anthropic-version", "anthropic-beta")
    assert [request.headers[name] for name in names] == ["sk-0123456789", "2099-01-01", "a,b"]


async def test_what_cannot_be_sent_is_refused_on_entering():
    provider = Anthropic("m", base_url="https://x.test")
    with pytest.raises(ProviderError, match="anthropic:m: Anthropic can't be sent audio"):
        async with provider.stream(Request(messages=[Message("user", (AudioBlock("audio/wav", b"x"),))])):
            pass
