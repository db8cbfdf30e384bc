"""What a run does, from the prompt to the result."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager

import anyio
import pytest

import alloy
from alloy.errors import DeadlineExceededError, EmptyPromptError, InvalidOptionError, UnknownOptionError
from alloy.messages import RawBlock, ServerToolUseBlock, TextBlock, ThinkingBlock, ToolUseBlock
from alloy.providers.base import Completion, TextDelta
from alloy.testing import Recorder, Reply, Scripted, calls, check_envelopes, run_script, together
from alloy.usage import Usage

pytestmark = pytest.mark.anyio


@alloy.tool
async def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


@alloy.tool
async def fail() -> str:
    """Always fails."""
    raise alloy.ToolError("the disk is full")


async def test_a_run_answers_calls_tools_and_adds_up_what_it_used():
    script = Scripted([together(Reply(text="Let me see. "), calls("add", a=2, b=3)), "It is 5."])

    result = await alloy.run("2 + 3?", provider=script, tools=[add], system_prompt="Be brief.")

    assert result.status == "completed"
    assert result.text == "It is 5."
    assert result.stop_reason == "end_turn"
    assert result.turns == 2
    assert result.usage == Usage(input_tokens=20, output_tokens=10, requests=2)
    assert [(call.name, call.arguments, call.data) for call in result.tool_calls] == [("add", {"a": 2, "b": 3}, 5)]
    assert [message.role for message in result.messages] == ["user", "assistant", "user", "assistant"]
    alloy.check_history(result.messages)
    assert script.requests[0].system == "Be brief."
    assert [tool.name for tool in script.requests[0].tools] == ["add"]
    assert script.requests[1].messages == result.messages[:3]


async def test_a_conversation_goes_on_from_the_messages_of_the_last_result():
    first = await run_script(["Hello."], "Hi.")
    script = Scripted(["Paris."])

    second = await alloy.run("Capital of France?", provider=script, messages=first.messages)

    assert [message.text for message in script.requests[0].messages] == ["Hi.", "Hello.", "Capital of France?"]
    assert second.messages[: len(first.messages)] == first.messages
    assert len(first.messages) == 2


async def test_options_by_name_go_before_those_of_the_config():
    config = alloy.Config(provider=Scripted(["from the config"]), max_turns=3)

    result = await alloy.run("Hi.", config, provider=Scripted(["from the option"]))

    assert result.text == "from the option"


async def test_messages_that_end_with_the_user_need_no_prompt():
    result = await run_script(["Hello."], messages=[alloy.Message("user", (TextBlock("Hi."),))], prompt=None)

    assert [message.role for message in result.messages] == ["user", "assistant"]


async def test_a_prompt_after_the_users_own_turn_joins_it():
    waiting = alloy.Message("user", (TextBlock("First."),))

    result = await run_script(["Both."], "Second.", messages=[waiting])

    assert [block.text for block in result.messages[0].content] == ["First.", "Second."]
    alloy.check_history(result.messages)


async def test_max_turns_ends_the_run_with_its_tool_results_in_place():
    result = await run_script([calls("add", a=1, b=1)] * 3, tools=[add], max_turns=3)

    assert result.status == "max_turns"
    assert result.turns == 3
    assert len(result.tool_calls) == 3
    alloy.check_history(result.messages)
    assert result.messages[-1].tool_results[0].text == "2"


async def test_until_tool_goes_on_until_the_tool_was_called_successfully():
    script = Scripted(["Done!", calls("add", a="one", b=1), calls("add", a=1, b=1)])

    result = await alloy.run("Go.", provider=script, tools=[add], until_tool="add")

    assert result.status == "completed"
    assert result.turns == 3
    assert result.tool_calls[-1].data == 2
    assert "add" in script.requests[1].messages[-1].text
    alloy.check_history(result.messages)


async def test_until_tool_gives_up_at_max_turns():
    result = await run_script(["No."] * 2, tools=[add], until_tool="add", max_turns=2)

    assert result.status == "max_turns"
    alloy.check_history(result.messages)


async def test_an_answer_without_content_completes_and_the_conversation_can_go_on():
    first = await run_script([""], "Hi.")
    second = await run_script(["Hello."], "Are you there?", messages=first.messages)

    assert first.status == "completed"
    assert first.text == ""
    assert second.messages[0].text == "Hi.Are you there?"
    alloy.check_history(second.messages)


# --- stop reasons ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reason", ["end_turn", "stop_sequence", "max_tokens", "context_window"])
async def test_an_answer_in_words_completes_with_its_stop_reason(reason):
    result = await run_script([Reply(text="So", stop_reason=reason)])

    assert (result.status, result.stop_reason, result.text) == ("completed", reason, "So")


@pytest.mark.parametrize("reason", ["max_tokens", "context_window"])
async def test_a_truncated_tool_call_is_answered_with_an_error_and_never_executed(reason):
    executed = []

    @alloy.tool
    async def note(text: str) -> str:
        """Notes something."""
        executed.append(text)
        return "noted"

    cut = Reply(tool_calls=(ToolUseBlock("", "note", {"text": "half"}),), stop_reason=reason)
    result = await run_script([cut, "Sorry."], tools=[note])

    assert executed == []
    assert result.tool_calls[0].is_error
    assert "cut off" in result.messages[2].tool_results[0].text
    assert result.text == "Sorry."


async def test_a_refusal_discards_the_partial_answer_and_fails():
    refusal = Reply(text="I was about to", stop_reason="refusal", detail="cyber")

    with pytest.raises(alloy.RunError, match="refused to answer: cyber") as caught:
        await run_script([calls("add", a=1, b=1), refusal], tools=[add], on_event=Recorder())

    result = caught.value.result
    assert result.status == "failed"
    assert caught.value.cause.kind == "refused"
    assert result.text == ""
    assert "about to" not in "".join(message.text for message in result.messages)
    assert len(result.tool_calls) == 1
    assert result.usage.requests == 2
    alloy.check_history(result.messages)


async def test_a_pause_is_continued_and_both_halves_are_one_message():
    search = ServerToolUseBlock("s1", "web_search", {"query": "x"}, {"type": "server_tool_use"})
    script = Scripted([Reply(text="Searching. ", blocks=(search,), stop_reason="pause_turn"), "Found it."])

    result = await alloy.run("Search.", provider=script)

    assert script.requests[1].messages[-1].role == "assistant"
    assert search in script.requests[1].messages[-1].content
    assert [message.role for message in result.messages] == ["user", "assistant"]
    assert search in result.messages[1].content
    assert result.messages[1].text == "Searching. Found it."


async def test_tool_use_with_only_the_vendors_own_tools_makes_no_empty_result_message():
    search = ServerToolUseBlock("s1", "web_search", {}, {})
    result = await run_script([Reply(blocks=(search,), stop_reason="tool_use"), "Found it."])

    assert [message.role for message in result.messages] == ["user", "assistant"]
    alloy.check_history(result.messages)


async def test_what_was_said_before_a_pause_stays_when_the_next_request_fails():
    with pytest.raises(alloy.RunError) as caught:
        await run_script(
            [Reply(text="Half.", stop_reason="pause_turn"), alloy.ProviderError("no", kind="server_error")]
        )

    assert caught.value.result.messages[-1].text == "Half."
    alloy.check_history(caught.value.result.messages)


async def test_an_unknown_stop_reason_fails_and_names_it():
    class Odd(Scripted):
        @asynccontextmanager
        async def stream(self, request):
            async def items():
                message = alloy.Message("assistant", (TextBlock("Hm."),))
                yield Completion(message=message, stop_reason="unknown", raw_stop_reason="moonphase")

            yield items()

    with pytest.raises(alloy.RunError, match="moonphase") as caught:
        await alloy.run("Hi.", provider=Odd([]))

    assert caught.value.cause.kind == "unknown"


# --- failures --------------------------------------------------------------------------------------------------------


async def test_a_failed_run_keeps_finished_tool_results_and_says_why():
    error = alloy.ProviderError("overloaded", kind="overloaded", status=529, retry_after=3)
    recorder = Recorder()

    with pytest.raises(alloy.RunError) as caught:
        await run_script([calls("add", a=2, b=2), error], tools=[add], on_event=recorder)

    result = caught.value.result
    assert caught.value.cause is error
    assert caught.value.__cause__ is error
    assert result.error is error
    assert [call.data for call in result.tool_calls] == [4]
    assert result.usage.requests == 1
    assert result.messages[-1].tool_results[0].text == "4"
    alloy.check_history(result.messages)
    check_envelopes(recorder.envelopes)
    assert recorder.envelopes[-1].payload["error"]["type"] == "ProviderError"


async def test_a_run_that_failed_at_once_leaves_the_history_as_it_was():
    before = (await run_script(["Hello."])).messages

    with pytest.raises(alloy.RunError) as caught:
        await run_script([alloy.ProviderError("down", kind="server_error")], "And now?", messages=before)

    assert caught.value.result.messages == before


async def test_text_that_was_seen_before_a_failure_stays_marked_as_interrupted():
    error = alloy.ProviderError("connection lost", kind="network")

    with pytest.raises(alloy.RunError) as caught:
        await run_script([Reply(text="Once upon a time", thinking="hm", error=error)], on_event=Recorder())

    last = caught.value.result.messages[-1]
    assert last.interrupted
    assert last.content == (TextBlock("Once upon a time"),)


async def test_text_that_nobody_saw_before_a_failure_is_not_kept():
    error = alloy.ProviderError("connection lost", kind="network")

    with pytest.raises(alloy.RunError) as caught:
        await run_script([Reply(text="Once upon a time", error=error)])

    assert caught.value.result.messages == ()


async def test_a_provider_that_ends_without_an_answer_is_an_error():
    class Short(Scripted):
        @asynccontextmanager
        async def stream(self, request):
            async def items():
                yield TextDelta("Hal")

            yield items()

    with pytest.raises(alloy.RunError, match="broke off") as caught:
        await alloy.run("Hi.", provider=Short([]))

    assert caught.value.cause.kind == "network"


async def test_a_provider_that_dies_of_somebody_elses_cancellation_fails_the_run():
    class Stray(Scripted):
        @asynccontextmanager
        async def stream(self, request):
            raise anyio.get_cancelled_exc_class()
            yield

    with pytest.raises(alloy.RunError) as caught:
        await alloy.run("Hi.", provider=Stray([]))

    assert caught.value.result.status == "failed"


async def test_the_timeout_fails_the_run_and_keeps_what_was_done():
    @alloy.tool
    async def forever() -> str:
        """Never ends."""
        await anyio.sleep_forever()

    with anyio.fail_after(5), pytest.raises(alloy.RunError) as caught:
        await run_script([calls("add", a=1, b=1), calls("forever")], tools=[add, forever], timeout=0.05)

    result = caught.value.result
    assert isinstance(caught.value.cause, DeadlineExceededError)
    assert isinstance(caught.value.cause, TimeoutError)
    assert [call.is_error for call in result.tool_calls] == [False, True]
    assert "may or may not" in result.messages[-1].tool_results[0].text
    alloy.check_history(result.messages)


# --- bad input, P9 ---------------------------------------------------------------------------------------------------


async def test_p9_an_unknown_option_is_named_with_the_one_that_was_meant():
    script = Scripted(["no"])

    with pytest.raises(UnknownOptionError, match="did you mean 'max_turns'"):
        await alloy.run("Hi.", provider=script, max_turn=3)
    with pytest.raises(TypeError):
        alloy.Config(nonsense=1)

    assert script.requests == []


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("provider", 3),
        ("provider", Scripted),
        ("tools", add),
        ("tools", [print]),
        ("system_prompt", 3),
        ("messages", "hello"),
        ("messages", ["hello"]),
        ("max_turns", 0),
        ("max_turns", True),
        ("max_turns", "3"),
        ("middleware", [object()]),
        ("middleware", [alloy.Middleware]),
        ("working_directory", 3),
        ("context", [1]),
        ("until_tool", "nobody"),
        ("timeout", 0),
        ("timeout", float("nan")),
        ("tool_timeout", -1),
        ("tool_timeout", None),
        ("max_result_bytes", 0),
        ("on_event", 3),
        ("on_event", anyio.sleep),
    ],
)
async def test_p9_a_wrong_value_is_a_typed_error_that_names_the_option(option, value):
    options = {"provider": Scripted(["no"]), option: value}

    with pytest.raises(InvalidOptionError, match=f"option '{option}' takes"):
        await alloy.run("Hi.", **options)


async def test_p9_no_provider_is_a_typed_error():
    with pytest.raises(InvalidOptionError, match="provider"):
        await alloy.run("Hi.")


@pytest.mark.parametrize("prompt", [None, "", "  \n"])
async def test_p9_nothing_to_say_is_a_typed_error_before_any_request(prompt):
    script = Scripted(["no"])

    with pytest.raises(EmptyPromptError):
        await alloy.run(prompt, provider=script)

    assert script.requests == []


async def test_p9_a_prompt_of_a_wrong_type_is_a_typed_error():
    with pytest.raises(InvalidOptionError, match="prompt"):
        await alloy.run(42, provider=Scripted(["no"]))


async def test_p9_two_tools_of_one_name_are_a_typed_error():
    with pytest.raises(alloy.ConfigurationError, match="two tools have this name"):
        await alloy.run("Hi.", provider=Scripted(["no"]), tools=[add, add])


async def test_p9_an_invalid_history_is_a_typed_error_that_says_where():
    unanswered = [
        alloy.Message("user", (TextBlock("Hi."),)),
        alloy.Message("assistant", (ToolUseBlock("1", "add", {}),)),
    ]

    with pytest.raises(alloy.HistoryError, match="message 1: call '1' has no result"):
        await alloy.run("Hi.", provider=Scripted(["no"]), messages=unanswered)


async def test_a_config_does_not_change_with_the_list_that_it_was_made_from():
    tools = [add]
    config = alloy.Config(tools=tools)
    tools.append(fail)

    assert config.tools == (add,)


# --- events ----------------------------------------------------------------------------------------------------------


async def test_envelopes_are_numbered_paired_and_end_with_one_response():
    recorder = Recorder()
    result = await run_script(
        [Reply(thinking="Add them.", tool_calls=(ToolUseBlock("", "add", {"a": 1, "b": 1}),)), "It is 2."],
        tools=[add],
        on_event=recorder,
    )

    check_envelopes(recorder.envelopes)
    assert recorder.text == "It is 2."
    assert "".join(one.payload["text"] for one in recorder.named("thinking_delta")) == "Add them."
    assert "".join(one.payload["arguments"] for one in recorder.named("tool_call_delta")) == '{"a":1,"b":1}'
    assert recorder.named("tool_end")[0].payload["text"] == "2"
    assert {one.correlation_id for one in recorder.envelopes} == {result.request_id}
    assert [one.turn for one in recorder.named("turn_start")] == [1, 2]
    for envelope in recorder.envelopes:
        assert json.loads(envelope.to_json())["event"] == envelope.event


async def test_a_provider_that_sends_no_deltas_still_shows_its_text_once():
    class Whole(Scripted):
        @asynccontextmanager
        async def stream(self, request):
            async def items():
                yield Completion(message=alloy.Message("assistant", (TextBlock("All of it."),)), stop_reason="end_turn")

            yield items()

    recorder = Recorder()
    await alloy.run("Hi.", provider=Whole([]), on_event=recorder)

    assert recorder.text == "All of it."


async def test_nobody_listening_means_that_the_provider_may_fetch_the_answer_whole():
    quiet, watched = Scripted(["a"]), Scripted(["a"])

    await alloy.run("Hi.", provider=quiet)
    await alloy.run("Hi.", provider=watched, on_event=Recorder())

    assert (quiet.requests[0].stream, watched.requests[0].stream) == (False, True)


async def test_p5_an_on_event_that_raises_is_logged_and_does_not_hurt_the_run(caplog):
    seen = []

    def broken(envelope):
        seen.append(envelope)
        raise ValueError("broken watcher")

    result = await run_script(["Fine."], on_event=broken)

    assert result.text == "Fine."
    assert len(seen) == 1
    assert "on_event raised" in caplog.text


# --- history ---------------------------------------------------------------------------------------------------------


async def test_p1_call_ids_that_a_model_uses_twice_get_ids_of_their_own():
    same = Reply(tool_calls=(ToolUseBlock("x", "add", {"a": 1, "b": 1}), ToolUseBlock("x", "add", {"a": 2, "b": 2})))

    result = await run_script([same, same, "Done."], tools=[add])

    alloy.check_history(result.messages)
    assert [call.id for call in result.tool_calls] == ["x", "x_2", "x_3", "x_4"]
    assert [call.data for call in result.tool_calls] == [2, 4, 2, 4]


async def test_p1_blank_text_beside_a_call_does_not_get_into_the_history():
    blank = Reply(text="\n\n", tool_calls=(ToolUseBlock("", "add", {"a": 1, "b": 1}),))

    result = await run_script([blank, "Done."], tools=[add])

    alloy.check_history(result.messages)


async def test_opaque_blocks_come_back_as_they_were():
    opaque = RawBlock("redacted_thinking", {"data": "x", "none": None})
    script = Scripted(
        [Reply(blocks=(opaque,), thinking="t", tool_calls=(ToolUseBlock("", "add", {"a": 1, "b": 1}),)), "."]
    )

    result = await alloy.run("Hi.", provider=script, tools=[add])

    assert result.messages[1].content[:2] == (opaque, ThinkingBlock("t"))
    assert alloy.messages_from_json(alloy.messages_to_json(result.messages)) == result.messages
