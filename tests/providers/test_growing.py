"""A conversation that grows is sent as if it had come at once, whatever was sent before."""

from __future__ import annotations

import json

import pytest

from alloy._memo import Appended, Growing
from alloy.messages import Message, TextBlock, ToolResultBlock, ToolUseBlock
from alloy.providers import Anthropic, ChatCompletions, Gemini, OpenAI
from alloy.providers.base import Request

ADAPTERS = {
    "anthropic": lambda: Anthropic("claude-sonnet-4-5", "key"),
    "openai": lambda: OpenAI("gpt-5-mini", "key"),
    "chat": lambda: ChatCompletions("gpt-4.1-mini", "key"),
    "gemini": lambda: Gemini("gemini-2.5-flash", "key"),
}
each_adapter = pytest.mark.parametrize("make", ADAPTERS.values(), ids=ADAPTERS)


def said(role, text):
    return Message(role, (TextBlock(text),))


def rounds(count, city="Rome"):
    """A conversation with tool rounds, in which the user sometimes says more behind the results."""
    messages = [said("user", "Go on.")]
    for number in range(count):
        call = ToolUseBlock(f"call_{number}", "weather", {"city": city})
        messages += [
            Message("assistant", (TextBlock(f"Round {number}."), call)),
            Message("user", (ToolResultBlock(call.id, (TextBlock("Rain."),), name="weather"),)),
        ]
        if number % 3 == 2:
            messages += [said("user", "And then?"), said("assistant", "Nothing."), said("user", "Go on.")]
    return messages


def body(adapter, messages, system="Be brief."):
    return json.loads(adapter.encode(Request(messages=messages, system=system)))


@each_adapter
def test_a_conversation_that_grows_is_sent_as_if_it_had_come_at_once(make):
    adapter, messages = make(), rounds(12)

    for end in range(1, len(messages) + 1):
        assert body(adapter, messages[:end]) == body(make(), messages[:end])


@each_adapter
def test_a_conversation_that_was_shortened_edited_or_left_is_sent_as_it_is(make):
    adapter, messages = make(), rounds(6)
    other = rounds(6, "Oslo")
    edited = [*messages[:5], said("assistant", "Something else."), *messages[6:5:-1], said("user", "Well?")]

    for one in (messages, messages[:9], other[:4], edited, messages, [messages[0], said("assistant", "No.")], other):
        assert body(adapter, one) == body(make(), one)


@each_adapter
def test_a_list_that_somebody_changes_in_place_is_sent_as_it_is(make):
    adapter, messages = make(), rounds(6)
    body(adapter, messages)
    messages[4] = Message("user", (ToolResultBlock("call_1", (TextBlock("Snow."),), name="weather"),))

    assert body(adapter, messages) == body(make(), messages)
    assert "Snow." in str(body(adapter, messages))


@each_adapter
def test_a_history_to_which_is_appended_is_sent_as_it_is_also_where_its_last_message_was_replaced(make):
    adapter, whole = make(), rounds(6)
    messages = Appended(whole[:8])
    for at in range(8, len(whole)):
        messages.append(whole[at])
        assert body(adapter, messages) == body(make(), [*messages])
    messages[-1:] = [said("user", "Rather not.")]

    assert body(adapter, messages) == body(make(), [*messages])
    assert "Rather not." in str(body(adapter, messages))


def test_a_history_to_which_is_appended_is_not_looked_through_again():
    class Counted(Appended):
        looks = 0

        def __iter__(self):
            Counted.looks += 1
            return super().__iter__()

    growing = Growing(list, lambda made, message: made.append(message.text), size=len)
    messages = Counted([said("user", "a"), said("assistant", "b")])
    assert growing(messages) == ["a", "b"]
    messages.append(said("user", "c"))
    assert growing(messages, without=1) == ["a", "b"]
    assert growing(messages) == ["a", "b", "c"]
    assert Counted.looks == 0
    assert growing([*messages]) == ["a", "b", "c"]
    assert growing(messages[:1], without=1) == []


@each_adapter
def test_the_system_prompt_and_a_conversation_of_one_message_change_freely(make):
    adapter, messages = make(), rounds(1)

    for system in ("Be brief.", None, "Be long."):
        for end in (3, 1):
            assert body(adapter, messages[:end], system) == body(make(), messages[:end], system)


def test_what_was_used_least_recently_is_forgotten_when_it_gets_too_much():
    looked = []

    def add(made, message):
        looked.append(message.text)
        made.append(message)

    growing = Growing(list, add, size=len, limit=3)
    first, second = [said("user", "a"), said("assistant", "b")], [said("user", "c"), said("assistant", "d")]
    for conversation in (first[:1], second[:1], first, second):
        growing(conversation)
    assert looked == ["a", "c", "b", "d"]

    growing(second)
    growing(first)

    assert looked == ["a", "c", "b", "d", "a", "b"]


def test_an_error_leaves_nothing_half_done():
    broken = [True]

    def add(made, message):
        made.append(message.text)
        if broken[0]:
            raise ValueError(message.text)

    growing = Growing(list, add, size=len)
    messages = [said("user", "a"), said("assistant", "b")]
    with pytest.raises(ValueError, match="a"):
        growing(messages)
    broken[0] = False

    assert growing(messages) == ["a", "b"]
