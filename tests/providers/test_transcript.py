"""What one provider wrote is made acceptable to another, message by message."""

from __future__ import annotations

import dataclasses
import re

import pytest

from alloy.messages import (
    AudioBlock,
    ImageBlock,
    Message,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
)
from alloy.providers.transcript import ANY_CALL_ID, CallIds, for_origin, is_own, turns

NINE = CallIds("[A-Za-z0-9]{9}", 9)
SHORT = CallIds("[A-Za-z0-9_-]{1,64}")

EVERYTHING = (
    ThinkingBlock("Hm.", "signed"),
    TextBlock("Looking", extra={"citations": [1]}),
    TextBlock(" it up."),
    ServerToolUseBlock("s1", "search", {}, {"id": "s1"}),
    ServerToolResultBlock("s1", "search", {"id": "s1"}),
    RawBlock("redacted_thinking", {"data": "x"}),
    TextBlock("Found."),
    ImageBlock("image/png", b"x"),
    ToolUseBlock("functions.read:0", "read", {"at": 1}, extra={"caller": {"type": "direct"}}),
)


def answer(*blocks, origin="here", **more):
    return Message("assistant", blocks, origin=origin, **more)


def result(call_id):
    return ToolResultBlock(call_id, (TextBlock("done"),))


def test_what_came_from_the_same_origin_stays_the_same_object():
    message = answer(*EVERYTHING)

    assert for_origin(message, "here") is message
    assert is_own(message, "here")


@pytest.mark.parametrize(
    "message",
    [
        answer(*EVERYTHING, origin="elsewhere"),
        answer(*EVERYTHING, origin=None),
        answer(*EVERYTHING, interrupted=True),
    ],
    ids=["foreign", "nobody's", "broken off"],
)
def test_of_other_answers_what_was_said_and_called_stays(message):
    adapted = for_origin(message, "here")

    assert not is_own(message, "here")
    assert adapted.content == (
        TextBlock("Looking it up."),
        TextBlock("Found."),
        ImageBlock("image/png", b"x"),
        ToolUseBlock("functions.read:0", "read", {"at": 1}),
    )
    assert adapted.text == message.text
    assert dataclasses.replace(adapted, content=message.content) == message


def test_a_foreign_message_that_everybody_understands_stays_the_same_object():
    message = answer(TextBlock("Yes."), ToolUseBlock("c", "t"), AudioBlock("audio/wav", b"x"), origin="elsewhere")

    assert for_origin(message, "here") is message


def test_what_users_say_stays_whoever_is_asked():
    message = Message("user", (result("c"), TextBlock("a", extra={"kept": 1}), TextBlock("b")))

    assert for_origin(message, "here", SHORT) is message


@pytest.mark.parametrize("rule", [NINE, SHORT], ids=["nine", "short"])
@pytest.mark.parametrize("call_id", ["functions.read:0", "", "x" * 65, "ä", "call_1\n", "\ud800"])
def test_an_id_that_is_not_allowed_becomes_one_that_is(rule, call_id):
    made = rule(call_id)

    assert re.fullmatch(rule.allowed, made)
    assert len(made) == rule.length
    assert rule(made) == made
    assert rule(call_id) == made


def test_allowed_ids_stay_and_others_stay_apart():
    assert NINE("abcDEF123") == "abcDEF123"
    assert ANY_CALL_ID("any thing\nat all") == "any thing\nat all"
    ids = [f"functions.read:{number}" for number in range(10_000)]
    assert len({NINE(call_id) for call_id in ids}) == len(ids)


@pytest.mark.parametrize("origin", ["here", "elsewhere"])
def test_a_call_and_its_result_are_renamed_alike(origin):
    calls = for_origin(answer(ToolUseBlock("a:1", "t"), ToolUseBlock("fine", "t"), origin=origin), "here", SHORT)
    results = for_origin(Message("user", (result("a:1"), result("fine"))), "here", SHORT)

    assert [call.id for call in calls.tool_uses] == [block.tool_use_id for block in results.tool_results]
    assert calls.tool_uses[0].id != "a:1"
    assert calls.tool_uses[1].id == "fine"


def test_a_message_of_nothing_but_thinking_is_empty_elsewhere():
    assert for_origin(answer(ThinkingBlock("Hm.", "signed")), "elsewhere").content == ()
    assert for_origin(answer(ThinkingBlock("Hm."), TextBlock(" \n")), "elsewhere").content == ()


def test_neighbours_of_one_role_become_one_turn_when_what_stood_between_them_is_empty():
    messages = [("user", [1]), ("assistant", []), ("user", [2, 3]), ("assistant", [4]), ("user", [])]

    assert list(turns(messages)) == [("user", [1, 2, 3]), ("assistant", [4])]
    assert list(turns([])) == []
