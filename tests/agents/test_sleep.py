"""Sleep: an agent that nobody needs is saved and goes, and is there again when somebody addresses it."""

from __future__ import annotations

import asyncio
import gc
import weakref
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents.bus import message_envelope
from alloy.errors import AgentClosedError, AgentExistsError, AgentQuarantinedError, SessionConflictError, SessionError
from alloy.testing import Scripted
from alloy.testing.virtual import VirtualLoop, run_virtually
from tests.agents.supervising import Answers, Store, Watched, ended

pytestmark = pytest.mark.anyio

IDLE = 60  # seconds
LONG = 100


@pytest.fixture
def anyio_backend():
    """Time passes when nothing else can happen, and costs nothing."""
    return "asyncio", {"loop_factory": VirtualLoop}


async def test_an_idle_agent_sleeps_and_whoever_sends_to_its_name_wakes_it(supervising, answers):
    async with supervising(idle_timeout=IDLE) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        await agent.chat("One")
        await anyio.sleep(IDLE - 1)
        assert supervisor.health()["desk"].state == "idle"
        await anyio.sleep(LONG)

        health = supervisor.health()["desk"]
        assert (health.state, health.messages) == ("asleep", 2)
        assert supervisor.names() == ("desk",)
        request_id = await alloy.send_message("desk", "Two")
        assert (await supervisor.get("desk").result(request_id)).text == "Two 3"


async def test_an_agent_that_is_used_or_busy_stays_awake(supervising, answers):
    async with supervising(idle_timeout=IDLE) as supervisor:
        used = await supervisor.start("used", answers.config())
        busy = await supervisor.start("busy", answers.config())
        await busy.send_message("hang")
        for number in range(10):
            await used.chat(f"{number}")
            await anyio.sleep(IDLE - 10)
        assert {name: health.state for name, health in supervisor.health().items()} == {"used": "idle", "busy": "busy"}
        await supervisor.stop(0)


async def test_without_an_idle_timeout_nobody_sleeps(supervising, answers):
    async with supervising() as supervisor:
        agent = await supervisor.start("desk", answers.config())
        await anyio.sleep(10_000)
        assert (await agent.chat("One")).text == "One 1"


@pytest.mark.parametrize("way", ["awake", "get_or_start", "get_or_start with a config"])
async def test_a_sleeping_agent_is_woken_by_each_way(supervising, answers, way):
    async with supervising(idle_timeout=IDLE) as supervisor:
        await supervisor.start("desk", answers.config())
        await anyio.sleep(LONG)
        agent = await {
            "awake": lambda: supervisor.awake("desk"),
            "get_or_start": lambda: supervisor.get_or_start("desk"),
            "get_or_start with a config": lambda: supervisor.get_or_start("desk", answers.config(max_turns=1)),
        }[way]()
        assert agent is supervisor.get("desk")
        assert agent.health().state == "idle"


async def test_a_stale_object_says_that_its_agent_sleeps_and_how_to_get_it(supervising, answers):
    async with supervising(idle_timeout=IDLE) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        await anyio.sleep(LONG)
        for ask in (lambda: agent.chat("Hi"), lambda: agent.send_message("Hi"), agent.reset):
            with pytest.raises(AgentClosedError, match=r"sleeps; wake it with 'await supervisor\.awake"):
                await ask()
        with pytest.raises(AgentClosedError, match="sleeps"):
            supervisor.get("desk")
        with pytest.raises(AgentExistsError):
            await supervisor.start("desk", answers.config())
        await supervisor.awake("desk")
        with pytest.raises(AgentClosedError, match="sleeps"):  # it is another object's now
            await agent.chat("Hi")


async def test_p4_a_sleeping_agent_has_no_task_and_no_object(supervising, answers):
    async with supervising(idle_timeout=IDLE) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        await agent.chat("One")
        gone = [weakref.ref(agent), weakref.ref(agent._owner.history)]
        del agent
        await anyio.sleep(LONG)
        gc.collect()
        assert [reference() for reference in gone] == [None, None]
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "agent desk"]
        assert not supervisor._lives.alive


async def test_p5_who_watches_goes_on_watching_over_sleep_and_numbers_go_on(supervising, answers):
    async with supervising(idle_timeout=IDLE) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        async with agent.subscribe() as envelopes:
            await agent.chat("One")
            await anyio.sleep(LONG)
            agent = await supervisor.awake("desk")
            await agent.chat("Two")
            await supervisor.stop_agent("desk")
            seen = [envelope async for envelope in envelopes]
    assert [envelope.payload["text"] for envelope in seen if envelope.event == "response"] == ["One 1", "Two 3"]
    assert all(one.seq < two.seq for one, two in pairwise(seen))


async def test_a_message_on_a_topic_wakes_who_listens_to_it_and_keeps_its_place(supervising, answers, bus, store):
    async with supervising(idle_timeout=IDLE, store=store) as supervisor:
        await supervisor.start("desk", answers.config(), subscribe=["news"])
        await anyio.sleep(LONG)
        store.let_load = anyio.Event()
        for number in (1, 2, 3):
            bus.publish("news", message_envelope(f"{number}", request_id=f"news-{number}"))
        await anyio.wait_all_tasks_blocked()
        assert supervisor.health()["desk"].pending == 3
        store.let_load.set()
        agent = await supervisor.awake("desk")
        assert (await agent.chat("4")).text == "4 7"
        assert [(await agent.result(f"news-{number}")).text for number in (1, 2, 3)] == ["1 1", "2 3", "3 5"]


async def test_an_agent_that_wakes_has_the_model_that_it_was_given(supervising, answers):
    async with supervising(idle_timeout=IDLE) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        await agent.set_model(Scripted(["another"]))
        await anyio.sleep(LONG)
        assert (await (await supervisor.awake("desk")).chat("Hi")).text == "another"


async def test_stopping_a_sleeping_agent_forgets_it(supervising, answers):
    async with supervising(idle_timeout=IDLE) as supervisor:
        agent = await supervisor.start("desk", answers.config(), subscribe=["news"])
        async with agent.subscribe() as envelopes:
            await anyio.sleep(LONG)
            assert await supervisor.stop_agent("desk") == ()
            assert [envelope async for envelope in envelopes] == []
        assert supervisor.names() == ()
        await supervisor.start("desk", answers.config())


async def test_a_message_that_crashed_an_agent_three_times_is_refused_after_its_sleep_too(supervising, answers):
    async with supervising(idle_timeout=IDLE, max_restarts=5) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        for _ in range(3):
            with pytest.raises(alloy.RunError):
                await agent.chat("melt")
        await anyio.sleep(LONG)
        assert supervisor.health()["desk"].state == "asleep"
        agent = await supervisor.awake("desk")
        with pytest.raises(AgentQuarantinedError, match="3 times"):
            await agent.chat("melt")
        assert agent.health().crashes == 3


# --- the moment of falling asleep -----------------------------------------------------------------------------------------


async def asleep_at_last(supervisor, store):
    """Holds an agent in the middle of falling asleep."""
    store.save_fails = None
    store.let_save = anyio.Event()
    store.saving = anyio.Event()
    with anyio.fail_after(LONG * 10):
        await store.saving.wait()
    assert supervisor._members["desk"].state == "falling asleep"


async def unsaved_agent(supervisor, answers, store, **options):
    """An agent with something to save when it falls asleep."""
    agent = await supervisor.start("desk", answers.config(**options), subscribe=["news"])
    store.save_fails = SessionError("desk", "the disk is full")
    await agent.chat("One")
    assert agent.health().unsaved
    return agent


async def test_who_addresses_an_agent_that_falls_asleep_waits_and_wakes_it(supervising, answers, store, bus):
    async with supervising(idle_timeout=IDLE, store=store) as supervisor:
        stale = await unsaved_agent(supervisor, answers, store)
        await asleep_at_last(supervisor, store)
        ids = []
        async with anyio.create_task_group() as group:

            async def send(word):
                ids.append(await alloy.send_message("desk", word))

            for word in ("Two", "Three"):
                group.start_soon(send, word)
            await anyio.wait_all_tasks_blocked()
            assert ids == []
            bus.publish("news", message_envelope("News", request_id="from-news"))
            with pytest.raises(AgentClosedError, match="sleeps"):
                await stale.chat("Hi")
            store.let_save.set()
        agent = supervisor.get("desk")
        texts = [(await agent.result(request_id)).text for request_id in ("from-news", *ids)]
        assert texts == ["News 3", "Two 5", "Three 7"]


async def test_messages_that_come_while_it_falls_asleep_have_a_bound_and_the_rest_is_refused_visibly(
    supervising, answers, store, bus
):
    async with supervising(idle_timeout=IDLE, store=store) as supervisor:
        await unsaved_agent(supervisor, answers, store, max_pending=1)
        await asleep_at_last(supervisor, store)
        for number in range(4):
            bus.publish("news", message_envelope(f"{number}", request_id=f"news-{number}"))
        store.let_save.set()
        agent = await supervisor.awake("desk")
        assert [await ended(agent, f"news-{number}") for number in (0, 1)] == ["completed"] * 2
        refused = [told for told in bus.told("agent/desk") if told["kind"] == "message_refused"]
        assert [told["error"] for told in refused] == ["AgentClosedError"] * 2


async def test_an_agent_that_cannot_be_saved_stays_awake_and_says_so(supervising, answers, store, bus):
    async with supervising(idle_timeout=IDLE, store=store) as supervisor:
        agent = await unsaved_agent(supervisor, answers, store)
        await anyio.sleep(10 * LONG)
        assert agent.health().state == "idle"
        assert bus.kinds("agent/desk").count("session_not_saved") > 2
        store.save_fails = None
        assert (await agent.chat("Two")).text == "Two 3"
        await anyio.sleep(LONG)
        assert supervisor.health()["desk"].state == "asleep"


async def test_an_agent_that_has_lost_its_session_ends_instead_of_sleeping(supervising, answers, store):
    async with supervising(idle_timeout=IDLE, store=store) as supervisor:
        await unsaved_agent(supervisor, answers, store)
        store.save_fails = SessionConflictError("desk", "somebody else saved it")
        await anyio.sleep(LONG)
        assert supervisor.names() == ()


async def test_stopping_while_an_agent_falls_asleep_waits_for_its_end(supervising, answers, store):
    async with supervising(idle_timeout=IDLE, store=store) as supervisor:
        await unsaved_agent(supervisor, answers, store)
        await asleep_at_last(supervisor, store)
        async with anyio.create_task_group() as group:
            group.start_soon(supervisor.stop_agent, "desk")
            await anyio.wait_all_tasks_blocked()
            assert supervisor.names() == ("desk",)
            store.let_save.set()
        assert supervisor.names() == ()
    session = await store.load("desk")
    assert len(session.messages) == 2


@pytest.mark.parametrize("seed", range(20))
def test_p2_no_accepted_message_is_lost_between_sleeping_and_waking(seed):
    """Senders by name and by topic, agents that sleep as fast as they can, and schedules shuffled by a seed."""

    async def scenario():
        answers, bus, store = Answers(), Watched(), Store()
        sent = []
        async with alloy.Supervisor(bus=bus, store=store, idle_timeout=0.02, watchdog=None) as supervisor:
            await supervisor.start("desk", answers.config(max_pending=1000), subscribe=["news"])

            async def send(number):
                for turn in range(30):
                    await anyio.sleep(0.01 * ((number + turn) % 7))
                    if number % 3:
                        sent.append(await alloy.send_message("desk", f"{turn}"))
                    else:
                        sent.append(f"news-{number}-{turn}")
                        bus.publish("news", message_envelope(f"{turn}", request_id=sent[-1]))

            async with anyio.create_task_group() as group:
                for number in range(3):
                    group.start_soon(send, number)
        assert store.loads > 3  # it slept
        assert bus.responses("agent/desk") == dict.fromkeys(bus.responses("agent/desk"), "completed")
        assert set(bus.responses("agent/desk")) == set(sent)

    run_virtually(scenario(), seed)
