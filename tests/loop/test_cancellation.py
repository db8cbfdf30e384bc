"""Promises P1 to P4 under cancellation at every await point; later work adds scenarios here."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

import anyio
import pytest

import alloy
from alloy.messages import ServerToolUseBlock, TextBlock, ToolUseBlock
from alloy.testing import Reply, Scripted, calls, sweep, together
from alloy.testing.sweep import SIDES

log: list[str] = []


@alloy.tool
async def slow(name: str, context: alloy.ToolContext) -> str:
    """Takes a few steps."""
    log.append(f"{name} begins")
    await anyio.lowlevel.checkpoint()
    context.report("halfway")
    await anyio.lowlevel.checkpoint()
    log.append(f"{name} ends")
    return name


@alloy.tool(concurrency_safe=False)
async def alone(name: str) -> str:
    """Takes a step."""
    await anyio.lowlevel.checkpoint()
    return name


@alloy.tool
def threaded() -> str:
    """Runs in a thread."""
    return "done"


@alloy.tool(timeout=0.001)
async def hang() -> str:
    """Hangs until somebody gives up."""
    await anyio.sleep_forever()


class Steps(alloy.Middleware):
    """Awaits in every hook."""

    async def session_start(self, run):
        await anyio.lowlevel.checkpoint()

    async def compact(self, messages, run):
        await anyio.lowlevel.checkpoint()

    async def before_completion(self, request, run):
        await anyio.lowlevel.checkpoint()

    async def after_completion(self, completion, run):
        await anyio.lowlevel.checkpoint()

    async def after_tool_request(self, calls, run):
        await anyio.lowlevel.checkpoint()

    async def before_tool_call(self, call, run):
        await anyio.lowlevel.checkpoint()

    async def after_tool_execution(self, call, output, run):
        await anyio.lowlevel.checkpoint()

    async def on_context_overflow(self, error, messages, run):
        await anyio.lowlevel.checkpoint()
        return messages[-1:]

    async def after_compaction(self, before, after, run):
        await anyio.lowlevel.checkpoint()

    async def on_error(self, error, run):
        await anyio.lowlevel.checkpoint()

    async def session_end(self, result, run):
        await anyio.lowlevel.checkpoint()


class Held(Scripted):
    """A provider that must be entered and left."""

    async def __aenter__(self):
        await anyio.lowlevel.checkpoint()
        return self

    async def __aexit__(self, *_):
        with anyio.CancelScope(shield=True):
            await anyio.lowlevel.checkpoint()


EARLIER = [alloy.Message("user", (TextBlock("Hi."),)), alloy.Message("assistant", (TextBlock("Hello."),))]
TOOLS = [slow, alone, threaded, hang]


def two_calls() -> Reply:
    return together(Reply(text="Let me see. "), calls("slow", name="a"), calls("slow", name="b"))


def overflow() -> alloy.ProviderError:
    return alloy.ProviderError("too long", kind="context_overflow")


def refusal() -> Reply:
    return Reply(text="I was", stop_reason="refusal")


def cut() -> Reply:
    return Reply(tool_calls=(ToolUseBlock("", "slow", {"name": "a"}),), stop_reason="max_tokens")


def pause() -> Reply:
    return Reply(text="Wait. ", blocks=(ServerToolUseBlock("s", "search", {}, {}),), stop_reason="pause_turn")


SCRIPTS = {
    "words": lambda: [Reply(text="one two three", thinking="hm hm")],
    "parallel tools": lambda: [two_calls(), "Done now."],
    "tools one after the other": lambda: [
        together(calls("alone", name="a"), calls("slow", name="b"), calls("alone", name="c")),
        "Done now.",
    ],
    "a tool in a thread": lambda: [together(calls("threaded"), calls("slow", name="b")), "Done."],
    "a tool that times out": lambda: [together(calls("hang"), calls("slow", name="a")), "Done."],
    "unknown tools and bad arguments": lambda: [together(calls("nobody"), calls("slow", nom="a")), "Done."],
    "a pause": lambda: [pause(), two_calls(), "Done."],
    "a truncated call": lambda: [cut(), "Sorry."],
    "a history that was too long": lambda: [overflow(), two_calls(), "Done."],
}
FAILING = {
    "a refusal": lambda: [two_calls(), refusal()],
    "a broken answer": lambda: [
        two_calls(),
        Reply(text="So far so", error=alloy.ProviderError("lost", kind="network")),
    ],
    "a crash": lambda: [two_calls(), ValueError("bug")],
}


@pytest.mark.parametrize("script", SCRIPTS)
def test_p1_p2_p3_p4_hold_wherever_a_run_is_cancelled(script):
    async def scenario(probe):
        provider = Held(SCRIPTS[script]())
        options = {"tools": TOOLS, "middleware": [probe, Steps()], "on_event": probe, "timeout": 1000}
        await alloy.run("Go.", provider=provider, messages=EARLIER, **options)

    assert sweep(scenario) > 30


@pytest.mark.parametrize("script", SCRIPTS)
def test_p1_p2_p3_p4_hold_wherever_a_stream_is_cancelled(script):
    async def scenario(probe):
        provider = Held(SCRIPTS[script]())
        options = {"tools": TOOLS, "middleware": [probe, Steps()], "on_event": probe, "timeout": 1000}
        async with alloy.stream("Go.", provider=provider, messages=EARLIER, **options) as run:
            async for _ in run:
                await anyio.lowlevel.checkpoint()

    assert sweep(scenario, sides=(*SIDES, "one task")) > 30


def test_cancelling_any_single_task_of_a_stream_never_cuts_who_reads_it():
    ended: list[str] = []

    async def scenario(probe):
        ended.append("cut")
        options = {"tools": TOOLS, "middleware": [probe, Steps()], "on_event": probe}
        try:
            async with alloy.stream("Go.", provider=Held([two_calls(), "Done."]), **options) as run:
                async for _ in run:
                    await anyio.lowlevel.checkpoint()
                ended[-1] = run.result.status
        except asyncio.CancelledError:
            ended[-1] = "the reader was cancelled"
            raise

    assert sweep(scenario, sides=["one task"]) > 30
    assert set(ended) == {"completed", "cancelled", "the reader was cancelled"}


LONG = "A question that goes on for a while. " * 25


async def noted(messages):
    await anyio.lowlevel.checkpoint()


def long_talk() -> list[alloy.Message]:
    roles = ("user", "assistant") * 6
    return [alloy.Message(role, (TextBlock(f"{number} {LONG}"),)) for number, role in enumerate(roles)]


@pytest.mark.parametrize(
    "summary", ["Short.", alloy.ProviderError("no", kind="overloaded"), Reply(stop_reason="refusal")], ids=str
)
def test_p1_p2_p3_p4_hold_wherever_a_compaction_is_cancelled(summary):
    async def scenario(probe):
        writer = Held([summary, "Short."])
        compaction = {"provider": writer, "on_compaction": noted}
        options = {"tools": TOOLS, "middleware": [probe, Steps()], "on_event": probe, "retry_backoff": 0.0}
        script = Held([two_calls(), "Done."])
        await alloy.run(
            "Go.", provider=script, messages=long_talk(), max_tokens=1_500, compaction=compaction, **options
        )
        assert len(script.requests[0].messages) < 10

    assert sweep(scenario) > 30


@pytest.mark.parametrize("script", FAILING)
def test_p1_p2_p3_p4_hold_wherever_a_failing_run_is_cancelled(script):
    async def scenario(probe):
        options = {"tools": TOOLS, "middleware": [probe, Steps()], "on_event": probe}
        with pytest.raises(alloy.RunError):
            await alloy.run("Go.", provider=Held(FAILING[script]()), **options)

    assert sweep(scenario, sides=("task", "scope")) > 30


@dataclass
class Point:
    """A point."""

    x: int
    y: int


TYPED = {
    "native": lambda: [two_calls(), '{"x": 1}', "one two", '{"x": 1, "y": 2}'],
    "tool": lambda: [
        two_calls(),
        "one two",
        together(calls("final_result", x=1), calls("slow", name="c")),
        together(calls("slow", name="d"), calls("final_result", x=1, y=2), calls("alone", name="e")),
    ],
    "prompt": lambda: [two_calls(), '{"x": 1}', "one two", '{"x": 1, "y": 2}'],
}


@pytest.mark.parametrize("retries", [2, 1], ids=["completes", "fails"])
@pytest.mark.parametrize("way", TYPED)
def test_p1_p2_p3_p4_hold_wherever_a_run_that_has_to_give_a_result_is_cancelled(way, retries):
    async def scenario(probe):
        provider = Held(TYPED[way](), structured_output=way)
        options = {"tools": TOOLS, "middleware": [probe, Steps()], "on_event": probe, "output_retries": retries}
        with pytest.raises(alloy.RunError) if retries == 1 else contextlib.nullcontext():
            result = await alloy.run("Go.", provider=provider, messages=EARLIER, output_type=Point, **options)
            assert result.output == Point(1, 2)

    assert sweep(scenario, sides=("task", "scope")) > 30


def test_a_tool_that_ended_before_the_cancellation_keeps_its_result():
    """The sweep checks that histories are valid; this one, that finished work is in them."""
    ended: list[tuple[list[str], list[str]]] = []

    async def scenario(probe):
        log.clear()
        try:
            await alloy.run(
                "Go.", provider=Scripted([two_calls(), "Done."]), tools=TOOLS, middleware=[probe], on_event=probe
            )
        finally:
            for result in probe.results:
                kept = [call.data or call.content[0].text for call in result.tool_calls if not call.is_error]
                ended.append((sorted(line.split()[0] for line in log if line.endswith("ends")), sorted(kept)))

    sweep(scenario)

    assert ended
    assert all(done == kept for done, kept in ended)
    assert (["a", "b"], ["a", "b"]) in ended
    assert ([], []) in ended


def test_the_sweep_sees_a_task_that_is_left_behind():
    async def scenario(probe):
        scenario.kept = asyncio.get_running_loop().create_task(anyio.sleep_forever())
        await anyio.lowlevel.checkpoint()

    with pytest.raises(AssertionError, match="tasks left"):
        sweep(scenario)


def test_the_sweep_sees_a_second_outcome():
    async def scenario(probe):
        await alloy.run("Go.", provider=Scripted(["one"]), middleware=[probe], on_event=probe)
        await alloy.run("Go.", provider=Scripted(["two"]), middleware=[probe], on_event=probe)

    with pytest.raises(AssertionError):
        sweep(scenario)
