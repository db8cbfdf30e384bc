"""Shorter histories out of long ones: always valid, never between calls and results."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

import alloy
from alloy.loop.shortening import (
    CLEARED,
    LEFT_OUT,
    MARK,
    clear_results,
    clipped,
    fitting,
    forget_thinking,
    join,
    note,
    recent_from,
    removed,
    shrink,
    split,
    words_of_user,
)
from alloy.messages import ImageBlock, Message, RawBlock, TextBlock, ThinkingBlock, ToolResultBlock, ToolUseBlock
from alloy.usage import Usage
from tests.providers.histories import histories

LONG = "word " * 500


def user(*texts: str) -> Message:
    return Message("user", tuple(map(TextBlock, texts)))


def said(text: str) -> Message:
    return Message("assistant", (TextBlock(text),))


def step(number: int, result: str = "fine") -> list[Message]:
    """A call and its result."""
    call = ToolUseBlock(f"c{number}", "look", {"at": number})
    return [Message("assistant", (call,)), Message("user", (ToolResultBlock(call.id, (TextBlock(result),)),))]


def size(message: Message) -> int:
    """Tokens for these tests: one for a block."""
    return len(message.content)


@given(histories("o"), st.integers(0, 30))
@settings(max_examples=100, deadline=None)
def test_p1_a_history_can_be_cut_for_any_recent_part_twice_over(history, keep):
    for summary in ("So far.", "And further."):
        parts = split(history)
        start = recent_from(parts.rest, keep, size)
        if parts.rest[:start]:
            shorter = join(parts.head, summary, parts.rest[start:])
            alloy.check_history(shorter)
            assert shorter[-1].role == history[-1].role
            assert shorter[-1].content[-1] is history[-1].content[-1]
            assert shorter[0].content[: len(parts.head)] == parts.head
            assert split(shorter).summary == summary
            history = shorter


@given(histories("o"), st.integers(0, 20), st.integers(0, 5))
@settings(max_examples=100, deadline=None)
def test_p1_clearing_and_shrinking_leave_histories_valid(history, until, keep):
    alloy.check_history(clear_results(history, until, keep))
    for everything in (False, True):
        shorter = shrink(history, lambda attempt: True, everything=everything)
        assert shorter is not None
        alloy.check_history(shorter)


def test_what_was_kept_is_the_first_message_the_summary_and_the_recent_part():
    history = [user("Do it."), *step(1), *step(2), said("Half."), user("Go on."), *step(3)]

    parts = split(history)
    start = recent_from(parts.rest, 3, size)
    shorter = join(parts.head, "Two steps.", parts.rest[start:])

    assert [message.role for message in shorter] == ["user", "assistant", "user"]
    assert [block.text for block in shorter[0].content] == [
        "Do it.",
        f"{MARK}\nTwo steps.\n</conversation_summary>",
        "Go on.",
    ]
    assert shorter[1:] == tuple(history[-2:])


def test_what_the_user_said_stays_word_for_word_in_lines():
    words = words_of_user([user("Use port 8080.", "And\nTLS."), *step(1), said("Yes."), user("x" * 3000)])
    assert words[0] == "Use port 8080.And TLS."
    assert len(words) == 2
    assert len(words[1]) < 2100

    shorter = join(user("Do it.").content, "A step.", [said("Well.")], words)

    parts = split(shorter)
    assert (parts.summary, parts.words, parts.rest) == ("A step.", tuple(words), (said("Well."),))
    assert split(join(parts.head, "More.", [], parts.words)).words == tuple(words)


def test_what_the_user_said_is_cut_then_left_out_where_long_and_then_where_old():
    words = ["first", LONG, "second", LONG]
    assert [len(one) > 900 for one in fitting(words, 700)] == [False, True, False, True]
    assert [one[:6] for one in fitting(words, 60)] == ["first", "second", "word w"]
    assert fitting(words, 8) == ["first", "second"]
    assert fitting(words, 3) == ["second"]
    assert fitting(words, 0) == []


def test_what_followed_a_summary_is_older_the_next_time():
    shorter = join(user("Do it.").content, "Two steps.", [user("Go on."), said("Yes.")])

    parts = split(shorter)

    assert parts.head == user("Do it.").content
    assert parts.summary == "Two steps."
    assert parts.rest == (user("Go on."), said("Yes."))


def test_the_last_step_is_kept_however_large_it_is():
    rest = [*step(1), *step(2)]
    assert recent_from(rest, 0, size) == 2
    assert recent_from(rest, 100, size) == 0


def test_a_note_stands_behind_the_summary_there_was_and_is_there_once():
    assert note(None) == LEFT_OUT
    assert note("Two steps.") == f"Two steps.\n\n{LEFT_OUT}"
    assert note(note("Two steps.")) == note("Two steps.")
    assert note(note(None)) == LEFT_OUT


def test_old_results_are_cleared_but_the_newest_and_the_short_ones():
    history = [user("Do it."), *step(1, LONG), *step(2, "short"), *step(3, LONG), *step(4, LONG)]

    cleared = clear_results(history, until=7, keep=1)

    assert [m.tool_results[0].text for m in cleared if m.tool_results] == [CLEARED, "short", CLEARED, LONG]
    assert clear_results(history, until=len(history), keep=4) == tuple(history)
    assert clear_results(history, until=3, keep=0)[5:] == tuple(history[5:])


def test_pictures_in_old_results_are_cleared():
    call = ToolUseBlock("c", "look")
    result = ToolResultBlock("c", (TextBlock("a cat"), ImageBlock("image/png", b"x")))
    history = [user("Look."), Message("assistant", (call,)), Message("user", (result,)), said("A cat.")]

    assert clear_results(history, 4, 0)[2].tool_results[0].content == (TextBlock(CLEARED),)


def test_thinking_is_forgotten_behind_the_first_change_where_it_is_bound_to_what_was_before():
    thought = Message("assistant", (ThinkingBlock("Hm.", "signed"), TextBlock("Yes.")), usage=Usage(input_tokens=5))
    alone = Message("assistant", (RawBlock("redacted_thinking", {}),))
    before = [user("One."), thought, user("Two."), thought, user("Three."), alone, user("Four.")]
    after = [*before[:2], user("2"), *before[3:]]

    kept = forget_thinking(before, after, bound=True)

    assert kept[1] is thought
    assert kept[3].content == (TextBlock("Yes."),)
    assert kept[3].usage is None
    assert kept[5].content == (TextBlock("(no words)"),)
    alloy.check_history(kept)
    unbound = forget_thinking(before, after, bound=False)
    assert unbound[3].content == thought.content
    assert unbound[3].usage is None


def test_what_a_shorter_history_has_lost_is_told_without_what_it_has():
    history = [user("Do it."), *step(1), said("Half."), user("Go on."), said("Well.")]
    shorter = join(history[0].content, "A step.", forget_thinking([], history[4:], bound=True))
    assert removed(history, shorter) == tuple(history[1:4])

    again = join(history[0].content, "More.", [history[5]])
    assert removed(shorter, again) == (shorter[0],)  # whose own words "Go on." are gone


def test_only_results_are_shrunk_as_long_as_that_is_enough():
    history = [user(LONG), *step(1, LONG * 4)]

    def fits(attempt):
        return (
            sum(len(block.text) for m in attempt for block in m.content if not isinstance(block, ToolUseBlock)) < 4000
        )

    shorter = shrink(history, fits, everything=False)

    assert shorter is not None
    assert shorter[0] is history[0]
    text = shorter[2].tool_results[0].text
    assert 1000 < len(text) < 1700
    assert text.startswith("word word")
    assert "characters left out" in text
    assert shrink([user(LONG * 4), *step(1)], fits, everything=False) is None


def test_everything_is_shrunk_when_nothing_else_helps():
    call = ToolUseBlock("c", "write", {"text": LONG, "more": [{"deep": LONG}], "n": 5}, extra={"signed": "x"})
    picture = ToolResultBlock("c", (ImageBlock("image/png", b"x"),))
    history = [user(LONG), Message("assistant", (TextBlock(LONG), call)), Message("user", (picture,))]

    shorter = shrink(history, lambda attempt: len(attempt[0].text) < 300, everything=True)

    assert shorter is not None
    alloy.check_history(shorter)
    given = shorter[1].tool_uses[0]
    assert given.input["n"] == 5
    assert len(given.input["text"]) < 300
    assert len(given.input["more"][0]["deep"]) < 300
    assert given.extra is None
    assert shorter[2].tool_results[0].content == (TextBlock(CLEARED),)


def test_a_clipped_text_says_how_much_is_missing():
    assert clipped("short", 10) == "short"
    assert clipped("a" * 50 + "b" * 50, 20) == (
        "a" * 10 + "\n[... 80 characters left out to save space ...]\n" + "b" * 10
    )
