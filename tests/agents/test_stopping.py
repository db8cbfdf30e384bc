"""Stopping: a supervisor refuses what is new, lets what was accepted finish for a while, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents.bus import message_envelope
from alloy.errors import AgentClosedError, AgentDeadlockError, SessionError, UnknownAgentError
from alloy.sessions import MemoryStore
from alloy.testing import Scripted, calls
from alloy.testing.virtual import VirtualLoop
from tests.agents.supervising import Answers, Store, Watched, ended

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend(request):
    """Time costs nothing, but for tests of signals, which come from outside of it."""
    if "signal" in request.node.name:
        return "asyncio"
    return "asyncio", {"loop_factory": VirtualLoop}


async def others() -> list[str]:
    """Tasks that are left, besides the test's own."""
    await anyio.lowlevel.checkpoint()
    return sorted(task.get_name() for task in asyncio.all_tasks() if task.get_name().startswith(("agent", "alloy")))


# --- by asking ------------------------------------------------------------------------------------------------------------


async def test_accepted_requests_finish_within_the_grace_and_nothing_new_is_taken(supervising, answers, bus):
    async with supervising(idle_timeout=5) as supervisor:
        asleep = await supervisor.start("asleep", answers.config(), subscribe=["news"])
        await anyio.sleep(10)
        desk = await supervisor.start("desk", answers.config())
        ids = [await desk.send_message(word) for word in ("wait", "Two")]
        reports = []
        async with anyio.create_task_group() as group:

            async def stop():
                reports.append(await supervisor.stop(grace=100))

            group.start_soon(stop)
            await anyio.wait_all_tasks_blocked()
            for way in (
                lambda: desk.chat("Three"),
                lambda: alloy.send_message("asleep", "Hi"),
                lambda: supervisor.start("new", answers.config()),
                lambda: supervisor.get_or_start("desk"),
                lambda: supervisor.revive("desk"),
            ):
                with pytest.raises(AgentClosedError, match="stop"):
                    await way()
            bus.publish("news", message_envelope("Hi"))
            answers.gate.set()
        assert [await ended(desk, request_id) for request_id in ids] == ["completed", "completed"]
        assert reports[0].clean
        assert (supervisor.names(), supervisor.health()) == ((), {})
        assert bus.kinds("agent/asleep") == ["message_refused"]
        assert asleep.health().state == "closed"
    assert await others() == []


async def test_what_takes_longer_than_the_grace_is_cancelled_and_reported(supervising, answers):
    async with supervising() as supervisor:
        desk = await supervisor.start("desk", answers.config())
        quick = await supervisor.start("quick", answers.config())
        hanging = [await desk.send_message(word) for word in ("hang", "Two")]
        done = await quick.send_message("One")

        report = await supervisor.stop(grace=5)

        assert report.cancelled == {"desk": tuple(hanging)}
        assert (report.unsaved, report.clean) == ({}, False)
        assert [await ended(desk, request_id) for request_id in hanging] == ["cancelled"] * 2
        assert await ended(quick, done) == "completed"
    assert asyncio.get_running_loop().time() == 5


async def test_what_ends_by_itself_at_the_last_moment_is_not_reported_as_cancelled(supervising, answers, store):
    async with supervising(store=store) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        store.let_save = anyio.Event()
        request_id = await desk.send_message("One")
        await store.saving.wait()
        reports = []
        async with anyio.create_task_group() as group:

            async def stop():
                reports.append(await supervisor.stop(0))

            group.start_soon(stop)
            while not supervisor._deadline or not supervisor._deadline.cancelled_caught:
                await anyio.lowlevel.checkpoint()
            store.let_save.set()
        assert await ended(desk, request_id) == "completed"
        assert reports[0].clean


async def test_what_could_not_be_saved_is_reported(supervising, answers, store):
    async with supervising(store=store) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        store.save_fails = SessionError("desk", "the disk is full")
        await desk.chat("One")
        report = await supervisor.stop()
        assert list(report.unsaved) == ["desk"]
        assert "the disk is full" in str(report.unsaved["desk"])


async def test_stopping_twice_gives_the_same_report_and_may_shorten_the_grace(supervising, answers):
    async with supervising() as supervisor:
        desk = await supervisor.start("desk", answers.config())
        await desk.send_message("hang")
        reports = []
        async with anyio.create_task_group() as group:

            async def stop(grace):
                reports.append(await supervisor.stop(grace))

            group.start_soon(stop, 1000)
            await anyio.wait_all_tasks_blocked()
            before = asyncio.get_running_loop().time()
            group.start_soon(stop, 10)
            group.start_soon(stop, 5000)
        assert asyncio.get_running_loop().time() == before + 10
        assert reports[0] is reports[1] is reports[2] is await supervisor.stop()


async def test_whoever_asks_and_is_cancelled_lets_the_stop_go_on(supervising, answers):
    async with supervising() as supervisor:
        desk = await supervisor.start("desk", answers.config())
        request_id = await desk.send_message("wait")
        with anyio.move_on_after(1):
            await supervisor.stop(100)
        with pytest.raises(AgentClosedError):
            await desk.chat("Two")
        answers.gate.set()
        assert (await supervisor.stop(100)).clean
        assert await ended(desk, request_id) == "completed"


async def test_a_request_that_asks_to_stop_what_it_runs_in_is_told_that_it_would_wait_for_itself(supervising, answers):
    raised = []
    async with supervising() as supervisor:

        @alloy.tool
        async def stop() -> str:
            """Stops."""
            for way in (supervisor.stop, lambda: supervisor.stop_agent("desk")):
                try:
                    await way()
                except AgentDeadlockError as error:
                    raised.append(error)
            return "tried"

        agent = await supervisor.start("desk", provider=Scripted([calls("stop"), "ok"]), tools=[stop])
        assert (await agent.chat("Go")).text == "ok"
    assert len(raised) == 2


async def test_an_agent_that_waits_to_be_restarted_still_runs_what_it_accepted(supervising, answers):
    async with supervising(backoff=20) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        ids = [await desk.send_message(word) for word in ("melt", "Two")]
        await ended(desk, ids[0])
        assert (await supervisor.stop(grace=60)).clean
        assert await ended(desk, ids[1]) == "completed"


async def test_an_agent_that_waits_to_be_restarted_without_work_ends_at_once(supervising, answers):
    async with supervising(backoff=20) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        ids = [await desk.send_message(word) for word in ("melt", "Two")]
        await ended(desk, ids[0])
        while desk.health().state != "restarting":
            await anyio.lowlevel.checkpoint()
        assert (await supervisor.stop(grace=0)).cancelled == {"desk": (ids[1],)}
        assert asyncio.get_running_loop().time() == 0


async def test_an_agent_that_is_stopped_before_its_first_step_does_not_begin(supervising, answers, store, bus):
    async with supervising(store=store, idle_timeout=5) as supervisor:
        await supervisor.start("desk", answers.config(), subscribe=["news"])
        await anyio.sleep(10)
        store.let_load = anyio.Event()
        bus.publish("news", message_envelope("Hi", request_id="from-news"))  # wakes it
        with anyio.fail_after(60):
            await supervisor.stop_agent("desk")
        assert bus.responses("agent/desk") == {"from-news": "cancelled"}
        assert supervisor.names() == ()


async def test_stopping_an_agent_that_hangs_while_it_loads_does_not_hang(supervising, answers, store):
    store.let_load = anyio.Event()
    async with supervising(store=store) as supervisor, anyio.create_task_group() as group:

        async def start():
            with pytest.raises(AgentClosedError):
                await supervisor.start("desk", answers.config())

        group.start_soon(start)
        await store.loading.wait()
        assert (await supervisor.stop(1)).clean


# --- by leaving -----------------------------------------------------------------------------------------------------------


async def test_leaving_the_block_stops_with_the_grace_and_says_what_was_left(supervising, answers, caplog):
    async with supervising(grace=7) as supervisor:
        desk = await supervisor.start("desk", answers.config())
        request_id = await desk.send_message("hang")
    assert asyncio.get_running_loop().time() == 7
    assert await ended(desk, request_id) == "cancelled"
    assert request_id in caplog.text
    with pytest.raises(UnknownAgentError):
        await alloy.send_message("desk", "Hi")
    assert await others() == []


async def test_an_exception_of_the_block_cancels_everything_at_once_and_arrives_as_it_is(supervising, answers, store):
    with pytest.raises(ValueError, match="mine"):
        async with supervising(grace=1000, store=store) as supervisor:
            desk = await supervisor.start("desk", answers.config())
            await desk.chat("One")
            ids = [await desk.send_message(word) for word in ("hang", "Two")]
            await answers.hanging.wait()
            raise ValueError("mine")
    assert [await ended(desk, request_id) for request_id in ids] == ["cancelled"] * 2
    assert asyncio.get_running_loop().time() == 0
    assert len((await store.load("desk")).messages) == 2
    assert await others() == []


async def test_a_cancellation_is_never_translated(supervising, answers, store):
    with anyio.CancelScope() as scope:
        async with supervising(grace=1000, store=store) as supervisor:
            desk = await supervisor.start("desk", answers.config())
            request_id = await desk.send_message("hang")
            await answers.hanging.wait()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert await ended(desk, request_id) == "cancelled"
    assert await others() == []


async def test_a_cancellation_while_the_grace_passes_cuts_it_short(supervising, answers):
    with anyio.move_on_after(3) as scope:
        async with supervising(grace=1000) as supervisor:
            desk = await supervisor.start("desk", answers.config())
            request_id = await desk.send_message("hang")
    assert scope.cancelled_caught
    assert asyncio.get_running_loop().time() == 3
    assert await ended(desk, request_id) == "cancelled"


async def test_whoever_waits_for_a_stop_is_let_go_when_the_block_is_left_by_an_exception(supervising, answers):
    reports = []
    async with anyio.create_task_group() as group:
        with pytest.raises(ValueError, match="mine"):
            async with supervising() as supervisor:
                desk = await supervisor.start("desk", answers.config())
                await desk.send_message("hang")

                async def stop():
                    reports.append(await supervisor.stop(1000))

                group.start_soon(stop)
                await anyio.wait_all_tasks_blocked()
                raise ValueError("mine")
    assert list(reports[0].cancelled) == ["desk"]


class Stepping(VirtualLoop):
    """Does something when it has come round so many times."""

    def __init__(self, at):
        super().__init__()
        self.at = at
        self.rounds = 0
        self.act = None

    def waits(self, timeout):
        super().waits(timeout)
        if self.act is not None:
            self.rounds += 1
            if self.rounds == self.at:
                self.act()


async def a_life(bus, store, answers):
    """Work, a crash, sleep, messages from a topic and by name, and the end."""
    async with alloy.Supervisor(store=store, bus=bus, idle_timeout=1, watchdog=None) as supervisor:
        desk = await supervisor.start("desk", answers.config(), subscribe=["news"])
        for word in ("One", "melt", "Two"):
            await desk.send_message(word)
        await anyio.sleep(5)
        bus.publish("news", message_envelope("News", request_id="from-news"))
        await alloy.send_message("desk", "Three")
        await supervisor.stop(1)


async def cut_short(side):
    """A life that is cancelled where the loop says, and what must hold after it; whether it had ended before."""
    answers, store, bus = Answers(), Store(), Watched()
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    over = False
    with anyio.CancelScope() as scope:
        loop.act = task.cancel if side == "task" else scope.cancel
        try:
            await a_life(bus, store, answers)
            over = True
        except asyncio.CancelledError:
            if side == "scope":
                raise
        finally:
            loop.act = None
    while task.cancelling():
        task.uncancel()
    assert [one for one in asyncio.all_tasks() if one is not task] == []
    with pytest.raises(UnknownAgentError):
        await alloy.send_message("desk", "Hi")
    told = {e.correlation_id for e in bus.recorder.envelopes if e.event in ("request_queued", "run_start")}
    responses = [e.correlation_id for e in bus.recorder.envelopes if e.event == "response"]
    assert len(responses) == len(set(responses))
    assert told <= set(responses)
    saved = await store.load("desk")
    alloy.check_history(saved.messages if saved else [])
    return over


@pytest.mark.parametrize("side", ["task", "scope"])
def test_p1_p2_p4_cancelled_at_any_moment_everything_has_ended_once_and_nothing_is_left(side):
    for step in range(1, 1000):
        with asyncio.Runner(loop_factory=lambda step=step: Stepping(step)) as runner:
            if runner.run(cut_short(side)):
                break
    assert 40 < step < 999


# --- by a signal ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_stops_within_the_grace(answers, number):
    with anyio.fail_after(5):
        async with alloy.Supervisor(watchdog=None) as supervisor, anyio.create_task_group() as group:
            desk = await supervisor.start("desk", answers.config())
            request_id = await desk.send_message("wait")
            await answers.hanging.wait()

            async def send():
                os.kill(os.getpid(), number)
                while desk.health().state != "closing":
                    await anyio.lowlevel.checkpoint()
                answers.gate.set()

            group.start_soon(send)
            report = await supervisor.run_until_signal(grace=1000)
            assert report.clean
            assert await ended(desk, request_id) == "completed"


async def test_a_second_signal_cancels_what_is_left(answers):
    with anyio.fail_after(5):
        async with alloy.Supervisor(watchdog=None) as supervisor, anyio.create_task_group() as group:
            desk = await supervisor.start("desk", answers.config())
            request_id = await desk.send_message("hang")
            await answers.hanging.wait()

            async def send():
                os.kill(os.getpid(), signal.SIGTERM)
                while desk.health().state != "closing":
                    await anyio.lowlevel.checkpoint()
                os.kill(os.getpid(), signal.SIGTERM)

            group.start_soon(send)
            report = await supervisor.run_until_signal(grace=1000)
            assert report.cancelled == {"desk": (request_id,)}


async def test_waiting_for_a_signal_ends_when_somebody_stops_the_supervisor(answers):
    with anyio.fail_after(5):
        async with alloy.Supervisor(watchdog=None) as supervisor, anyio.create_task_group() as group:
            group.start_soon(supervisor.stop)
            assert (await supervisor.run_until_signal()).clean
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


PROCESS = """
import asyncio, sys
import alloy
from alloy.testing import Scripted

def fail(request):
    raise {error}

async def main():
    async with alloy.Supervisor() as supervisor:
        agent = await supervisor.start("desk", provider=Scripted([fail, "fine"]))
        try:
            await agent.chat("One")
        except alloy.RunError as error:
            print("failed:", repr(error.cause))
        print((await agent.chat("Two")).text)

asyncio.run(main())
"""


def test_a_keyboard_interrupt_passes_through_and_system_exit_is_a_crash_of_one_agent():
    def run(error):
        code = PROCESS.format(error=error)
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, check=False)

    interrupted = run("KeyboardInterrupt")
    assert interrupted.returncode not in (0, 1)
    assert interrupted.stderr.rstrip().endswith("KeyboardInterrupt")
    assert "fine" not in interrupted.stdout
    exited = run("SystemExit(3)")
    assert (exited.returncode, exited.stdout) == (0, "failed: SystemExit(3)\nfine\n")


async def test_p4_the_watchdogs_thread_ends_with_the_supervisor_on_a_signal_or_not(answers):
    before = set(threading.enumerate())
    async with alloy.Supervisor(store=MemoryStore()) as supervisor:
        await supervisor.start("desk", answers.config())
        assert [thread.name for thread in set(threading.enumerate()) - before] == ["alloy watchdog"]
    assert set(threading.enumerate()) <= before
