"""What an answer by the Responses API becomes in the next request."""

from __future__ import annotations

import pytest

from alloy.messages import (
    ImageBlock,
    Message,
)
from alloy.providers.base import Request, ToolCallDelta, ToolSpec
from tests.providers.openai_words import (
    HI,
    added,
    back,
    call,
    delta,
    done,
    end,
    items,
    provider,
    reasoning,
    result,
    said,
    streamed,
    whole,
)


def test_reasoning_goes_back_only_where_it_can_be_read():
    plain = reasoning(content=[{"type": "reasoning_text", "text": "Hm."}], encrypted_content=None)
    bare = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}

    assert back(reasoning(), said("a")) == [reasoning(), said("a")]
    assert back(plain, said("a")) == [plain, said("a")]
    assert back(bare, said("a")) == [said("a")]
    assert back(bare, said("a"), to=provider(store=True)) == [bare, said("a")]
    assert back(reasoning(), said("a") | {"id": "msg_1"}, to=provider("gpt-4.1")) == [said("a", annotations=[])]


def test_reasoning_that_led_to_nothing_stays_behind():
    assert back(reasoning(), status="incomplete", incomplete_details={"reason": "max_output_tokens"}) == []
    assert back(reasoning(1), said("a"), reasoning(2)) == [reasoning(1), said("a")]


def test_what_reasoning_led_to_goes_back_even_if_it_is_blank():
    assert back(reasoning(), said("")) == [reasoning(), said("")]


def test_a_message_of_several_parts_stays_one_message():
    parts = [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    message = {"type": "message", "id": "msg_1", "role": "assistant", "phase": "commentary", "content": parts}

    assert back(message, said("c")) == [message, said("c")]


def test_arguments_go_back_as_the_model_wrote_them():
    assert back(call(arguments='{ "at": 1 }'), results=[result("c1", "x")])[0]["arguments"] == '{ "at": 1 }'
    assert back(call(arguments=""), results=[result("c1", "x")])[0]["arguments"] == "{}"
    assert back(call(arguments='{"at'), results=[result("c1", "x")])[0]["arguments"] == "{}"


def test_a_custom_tool_is_called_with_a_text_and_answered_in_kind():
    sql = ToolSpec(
        "sql",
        "Runs it.",
        {"type": "object", "properties": {"query": {"type": "string"}}},
        {"openai": {"type": "custom"}},
    )
    item = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "sql", "input": "SELECT 1"}
    deltas, completion = streamed(
        added(0, item | {"input": ""}),
        delta("custom_tool_call_input", 0, "SELECT 1"),
        done(0, item),
        end(),
        tools=(sql,),
    )
    (made,) = completion.message.tool_uses

    assert (made.name, dict(made.input), completion.stop_reason) == ("sql", {"query": "SELECT 1"}, "tool_use")
    assert deltas == [ToolCallDelta(0, "c1", "sql", '{"query":"SELECT 1"}')]
    assert back(item, tools=(sql,), results=[result("c1", "1")]) == [
        item,
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "1"},
    ]


def test_a_custom_call_that_is_nobodys_here_is_the_vendors():
    item = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "x_search", "input": "{}"}
    completion = whole(item, said("Found."))

    assert completion.stop_reason == "end_turn"
    assert not completion.message.tool_uses
    assert back(item, said("Found.")) == [item, said("Found.")]


@pytest.mark.parametrize(
    ("item", "name", "arguments", "output"),
    [
        (
            {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}},
            "apply_patch",
            {"type": "delete_file", "path": "a"},
            {"status": "failed", "output": "gone"},
        ),
        (
            {"type": "local_shell_call", "action": {"command": ["ls"]}},
            "local_shell",
            {"command": ["ls"]},
            {"output": "gone"},
        ),
        (
            {"type": "shell_call", "action": {"commands": ["ls"]}, "environment": {"type": "local"}},
            "shell",
            {"commands": ["ls"]},
            {"output": [{"stdout": "", "stderr": "gone", "outcome": {"type": "exit", "exit_code": 1}}]},
        ),
    ],
)
def test_native_tools_that_the_application_runs_are_calls(item, name, arguments, output):
    item = item | {"id": "x_1", "call_id": "c1", "status": "completed"}
    completion = whole(item)
    (made,) = completion.message.tool_uses

    assert (made.id, made.name, dict(made.input), completion.stop_reason) == ("c1", name, arguments, "tool_use")
    assert back(item, results=[result("c1", "gone", is_error=True)]) == [
        item,
        {"type": f"{item['type']}_output", "call_id": "c1"} | output,
    ]


@pytest.mark.parametrize(
    "output",
    [
        [{"type": "shell_call", "call_id": "c1", "action": {}, "environment": {"type": "container_auto"}}],
        [{"type": "shell_call", "call_id": "c1", "action": {}}, {"type": "shell_call_output", "call_id": "c1"}],
    ],
    ids=["in a container", "answered"],
)
def test_a_shell_of_the_vendors_is_not_ours_to_answer(output):
    completion = whole(*output)

    assert completion.stop_reason == "end_turn"
    assert not completion.message.tool_uses
    assert back(*output) == output


def test_the_result_of_a_call_that_a_program_made_names_its_caller():
    caller = {"type": "program", "caller_id": "p1"}

    assert back(call(caller=caller), results=[result("c1", "x")])[1] == {
        "type": "function_call_output",
        "call_id": "c1",
        "output": "x",
        "caller": caller,
    }


def test_the_second_call_of_one_id_gets_an_id_of_its_own_that_its_result_has_too():
    asked = provider()
    first = whole(call(), to=asked).message
    decoder = asked.decoder(Request(messages=[HI, first]))
    second = decoder.whole({"status": "completed", "output": [call()]}).message
    (again,) = second.tool_uses
    sent_items = items(
        HI, first, Message("user", (result("c1", "x"),)), second, Message("user", (result(again.id, "y"),)), to=asked
    )

    assert [item["call_id"] for item in sent_items[1:]] == ["c1", "c1", again.id, again.id]
    assert again.id != "c1"


def test_an_image_that_was_made_can_be_seen_and_goes_back_once():
    item = {
        "type": "image_generation_call",
        "id": "ig_1",
        "result": "eA==",
        "output_format": "webp",
        "status": "completed",
    }
    _, image = whole(item).message.content

    assert image == ImageBlock("image/webp", b"x")
    assert back(item) == [item]
