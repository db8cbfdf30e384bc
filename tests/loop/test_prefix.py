"""Requests of one conversation begin alike, and it is told when they don't."""

from __future__ import annotations

import dataclasses

import pytest

import alloy
from alloy.loop.prefix import Prefix
from alloy.messages import TextBlock
from alloy.providers.base import Request
from alloy.testing import Recorder, Scripted, calls

pytestmark = pytest.mark.anyio


@alloy.tool
async def look(at: str) -> str:
    """Looks at something."""
    return f"{at} is fine"


SCRIPT = [calls("look", at="a"), calls("look", at="b"), "Done."]


async def broken(*middleware: alloy.Middleware, **options) -> list[dict]:
    """What is told of prefixes in a run of three requests."""
    recorder = Recorder()
    await alloy.run("Go.", provider=Scripted(SCRIPT), tools=[look], middleware=middleware, on_event=recorder, **options)
    return [one.payload for one in recorder.named("runtime_event") if one.payload["kind"] == "prefix_changed"]


async def test_a_run_that_goes_its_way_breaks_no_prefix():
    script = Scripted(SCRIPT)
    await alloy.run("Go.", provider=script, tools=[look], system_prompt="Be brief.")
    for before, after in zip(script.requests, script.requests[1:], strict=False):
        assert after.messages[: len(before.messages)] == before.messages
        assert (after.system, after.tools) == (before.system, before.tools)
    assert await broken() == []


async def test_a_system_prompt_that_changes_is_told():
    class Clock(alloy.Middleware):
        async def before_completion(self, request, run):
            return dataclasses.replace(request, system=f"Turn {run.turn}.")

    assert await broken(Clock()) == [{"kind": "prefix_changed", "what": ["system"], "at": None}] * 2


async def test_tools_that_change_are_told():
    class Fewer(alloy.Middleware):
        async def before_completion(self, request, run):
            return dataclasses.replace(request, tools=()) if run.turn == 2 else None

    assert [one["what"] for one in await broken(Fewer())] == [["tools"], ["tools"]]


async def test_messages_that_change_are_told_with_the_first_of_them():
    class Edit(alloy.Middleware):
        async def before_completion(self, request, run):
            if run.turn == 3:
                edited = alloy.Message("user", (TextBlock("Go!"),))
                return dataclasses.replace(request, messages=[edited, *request.messages[1:]])
            return None

    assert await broken(Edit()) == [{"kind": "prefix_changed", "what": ["messages"], "at": 0}]

    class Drop(alloy.Middleware):
        async def before_completion(self, request, run):
            return dataclasses.replace(request, messages=request.messages[:1]) if run.turn == 3 else None

    assert await broken(Drop()) == [{"kind": "prefix_changed", "what": ["messages"], "at": 1}]


async def test_words_at_the_end_of_each_request_break_nothing():
    class Remind(alloy.Middleware):
        async def before_completion(self, request, run):
            last = request.messages[-1]
            reminded = dataclasses.replace(last, content=(*last.content, TextBlock(f"This is turn {run.turn}.")))
            return dataclasses.replace(request, messages=[*request.messages[:-1], reminded])

    assert await broken(Remind()) == []


async def test_a_compaction_is_told_as_what_it_is():
    class Shorten(alloy.Middleware):
        async def compact(self, messages, run):
            return messages[-1:] if run.turn == 1 and len(messages) > 1 else None

    earlier = [alloy.Message("user", (TextBlock("Hi."),)), alloy.Message("assistant", (TextBlock("Hello."),))]
    assert await broken(Shorten(), messages=earlier) == []  # the first request has nothing to be like


def test_another_model_is_told():
    prefix, request = Prefix(), Request(messages=[alloy.Message("user", (TextBlock("Hi."),))])
    assert prefix.follow(request, Scripted([]), edited=False) is None
    assert prefix.follow(request, Scripted([]), edited=False) is None
    assert prefix.follow(request, Scripted([], model="other"), edited=False) == {"what": ["model"], "at": None}
