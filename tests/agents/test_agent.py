"""An agent's life: entering, leaving, names, questions, changes between requests, and what it leaves behind, which is nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents.bus import LocalBus
from alloy.errors import (
    AgentClosedError,
    AgentExistsError,
    InvalidOptionError,
    RequestSettledError,
    UnknownAgentError,
    UnknownOptionError,
    UnknownProviderError,
    UnknownRequestError,
    WrongEventLoopError,
)
from alloy.loop import compactor
from alloy.sessions import MemoryStore
from alloy.testing import Scripted, calls, hangs

pytestmark = pytest.mark.anyio


class Holding(Scripted):
    """A provider that is held while it is used."""

    def __init__(self, script, **options) -> None:
        super().__init__(script, **options)
        self.log = []
        self.entering = anyio.Event()
        self.entering.set()

    async def __aenter__(self):
        self.log.append("enter")
        await self.entering.wait()

    async def __aexit__(self, *_):
        self.log.append("exit")


# --- entering and leaving -------------------------------------------------------------------------------------------------


async def test_options_are_checked_when_an_agent_is_made():
    with pytest.raises(UnknownOptionError, match="max_pending"):
        alloy.Agent(provider=Scripted(["x"]), max_pendin=3)
    with pytest.raises(InvalidOptionError, match="provider"):
        alloy.Agent()
    with pytest.raises(InvalidOptionError, match="store"):
        alloy.Agent(provider=Scripted(["x"]), store=MemoryStore())
    with pytest.raises(InvalidOptionError, match="topics"):
        alloy.Agent(provider=Scripted(["x"]), subscribe="news")
    with pytest.raises(InvalidOptionError, match="subscribe"):
        alloy.Agent(provider=Scripted(["x"]), subscribe=[""])


async def test_options_by_name_go_before_those_of_the_config():
    config = alloy.Config(provider=Scripted(["x"]), system_prompt="One.", max_turns=3)
    provider = Scripted(["y"])
    async with alloy.Agent(config, provider=provider, system_prompt="Two.") as agent:
        assert (await agent.chat("Hi.")).text == "y"
    assert provider.requests[0].system == "Two."


async def test_an_agent_is_entered_once(make):
    agent = make("x", name="desk")
    async with agent:
        with pytest.raises(AgentClosedError, match="make a new one"):
            await agent.__aenter__()
        assert (await agent.chat("Hi.")).text == "x"
    with pytest.raises(AgentClosedError, match="make a new one"):
        await agent.__aenter__()


async def test_an_agent_that_is_entered_twice_at_once_lives_once(make):
    agent = make("x", name="desk")
    failed = []

    async def enter():
        try:
            async with agent:
                await agent.chat("Hi.")
        except AgentClosedError as error:
            failed.append(error)

    async with anyio.create_task_group() as group:
        group.start_soon(enter)
        group.start_soon(enter)
    assert len(failed) == 1


async def test_an_exception_in_the_block_comes_out_as_it_is(make):
    with pytest.raises(LookupError, match="mine"):
        async with make(hangs()) as agent:
            await agent.send_message("Hi.")
            raise LookupError("mine")
    with pytest.raises(SystemExit):
        async with make("x"):
            raise SystemExit(3)


async def test_leaving_the_block_cancels_what_was_accepted_and_says_so(make, watcher, until):
    async with make(hangs("Wait"), "x", max_pending=3, on_event=watcher) as agent:
        ids = [await agent.send_message(prompt) for prompt in "123"]
        await until(lambda: watcher.text == "Wait")
    assert sorted(watcher.responses) == sorted((one, "cancelled") for one in ids)
    told = watcher.named("request_cancelled")
    assert sorted(one.correlation_id for one in told) == sorted(ids)
    assert {one.payload["reason"] for one in told} == {"the agent was left"}
    for one in ids:
        with pytest.raises(alloy.RequestCancelledError) as caught:
            await agent.result(one)
        assert caught.value.request_id == one
    assert [message.text for message in agent.messages] == ["1", "Wait"]  # what was seen stays
    assert agent.messages[-1].interrupted


async def test_stop_lets_requests_finish_for_a_while_and_tells_which_were_cancelled(make, gate):
    async with make(calls("gate"), "Done.", hangs(), tools=[gate.tool], max_pending=3) as agent:
        await agent.send_message("1", request_id="one")
        await agent.send_message("2", request_id="two")
        await agent.send_message("3", request_id="three")
        await gate.reached.wait()
        gate.opened.set()
        assert await agent.stop(grace=0.05) == ("two", "three")
        assert (await agent.result("one")).text == "Done."
        assert agent.health().state == "closed"
        assert await agent.stop() == ()
        await agent.drain()


async def test_drain_waits_for_all_that_was_accepted(make, gate):
    async with make(calls("gate"), "a", "b", tools=[gate.tool], max_pending=3) as agent:
        await agent.send_message("1", request_id="one")
        await agent.send_message("2", request_id="two")
        async with anyio.create_task_group() as group:
            group.start_soon(agent.drain)
            await gate.reached.wait()
            assert agent.health().state == "closing"
            gate.opened.set()
        assert agent.health().state == "closed"
        assert [(await agent.result(one)).text for one in ("one", "two")] == ["a", "b"]


async def test_cancelling_who_drains_ends_the_agent_all_the_same(make):
    with anyio.fail_after(5):
        async with make(hangs(), max_pending=1) as agent:
            ids = [await agent.send_message(prompt) for prompt in "12"]
            with anyio.move_on_after(0.01) as scope:
                await agent.drain()
            assert scope.cancelled_caught
            for one in ids:
                with pytest.raises(alloy.RequestCancelledError):
                    await agent.result(one)


async def test_many_can_stop_an_agent_at_once(make):
    with anyio.fail_after(5):
        async with make(hangs()) as agent:
            await agent.send_message("Hi.")
            async with anyio.create_task_group() as group:
                for _ in range(3):
                    group.start_soon(agent.stop)
                group.start_soon(agent.drain)
    assert agent.health().state == "closed"


async def test_p4_nothing_is_left_when_the_block_is_left(make, gate, tmp_path):
    def left():
        return asyncio.all_tasks(), set(threading.enumerate()), len(list(Path("/proc/self/fd").iterdir()))

    bus = LocalBus()
    before = left()
    script = [calls("gate"), hangs("Hm")]
    store = alloy.sessions.FileStore(tmp_path)
    async with make(
        *script, tools=[gate.tool], name="desk", store=store, bus=bus, subscribe=["t"], max_pending=1
    ) as agent:
        gate.opened.set()
        await agent.send_message("Hi.")
        await agent.send_message("Hi.")
        async with agent.subscribe() as envelopes:
            async for envelope in envelopes:
                if envelope.event == "text_delta":
                    break
    for thread in left()[1] - before[1]:
        thread.join(5)
    assert left() == before
    assert bus._listeners == {}


async def test_an_agent_that_is_over_is_garbage(make):
    agent = make("x", name="desk")
    async with agent:
        await agent.chat("Hi.")
    gone = weakref.ref(agent)
    del agent
    await anyio.lowlevel.checkpoint()  # what the event loop has still to call goes
    gc.collect()
    assert gone() is None


# --- the provider ---------------------------------------------------------------------------------------------------------


async def test_a_provider_is_held_from_the_first_request_to_the_end(make):
    provider = Holding(["a", "b"])
    async with make(provider=provider) as agent:
        assert provider.log == []
        await agent.chat("1")
        first = list(provider.log)
        await agent.chat("2")
        assert provider.log.count("exit") == first.count("exit") + 1  # the run's own
    assert provider.log.count("enter") == provider.log.count("exit") == 3


async def test_a_request_that_waits_for_its_provider_can_be_cancelled_and_makes_room(make, until):
    provider = Holding(["a", "b"])
    provider.entering = anyio.Event()
    async with make(provider=provider) as agent:
        await agent.send_message("1", request_id="one")
        await until(lambda: provider.log == ["enter"])
        assert agent.health().state == "busy"
        await agent.cancel_request("one")
        with pytest.raises(alloy.RequestCancelledError):
            await agent.result("one")
        await agent.send_message("2", request_id="two")
        provider.entering.set()
        assert (await agent.result("two")).text == "a"
        assert [message.text for message in agent.messages] == ["2", "a"]


async def test_a_provider_that_cant_be_held_fails_the_request_not_the_agent(make):
    class Broken(Scripted):
        async def __aenter__(self):
            raise OSError("no room")

        async def __aexit__(self, *_):
            pass

    async with make(provider=Broken(["a"])) as agent:
        with pytest.raises(alloy.RunError) as caught:
            await agent.chat("Hi.")
        assert isinstance(caught.value.cause, OSError)
        await agent.set_model(Scripted(["b"]))
        assert (await agent.chat("Hi.")).text == "b"


async def test_a_provider_that_cant_be_left_doesnt_keep_the_next_from_answering(make, caplog):
    class Clinging(Scripted):
        uses = 0

        async def __aenter__(self):
            self.uses += 1

        async def __aexit__(self, *_):
            self.uses -= 1
            if not self.uses:
                raise OSError("stuck")

    async with make(provider=Clinging(["a"])) as agent:
        await agent.chat("1")
        await agent.set_model(Scripted(["b"]))
        assert (await agent.chat("2")).text == "b"
    assert "couldn't close the provider" in caplog.text


# --- questions ------------------------------------------------------------------------------------------------------------


async def test_no_question_waits_for_a_running_request(make, watcher, until):
    async with make(hangs("So far"), "At last.", on_event=watcher, max_pending=1) as agent:
        assert agent.health().state == "idle"
        request_id = await agent.send_message("Hi.")
        await until(lambda: watcher.text == "So far")
        waiting = await agent.send_message("And?")

        health = agent.health()
        assert (health.state, health.running, health.pending, health.messages) == ("busy", request_id, 1, 0)
        assert (health.name, health.crashes, health.unsaved, health.error) == (agent.name, 0, False, None)
        assert agent.messages == ()
        assert agent.usage.total_tokens == 0
        assert agent.export_session().messages == ()
        agent.subscribe()
        with anyio.fail_after(1):
            await agent.reset()
            await agent.set_model(Scripted([]))
            async with agent.subscribe(request_id=request_id) as envelopes:
                async for envelope in envelopes:
                    assert envelope.event == "run_start"
                    break
            with pytest.raises(UnknownRequestError):
                await agent.cancel_request("nobody")
            await agent.cancel_request(request_id)
            assert (await agent.result(waiting)).text == "At last."


async def test_usage_and_messages_are_as_of_now_also_while_a_request_runs(make, gate):
    async with make("Hello.", calls("gate"), "Done.", tools=[gate.tool]) as agent:
        await agent.chat("Hi.")
        assert agent.usage.total_tokens == 15
        await agent.send_message("Go.", request_id="go")
        await gate.reached.wait()
        assert agent.usage.total_tokens == 30
        assert len(agent.messages) == 2
        assert agent.export_session().usage == agent.usage
        gate.opened.set()
        await agent.result("go")
        assert agent.usage.total_tokens == 45
        assert len(agent.messages) == 6


async def test_an_exported_session_starts_another_agent(make):
    async with make("Hello, Ada.", name="desk") as agent:
        await agent.chat("I'm Ada.")
        session = agent.export_session()
    assert (session.id, session.usage, len(session.messages)) == ("desk", agent.usage, 2)
    async with make("Ada.", messages=session.messages) as other:
        assert (await other.chat("Who?")).text == "Ada."
        assert len(other.messages) == 4


async def test_an_agent_shows_itself_without_its_conversation(make):
    agent = make("x", name="desk")
    assert repr(agent) == "Agent(name='desk', state='new', provider='scripted')"
    async with agent:
        assert "idle" in repr(agent)
    assert "closed" in repr(agent)


# --- changes ----------------------------------------------------------------------------------------------------------------


async def test_reset_begins_anew_with_the_messages_of_the_options_and_keeps_counting(make):
    earlier = [
        alloy.Message("user", (alloy.TextBlock("Hi."),)),
        alloy.Message("assistant", (alloy.TextBlock("Hello."),)),
    ]
    async with make("a", "b", messages=earlier) as agent:
        await agent.chat("1")
        assert len(agent.messages) == 4
        await agent.reset()
        assert agent.messages == tuple(earlier)
        assert agent.usage.requests == 1
        await agent.chat("2")
        assert [message.text for message in agent.messages] == ["Hi.", "Hello.", "2", "b"]
        assert agent.usage.requests == 2


async def test_changes_take_their_turn_among_the_requests(make, gate):
    old, new = Scripted([calls("gate"), "a", "b"]), Scripted(["c", "d"], model="new")
    async with make(provider=old, tools=[gate.tool], max_pending=5) as agent:
        await agent.send_message("1")
        await gate.reached.wait()
        await agent.send_message("2", request_id="two")
        await agent.reset()
        await agent.set_model(new)
        await agent.send_message("3", request_id="three")
        await agent.reset()
        await agent.send_message("4", request_id="four")
        gate.opened.set()
        assert len((await agent.result("two")).messages) == 6
        assert [message.text for message in (await agent.result("three")).messages] == ["3", "c"]
        assert [message.text for message in (await agent.result("four")).messages] == ["4", "d"]
        assert len(agent.messages) == 2


async def test_a_model_that_cant_be_is_refused_at_once(make):
    async with make("a") as agent:
        with pytest.raises(UnknownProviderError):
            await agent.set_model("nobody:x")
        with pytest.raises(alloy.ConfigurationError):
            await agent.set_model(7)
        assert (await agent.chat("Hi.")).text == "a"


async def test_changes_dont_count_as_waiting_requests(make, gate):
    async with make(calls("gate"), "a", "b", tools=[gate.tool], max_pending=1) as agent:
        await agent.send_message("1")
        await gate.reached.wait()
        for _ in range(3):
            await agent.reset()
        assert agent.health().pending == 0
        await agent.send_message("2", request_id="two")
        gate.opened.set()
        assert (await agent.result("two")).text == "b"


async def test_a_change_that_was_taken_is_done_also_when_the_agent_stops(make, gate):
    """Whoever waits for it mustn't wait for ever, and what was promised is kept."""
    async with make(calls("gate"), "a", tools=[gate.tool], messages=()) as agent:
        await agent.send_message("1")
        await gate.reached.wait()
        await agent.reset()
        with anyio.fail_after(5):
            await agent.stop()
    assert agent.messages == ()


# --- watchers --------------------------------------------------------------------------------------------------------------


async def test_p5_who_watches_cant_hurt_an_agent(make, caplog):
    def broken(envelope):
        raise RuntimeError("mine")

    bus = LocalBus()
    async with make("a " * 50, "b", bus=bus, on_event=broken) as agent:
        bus.attach(f"agent/{agent.name}", broken)
        async with agent.subscribe(buffer=2) as never_read:
            assert (await agent.chat("1")).status == "completed"
            assert (await agent.chat("2")).text == "b"
            await agent.drain()
            seen = [envelope async for envelope in never_read]
    assert [envelope.event for envelope in seen] == ["lagged", "turn_end", "response"]
    assert caplog.text.count("mine") >= 2


# --- threads and loops -------------------------------------------------------------------------------------------------------


async def test_an_agent_is_used_on_its_own_loop_only(make):
    async with make("x", name="desk") as agent:
        wrong = []

        async def elsewhere():
            for ask in (
                lambda: agent.chat("Hi."),
                lambda: agent.send_message("Hi."),
                lambda: agent.result("x"),
                lambda: agent.cancel_request("x"),
                agent.stop,
                agent.reset,
                lambda: agent.set_model(Scripted(["y"])),
                lambda: alloy.send_message("desk", "Hi."),
                lambda: alloy.cancel_request("desk", "x"),
                lambda: agent.stream_chat("Hi.").__aenter__(),
            ):
                try:
                    await ask()
                except WrongEventLoopError as error:
                    wrong.append(error)

        def without_a_loop():
            for ask in (agent.health, agent.subscribe, agent.export_session, lambda: agent.messages):
                try:
                    ask()
                except WrongEventLoopError as error:
                    wrong.append(error)

        for target in (lambda: asyncio.run(elsewhere()), without_a_loop):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join(10)
        assert len(wrong) == 14
        assert {error.agent for error in wrong} == {"desk"}
        assert (await agent.chat("Hi.")).text == "x"


def test_agents_of_two_loops_may_have_one_name(make):
    async def other(text):
        async with make(text, name="desk"):
            return await alloy.send_message("desk", "Hi.")

    async def first():
        async with make("x", name="desk"):
            await asyncio.to_thread(lambda: asyncio.run(other("y")))

    asyncio.run(first())


# --- names ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "  ", "x" * 129, "a\nb", "a\x00", 7])
async def test_a_name_that_cant_be_printed_sent_and_stored_is_refused(make, name):
    with pytest.raises(InvalidOptionError, match="name"):
        make("x", name=name)


@pytest.mark.parametrize("name", ["x" * 128, "Büro 1", "team/desk", "日本"])
async def test_other_names_will_do(make, name):
    async with make("x", name=name) as agent:
        assert agent.name == name
        assert await alloy.send_message(name, "Hi.")


async def test_a_name_is_taken_while_its_agent_runs_and_free_again_afterwards(make):
    second = make("y", name="desk")
    async with make("x", name="desk"):
        with pytest.raises(AgentExistsError) as caught:
            async with second:
                pass
        assert caught.value.agent == "desk"
        assert await alloy.send_message("desk", "Hi.")  # it goes to the first
    async with second:
        request_id = await alloy.send_message("desk", "Hi.")
        assert (await second.result(request_id)).text == "y"
    with pytest.raises(UnknownAgentError):
        await alloy.send_message("desk", "Hi.")


async def test_agents_are_reached_by_name_from_anywhere(make, until):
    async with make(hangs(), "x", name="desk") as agent:
        request_id = await alloy.send_message("desk", "Hi.", request_id="mine")
        assert request_id == "mine"
        await until(lambda: agent.health().running == "mine")
        await alloy.cancel_request("desk", "mine")
        with pytest.raises(alloy.RequestCancelledError):
            await agent.result("mine")
        with pytest.raises(RequestSettledError) as caught:
            await alloy.cancel_request("desk", "mine")
        assert caught.value.status == "cancelled"


async def test_an_unknown_name_is_answered_with_one_like_it(make):
    async with make("x", name="support"):
        with pytest.raises(UnknownAgentError, match="did you mean 'support'") as caught:
            await alloy.send_message("suport", "Hi.")
        assert caught.value.agent == "suport"
        with pytest.raises(UnknownAgentError):
            await alloy.cancel_request("nobody", "x")


async def test_agents_without_a_name_arent_found(make):
    async with make("x") as one, make("x") as two:
        assert one.name != two.name
        with pytest.raises(UnknownAgentError):
            await alloy.send_message(one.name, "Hi.")


async def test_requests_of_an_agent_begin_alike_and_it_is_told_when_they_do_not():
    told = []

    def watch(envelope):
        if envelope.payload.get("kind") == "prefix_changed":
            told.append(envelope.payload["what"])

    provider = Scripted(["One.", "Two.", "Three.", "Four."])
    async with alloy.Agent(provider=provider, on_event=watch, max_retries=0) as agent:
        await agent.chat("1")
        await agent.chat("2")
        assert told == []
        await agent.reset()
        await agent.chat("3")
        assert told == [["messages"]]
        await agent.set_model(Scripted(["Five."], model="other"))
        await agent.chat("4")
        assert told == [["messages"], ["model"]]


async def test_p10_a_request_of_an_agent_looks_at_what_is_new_however_long_its_history_is(monkeypatch):
    looked = []
    size = compactor._size
    monkeypatch.setattr(compactor, "_size", lambda message: looked.append(message) or size(message))

    async with alloy.Agent(provider=Scripted(["Yes."] * 30), max_retries=0) as agent:
        seen = []
        for turn in range(30):
            await agent.chat(f"Number {turn}.")
            seen.append(len(looked))
            looked.clear()

    assert max(seen) <= 2
    assert len(agent.messages) == 60
