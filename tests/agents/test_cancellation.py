"""Cancelling requests, those who wait for them, agents and everything: what is meant ends once, and nothing else does."""

from __future__ import annotations

import contextlib
import itertools

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents.bus import LocalBus, message_envelope
from alloy.errors import AgentBusyError, RequestSettledError, UnknownRequestError
from alloy.sessions import FileStore, MemoryStore
from alloy.testing import Reply, Scripted, calls, hangs, sweep, together

pytestmark = pytest.mark.anyio


async def cancelled(waiting) -> bool:
    try:
        await waiting
    except alloy.RequestCancelledError:
        return True
    return False


# --- by who waits -----------------------------------------------------------------------------------------------------------


async def test_cancelling_who_awaits_chat_cancels_that_request_and_makes_room_at_once(make, watcher, until):
    async with make(hangs("So far"), "Next.", on_event=watcher) as agent:
        async with anyio.create_task_group() as group:
            group.start_soon(agent.chat, "1")
            await until(lambda: watcher.text == "So far")
            with pytest.raises(AgentBusyError):
                await agent.chat("2")
            group.cancel_scope.cancel()
        assert [status for _, status in watcher.responses] == ["cancelled"]
        assert (await agent.chat("2")).text == "Next."
        assert [message.text for message in agent.messages] == ["1", "So far", "2", "Next."]


async def test_a_time_limit_around_chat_leaves_room_for_the_next(make):
    async with make(hangs(), hangs(), "Next.") as agent:
        for _ in range(2):
            with pytest.raises(TimeoutError), anyio.fail_after(0.01):
                await agent.chat("1")
        assert (await agent.chat("2")).text == "Next."


async def test_cancelling_who_awaits_a_queued_chat_leaves_the_running_one_alone(make, gate, watcher, until):
    async with make(calls("gate"), "Done.", tools=[gate.tool], max_pending=1, on_event=watcher) as agent:
        first = await agent.send_message("1")
        await gate.reached.wait()
        async with anyio.create_task_group() as group:
            group.start_soon(agent.chat, "2")
            await until(lambda: agent.health().pending == 1)
            group.cancel_scope.cancel()
        assert (agent.health().running, agent.health().pending) == (first, 0)
        gate.opened.set()
        assert (await agent.result(first)).text == "Done."
        assert sorted(status for _, status in watcher.responses) == ["cancelled", "completed"]


async def test_who_only_joined_a_request_by_its_id_doesnt_cancel_it(make, gate, until):
    async with make(calls("gate"), "Done.", tools=[gate.tool]) as agent:
        await agent.send_message("1", request_id="one")
        await gate.reached.wait()
        async with anyio.create_task_group() as group:

            async def stream():
                async with agent.stream_chat("1", request_id="one"):
                    await anyio.sleep_forever()

            async def chat():
                await agent.chat("1", request_id="one")

            group.start_soon(chat)
            group.start_soon(stream)
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        async with agent.stream_chat("1", request_id="one"):
            pass
        gate.opened.set()
        assert (await agent.result("one")).text == "Done."


async def test_cancelling_whoever_asked_first_tells_those_who_joined(make, gate):
    ended = []

    async with make(calls("gate"), "Done.", tools=[gate.tool]) as agent, anyio.create_task_group() as group:

        async def join():
            ended.append(await cancelled(agent.chat("1", request_id="one")))

        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as asking:
                asking.start_soon(lambda: agent.chat("1", request_id="one"))
                await gate.reached.wait()
                group.start_soon(join)
                await anyio.lowlevel.checkpoint()
                scope.cancel()
    assert ended == [True]


async def test_leaving_a_stream_early_cancels_its_request_and_makes_room_at_once(make, watcher):
    async with make(hangs("one two "), "Next.", on_event=watcher) as agent:
        async with agent.stream_chat("1") as run:
            async for text in run.text_deltas():
                assert text == "one "
                break
        assert run.result.status == "cancelled"
        assert (await agent.chat("2")).text == "Next."
        with pytest.raises(LookupError, match="mine"):
            async with agent.stream_chat("3") as run:
                raise LookupError("mine")
        assert [status for _, status in watcher.responses] == ["cancelled", "completed", "cancelled"]


async def test_a_stream_can_be_cancelled_and_read_to_its_end(make):
    async with make(hangs("one two")) as agent, agent.stream_chat("1") as run:
        seen = []
        async for envelope in run:
            seen.append(envelope.event)
            if envelope.event == "text_delta":
                run.cancel()
                run.cancel()
        assert "request_cancelled" in seen
        assert seen[-1] == "response"
        assert run.result.status == "cancelled"
        run.cancel()  # it has ended: nothing happens


# --- by id ------------------------------------------------------------------------------------------------------------------


async def test_cancelling_a_queued_request_settles_it_at_once_and_others_move_up(make, gate, watcher):
    script = [calls("gate"), "a", "c"]
    async with make(*script, tools=[gate.tool], max_pending=2, on_event=watcher) as agent:
        for request_id in "123":
            await agent.send_message(request_id, request_id=request_id)
            if request_id == "1":
                await gate.reached.wait()
        watcher.clear()
        await agent.cancel_request("2", "changed my mind")
        assert watcher.of("2") == ["request_cancelled", "response"]
        assert watcher.envelopes[0].payload == {"reason": "changed my mind"}
        assert watcher.responses == [("2", "cancelled")]
        with pytest.raises(alloy.RequestCancelledError) as caught:
            await agent.result("2")
        assert caught.value.result.status == "cancelled"
        await agent.send_message("4", request_id="4")  # its place is free
        await agent.cancel_request("4")
        gate.opened.set()
        assert (await agent.result("3")).text == "c"
        assert [message.text for message in agent.messages if message.role == "user" and message.text] == ["1", "3"]


async def test_cancelling_the_running_request_keeps_its_work_and_lets_the_next_run(make, watcher, until):
    @alloy.tool
    async def work() -> str:
        """Works."""
        return "worked"

    script = [together(Reply(text="Let me. "), calls("work")), hangs("And so"), "Next."]
    async with make(*script, tools=[work], max_pending=1, on_event=watcher) as agent:
        await agent.send_message("1", request_id="one")
        await agent.send_message("2", request_id="two")
        await until(lambda: watcher.text.endswith("And so"))
        await agent.cancel_request("one")
        with pytest.raises(alloy.RequestCancelledError) as caught:
            await agent.result("one")
        kept = caught.value.result
        assert [call.content[0].text for call in kept.tool_calls] == ["worked"]
        assert kept.usage.requests == 1
        assert len(kept.messages) == 4
        assert kept.messages[-1].interrupted
        assert (await agent.result("two")).text == "Next."
        assert agent.messages[:4] == kept.messages
        assert watcher.of("one")[-3:] == ["request_cancelled", "turn_end", "response"]
        assert agent.usage.requests == 2


async def test_cancelling_twice_is_once_and_not_what_isnt_there(make, watcher, until):
    async with make(hangs("So far"), on_event=watcher) as agent:
        with pytest.raises(UnknownRequestError) as caught:
            await agent.cancel_request("nobody")
        assert caught.value.request_id == "nobody"
        await agent.send_message("1", request_id="one")
        await until(lambda: watcher.text == "So far")
        async with anyio.create_task_group() as group:
            group.start_soon(agent.cancel_request, "one")
            group.start_soon(agent.cancel_request, "one")
        assert await cancelled(agent.result("one"))
        with pytest.raises(RequestSettledError) as settled:
            await agent.cancel_request("one")
        assert settled.value.status == "cancelled"
        assert len(watcher.named("request_cancelled")) == 1


async def test_what_is_just_ending_cant_be_cancelled_any_more(make):
    saying = anyio.Event()
    said = anyio.Event()

    class Goodbye(alloy.Middleware):
        async def session_end(self, result, run):
            saying.set()
            await said.wait()

    async with make("Done.", middleware=[Goodbye()]) as agent:
        async with anyio.create_task_group() as group:

            async def chat():
                with anyio.CancelScope() as scope:
                    scopes.append(scope)
                    await agent.chat("1", request_id="one")

            scopes = []
            group.start_soon(chat)
            await saying.wait()
            with pytest.raises(RequestSettledError) as caught:
                await agent.cancel_request("one")
            assert caught.value.request_id == "one"
            scopes[0].cancel()  # nor by who waits for it
            await anyio.lowlevel.checkpoint()
            said.set()
        assert (await agent.result("one")).text == "Done."


# --- everything -------------------------------------------------------------------------------------------------------------


async def test_cancelling_around_the_block_settles_everything_and_goes_on(make, watcher, until):
    options = {"max_pending": 3, "on_event": watcher}
    with anyio.CancelScope() as scope:
        async with make(hangs("So far"), **options) as agent, anyio.create_task_group() as group:
            for number in range(3):
                group.start_soon(agent.chat, str(number))
            await until(lambda: watcher.text == "So far")
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert [status for _, status in watcher.responses] == ["cancelled"] * 3
    assert agent.health().state == "closed"


# --- the sweep --------------------------------------------------------------------------------------------------------------


@alloy.tool
async def slow(name: str) -> str:
    """Takes two steps."""
    await anyio.lowlevel.checkpoint()
    await anyio.lowlevel.checkpoint()
    return name


class Steps(alloy.Middleware):
    """Awaits where an agent's state might be in between."""

    async def session_start(self, run):
        await anyio.lowlevel.checkpoint()

    async def before_completion(self, request, run):
        await anyio.lowlevel.checkpoint()

    async def on_context_overflow(self, error, messages, run):
        await anyio.lowlevel.checkpoint()
        return messages[-1:]

    async def after_compaction(self, before, after, run):
        await anyio.lowlevel.checkpoint()

    async def session_end(self, result, run):
        await anyio.lowlevel.checkpoint()


class Held(Scripted):
    async def __aenter__(self):
        await anyio.lowlevel.checkpoint()

    async def __aexit__(self, *_):
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()


class SlowStore(MemoryStore):
    async def load(self, session_id):
        await anyio.lowlevel.checkpoint()
        return await super().load(session_id)

    async def save(self, session):
        await anyio.lowlevel.checkpoint()
        return await super().save(session)


async def say_goodbye(session):
    await anyio.lowlevel.checkpoint()


ENDINGS = (alloy.RunError, alloy.RequestCancelledError, alloy.errors.AgentClosedError)


class Meltdown(BaseException):
    """No error of a run's."""


class World:
    """What a scenario has made, for who cancels from outside and for the checks afterwards."""

    def __init__(self, *script, make_store=SlowStore) -> None:
        self._script = script
        self._make_store = make_store
        self.agent: alloy.Agent | None = None
        self.caller: anyio.CancelScope | None = None

    def enter(self, probe) -> alloy.Agent:
        self.store = self._make_store()
        self.bus = LocalBus()
        self.caller = None
        self.ended = {}
        self.agent = probe.watch(
            alloy.Agent(
                provider=Held(self._script),
                tools=[slow],
                middleware=[probe, Steps()],
                on_event=probe,
                name="desk",
                store=self.store,
                bus=self.bus,
                subscribe=["t"],
                max_pending=4,
                max_retries=0,
                timeout=1000,
                on_shutdown=say_goodbye,
            )
        )
        return self.agent

    @contextlib.contextmanager
    def expecting(self):
        try:
            yield
        except ENDINGS:
            pass
        except alloy.errors.SessionError as error:
            if "within" not in error.reason:  # a clock that jumps leaves no time for the last save
                raise

    async def chat(self, prompt, request_id):
        with self.expecting(), anyio.CancelScope() as self.caller:
            result = await self.agent.chat(prompt, request_id=request_id)
            self.ended[request_id] = result.status

    async def stream(self, prompt, request_id):
        with self.expecting():
            async with self.agent.stream_chat(prompt, request_id=request_id) as run:
                await run.wait()
            self.ended[request_id] = run.result.status

    async def after(self, probe) -> None:
        """What was told is what callers got, and what was saved is what the agent had; the next agent of the name goes on."""
        responses = {one.correlation_id: one.payload["status"] for one in probe.recorder.named("response")}
        assert self.ended.items() <= responses.items()
        session = await self.store.load("desk")
        if session is not None and not self.agent._owner.unsaved:
            assert session.messages == tuple(self.agent._owner.history.messages)
            assert session.usage == self.agent._owner.usage
        numbers = [one.seq for one in probe.recorder.envelopes]
        async with alloy.Agent(provider=Scripted(["Fine."]), name="desk", store=self.store, on_event=probe) as again:
            assert (await again.chat("Go on.")).text == "Fine."
            alloy.check_history(again.messages)
        assert not numbers or numbers[-1] < probe.recorder.envelopes[len(numbers)].seq

    # --- who cancels ---

    def cancels_the_running(self):
        if self.agent is None:
            return None
        with contextlib.suppress(alloy.AgentError):
            running = self.agent.health().running
            return running and self.agent.cancel_request(running)

    def cancels_the_queued(self):
        return self.agent and self.agent.cancel_request("second")

    def cancels_the_caller(self):
        if self.caller is not None:
            self.caller.cancel()

    def stops(self):
        return self.agent and self.agent.stop()

    def drains(self):
        return self.agent and self.agent.drain()

    def resets(self):
        return self.agent and self.agent.reset()

    @property
    def sides(self):
        return (
            "task",
            "one task",
            "scope",
            "all tasks",
            "deadline",
            self.cancels_the_running,
            self.cancels_the_queued,
            self.cancels_the_caller,
            self.stops,
        )


def overflow() -> alloy.ProviderError:
    return alloy.ProviderError("too long", kind="context_overflow")


def two_calls() -> Reply:
    return together(Reply(text="Let me see. "), calls("slow", name="a"), calls("slow", name="b"))


def test_p1_p2_p3_p4_hold_wherever_an_agent_that_works_is_cancelled_from_any_side():
    world = World(overflow(), two_calls(), "Done now.", "Next.")

    async def scenario(probe):
        with world.expecting():
            async with world.enter(probe) as agent, anyio.create_task_group() as group:
                group.start_soon(world.chat, "Go.", "first")
                await anyio.lowlevel.checkpoint()
                with world.expecting():
                    await agent.send_message("And?", request_id="second")
                    await agent.result("second")

    assert sweep(scenario, sides=world.sides, after=world.after) > 400


def test_p1_p2_p3_p4_hold_wherever_an_agent_with_a_queue_is_cancelled_from_any_side():
    world = World("one two", "three", "four", "five")

    async def scenario(probe):
        with world.expecting():
            async with world.enter(probe) as agent, anyio.create_task_group() as group:
                world.bus.publish("t", message_envelope("News.", request_id="second"))
                group.start_soon(world.stream, "Go.", "first")
                with world.expecting():
                    await agent.reset()
                    await agent.set_model(Held(["six", "seven", "eight"]))
                with world.expecting():
                    await world.chat("More.", "third")
                with world.expecting():
                    await agent.drain()

    assert sweep(scenario, sides=(*world.sides, world.resets, world.drains), after=world.after) > 400


def test_p1_p2_p3_p4_hold_wherever_an_agent_that_is_left_in_the_middle_is_cancelled():
    world = World(hangs("one two"))

    async def scenario(probe):
        with world.expecting():
            async with world.enter(probe) as agent, agent.stream_chat("Go.", request_id="first") as run:
                async for _ in run.text_deltas():
                    await agent.send_message("Second.", request_id="second")
                    return

    sides = ("task", "one task", "scope", "all tasks", "deadline", world.stops)
    assert sweep(scenario, sides=sides, after=world.after) > 100


def test_p1_p2_p3_p4_hold_wherever_an_agent_that_crashes_is_cancelled_from_any_side():
    def melt(request):
        raise Meltdown

    world = World(two_calls(), melt)

    async def scenario(probe):
        with contextlib.suppress(alloy.errors.AgentCrashedError), world.expecting():
            async with world.enter(probe) as agent, anyio.create_task_group() as group:
                group.start_soon(world.chat, "Go.", "first")
                await anyio.lowlevel.checkpoint()
                with world.expecting():
                    await agent.send_message("And?", request_id="second")
                    await agent.result("second")

    assert sweep(scenario, sides=world.sides, after=world.after) > 200


def test_p1_p2_p4_hold_wherever_an_agent_is_cancelled_that_saves_in_files(tmp_path):
    lives = itertools.count()
    world = World("one", "two", make_store=lambda: FileStore(tmp_path / str(next(lives))))

    async def scenario(probe):
        with world.expecting():
            async with world.enter(probe):
                await world.chat("Go.", "first")
                await world.chat("And?", "second")

    sides = ("task", "all tasks", "deadline", world.cancels_the_running, world.stops)
    assert sweep(scenario, sides=sides, after=world.after) > 50
