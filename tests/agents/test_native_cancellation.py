"""``task.cancel()`` of a single task of ours: that one ends, whoever waits for it is told, and nothing beside it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.errors import AgentClosedError, RequestCancelledError, UnknownAgentError, UnknownRequestError
from alloy.sessions import MemoryStore
from alloy.testing import Scripted, calls, hangs, sweep, together

pytestmark = pytest.mark.anyio


def called(part: str) -> asyncio.Task:
    """The task with this in its name."""
    (task,) = (task for task in asyncio.all_tasks() if part in task.get_name())
    return task


@contextlib.contextmanager
def cancelling_new_tasks(number: int):
    """Has the so-many-th task that is begun from here on cancelled before its first step."""
    loop = asyncio.get_running_loop()
    left = [number]

    def make(loop, coroutine, **options):
        task = asyncio.Task(coroutine, loop=loop, **options)
        left[0] -= 1
        if left[0] == 0:
            task.cancel()
        return task

    loop.set_task_factory(make)
    try:
        yield
    finally:
        loop.set_task_factory(None)


@pytest.fixture
def _collected():
    yield
    gc.collect()


def never_awaited(test):
    """Leaves out what Python says of coroutines in tasks that were cancelled before they had begun: anyio wraps them."""
    ignored = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited:RuntimeWarning")
    return ignored(pytest.mark.usefixtures("_collected")(test))


class Stuck(MemoryStore):
    """Never gives a session."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = anyio.Event()

    async def load(self, session_id):
        self.reached.set()
        await anyio.sleep_forever()


def three_gates():
    return together(calls("gate"), calls("gate"), calls("gate"))


# --- an agent ---------------------------------------------------------------------------------------------------------


async def test_cancelling_an_agents_task_while_several_tools_run_cancels_its_requests_and_closes_it(
    make, gate, watcher
):
    options = {"tools": [gate.tool], "max_pending": 2, "on_event": watcher}
    async with make(three_gates(), "Never.", **options) as agent:
        owner = called("background")
        for number in "123":
            await agent.send_message(number, request_id=number)
        await gate.reached.wait()
        owner.cancel()
        for number in "123":
            with pytest.raises(RequestCancelledError):
                await agent.result(number)
        with pytest.raises(AgentClosedError, match="its task was cancelled"):
            await agent.chat("4")
        alloy.check_history(agent.messages)

    assert [status for _, status in watcher.responses] == ["cancelled"] * 3
    assert (agent.health().state, agent.health().crashes, agent.health().error) == ("closed", 0, None)


async def test_cancelling_the_task_of_whoever_entered_an_agent_while_several_tools_run_is_a_cancellation(make, gate):
    agents = []

    async def live():
        async with make(three_gates(), tools=[gate.tool]) as agent:
            agents.append(agent)
            await agent.chat("Go.")

    async with anyio.create_task_group() as group:
        group.start_soon(live)
        await gate.reached.wait()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        called("live").cancel()

    assert (agents[0].health().state, agents[0].health().crashes) == ("closed", 0)


async def test_cancelling_the_task_of_a_request_that_runs_several_tools_ends_that_request_only(make, gate):
    async with make(three_gates(), "Next.", tools=[gate.tool]) as agent:
        await agent.send_message("1", request_id="1")
        await gate.reached.wait()
        called("_execute").cancel()
        with pytest.raises(RequestCancelledError):
            await agent.result("1")
        assert (await agent.chat("2")).text == "Next."


async def test_entering_an_agent_whose_task_is_cancelled_while_it_loads_says_that_it_is_closed(make):
    store = Stuck()

    async def cancel():
        await store.reached.wait()
        called("background").cancel()

    async with anyio.create_task_group() as group:
        group.start_soon(cancel)
        with anyio.fail_after(5), pytest.raises(AgentClosedError, match="its task was cancelled"):
            async with make("Never.", name="desk", store=store):
                raise AssertionError
    async with make("Fine.", name="desk") as agent:
        assert (await agent.chat("Go.")).text == "Fine."


async def test_whoever_is_cancelled_while_entering_an_agent_gets_that(make):
    store = Stuck()
    agent = make("Never.", name="desk", store=store)
    async with anyio.create_task_group() as group:
        group.start_soon(agent.__aenter__)
        await store.reached.wait()
        entering = called("__aenter__")
        entering.cancel()
        await anyio.wait_all_tasks_blocked()

    assert entering.cancelled()
    assert agent.health().state == "closed"


@never_awaited
async def test_an_agent_whose_task_is_cancelled_before_its_first_step_is_closed(make):
    agent = make("Never.", name="desk")
    with anyio.fail_after(5), cancelling_new_tasks(1), pytest.raises(AgentClosedError, match="its task was cancelled"):
        async with agent:
            await agent.chat("Go.")

    assert agent.health().state == "closed"


# --- a stream ---------------------------------------------------------------------------------------------------------


async def test_cancelling_a_streams_task_ends_the_run_as_cancelled_and_leaves_its_reader_alone(watcher):
    seen = []
    async with alloy.stream("Go.", provider=Scripted([hangs("one two")]), on_event=watcher) as run:
        async for text in run.text_deltas():
            seen.append(text)
            if text == "two":
                called("background").cancel()
        await anyio.lowlevel.checkpoint()
        seen.append("the end")

    assert seen == ["one ", "two", "the end"]
    assert run.result.status == "cancelled"
    assert [status for _, status in watcher.responses] == ["cancelled"]


@never_awaited
async def test_a_stream_whose_task_is_cancelled_before_its_first_step_ends_as_cancelled(watcher):
    with anyio.fail_after(5), cancelling_new_tasks(1):
        async with alloy.stream("Go.", provider=Scripted(["Never."]), on_event=watcher) as run:
            seen = [text async for text in run.text_deltas()]

    assert (seen, run.result.status) == ([], "cancelled")


async def test_cancelling_the_task_of_one_tool_leaves_those_beside_it_alone(gate):
    tasks = []

    @alloy.tool
    async def slow(name: str) -> str:
        """Waits for the others."""
        tasks.append(asyncio.current_task())
        if len(tasks) == 3:
            tasks[1].cancel()
        for _ in range(3):
            await anyio.lowlevel.checkpoint()
        return name

    script = [together(*(calls("slow", name=name) for name in "abc")), "Done."]
    result = await alloy.run("Go.", provider=Scripted(script), tools=[slow])

    texts = [call.content[0].text for call in result.tool_calls]
    assert (texts[0], result.tool_calls[1].is_error, texts[2]) == ("a", True, "c")
    assert "may or may not have taken effect" in texts[1]
    assert result.text == "Done."


# --- a supervisor -----------------------------------------------------------------------------------------------------


async def test_cancelling_one_agents_task_stops_that_agent_and_no_other(supervising, answers, bus, store):
    async with supervising(store=store) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        clerk = await supervisor.start("clerk", answers.config())
        for word, request_id in (("hang", "1"), ("next", "2")):
            await desk.send_message(word, request_id=request_id)
        waiting = await clerk.send_message("wait")
        await answers.hanging.wait()
        called("agent desk").cancel()
        for request_id in "12":
            with pytest.raises(RequestCancelledError):
                await desk.result(request_id)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(AgentClosedError, match="its task was cancelled"):
            await desk.chat("Hello?")
        with pytest.raises(UnknownAgentError):
            supervisor.get("desk")
        answers.gate.set()
        assert (await clerk.result(waiting)).text.startswith("wait")
        again = await supervisor.start("desk", answers.config())
        assert (await again.chat("Hello")).text.startswith("Hello")

    assert not bus.recorder.named("agent_crashed")


async def test_cancelling_the_task_of_an_agent_that_starts_ends_its_start(supervising, answers):
    store = Stuck()
    async with supervising(store=store) as supervisor, anyio.create_task_group() as group:
        errors = []

        async def start():
            with pytest.raises(AgentClosedError) as caught:
                await supervisor.start("desk", answers.config())
            errors.append(caught.value)

        group.start_soon(start)
        await store.reached.wait()
        called("agent desk").cancel()
        with anyio.fail_after(5):
            while not errors:
                await anyio.lowlevel.checkpoint()
        assert supervisor.names() == ()


async def test_cancelling_an_agents_task_again_while_it_ends_still_frees_its_name(supervising, answers):
    ending = anyio.Event()

    async def say_goodbye(session):
        ending.set()
        await anyio.sleep_forever()

    async with supervising() as supervisor:
        desk = await supervisor.start("desk", answers.config(), on_shutdown=say_goodbye)
        await desk.chat("one")
        task = called("agent desk")
        task.cancel()
        await ending.wait()
        task.cancel()
        await asyncio.wait([task])
        assert supervisor.names() == ()
        assert (await supervisor.stop(grace=0)).clean


@never_awaited
async def test_a_supervisor_of_an_agent_whose_task_never_began_ends_and_says_so(supervising, answers):
    after = []
    supervisor = supervising()
    with anyio.fail_after(5), pytest.raises(AgentClosedError, match="a task of its was cancelled"):
        async with supervisor:
            clerk = await supervisor.start("clerk", answers.config())
            desk = await supervisor.start("desk", answers.config())
            with cancelling_new_tasks(1):
                await desk.chat("one")
            after.append("cut")

    assert after == []
    assert desk.health().state == "closed"
    assert clerk.health().state == "closed"


async def test_cancelling_the_task_that_stops_a_supervisor_cancels_what_is_left_and_ends_the_wait(supervising, answers):
    async with supervising() as supervisor, anyio.create_task_group() as group:
        desk = await supervisor.start("desk", answers.config())
        await desk.send_message("hang", request_id="slow")
        await answers.hanging.wait()
        reports = []

        async def stop():
            reports.append(await supervisor.stop(grace=1000))

        group.start_soon(stop)
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        called("_stop_all").cancel()

    assert reports[0].cancelled == {"desk": ("slow",)}


async def test_cancelling_the_task_that_lets_agents_sleep_is_told_and_ends_nothing_else(supervising, answers, caplog):
    async with supervising(idle_timeout=1000) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        sweeping = called("sweep")
        sweeping.cancel()
        await asyncio.wait([sweeping])
        assert (await desk.chat("Hello")).text.startswith("Hello")

    assert "they stay awake" in caplog.text


async def test_cancelling_every_task_at_once_ends_a_supervisor_with_all_its_agents(supervising, answers):
    entered = anyio.Event()

    async def serve():
        async with supervising() as supervisor:
            for name in ("desk", "clerk"):
                agent = await supervisor.start(name, answers.config())
                await agent.send_message("hang")
            await answers.hanging.wait()
            entered.set()
            await anyio.sleep_forever()

    before = asyncio.all_tasks()
    serving = asyncio.get_running_loop().create_task(serve())
    await entered.wait()
    for task in asyncio.all_tasks() - before:
        task.cancel()
    with anyio.fail_after(5), pytest.raises(asyncio.CancelledError):
        await serving

    assert asyncio.all_tasks() == before


# --- everything -------------------------------------------------------------------------------------------------------


def test_cancelling_any_single_task_of_a_supervisor_cuts_nobody_else():
    ended: list[str] = []

    async def scenario(probe):
        ended.append("cut")
        options = {"store": MemoryStore(), "watchdog": None, "idle_timeout": 1000}
        try:
            async with alloy.Supervisor(**options) as supervisor:
                agents = []
                for name in ("desk", "clerk"):
                    with contextlib.suppress(AgentClosedError):
                        agents.append(await supervisor.start(name, provider=Scripted(["one two"]), on_event=probe))
                for agent in agents:
                    probe.watch(agent)
                    with contextlib.suppress(AgentClosedError):
                        await agent.send_message("Go.", request_id=agent.name)
                answers = 0
                for agent in agents:
                    with contextlib.suppress(AgentClosedError, RequestCancelledError, UnknownRequestError):
                        answers += (await agent.result(agent.name)).text == "one two"
                ended[-1] = f"{answers} answered"
        except asyncio.CancelledError:
            ended[-1] = "the caller was cancelled" if asyncio.current_task().cancelling() else "cut"
            raise

    assert sweep(scenario, sides=["one task"]) > 10
    assert set(ended) == {"1 answered", "2 answered", "the caller was cancelled"}
