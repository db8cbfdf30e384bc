"""Messages, their JSON, and what makes a history valid."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import alloy
from alloy.errors import InvalidOptionError
from alloy.history import UNKNOWN_OUTCOME, own_call_ids
from alloy.messages import (
    DocumentBlock,
    ImageBlock,
    Message,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    as_user_message,
)
from alloy.usage import Usage


def user(*blocks) -> Message:
    return Message("user", tuple(TextBlock(block) if isinstance(block, str) else block for block in blocks))


def assistant(*blocks) -> Message:
    return Message("assistant", tuple(TextBlock(block) if isinstance(block, str) else block for block in blocks))


def result(call_id: str, text: str = "ok") -> ToolResultBlock:
    return ToolResultBlock(call_id, (TextBlock(text),))


VALID = [
    [],
    [user("Hi.")],
    [user("Hi."), assistant("Hello.")],
    [user("Hi."), assistant("Let me see.", ToolUseBlock("1", "f")), user(result("1"))],
    [user("Hi."), assistant(ToolUseBlock("1", "f")), user(result("1")), user("Go on.")],
    [user("Hi."), assistant(ToolUseBlock("1", "f")), user(result("1"), "Go on."), assistant("Yes.")],
    [user("Hi."), assistant(ToolUseBlock("1", "f"), ToolUseBlock("2", "f")), user(result("1"), result("2"))],
    [user("Hi."), assistant(ThinkingBlock("", signature="s"), RawBlock("x", {}))],
    [user(ImageBlock("image/png", b"x")), assistant(ImageBlock("image/png", b"x"))],
]
INVALID = [
    ("first_turn", [assistant("Hello.")]),
    ("two_turns", [user("Hi."), user("Hi.")]),
    ("two_turns", [user("Hi."), assistant("a"), assistant("b")]),
    ("empty_message", [user()]),
    ("empty_message", [user("Hi."), assistant()]),
    ("blank_text", [user(" \n")]),
    ("blank_text", [user("Hi."), assistant(ToolUseBlock("1", "f")), user(result("1", ""))]),
    ("blank_text", [user("Hi."), assistant(ToolUseBlock("1", "f")), user(ToolResultBlock("1", ()))]),
    ("misplaced_block", [user(ThinkingBlock("hm"))]),
    ("misplaced_block", [user("Hi."), assistant(result("1"))]),
    ("unanswered_call", [user("Hi."), assistant(ToolUseBlock("1", "f"))]),
    ("unanswered_call", [user("Hi."), assistant(ToolUseBlock("1", "f")), user("So?")]),
    ("unanswered_call", [user("Hi."), assistant(ToolUseBlock("1", "f"), ToolUseBlock("2", "f")), user(result("1"))]),
    ("orphan_result", [user(result("1"))]),
    ("orphan_result", [user("Hi."), assistant(ToolUseBlock("1", "f")), user(result("1"), result("2"))]),
    ("second_result", [user("Hi."), assistant(ToolUseBlock("1", "f")), user(result("1"), result("1"))]),
    (
        "result_order",
        [user("Hi."), assistant(ToolUseBlock("1", "f"), ToolUseBlock("2", "f")), user(result("2"), result("1"))],
    ),
    ("result_order", [user("Hi."), assistant(ToolUseBlock("1", "f")), user("First:", result("1"))]),
    ("call_id", [user("Hi."), assistant(ToolUseBlock("", "f")), user(result(""))]),
    ("call_id", [user("Hi."), assistant(ToolUseBlock("1", "f"), ToolUseBlock("1", "f")), user(result("1"))]),
    ("no_message", ["Hi."]),
]


@pytest.mark.parametrize("messages", VALID)
def test_p1_a_valid_history_passes_and_repair_leaves_it_alone(messages):
    alloy.check_history(messages)

    assert alloy.repair_history(messages) == tuple(messages)


@pytest.mark.parametrize(("rule", "messages"), INVALID)
def test_p1_an_invalid_history_is_an_error_that_names_the_rule(rule, messages):
    with pytest.raises(alloy.HistoryError) as caught:
        alloy.check_history(messages)

    assert rule in {problem.rule for problem in caught.value.problems}


def test_repair_answers_what_was_never_answered_and_keeps_the_rest():
    broken = [
        assistant("lost"),
        user("Hi.", " "),
        assistant("Let me see.", ToolUseBlock("1", "f"), ToolUseBlock("1", "g")),
        user("Sorry, wait.", result("1", "one"), result("9")),
        user("And now?"),
        assistant(),
        assistant("Well."),
        assistant(ToolUseBlock("2", "f")),
    ]

    repaired = alloy.repair_history(broken)

    alloy.check_history(repaired)
    assert [message.role for message in repaired] == ["user", "assistant", "user", "assistant", "user"]
    results = repaired[2].tool_results
    assert [(block.tool_use_id, block.text) for block in results] == [("1", "one"), ("1_2", UNKNOWN_OUTCOME)]
    assert repaired[2].text == "Sorry, wait.And now?"
    assert repaired[3].text == "Well."
    assert repaired[4].tool_results[0].is_error


texts = st.sampled_from(["", " ", "a", "hello"])
ids = st.sampled_from(["", "1", "2", "3"])
blocks = st.one_of(
    st.builds(TextBlock, texts),
    st.builds(ThinkingBlock, texts),
    st.builds(ToolUseBlock, ids, st.just("f")),
    st.builds(ToolResultBlock, ids, st.lists(st.builds(TextBlock, texts), max_size=2).map(tuple)),
    st.just(RawBlock("x", {})),
    st.just(ImageBlock("image/png", b"x")),
)
histories = st.lists(
    st.builds(Message, st.sampled_from(["user", "assistant"]), st.lists(blocks, max_size=4).map(tuple)), max_size=8
)


@given(histories)
@settings(max_examples=500, deadline=None)
def test_p1_whatever_is_repaired_is_valid_and_stays_as_it_is(messages):
    repaired = alloy.repair_history(messages)

    alloy.check_history(repaired)
    assert alloy.repair_history(repaired) == repaired


@given(histories)
@settings(deadline=None)
def test_what_is_valid_already_is_left_alone(messages):
    try:
        alloy.check_history(messages)
    except alloy.HistoryError:
        return
    assert alloy.repair_history(messages) == tuple(messages)


EVERYTHING = (
    user(
        "Hi.", ImageBlock("image/png", b"\x00\xff"), DocumentBlock("application/pdf", url="https://x.test/a", name="a")
    ),
    Message(
        "assistant",
        (
            ThinkingBlock("hm", signature="s", extra={"n": None}),
            RawBlock("odd", {"deep": [1, {"none": None}]}),
            ServerToolUseBlock("s1", "search", {"q": "x"}, {"raw": 1}),
            ServerToolResultBlock("s1", "search", {"raw": 2}, is_error=True),
            TextBlock("Yes.", extra={"cite": [1]}),
            ToolUseBlock("1", "f", {"x": 1.5, "y": None}, extra={"sig": "z"}),
            ToolUseBlock("2", "f", {}, invalid="{"),
        ),
        provider="p",
        model="m",
        origin="o",
        usage=Usage(input_tokens=3, requests=1),
    ),
    user(ToolResultBlock("1", (TextBlock("ok"), ImageBlock("image/png", b"x")), name="f"), result("2")),
    Message("assistant", (TextBlock("So"),), interrupted=True),
)


def test_every_block_goes_through_json_unchanged():
    document = alloy.messages_to_json(EVERYTHING)

    assert json.loads(document)["v"] == 1
    assert alloy.messages_from_json(document) == EVERYTHING
    assert alloy.messages_from_json(document.decode()) == EVERYTHING
    alloy.check_history(EVERYTHING)


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ("", "Invalid JSON"),
        ("{", "Invalid JSON"),
        ("[]", "object"),
        ('{"v": 2, "messages": []}', "at v"),
        ('{"v": 1}', "messages"),
        ('{"v": 1, "messages": [{"role": "user", "content": [{"type": "riddle"}]}]}', "riddle"),
        ('{"v": 1, "messages": [{"role": "king", "content": []}]}', "role"),
    ],
)
def test_p9_a_document_that_is_no_history_is_an_error_that_says_where(document, says):
    with pytest.raises(alloy.HistoryError, match=says) as caught:
        alloy.messages_from_json(document)

    assert caught.value.problems[0].rule == "unreadable"


def test_media_are_either_bytes_or_an_address():
    with pytest.raises(InvalidOptionError):
        ImageBlock("image/png")
    with pytest.raises(InvalidOptionError):
        ImageBlock("image/png", b"x", "https://x.test")


def test_a_prompt_may_be_text_blocks_or_a_message():
    image = ImageBlock("image/png", b"x")

    assert as_user_message("Hi.") == user("Hi.")
    assert as_user_message(image) == user(image)
    assert as_user_message([TextBlock("Look:"), image]) == user("Look:", image)
    assert as_user_message(user("Hi.")) == user("Hi.")
    for wrong in (3, [], assistant("Hi."), [result("1")], ThinkingBlock("hm")):
        with pytest.raises(InvalidOptionError):
            as_user_message(wrong)


def test_ids_that_are_taken_get_a_number():
    message = assistant(ToolUseBlock("a", "f"), ToolUseBlock("a", "f"), ToolUseBlock("", "f"), ToolUseBlock("b", "f"))

    assert [call.id for call in own_call_ids(message, {"b"}).tool_uses] == ["a", "a_2", "call_4", "b_2"]
    assert own_call_ids(user("Hi."), set()) == user("Hi.")
