"""Agents as tools: runs inside of calls."""

from __future__ import annotations

import json

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.errors import InvalidOptionError, ToolDefinitionError
from alloy.loop.approval import Rule
from alloy.testing import Recorder, Reply, Scripted, calls, check_envelopes, hangs, run_script, sweep, together

pytestmark = pytest.mark.anyio


@alloy.tool
async def look(context: alloy.ToolContext) -> str:
    """Looks."""
    return f"sees {context.context.get('what', 'nothing')}"


def helper(*script, name="helper", **options) -> alloy.Tool:
    """An agent that answers from a script, as a tool."""
    options = {"provider": Scripted(script), "max_retries": 0, **options}
    return alloy.agent_tool(name=name, description="Helps.", **options)


def inner(recorder, depth=1) -> list[dict]:
    """The envelopes of the runs that are so deep inside of the recorded one."""
    found = [
        envelope.payload["envelope"]
        for envelope in recorder.named("tool_progress")
        if envelope.payload["envelope"] is not None
    ]
    for _ in range(depth - 1):
        found = [
            envelope["payload"]["envelope"]
            for envelope in found
            if envelope["event"] == "tool_progress" and envelope["payload"]["envelope"] is not None
        ]
    return found


async def test_a_model_gives_a_task_to_an_agent_and_gets_its_last_words():
    provider = Scripted([calls("look"), "It is gold."])
    tool = helper(provider=provider, tools=[look], system_prompt="You look.")

    result = await run_script([calls("helper", task="What is there?"), "Gold, he says."], tools=[tool])

    (call,) = result.tool_calls
    assert call.content[0].text == "It is gold."
    assert not call.is_error
    assert provider.requests[0].system == "You look."
    assert [message.text for message in provider.requests[0].messages] == ["What is there?"]
    assert [message.text for message in result.messages if message.role == "assistant"] == ["", "Gold, he says."]


async def test_each_call_has_a_history_of_its_own():
    provider = Scripted(["One.", "Two."])
    tool = helper(provider=provider)

    await run_script([calls("helper", task="first"), calls("helper", task="second"), "Done."], tools=[tool])

    assert [[message.text for message in request.messages] for request in provider.requests] == [["first"], ["second"]]


async def test_its_usage_is_counted_with_that_of_the_run_and_told_apart_in_the_data_of_the_call():
    tool = helper(calls("look"), "Done.", tools=[look])

    result = await run_script([calls("helper", task="Look."), "Done."], tools=[tool])

    data = result.tool_calls[0].data
    assert data["usage"]["requests"] == 2
    assert (data["status"], data["turns"], data["tool_calls"]) == ("completed", 2, 1)
    assert result.usage.requests == 4
    assert result.turns == 2
    json.dumps(data)


async def test_the_context_of_the_run_comes_along_below_its_own():
    seen = []

    @alloy.tool
    async def show(context: alloy.ToolContext) -> str:
        """Shows."""
        seen.append(dict(context.context))
        return "shown"

    tool = helper(calls("show"), "Done.", tools=[show], context={"who": "helper"})

    await run_script([calls("helper", task="Show."), "Done."], tools=[tool], context={"who": "user", "what": "gold"})

    assert seen == [{"who": "helper", "what": "gold"}]


# --- Envelopes -------------------------------------------------------------------------------------------------------


async def test_its_envelopes_are_inside_of_those_of_the_run_which_stay_in_order():
    recorder = Recorder()
    tool = helper(calls("look"), "It is gold.", tools=[look])

    await run_script([calls("helper", task="Look."), "Done."], tools=[tool], on_event=recorder)

    check_envelopes(recorder.envelopes)
    seen = inner(recorder)
    check_envelopes([alloy.Envelope(**envelope) for envelope in seen])
    assert [envelope["event"] for envelope in seen if envelope["event"].startswith(("run", "tool_s", "resp"))] == [
        "run_start",
        "tool_start",
        "response",
    ]
    assert "".join(one["payload"]["text"] for one in seen if one["event"] == "text_delta") == "It is gold."
    assert {envelope["agent_id"] for envelope in seen} == {"helper"}
    (call,) = recorder.named("tool_start")
    assert {one.payload["id"] for one in recorder.named("tool_progress")} == {call.payload["id"]}
    for envelope in recorder.envelopes:
        json.loads(envelope.to_json())


async def test_agents_inside_of_agents_are_seen_inside_of_each_other():
    recorder = Recorder()
    innermost = helper("Gold.", name="looker")
    middle = helper(calls("looker", task="Look."), "Gold, he says.", name="asker", tools=[innermost])

    result = await run_script([calls("asker", task="Ask."), "Done."], tools=[middle], on_event=recorder)

    assert {envelope["agent_id"] for envelope in inner(recorder)} == {"asker"}
    assert {envelope["agent_id"] for envelope in inner(recorder, 2)} == {"looker"}
    assert inner(recorder, 2)[-1]["payload"]["text"] == "Gold."
    assert result.usage.requests == 5


async def test_its_own_watcher_gets_its_envelopes_as_well():
    mine, outer = Recorder(), Recorder()
    tool = helper("Done.", on_event=mine)

    await run_script([calls("helper", task="Look."), "Done."], tools=[tool], on_event=outer)

    assert mine.events == [envelope["event"] for envelope in inner(outer)]
    check_envelopes(mine.envelopes)


# --- How it ends -----------------------------------------------------------------------------------------------------


class Stops(alloy.Middleware):
    async def before_completion(self, request, run):
        raise alloy.Halt("over budget")


@pytest.mark.parametrize(
    ("script", "options", "said"),
    [
        ([calls("look"), calls("look")], {"max_turns": 2, "tools": [look]}, "The agent wasn't done after 2 turns"),
        ([], {"middleware": [Stops()]}, "The agent's run halted: Halt: over budget"),
        (
            [alloy.ProviderError("slow down", kind="rate_limited")],
            {},
            "The agent's run failed: ProviderError: slow down [rate_limited]",
        ),
        ([hangs()], {"timeout": 0.01}, "The agent's run failed: DeadlineExceededError: the run took longer than its"),
    ],
)
async def test_what_does_not_complete_is_an_error_that_says_why_and_the_run_goes_on(script, options, said):
    tool = helper(*script, **options)

    with anyio.fail_after(10):
        result = await run_script([calls("helper", task="Look."), "Done."], tools=[tool])

    (call,) = result.tool_calls
    assert call.is_error
    assert call.content[0].text.startswith(said)
    assert result.text == "Done."


async def test_an_agent_that_takes_longer_than_a_tool_may_is_cancelled_and_what_it_took_is_counted():
    tool = helper(calls("look"), hangs(), tools=[look])

    with anyio.fail_after(10):
        result = await run_script([calls("helper", task="Look."), "Done."], tools=[tool], tool_timeout=0.05)

    assert result.tool_calls[0].content[0].text.startswith("Timed out")
    assert result.usage.requests == 3


@pytest.mark.parametrize("arguments", [{}, {"task": ""}, {"task": " "}, {"task": 3}, {"task": ["x"]}])
async def test_a_call_without_a_task_is_an_error_that_the_model_can_mend(arguments):
    result = await run_script([calls("helper", **arguments), "Done."], tools=[helper("never said")])

    assert result.tool_calls[0].content[0].text == "invalid arguments: task: a text that says what to do is required"


async def test_agents_run_beside_each_other():
    both = anyio.Event()
    running = []

    @alloy.tool
    async def meet() -> str:
        """Meets."""
        running.append(1)
        if len(running) == 2:
            both.set()
        await both.wait()
        return "met"

    tool = helper(calls("meet"), calls("meet"), "Done.", "Done.", tools=[meet])

    with anyio.fail_after(5):
        await run_script([together(calls("helper", task="a"), calls("helper", task="b")), "Done."], tools=[tool])


# --- Depth -----------------------------------------------------------------------------------------------------------


async def test_agents_that_call_themselves_come_to_an_end():
    provider = Scripted([calls("helper", task="again")] * 3 + ["Enough.", "Enough.", "Enough."])
    config = alloy.Config(provider=provider, max_retries=0)
    tool = alloy.agent_tool(config, name="helper", description="Helps.", max_depth=3)
    object.__setattr__(config, "tools", (tool,))
    recorder = Recorder()

    await run_script([calls("helper", task="begin"), "Done."], tools=[tool], on_event=recorder)

    deepest = [one for one in inner(recorder, 3) if one["event"] == "tool_end"]
    assert [one["payload"]["text"] for one in deepest] == [
        "agent 'helper' isn't run: agents are nested 3 deep already; do the task yourself"
    ]
    assert inner(recorder, 4) == []
    assert len(provider.requests) == 6


async def test_agents_one_after_the_other_are_not_inside_of_each_other():
    tool = helper(*["Done."] * 5, max_depth=1)

    result = await run_script([*[calls("helper", task="x")] * 5, "Done."], tools=[tool])

    assert [call.is_error for call in result.tool_calls] == [False] * 5


# --- Approvals -------------------------------------------------------------------------------------------------------


async def test_what_it_needs_approval_for_is_asked_of_whoever_watches_the_run():
    taken = []

    @alloy.tool
    async def take(what: str) -> str:
        """Takes."""
        taken.append(what)
        return f"took {what}"

    approval = alloy.Approval([Rule("ask", tool="take", reason="it's gold")])
    tool = helper(calls("take", what="gold"), "Done.", tools=[take], middleware=[approval])
    provider = Scripted([calls("helper", task="Take it."), "Done."])

    async with alloy.stream("Go.", provider=provider, tools=[tool], tool_timeout=0.5) as run:
        with anyio.fail_after(5):
            while not run.approvals():
                await anext(run)
        (request,) = run.approvals()
        assert (request.name, request.arguments, request.reason) == ("take", {"what": "gold"}, "it's gold")
        assert request.id == "call_1/call_1"
        run.approve(request.id, {"what": "silver"})
        result = await run.wait()

    assert taken == ["silver"]
    assert not result.tool_calls[0].is_error


async def test_where_nobody_can_answer_its_call_is_denied():
    provider = Scripted([calls("look"), "No."])
    tool = helper(provider=provider, tools=[look], middleware=[alloy.Approval()])

    with anyio.fail_after(5):
        await run_script([calls("helper", task="Look."), "Done."], tools=[tool])

    assert "nobody is there" in provider.requests[1].messages[-1].tool_results[0].content[0].text


# --- Cancellation ----------------------------------------------------------------------------------------------------


async def test_it_is_cancelled_with_the_run_and_its_usage_is_kept():
    recorder = Recorder()
    tool = helper(calls("look"), hangs("Hm."), tools=[look])
    provider = Scripted([calls("helper", task="Look.")])
    async with alloy.stream("Go.", provider=provider, tools=[tool], on_event=recorder) as run:
        async for envelope in run:
            inside = envelope.payload.get("envelope")
            if inside and inside["event"] == "text_delta":
                run.cancel()

    assert run.result.status == "cancelled"
    assert run.result.usage.requests == 2
    assert inner(recorder)[-1]["payload"]["status"] == "cancelled"
    check_envelopes(recorder.envelopes)
    alloy.check_history(run.result.messages)


def test_p1_p2_p4_a_run_with_agents_inside_can_be_cancelled_at_every_await():
    async def scenario(probe):
        @alloy.tool
        async def think() -> str:
            """Thinks."""
            await anyio.lowlevel.checkpoint()
            return "thought"

        innermost = helper(calls("think"), "Hm.", "Hm.", name="thinker", tools=[think])
        middle = helper(calls("thinker", task="Think."), "Done.", "Done.", tools=[innermost])
        await run_script(
            [together(calls("helper", task="a"), calls("helper", task="b")), "Done."],
            tools=[middle],
            middleware=[probe],
            on_event=probe,
        )

    assert sweep(scenario) > 50


# --- Wrong -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"name": "a b"}, ToolDefinitionError),
        ({"description": ""}, ToolDefinitionError),
        ({"provider": None}, InvalidOptionError),
        ({"max_depth": 0}, InvalidOptionError),
        ({"max_depth": True}, InvalidOptionError),
        ({"sprint": 1}, alloy.ConfigurationError),
        ({"max_turns": 0}, InvalidOptionError),
    ],
)
def test_p9_an_agent_that_can_not_be_a_tool_is_refused_when_it_is_made(options, error):
    given = {"name": "helper", "description": "Helps.", "provider": Scripted(["Hi."]), **options}
    if given["provider"] is None:
        del given["provider"]

    with pytest.raises(error):
        alloy.agent_tool(**given)


async def test_it_can_be_called_outside_of_a_run():
    context = alloy.ToolContext(
        call_id="1", tool_name="helper", correlation_id="", turn=1, working_directory=None, context={}, report=print
    )

    output = await helper(Reply(text="Hello.")).execute({"task": "Say hello."}, context)

    assert output.text == "Hello."
