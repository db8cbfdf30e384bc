"""What the model has found, as plain stories."""

from __future__ import annotations

from contextlib import aclosing, asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents.bus import LocalBus, message_envelope
from alloy.errors import RequestCancelledError
from alloy.sessions import MemoryStore
from alloy.testing import Recorder, Scripted

pytestmark = pytest.mark.anyio


def sends_at_the_first_response(bus, agent):
    """Has a listener of the bus send a message from inside the envelope that tells of the first end."""
    sent = []

    def listen(envelope):
        if envelope.event == "response" and not sent:
            sent.append(agent.send_message("again", request_id="second"))
            with pytest.raises(StopIteration):  # it is accepted at once, and then lets others go on
                while True:
                    sent[0].send(None)

    bus.attach(f"agent/{agent.name}", listen)


async def test_on_event_gets_envelopes_in_order_when_a_listener_of_the_bus_sends_another_message():
    recorder, bus = Recorder(), LocalBus()
    agent = alloy.Agent(provider=Scripted(["One.", "Two."]), max_pending=2, on_event=recorder, bus=bus, max_retries=0)
    sends_at_the_first_response(bus, agent)
    async with agent:
        await agent.send_message("begin", request_id="first")
        await agent.send_message("wait", request_id="between")
        await agent.result("between")

    numbers = [envelope.seq for envelope in recorder.envelopes]
    assert numbers == sorted(numbers)
    assert "request_queued" in [e.event for e in recorder.envelopes if e.correlation_id == "second"]


async def test_p2_a_request_whose_cancellation_was_accepted_ends_as_cancelled_even_at_its_last_moment():
    released = anyio.Event()
    reached = anyio.Event()

    class Waits(Scripted):
        @asynccontextmanager
        async def stream(self, request):
            async def slowly(items):
                async for item in items:
                    if not hasattr(item, "text"):
                        reached.set()
                        await released.wait()
                    yield item

            async with super().stream(request) as items, aclosing(slowly(items)) as slow:
                yield slow

    async with alloy.Agent(provider=Waits(["Done."]), max_retries=0) as agent:
        await agent.send_message("begin", request_id="one")
        await reached.wait()
        released.set()  # the answer is there, and what hears it hasn't had its turn yet
        await agent.cancel_request("one")
        with pytest.raises(RequestCancelledError) as caught:
            await agent.result("one")

    assert [message.text for message in caught.value.result.messages] == ["begin", "Done."]


async def test_who_watches_a_request_sees_nothing_of_an_earlier_one_with_its_id():
    async with alloy.Agent(provider=Scripted(["One.", "Two.", "Three."]), remember=1, max_retries=0) as agent:
        await agent.chat("first", request_id="again")
        await agent.chat("second")
        async with agent.stream_chat("third", request_id="again") as run:
            text = "".join([piece async for piece in run.text_deltas()])

    assert (text, run.result.text) == ("Three.", "Three.")


async def test_p5_a_request_that_is_cancelled_before_it_begins_has_no_loss_to_tell():
    provider = Scripted(["Never."])
    async with alloy.Agent(provider=provider, name="desk", store=MemoryStore()) as agent:
        await agent.send_message("begin", request_id="one")
        await agent.cancel_request("one")
        async with agent.subscribe(request_id="one") as envelopes:
            seen = [envelope.event async for envelope in envelopes]

    assert "lagged" not in seen
    assert seen[-1] == "response"


async def test_who_watches_a_request_that_has_ended_sees_nothing_that_came_after_its_end():
    bus = LocalBus()
    async with alloy.Agent(provider=Scripted(["Done."]), bus=bus, subscribe=["in"]) as agent:
        await agent.chat("begin", request_id="one")
        bus.publish("in", message_envelope("something else", request_id="one"))  # which is refused, visibly
        async with agent.subscribe(request_id="one") as envelopes:
            seen = [envelope.event async for envelope in envelopes]

    assert seen[-1] == "response"


async def test_a_change_behind_another_one_returns_when_it_is_done():
    async with (
        alloy.Agent(provider=Scripted([]), name="desk", store=MemoryStore()) as agent,
        anyio.create_task_group() as group,
    ):
        group.start_soon(agent.reset)
        await anyio.lowlevel.checkpoint()
        await agent.set_model(Scripted([], name="other"))
        assert "other" in repr(agent)


class Connecting(Scripted):
    """Never gets a connection."""

    async def __aenter__(self):
        await anyio.sleep_forever()

    async def __aexit__(self, *error):
        pass


async def test_whoever_is_told_that_a_request_ended_before_it_began_finds_the_agent_free():
    bus = LocalBus()
    agent = alloy.Agent(provider=Connecting([]), bus=bus)
    sends_at_the_first_response(bus, agent)
    with anyio.CancelScope() as scope:
        async with agent:
            await agent.send_message("begin", request_id="first")
            await anyio.wait_all_tasks_blocked()
            scope.cancel()
            await anyio.sleep_forever()

    with pytest.raises(RequestCancelledError):  # it was accepted, and then the agent ended
        await agent.result("second")
