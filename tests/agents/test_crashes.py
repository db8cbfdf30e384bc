"""Crashes: what breaks the agent itself fails its requests, is told where the block is left, and loses no work."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.errors import AgentClosedError, AgentCrashedError
from alloy.sessions import MemoryStore
from alloy.testing import Scripted, calls, check_envelopes, hangs

pytestmark = pytest.mark.anyio


class Meltdown(BaseException):
    """No Exception, so no part of a run may take it for one of its own errors."""


class Melting(alloy.Middleware):
    """Melts before the model is asked for the second time."""

    def __init__(self, error=Meltdown, at=2) -> None:
        self.error = error
        self.at = at
        self.count = 0

    async def before_completion(self, request, run):
        self.count += 1
        if self.count == self.at:
            raise self.error("hot")


@alloy.tool
async def work() -> str:
    """Works."""
    return "worked"


@pytest.mark.parametrize("error", [Meltdown, SystemExit, GeneratorExit])
async def test_a_crash_fails_its_request_and_those_behind_it_and_is_raised_at_the_end(make, watcher, error):
    agent = make(calls("work"), "x", middleware=[Melting(error)], tools=[work], max_pending=3, on_event=watcher)
    with pytest.raises(AgentCrashedError) as crash:
        async with agent:
            ids = [await agent.send_message(prompt) for prompt in "123"]
            for request_id in ids:
                with pytest.raises(alloy.RunError) as failed:
                    await agent.result(request_id)
                assert failed.value.result.status == "failed"
                cause = failed.value.cause
                assert isinstance(cause if request_id == ids[0] else cause.cause, error)
            while agent.health().state != "closed":
                await anyio.lowlevel.checkpoint()
            with pytest.raises(AgentClosedError, match="hot"):
                await agent.chat("And?")
            assert (agent.health().crashes, type(agent.health().error)) == (1, AgentCrashedError)
    assert isinstance(crash.value.cause, error)
    assert crash.value.__cause__ is crash.value.cause
    assert watcher.responses == [(request_id, "failed") for request_id in ids]
    check_envelopes([envelope for envelope in watcher.envelopes if envelope.correlation_id == ids[0]])
    assert [message.role for message in agent.messages] == ["user", "assistant", "user"]  # work done stays
    assert agent.usage.requests == 1


async def test_a_crash_in_the_provider_is_a_crash(make):
    def melt(request):
        raise Meltdown("hot")

    with pytest.raises(AgentCrashedError):
        async with make(melt) as agent:
            with pytest.raises(alloy.RunError):
                await agent.chat("Hi.")


async def test_a_crash_before_the_first_await_of_a_request_settles_it_too(make, watcher):
    class Worse(Scripted):
        async def __aenter__(self):
            raise Meltdown("hot")

        async def __aexit__(self, *_):
            pass

    with pytest.raises(AgentCrashedError):
        async with make(provider=Worse(["x"]), on_event=watcher) as agent:
            with pytest.raises(alloy.RunError):
                await agent.chat("Hi.", request_id="one")
    assert [request for request, _ in watcher.responses] == ["one"]


async def test_a_crash_is_raised_also_where_the_block_is_left_at_the_same_moment(make):
    with pytest.raises(AgentCrashedError):
        agent = make("x", middleware=[Melting(at=1)])
        async with agent, agent.subscribe(events=["response"]) as responses:
            await agent.send_message("Hi.")
            async for _ in responses:
                break
    assert agent.health().crashes == 1


async def test_an_exception_of_the_block_goes_before_the_crash(make):
    with pytest.raises(alloy.RunError):
        async with make("x", middleware=[Melting(at=1)]) as agent:
            await agent.chat("Hi.")


async def test_a_crash_ends_who_streams_and_who_subscribes(make):
    with anyio.fail_after(5), pytest.raises(AgentCrashedError):
        async with make("x", middleware=[Melting(at=1)]) as agent, agent.subscribe() as envelopes:
            async with agent.stream_chat("Hi.") as run:
                with pytest.raises(alloy.RunError):
                    await run.wait()
            assert [envelope.event async for envelope in envelopes][-1] == "response"


async def test_a_crash_is_saved_and_its_name_is_free_again(make):
    store = MemoryStore()
    script = [calls("work"), "x"]
    with pytest.raises(AgentCrashedError):
        async with make(*script, name="desk", store=store, middleware=[Melting()], tools=[work]) as agent:
            with pytest.raises(alloy.RunError):
                await agent.chat("Hi.")
    async with make("Back.", name="desk", store=store) as agent:
        assert len(agent.messages) == 3
        assert (await agent.chat("Again?")).text == "Back."


async def test_a_change_that_waits_behind_a_crash_is_done_and_nobody_waits_for_ever(make):
    async def reset():
        await agent.reset()

    with anyio.fail_after(5), pytest.raises(AgentCrashedError):
        async with make(calls("work"), "x", middleware=[Melting()], tools=[work]) as agent:
            request_id = await agent.send_message("Hi.")
            async with anyio.create_task_group() as group:
                group.start_soon(reset)
            with pytest.raises(alloy.RunError):
                await agent.result(request_id)
            await agent.stop()
    assert agent.messages == ()


async def test_a_tool_that_cancels_its_own_task_ends_its_request_alone(make):
    @alloy.tool
    async def rude() -> str:
        """Cancels whatever runs it."""
        asyncio.current_task().cancel()
        await anyio.sleep_forever()

    async with make(calls("rude"), "a", "b", tools=[rude], max_pending=1) as agent:
        await agent.send_message("1", request_id="one")
        await agent.send_message("2", request_id="two")
        with anyio.fail_after(5):
            with pytest.raises(alloy.RequestCancelledError):
                await agent.result("one")
            assert (await agent.result("two")).text == "a"
        assert agent.health().state == "idle"


async def test_cancelling_the_owners_task_closes_the_agent_and_settles_everything(make, watcher, until):
    before = asyncio.all_tasks()
    store = MemoryStore()
    options = {"max_pending": 2, "on_event": watcher, "name": "desk", "store": store}
    async with make(hangs("So far"), **options) as agent:
        [owner] = asyncio.all_tasks() - before
        ids = [await agent.send_message(prompt) for prompt in "12"]
        await until(lambda: watcher.text == "So far")
        owner.cancel()
        for request_id in ids:
            with pytest.raises(alloy.RequestCancelledError):
                await agent.result(request_id)
        await agent.stop()
        with pytest.raises(AgentClosedError):
            await agent.chat("And?")
    assert sorted(watcher.responses) == sorted((one, "cancelled") for one in ids)
    assert [message.text for message in (await store.load("desk")).messages] == ["1", "So far"]


@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")  # that is what it's about
async def test_a_request_whose_task_is_cancelled_before_it_begins_ends_and_makes_room(make, watcher):
    def cancelling(loop, coroutine, **options):
        loop.set_task_factory(None)  # the next task is the request's
        task = loop.create_task(coroutine, **options)
        task.cancel()
        return task

    with anyio.fail_after(5):
        async with make("a", on_event=watcher) as agent:
            asyncio.get_running_loop().set_task_factory(cancelling)
            with pytest.raises(alloy.RequestCancelledError):
                await agent.chat("1", request_id="one")
            for _ in range(5):
                await anyio.lowlevel.checkpoint()
            assert agent.health().state == "idle"
            assert (await agent.chat("2", request_id="two")).text == "a"
    assert watcher.responses == [("one", "cancelled"), ("two", "completed")]
    gc.collect()


KEYBOARD = """
import asyncio, alloy
from alloy.testing import Scripted

def interrupt(request):
    raise KeyboardInterrupt

ended = []

async def main():
    async with alloy.Agent(provider=Scripted([interrupt]), max_retries=0, on_event=ended.append) as agent:
        await agent.chat("Hi.")

try:
    asyncio.run(main())
except KeyboardInterrupt:
    print("interrupted", [envelope.payload["status"] for envelope in ended if envelope.event == "response"])
"""


async def test_a_keyboard_interrupt_goes_through_and_its_request_is_settled():
    done = await anyio.run_process([sys.executable, "-c", KEYBOARD], stderr=subprocess.PIPE)
    assert done.stdout.decode().strip() == "interrupted ['failed']"
