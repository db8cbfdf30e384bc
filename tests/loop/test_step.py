"""A run between an answer's calls and their results, as data."""

from __future__ import annotations

import json

import pytest

from alloy.errors import SessionError
from alloy.loop.step import Step
from alloy.messages import ImageBlock, Message, TextBlock, ThinkingBlock, ToolUseBlock
from alloy.result import ToolCall
from alloy.usage import Usage

PICTURE = ImageBlock(data=b"\x89PNG\x00\xff", media_type="image/png")


def a_step(data=None) -> Step:
    done = ToolCall(
        id="1", name="look", arguments={"at": 1}, content=(TextBlock("gold"), PICTURE), is_error=False, data=data
    )
    return Step(
        request_id="r1",
        request=Message("user", (TextBlock("Go."), PICTURE)),
        prompt=None,
        message=Message(
            "assistant",
            (ThinkingBlock("Hm.", "signed"), ToolUseBlock("1", "look", {"at": 1}), ToolUseBlock("2", "take", {})),
            provider="anthropic",
            model="claude",
            origin="abc",
            usage=Usage(input_tokens=3),
        ),
        records=(done, None),
        begun=(True, False),
        calls=(done,),
        turn=3,
        turns=3,
        stop_reason="tool_use",
        usage=Usage(input_tokens=9, requests=3),
    )


def test_a_step_is_written_as_json_and_read_again_with_all_that_is_in_it():
    step = a_step(data={"found": [1, 2]})

    document = json.loads(json.dumps(step.to_json()))

    assert Step.from_json(document, session_id="desk") == step


@pytest.mark.parametrize("data", [object(), {1, 2}, float("nan")])
def test_data_of_a_tool_that_is_no_json_does_not_keep_a_step_from_being_written(data):
    document = json.loads(json.dumps(a_step(data=data).to_json()))

    read = Step.from_json(document, session_id="desk")
    assert read.records[0].content == a_step().records[0].content


@pytest.mark.parametrize(
    "change",
    [
        {"v": 2},
        {"turn": "x"},
        {"message": None},
        {"begun": [True]},
        {"records": []},
        {"usage": {"input_tokens": "many"}},
    ],
)
def test_p9_what_is_no_step_is_an_error_that_says_where_and_quotes_nothing(change):
    document = {**a_step().to_json(), **change}

    with pytest.raises(SessionError, match="session 'desk': its suspended step can't be read") as unreadable:
        Step.from_json(document, session_id="desk")

    assert "gold" not in str(unreadable.value)
