"""Whatever history there is, what is sent to Anthropic keeps to its rules."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy.messages import (
    Message,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    as_user_message,
)
from alloy.providers.anthropic import Anthropic
from alloy.providers.base import Request, ToolSpec
from tests.providers.histories import TEXTS, answers, requests
from tests.providers.rules_anthropic import check

USE = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "x"}}
RESULT = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_1", "content": []}
LATER = {"type": "web_search_tool_result", "tool_use_id": "srvtoolu_0", "content": []}
OWN = st.one_of(
    TEXTS,
    st.just(TextBlock("Cited.", {"citations": [{"type": "char_location"}]})),
    st.just(ThinkingBlock("Hm.", "S0")),
    st.just(ThinkingBlock("", "S0")),
    st.just(ThinkingBlock("Cut off")),
    st.just(RawBlock("redacted_thinking", {"type": "redacted_thinking", "data": "x"})),
    st.just(RawBlock("compaction", {"type": "compaction", "content": "So far."})),
    st.just(RawBlock("container", {"id": "container_1"})),
    st.just(ServerToolUseBlock("srvtoolu_1", "web_search", {"query": "x"}, USE)),
    st.just(ServerToolResultBlock("srvtoolu_1", "web_search", RESULT)),
    st.just(ServerToolResultBlock("srvtoolu_0", "web_search", LATER)),
)
SETTINGS = {
    "plain": {},
    "uncached": {"cache": None},
    "much": {
        "cache": "1h",
        "citations": True,
        "parallel_tool_calls": False,
        "effort": "low",
        "response_schema": {"type": "object"},
        "server_tools": [{"type": "code_execution_20260521", "name": "code_execution", "defer_loading": True}],
    },
}
PROVIDERS = {name: Anthropic("claude-sonnet-5-5", "sk-0123456789", **settings) for name, settings in SETTINGS.items()}
ORIGIN = PROVIDERS["plain"].origin


@pytest.mark.parametrize("settings", PROVIDERS)
@given(request=requests(ORIGIN, own=OWN))
def test_whatever_is_sent_keeps_the_rules(settings, request):
    sent = PROVIDERS[settings].encode(request)

    check(json.loads(sent), signatures={"S0"})
    assert b"elsewhere" not in sent
    assert b"encrypted" not in sent


@given(request=requests(ORIGIN, own=OWN), drawn=answers(ORIGIN, own=OWN))
def test_an_answer_that_paused_goes_back_as_it_is(request, drawn):
    message, _ = drawn
    paused = Message("assistant", (ThinkingBlock("", "S0"), *message.content, TextBlock("On.")), origin=ORIGIN)
    body = json.loads(PROVIDERS["plain"].encode(Request(messages=[*request.messages, paused])))

    check(body | {"messages": body["messages"][:-1]}, signatures={"S0"})
    assert body["messages"][-1]["role"] == "assistant"
    assert body["messages"][-1]["content"][0] == {"type": "thinking", "thinking": "", "signature": "S0"}


@given(request=requests(ORIGIN, own=OWN))
def test_the_same_request_is_sent_in_the_same_bytes(request):
    fresh = Anthropic("claude-sonnet-5-5", "sk-0123456789")

    assert fresh.encode(request) == fresh.encode(request) == PROVIDERS["plain"].encode(request)


@given(request=requests(ORIGIN, own=OWN))
def test_what_was_sent_is_sent_again_with_whatever_follows(request):
    """A cache serves only a prompt that begins as another did, and a signature holds only behind what it was made behind."""
    uncached = PROVIDERS["uncached"]
    answered = Message("assistant", (TextBlock("Yes."),), origin=ORIGIN)
    longer = Request(
        messages=[*request.messages, answered, as_user_message("And?")],
        system=request.system,
        tools=request.tools,
        stream=request.stream,
    )

    assert uncached.encode(longer).startswith(uncached.encode(request)[:-2])


def test_the_checker_sees_what_is_wrong():
    good = json.loads(
        PROVIDERS["plain"].encode(
            Request(messages=[as_user_message("Hi")], tools=(ToolSpec("t", "T", {"type": "object"}),))
        )
    )
    check(good, signatures=set())
    thinking = {"role": "assistant", "content": [{"type": "thinking", "thinking": "", "signature": "S1"}]}
    orphan = {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "x"}]}],
    }
    for wrong in (
        {"messages": []},
        {"messages": good["messages"] * 2},
        {"messages": [*good["messages"], thinking]},
        {"messages": [orphan]},
        {"tools": good["tools"] * 2},
        {"tools": []},
        {"prompt": "Hi"},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": " "}]}]},
    ):
        with pytest.raises(AssertionError):
            check(good | wrong, signatures={"S0"})
