"""Gemini against somebody else's idea of it: a simulated vendor on loopback that fails on demand."""

from __future__ import annotations

import anyio
import pytest
from llmock.scenarios import Fail, StreamFault
from llmock.testing import LLMockServer

from alloy.errors import ProviderError
from alloy.history import check_history
from alloy.messages import Message, TextBlock, ToolResultBlock, as_user_message
from alloy.providers.base import Request, ToolSpec
from alloy.providers.gemini import Gemini

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


async def ask(vendor, history, *, stream, tools=()):
    provider = Gemini("gemini-2.5-flash", "key-0123456789", vendor.base_url("gemini") + "/v1beta")
    with anyio.fail_after(10):
        async with provider.stream(Request(messages=history, stream=stream, tools=tools)) as items:
            return [item async for item in items][-1]


@both_ways
async def test_a_tool_is_called_and_its_result_answered(vendor, faults, stream):
    first = await ask(vendor, [HI], stream=stream, tools=(WEATHER,))
    (call,) = first.message.tool_uses
    history = [HI, first.message, Message("user", (ToolResultBlock(call.id, (TextBlock("Rain."),)),))]
    check_history(history)
    second = await ask(vendor, history, stream=stream, tools=(WEATHER,))

    assert (first.stop_reason, call.name) == ("tool_use", "weather")
    assert second.stop_reason == "end_turn"
    assert second.message.text


@both_ways
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request"),
        (401, "auth"),
        (404, "invalid_request"),
        (429, "rate_limited"),
        (500, "server_error"),
        (503, "overloaded"),
        (504, "timeout"),
    ],
)
async def test_a_failure_has_its_kind(vendor, faults, stream, status, kind):
    faults.add(Fail(status, retry_after=2))
    with pytest.raises(ProviderError) as caught:
        await ask(vendor, [HI], stream=stream)

    assert (caught.value.kind, caught.value.status, caught.value.retry_after) == (kind, status, 2.0)


@pytest.mark.parametrize("kind", ["disconnect", "truncate", "malformed"])
async def test_a_broken_stream_is_no_answer(vendor, faults, kind):
    faults.add(StreamFault(kind, after_chunks=2))
    with pytest.raises(ProviderError) as caught:
        await ask(vendor, [HI], stream=True)

    assert caught.value.kind == "network"
