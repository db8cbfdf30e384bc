"""Agents at rest: a supervisor's agent with nothing to load has no task before its first message, and nobody notices."""

from __future__ import annotations

import asyncio

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents.bus import message_envelope
from alloy.errors import AgentClosedError
from alloy.sessions import MemoryStore

pytestmark = pytest.mark.anyio


def tasks_of_agents() -> list[str]:
    return sorted(task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith("agent "))


async def test_an_agent_has_no_task_before_its_first_message_and_keeps_it_from_there(answers):
    async with alloy.Supervisor(watchdog=None) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        await supervisor.start("clerk", answers.config())
        assert tasks_of_agents() == []
        assert desk.health().state == "idle"

        assert (await desk.chat("one")).text == "one 1"
        assert tasks_of_agents() == ["agent desk"]
        assert (await desk.chat("two")).text == "two 3"
        assert tasks_of_agents() == ["agent desk"]


async def test_what_was_sent_at_once_is_answered_in_order(answers):
    async with alloy.Supervisor(watchdog=None) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        ids = [await desk.send_message(word) for word in ("one", "two", "three")]
        assert [(await desk.result(one)).text for one in ids] == ["one 1", "two 3", "three 5"]


async def test_a_change_is_applied_to_an_agent_at_rest(answers):
    async with alloy.Supervisor(watchdog=None) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        with anyio.fail_after(5):
            await desk.set_model(alloy.testing.Scripted(["From another."]))
        assert (await desk.chat("one")).text == "From another."


@pytest.mark.parametrize("way", ["stop_agent", "agent.stop", "drain", "supervisor.stop", "leave", "raise", "cancel"])
async def test_an_agent_that_nobody_asked_anything_ends_like_any_other(answers, way):
    goodbyes = []

    async def say_goodbye(session):
        goodbyes.append(session.id)

    with anyio.fail_after(5), anyio.CancelScope() as scope:
        try:
            async with alloy.Supervisor(watchdog=None) as supervisor:
                desk = await supervisor.start("desk", answers.config(), on_shutdown=say_goodbye)
                watching = desk.subscribe()
                match way:
                    case "stop_agent":
                        assert await supervisor.stop_agent("desk") == ()
                    case "agent.stop":
                        assert await desk.stop() == ()
                    case "drain":
                        await desk.drain()
                    case "supervisor.stop":
                        assert (await supervisor.stop()).clean
                    case "raise":
                        raise KeyError("mine")
                    case "cancel":
                        scope.cancel()
                        await anyio.sleep_forever()
        except KeyError:
            pass

    assert goodbyes == ["desk"]
    assert desk.health().state == "closed"
    with pytest.raises(AgentClosedError):
        await desk.send_message("one")
    async with watching as envelopes:
        assert [envelope.event async for envelope in envelopes] == []
    assert tasks_of_agents() == []


async def test_a_message_that_came_when_its_supervisor_ended_has_an_end(answers, bus):
    with anyio.fail_after(5), pytest.raises(KeyError):
        async with alloy.Supervisor(watchdog=None, bus=bus) as supervisor:
            desk = await supervisor.start("desk", answers.config())
            await desk.send_message("one", request_id="r")
            raise KeyError("mine")

    assert [one.payload["status"] for one in bus.recorder.named("response")] == ["cancelled"]
    assert desk.health().state == "closed"


@pytest.mark.parametrize("options", [{"subscribe": ["news"]}, {"stored": True}])
async def test_an_agent_that_listens_or_has_something_to_load_begins_at_once(answers, options):
    stored = options.pop("stored", False)
    async with alloy.Supervisor(watchdog=None, store=MemoryStore() if stored else None) as supervisor:
        await supervisor.start("desk", answers.config(), **options)
        assert tasks_of_agents() == ["agent desk"]


async def test_a_message_for_a_topic_is_for_those_who_listen_to_it(answers, bus):
    async with alloy.Supervisor(watchdog=None, bus=bus) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        ear = await supervisor.start("ear", answers.config(), subscribe=["news"])
        bus.publish("news", message_envelope("one", request_id="n"))
        assert (await ear.result("n")).text == "one 1"
        assert desk.messages == ()


async def test_many_are_started_in_a_row_and_others_have_their_turn(answers):
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    config = answers.config()
    async with alloy.Supervisor(watchdog=None) as supervisor, anyio.create_task_group() as group:
        group.start_soon(others)
        for number in range(160):
            await supervisor.start(f"desk {number}", config)
        assert turns >= 10
        group.cancel_scope.cancel()
