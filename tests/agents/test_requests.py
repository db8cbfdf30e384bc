"""Requests: how they get in, in which order they run, what they are known by, and how each ends once."""

from __future__ import annotations

from itertools import pairwise

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents.bus import LocalBus
from alloy.errors import (
    AgentBusyError,
    AgentClosedError,
    EmptyPromptError,
    HistoryError,
    InvalidOptionError,
    QueueFullError,
    RequestConflictError,
    UnknownRequestError,
)
from alloy.messages import Message, TextBlock, ToolResultBlock
from alloy.testing import Scripted, calls, check_envelopes, hangs

pytestmark = pytest.mark.anyio


def said(agent) -> list[str]:
    return [message.text for message in agent.messages if message.role == "user" and message.text]


# --- the three ways in ------------------------------------------------------------------------------------------------


async def test_chat_waits_for_the_whole_answer_and_goes_on_with_the_same_history(make):
    async with make("Hello, Ada.", "Your name is Ada.") as agent:
        first = await agent.chat("I'm Ada.")
        second = await agent.chat("Who am I?")

        assert (first.text, second.text) == ("Hello, Ada.", "Your name is Ada.")
        assert (first.status, second.status) == ("completed", "completed")
        assert second.messages == agent.messages
        assert [message.text for message in agent.messages] == [
            "I'm Ada.",
            "Hello, Ada.",
            "Who am I?",
            "Your name is Ada.",
        ]
        assert agent.usage == first.usage + second.usage
        assert agent.usage.total_tokens == 30


async def test_send_message_returns_at_once_and_its_result_can_be_asked_for_before_and_after(make, gate):
    async with make(calls("gate"), "Done.", tools=[gate.tool]) as agent:
        request_id = await agent.send_message("Go.")
        assert agent.messages == ()
        await gate.reached.wait()
        assert agent.health().running == request_id
        gate.opened.set()

        assert (await agent.result(request_id)).text == "Done."
        assert (await agent.result(request_id)).text == "Done."
        assert (await agent.result(request_id)).request_id == request_id


async def test_stream_chat_gives_every_envelope_of_its_request_and_then_the_result(make):
    async with make("one two", "three") as agent:
        async with agent.stream_chat("Go.") as run:
            seen = [envelope async for envelope in run]
        check_envelopes(seen)
        assert [envelope.event for envelope in seen][-1] == "response"
        assert {envelope.agent_id for envelope in seen} == {agent.name}
        assert run.result.text == "one two"
        async with agent.stream_chat("And?") as run:
            assert [text async for text in run.text_deltas()] == ["three"]
        assert agent.health().state == "idle"


async def test_all_ways_in_go_through_one_inbox_in_order(make, gate, until):
    provider = Scripted([calls("gate"), "a", "b", "c", "d"])
    texts = {}

    async with make(provider=provider, tools=[gate.tool], max_pending=8) as agent, anyio.create_task_group() as group:

        async def chat(prompt):
            texts[prompt] = (await agent.chat(prompt)).text

        async def stream(prompt):
            async with agent.stream_chat(prompt) as run:
                texts[prompt] = (await run.wait()).text

        group.start_soon(chat, "first")
        await gate.reached.wait()
        group.start_soon(stream, "second")
        await until(lambda: agent.health().pending == 1)
        third = await agent.send_message("third")
        group.start_soon(chat, "fourth")
        await until(lambda: agent.health().pending == 3)
        gate.opened.set()
        await agent.result(third)
        await until(lambda: len(texts) == 3)

        assert said(agent) == ["first", "second", "third", "fourth"]
        assert texts == {"first": "a", "second": "b", "fourth": "d"}


@pytest.mark.parametrize("way", ["chat", "send_message", "stream_chat"])
@pytest.mark.parametrize(
    ("prompt", "error"),
    [
        ("  ", EmptyPromptError),
        (7, InvalidOptionError),
        (Message("user", (ToolResultBlock("nobody", (TextBlock("x"),)),)), HistoryError),
    ],
)
async def test_what_is_no_prompt_is_refused_at_once_and_leaves_nothing(make, way, prompt, error):
    async with make("Fine.") as agent:
        with pytest.raises(error):
            if way == "stream_chat":
                async with agent.stream_chat(prompt):
                    pass
            else:
                await getattr(agent, way)(prompt)
        assert agent.health().state == "idle"
        assert (await agent.chat("Hi.")).text == "Fine."


# --- how many -----------------------------------------------------------------------------------------------------------


async def test_without_a_queue_a_busy_agent_says_so(make, gate):
    async with make(calls("gate"), "Done.", "Again.", tools=[gate.tool]) as agent:
        request_id = await agent.send_message("Go.")
        with pytest.raises(AgentBusyError):
            await agent.send_message("And?")  # also where it hasn't begun yet
        await gate.reached.wait()
        for refused in (agent.chat, agent.send_message):
            with pytest.raises(AgentBusyError, match="max_pending"):
                await refused("And?")
        with pytest.raises(AgentBusyError):
            async with agent.stream_chat("And?"):
                pass
        gate.opened.set()
        await agent.result(request_id)
        assert (await agent.chat("And?")).text == "Again."


async def test_a_full_queue_refuses_what_is_too_much_and_keeps_the_rest(make, gate, watcher):
    script = [calls("gate"), "a", "b", "c"]
    async with make(*script, tools=[gate.tool], max_pending=2, on_event=watcher) as agent:
        first = await agent.send_message("1")
        await gate.reached.wait()
        waiting = [await agent.send_message(prompt) for prompt in "23"]
        with pytest.raises(QueueFullError) as caught:
            await agent.send_message("4")
        assert caught.value.max_pending == 2
        assert agent.health().pending == 2
        assert [envelope.payload["position"] for envelope in watcher.named("request_queued")] == [1, 2]
        gate.opened.set()
        assert [(await agent.result(one)).text for one in (first, *waiting)] == ["a", "b", "c"]
        assert [one for one, _ in watcher.responses] == [first, *waiting]


async def test_a_request_can_be_made_as_soon_as_the_response_before_it_is_told(make):
    accepted = []

    async with make("one", "two") as agent, anyio.create_task_group() as group:

        async def follow():
            async with agent.subscribe(events=["response"]) as responses:
                async for _ in responses:
                    accepted.append(await agent.send_message("two"))
                    return

        group.start_soon(follow)
        await anyio.lowlevel.checkpoint()
        await agent.chat("one")
        with anyio.fail_after(5):
            while not accepted:
                await anyio.lowlevel.checkpoint()
        assert (await agent.result(accepted[0])).text == "two"


# --- ids ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["queued", "running", "settled"])
async def test_a_message_sent_twice_under_one_id_runs_once(make, gate, when):
    provider = Scripted([calls("gate"), "first", "second", "too much"])
    async with make(provider=provider, tools=[gate.tool], max_pending=2) as agent:
        await agent.send_message("1", request_id="one")
        await gate.reached.wait()
        await agent.send_message("2", request_id="two")
        prompt, request_id, text = {"queued": ("2", "two", "second")}.get(when, ("1", "one", "first"))
        if when == "settled":
            gate.opened.set()
            await agent.result("two")
        assert await agent.send_message(prompt, request_id=request_id) == request_id
        with pytest.raises(RequestConflictError) as caught:
            await agent.send_message("Something else", request_id=request_id)
        assert caught.value.request_id == request_id
        gate.opened.set()

        assert (await agent.chat(prompt, request_id=request_id)).text == text
        async with agent.stream_chat(prompt, request_id=request_id) as run:
            assert (await run.wait()).text == text
        await agent.result("two")
        assert said(agent) == ["1", "2"]
        assert len(provider.requests) == 3


async def test_a_known_id_is_answered_also_by_an_agent_that_is_full_or_closed(make, gate):
    agent = make(calls("gate"), "Done.", tools=[gate.tool])
    async with agent:
        await agent.send_message("Go.", request_id="one")
        await gate.reached.wait()
        assert await agent.send_message("Go.", request_id="one") == "one"
        gate.opened.set()
        await agent.drain()
        assert await agent.send_message("Go.", request_id="one") == "one"
    assert (await agent.chat("Go.", request_id="one")).text == "Done."
    assert (await agent.result("one")).text == "Done."


async def test_as_many_ended_requests_are_remembered_as_was_asked_for(make):
    async with make("a", "b", "c", "d", remember=2) as agent:
        for name in "abc":
            await agent.chat(name, request_id=name)
        for unknown in (agent.result, agent.cancel_request):
            with pytest.raises(UnknownRequestError) as caught:
                await unknown("a")
        assert caught.value.request_id == "a"
        with pytest.raises(UnknownRequestError):
            agent.subscribe(request_id="a")
        assert (await agent.result("b")).text == "b"
        assert (await agent.result("c")).text == "c"
        assert (await agent.chat("a", request_id="a")).text == "d"  # forgotten, so it is a new one


@pytest.mark.parametrize("remember", [0, -1, True, 1.5, "many"])
async def test_how_many_are_remembered_is_a_whole_number(make, remember):
    with pytest.raises(InvalidOptionError, match="remember"):
        make("x", remember=remember)


@pytest.mark.parametrize("request_id", ["", " ", "x" * 129, "a\nb", 7])
async def test_an_id_that_cant_be_printed_sent_and_stored_is_refused(make, request_id):
    async with make("x") as agent:
        with pytest.raises(InvalidOptionError, match="request_id"):
            await agent.chat("Hi.", request_id=request_id)
        assert agent.health().state == "idle"


# --- outcomes ---------------------------------------------------------------------------------------------------------------


async def test_what_failed_or_was_halted_is_raised_with_its_result_to_everybody_who_asks(make):
    class Stop(alloy.Middleware):
        async def before_completion(self, request, run):
            raise alloy.Halt("enough")

    async with make(ValueError("bug")) as agent:
        with pytest.raises(alloy.RunError) as caught:
            await agent.chat("Hi.", request_id="one")
        assert caught.value.result.status == "failed"
        assert isinstance(caught.value.cause, ValueError)
        with pytest.raises(alloy.RunError):
            await agent.result("one")
        assert agent.health().state == "idle"  # a failed request is the request's business

    async with make("x", middleware=[Stop()]) as agent:
        with pytest.raises(alloy.RunError) as caught:
            await agent.chat("Hi.")
        assert caught.value.result.status == "halted"


async def test_a_request_that_takes_all_its_turns_is_a_result(make, gate):
    gate.opened.set()
    async with make(calls("gate"), calls("gate"), tools=[gate.tool], max_turns=2) as agent:
        assert (await agent.chat("Go.")).status == "max_turns"


async def test_many_can_wait_for_one_result_and_each_gets_it(make, gate):
    results = []

    async with make(calls("gate"), "Done.", tools=[gate.tool]) as agent:
        request_id = await agent.send_message("Go.")

        async def wait():
            results.append(await agent.result(request_id))

        async with anyio.create_task_group() as group:
            for _ in range(5):
                group.start_soon(wait)
            await gate.reached.wait()
            gate.opened.set()
        assert [result.text for result in results] == ["Done."] * 5


async def test_cancelling_who_waits_for_a_result_leaves_the_request_and_other_waiters_alone(make, gate):
    async with make(calls("gate"), "Done.", tools=[gate.tool]) as agent:
        request_id = await agent.send_message("Go.")
        await gate.reached.wait()
        with anyio.CancelScope() as scope:
            scope.cancel()
            await agent.result(request_id)
        gate.opened.set()
        assert (await agent.result(request_id)).text == "Done."


async def test_p2_each_accepted_request_has_one_response_and_numbers_only_grow(make, gate, watcher):
    script = [calls("gate"), "a", ValueError("bug"), "c", hangs("d")]
    bus = LocalBus()
    topic = []
    async with make(*script, tools=[gate.tool], max_pending=9, on_event=watcher, bus=bus) as agent:
        bus.attach(f"agent/{agent.name}", topic.append)
        ids = [await agent.send_message(str(number), request_id=str(number)) for number in range(6)]
        await gate.reached.wait()
        await agent.cancel_request("2")
        await agent.send_message("6", request_id="6")
        gate.opened.set()
        await agent.result("3")
        while not watcher.text.endswith("d"):
            await anyio.lowlevel.checkpoint()
    statuses = dict(watcher.responses)
    assert len(watcher.responses) == len(statuses) == len(ids) + 1
    assert statuses == {
        "0": "completed",
        "1": "failed",
        "2": "cancelled",
        "3": "completed",
        "4": "cancelled",
        "5": "cancelled",
        "6": "cancelled",
    }
    for seen in (watcher.envelopes, topic):
        assert all(one.seq < two.seq for one, two in pairwise(seen))
    assert topic == watcher.envelopes
    for request_id in ("0", "1", "3", "4"):
        own = [envelope for envelope in watcher.envelopes if envelope.correlation_id == request_id]
        check_envelopes(own)


async def test_a_failed_request_leaves_no_trace_of_its_prompt_in_the_next_one(make):
    async with make(ValueError("bug"), "Fine.") as agent:
        with pytest.raises(alloy.RunError):
            await agent.chat("Lost.")
        assert (await agent.chat("Kept.")).text == "Fine."
        assert said(agent) == ["Kept."]


# --- watching -----------------------------------------------------------------------------------------------------------------


async def test_a_subscriber_resumes_after_a_cursor_without_a_gap(make):
    async with make("one", "two", "three") as agent:
        seen = []
        async with agent.subscribe() as envelopes:
            await agent.chat("1")
            async for envelope in envelopes:
                seen.append(envelope)
                if envelope.event == "response":
                    break
        await agent.chat("2")
        async with agent.subscribe(after=seen[-1].seq) as envelopes:
            await agent.chat("3")
            await agent.drain()
            seen += [envelope async for envelope in envelopes]
        assert [envelope.seq for envelope in seen] == list(range(1, len(seen) + 1))
        assert [envelope.event for envelope in seen].count("response") == 3


async def test_a_subscription_to_one_request_begins_with_its_beginning_and_ends_with_its_end(make):
    async with make("one", "two", max_pending=1) as agent:
        first, second = await agent.send_message("1"), await agent.send_message("2")
        async with agent.subscribe(request_id=second) as envelopes:
            with anyio.fail_after(5):
                seen = [envelope async for envelope in envelopes]
        assert {envelope.correlation_id for envelope in seen} == {second}
        assert [seen[0].event, seen[1].event, seen[-1].event] == ["request_queued", "run_start", "response"]
        assert (await agent.result(first)).text == "one"


@pytest.mark.parametrize("replay", [0, 2, 512])
async def test_watching_what_has_ended_gives_what_is_kept_and_doesnt_hang(make, replay):
    agent = make("one", bus=LocalBus(replay=replay))
    async with agent:
        await agent.chat("1", request_id="one")
        with anyio.fail_after(5):
            async with agent.subscribe(request_id="one") as envelopes:
                seen = [envelope.event async for envelope in envelopes]
            async with agent.stream_chat("1", request_id="one") as run:
                assert (await run.wait()).text == "one"
        assert seen[-1] == ("response" if replay else "lagged")
        await agent.stop()
        with anyio.fail_after(5):
            async with agent.subscribe() as envelopes:
                assert [envelope async for envelope in envelopes] == []
            async with agent.subscribe(request_id="one") as envelopes:
                assert [envelope.event async for envelope in envelopes][-1] == ("response" if replay else "lagged")


async def test_a_subscription_that_is_entered_after_its_requests_end_does_not_wait():
    async with alloy.Agent(provider=Scripted(["Hello."]), bus=LocalBus(replay=0), max_retries=0) as agent:
        await agent.send_message("hi", request_id="one")
        late = agent.subscribe(request_id="one")
        await agent.result("one")
        with anyio.fail_after(5):
            async with late as envelopes:
                seen = [envelope.event async for envelope in envelopes]

    assert "response" not in seen


@pytest.mark.parametrize("grace", [-1, "soon", True, float("nan"), None])
async def test_a_grace_that_is_no_time_is_refused_before_anything_ends(grace):
    async with alloy.Agent(provider=Scripted(["Hello."]), max_retries=0) as agent:
        with pytest.raises(InvalidOptionError, match="grace"):
            await agent.stop(grace=grace)
        assert (await agent.chat("hi")).text == "Hello."


async def test_stream_chat_sees_its_request_whole_on_a_bus_that_keeps_nothing(make):
    async with make("one two", bus=LocalBus(replay=0)) as agent, agent.stream_chat("1") as run:
        seen = [envelope.event async for envelope in run]
    assert (seen[0], seen[-1], "lagged" in seen) == ("run_start", "response", False)


async def test_stream_chat_ends_when_its_agent_does(make):
    async with make(hangs("one")) as agent, agent.stream_chat("1") as run:
        async for envelope in run:
            if envelope.event == "text_delta":
                assert await agent.stop() == (envelope.correlation_id,)
        assert run.result.status == "cancelled"


async def test_stream_chat_raises_what_its_request_failed_of(make):
    async with make(ValueError("bug")) as agent, agent.stream_chat("1") as run:
        with pytest.raises(alloy.RunError):
            await run.wait()
        assert run.result.status == "failed"


async def test_an_idle_agent_is_drained_and_stopped_at_once(make):
    for way in (lambda agent: agent.drain(), lambda agent: agent.stop(grace=1000), lambda agent: agent.stop()):
        async with make("x") as agent:
            await agent.chat("Hi.")
            with anyio.fail_after(5):
                await way(agent)


@pytest.mark.parametrize("known", [False, True])
async def test_who_sends_many_messages_lets_others_have_their_turn(make, known):
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with make(hangs("one"), max_pending=64) as agent, anyio.create_task_group() as group:
        group.start_soon(others)
        for _ in range(64):
            await agent.send_message("Well?", request_id="known" if known else None)
        assert turns >= 8
        group.cancel_scope.cancel()


# --- before and after ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("when", ["before", "closing", "stopped", "left"])
async def test_an_agent_that_isnt_running_takes_no_requests(make, gate, when):
    agent = make(calls("gate"), "Done.", tools=[gate.tool], max_pending=3)

    async def refused():
        for ask in (agent.chat, agent.send_message):
            with pytest.raises(AgentClosedError):
                await ask("And?")
        with pytest.raises(AgentClosedError):
            async with agent.stream_chat("And?"):
                pass
        with pytest.raises(AgentClosedError):
            await agent.reset()
        with pytest.raises(AgentClosedError):
            await agent.set_model(Scripted(["x"]))

    if when == "before":
        await refused()
        for ask in (agent.health, agent.export_session, agent.subscribe, lambda: agent.messages, lambda: agent.usage):
            with pytest.raises(AgentClosedError, match="async with"):
                ask()
        for wait in (agent.stop(), agent.drain(), agent.result("x"), agent.cancel_request("x")):
            with pytest.raises(AgentClosedError):
                await wait
        return
    async with agent:
        request_id = await agent.send_message("Go.")
        await gate.reached.wait()
        async with anyio.create_task_group() as group:
            if when == "closing":
                group.start_soon(agent.drain)
                await anyio.lowlevel.checkpoint()
                assert agent.health().state == "closing"
                await refused()
            gate.opened.set()
            await agent.result(request_id)
        if when == "stopped":
            assert await agent.stop() == ()
            await refused()
    await refused()
    assert agent.health().state == "closed"
    assert len(agent.messages) == 4
    assert agent.usage.requests == 2
