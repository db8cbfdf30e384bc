"""Subscriptions: a topic's envelopes at the reader's own pace."""

from __future__ import annotations

import tracemalloc
from contextlib import AsyncExitStack

import anyio
import pytest

from alloy.agents.bus import LocalBus
from alloy.agents.subscription import CHECKPOINT_EVERY
from alloy.errors import InvalidOptionError
from tests.agents.buses import a_loss, arrived, envelope, every_bus, lagged, on, publish, rest, take, told

pytestmark = pytest.mark.anyio


# --- reading ------------------------------------------------------------------------------------------------------------


@every_bus
async def test_a_reader_gets_what_is_published_while_it_is_inside(make_bus):
    async with make_bus() as bus:
        publish(bus, 1)
        await arrived(bus)
        async with on(bus) as envelopes:
            publish(bus, 2, 3)
            assert await take(envelopes, 2) == [2, 3]


@every_bus
async def test_a_waiting_reader_is_woken(make_bus):
    got = []

    async def read(envelopes):
        got.extend(await take(envelopes, 2))

    with anyio.fail_after(5):
        async with make_bus() as bus, on(bus) as envelopes, anyio.create_task_group() as group:
            group.start_soon(read, envelopes)
            await anyio.wait_all_tasks_blocked()
            publish(bus, 1, 2)

    assert got == [1, 2]


@every_bus
async def test_closing_the_topic_ends_the_iteration_after_what_is_buffered(make_bus):
    async with make_bus() as bus, on(bus) as envelopes:
        publish(bus, 1, 2)
        bus.close("desk")
        publish(bus, 3)
        assert await rest(envelopes) == [1, 2]
        assert await envelopes.pull() is None


async def test_closing_the_topic_ends_a_waiting_reader():
    bus, got = LocalBus(), []

    async def read(envelopes):
        got.append(await envelopes.pull())

    with anyio.fail_after(5):
        async with on(bus) as envelopes, anyio.create_task_group() as group:
            group.start_soon(read, envelopes)
            await anyio.wait_all_tasks_blocked()
            bus.close("desk")

    assert got == [None]


async def test_closing_a_subscription_ends_it_alone_even_before_it_is_entered():
    bus = LocalBus()
    closed = on(bus, after=0)
    closed.close()
    publish(bus, 1)
    async with closed, on(bus) as other:
        publish(bus, 2)
        assert await rest(closed) == [1]
        assert await take(other, 1) == [2]


async def test_leaving_the_block_detaches_and_ends_a_reader_in_another_task():
    bus, got = LocalBus(), []

    async def read(envelopes):
        got.append(await rest(envelopes))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as group, on(bus) as envelopes:
            group.start_soon(read, envelopes)
            await anyio.wait_all_tasks_blocked()
            publish(bus, 1)
            await anyio.wait_all_tasks_blocked()
            publish(bus, 2)

    assert got == [[1]], "what is unread when the block is left is dropped"
    assert bus._listeners == {}


async def test_a_reader_that_comes_back_after_the_block_was_left_just_ends():
    bus = LocalBus()
    async with on(bus) as envelopes:
        publish(bus, 1, 2)
        await take(envelopes, 1)

    assert await envelopes.pull() is None


async def test_reading_outside_of_the_block_says_how_it_is_done():
    envelopes = on(LocalBus())
    with pytest.raises(RuntimeError, match="async with"):
        await anext(envelopes)
    async with envelopes:
        pass
    with pytest.raises(RuntimeError, match="async with"):
        await anext(envelopes)
    with pytest.raises(RuntimeError, match="subscribe again"):
        async with envelopes:
            pass


async def test_a_second_reader_at_the_same_time_is_refused_and_the_first_reads_on():
    bus, got = LocalBus(), []

    async def read(envelopes):
        got.extend(await take(envelopes, 1))

    with anyio.fail_after(5):
        async with on(bus) as envelopes, anyio.create_task_group() as group:
            group.start_soon(read, envelopes)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await envelopes.pull()
            publish(bus, 1)
            with pytest.raises(
                anyio.BusyResourceError
            ):  # it was woken, but has not run yet: its envelope isn't to be stolen
                await envelopes.pull()

    assert got == [1]


async def test_a_second_reader_is_refused_also_where_the_first_lets_others_run():
    bus, got, refused = LocalBus(), [], []

    async def read_all(envelopes):
        got.extend(await take(envelopes, 100))

    async def read_one(envelopes):
        with pytest.raises(anyio.BusyResourceError) as caught:
            await envelopes.pull()
        refused.append(caught.value)

    async with on(bus) as envelopes, anyio.create_task_group() as group:
        publish(bus, *range(1, 101))
        group.start_soon(read_all, envelopes)
        group.start_soon(read_one, envelopes)

    assert got == [*range(1, 101)]
    assert len(refused) == 1


async def test_readers_one_after_the_other_are_fine():
    bus, got = LocalBus(), []

    async def read(envelopes):
        got.extend(await take(envelopes, 2))

    async with on(bus) as envelopes:
        publish(bus, 1, 2, 3, 4)
        for _ in range(2):
            async with anyio.create_task_group() as group:
                group.start_soon(read, envelopes)

    assert got == [1, 2, 3, 4]


@pytest.mark.parametrize("moment", ["while it waits", "before the envelope", "after the envelope"])
async def test_cancelling_a_waiting_reader_loses_nothing(moment):
    bus, got = LocalBus(), []
    scope = anyio.CancelScope()

    async def read(envelopes):
        with scope:
            got.append(await envelopes.pull())

    with anyio.fail_after(5):
        async with on(bus) as envelopes:
            async with anyio.create_task_group() as group:
                group.start_soon(read, envelopes)
                await anyio.wait_all_tasks_blocked()
                match moment:
                    case "while it waits":
                        scope.cancel()
                        await anyio.wait_all_tasks_blocked()
                        publish(bus, 1)
                    case "before the envelope":
                        scope.cancel()
                        publish(bus, 1)
                    case "after the envelope":
                        publish(bus, 1)
                        scope.cancel()
            publish(bus, 2)
            assert [each.seq for each in got] + await take(envelopes, 2 - len(got)) == [1, 2]


async def test_cancelling_a_reader_where_it_lets_others_run_loses_nothing():
    bus = LocalBus()
    got = []
    async with on(bus) as envelopes:
        publish(bus, *range(1, 201))
        with anyio.CancelScope() as scope:
            scope.cancel()
            while True:
                got.append((await envelopes.pull()).seq)
        assert 0 < len(got) < 200
        assert got + await take(envelopes, 200 - len(got)) == [*range(1, 201)]


async def test_a_reader_with_much_to_read_lets_others_run():
    bus = LocalBus()
    turns = []
    read = 0

    async def other():
        while read < 1000:
            turns.append(read)
            await anyio.lowlevel.checkpoint()

    async with on(bus) as envelopes, anyio.create_task_group() as group:
        publish(bus, *range(1, 1001))
        group.start_soon(other)
        while read < 1000:
            await envelopes.pull()
            read += 1

    gaps = [later - earlier for earlier, later in zip([0, *turns], [*turns, 1000], strict=True)]
    assert max(gaps) <= CHECKPOINT_EVERY


# --- a slow reader ------------------------------------------------------------------------------------------------------


@every_bus
async def test_p5_a_slow_reader_loses_the_oldest_and_is_told_how_many(make_bus):
    async with make_bus() as bus, on(bus, buffer=2) as envelopes:
        publish(bus, 1, 2, 3, 4, 5)
        await arrived(bus)
        with anyio.fail_after(5):
            assert await anext(envelopes) == lagged(3, 1, 3), "as a whole it looks like those that were missed"
        assert await take(envelopes, 2) == [4, 5]


async def test_p5_losses_that_were_not_told_yet_are_told_together():
    bus = LocalBus()
    async with on(bus, buffer=1) as envelopes:
        publish(bus, 1, 2, 3)
        publish(bus, 4, request_id="r2")
        publish(bus, 5)
        assert await told(envelopes) == a_loss(4, 1, 4, request_id="r2")
        assert await take(envelopes, 1) == [5]
        publish(bus, 6, 7)
        assert await told(envelopes) == a_loss(1, 6, 6)
        assert await take(envelopes, 1) == [7]


async def test_p5_what_was_missed_last_says_whose_it_was():
    bus = LocalBus()
    async with on(bus, buffer=1) as envelopes:
        publish(bus, 1)
        publish(bus, 2, request_id="r2")
        publish(bus, 3)
        assert await told(envelopes) == a_loss(2, 1, 2, request_id="r2")


async def test_p5_no_reader_is_told_of_losses_where_all_fits():
    bus = LocalBus()
    async with on(bus, buffer=3) as envelopes:
        publish(bus, 1, 2, 3)
        assert await take(envelopes, 3) == [1, 2, 3]
        publish(bus, 4, 5, 6)
        assert await take(envelopes, 3) == [4, 5, 6]


async def test_p5_losses_that_another_bus_told_of_are_counted_when_they_get_lost_in_turn():
    bus = LocalBus()
    async with on(bus, buffer=1) as envelopes:
        bus.publish("desk", lagged(10, 1, 10))
        publish(bus, 11, 12)
        assert await told(envelopes) == a_loss(11, 1, 11)
        assert await take(envelopes, 1) == [12]


async def test_p5_the_end_is_told_to_the_slowest_reader():
    bus = LocalBus()
    async with on(bus, buffer=1) as envelopes:
        publish(bus, 1, 2)
        bus.close("desk")
        assert await rest(envelopes) == [1, 2]


async def test_p5_a_subscriber_that_never_reads_holds_its_buffer_and_no_more():
    bus = LocalBus(replay=0)
    some = [envelope(seq, text="x" * 100) for seq in range(1, 1001)]
    async with on(bus, buffer=100) as envelopes:
        for each in some:
            bus.publish("desk", each)
        tracemalloc.start()
        try:
            for _ in range(1000):
                for each in some:
                    bus.publish("desk", each)
            grown, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        first = await anext(envelopes)
        assert first.payload["missed"] == 1_001_000 - 100
        envelopes.close()
        assert len(await rest(envelopes)) == 100

    assert grown < 10_000


async def test_p5_a_slow_reader_takes_nothing_from_the_others():
    bus = LocalBus()
    async with on(bus, buffer=1), on(bus) as quick:
        publish(bus, *range(1, 101))
        assert await take(quick, 100) == [*range(1, 101)]


@pytest.mark.parametrize("buffer", [0, -1, True, 1.5, None, "10"])
def test_the_buffer_must_have_room(buffer):
    with pytest.raises(InvalidOptionError, match="buffer"):
        on(LocalBus(), buffer=buffer)


# --- many ---------------------------------------------------------------------------------------------------------------


async def test_a_hundred_readers_get_everything_in_order():
    bus, got = LocalBus(), []

    async def read(envelopes):
        got.append(await rest(envelopes))

    async with AsyncExitStack() as stack, anyio.create_task_group() as group:
        for _ in range(100):
            group.start_soon(read, await stack.enter_async_context(on(bus)))
        await anyio.wait_all_tasks_blocked()
        for seq in range(1, 51):
            publish(bus, seq)
            await anyio.lowlevel.checkpoint()
        bus.close("desk")

    assert got == [[*range(1, 51)]] * 100
