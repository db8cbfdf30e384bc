"""The embedded model itself: SmolLM2-135M, asked for real."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from typing import Literal

import anyio
import pytest
from anyio.lowlevel import checkpoint

import alloy
from alloy.errors import ProviderError
from alloy.messages import Message, TextBlock, ToolResultBlock
from alloy.providers import Completion, Local, Request, TextDelta, ToolCallDelta, ToolSpec, local_process
from alloy.providers.http import Endpoint

pytestmark = [pytest.mark.anyio, pytest.mark.embedded]

WITHIN = 50
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = ToolSpec("weather", "The current weather in a city.", CITY)


@pytest.fixture(scope="module")
def anyio_backend():
    return "asyncio"


@pytest.fixture(scope="module")
async def local():
    async with Local() as provider:
        yield provider


def user(text):
    return Message("user", (TextBlock(text),))


async def ask(provider, *messages, tools=(), stream=True):
    """All that an answer gives, and its end."""
    with anyio.fail_after(WITHIN):
        async with provider.stream(Request(messages=messages, tools=tools, stream=stream)) as items:
            *deltas, completion = [item async for item in items]
    assert isinstance(completion, Completion)
    return deltas, completion


def server_of(provider):
    return local_process._shared.get()[provider._launch].server


async def test_a_question_leads_to_a_call_and_its_result_to_an_answer_in_words(local):
    question = user("What is the weather in Paris?")
    deltas, called = await ask(local, question, tools=(WEATHER,))
    assert called.stop_reason == "tool_use"
    (call,) = called.message.tool_uses
    assert (call.name, call.input) == ("weather", {"city": "Paris"})
    assert all(isinstance(delta, ToolCallDelta) for delta in deltas)

    result = Message("user", (ToolResultBlock(call.id, (TextBlock("Sunny, 21 degrees"),)),))
    deltas, answered = await ask(local, question, called.message, result, tools=(WEATHER,))
    assert answered.stop_reason == "end_turn"
    assert "21" in answered.message.text
    assert "".join(delta.text for delta in deltas) == answered.message.text
    assert answered.usage.output_tokens > 0
    assert (answered.message.provider, answered.message.model) == ("local", "smollm2-135m-instruct")


async def test_a_whole_run_calls_a_tool_and_answers_from_its_result(local):
    @alloy.tool
    async def weather(city: str) -> str:
        """The current weather in a city."""
        return "Sunny, 21 degrees"

    with anyio.fail_after(WITHIN):
        result = await alloy.run("What is the weather in Paris?", provider=local, tools=[weather])
    assert [dict(call.arguments) for call in result.tool_calls] == [{"city": "Paris"}]
    assert "21" in result.text


async def test_words_are_streamed_while_they_are_written_though_a_tool_is_offered(local):
    deltas, completion = await ask(local, user("Hello!"), tools=(WEATHER,))
    assert len(deltas) > 3
    assert all(isinstance(delta, TextDelta) for delta in deltas)
    assert "".join(delta.text for delta in deltas) == completion.message.text


async def test_two_answers_are_written_at_once(local):
    began, both = [], anyio.Event()

    async def answer(text):
        async with Local(max_tokens=16).stream(Request(messages=[user(text)])) as items:
            async for _ in items:
                if text not in began:
                    began.append(text)
                    if len(began) == 2:
                        both.set()
                    await both.wait()

    with anyio.fail_after(WITHIN):
        async with anyio.create_task_group() as group:
            group.start_soon(answer, "Tell me about cats.")
            group.start_soon(answer, "Tell me about dogs.")
    assert len(began) == 2


async def test_an_answer_that_is_left_does_not_hinder_the_next(local):
    for _ in range(3):  # there is room for two at once
        with anyio.fail_after(WITHIN):
            async with local.stream(Request(messages=[user("Count to one thousand.")])) as items:
                async for _ in items:
                    break
    with anyio.fail_after(WITHIN), anyio.CancelScope() as scope:
        async with local.stream(Request(messages=[user("Count to one thousand.")])) as items:
            async for _ in items:
                scope.cancel()
    _, completion = await ask(local, user("Hello!"))
    assert completion.message.text


async def test_a_conversation_that_is_too_long_is_told_as_such(local):
    with pytest.raises(ProviderError, match="context size") as raised:
        await ask(local, user("word " * 9000))
    assert raised.value.kind == "context_overflow"


async def test_a_schema_that_no_grammar_expresses_is_an_error_that_names_the_tool(local):
    schema = {"type": "object", "properties": {"at": {"$ref": "https://schemas.example/place"}}, "required": ["at"]}
    with pytest.raises(ProviderError, match="visit") as raised:
        await ask(local, user("Visit Rome"), tools=(ToolSpec("visit", "Visits a place.", schema),))
    assert raised.value.kind == "invalid_request"
    assert (raised.value.provider, raised.value.model) == ("local", "smollm2-135m-instruct")


async def test_nobody_else_may_ask_the_server(local):
    stranger = Endpoint(server_of(local).endpoint.base_url, provider="stranger", model="m", headers={})
    with anyio.fail_after(WITHIN), pytest.raises(ProviderError) as raised:
        async with stranger.post("/chat/completions", b'{"messages": []}', stream=False):
            pass
    assert raised.value.kind == "auth"


async def test_a_server_that_is_killed_in_the_middle_of_an_answer_is_an_error_and_the_next_request_has_a_new_one(local):
    with anyio.fail_after(WITHIN), pytest.raises(ProviderError, match="has ended") as raised:
        async with local.stream(Request(messages=[user("Count to one thousand.")])) as items:
            async for _ in items:
                os.kill(server_of(local).pid, 9)
    assert raised.value.kind == "network"
    assert raised.value.retryable
    _, completion = await ask(local, user("Hello!"))
    assert completion.message.text


async def test_a_file_of_ones_own_loads_beside_the_event_loop_and_answers_with_its_own_template():
    provider = Local(Local()._launch.file, max_tokens=8)
    up = anyio.Event()

    async def use():
        async with provider:
            up.set()
            _, completion = await ask(provider, user("Hello!"), tools=(WEATHER,))
            assert completion.message.text
            assert completion.usage.output_tokens <= 8

    with anyio.fail_after(WITHIN):
        async with anyio.create_task_group() as group:
            group.start_soon(use)
            for _ in range(20):  # a model that loaded in here would be up after the first
                await checkpoint()
                assert not up.is_set()
    assert provider._launch not in local_process._shared.get()


HOLDER = """
import anyio
from alloy.providers import Local
from alloy.providers.local_process import lease_server

async def main():
    async with lease_server(Local()._launch) as server:
        print(server.endpoint.base_url, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


async def test_the_server_ends_when_its_parent_is_killed():
    with anyio.fail_after(WITHIN):
        async with await anyio.open_process([sys.executable, "-c", HOLDER], stderr=subprocess.DEVNULL) as parent:
            address = (await parent.stdout.receive()).decode()
            port = int(address.rpartition(":")[2].partition("/")[0])
            connection = await anyio.connect_tcp("127.0.0.1", port)
            parent.kill()
            await parent.wait()
        with pytest.raises(OSError, match="connect"):
            while True:  # a server that lives ends a silent connection, too, but takes new ones
                async with connection:
                    with pytest.raises((anyio.EndOfStream, anyio.BrokenResourceError)):
                        await connection.receive()
                connection = await anyio.connect_tcp("127.0.0.1", port)


@dataclasses.dataclass
class Capital:
    """A country's capital."""

    country: str
    city: str
    continent: Literal["Europe", "Asia", "Africa", "America", "Australia"]


async def test_an_answer_is_held_to_the_type_of_a_result_by_a_grammar(local):
    with anyio.fail_after(WITHIN):
        async with alloy.stream(
            "What is the capital of France?", provider=local, output_type=Capital, output_retries=0
        ) as run:
            values = [value async for value in run.partial_outputs()]

    assert run.result.turns == 1
    assert values[-1] == run.result.output
    assert run.result.output.continent in ("Europe", "Asia", "Africa", "America", "Australia")


@dataclasses.dataclass
class Report:
    """The weather in a city."""

    city: str
    sunny: bool


async def test_beside_tools_a_result_comes_after_their_calls(local):
    @alloy.tool
    async def get_weather(city: str) -> str:
        """The current weather in a city."""
        return f"It is sunny in {city}."

    with anyio.fail_after(WITHIN):
        result = await alloy.run(
            "What is the weather in Paris?", provider=local, tools=[get_weather], output_type=Report, output_retries=0
        )

    assert result.output == Report(city="Paris", sunny=True)
    assert [call.name for call in result.tool_calls] == ["get_weather"]
