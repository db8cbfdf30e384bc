"""Approvals of agents: answered by id, and still there when the agent is started again."""

from __future__ import annotations

import json
import subprocess
import sys

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents.suspension import KEY
from alloy.errors import ApprovalSettledError, SessionError, UnknownApprovalError
from alloy.history import UNKNOWN_OUTCOME
from alloy.loop.approval import Decision, Rule
from alloy.loop.toolrun import NOT_EXECUTED
from alloy.sessions import MemoryStore
from alloy.testing import Scripted, calls, hangs, sweep, together
from tests.agents.supervising import Melt

pytestmark = pytest.mark.anyio

CAREFUL = alloy.Approval([Rule("ask", tool="take")], otherwise="allow")


class Safe:
    """A safe with tools that outlive an agent: `look` is harmless, `take` needs approval, `hold` waits."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.held = anyio.Event()
        self.released = anyio.Event()
        self.crashing = False

    @property
    def tools(self) -> list[alloy.Tool]:
        @alloy.tool
        async def look() -> str:
            """Looks."""
            self.done.append("look")
            return "gold"

        @alloy.tool
        async def take(what: str) -> str:
            """Takes."""
            self.done.append(f"take {what}")
            return f"took {what}"

        @alloy.tool
        async def hold() -> str:
            """Holds."""
            self.done.append("hold")
            self.held.set()
            await self.released.wait()
            if self.crashing:
                raise Melt("hot")
            return "held"

        return [look, take, hold]


class Frozen(MemoryStore):
    """Can be copied, as a disk is by a crash; fails when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = False
        self.saves = 0

    async def save(self, session):
        if self.failing:
            raise OSError("no space left")
        self.saves += 1
        return await super().save(session)

    def copy(self) -> Frozen:
        new = Frozen()
        new._sessions = dict(self._sessions)
        return new


@pytest.fixture
async def safe():
    return Safe()


@pytest.fixture
async def store():
    return Frozen()


@pytest.fixture
def desk(make, safe):
    """Makes agents that have the safe."""

    def start(*script, **options):
        options = {"name": "desk", "tools": safe.tools, "middleware": [CAREFUL], "max_pending": 5, **options}
        return make(*script, **options)

    return start


async def asked(agent, number=1):
    """Waits until so many calls wait; gives their ids."""
    with anyio.fail_after(5):
        while len(agent.approvals()) < number:
            await anyio.lowlevel.checkpoint()
    return [request.id for request in agent.approvals()]


def texts(result) -> list[str]:
    return [call.content[0].text for call in result.tool_calls]


async def killed(desk, store, *script, number=1, **options):
    """What is on the disk if the agent's process is killed while calls wait, and their ids."""
    async with desk(*script, store=store, **options) as agent:
        await agent.send_message("Go.", request_id="r1")
        ids = await asked(agent, number)
        await settled(store)
        return store.copy(), ids


async def settled(store):
    """Lets saves that are under way come to their end."""
    before = -1
    while before != store.saves:
        before = store.saves
        for _ in range(50):
            await anyio.lowlevel.checkpoint()


# --- Answering -------------------------------------------------------------------------------------------------------


async def test_whoever_has_the_agent_answers_by_the_id_of_the_envelope(desk, safe, watcher):
    async with desk(calls("take", what="gold"), "Done.", on_event=watcher) as agent:
        assert agent.approvals() == ()
        request_id = await agent.send_message("Go.")
        (approval_id,) = await asked(agent)
        assert watcher.named("approval_requested")[0].payload["id"] == approval_id
        assert agent.approvals()[0].request_id == request_id
        agent.approve(approval_id, {"what": "silver"}, by="ada")
        result = await agent.result(request_id)
        assert agent.approvals() == ()

    assert safe.done == ["take silver"]
    assert result.text == "Done."
    assert watcher.named("approval_settled")[0].payload["by"] == "ada"


async def test_a_call_of_an_agent_is_denied_with_a_reason(desk, safe):
    async with desk(calls("take", what="gold"), "Done.") as agent:
        request_id = await agent.send_message("Go.")
        agent.deny((await asked(agent))[0], "not today")
        assert texts(await agent.result(request_id)) == ["Not executed: not today"]

    assert safe.done == []


async def test_an_answer_after_the_end_of_the_request_is_a_typed_error(desk):
    async with desk(calls("take", what="gold"), "Done.", "Hello.") as agent:
        request_id = await agent.send_message("Go.")
        (approval_id,) = await asked(agent)
        agent.deny(approval_id)
        await agent.result(request_id)
        with pytest.raises(ApprovalSettledError, match="deny"):
            agent.approve(approval_id)
        await agent.chat("Hello!")
        with pytest.raises(ApprovalSettledError):
            agent.deny(approval_id)
        with pytest.raises(UnknownApprovalError):
            agent.approve("another")


async def test_who_watches_one_request_answers_that_one_alone(desk, safe):
    async with (
        desk(calls("take", what="gold"), "Done.", "Hello.") as agent,
        agent.stream_chat("Go.") as first,
        agent.stream_chat("Hello!") as second,
    ):
        (approval_id,) = await asked(agent)
        assert [request.id for request in first.approvals()] == [approval_id]
        assert second.approvals() == ()
        with pytest.raises(UnknownApprovalError):
            second.approve(approval_id)
        first.approve(approval_id)
        await first.wait()
        await second.wait()

    assert safe.done == ["take gold"]


# --- Started again ---------------------------------------------------------------------------------------------------


async def test_a_request_that_waits_is_there_again_under_its_id_and_goes_on_to_its_one_response(
    desk, safe, store, watcher
):
    disk, before = await killed(desk, store, calls("take", what="gold"), "never said")

    async with desk("Done.", store=disk, on_event=watcher) as agent:
        ids = await asked(agent)
        agent.approve(ids[0])
        result = await agent.result("r1")
        assert agent.messages == result.messages

    assert ids == before
    assert [envelope.payload["id"] for envelope in watcher.named("approval_requested")] == before
    assert watcher.responses == [("r1", "completed")]
    assert safe.done == ["take gold"]
    assert texts(result) == ["took gold"]
    assert [message.role for message in result.messages] == ["user", "assistant", "user", "assistant"]
    assert (result.turns, result.usage.requests) == (2, 2)
    assert KEY not in (await disk.load("desk")).metadata


async def test_a_result_that_was_given_beside_a_call_that_waits_is_the_result_after_it(desk, safe, store):
    reply = together(calls("final_result", result=[1, 2]), calls("take", what="gold"))
    typed = {"output_type": list[int]}
    before = Scripted([reply], structured_output="tool")
    disk, _ = await killed(desk, store, provider=before, **typed)

    async with desk(store=disk, provider=Scripted([], structured_output="tool"), **typed) as agent:
        agent.approve((await asked(agent))[0])
        result = await agent.result("r1")

    assert (result.status, result.output) == ("completed", [1, 2])
    assert safe.done == ["take gold"]
    assert [call.is_error for call in result.tool_calls] == [False, False]


async def test_it_goes_before_all_other_requests(desk, store, watcher):
    disk, _ = await killed(desk, store, calls("take", what="gold"), hangs())

    async with desk("Done.", "Hello.", store=disk, on_event=watcher) as agent:
        await agent.send_message("Hello!", request_id="r2")
        agent.deny((await asked(agent))[0])
        await agent.result("r2")

    assert watcher.responses == [("r1", "completed"), ("r2", "completed")]


async def test_its_message_is_known_by_its_id_so_that_a_repeated_one_is_not_run_twice(desk, store, safe):
    disk, _ = await killed(desk, store, calls("take", what="gold"), hangs())

    async with desk("Done.", store=disk) as agent, anyio.create_task_group() as group:
        (approval_id,) = await asked(agent)
        assert await agent.send_message("Go.", request_id="r1") == "r1"
        with pytest.raises(alloy.AgentError):
            await agent.send_message("Something else.", request_id="r1")
        group.start_soon(agent.result, "r1")
        agent.approve(approval_id)

    assert safe.done == ["take gold"]


async def test_the_history_before_it_and_the_turns_before_it_are_kept(desk, store):
    script = "Hello.", calls("look"), calls("take", what="gold")
    async with desk(*script, store=store) as agent:
        await agent.chat("Hello!")
        await agent.send_message("Go.", request_id="r1")
        await asked(agent)
        disk = store.copy()
        usage = agent.usage

    session = await disk.load("desk")
    assert len(session.messages) == 5
    assert session.usage == usage
    async with desk("Done.", store=disk) as agent:
        assert agent.usage == usage
        agent.approve((await asked(agent))[0])
        result = await agent.result("r1")
        assert agent.usage.requests == 4

    assert texts(result) == ["gold", "took gold"]
    assert (result.turns, result.usage.requests) == (3, 3)
    alloy.check_history(result.messages)


async def test_what_has_a_result_keeps_it_and_what_was_begun_is_not_executed_again(desk, safe, store, watcher):
    answer = together(calls("look"), calls("hold"), calls("take", what="gold"), calls("take", what="silver"))
    disk, before = await killed(desk, store, answer, number=2)
    assert sorted(safe.done) == ["hold", "look"]

    safe.released.set()
    async with desk("Done.", store=disk, on_event=watcher) as agent:
        ids = await asked(agent, 2)
        agent.approve(ids[1])
        agent.deny(ids[0], "no")
        result = await agent.result("r1")

    assert ids == before
    assert sorted(safe.done) == ["hold", "look", "take silver"]
    assert texts(result) == ["gold", UNKNOWN_OUTCOME, "Not executed: no", "took silver"]
    alloy.check_history(result.messages)


async def test_what_ends_while_others_wait_is_saved_with_its_result(desk, safe, store):
    answer = together(calls("take", what="gold"), calls("take", what="silver"))
    async with desk(answer, store=store) as agent:
        await agent.send_message("Go.", request_id="r1")
        first, second = await asked(agent, 2)
        agent.approve(first)
        await settled(store)
        disk = store.copy()

    async with desk("Done.", store=disk) as agent:
        assert await asked(agent) == [second]
        agent.deny(second)
        result = await agent.result("r1")

    assert texts(result)[0] == "took gold"
    assert safe.done == ["take gold"]


async def test_a_call_that_was_approved_is_saved_before_it_begins(desk, safe, store):
    on_disk = []

    @alloy.tool
    async def take(what: str) -> str:
        """Takes."""
        on_disk.append((await store.load("desk")).metadata[KEY]["begun"])
        return "took it"

    async with desk(calls("take", what="gold"), "Done.", store=store, tools=[take]) as agent:
        await agent.send_message("Go.", request_id="r1")
        agent.approve((await asked(agent))[0])
        await agent.result("r1")

    assert on_disk == [[True]]


async def test_a_step_that_is_over_is_no_longer_to_be_gone_on_with(desk, safe, store):
    async with desk(calls("take", what="gold"), hangs(), store=store) as agent:
        await agent.send_message("Go.", request_id="r1")
        agent.approve((await asked(agent))[0])
        with anyio.fail_after(5):
            while len(agent.messages) < 3:
                await anyio.lowlevel.checkpoint()
        await settled(store)
        disk = store.copy()

    session = await disk.load("desk")
    assert KEY not in session.metadata
    assert session.messages[-1].tool_results[0].content[0].text == "took gold"


async def test_calls_that_run_one_after_the_other_all_wait_again_after_a_crash(desk, store):
    done = []

    @alloy.tool(name="take", concurrency_safe=False)
    async def take(what: str) -> str:
        """Takes."""
        done.append(what)
        return f"took {what}"

    answer = together(calls("take", what="gold"), calls("take", what="silver"))
    disk, ids = await killed(desk, store, answer, tools=[take], number=2)
    assert done == []

    async with desk("Done.", store=disk, tools=[take]) as agent:
        assert await asked(agent, 2) == ids
        agent.approve(ids[1])
        agent.deny(ids[0])
        assert texts(await agent.result("r1")) == ["Not executed: somebody has denied it", "took silver"]
    assert done == ["silver"]


async def test_rules_that_have_changed_meanwhile_count(desk, safe, store):
    disk, _ = await killed(desk, store, calls("take", what="gold"))
    seen = []

    @alloy.tool
    async def take(what: str) -> str:
        """Takes."""
        seen.append((await disk.load("desk")).metadata[KEY]["begun"])
        return "took it"

    async with desk("Done.", store=disk, tools=[take], middleware=[alloy.Approval(otherwise="allow")]) as agent:
        with anyio.fail_after(5):
            result = await agent.result("r1")

    assert texts(result) == ["took it"]
    assert seen == [[True]]  # so that it isn't executed again, should the process be killed now


async def test_a_tool_that_asked_is_not_executed_again_but_has_an_unknown_outcome(desk, store):
    @alloy.tool
    async def erase(context: alloy.ToolContext) -> str:
        """Erases."""
        return str(bool(await context.ask("sure?")))

    disk, _ = await killed(desk, store, calls("erase"), tools=[erase])
    async with desk("Done.", store=disk, tools=[erase]) as agent:
        with anyio.fail_after(5):
            result = await agent.result("r1")

    assert texts(result) == [UNKNOWN_OUTCOME]


async def test_a_stop_ends_the_request_for_those_who_wait_and_it_is_there_again_after_the_next_start(
    desk, safe, store, watcher
):
    async with desk(calls("take", what="gold"), store=store, on_event=watcher) as agent:
        await agent.send_message("Go.", request_id="r1")
        ids = await asked(agent)
        assert await agent.stop() == ("r1",)
        with pytest.raises(alloy.RequestCancelledError) as cancelled:
            await agent.result("r1")

    assert watcher.responses == [("r1", "cancelled")]
    alloy.check_history(cancelled.value.result.messages)
    assert (await store.load("desk")).messages == ()

    async with desk("Done.", store=store) as agent:
        assert await asked(agent) == ids
        agent.approve(ids[0])
        result = await agent.result("r1")

    assert texts(result) == ["took gold"]
    assert result.usage.requests == 2


async def test_who_drains_an_agent_can_still_answer(desk, safe):
    async with desk(calls("take", what="gold"), "Done.") as agent, anyio.create_task_group() as group:
        request_id = await agent.send_message("Go.")
        (approval_id,) = await asked(agent)
        with anyio.fail_after(5):
            group.start_soon(agent.drain)
            await anyio.wait_all_tasks_blocked()
            agent.approve(approval_id)
            assert (await agent.result(request_id)).status == "completed"
    assert safe.done == ["take gold"]


@pytest.mark.parametrize("who", ["agent", "supervisor"])
async def test_a_stop_waits_for_answers_no_longer_than_its_grace(safe, who):
    options = {
        "provider": Scripted([calls("take", what="gold"), "Done."]),
        "tools": safe.tools,
        "middleware": [CAREFUL],
    }
    with anyio.fail_after(5):
        async with alloy.Supervisor() as supervisor:
            agent = await supervisor.start("desk", **options)
            request_id = await agent.send_message("Go.")
            await asked(agent)
            if who == "agent":
                cancelled = await agent.stop(grace=0.01)
            else:
                cancelled = (await supervisor.stop(grace=0.01)).cancelled["desk"]
    assert cancelled == (request_id,)
    assert safe.done == []


async def test_stopping_again_and_again_loses_nothing(desk, safe, store):
    disk, ids = await killed(desk, store, calls("take", what="gold"))

    for _ in range(3):
        async with desk(store=disk) as agent:
            await anyio.lowlevel.checkpoint()
    async with desk("Done.", store=disk) as agent:
        assert await asked(agent) == ids
        agent.approve(ids[0])
        result = await agent.result("r1")

    assert result.usage.requests == 2
    assert safe.done == ["take gold"]


async def test_an_explicit_cancellation_is_for_good(desk, safe, store):
    async with desk(calls("take", what="gold"), store=store) as agent:
        await agent.send_message("Go.", request_id="r1")
        await asked(agent)
        await agent.cancel_request("r1")
        with pytest.raises(alloy.RequestCancelledError):
            await agent.result("r1")

    session = await store.load("desk")
    assert KEY not in session.metadata
    assert session.messages[-1].tool_results[0].is_error
    async with desk("Hello.", store=store) as agent:
        assert (await agent.chat("Hello!")).text == "Hello."
        assert safe.done == []


async def test_so_is_the_cancellation_of_whoever_awaits_it(desk, store):
    async with desk(calls("take", what="gold"), store=store) as agent, anyio.create_task_group() as group:
        group.start_soon(agent.chat, "Go.")
        await asked(agent)
        group.cancel_scope.cancel()

    assert KEY not in (await store.load("desk")).metadata


async def test_so_is_the_timeout_of_the_run(desk, store):
    async with desk(calls("take", what="gold"), store=store, timeout=0.05) as agent:
        with pytest.raises(alloy.RunError):
            await agent.chat("Go.")

    assert KEY not in (await store.load("desk")).metadata


async def test_a_cancellation_after_the_next_start_is_for_good_as_well(desk, safe, store):
    disk, _ = await killed(desk, store, calls("take", what="gold"))

    async with desk(store=disk) as agent:
        await asked(agent)
        await agent.cancel_request("r1")

    assert KEY not in (await disk.load("desk")).metadata
    assert len((await disk.load("desk")).messages) == 3


class Slow(Scripted):
    """A provider that takes its time to be entered."""

    def __init__(self) -> None:
        super().__init__([])
        self.entering = anyio.Event()

    async def __aenter__(self):
        self.entering.set()
        await anyio.sleep_forever()

    async def __aexit__(self, *_):
        pass


async def test_p1_a_request_that_is_cancelled_before_it_is_gone_on_with_keeps_what_was_done_of_it(safe, store, desk):
    disk, _ = await killed(desk, store, together(calls("look"), calls("take", what="gold")))
    provider = Slow()

    async with alloy.Agent(
        provider=provider, name="desk", tools=safe.tools, middleware=[CAREFUL], store=disk, max_retries=0
    ) as agent:
        with anyio.fail_after(5):
            await provider.entering.wait()
        await agent.cancel_request("r1")
        with pytest.raises(alloy.RequestCancelledError):
            await agent.result("r1")
        messages, usage = agent.messages, agent.usage

    alloy.check_history(messages)
    assert [message.role for message in messages] == ["user", "assistant", "user"]
    assert [result.text for result in messages[2].tool_results] == ["gold", NOT_EXECUTED]
    assert usage.requests == 1
    saved = await disk.load("desk")
    assert saved.messages == messages
    assert KEY not in saved.metadata


async def test_an_agent_that_crashes_while_it_waits_asks_again_when_its_supervisor_has_started_it(
    safe, store, supervising
):
    script = [together(calls("hold"), calls("take", what="gold")), "Done.", "Hello."]
    safe.crashing = True
    async with supervising(store=store, backoff=0) as supervisor:
        agent = await supervisor.start(
            "desk", provider=Scripted(script), tools=safe.tools, middleware=[CAREFUL], max_retries=0, max_pending=1
        )
        await agent.send_message("Go.", request_id="r1")
        await agent.send_message("Hello!", request_id="r2")
        ids = await asked(agent)
        safe.released.set()
        with pytest.raises(alloy.AlloyError):
            await agent.result("r1")
        agent = await supervisor.awake("desk")
        assert await asked(agent) == ids
        assert [request.id for request in agent._owner.registry] == ["r1", "r2"]
        agent.approve(ids[0])
        result = await agent.result("r1")
        assert (await agent.result("r2")).text == "Hello."
        assert agent.usage.requests == 3

    assert texts(result) == [UNKNOWN_OUTCOME, "took gold"]
    assert safe.done == ["hold", "take gold"]
    assert result.usage.requests == 2
    alloy.check_history(result.messages)


# --- When it can't be saved ------------------------------------------------------------------------------------------


async def test_a_call_that_could_be_executed_twice_is_not_executed(desk, safe, store, watcher):
    async with desk(calls("take", what="gold"), "Done.", store=store, on_event=watcher) as agent:
        await agent.send_message("Go.", request_id="r1")
        (approval_id,) = await asked(agent)
        store.failing = True
        agent.approve(approval_id)
        result = await agent.result("r1")
        store.failing = False

    assert safe.done == []
    assert texts(result)[0].startswith("Not executed: the session can't be saved")
    assert "session_not_saved" in watcher.kinds


async def test_a_call_that_can_not_be_written_is_denied_execution_but_breaks_nothing(desk, store, watcher):
    what: list = []
    for _ in range(200):
        what = [what]
    async with desk(
        calls("look", what=what), "Done.", store=store, on_event=watcher, middleware=[alloy.Approval()]
    ) as agent:
        await agent.send_message("Go.", request_id="r1")
        agent.approve((await asked(agent))[0])
        result = await agent.result("r1")

    assert texts(result)[0].startswith("Not executed: the session can't be saved")
    assert "session_not_saved" in watcher.kinds


async def test_a_step_that_waits_is_saved_with_the_answer_that_it_is_about(desk, store):
    disk, _ = await killed(desk, store, calls("take", what="gold"))

    step = (await disk.load("desk")).metadata[KEY]
    assert (step["stop_reason"], step["turn"], step["turns"]) == ("tool_use", 1, 1)


async def test_a_step_that_can_not_be_read_is_said_when_the_agent_starts(desk, store):
    disk, _ = await killed(desk, store, calls("take", what="gold"))
    session = await disk.load("desk")
    session.metadata[KEY]["turn"] = "first"

    with pytest.raises(SessionError, match="suspended step can't be read: int parsing at turn"):
        async with desk(store=disk):
            pass


def test_p1_p2_p4_an_agent_that_waits_can_be_cancelled_at_every_await():
    async def scenario(probe):
        async def ask(request):
            await anyio.lowlevel.checkpoint()
            return Decision.allow()

        @alloy.tool
        async def take(what: str) -> str:
            """Takes."""
            await anyio.lowlevel.checkpoint()
            return what

        agent = alloy.Agent(
            provider=Scripted([together(calls("take", what="a"), calls("take", what="b")), "Done."]),
            name="desk",
            store=MemoryStore(),
            tools=[take],
            middleware=[probe, alloy.Approval(ask=ask)],
            on_event=probe,
            max_retries=0,
        )
        async with agent:
            await agent.chat("Go.")

    assert sweep(scenario) > 30


# --- A real process, killed ------------------------------------------------------------------------------------------

PROGRAM = """
import sys, anyio, alloy
from alloy.loop.approval import Rule
from alloy.providers import Scripted
from alloy.sessions import FileStore
from alloy.testing import calls, together

folder, mode = sys.argv[1:]

def log(text):
    with open(f"{folder}/log", "a") as file:
        file.write(text + "\\n")

@alloy.tool
async def take(what: str) -> str:
    "Takes."
    log(f"take {what}")
    if what == "copper":
        print("begun", flush=True)
        await anyio.sleep_forever()
    return f"took {what}"

async def main():
    answer = together(*(calls("take", what=what) for what in ("gold", "copper", "silver")))
    script = [answer] if mode == "first" else ["Done."]
    rules = [Rule("ask", tool="take", reason="careful")]
    agent = alloy.Agent(provider=Scripted(script), name="desk", store=FileStore(f"{folder}/sessions"), tools=[take],
                        middleware=[alloy.Approval(rules)])
    async with agent, agent.subscribe(after=0) as envelopes:
        if mode == "first":
            await agent.send_message("Go.", request_id="r1")
        async for envelope in envelopes:
            if envelope.event == "approval_requested":
                print("asked", envelope.payload["id"], flush=True)
                if mode == "first" and envelope.payload["arguments"]["what"] == "copper":
                    agent.approve(envelope.payload["id"])
                elif mode == "second":
                    agent.approve(envelope.payload["id"])
            elif envelope.event == "response":
                break
        result = await agent.result("r1")
        for call in result.tool_calls:
            print("result", call.content[0].text, flush=True)
        print(result.text, len(agent.messages), flush=True)

anyio.run(main)
"""


def test_a_process_that_is_killed_while_calls_wait_asks_again_and_executes_nothing_twice(tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path)]
    with subprocess.Popen([*command, "first"], stdout=subprocess.PIPE, text=True) as process:
        seen = [process.stdout.readline() for _ in range(4)]
        process.kill()
    asked_before = {line.split()[1] for line in seen if line.startswith("asked")}
    assert "begun\n" in seen
    assert len(asked_before) == 3

    done = subprocess.run([*command, "second"], capture_output=True, text=True, check=True, timeout=30)

    lines = done.stdout.splitlines()
    asked_again = {line.split()[1] for line in lines if line.startswith("asked")}
    assert len(asked_again) == 2
    assert asked_again < asked_before
    assert [line for line in lines if line.startswith("result")] == [
        "result took gold",
        f"result {UNKNOWN_OUTCOME}",
        "result took silver",
    ]
    assert lines[-1] == "Done. 4"
    assert sorted((tmp_path / "log").read_text().split("\n")) == ["", "take copper", "take gold", "take silver"]
    assert json.loads((tmp_path / "sessions" / "desk.json").read_bytes())["metadata"] == {}
