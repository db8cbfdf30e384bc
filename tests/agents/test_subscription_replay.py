"""Subscriptions to some of a topic, and to what was published before."""

from __future__ import annotations

import anyio
import pytest

from alloy.agents.bus import LocalBus, message_envelope
from alloy.errors import CursorError, InvalidOptionError
from tests.agents.buses import a_loss, arrived, envelope, every_bus, lagged, on, publish, rest, take, told

pytestmark = pytest.mark.anyio


# --- only some of it ----------------------------------------------------------------------------------------------------


@every_bus
async def test_only_the_events_that_were_asked_for_come_and_others_take_no_room(make_bus):
    async with make_bus() as bus, on(bus, events=["turn_end"], buffer=2) as envelopes:
        publish(bus, 1, event="turn_end")
        publish(bus, 2, 3, 4, 5)
        publish(bus, 6, event="turn_end")
        publish(bus, 7)
        assert await take(envelopes, 2) == [1, 6]


async def test_losses_are_told_whatever_was_asked_for_and_count_only_that():
    bus = LocalBus()
    async with on(bus, events={"turn_end"}, buffer=1) as envelopes:
        publish(bus, 1, 2)
        publish(bus, 3, event="turn_end")
        publish(bus, 4)
        publish(bus, 5, event="turn_end")
        assert await told(envelopes) == a_loss(1, 3, 3)
        assert await take(envelopes, 1) == [5]
        bus.publish("desk", lagged(4, 6, 9))
        assert await take(envelopes, 1) == [9]


def test_an_unknown_event_is_refused_with_near_ones():
    with pytest.raises(InvalidOptionError, match=r"events.*text_delta.*'text_detla'"):
        on(LocalBus(), events=["turn_end", "text_detla"])


@pytest.mark.parametrize("events", ["turn_end", 5])
def test_events_must_be_a_collection(events):
    with pytest.raises(InvalidOptionError, match="collection"):
        on(LocalBus(), events=events)


@every_bus
async def test_a_requests_envelopes_come_alone_and_end_with_its_response(make_bus):
    async with make_bus() as bus, on(bus, request_id="r1", buffer=3) as envelopes:
        publish(bus, 1, event="run_start", request_id="r2")
        publish(bus, 2, event="run_start")
        publish(bus, 3, 4, 5, event="response", request_id="r2")
        publish(bus, 6)
        publish(bus, 7, event="response")
        publish(bus, 8, 9)
        assert await rest(envelopes) == [2, 6, 7]


async def test_a_requests_end_ends_the_iteration_also_where_it_was_not_asked_for():
    bus, got = LocalBus(), []

    async def read(envelopes):
        got.append(await rest(envelopes))

    with anyio.fail_after(5):
        async with on(bus, request_id="r1", events=["turn_end"]) as envelopes, anyio.create_task_group() as group:
            group.start_soon(read, envelopes)
            await anyio.wait_all_tasks_blocked()
            publish(bus, 1, event="run_start")
            publish(bus, 2, event="turn_end")
            await anyio.wait_all_tasks_blocked()
            publish(bus, 3, event="response")

    assert got == [[2]]
    assert bus._listeners == {}


@every_bus
@pytest.mark.parametrize("beginning", ["request_queued", "run_start"])
async def test_a_request_is_replayed_from_its_beginning(make_bus, beginning):
    async with make_bus() as bus:
        publish(bus, 1, request_id="r0")
        publish(bus, 2, event=beginning)
        publish(bus, 3)
        async with on(bus, request_id="r1") as envelopes:
            publish(bus, 4)
            publish(bus, 5, event="response")
            assert await rest(envelopes) == [2, 3, 4, 5]


@every_bus
async def test_a_request_that_has_ended_is_replayed_and_ends(make_bus):
    async with make_bus() as bus:
        publish(bus, 1, event="run_start")
        publish(bus, 2, event="response")
        publish(bus, 3, request_id="r2")
        async with on(bus, request_id="r1") as envelopes:
            assert await rest(envelopes) == [1, 2]


@every_bus
async def test_p5_a_request_whose_beginning_is_gone_says_so_first(make_bus):
    async with make_bus(replay=2) as bus:
        publish(bus, 1, event="run_start")
        publish(bus, 2, 3, 4)
        async with on(bus, request_id="r1") as envelopes:
            publish(bus, 5, event="response")
            assert await told(envelopes) == a_loss(None, None, 2)
            assert await rest(envelopes) == [3, 4, 5]


@every_bus
async def test_p5_a_request_of_which_nothing_is_kept_says_so_with_the_first_that_comes(make_bus):
    async with make_bus(replay=0) as bus:
        publish(bus, 1, event="run_start")
        publish(bus, 2)
        await arrived(bus)
        async with on(bus, request_id="r1") as envelopes:
            publish(bus, 3)
            publish(bus, 4, event="response")
            assert await told(envelopes) == a_loss(None, None, 2)
            assert await rest(envelopes) == [3, 4]


async def test_p5_a_missing_beginning_is_told_at_once_also_where_the_first_that_comes_was_not_asked_for():
    bus, got = LocalBus(), []

    async def read(envelopes):
        got.append(await told(envelopes))

    with anyio.fail_after(5):
        async with on(bus, request_id="r1", events=["turn_end"]) as envelopes, anyio.create_task_group() as group:
            group.start_soon(read, envelopes)
            await anyio.wait_all_tasks_blocked()
            publish(bus, 5)

    assert got == [a_loss(None, None, 4)]


async def test_a_request_that_has_not_begun_is_waited_for():
    bus = LocalBus(replay=1)
    publish(bus, 1, 2, 3, request_id="r0")
    async with on(bus, request_id="r1") as envelopes:
        publish(bus, 4, event="run_start")
        publish(bus, 5, event="response")
        assert await rest(envelopes) == [4, 5]


@every_bus
@pytest.mark.parametrize("first", ["request_cancelled", "response"])
async def test_a_request_that_never_ran_has_lost_nothing(make_bus, first):
    async with make_bus() as bus, on(bus, request_id="r1") as envelopes:
        bus.publish("desk", envelope(7, first, turn=0, start_event_seq=0))
        bus.publish("desk", envelope(8, "response", turn=0, start_event_seq=0))
        assert await take(envelopes, 1) == [7]


async def test_p5_a_run_that_failed_before_its_first_turn_lost_its_beginning_when_only_its_end_is_kept():
    bus = LocalBus(replay=1)
    publish(bus, 1, event="run_start")
    bus.publish("desk", envelope(2, "response", turn=0, start_event_seq=1))
    async with on(bus, request_id="r1") as envelopes:
        assert await told(envelopes) == a_loss(None, None, 1)
        assert await rest(envelopes) == [2]


async def test_losses_that_a_bus_tells_of_reach_the_reader_of_a_request():
    bus = LocalBus()
    async with on(bus, request_id="r1") as envelopes:
        publish(bus, 1, event="run_start")
        bus.publish("desk", lagged(3, 2, 4, request_id="r2"))
        publish(bus, 5, event="response")
        assert await rest(envelopes) == [1, 4, 5]


async def test_losses_that_a_bus_tells_of_before_a_request_begins_are_not_its_beginning():
    bus = LocalBus()
    async with on(bus, request_id="r1") as envelopes:
        bus.publish("desk", lagged(3, 2, 4, request_id="r1"))
        publish(bus, 5, event="run_start")
        publish(bus, 6, event="response")
        assert await rest(envelopes) == [4, 5, 6]


def test_a_request_id_is_text():
    with pytest.raises(InvalidOptionError, match="request_id"):
        on(LocalBus(), request_id=7)


async def test_messages_of_one_request_id_come_without_a_loss_before_them():
    bus = LocalBus()
    message = message_envelope("Hello.", request_id="r1")
    async with on(bus, request_id="r1") as envelopes:
        bus.publish("desk", message)
        assert await anext(envelopes) is message


# --- going on from a cursor -----------------------------------------------------------------------------------------------


@every_bus
async def test_after_a_cursor_comes_what_is_kept_and_then_what_is_new(make_bus):
    async with make_bus() as bus:
        publish(bus, 1, 2, 3)
        async with on(bus, after=1) as envelopes:
            publish(bus, 4)
            assert await take(envelopes, 3) == [2, 3, 4]


@every_bus
async def test_after_the_newest_comes_only_what_is_new(make_bus):
    async with make_bus() as bus:
        publish(bus, 1, 2)
        async with on(bus, after=2) as envelopes:
            publish(bus, 3)
            assert await take(envelopes, 1) == [3]


@every_bus
async def test_what_is_replayed_takes_no_room_of_the_buffer(make_bus):
    async with make_bus() as bus:
        publish(bus, *range(1, 101))
        async with on(bus, after=0, buffer=1) as envelopes:
            publish(bus, 101)
            assert await take(envelopes, 101) == [*range(1, 102)]


async def test_p5_losses_while_the_replay_is_being_read_are_told_after_it():
    bus = LocalBus()
    publish(bus, 1, 2)
    async with on(bus, after=0, buffer=1) as envelopes:
        publish(bus, 3, 4, 5)
        assert await take(envelopes, 2) == [1, 2]
        assert await told(envelopes) == a_loss(2, 3, 4)
        assert await take(envelopes, 1) == [5]


@every_bus
@pytest.mark.parametrize("after", [1, 9], ids=["too old", "from an earlier life"])
async def test_a_cursor_that_cannot_be_resumed_from_is_refused_on_entering(make_bus, after):
    async with make_bus(replay=2) as bus:
        publish(bus, 1, 2, 3, 4)
        with pytest.raises(CursorError) as caught:
            async with on(bus, after=after):
                pytest.fail("it was entered")
        assert (caught.value.agent, caught.value.after, caught.value.oldest) == ("desk-1", after, 2)
        async with on(bus, after=caught.value.oldest) as envelopes:
            assert await take(envelopes, 2) == [3, 4]


async def test_a_refused_subscription_leaves_no_listener():
    bus = LocalBus()
    with pytest.raises(CursorError):
        async with on(bus, after=5):
            pass

    assert bus._listeners == {}


@pytest.mark.parametrize("after", [-1, "5", True, 1.0])
def test_a_cursor_is_a_number(after):
    with pytest.raises(InvalidOptionError, match="after"):
        on(LocalBus(), after=after)


@every_bus
async def test_a_request_is_gone_on_with_after_a_cursor(make_bus):
    async with make_bus() as bus:
        publish(bus, 1, event="run_start")
        publish(bus, 2)
        publish(bus, 3, request_id="r2")
        publish(bus, 4)
        async with on(bus, request_id="r1", after=2) as envelopes:
            publish(bus, 5, request_id="r2")
            publish(bus, 6, event="response")
            assert await rest(envelopes) == [4, 6]


@every_bus
async def test_a_request_whose_end_was_seen_already_ends_at_once(make_bus):
    async with make_bus() as bus:
        publish(bus, 1, event="run_start")
        publish(bus, 2, event="response")
        publish(bus, 3, request_id="r2")
        async with on(bus, request_id="r1", after=3) as envelopes:
            assert await rest(envelopes) == []


async def test_messages_come_after_a_cursor_too():
    bus = LocalBus()
    publish(bus, 1)
    message = message_envelope("Hello.")
    async with on(bus, after=0) as envelopes:
        bus.publish("desk", message)
        assert await take(envelopes, 2) == [1, 0]


# --- a bus that takes its time ------------------------------------------------------------------------------------------


class SlowBus(LocalBus):
    """Asked for what is kept, it answers only when it is let."""

    def __init__(self, *, before=(), meanwhile=(), late=(), **options):
        super().__init__(**options)
        self.before, self.meanwhile, self.late = before, meanwhile, late

    async def recent(self, topic, after):
        for each in self.before:
            self.publish(topic, each)
        kept = await super().recent(topic, after)
        for each in self.meanwhile:
            self.publish(topic, each)
        await anyio.lowlevel.checkpoint()
        self.before = self.meanwhile = ()
        return kept

    def repeat(self, topic):
        for each in self.late:
            self.publish(topic, each)


async def test_what_comes_while_the_replay_is_fetched_comes_once_and_in_order():
    bus = SlowBus(before=[envelope(3), envelope(4)], meanwhile=[envelope(5)])
    publish(bus, 1, 2)
    async with on(bus, after=1) as envelopes:
        publish(bus, 6)
        assert await take(envelopes, 5) == [2, 3, 4, 5, 6]


async def test_what_comes_again_after_the_replay_is_not_repeated():
    bus = SlowBus(late=[envelope(1), envelope(2)])
    publish(bus, 1, 2)
    async with on(bus, after=1) as envelopes:
        bus.repeat("desk")
        publish(bus, 3)
        assert await take(envelopes, 2) == [2, 3]


async def test_p5_what_overflowed_while_the_replay_was_fetched_is_no_loss_if_it_was_replayed():
    bus = SlowBus(before=[envelope(seq) for seq in range(1, 10)])
    async with on(bus, after=0, buffer=2) as envelopes:
        publish(bus, 10)
        assert await take(envelopes, 10) == [*range(1, 11)]


async def test_p5_what_overflowed_while_the_replay_was_fetched_is_a_loss_if_it_was_not():
    bus = SlowBus(before=[envelope(1), envelope(2), envelope(3)], meanwhile=[envelope(seq) for seq in range(4, 8)])
    async with on(bus, after=0, buffer=2) as envelopes:
        assert await take(envelopes, 3) == [1, 2, 3]
        assert await told(envelopes) == a_loss(2, 4, 5)
        assert await take(envelopes, 2) == [6, 7]


async def test_a_requests_beginning_is_looked_for_in_the_replay_not_in_what_came_meanwhile():
    bus = SlowBus(meanwhile=[envelope(3), envelope(4, "response")])
    publish(bus, 1, event="run_start")
    publish(bus, 2)
    async with on(bus, request_id="r1") as envelopes:
        assert await rest(envelopes) == [1, 2, 3, 4]


async def test_a_request_of_which_it_is_known_since_when_it_is_replayed_whole_whatever_came_meanwhile():
    bus = SlowBus(meanwhile=[envelope(3), envelope(4, "response")])
    publish(bus, 1, event="run_start")
    publish(bus, 2)
    subscription = on(bus, request_id="r1")
    subscription.since = 0
    async with subscription as envelopes:
        assert await rest(envelopes) == [1, 2, 3, 4]


async def test_an_earlier_request_of_the_same_id_is_not_replayed():
    bus = LocalBus()
    publish(bus, 1, event="run_start")
    publish(bus, 2, event="response")
    publish(bus, 3, event="run_start")
    subscription = on(bus, request_id="r1")
    subscription.since = 2
    async with subscription as envelopes:
        publish(bus, 4, event="response")
        assert await rest(envelopes) == [3, 4]


@pytest.mark.parametrize(("replay", "last", "kept"), [(0, 3, [4, 5]), (1, 2, [3, 4, 5])])
async def test_p5_a_request_of_which_it_is_known_since_when_it_is_is_told_once_that_its_beginning_is_gone(
    replay, last, kept
):
    bus = LocalBus(replay=replay)
    publish(bus, 1, event="run_start")
    publish(bus, 2, 3)
    subscription = on(bus, request_id="r1")
    subscription.since = 0
    async with subscription as envelopes:
        publish(bus, 4)
        publish(bus, 5, event="response")
        assert await told(envelopes) == a_loss(None, None, last)
        assert await rest(envelopes) == kept


async def test_p5_a_beginning_that_is_missing_in_the_replay_is_told_once_whatever_came_meanwhile():
    bus = SlowBus(replay=2, meanwhile=[envelope(4), envelope(5, "response")])
    publish(bus, 1, event="run_start")
    publish(bus, 2, 3)
    async with on(bus, request_id="r1") as envelopes:
        assert await told(envelopes) == a_loss(None, None, 1)
        assert await rest(envelopes) == [2, 3, 4, 5]


async def test_the_end_that_comes_while_it_is_looked_for_in_the_past_is_given():
    bus = SlowBus(meanwhile=[envelope(3, "response")])
    publish(bus, 1, event="run_start")
    publish(bus, 2)
    async with on(bus, request_id="r1", after=2) as envelopes:
        assert await rest(envelopes) == [3]


async def test_an_end_that_is_kept_and_has_not_arrived_yet_is_waited_for():
    class LateBus(LocalBus):
        async def recent(self, topic, after):
            kept = await super().recent(topic, after)
            return [*kept, envelope(3, "response")] if after is None else kept

    bus = LateBus()
    publish(bus, 1, event="run_start")
    publish(bus, 2)
    async with on(bus, request_id="r1", after=2) as envelopes:
        publish(bus, 3, event="response")
        assert await rest(envelopes) == [3]


async def test_cancelled_while_entering_it_leaves_no_listener():
    bus = SlowBus()
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with on(bus, after=0):
            pytest.fail("it was entered")

    assert bus._listeners == {}
