"""Sessions: an agent goes on where the one of its name left off, and tells it when it can't keep what was said."""

from __future__ import annotations

import dataclasses
from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents import owner, saving
from alloy.agents.bus import LocalBus
from alloy.errors import AgentClosedError, AgentCrashedError, SessionConflictError, SessionError
from alloy.sessions import FileStore, MemoryStore, Session
from alloy.testing import Reply, Scripted, calls, hangs
from alloy.usage import Usage

pytestmark = pytest.mark.anyio


class Store(MemoryStore):
    """Fails, or hangs, when told to, and keeps a log."""

    def __init__(self) -> None:
        super().__init__()
        self.failing: Exception | None = None
        self.hanging = False
        self.log: list[str] = []
        self.reached = anyio.Event()

    async def save(self, session):
        self.reached.set()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        if self.hanging:
            await anyio.sleep_forever()
        if self.failing is not None:
            self.log.append("failed")
            raise self.failing
        saved = await super().save(session)
        self.log.append("saved")
        return saved


async def stored(store, name="desk"):
    session = await store.load(name)
    return [] if session is None else [message.text for message in session.messages]


# --- going on -------------------------------------------------------------------------------------------------------------


async def test_an_agent_goes_on_where_the_one_of_its_name_left_off(make, tmp_path):
    store = FileStore(tmp_path)
    async with make("Hello, Ada.", name="desk", store=store) as agent:
        await agent.chat("I'm Ada.")
    async with make("Your name is Ada.", name="desk", store=store) as agent:
        assert len(agent.messages) == 2
        assert agent.usage.requests == 1
        assert (await agent.chat("Who am I?")).usage.requests == 1
        assert agent.usage.requests == 2
    assert (await stored(store))[-1] == "Your name is Ada."
    assert (await store.load("desk")).usage.requests == 2


async def test_a_session_is_saved_before_its_response_is_told(make):
    store = Store()
    at_response = []

    def watch(envelope):
        if envelope.event == "response":
            at_response.append([message.text for message in store._sessions["desk"].messages])

    async with make("a", ValueError("bug"), "b", name="desk", store=store, on_event=watch) as agent:
        await agent.chat("1")
        with pytest.raises(alloy.RunError):
            await agent.chat("2")
        await agent.chat("3")
    assert at_response == [["1", "a"], ["1", "a"], ["1", "a", "3", "b"]]
    assert store.log == ["saved"] * 3  # and not once more at the end


async def test_what_a_cancelled_request_did_is_saved(make, gate):
    store = Store()
    async with make(calls("gate"), "x", name="desk", store=store, tools=[gate.tool]) as agent:
        request_id = await agent.send_message("Go.")
        await gate.reached.wait()
        await agent.cancel_request(request_id)
        with pytest.raises(alloy.RequestCancelledError):
            await agent.result(request_id)
        session = await store.load("desk")
        assert session.messages == agent.messages
        assert len(session.messages) == 3
        assert session.usage.requests == 1


async def test_a_reset_is_saved_when_it_is_done(make):
    store = Store()
    async with make("a", name="desk", store=store) as agent:
        await agent.chat("1")
        await agent.reset()
        assert store.log == ["saved", "saved"]
        assert await stored(store) == []
    async with make("b", name="desk", store=store) as agent:
        assert agent.messages == ()


async def test_a_saved_session_goes_before_the_messages_of_the_options(make):
    store = MemoryStore()
    earlier = [
        alloy.Message("user", (alloy.TextBlock("Hi."),)),
        alloy.Message("assistant", (alloy.TextBlock("Hello."),)),
    ]
    async with make("a", name="desk", store=store, messages=earlier) as agent:
        await agent.chat("1")
    async with make("b", name="desk", store=store, messages=earlier) as agent:
        assert len(agent.messages) == 4
        await agent.reset()
        assert agent.messages == tuple(earlier)


async def test_a_hook_of_yours_that_raises_or_hangs_at_the_end_doesnt_keep_the_session_from_being_saved(
    make, monkeypatch
):
    monkeypatch.setattr("alloy.loop.turns.LAST_WORDS", 0.05)

    class Broken(alloy.Middleware):
        async def session_end(self, result, run):
            if result.text == "a":
                raise RuntimeError("mine")
            await anyio.sleep_forever()

    store = Store()
    async with make("a", "b", name="desk", store=store, middleware=[Broken()]) as agent:
        await agent.chat("1")
        assert await stored(store) == ["1", "a"]
        await agent.chat("2")
        assert await stored(store) == ["1", "a", "2", "b"]


# --- numbers ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("saves", [True, False])
async def test_no_number_is_given_twice_whatever_was_saved_of_the_life_before(make, watcher, saves):
    """A process that was killed has told numbers which it never saved; each life begins behind them all the same."""
    store = MemoryStore()
    for number in range(4):
        lived = dict(store._sessions)
        async with make(str(number), name="desk", store=store, on_event=watcher) as agent:
            await agent.chat("Hi.")
        if not saves:
            store._sessions = lived  # as if it had been killed before
    numbers = [envelope.seq for envelope in watcher.envelopes]
    assert all(one < two for one, two in pairwise(numbers))
    assert numbers[-1] < 2**53


async def test_numbers_go_on_behind_a_session_from_a_clock_that_was_ahead(make, watcher):
    store = MemoryStore()
    await store.save(Session(id="desk", seq=2**52))
    async with make("a", name="desk", store=store, on_event=watcher) as agent:
        await agent.chat("Hi.")
    assert watcher.envelopes[0].seq == 2**52 + 1
    assert (await store.load("desk")).seq > 2**52


async def test_requests_that_come_while_the_session_is_loaded_share_its_numbers(make, watcher):
    class Slow(MemoryStore):
        async def load(self, session_id):
            await loading.wait()
            return await super().load(session_id)

    loading = anyio.Event()
    store = Slow()
    await MemoryStore.save(store, Session(id="desk", seq=2**52))
    ids = []

    async def send():
        await anyio.lowlevel.checkpoint()
        ids.extend([await alloy.send_message("desk", prompt) for prompt in "12"])
        loading.set()

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        async with make("a", "b", name="desk", store=store, on_event=watcher, max_pending=2) as agent:
            for request_id in ids:
                await agent.result(request_id)
    numbers = [envelope.seq for envelope in watcher.envelopes]
    assert len(numbers) == len(set(numbers))
    assert all(one < two for one, two in pairwise(numbers))
    assert len(ids) == 2


async def test_an_agent_on_a_bus_of_others_goes_on_behind_its_namesakes_numbers(make):
    bus = LocalBus()
    seen = []
    newest = 0
    for text in "ab":
        async with make(text, name="desk", bus=bus) as agent:
            bus.attach("agent/desk", seen.append)
            await agent.chat("Hi.")
            async with agent.subscribe(after=newest) as envelopes:
                await agent.stop()
                assert [envelope.event async for envelope in envelopes][-1] == "response"
        newest = seen[-1].seq
    assert all(one.seq < two.seq for one, two in pairwise(seen))


# --- what can't be read --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SessionError("desk", "it is torn"), OSError("gone")])
async def test_a_session_that_cant_be_read_keeps_its_agent_from_starting(make, error):
    class Unreadable(MemoryStore):
        async def load(self, session_id):
            await anyio.lowlevel.checkpoint()
            raise error

    said = []

    async def say(session):
        said.append(session)

    store = Unreadable()
    store._sessions["desk"] = kept = Session(id="desk", revision=3)
    entered = False
    with pytest.raises((SessionError, AgentCrashedError)):
        async with make("a", name="desk", store=store, on_shutdown=say):
            entered = True
    assert not entered
    assert store._sessions == {"desk": kept}
    assert said == []  # nobody is to take nothing for the session
    async with make("a", name="desk"):
        pass  # the name is free


async def test_what_was_asked_of_an_agent_that_couldnt_start_is_settled_and_overwrites_nothing(make, watcher):
    class Unreadable(MemoryStore):
        async def load(self, session_id):
            await loading.wait()
            raise SessionError(session_id, "it is torn")

    loading = anyio.Event()
    store = Unreadable()
    asked = []

    async def ask():
        group.start_soon(agent.reset)  # nothing runs yet, so it waits until it is done
        await anyio.lowlevel.checkpoint()
        asked.append(await alloy.send_message("desk", "Hi."))
        loading.set()

    agent = make("a", name="desk", store=store, on_event=watcher)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            with pytest.raises(SessionError):
                async with agent:
                    pass
    assert watcher.responses == [(asked[0], "failed")]
    assert store._sessions == {}
    with pytest.raises(alloy.RunError):
        await agent.result(asked[0])


async def test_an_agent_that_is_cancelled_while_it_starts_leaves_nothing(make):
    class Stuck(MemoryStore):
        async def load(self, session_id):
            await anyio.sleep_forever()

    store = Stuck()
    with anyio.move_on_after(0.01) as scope:
        async with make("a", name="desk", store=store):
            pass
    assert scope.cancelled_caught
    assert store._sessions == {}
    async with make("a", name="desk"):
        pass


# --- what can't be saved ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [SessionError("desk", "the disk is full"), ConnectionError("secret://")])
async def test_a_save_that_fails_is_told_and_tried_again_at_the_next_request(make, watcher, caplog, error):
    store = Store()
    store.failing = error
    async with make("a", "b", name="desk", store=store, on_event=watcher) as agent:
        assert (await agent.chat("1")).text == "a"
        assert watcher.kinds == ["session_not_saved"]
        assert watcher.envelopes[-1].event == "response"
        health = agent.health()
        assert (health.unsaved, health.state, isinstance(health.error, SessionError)) == (True, "idle", True)
        assert "desk" in caplog.text
        assert "secret" not in watcher.named("runtime_event")[0].payload["reason"]
        store.failing = None
        await agent.chat("2")
        assert not agent.health().unsaved
    assert await stored(store) == ["1", "a", "2", "b"]
    assert store.log == ["failed", "saved"]


async def test_a_save_that_fails_is_tried_again_at_the_end(make):
    store = Store()
    store.failing = SessionError("desk", "the disk is full")
    async with make("a", name="desk", store=store) as agent:
        await agent.chat("1")
        store.failing = None
    assert await stored(store) == ["1", "a"]


async def test_what_couldnt_be_saved_to_the_end_is_raised_there(make, watcher):
    store = Store()
    store.failing = SessionError("desk", "the disk is full")
    with pytest.raises(SessionError, match="disk is full"):
        async with make("a", name="desk", store=store, on_event=watcher) as agent:
            await agent.chat("1")
    assert agent.health().unsaved
    assert watcher.kinds == ["session_not_saved"] * 2
    with pytest.raises(LookupError):
        async with make("a", name="desk", store=store) as agent:
            await agent.chat("1")
            raise LookupError("mine goes first")


async def test_a_store_that_hangs_holds_a_result_up_for_a_while_only(make, monkeypatch, watcher):
    monkeypatch.setattr(owner, "SAVING", 0.05)
    monkeypatch.setattr(saving, "SAVING_SOON", 0.01)
    store = Store()
    store.hanging = True
    with pytest.raises(SessionError, match="seconds"), anyio.fail_after(5):
        async with make("a", name="desk", store=store, on_event=watcher) as agent:
            assert (await agent.chat("1")).text == "a"
            assert agent.health().unsaved
    assert watcher.kinds == ["session_not_saved"] * 2


async def test_a_reset_that_is_being_saved_when_the_agent_stops_is_done_and_saved(make):
    store = Store()
    async with make("a", name="desk", store=store) as agent:
        await agent.chat("1")
        store.hanging = True
        store.reached = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(agent.reset)
            await store.reached.wait()
            store.hanging = False
            with anyio.fail_after(5):
                await agent.stop()
    assert await stored(store) == []


async def test_a_session_that_somebody_else_saved_closes_the_agent(make, watcher):
    store = MemoryStore()
    with pytest.raises(SessionConflictError):
        async with make("a", "b", name="desk", store=store, on_event=watcher) as agent:
            await agent.chat("1")
            saved = await store.load("desk")
            await store.save(dataclasses.replace(saved, metadata={"mine": True}))
            assert (await agent.chat("2")).text == "b"  # it is done, and can't be kept
            assert watcher.kinds == ["session_not_saved"]
            with pytest.raises(AgentClosedError, match="another process"):
                await agent.chat("3")
    assert (await store.load("desk")).metadata == {"mine": True}


async def test_what_was_said_since_an_interrupted_save_isnt_lost_when_the_agent_is_started_again(monkeypatch, make):
    """What is stored is older than what is in memory then, though its revision looks newer."""
    monkeypatch.setattr(saving, "SAVING_SOON", 0.01)

    class Interrupted(MemoryStore):
        state = "hangs"

        async def save(self, session):
            await anyio.lowlevel.checkpoint()
            if self.state == "fails":
                raise SessionError(session.id, "the disk is full")
            self._sessions[session.id] = saved = dataclasses.replace(session, revision=session.revision + 1)
            if self.state == "hangs":
                await anyio.sleep_forever()
            return saved

    class Meltdown(BaseException):
        pass

    class Melts(alloy.Middleware):
        async def before_completion(self, request, run):
            if request.messages[-1].text == "Melt.":
                store.state = "fails"
            elif request.messages[-1].tool_results:
                raise Meltdown

    @alloy.tool
    async def work() -> str:
        """Works."""
        return "worked"

    store = Interrupted()
    config = alloy.Config(
        provider=Scripted(["a", calls("work"), "c"]), max_retries=0, middleware=[Melts()], tools=[work]
    )
    with anyio.fail_after(5):
        async with alloy.Supervisor(store=store, backoff=0.0, watchdog=None) as supervisor:
            agent = await supervisor.start("desk", config)
            await agent.chat("1")
            with pytest.raises(alloy.RunError):
                await agent.chat("Melt.")
            while (agent.health().crashes, agent.health().state) != (1, "idle"):
                await anyio.lowlevel.checkpoint()
            assert [message.text for message in agent.messages[:3]] == ["1", "a", "Melt."]
            store.state = "works"
            assert (await agent.chat("3")).text == "c"
            assert (await stored(store))[-1] == "c"


# --- the last word --------------------------------------------------------------------------------------------------------------


async def test_on_shutdown_gets_the_session_when_everything_has_ended(make, watcher):
    said = []

    async def say(session):
        await anyio.lowlevel.checkpoint()
        said.append((session, agent.health().running, watcher.responses))
        with pytest.raises(AgentClosedError):
            await agent.send_message("Too late.")

    async with make(hangs("So far"), on_event=watcher, on_shutdown=say, name="desk") as agent:
        await agent.send_message("1", request_id="one")
        while watcher.text != "So far":
            await anyio.lowlevel.checkpoint()
    [(session, running, responses)] = said
    assert (session.id, running, responses) == ("desk", None, [("one", "cancelled")])
    assert session.messages == agent.messages
    assert len(session.messages) == 2


@pytest.mark.parametrize("error", [RuntimeError("mine"), None])
async def test_on_shutdown_that_raises_or_hangs_hurts_nobody(make, monkeypatch, caplog, error):
    monkeypatch.setattr(owner, "GOODBYE", 0.01)

    async def say(session):
        if error is not None:
            raise error
        await anyio.sleep_forever()

    store = MemoryStore()
    with anyio.fail_after(5):
        async with make("a", name="desk", store=store, on_shutdown=say) as agent:
            await agent.chat("1")
            assert await agent.stop() == ()
            assert agent.health().state == "closed"
    assert await stored(store) == ["1", "a"]
    assert ("mine" in caplog.text) == (error is not None)


async def test_on_shutdown_that_breaks_everything_still_lets_the_agent_end(make):
    class Meltdown(BaseException):
        pass

    async def say(session):
        raise Meltdown

    with anyio.fail_after(5), pytest.raises(BaseExceptionGroup):
        async with make("a", name="desk", on_shutdown=say) as agent:
            await agent.chat("1")
    assert agent.health().state == "closed"


# --- what compaction takes out --------------------------------------------------------------------------------------------


LONG = "Long words about nothing much, and so on and on. " * 40


def prompts_in(messages):
    return [
        block.text[:9] for m in messages if m.role == "user" for block in m.content if block.text.startswith("Prompt")
    ]


@pytest.mark.parametrize("compaction", [{"keep_user_tokens": 0}, {"keep_user_tokens": 0, "provider": Scripted([])}])
async def test_what_compaction_takes_out_stays_readable_in_the_session(tmp_path, compaction):
    store = FileStore(tmp_path)
    script = [Reply(text="Yes. " + LONG, usage=Usage(requests=1))] * 40
    options = {"name": "desk", "store": store, "max_tokens": 4_000, "compaction": compaction, "max_retries": 0}
    said = []
    for _ in range(2):  # an agent, and the one that goes on in its place
        async with alloy.Agent(provider=Scripted(script), **options) as agent:
            for _ in range(6):
                said.append(f"Prompt {len(said) + 1:02}")
                await agent.chat(f"{said[-1]} {LONG}")
            kept = agent.messages

    session = await store.load("desk")
    assert session.messages == kept
    assert len(session.archive) > 4
    assert sorted({*prompts_in(session.archive), *prompts_in(session.messages)}) == said
    answers = sum(m.role == "assistant" for m in (*session.archive, *session.messages))
    assert answers == len(said)  # none is lost, and none is there twice


async def test_a_reset_forgets_what_was_taken_out_as_well(tmp_path):
    store = FileStore(tmp_path)
    script = [Reply(text="Yes. " + LONG, usage=Usage(requests=1))] * 20
    async with alloy.Agent(provider=Scripted(script), name="desk", store=store, max_tokens=4_000) as agent:
        for _ in range(6):
            await agent.chat(LONG)
        assert agent.export_session().archive
        await agent.reset()

    assert (await store.load("desk")).archive == ()
