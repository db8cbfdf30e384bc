"""The bus: what every bus does, the local one and one at the end of a wire, and what is the local one's own business."""

from __future__ import annotations

import asyncio
import logging
import tracemalloc

import pytest

import alloy.agents.bus
from alloy.agents.bus import LocalBus, message_envelope
from alloy.errors import CursorError, EmptyPromptError, InvalidOptionError
from alloy.events import Emitter
from tests.agents.buses import arrived, envelope, every_bus, numbers, publish

pytestmark = pytest.mark.anyio


# --- every bus --------------------------------------------------------------------------------------------------------


@every_bus
async def test_everybody_who_listens_gets_what_is_published_from_then_on(make_bus):
    early, late, elsewhere = [], [], []
    async with make_bus() as bus:
        bus.attach("desk", early.append)
        bus.attach("door", elsewhere.append)
        publish(bus, 1, 2)
        await arrived(bus)
        bus.attach("desk", late.append)
        publish(bus, 3)
        await arrived(bus)

    assert early == [envelope(1), envelope(2), envelope(3)]
    assert late == [envelope(3)]
    assert elsewhere == []


@every_bus
async def test_who_is_detached_gets_nothing_more_and_detaching_twice_does_nothing(make_bus):
    got, others = [], []
    async with make_bus() as bus:
        detach = bus.attach("desk", got.append)
        bus.attach("desk", others.append)
        publish(bus, 1)
        await arrived(bus)
        detach()
        detach()
        publish(bus, 2)
        await arrived(bus)

    assert numbers(got) == [1]
    assert numbers(others) == [1, 2]


@every_bus
@pytest.mark.parametrize("error", [KeyError("mine"), asyncio.CancelledError()], ids=["error", "cancellation"])
async def test_a_listener_that_raises_is_logged_and_let_go_and_the_others_get_theirs(make_bus, caplog, error):
    before, after, told = [], [], []

    def fails(_):
        raise error

    async with make_bus() as bus:
        bus.attach("desk", before.append)
        bus.attach("desk", fails, lambda: told.append("closed"))
        bus.attach("desk", after.append)
        publish(bus, 1, 2)
        await arrived(bus)

    assert numbers(before) == numbers(after) == [1, 2]
    assert told == ["closed"]
    [record] = caplog.records
    assert (record.name, record.levelno) == ("alloy", logging.ERROR)
    assert "'desk'" in record.getMessage()


@every_bus
async def test_what_is_kept_is_given_after_a_cursor(make_bus):
    async with make_bus() as bus:
        publish(bus, 1, 2, 3)

        assert numbers(await bus.recent("desk", 0)) == [1, 2, 3]
        assert numbers(await bus.recent("desk", 2)) == [3]
        assert numbers(await bus.recent("desk", 3)) == []
        assert numbers(await bus.recent("desk", None)) == [1, 2, 3]
        assert numbers(await bus.recent("never used", 0)) == []


@every_bus
async def test_a_cursor_before_what_is_kept_is_refused_with_the_oldest_that_would_do(make_bus):
    async with make_bus(replay=2) as bus:
        publish(bus, 1, 2, 3, 4)

        with pytest.raises(CursorError) as caught:
            await bus.recent("desk", 1)
        assert (caught.value.after, caught.value.oldest) == (1, 2)
        assert numbers(await bus.recent("desk", 2)) == [3, 4]
        assert numbers(await bus.recent("desk", None)) == [3, 4]


@every_bus
async def test_a_cursor_from_an_earlier_life_is_refused(make_bus):
    async with make_bus() as bus:
        publish(bus, 1, 2)

        with pytest.raises(CursorError):
            await bus.recent("desk", 3)
        with pytest.raises(CursorError):
            await bus.recent("never used", 1)


@every_bus
async def test_what_was_before_the_first_envelope_is_not_claimed_to_be_kept(make_bus):
    async with make_bus() as bus:
        publish(bus, 501, 502)

        with pytest.raises(CursorError) as caught:
            await bus.recent("desk", 300)
        assert caught.value.oldest == 500
        assert numbers(await bus.recent("desk", 500)) == [501, 502]


@every_bus
async def test_forgetting_leaves_the_newest_number_alone(make_bus):
    got = []
    async with make_bus() as bus:
        bus.attach("desk", got.append)
        publish(bus, 1, 2)
        bus.forget("desk")

        assert bus.newest("desk") == 2
        assert list(await bus.recent("desk", None)) == []
        with pytest.raises(CursorError):
            await bus.recent("desk", 1)
        publish(bus, 5)
        assert numbers(await bus.recent("desk", 2)) == [5]

    assert numbers(got) == [1, 2, 5]


@every_bus
async def test_a_bus_that_keeps_nothing_knows_the_newest_number(make_bus):
    async with make_bus(replay=0) as bus:
        publish(bus, 1, 2)

        assert bus.newest("desk") == 2
        assert list(await bus.recent("desk", 2)) == []
        with pytest.raises(CursorError):
            await bus.recent("desk", 1)


@every_bus
async def test_closing_a_topic_lets_its_listeners_go_once_they_got_everything(make_bus):
    said = []
    async with make_bus() as bus:
        bus.attach("desk", lambda each: said.append(each.seq), lambda: said.append("closed"))
        detach = bus.attach("desk", lambda _: None, lambda: said.append("never said"))
        bus.attach("door", lambda _: None, lambda: said.append("never said"))
        detach()
        publish(bus, 1)
        bus.close("desk")
        bus.close("desk")
        publish(bus, 2)
        await arrived(bus)

        assert said == [1, "closed"]
        assert numbers(await bus.recent("desk", 0)) == [1, 2]


@every_bus
async def test_a_closed_topic_can_be_listened_to_anew(make_bus):
    got = []
    async with make_bus() as bus:
        bus.attach("desk", lambda _: None)
        bus.close("desk")
        await arrived(bus)
        bus.attach("desk", got.append)
        publish(bus, 1)
        await arrived(bus)

    assert numbers(got) == [1]


@every_bus
async def test_messages_are_delivered_and_never_kept(make_bus):
    got = []
    message = message_envelope("Good morning.", request_id="m1")
    async with make_bus() as bus:
        bus.attach("news", got.append)
        bus.publish("news", message)

        assert list(await bus.recent("news", None)) == []
        assert bus.newest("news") == 0

    assert got == [message]


# --- listeners that do something on the bus -----------------------------------------------------------------------------


def test_listeners_can_come_and_go_while_an_envelope_is_delivered():
    bus, got = LocalBus(), []

    def first(each):
        got.append(("first", each.seq))
        detach_first()
        detach_last()
        bus.attach("desk", lambda each: got.append(("new", each.seq)))

    detach_first = bus.attach("desk", first)
    bus.attach("desk", lambda each: got.append(("second", each.seq)))
    detach_last = bus.attach("desk", lambda each: got.append(("last", each.seq)))
    publish(bus, 1, 2)

    assert got == [("first", 1), ("second", 1), ("second", 2), ("new", 2)]


def test_what_a_listener_publishes_comes_after_what_is_being_delivered():
    bus, got = LocalBus(), []

    def answers(each):
        if each.seq == 1:
            publish(bus, 2)
            assert bus.newest("desk") == 2

    bus.attach("desk", answers)
    bus.attach("desk", got.append)
    publish(bus, 1)

    assert numbers(got) == [1, 2]


def test_a_listener_that_closes_the_topic_takes_no_envelope_from_the_others():
    bus, said = LocalBus(), []
    bus.attach("desk", lambda _: bus.close("desk"))
    bus.attach("desk", lambda each: said.append(each.seq), lambda: said.append("closed"))

    publish(bus, 1)

    assert said == [1, "closed"]


def test_listeners_that_answer_each_other_without_end_are_let_go(caplog):
    bus, count = LocalBus(), 0

    def echo(each):
        nonlocal count
        count += 1
        publish(bus, each.seq + 1)

    bus.attach("desk", echo)
    publish(bus, 1)

    assert count == alloy.agents.bus.MAX_DEPTH
    assert "RecursionError" in caplog.text
    got = []
    bus.attach("desk", got.append)
    publish(bus, 1000)
    assert numbers(got) == [1000]


def test_what_interrupts_the_program_comes_through_and_the_bus_goes_on():
    bus, got = LocalBus(), []

    def interrupted(each):
        if each.seq == 1:
            raise KeyboardInterrupt

    bus.attach("desk", interrupted)
    bus.attach("desk", got.append)
    with pytest.raises(KeyboardInterrupt):
        publish(bus, 1)
    publish(bus, 2)

    assert numbers(got) == [2]


def test_who_fails_at_being_let_go_is_logged_and_the_others_are_told(caplog):
    bus, told = LocalBus(), []

    def fails():
        raise KeyError("mine")

    bus.attach("desk", lambda _: None, fails)
    bus.attach("desk", lambda _: None, lambda: told.append("closed"))
    bus.close("desk")

    assert told == ["closed"]
    assert "let go" in caplog.text


def test_who_is_let_go_takes_no_memory():
    bus = LocalBus()
    bus.attach("desk", lambda _: 1 / 0)
    bus.attach("door", print)
    publish(bus, 1)
    bus.close("door")

    assert bus._listeners == {}


# --- the local bus ------------------------------------------------------------------------------------------------------


async def test_a_number_that_comes_again_is_delivered_and_not_kept():
    bus, got = LocalBus(), []
    bus.attach("desk", got.append)
    publish(bus, 1, 2, 2, 1, 3)

    assert numbers(got) == [1, 2, 2, 1, 3]
    assert numbers(await bus.recent("desk", 0)) == [1, 2, 3]


async def test_requests_of_one_agent_go_on_counting_from_the_newest_number():
    bus = LocalBus()
    publish(bus, 7)
    emitter = Emitter("r2", lambda each: bus.publish("desk", each), numbers=iter(range(bus.newest("desk") + 1, 100)))
    emitter.emit("turn_start")

    assert numbers(await bus.recent("desk", 7)) == [8]


@pytest.mark.parametrize("replay", [-1, True, 1.5, "512"])
def test_how_many_are_kept_must_be_a_number(replay):
    with pytest.raises(InvalidOptionError, match="replay"):
        LocalBus(replay=replay)


def test_p10_a_topic_that_never_had_an_envelope_takes_no_memory():
    bus = LocalBus()
    names = [f"agent-{number}" for number in range(1000)]

    def use():
        for name in names:
            assert bus.newest(name) == 0
            detach = bus.attach(name, print)
            detach()
            bus.forget(name)
            bus.close(name)
            bus.publish(name, message_envelope("Nobody listens."))

    use()
    tracemalloc.start()
    try:
        use()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert taken < 10_000


def test_p10_a_forgotten_topic_takes_no_more_than_a_number():
    bus = LocalBus()
    names = [f"agent-{number}" for number in range(1000)]
    tracemalloc.start()
    try:
        for name in names:
            for seq in range(1, 20):
                publish(bus, seq, topic=name)
            bus.forget(name)
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert taken / len(names) < 200
    assert bus.newest("agent-7") == 19


# --- messages -----------------------------------------------------------------------------------------------------------


def test_a_message_has_its_text_no_number_and_an_id_of_its_own():
    first, second = message_envelope("Hello."), message_envelope("Hello.", agent_id="desk-1")

    assert (first.event, first.payload, first.seq) == ("message", {"text": "Hello."}, 0)
    assert first.correlation_id != second.correlation_id
    assert len(first.correlation_id) == 32
    assert (first.agent_id, second.agent_id) == (None, "desk-1")
    assert message_envelope("Hello.", request_id="m1").correlation_id == "m1"


@pytest.mark.parametrize("text", ["", " \n\t"])
def test_a_blank_message_is_refused(text):
    with pytest.raises(EmptyPromptError):
        message_envelope(text)


def test_a_message_must_be_text():
    with pytest.raises(InvalidOptionError, match="text"):
        message_envelope(b"Hello.")
