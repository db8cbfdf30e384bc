"""Runs against servers that nobody here wrote: a simulated vendor that judges its clients, and the embedded model's own server."""

from __future__ import annotations

import anyio
import pytest
from llmock.scenarios import Fail, StreamFault, ToolFault
from llmock.testing import LLMockServer
from llmock.verdict import judge

import alloy
from alloy.errors import RunError
from alloy.history import check_history
from alloy.messages import Message, TextBlock, ToolResultBlock, ToolUseBlock, as_user_message
from alloy.providers import Anthropic, ChatCompletions, Gemini, Local, OpenAI, local_process
from alloy.testing import Recorder

pytestmark = pytest.mark.anyio


@alloy.tool
async def weather(city: str = "Oslo") -> str:
    """Current weather in a city."""
    return f"Rain in {city}."


# --- A simulated vendor ----------------------------------------------------------------------------------------------

KEY = "key-0123456789"
SIMULATED = {
    "chat": lambda url: ChatCompletions("gpt-4o", KEY, url("openai")),
    "openai": lambda url: OpenAI("gpt-4o", KEY, url("openai")),
    "anthropic": lambda url: Anthropic("claude-sonnet-4-5", KEY, url("anthropic")),
    "gemini": lambda url: Gemini("gemini-2.5-flash", KEY, url("gemini") + "/v1beta"),
}
every_format = pytest.mark.parametrize("name", SIMULATED)


@pytest.fixture(scope="module")
def server():
    with LLMockServer() as running:
        yield running


@pytest.fixture
def vendor(server):
    """The server's state, without what was before."""
    server.state.scenarios.clear()
    server.state.journal.clear()
    return server.state


async def run(server, name, **options):
    """A run that somebody watches, and what they saw."""
    seen = Recorder()
    with anyio.fail_after(20):
        result = await alloy.run(
            "How is the weather in Oslo?",
            provider=SIMULATED[name](server.base_url),
            tools=[weather],
            on_event=seen,
            retry_backoff=0.01,
            **options,
        )
    return result, seen


async def failed_run(server, name):
    """The cause of a run's failure, and what it leaves."""
    with pytest.raises(RunError) as caught:
        await run(server, name)
    check_history(caught.value.result.messages)
    return caught.value.__cause__, caught.value.result


def verdict(vendor):
    """What the vendor holds against its client."""
    return {finding.code for finding in judge(vendor.journal.records(wait=5)).findings}


def attempts(vendor):
    return len(vendor.journal.records(wait=5))


@every_format
async def test_a_vendor_that_works_has_nothing_to_object(server, vendor, name):
    result, _ = await run(server, name)

    assert [call.name for call in result.tool_calls] == ["weather"]
    assert result.text
    assert (attempts(vendor), verdict(vendor)) == (2, set())


@every_format
async def test_a_rate_limit_is_waited_for_as_long_as_the_vendor_says(server, vendor, name):
    vendor.scenarios.add(Fail(429, retry_after=1))
    result, seen = await run(server, name)
    (retry,) = seen.named("retry")

    assert result.status == "completed"
    assert (retry.payload["error"]["kind"], retry.payload["delay_s"]) == ("rate_limited", 1.0)
    assert (attempts(vendor), verdict(vendor)) == (3, set())


@every_format
@pytest.mark.parametrize(
    ("status", "kind"), [(500, "server_error"), (503, "overloaded"), (529, "overloaded"), (504, "timeout")]
)
async def test_what_may_pass_is_tried_again(server, vendor, name, status, kind):
    vendor.scenarios.add(Fail(status, retry_after=0))
    result, seen = await run(server, name)

    assert result.status == "completed"
    assert [retry.payload["error"]["kind"] for retry in seen.named("retry")] == [kind]
    assert verdict(vendor) == set()


@every_format
async def test_what_does_not_pass_is_given_up_after_a_few_times(server, vendor, name):
    vendor.scenarios.add(Fail(529, retry_after=0, times=None))
    error, _ = await failed_run(server, name)

    assert error.kind == "overloaded"
    assert attempts(vendor) == 4
    assert verdict(vendor) == set()


@every_format
@pytest.mark.parametrize("status", [400, 401, 403, 404])
async def test_what_cannot_pass_is_not_tried_again(server, vendor, name, status):
    vendor.scenarios.add(Fail(status, times=None))
    error, _ = await failed_run(server, name)

    assert error.status == status
    assert (attempts(vendor), verdict(vendor)) == (1, set())


@every_format
@pytest.mark.parametrize("fault", ["disconnect", "truncate", "malformed"])
async def test_a_stream_that_breaks_before_anything_was_shown_is_asked_for_again(server, vendor, name, fault):
    vendor.scenarios.add(StreamFault(fault, after_chunks=0))
    result, seen = await run(server, name)

    assert result.status == "completed"
    assert len(seen.named("retry")) == 1
    assert verdict(vendor) <= {"malformed_chunk_ignored"}  # it may have sent all before it noticed that nobody listened


@every_format
@pytest.mark.parametrize("fault", ["disconnect", "truncate", "malformed"])
async def test_a_stream_that_breaks_after_something_was_shown_fails_with_what_was_seen(server, vendor, name, fault):
    result, _ = await run(server, name)
    vendor.journal.clear()
    vendor.scenarios.add(StreamFault(fault, after_chunks=6))
    seen = Recorder()
    with pytest.raises(RunError) as caught:
        await alloy.run("Go on.", provider=SIMULATED[name](server.base_url), messages=result.messages, on_event=seen)

    left = caught.value.result.messages
    check_history(left)
    assert caught.value.__cause__.kind == "network"
    assert left[-1].interrupted
    assert left[-1].text == seen.text != ""
    assert attempts(vendor) == 1


@every_format
async def test_arguments_that_are_no_json_are_told_to_the_model_that_wrote_them(server, vendor, name):
    vendor.scenarios.add(ToolFault("malformed_arguments"))
    result, _ = await run(server, name)

    assert result.status == "completed"
    assert verdict(vendor) == set()


async def test_one_conversation_goes_round_all_vendors(server, vendor):
    messages = ()
    for name in (*SIMULATED, *SIMULATED):
        result, _ = await run(server, name, messages=messages)
        messages = result.messages
        check_history(messages)

    assert {message.origin for message in messages if message.role == "assistant"} == {
        provider(server.base_url).origin for provider in SIMULATED.values()
    }
    assert verdict(vendor) == set()


# --- The embedded model's server -------------------------------------------------------------------------------------

CLOSE = {"connection": "close"}  # the server ends silent connections after seconds
EMBEDDED = {
    "chat": lambda key, url: ChatCompletions(
        "m", key, url, compat="llama_cpp", max_tokens=16, temperature=0, extra_headers=CLOSE
    ),
    "responses": lambda key, url: OpenAI("m", key, url, max_tokens=16, temperature=0, extra_headers=CLOSE),
    "messages": lambda key, url: Anthropic("m", key, url, max_tokens=16, temperature=0, extra_headers=CLOSE),
}
CALLED = (
    as_user_message("How is the weather in Oslo?"),
    Message("assistant", (TextBlock("I'll look."), ToolUseBlock("functions.weather:0", "weather", {"city": "Oslo"}))),
    Message("user", (ToolResultBlock("functions.weather:0", (TextBlock("Rain."),), name="weather"),)),
    Message("assistant", (TextBlock("It rains."),)),
)


@pytest.mark.embedded
@pytest.mark.parametrize("watched", [True, False], ids=["streamed", "whole"])
async def test_a_model_is_asked_by_three_apis_in_one_conversation(watched):
    with anyio.fail_after(50):
        async with Local() as local:
            endpoint = local_process._shared.get()[local._launch].server.endpoint
            key, messages = endpoint._headers["authorization"].reveal(), CALLED
            for ask in (*EMBEDDED.values(), EMBEDDED["chat"]):
                seen = Recorder()
                result = await alloy.run(
                    "And in Rome?",
                    provider=ask(key, endpoint.base_url),
                    messages=messages,
                    tools=[weather],
                    **({"on_event": seen} if watched else {}),
                )
                assert result.status == "completed"
                assert 0 < result.usage.output_tokens <= 16
                assert result.text == seen.text or not watched
                assert key not in repr(result)
                messages = result.messages

    check_history(messages)
    assert len({message.origin for message in messages[len(CALLED) :] if message.role == "assistant"}) == 3


@pytest.mark.embedded
async def test_a_wrong_key_is_refused_by_each_api():
    with anyio.fail_after(50):
        async with Local() as local:
            url = local_process._shared.get()[local._launch].server.endpoint.base_url
            for ask in EMBEDDED.values():
                with pytest.raises(RunError) as caught:
                    await alloy.run("Hello", provider=ask("a-wrong-key", url))
                assert caught.value.__cause__.kind == "auth"
