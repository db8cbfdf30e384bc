"""Topics: what is published where an agent listens becomes a request, or is refused where everybody can see it."""

from __future__ import annotations

import dataclasses

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents.bus import LocalBus, message_envelope
from alloy.testing import Scripted, calls

pytestmark = pytest.mark.anyio


async def test_a_message_on_a_topic_becomes_a_request_under_its_id(make):
    bus = LocalBus()
    async with make("Noted.", "Too.", bus=bus, subscribe=["news", "orders"], max_pending=1) as agent:
        bus.publish("news", message_envelope("It rains.", request_id="one"))
        bus.publish("orders", message_envelope("Buy.", request_id="two"))
        bus.publish("elsewhere", message_envelope("No.", request_id="three"))
        assert (await agent.result("one")).text == "Noted."
        assert (await agent.result("two")).text == "Too."
        assert [message.text for message in agent.messages if message.role == "user"] == ["It rains.", "Buy."]


async def test_every_agent_that_listens_gets_it(make):
    bus = LocalBus()
    async with make("a", bus=bus, subscribe=["t"]) as one, make("b", bus=bus, subscribe=["t"]) as two:
        bus.publish("t", message_envelope("Hi.", request_id="x"))
        assert [(await agent.result("x")).text for agent in (one, two)] == ["a", "b"]


async def test_a_message_that_is_delivered_twice_runs_once(make, watcher):
    bus = LocalBus()
    provider = Scripted(["a", "b"])
    options = {"bus": bus, "subscribe": ["t", "u"], "on_event": watcher, "max_pending": 3}
    async with make(provider=provider, **options) as agent:
        message = message_envelope("Hi.", request_id="x")
        for topic in ("t", "t", "u"):
            bus.publish(topic, message)
        await agent.result("x")
        bus.publish("t", message)
        assert agent.health().state == "idle"
    assert len(provider.requests) == 1
    assert watcher.responses == [("x", "completed")]


async def test_a_busy_agent_queues_what_it_may_and_refuses_the_rest_visibly(make, gate, watcher, caplog):
    bus = LocalBus()
    script = [calls("gate"), "a", "b", "c"]
    options = {"tools": [gate.tool], "bus": bus, "subscribe": ["t"], "max_pending": 1, "on_event": watcher}
    async with make(*script, **options) as agent:
        for number in "123":
            bus.publish("t", message_envelope(number, request_id=number))
            await anyio.lowlevel.checkpoint()
            if number == "1":
                await gate.reached.wait()
        [refused] = watcher.named("runtime_event")
        assert refused.correlation_id == "3"
        assert refused.payload["kind"] == "message_refused"
        assert refused.payload["error"] == "QueueFullError"
        assert "refused" in caplog.text
        gate.opened.set()
        assert (await agent.result("2")).text == "b"
        bus.publish("t", message_envelope("3", request_id="3"))  # who saw it can send it again
        assert (await agent.result("3")).text == "c"
    assert [one for one, _ in watcher.responses] == ["1", "2", "3"]


@pytest.mark.parametrize("change", [{"payload": {}}, {"payload": {"text": "  "}}, {"correlation_id": ""}])
async def test_a_message_that_is_none_is_refused_and_doesnt_make_the_agent_deaf(make, watcher, change):
    bus = LocalBus()
    async with make("a", bus=bus, subscribe=["t"], on_event=watcher) as agent:
        bus.publish("t", dataclasses.replace(message_envelope("Hi.", request_id="bad"), **change))
        assert watcher.kinds == ["message_refused"]
        bus.publish("t", message_envelope("Hi.", request_id="good"))
        assert (await agent.result("good")).text == "a"


async def test_what_isnt_a_message_is_no_request(make, watcher):
    bus = LocalBus()
    two = make("b", bus=bus, subscribe=["agent/one"], on_event=watcher)
    async with make("a", bus=bus, name="one") as one, two:
        await one.chat("Hi.")
        assert two.health().state == "idle"
        assert watcher.envelopes == []


async def test_an_agent_that_closes_refuses_what_it_hears_and_then_hears_nothing(make, gate, watcher):
    bus = LocalBus()
    options = {"tools": [gate.tool], "bus": bus, "subscribe": ["t"], "on_event": watcher}
    async with make(calls("gate"), "a", **options) as agent:
        await agent.send_message("Hi.")
        await gate.reached.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(agent.drain)
            await anyio.lowlevel.checkpoint()
            bus.publish("t", message_envelope("Too late.", request_id="late"))
            gate.opened.set()
        assert [envelope.payload["error"] for envelope in watcher.named("runtime_event")] == ["AgentClosedError"]
        assert bus._listeners == {}
        bus.publish("t", message_envelope("Nobody hears.", request_id="later"))
    assert watcher.kinds == ["message_refused"]


async def test_two_agents_can_talk_over_topics_without_end_being_their_only_way(make):
    """Each says once what it has to say; a tool may publish where its own agent listens."""
    bus = LocalBus()

    @alloy.tool
    async def say(topic: str, text: str) -> str:
        """Says something."""
        bus.publish(topic, message_envelope(text, request_id=text))
        return "said"

    options = {"bus": bus, "tools": [say], "max_pending": 2}
    first = make(calls("say", topic="two", text="ping"), "Said.", "Got it.", subscribe=["one"], **options)
    second = make(calls("say", topic="one", text="pong"), "Answered.", subscribe=["two"], **options)
    with anyio.fail_after(5):
        async with first, second:
            await first.chat("Go.")
            await second.result("ping")
            assert (await first.result("pong")).text == "Got it."
