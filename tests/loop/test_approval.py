"""Approval: calls that are allowed, denied, changed, or wait for a person."""

from __future__ import annotations

import contextlib
import dataclasses
import threading

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.errors import ApprovalSettledError, InvalidOptionError, UnknownApprovalError
from alloy.loop.approval import Approval, Decision, Rule
from alloy.testing import Recorder, Scripted, calls, check_envelopes, hangs, run_script, sweep, together

pytestmark = pytest.mark.anyio

ASKED = ["approval_requested", "approval_settled"]


class Safe:
    """A safe with two tools: `look` is harmless, `take` isn't."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.looked = anyio.Event()

    @property
    def tools(self) -> list[alloy.Tool]:
        @alloy.tool
        async def look() -> str:
            """Looks into the safe."""
            self.looked.set()
            return "gold"

        @alloy.tool
        async def take(what: str) -> str:
            """Takes something out of the safe."""
            self.taken.append(what)
            return f"took {what}"

        return [look, take]


@pytest.fixture
async def safe():
    return Safe()


def stream(safe, *replies, approval, **options):
    options.setdefault("provider", Scripted(replies))
    return alloy.stream("Go.", tools=safe.tools, middleware=[approval], max_retries=0, **options)


async def until_asked(run, number=1):
    """Reads the run until so many calls wait."""
    with anyio.fail_after(5):
        while len(run.approvals()) < number:
            await anext(run)
    return [request.id for request in run.approvals()]


def texts(result) -> list[str]:
    return [call.content[0].text for call in result.tool_calls]


CAREFUL = Approval([Rule("ask", tool="take", reason="it's gold")], otherwise="allow")


# --- Rules decide ----------------------------------------------------------------------------------------------------


async def test_a_call_that_a_rule_allows_is_executed_without_asking(safe):
    recorder = Recorder()

    result = await run_script(
        [calls("take", what="gold"), "Done."],
        tools=safe.tools,
        middleware=[Approval([Rule("allow")])],
        on_event=recorder,
    )

    assert safe.taken == ["gold"]
    assert texts(result) == ["took gold"]
    assert set(recorder.events).isdisjoint(ASKED)


async def test_a_call_that_a_rule_denies_is_not_executed_and_the_model_reads_why(safe):
    result = await run_script(
        [calls("take", what="gold"), "Done."],
        tools=safe.tools,
        middleware=[Approval([Rule("deny", tool="ta*", reason="it isn't yours")], otherwise="allow")],
    )

    assert safe.taken == []
    assert texts(result) == ["Not executed: it isn't yours"]
    assert result.tool_calls[0].is_error


async def test_the_first_rule_that_matches_decides(safe):
    rules = [Rule("allow", tool="take"), Rule("deny", tool="*")]

    result = await run_script(
        [together(calls("take", what="gold"), calls("look")), "Done."],
        tools=safe.tools,
        middleware=[Approval(rules)],
    )

    assert [call.is_error for call in result.tool_calls] == [False, True]


async def test_a_call_that_could_not_be_executed_anyway_is_not_asked_about(safe):
    recorder = Recorder()

    await run_script([calls("steal"), "Done."], tools=safe.tools, middleware=[Approval()], on_event=recorder)

    assert set(recorder.events).isdisjoint(ASKED)


@pytest.mark.parametrize(
    "arguments",
    [
        {"rules": "read"},
        {"rules": [{"action": "ask"}]},
        {"otherwise": "maybe"},
        {"timeout": 0},
        {"timeout": float("inf")},
        {"ask": print},
    ],
)
def test_p9_an_approval_that_makes_no_sense_is_refused_when_it_is_made(arguments):
    with pytest.raises(InvalidOptionError, match=next(iter(arguments))):
        Approval(**arguments)


# --- A person decides ------------------------------------------------------------------------------------------------


async def test_a_call_waits_until_it_is_approved(safe):
    async with stream(safe, calls("take", what="gold"), "Done.", approval=CAREFUL) as run:
        (approval_id,) = await until_asked(run)
        (request,) = run.approvals()
        assert (request.call_id, request.name, request.arguments) == (approval_id, "take", {"what": "gold"})
        assert request.reason == "it's gold"
        assert safe.taken == []
        run.approve(approval_id, by="ada")
        result = await run.wait()

    assert safe.taken == ["gold"]
    assert run.approvals() == ()
    assert texts(result) == ["took gold"]


async def test_a_call_that_a_person_denies_is_not_executed_and_the_model_reads_why(safe):
    recorder = Recorder()
    async with stream(safe, calls("take", what="gold"), "Done.", approval=CAREFUL, on_event=recorder) as run:
        (approval_id,) = await until_asked(run)
        run.deny(approval_id, "not today", by="ada")
        result = await run.wait()

    assert safe.taken == []
    assert texts(result) == ["Not executed: not today"]
    (settled,) = recorder.named("approval_settled")
    assert settled.payload == {"id": approval_id, "decision": "deny", "by": "ada", "reason": "not today"}
    check_envelopes(recorder.envelopes)


async def test_what_was_changed_is_executed_and_the_model_learns_of_it_but_its_own_call_stays(safe):
    async with stream(safe, calls("take", what="gold"), "Done.", approval=CAREFUL) as run:
        run.approve((await until_asked(run))[0], {"what": "silver"})
        result = await run.wait()

    assert safe.taken == ["silver"]
    assert result.messages[1].tool_uses[0].input == {"what": "gold"}
    assert result.tool_calls[0].arguments == {"what": "silver"}
    assert texts(result) == [
        '[The arguments of this call were changed before it was executed; they were {"what":"silver"}]\ntook silver'
    ]


async def test_changed_arguments_are_validated_like_any(safe):
    async with stream(safe, calls("take", what="gold"), "Done.", approval=CAREFUL) as run:
        run.approve((await until_asked(run))[0], {"which": "silver"})
        result = await run.wait()

    assert safe.taken == []
    assert result.tool_calls[0].is_error
    assert "invalid arguments" in texts(result)[0]


async def test_arguments_that_are_no_object_are_refused_and_the_call_waits_on(safe):
    async with stream(safe, calls("take", what="gold"), "Done.", approval=CAREFUL) as run:
        (approval_id,) = await until_asked(run)
        with pytest.raises(InvalidOptionError, match="arguments"):
            run.approve(approval_id, ["silver"])
        assert [request.id for request in run.approvals()] == [approval_id]


async def test_parallel_calls_wait_for_themselves_and_are_answered_in_any_order_while_others_go_on(safe):
    answer = together(calls("take", what="gold"), calls("look"), calls("take", what="silver"))
    async with stream(safe, answer, "Done.", approval=CAREFUL) as run:
        first, second = await until_asked(run, 2)
        with anyio.fail_after(5):
            await safe.looked.wait()
        run.deny(second)
        run.approve(first)
        result = await run.wait()

    assert texts(result) == ["took gold", "gold", "Not executed: somebody has denied it"]


async def test_a_call_that_waits_leaves_its_room_to_those_that_may_run(safe):
    answer = together(calls("take", what="gold"), calls("look"))
    async with stream(safe, answer, "Done.", approval=CAREFUL, max_concurrent_tools=1) as run:
        (approval_id,) = await until_asked(run)
        with anyio.fail_after(5):
            await safe.looked.wait()
        run.approve(approval_id)
        await run.wait()

    assert safe.taken == ["gold"]


class Shelf:
    """A shelf whose tools run one at a time."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.done: list[str] = []

    @property
    def tools(self) -> list[alloy.Tool]:
        @alloy.tool(concurrency_safe=False)
        async def put(path: str) -> str:
            """Puts something on the shelf."""
            self.done.append(path)
            return f"put {path}"

        @alloy.tool(concurrency_safe=False)
        def link(path: str, to: str) -> str:
            """Makes a link."""
            (self.folder / path).symlink_to(to)
            return "linked"

        return [put, link]


@pytest.fixture
async def shelf(tmp_path):
    return Shelf(tmp_path)


async def test_calls_that_run_one_after_the_other_are_asked_about_at_once_and_run_in_their_order(shelf):
    answer = together(*(calls("put", path=path) for path in ("a", "b", "c")))
    async with stream(shelf, answer, "Done.", approval=Approval()) as run:
        first, second, third = await until_asked(run, 3)
        run.approve(third)
        run.deny(second, "not b")
        await anyio.lowlevel.checkpoint()
        assert shelf.done == []
        run.approve(first, {"path": "A"})
        result = await run.wait()

    assert shelf.done == ["A", "c"]
    assert [text.splitlines()[-1] for text in texts(result)] == ["put A", "Not executed: not b", "put c"]


async def test_each_is_asked_about_once_and_settled_once(shelf):
    recorder = Recorder()
    answer = together(*(calls("put", path=path) for path in ("a", "b")))
    async with stream(shelf, answer, "Done.", approval=Approval(), on_event=recorder) as run:
        for approval_id in reversed(await until_asked(run, 2)):
            run.approve(approval_id)
        await run.wait()

    assert [envelope.event for envelope in recorder.envelopes if envelope.event in ASKED] == 2 * [ASKED[0]] + 2 * [
        ASKED[1]
    ]
    check_envelopes(recorder.envelopes)


async def test_rules_look_again_when_the_turn_of_a_call_comes(shelf, tmp_path):
    """The path leads elsewhere by then, and what was approved isn't that."""
    rules = [Rule("allow", tool="link"), Rule("deny", path="secret/**", reason="it's secret")]
    answer = together(calls("link", path="way", to="secret"), calls("put", path="way/b"), calls("put", path="c"))
    async with stream(shelf, answer, "Done.", approval=Approval(rules), working_directory=tmp_path) as run:
        with anyio.fail_after(5):
            async for envelope in run:
                if envelope.event == "approval_settled":
                    break
        (waiting,) = run.approvals()
        run.approve(waiting.id)
        result = await run.wait()

    assert envelope.payload["decision"] == "cancelled"
    assert shelf.done == ["c"]
    assert texts(result) == ["linked", "Not executed: it's secret", "put c"]


async def test_an_approval_is_good_for_the_arguments_that_were_shown_alone(shelf):
    class Renames(alloy.Middleware):
        async def before_tool_call(self, call, run):
            return dataclasses.replace(call, input={"path": call.input["path"].upper()})

    answer = together(calls("put", path="a"), calls("put", path="b"))
    async with alloy.stream(
        "Go.", provider=Scripted([answer, "Done."]), tools=shelf.tools, middleware=[Renames(), Approval()]
    ) as run:
        with anyio.fail_after(5):
            async for envelope in run:
                if envelope.event == "approval_requested" and envelope.payload["arguments"]["path"] in ("a", "b", "A"):
                    with contextlib.suppress(ApprovalSettledError):
                        run.approve(envelope.payload["id"])
                elif envelope.event == "approval_requested":
                    run.deny(envelope.payload["id"])

    assert shelf.done == ["A"]


async def test_what_a_tool_asks_itself_is_not_answered_by_what_was_approved_before(tmp_path):
    """The rule would have asked about the path as it was before."""
    told = []
    (tmp_path / "way").symlink_to("secret")

    @alloy.tool(concurrency_safe=False)
    def open_way() -> None:
        """Has the way lead elsewhere."""
        (tmp_path / "way").unlink()

    @alloy.tool(concurrency_safe=False)
    async def erase(path: str, context: alloy.ToolContext) -> str:
        """Erases."""
        return str(bool(await context.ask("erase it for good?")))

    approval = Approval([Rule("ask", path="secret/**")], otherwise="allow")
    answer = together(calls("open_way"), calls("erase", path="way/a"))
    async with alloy.stream(
        "Go.",
        provider=Scripted([answer, "Done."]),
        tools=[open_way, erase],
        middleware=[approval],
        working_directory=tmp_path,
    ) as run:
        with anyio.fail_after(5):
            async for envelope in run:
                if envelope.event == "approval_requested":
                    told.append(envelope.payload["reason"])
                    (run.approve if len(told) == 1 else run.deny)(envelope.payload["id"])

    assert told == ["erase needs approval", "erase it for good?"]
    assert texts(run.result)[1] == "False"


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_what_was_asked_about_calls_whose_turn_never_comes_is_settled(shelf, end):
    class Breaks(alloy.Middleware):
        async def after_tool_execution(self, call, output, run):
            raise RuntimeError("broken")

    recorder = Recorder()
    answer = together(calls("put", path="a"), calls("put", path="b"), calls("put", path="c"))
    async with alloy.stream(
        "Go.",
        provider=Scripted([answer, hangs()]),
        tools=shelf.tools,
        middleware=[Approval(), *([Breaks()] if end == "failed" else [])],
        on_event=recorder,
    ) as run:
        first, *_ = await until_asked(run, 3)
        if end == "failed":
            run.approve(first)
            with pytest.raises(alloy.RunError, match="broken"):
                await run.wait()
        else:
            run.cancel()
            await run.wait()
        assert run.approvals() == ()

    settled = [envelope.payload["decision"] for envelope in recorder.named("approval_settled")]
    assert settled == ["allow" if end == "failed" else "cancelled", "cancelled", "cancelled"]
    check_envelopes(recorder.envelopes)


async def test_it_can_be_answered_by_whoever_hears_of_it_first(safe):
    answered = []

    async with alloy.stream(
        "Go.",
        provider=Scripted([calls("take", what="gold"), "Done."]),
        tools=safe.tools,
        middleware=[CAREFUL],
        on_event=lambda envelope: envelope.event == "approval_requested" and answered.append(approve(envelope)),
    ) as run:

        def approve(envelope):
            run.approve(envelope.payload["id"])

        await run.wait()

    assert len(answered) == 1
    assert safe.taken == ["gold"]


async def test_a_call_that_nobody_answers_in_time_is_denied(safe):
    recorder = Recorder()
    approval = Approval(timeout=0.01)
    async with stream(safe, calls("take", what="gold"), "Done.", approval=approval, on_event=recorder) as run:
        (approval_id,) = await until_asked(run)
        result = await run.wait()
        with pytest.raises(ApprovalSettledError) as too_late:
            run.approve(approval_id)

    assert safe.taken == []
    assert texts(result) == ["Not executed: nobody has approved it within 0.01 seconds"]
    assert too_late.value.decision == "expired"
    assert recorder.named("approval_settled")[0].payload["decision"] == "expired"


async def test_an_answer_to_what_was_never_asked_is_a_typed_error(safe):
    async with stream(safe, calls("take", what="gold"), "Done.", approval=CAREFUL) as run:
        (approval_id,) = await until_asked(run)
        with pytest.raises(UnknownApprovalError) as unknown:
            run.approve("another")
        run.approve(approval_id)
        with pytest.raises(ApprovalSettledError):
            run.deny(approval_id)
        await run.wait()

    assert unknown.value.approval_id == "another"
    assert safe.taken == ["gold"]


# --- With a function, and with nobody --------------------------------------------------------------------------------


async def test_a_function_answers_where_nobody_else_can(safe):
    seen = []

    async def ask(request):
        await anyio.lowlevel.checkpoint()
        seen.append((request.name, request.arguments, request.reason))
        return Decision.allow({"what": "bronze"}, by="policy")

    await run_script([calls("take", what="gold"), "Done."], tools=safe.tools, middleware=[Approval(ask=ask)])

    assert seen == [("take", {"what": "gold"}, "take needs approval")]
    assert safe.taken == ["bronze"]


async def test_somebody_may_answer_before_the_function_does(safe):
    started = anyio.Event()

    async def ask(request):
        started.set()
        await anyio.sleep_forever()

    async with stream(safe, calls("take", what="gold"), "Done.", approval=Approval(ask=ask)) as run:
        (approval_id,) = await until_asked(run)
        with anyio.fail_after(5):
            await started.wait()
        run.approve(approval_id)
        await run.wait()

    assert safe.taken == ["gold"]


@pytest.mark.parametrize("answer", [True, None, "allow"])
async def test_an_answer_that_is_no_decision_ends_the_run_and_executes_nothing(safe, answer):
    async def ask(request):
        return answer

    with pytest.raises(alloy.RunError) as failed:
        await run_script([calls("take", what="gold"), "Done."], tools=safe.tools, middleware=[Approval(ask=ask)])

    assert isinstance(failed.value.cause, InvalidOptionError)
    assert safe.taken == []
    alloy.check_history(failed.value.result.messages)


async def test_what_the_function_raises_ends_the_run(safe):
    recorder = Recorder()

    async def ask(request):
        raise LookupError("nobody at home")

    with pytest.raises(alloy.RunError) as failed:
        await run_script(
            [calls("take", what="gold"), "Done."],
            tools=safe.tools,
            middleware=[Approval(ask=ask)],
            on_event=recorder,
        )

    assert isinstance(failed.value.cause, LookupError)
    assert recorder.named("approval_settled")[0].payload["decision"] == "cancelled"
    check_envelopes(recorder.envelopes)


async def test_where_nobody_can_answer_the_call_is_denied_at_once_and_says_so(safe):
    recorder = Recorder()

    with anyio.fail_after(5):
        result = await run_script(
            [calls("take", what="gold"), "Done."], tools=safe.tools, middleware=[Approval()], on_event=recorder
        )

    assert safe.taken == []
    assert texts(result) == ["Not executed: it needs approval, and nobody is there who could give it"]
    assert [event for event in recorder.events if event in ASKED] == ASKED


# --- Tools that ask --------------------------------------------------------------------------------------------------


@alloy.tool(timeout=0.05)
async def erase(disk: str, context: alloy.ToolContext) -> str:
    """Erases a disk."""
    context.report("looking at the disk")
    first = await context.ask(f"{disk} has 3 files")
    second = await context.ask("really?")
    return f"{bool(first)}, {bool(second)}: {first.outcome}, {second.outcome} {second.reason}".strip()


async def test_a_tool_can_ask_and_each_time_has_an_id_of_its_own():
    provider = Scripted([calls("erase", disk="sda"), "Done."])
    async with alloy.stream("Go.", provider=provider, tools=[erase]) as run:
        (first,) = await until_asked(run)
        assert run.approvals()[0].reason == "sda has 3 files"
        run.approve(first)
        await anext(run)
        (second,) = await until_asked(run)
        run.deny(second, "no")
        result = await run.wait()

    assert second == f"{first}#2"
    assert texts(result) == ["True, False: allow, deny no"]


async def test_the_time_of_a_tool_stands_still_while_a_person_thinks():
    provider = Scripted([calls("erase", disk="sda"), "Done."])
    async with alloy.stream(
        "Go.", provider=provider, tools=[erase], middleware=[Approval(otherwise="allow", timeout=0.1)]
    ) as run:
        result = await run.wait()

    assert texts(result) == ["False, False: expired, expired nobody has approved it within 0.1 seconds"]


async def test_a_tool_outside_of_a_run_is_denied():
    context = alloy.ToolContext(
        call_id="1",
        tool_name="erase",
        correlation_id="",
        turn=1,
        working_directory=None,
        context={},
        report=print,
    )

    assert not await context.ask("may I?")


# --- Cancellation ----------------------------------------------------------------------------------------------------


async def test_p2_a_cancelled_run_settles_what_waits_and_a_late_answer_is_a_typed_error(safe):
    recorder = Recorder()
    async with stream(safe, calls("take", what="gold"), hangs(), approval=CAREFUL, on_event=recorder) as run:
        (approval_id,) = await until_asked(run)
        run.cancel()
        result = await run.wait()
        assert run.approvals() == ()
        with pytest.raises(ApprovalSettledError, match="cancelled"):
            run.approve(approval_id)

    assert result.status == "cancelled"
    assert texts(result) == ["Not executed: the run ended before this call was begun."]
    alloy.check_history(result.messages)
    check_envelopes(recorder.envelopes)


async def test_the_timeout_of_the_run_goes_before_an_approval(safe):
    with pytest.raises(alloy.RunError) as failed:
        async with stream(safe, calls("take", what="gold"), "Done.", approval=CAREFUL, timeout=0.01) as run:
            await run.wait()

    assert isinstance(failed.value.cause, TimeoutError)
    assert safe.taken == []


def test_p1_p4_a_run_that_waits_can_be_cancelled_at_every_await():
    async def scenario(probe):
        answered = []

        async def ask(request):
            await anyio.lowlevel.checkpoint()
            answered.append(request.id)
            return Decision.allow() if len(answered) == 1 else Decision.deny("no")

        @alloy.tool
        async def take(what: str, context: alloy.ToolContext) -> str:
            """Takes."""
            return str(bool(await context.ask("sure?")))

        await run_script(
            [together(calls("take", what="a"), calls("take", what="b")), "Done."],
            tools=[take],
            middleware=[probe, Approval(ask=ask, timeout=60)],
            on_event=probe,
        )

    assert sweep(scenario) > 30


async def test_p7_paths_are_looked_up_off_the_event_loop_and_only_where_a_rule_asks(safe, monkeypatch):
    names = []
    matches = Rule.matches

    def noted(rule, call, folder):
        names.append(threading.current_thread().name)
        return matches(rule, call, folder)

    monkeypatch.setattr(Rule, "matches", noted)
    approval = Approval([Rule("deny", tool="take", path="/etc/**")], otherwise="allow")

    await run_script([calls("take", what="x"), calls("look"), "Done."], tools=safe.tools, middleware=[approval])

    assert names == ["alloy approval", threading.current_thread().name]
