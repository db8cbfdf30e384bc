"""Waiting for oneself, alone or in a circle of several, is an error at once; what isn't waiting is none."""

from __future__ import annotations

import anyio
import pytest

import alloy
from alloy.agents.bus import LocalBus, message_envelope
from alloy.errors import AgentDeadlockError
from alloy.testing import calls

pytestmark = pytest.mark.anyio


def asking(ask, log):
    """A tool that asks something, and what came of it."""

    @alloy.tool
    async def ask_it() -> str:
        """Asks."""
        try:
            log.append(await ask())
        except Exception as error:
            log.append(error)
            raise
        return "asked"

    return ask_it


async def stream(agent, prompt):
    async with agent.stream_chat(prompt) as run:
        return await run.wait()


@pytest.mark.parametrize(
    "ask",
    [
        lambda agent: agent.chat("Me?"),
        lambda agent: agent.chat("Go.", request_id="running"),
        lambda agent: stream(agent, "Me?"),
        lambda agent: agent.result("running"),
        lambda agent: agent.result("waiting"),
        lambda agent: agent.stop(),
        lambda agent: agent.stop(grace=5),
        lambda agent: agent.drain(),
    ],
    ids=["chat", "chat with its id", "stream_chat", "result", "result of one behind", "stop", "stop later", "drain"],
)
async def test_a_request_cant_wait_for_its_own_agent(make, ask):
    log = []
    tool = asking(lambda: ask(agent), log)
    with anyio.fail_after(5):
        async with make(calls("ask_it"), "Done.", "Behind.", tools=[tool], max_pending=3) as agent:
            await agent.send_message("Go.", request_id="running")
            await agent.send_message("Later.", request_id="waiting")
            result = await agent.result("running")
            assert result.text == "Done."
            assert (await agent.result("waiting")).text == "Behind."
            assert agent.health().state == "idle"  # nothing was accepted
            assert [message.text for message in agent.messages if message.role == "user"] == ["Go.", "", "Later."]
    [error] = log
    assert isinstance(error, AgentDeadlockError)
    assert error.agent == agent.name
    assert result.tool_calls[0].is_error


async def test_what_doesnt_wait_can_be_asked_from_inside(make):
    log = []

    async def ask():
        agent.subscribe()
        await agent.reset()
        await agent.set_model(agent.export_session() and alloy.testing.Scripted(["Me."]))
        earlier = await agent.result("earlier")
        again = await agent.chat("Hi.", request_id="earlier")
        assert earlier is again
        return await agent.send_message("Me?"), agent.health().state, len(agent.messages)

    with anyio.fail_after(5):
        script = ["Hello.", calls("ask_it"), "Done."]
        async with make(*script, tools=[asking(ask, log)], max_pending=1) as agent:
            await agent.chat("Hi.", request_id="earlier")
            assert (await agent.chat("Go.")).text == "Done."
            [(request_id, state, messages)] = log
            assert (state, messages) == ("busy", 2)
            assert (await agent.result(request_id)).text == "Me."


async def test_a_request_can_cancel_itself(make):
    log = []

    async with make(calls("ask_it"), "Never.", tools=[asking(lambda: agent.cancel_request("me"), log)]) as agent:
        with pytest.raises(alloy.RequestCancelledError):
            await agent.chat("Go.", request_id="me")
        assert agent.health().state == "idle"
    assert log == []


@pytest.mark.parametrize("way", [lambda agent: agent.chat("And?"), lambda agent: stream(agent, "And?")])
async def test_two_agents_cant_wait_for_each_other(make, way):
    log = []

    with anyio.fail_after(5):
        first = make(calls("ask_it"), "First.", tools=[asking(lambda: way(second), [])], max_pending=2)
        second = make(calls("ask_it"), "Second.", tools=[asking(lambda: first.chat("And you?"), log)], max_pending=2)
        async with first, second:
            assert (await first.chat("Go.")).text == "First."
            assert second.health().state == "idle"
    [error] = log
    assert isinstance(error, AgentDeadlockError)
    assert error.agent == first.name


async def test_a_circle_is_found_whichever_of_its_waits_comes_last(make, gate):
    """The first sends a message, which is no wait; the second waits for the first; then the first asks for the result."""
    log = []

    async def ask_second():
        request_id = await second.send_message("And?")
        await gate.reached.wait()
        return await second.result(request_id)

    async def ask_first():
        gate.reached.set()
        return (await first.chat("And you?")).text

    with anyio.fail_after(5):
        script = [calls("ask_it"), "First.", "Again."]
        first = make(*script, tools=[asking(ask_second, log)], max_pending=2)
        second = make(calls("ask_it"), "Second.", tools=[asking(ask_first, log)], max_pending=2)
        async with first, second:
            assert (await first.chat("Go.")).text == "First."
            await second.drain()
    assert [type(entry) for entry in log] == [AgentDeadlockError, str]
    assert log[1] == "Again."


async def test_who_was_only_sent_a_message_may_wait_for_its_sender(make):
    log = []

    with anyio.fail_after(5):
        script = [calls("ask_it"), "Sent.", "Because."]
        first = make(*script, tools=[asking(lambda: second.send_message("Do it."), [])], max_pending=2)
        second = make(calls("ask_it"), "Second.", tools=[asking(lambda: first.chat("Why?"), log)], max_pending=2)
        async with first, second:
            assert (await first.chat("Go.")).text == "Sent."
            await second.drain()
    assert [result.text for result in log] == ["Because."]


async def test_who_was_reached_by_a_topic_may_wait_for_the_sender(make):
    log = []
    bus = LocalBus()

    async def publish():
        bus.publish("work", message_envelope("Do it."))

    with anyio.fail_after(5):
        script = [calls("ask_it"), "Sent.", "Because."]
        first = make(*script, tools=[asking(publish, [])], max_pending=2)
        tool = asking(lambda: first.chat("Why?"), log)
        second = make(calls("ask_it"), "Second.", tools=[tool], max_pending=2, bus=bus, subscribe=["work"])
        async with first, second:
            assert (await first.chat("Go.")).text == "Sent."
            await second.drain()
    assert [result.text for result in log] == ["Because."]


async def test_a_wait_that_was_given_up_is_none(make, gate):
    log = []

    async def ask_second():
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(second.result, "it")
                await anyio.lowlevel.checkpoint()
                scope.cancel()
        gate.opened.set()
        return scope.cancelled_caught

    async def ask_first():
        await gate.opened.wait()
        return (await first.chat("And you?")).text

    with anyio.fail_after(5):
        script = [calls("ask_it"), "First.", "Again."]
        first = make(*script, tools=[asking(ask_second, log)], max_pending=2)
        second = make(calls("ask_it"), "Second.", tools=[asking(ask_first, log)], max_pending=2)
        async with first, second:
            await second.send_message("Go.", request_id="it")
            await first.chat("Go.")
            await second.drain()
    assert log == [True, "Again."]


async def test_a_task_that_outlives_its_request_waits_for_whom_it_likes(make):
    log = []

    async with anyio.create_task_group() as group:

        async def later():
            await ended.wait()
            log.append((await agent.chat("Still there?")).text)

        async def leave():
            group.start_soon(later)

        ended = anyio.Event()
        with anyio.fail_after(5):
            async with make(calls("ask_it"), "Done.", "Yes.", tools=[asking(leave, [])]) as agent:
                await agent.chat("Go.")
                ended.set()
                while not log:
                    await anyio.lowlevel.checkpoint()
    assert log == ["Yes."]


async def test_an_agent_inside_a_tool_of_another_is_no_circle(make):
    log = []

    async def ask():
        async with make("Deep down.") as inner:
            text = (await inner.chat("Hi.")).text
            await inner.drain()
        return text

    async with make(calls("ask_it"), "Done.", tools=[asking(ask, log)]) as agent:
        assert (await agent.chat("Go.")).text == "Done."
    assert log == ["Deep down."]
