"""Hooks into a run."""

from __future__ import annotations

import dataclasses

import anyio
import pytest

import alloy
from alloy.messages import TextBlock
from alloy.testing import Recorder, Reply, Scripted, calls, check_envelopes, run_script, together

pytestmark = pytest.mark.anyio


@alloy.tool
async def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


class Log(alloy.Middleware):
    """Writes down which hooks are called."""

    def __init__(self) -> None:
        self.hooks: list[str] = []

    async def session_start(self, run):
        self.hooks.append("session_start")

    async def before_completion(self, request, run):
        self.hooks.append("before_completion")

    async def after_completion(self, completion, run):
        self.hooks.append("after_completion")

    async def after_tool_request(self, calls, run):
        self.hooks.append("after_tool_request")

    async def before_tool_call(self, call, run):
        self.hooks.append("before_tool_call")

    async def after_tool_execution(self, call, output, run):
        self.hooks.append("after_tool_execution")

    async def on_error(self, error, run):
        self.hooks.append("on_error")

    async def session_end(self, result, run):
        self.hooks.append(f"session_end {result.status}")


async def test_hooks_are_called_in_order():
    log = Log()
    await run_script([calls("add", a=1, b=1), "2."], tools=[add], middleware=[log])

    turn = ["before_completion", "after_completion"]
    tools = ["after_tool_request", "before_tool_call", "after_tool_execution"]
    assert log.hooks == ["session_start", *turn, *tools, *turn, "session_end completed"]


async def test_on_error_comes_before_the_end_of_a_failed_run():
    log = Log()
    with pytest.raises(alloy.RunError):
        await run_script([alloy.ProviderError("down", kind="server_error")], middleware=[log], max_retries=0)

    assert log.hooks == ["session_start", "before_completion", "on_error", "session_end failed"]


async def test_values_are_threaded_first_to_last():
    class Append(alloy.Middleware):
        def __init__(self, word: str) -> None:
            self.word = word

        async def before_completion(self, request, run):
            return dataclasses.replace(request, system=f"{request.system} {self.word}")

        async def after_tool_execution(self, call, output, run):
            return dataclasses.replace(output, text=f"{output.text} {self.word}")

    script = Scripted([calls("add", a=1, b=1), "."])
    result = await alloy.run(
        "Hi.", provider=script, tools=[add], system_prompt="zero", middleware=[Append("one"), Append("two")]
    )

    assert script.requests[0].system == "zero one two"
    assert result.messages[2].tool_results[0].text == "2 one two"


async def test_a_completion_that_is_replaced_goes_into_the_history():
    class Censor(alloy.Middleware):
        async def after_completion(self, completion, run):
            message = dataclasses.replace(completion.message, content=(TextBlock("[censored]"),))
            return dataclasses.replace(completion, message=message)

    result = await run_script(["Secret."], middleware=[Censor()])

    assert result.text == "[censored]"
    assert result.messages[-1].text == "[censored]"


async def test_a_blocked_call_is_not_executed_and_the_model_reads_why():
    class NoAdding(alloy.Middleware):
        async def before_tool_call(self, call, run):
            return alloy.Blocked("adding is off today")

    result = await run_script([calls("add", a=1, b=1), "I see."], tools=[add], middleware=[NoAdding()])

    assert result.tool_calls[0].is_error
    assert result.messages[2].tool_results[0].text == "Not executed: adding is off today"


async def test_an_edited_call_is_executed_as_edited():
    class Double(alloy.Middleware):
        async def before_tool_call(self, call, run):
            return dataclasses.replace(call, input={"a": call.input["a"] * 2, "b": call.input["b"]})

    result = await run_script([calls("add", a=1, b=1), "."], tools=[add], middleware=[Double()])

    assert result.tool_calls[0].data == 3


async def test_halting_stops_the_run_and_keeps_the_work_done():
    class OneTurn(alloy.Middleware):
        async def before_completion(self, request, run):
            if run.turn > 1:
                raise alloy.Halt("one turn is enough")

    recorder = Recorder()
    with pytest.raises(alloy.RunError, match="one turn is enough") as caught:
        await run_script([calls("add", a=1, b=1), "."], tools=[add], middleware=[OneTurn()], on_event=recorder)

    result = caught.value.result
    assert result.status == "halted"
    assert [call.data for call in result.tool_calls] == [2]
    alloy.check_history(result.messages)
    check_envelopes(recorder.envelopes)


@pytest.mark.parametrize("hook", ["after_completion", "after_tool_request", "before_tool_call", "after_tool_execution"])
@pytest.mark.parametrize("error", [alloy.Halt("stop"), ValueError("bug")])
async def test_p1_whatever_a_hook_raises_the_history_stays_sendable(hook, error):
    async def raising(self, *args):
        raise error

    middleware = type("Raises", (alloy.Middleware,), {hook: raising})()
    with pytest.raises(alloy.RunError) as caught:
        await run_script(
            [together(calls("add", a=1, b=1), calls("add", a=2, b=2)), "."], tools=[add], middleware=[middleware]
        )

    result = caught.value.result
    assert caught.value.cause is error
    assert result.status == ("halted" if isinstance(error, alloy.Halt) else "failed")
    assert len(result.messages[-1].tool_results) == 2
    alloy.check_history(result.messages)
    executed = [not call.is_error for call in result.tool_calls]
    assert executed == [hook == "after_tool_execution"] * 2


async def test_a_neighbour_of_a_call_whose_hook_fails_still_ends():
    class Picky(alloy.Middleware):
        async def before_tool_call(self, call, run):
            if call.input["a"] == 1:
                raise alloy.Halt("not one")

    with pytest.raises(alloy.RunError) as caught:
        await run_script(
            [together(calls("add", a=1, b=1), calls("add", a=2, b=2)), "."], tools=[add], middleware=[Picky()]
        )

    first, second = caught.value.result.tool_calls
    assert "Not executed" in first.content[0].text
    assert second.data == 4


async def test_p9_a_hook_that_returns_something_else_is_named():
    class Wrong(alloy.Middleware):
        async def before_completion(self, request, run):
            return "hello"

    with pytest.raises(alloy.RunError, match=r"middleware\.before_completion"):
        await run_script(["."], middleware=[Wrong()])


class Shorten(alloy.Middleware):
    """Cuts the history down to the last message."""

    def __init__(self) -> None:
        self.compactions: list[tuple[int, int]] = []

    async def on_context_overflow(self, error, messages, run):
        return messages[-1:]

    async def after_compaction(self, before, after, run):
        self.compactions.append((len(before), len(after)))


def overflow() -> alloy.ProviderError:
    return alloy.ProviderError("too long", kind="context_overflow", status=400)


async def test_a_history_that_is_too_long_goes_on_with_the_one_that_middleware_gives():
    before = (await run_script(["Hello."])).messages
    script, shorten, recorder = Scripted([overflow(), "Fine."]), Shorten(), Recorder()

    result = await alloy.run("Hi.", provider=script, messages=before, middleware=[shorten], on_event=recorder)

    assert result.text == "Fine."
    assert [len(request.messages) for request in script.requests] == [3, 1]
    assert [message.text for message in result.messages] == ["Hi.", "Fine."]
    assert shorten.compactions == [(3, 1)]
    assert recorder.named("compaction")[0].payload == {
        "before_messages": 3,
        "after_messages": 1,
        "before_tokens": None,
        "after_tokens": None,
        "methods": ["middleware"],
    }


async def test_a_history_that_is_still_too_long_fails_after_one_more_try():
    script = Scripted([overflow(), overflow(), "never"])
    before = (await run_script(["Hello."])).messages

    with pytest.raises(alloy.RunError, match="too long"):
        await alloy.run("Hi.", provider=script, messages=before, middleware=[Shorten()])

    assert len(script.requests) == 2


async def test_p6_an_overflow_after_something_was_emitted_is_not_tried_again():
    script = Scripted([Reply(text="So far", error=overflow()), "never"])
    before = (await run_script(["Hello."])).messages

    with pytest.raises(alloy.RunError, match="too long"):
        await alloy.run("Hi.", provider=script, messages=before, middleware=[Shorten()], on_event=Recorder())

    assert len(script.requests) == 1


async def test_last_words_that_fail_are_told_and_change_nothing(caplog):
    class Broken(alloy.Middleware):
        async def session_end(self, result, run):
            raise ValueError("no goodbye")

    recorder = Recorder()
    result = await run_script(["Fine."], middleware=[Broken()], on_event=recorder)

    assert result.status == "completed"
    assert recorder.named("runtime_event")[0].payload["hook"] == "session_end"
    assert "no goodbye" in caplog.text
    check_envelopes(recorder.envelopes)


async def test_last_words_are_heard_when_a_run_is_cancelled():
    ended = []

    class Last(alloy.Middleware):
        async def session_end(self, result, run):
            await anyio.lowlevel.checkpoint()
            ended.append(result)

    with anyio.CancelScope() as scope:

        @alloy.tool
        async def cancel() -> None:
            """Cancels the run from inside."""
            scope.cancel()
            await anyio.sleep_forever()

        await run_script([calls("cancel"), "."], tools=[cancel], middleware=[Last()])

    assert [result.status for result in ended] == ["cancelled"]
    alloy.check_history(ended[0].messages)


async def test_middleware_sees_the_run_and_can_tell_of_it():
    seen = []

    class Look(alloy.Middleware):
        async def after_completion(self, completion, run):
            seen.append((run.turn, run.usage.requests, len(run.messages), run.context["user"], run.request_id))
            run.emit("looked", turn=run.turn)

    recorder = Recorder()
    result = await run_script(
        [calls("add", a=1, b=1), "."], tools=[add], middleware=[Look()], context={"user": 7}, on_event=recorder
    )

    assert seen == [(1, 1, 0, 7, result.request_id), (2, 2, 3, 7, result.request_id)]
    assert [one.payload for one in recorder.named("runtime_event")] == [
        {"kind": "looked", "turn": 1},
        {"kind": "looked", "turn": 2},
    ]


async def test_a_hook_cannot_change_the_history_that_a_request_is_made_of():
    given = []

    class Looks(alloy.Middleware):
        async def before_completion(self, request, run):
            given.append(request.messages)

    script = Scripted([calls("add", a=1, b=2), "Done."])
    await alloy.run("Go.", provider=script, tools=[add], middleware=[Looks()])

    assert [type(messages) for messages in given] == [tuple, tuple]
    assert [len(messages) for messages in given] == [1, 3]
