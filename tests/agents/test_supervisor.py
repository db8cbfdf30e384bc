"""Supervisors: agents by name, started again when they crash, and given up when they crash too often."""

from __future__ import annotations

import asyncio
import logging
from contextvars import ContextVar
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents.bus import message_envelope
from alloy.agents.restarts import LONGEST_BACKOFF, Restarts
from alloy.errors import (
    AgentClosedError,
    AgentCrashedError,
    AgentExistsError,
    AgentQuarantinedError,
    InvalidOptionError,
    SessionError,
    UnknownAgentError,
    UnknownOptionError,
    WrongEventLoopError,
)
from alloy.sessions import MemoryStore
from alloy.testing.virtual import VirtualLoop
from tests.agents.supervising import Melt, Watched, ended

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend():
    """Time passes when nothing else can happen, and costs nothing."""
    return "asyncio", {"loop_factory": VirtualLoop}


# --- agents by name -------------------------------------------------------------------------------------------------------


async def test_agents_are_started_found_by_name_and_answer(supervising, answers):
    async with supervising() as supervisor:
        desk = await supervisor.start("desk", answers.config())
        clerk = await supervisor.start("clerk", answers.config(), max_turns=3)

        request_id = await alloy.send_message("desk", "Hello")

        assert (await desk.result(request_id)).text == "Hello 1"
        assert (await clerk.chat("Hi")).text == "Hi 1"
        assert supervisor.get("desk") is desk
        assert supervisor.names() == ("desk", "clerk")
        assert {name: health.state for name, health in supervisor.health().items()} == {"desk": "idle", "clerk": "idle"}
    with pytest.raises(UnknownAgentError):
        await alloy.send_message("desk", "Hello?")


async def test_get_or_start_starts_once_and_finds_it_then(supervising, answers):
    async with supervising() as supervisor:
        config = answers.config()
        found = [await supervisor.get_or_start("desk", config), await supervisor.get_or_start("desk")]

        assert found[0] is found[1]
        with pytest.raises(InvalidOptionError, match="provider"):
            await supervisor.get_or_start("nobody")
        assert supervisor.names() == ("desk",)


async def test_many_who_get_or_start_at_once_get_one_agent_with_its_session(supervising, answers, store):
    found = []
    async with supervising(store=store) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        await agent.chat("One")
        await supervisor.stop_agent("desk")
        store.let_load = anyio.Event()
        async with anyio.create_task_group() as group:

            async def find():
                found.append(await supervisor.get_or_start("desk", answers.config()))

            for _ in range(5):
                group.start_soon(find)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(AgentClosedError):
                supervisor.get("desk")
            assert supervisor.health()["desk"].state == "starting"
            store.let_load.set()
    assert len(set(map(id, found))) == 1
    assert [message.text for message in found[0].messages] == ["One", "One 1"]


async def test_agents_of_one_config_share_its_provider_and_others_do_not(supervising, answers):
    async with supervising() as supervisor:
        config = answers.config(max_retries=1)  # so that a provider is made of it
        agents = [await supervisor.start(name, config) for name in ("a", "b")]
        other = await supervisor.start("c", answers.config(max_retries=1))

        providers = [agent._owner.provider for agent in (*agents, other)]
        assert providers[0] is providers[1] is not providers[2]


async def test_an_agent_inherits_nothing_from_who_starts_it(supervising, answers):
    seen = []
    variable = ContextVar("variable", default="none")

    class Looks(alloy.Middleware):
        async def session_start(self, run):
            seen.append(variable.get())

    async with supervising() as supervisor:
        variable.set("of the starter")
        agent = await supervisor.start("desk", answers.config(middleware=[Looks(), answers]))
        await agent.chat("Hi")
    assert seen == ["none"]


async def test_an_agent_of_a_supervisor_can_start_another_and_wait_for_it(supervising, answers):
    async with supervising() as supervisor:

        @alloy.tool
        async def delegate() -> str:
            """Asks somebody else."""
            helper = await supervisor.start("helper", answers.config())
            return (await helper.chat("Help")).text

        agent = await supervisor.start(
            "desk", provider=alloy.testing.Scripted([alloy.testing.calls("delegate"), "ok"]), tools=[delegate]
        )
        result = await agent.chat("Go")
        assert result.messages[2].tool_results[0].text == "Help 1"


async def test_the_life_of_an_agent_of_a_supervisor_is_not_the_business_of_who_has_it(supervising, answers):
    async with supervising() as supervisor:
        agent = await supervisor.start("desk", answers.config())
        with pytest.raises(AgentClosedError, match="entered before"):
            await agent.__aenter__()
        assert (await agent.chat("Hi")).text == "Hi 1"


async def test_stopping_an_agent_frees_its_name_and_keeps_its_session(supervising, answers, bus):
    async with supervising(store=MemoryStore()) as supervisor:
        first = await supervisor.start("desk", answers.config(), subscribe=["news"])
        await first.chat("One")
        async with first.subscribe() as envelopes:
            waiting = await first.send_message("hang")
            await answers.hanging.wait()
            assert await supervisor.stop_agent("desk", grace=0) == (waiting,)
            assert [envelope.event async for envelope in envelopes][-1] == "response"
        assert supervisor.names() == ()
        bus.publish("news", message_envelope("Anybody?"))
        assert "message_refused" not in bus.kinds("agent/desk")
        with pytest.raises(AgentClosedError, match="is being stopped"):
            await first.chat("Two")
        second = await supervisor.start("desk", answers.config())
        assert (await second.chat("Three")).text == "Three 3"


async def test_an_agent_that_is_stopped_by_its_own_object_is_gone(supervising, answers):
    async with supervising() as supervisor:
        agent = await supervisor.start("desk", answers.config())
        await agent.drain()
        assert supervisor.names() == ()
        with pytest.raises(UnknownAgentError):
            supervisor.get("desk")
        await supervisor.start("desk", answers.config())


async def test_stopping_an_agent_that_starts_ends_its_start(supervising, answers, store):
    store.let_load = anyio.Event()
    async with supervising(store=store) as supervisor, anyio.create_task_group() as group:

        async def start():
            with pytest.raises(AgentClosedError, match="before it ran"):
                await supervisor.start("desk", answers.config())

        group.start_soon(start)
        await store.loading.wait()
        await supervisor.stop_agent("desk")
        assert supervisor.names() == ()


async def test_whoever_is_cancelled_while_starting_leaves_the_agent_to_the_supervisor(supervising, answers, store):
    store.let_load = anyio.Event()
    async with supervising(store=store) as supervisor:
        with anyio.move_on_after(1) as scope:
            await supervisor.start("desk", answers.config())
        assert scope.cancelled_caught
        store.let_load.set()
        assert (await (await supervisor.awake("desk")).chat("Hi")).text == "Hi 1"


# --- crashes --------------------------------------------------------------------------------------------------------------


async def test_a_crashed_agent_goes_on_from_its_last_session_and_its_object_stays(supervising, answers, bus, caplog):
    async with supervising(store=MemoryStore()) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        await agent.chat("One")
        with pytest.raises(alloy.RunError) as failed:
            await agent.chat("melt")
        assert isinstance(failed.value.cause, Melt)

        assert (await agent.chat("Two")).text == "Two 3"
        assert supervisor.get("desk") is agent
        assert (agent.health().crashes, agent.health().state) == (1, "idle")
    assert bus.kinds("agent/desk") == bus.kinds("supervisor") == ["agent_crashed", "agent_restarted"]
    crashed = bus.told("agent/desk")[0]
    assert crashed["error"] == {"type": "Melt", "message": "hot"}
    assert 0.25 <= crashed["delay_s"] <= 0.5
    assert "agent 'desk' crashed" in caplog.text


async def test_p2_requests_that_wait_survive_a_crash_in_order(supervising, answers, bus):
    async with supervising() as supervisor:
        agent = await supervisor.start("desk", answers.config())
        ids = [await agent.send_message(word) for word in ("One", "melt", "Two", "Three")]

        assert [await ended(agent, request_id) for request_id in ids] == [
            "completed",
            "failed",
            "completed",
            "completed",
        ]
        assert [message.text for message in agent.messages] == ["One", "One 1", "Two", "Two 3", "Three", "Three 5"]
    assert list(bus.responses("agent/desk")) == ids


async def test_numbers_of_envelopes_go_on_over_crashes(supervising, answers, bus):
    async with supervising(store=MemoryStore()) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        async with agent.subscribe() as envelopes:
            for word in ("One", "melt"):
                await agent.send_message(word)
            await agent.chat("Two")
            await supervisor.stop_agent("desk")
            seen = [envelope async for envelope in envelopes]
    assert all(one.seq < two.seq for one, two in pairwise(seen))
    assert {"agent_crashed", "agent_restarted"} <= {envelope.payload.get("kind") for envelope in seen}


async def test_who_watches_the_supervisor_gets_what_happens_in_order_and_can_resume(supervising, answers):
    async with supervising() as supervisor:
        agent = await supervisor.start("desk", answers.config())
        async with supervisor.subscribe() as envelopes:
            for number in range(2):
                await agent.send_message(f"{number} melt")
            seen = [await anext(envelopes) for _ in range(4)]
        async with supervisor.subscribe(after=seen[1].seq) as envelopes:
            again = [await anext(envelopes) for _ in range(2)]
        assert again == seen[2:]
        assert {envelope.agent_id for envelope in seen} == {"desk"}


async def test_a_request_can_be_cancelled_while_its_agent_waits_to_be_restarted(supervising, answers):
    async with supervising(backoff=50) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        ids = [await agent.send_message(word) for word in ("melt", "One", "Two")]
        await ended(agent, ids[0])
        await anyio.wait_all_tasks_blocked()
        assert (agent.health().state, agent.health().pending) == ("restarting", 2)
        await agent.cancel_request(ids[1])
        assert [await ended(agent, request_id) for request_id in ids[1:]] == ["cancelled", "completed"]


async def test_one_crash_too_many_and_the_agent_is_given_up_loudly(supervising, answers, bus, caplog):
    async with supervising(max_restarts=2) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        other = await supervisor.start("other", answers.config())
        ids = [await desk.send_message(word) for word in ("1 melt", "2 melt", "3 melt", "One", "Two")]

        assert [await ended(desk, request_id) for request_id in ids] == ["failed"] * 5
        with pytest.raises(alloy.RunError) as failed:
            await desk.result(ids[4])
        assert isinstance(failed.value.cause, AgentCrashedError)
        assert isinstance(failed.value.cause.cause, Melt)
        assert (await other.chat("Hi")).text == "Hi 1"

        health = supervisor.health()["desk"]
        assert (health.state, health.crashes, type(health.error)) == ("quarantined", 3, Melt)
    given_up = bus.told("agent/desk")[-1]
    assert (given_up["kind"], given_up["waiting"]) == ("agent_given_up", ids[3:])
    assert bus.kinds("supervisor")[-1] == "agent_given_up"
    assert [record.levelno for record in caplog.records if "isn't started again" in record.message] == [logging.ERROR]


async def test_every_way_into_a_quarantined_agent_says_that_it_is(supervising, answers, bus):
    async with supervising(max_restarts=0) as supervisor:
        desk = await supervisor.start("desk", answers.config(), subscribe=["news"])
        with pytest.raises(alloy.RunError):
            await desk.chat("melt")
        await anyio.wait_all_tasks_blocked()

        for way in (
            lambda: desk.chat("Hi"),
            lambda: desk.send_message("Hi"),
            lambda: alloy.send_message("desk", "Hi"),
            lambda: alloy.cancel_request("desk", "x"),
            lambda: supervisor.awake("desk"),
            lambda: supervisor.start("desk", answers.config()),
            lambda: supervisor.get_or_start("desk", answers.config()),
        ):
            with pytest.raises(AgentQuarantinedError, match=r"revive.*Melt: hot"):
                await way()
        with pytest.raises(AgentQuarantinedError):
            supervisor.get("desk")
        bus.publish("news", message_envelope("Hi", request_id="from-news"))
        refused = bus.told("agent/desk")[-1]
        assert (refused["kind"], refused["error"]) == ("message_refused", "AgentQuarantinedError")


@pytest.mark.parametrize("stored", [False, True])
async def test_a_revived_agent_goes_on_and_its_crashes_are_forgotten(supervising, answers, stored):
    async with supervising(max_restarts=2, store=MemoryStore() if stored else None) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        await desk.chat("One")
        for _ in range(3):
            with pytest.raises(alloy.RunError):
                await desk.chat("melt")
        await anyio.wait_all_tasks_blocked()
        assert supervisor.health()["desk"].state == "quarantined"

        revived = await supervisor.revive("desk")

        assert revived is not desk
        with pytest.raises(alloy.RunError) as failed:
            await revived.chat("melt")  # it is tried again
        assert isinstance(failed.value.cause, Melt)
        answers.melting = False
        assert (await revived.chat("melt")).text == "melt 3"
        assert await supervisor.revive("desk") is revived
        with pytest.raises(AgentQuarantinedError):
            await desk.chat("Hi")


async def test_crashes_that_are_far_apart_are_borne_for_ever(supervising, answers):
    async with supervising(max_restarts=1, within=60) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        for number in range(5):
            with pytest.raises(alloy.RunError):
                await agent.chat(f"{number} melt")
            await anyio.sleep(61)
        assert (await agent.chat("Hi")).text == "Hi 1"


async def test_a_message_that_crashes_its_agent_three_times_is_refused_and_others_are_not(supervising, answers, bus):
    async with supervising(max_restarts=3) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        ids = [await agent.send_message(word) for word in ("melt", "melt", "melt", "melt", "Hi")]
        assert [await ended(agent, request_id) for request_id in ids] == [*["failed"] * 4, "completed"]
        with pytest.raises(alloy.RunError) as failed:
            await agent.result(ids[3])
        assert isinstance(failed.value.cause, AgentQuarantinedError)  # it waited, and wasn't run
        with pytest.raises(AgentQuarantinedError, match="3 times"):
            await agent.chat("melt")
        assert agent.health().crashes == 3


async def test_an_agent_that_cannot_load_when_it_is_restarted_is_tried_again_and_then_given_up(
    supervising, answers, store
):
    async with supervising(store=store, max_restarts=3) as supervisor:
        agent = await supervisor.start("desk", answers.config())
        loads = store.loads
        store.load_fails = SessionError("desk", "it is gone")
        ids = [await agent.send_message(word) for word in ("melt", "One")]
        assert [await ended(agent, request_id) for request_id in ids] == ["failed", "failed"]
        await anyio.wait_all_tasks_blocked()
        assert store.loads - loads == 3
        with pytest.raises(AgentQuarantinedError, match="it is gone"):
            await agent.chat("Hi")


@pytest.mark.parametrize(
    ("failure", "raised"), [(SessionError("desk", "unreadable"), SessionError), (OSError("no disk"), AgentCrashedError)]
)
async def test_what_cannot_be_loaded_at_first_is_raised_at_once_and_nothing_is_kept(
    supervising, answers, store, failure, raised
):
    async with supervising(store=store) as supervisor:
        store.load_fails = failure
        for start in (supervisor.start, supervisor.get_or_start):
            with pytest.raises(raised):
                await start("desk", answers.config())
        assert (supervisor.names(), store.loads) == ((), 2)
        store.load_fails = None
        await supervisor.start("desk", answers.config())


async def test_many_that_crash_together_do_not_come_back_together(supervising, answers, bus):
    async with supervising() as supervisor:
        for number in range(10):
            agent = await supervisor.start(f"agent-{number}", answers.config())
            await agent.send_message("melt")
        await anyio.sleep(1)
        delays = [told["delay_s"] for told in bus.told("supervisor") if told["kind"] == "agent_crashed"]
    assert len(set(delays)) == 10


async def test_a_bus_that_raises_breaks_no_other_agent(answers, caplog):
    class Broken(Watched):
        def publish(self, topic, envelope):
            super().publish(topic, envelope)
            if topic == "agent/desk" and envelope.event == "runtime_event":
                raise OSError("no bus")

    async with alloy.Supervisor(bus=Broken(), watchdog=None) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        other = await supervisor.start("other", answers.config())
        with pytest.raises(alloy.RunError):
            await desk.chat("melt")
        await anyio.wait_all_tasks_blocked()
        assert supervisor.health()["desk"].state == "quarantined"
        assert (await other.chat("Hi")).text == "Hi 1"
    assert "the task of agent 'desk' broke" in caplog.text


# --- how long to wait -----------------------------------------------------------------------------------------------------


def test_the_wait_doubles_with_each_crash_in_the_window():
    restarts = Restarts(5, 60, 0.5, chance=lambda: 0.0)
    assert [restarts.crashed(now) for now in (0, 1, 2, 3, 4, 5)] == [0.5, 1, 2, 4, 8, None]


def test_chance_shortens_the_wait_by_a_half_at_most():
    assert Restarts(1, 60, 0.5, chance=lambda: 1.0).crashed(0) == 0.25


def test_crashes_leave_the_window_one_by_one():
    restarts = Restarts(2, 10, 1, chance=lambda: 0.0)
    assert [restarts.crashed(now) for now in (0, 6, 10, 15.9, 16.1)] == [1, 2, 2, None, None]


def test_the_wait_has_a_bound():
    restarts = Restarts(10_000, 60, 0.5, chance=lambda: 0.0)
    assert max(restarts.crashed(0) for _ in range(2_000)) == LONGEST_BACKOFF


# --- what can't be --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "  ", "x" * 129, "a\nb", None, 7])
async def test_a_name_that_is_none_is_refused(supervising, answers, name):
    async with supervising() as supervisor:
        for start in (supervisor.start, supervisor.get_or_start):
            with pytest.raises(InvalidOptionError, match="name"):
                await start(name, answers.config())
        assert supervisor.names() == ()


async def test_a_name_is_given_once(supervising, answers):
    async with supervising() as supervisor, supervising() as another:
        await supervisor.start("desk", answers.config())
        for other in (supervisor, another):
            with pytest.raises(AgentExistsError):
                await other.start("desk", answers.config())
        assert (supervisor.names(), another.names()) == (("desk",), ())


async def test_an_unknown_name_is_told_with_the_nearest(supervising, answers):
    async with supervising() as supervisor:
        await supervisor.start("desk", answers.config())
        with pytest.raises(UnknownAgentError, match="did you mean 'desk'"):
            supervisor.get("dest")
        for way in (supervisor.awake, supervisor.stop_agent, supervisor.revive):
            with pytest.raises(UnknownAgentError):
                await way("dest")


@pytest.mark.parametrize(
    "options",
    [
        {"max_restarts": -1},
        {"max_restarts": 1.5},
        {"max_restarts": True},
        {"within": 0},
        {"backoff": -1},
        {"idle_timeout": 0},
        {"grace": -1},
        {"grace": float("nan")},
        {"watchdog": 0},
        {"watchdog": "1"},
    ],
)
def test_an_option_that_cannot_be_is_refused(options):
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        alloy.Supervisor(**options)


async def test_wrong_arguments_are_refused_at_once_and_start_nothing(supervising, answers):
    async with supervising() as supervisor:
        for error, options in (
            (InvalidOptionError, {"subscribe": "news"}),
            (InvalidOptionError, {"remember": 0}),
            (InvalidOptionError, {"max_turns": -1}),
            (UnknownOptionError, {"max_turnips": 1}),
        ):
            with pytest.raises(error):
                await supervisor.start("desk", answers.config(), **options)
        with pytest.raises(InvalidOptionError, match="grace"):
            await supervisor.stop(grace=-1)
        assert supervisor.names() == ()
        await supervisor.start("desk", answers.config())


async def test_a_supervisor_is_entered_once(supervising):
    supervisor = supervising()
    for ask in (supervisor.names, supervisor.health, lambda: supervisor.get("desk")):
        with pytest.raises(AgentClosedError, match="async with"):
            ask()
    async with supervisor:
        with pytest.raises(AgentClosedError, match="entered before"):
            await supervisor.__aenter__()
    with pytest.raises(AgentClosedError, match="entered before"):
        await supervisor.__aenter__()


async def test_another_event_loop_is_told_that_it_is_the_wrong_one(supervising, answers):
    async with supervising() as supervisor:
        await supervisor.start("desk", answers.config())

        def elsewhere():
            for ask in (supervisor.names, supervisor.health, lambda: supervisor.get("desk")):
                with pytest.raises(WrongEventLoopError):
                    ask()
            for start in (supervisor.start("a", answers.config()), supervisor.stop(), supervisor.awake("desk")):
                with pytest.raises(WrongEventLoopError):
                    start.send(None)

        context = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        try:
            elsewhere()
        finally:
            asyncio._set_running_loop(context)
        assert supervisor.names() == ("desk",)
