"""How tool calls are executed."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import anyio
import pytest

import alloy
from alloy.loop.toolrun import head_and_tail
from alloy.messages import ImageBlock, TextBlock, ToolUseBlock
from alloy.testing import Recorder, Reply, calls, check_envelopes, run_script, together
from alloy.tools import stuck_threads

pytestmark = pytest.mark.anyio


async def test_calls_that_are_safe_together_run_together_and_results_keep_their_order():
    second_began = anyio.Event()

    @alloy.tool
    async def wait_for_second() -> str:
        """Waits for the other."""
        await second_began.wait()
        return "first"

    @alloy.tool
    async def second() -> str:
        """Lets the other go on."""
        second_began.set()
        return "second"

    with anyio.fail_after(5):
        result = await run_script(
            [together(calls("wait_for_second"), calls("second")), "Done."], tools=[wait_for_second, second]
        )

    assert [block.text for block in result.messages[2].tool_results] == ["first", "second"]


async def test_calls_that_are_not_safe_run_alone_and_all_in_call_order():
    log: list[str] = []

    def made(name: str, *, safe: bool) -> alloy.Tool:
        async def work(arguments, context):
            log.append(f"{name} begins")
            await anyio.lowlevel.checkpoint()
            log.append(f"{name} ends")

        return alloy.Tool(name=name, description="Logs.", function=work, concurrency_safe=safe)

    tools = [made("a", safe=True), made("b", safe=True), made("write", safe=False), made("c", safe=True)]
    await run_script([together(*(calls(tool.name) for tool in tools)), "Done."], tools=tools)

    assert log == ["a begins", "b begins", "a ends", "b ends", "write begins", "write ends", "c begins", "c ends"]


async def test_a_tool_that_raises_gives_the_model_an_error_and_the_run_goes_on():
    @alloy.tool
    async def broken() -> str:
        """Breaks."""
        raise ValueError("no such thing")

    result = await run_script([calls("broken"), "I see."], tools=[broken])

    assert result.text == "I see."
    assert result.tool_calls[0].is_error
    assert result.messages[2].tool_results[0].text == "ValueError: no such thing"


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_a_tool_that_calls_sys_exit_does_not_end_the_run(kind):
    def leave(arguments, context):
        sys.exit(3)

    async def leave_async(arguments, context):
        sys.exit(3)

    function = leave if kind == "sync" else leave_async
    result = await run_script(
        [calls("leave"), "Still here."], tools=[alloy.Tool(name="leave", description="Leaves.", function=function)]
    )

    assert result.text == "Still here."
    assert "sys.exit(3)" in result.messages[2].tool_results[0].text


async def test_a_tool_that_dies_of_a_stray_cancellation_is_an_error_result():
    @alloy.tool
    async def stray() -> str:
        """Awaits a task that somebody cancelled."""
        raise asyncio.CancelledError

    result = await run_script([together(calls("stray"), calls("stray")), calls("stray"), "Fine."], tools=[stray])

    assert result.text == "Fine."
    assert [call.is_error for call in result.tool_calls] == [True, True, True]


async def test_a_tool_that_hangs_is_timed_out_and_the_run_goes_on():
    @alloy.tool(timeout=0.02)
    async def hang() -> str:
        """Hangs."""
        await anyio.sleep_forever()

    with anyio.fail_after(5):
        result = await run_script([calls("hang"), "I see."], tools=[hang])

    assert result.text == "I see."
    assert "Timed out after 0.02 seconds" in result.messages[2].tool_results[0].text


async def test_p4_a_thread_that_hangs_is_abandoned_visibly_and_not_waited_for():
    release = threading.Event()

    @alloy.tool
    def hang() -> str:
        """Hangs."""
        release.wait(30)
        return "late"

    with anyio.fail_after(5):
        result = await run_script([calls("hang"), "I see."], tools=[hang], tool_timeout=0.02)
    stuck = stuck_threads()
    release.set()

    assert result.tool_calls[0].is_error
    assert len(stuck) == 1
    for thread in threading.enumerate():
        if thread.name in stuck:
            thread.join(5)
    assert stuck_threads() == ()


def test_p4_a_thread_that_hangs_does_not_keep_the_process_from_ending():
    program = """
import asyncio, threading, alloy
from alloy.testing import calls, run_script

@alloy.tool(timeout=0.01)
def hang() -> str:
    "Hangs."
    threading.Event().wait()

print(asyncio.run(run_script([calls("hang"), "I see."], tools=[hang])).text)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)

    assert (ended.stdout, ended.stderr, ended.returncode) == ("I see.\n", "", 0)


async def test_p7_a_sync_tool_does_not_block_the_event_loop():
    began, ended = threading.Event(), threading.Event()

    @alloy.tool
    def block() -> str:
        """Blocks until the event loop has done something."""
        began.set()
        return "the loop went on" if ended.wait(5) else "the loop was blocked"

    async def watch():
        while not began.is_set():
            await anyio.lowlevel.checkpoint()
        ended.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(watch)
        result = await run_script([calls("block"), "Done."], tools=[block])

    assert result.messages[2].tool_results[0].text == "the loop went on"


async def test_what_can_not_be_serialised_is_an_error_result():
    @alloy.tool
    async def odd() -> object:
        """Gives something odd."""
        return threading.Lock()

    result = await run_script([calls("odd"), "I see."], tools=[odd])

    assert result.tool_calls[0].is_error
    assert result.text == "I see."


async def test_an_unknown_tool_and_bad_arguments_are_error_results_that_say_what_would_do():
    @alloy.tool
    async def greet(name: str) -> str:
        """Greets."""
        return f"Hello {name}"

    invalid = Reply(tool_calls=(ToolUseBlock("", "greet", {}, invalid='{"name": '),))
    result = await run_script([together(calls("great", name="Ann"), calls("greet")), invalid, "."], tools=[greet])

    texts = [block.text for message in result.messages for block in message.tool_results]
    assert texts[0] == "Not executed: there is no tool called 'great'; the tools are: greet"
    assert "name" in texts[1]
    assert "\n" not in texts[1]
    assert "aren't a JSON object" in texts[2]
    assert all(call.is_error for call in result.tool_calls)


async def test_structured_values_reach_the_application_and_their_json_the_model():
    @alloy.tool
    async def look() -> dict[str, int]:
        """Looks."""
        return {"ships": 3}

    result = await run_script([calls("look"), "."], tools=[look])

    assert result.tool_calls[0].data == {"ships": 3}
    assert result.messages[2].tool_results[0].text == '{"ships":3}'


async def test_images_reach_the_model():
    image = ImageBlock("image/png", b"\x89PNG")

    @alloy.tool
    async def photo() -> alloy.ToolOutput:
        """Takes a photo."""
        return alloy.ToolOutput("A photo.", media=(image,))

    result = await run_script([calls("photo"), "."], tools=[photo])

    assert result.messages[2].tool_results[0].content == (TextBlock("A photo."), image)


async def test_a_tool_without_output_says_so():
    @alloy.tool
    async def nothing() -> None:
        """Does nothing."""

    result = await run_script([calls("nothing"), "."], tools=[nothing])

    assert result.messages[2].tool_results[0].text == "(no output)"
    alloy.check_history(result.messages)


async def test_long_results_keep_head_and_tail():
    @alloy.tool
    async def long() -> str:
        """Says much."""
        return "a" * 5000 + "ö" * 5000

    result = await run_script([calls("long"), "."], tools=[long], max_result_bytes=1000)

    text = result.messages[2].tool_results[0].text
    assert text.startswith("a" * 400)
    assert text.endswith("ö" * 200)
    assert "14000 bytes left out" in text


@pytest.mark.parametrize("limit", range(1, 20))
def test_cutting_never_splits_a_character(limit):
    cut = head_and_tail("äöü€𝄞" * 10, limit)

    assert "�" not in cut
    assert cut.encode()


async def test_a_tool_reports_progress_from_its_task_and_from_a_thread():
    @alloy.tool
    async def slow(context: alloy.ToolContext) -> str:
        """Reports."""
        context.report("from the task")
        return context.call_id

    @alloy.tool
    def slow_thread(context: alloy.ToolContext) -> str:
        """Reports."""
        context.report("from a thread")
        return context.correlation_id

    recorder = Recorder()
    result = await run_script(
        [together(calls("slow"), calls("slow_thread")), "."], tools=[slow, slow_thread], on_event=recorder
    )

    assert {one.payload["text"] for one in recorder.named("tool_progress")} == {"from the task", "from a thread"}
    assert [call.data or call.content[0].text for call in result.tool_calls] == ["call_1", result.request_id]
    check_envelopes(recorder.envelopes)


async def test_progress_after_the_end_of_a_call_is_not_sent():
    reports = []

    @alloy.tool
    async def quick(context: alloy.ToolContext) -> str:
        """Ends at once."""
        reports.append(context.report)
        return "done"

    recorder = Recorder()
    await run_script([calls("quick"), "."], tools=[quick], on_event=recorder)
    reports[0]("too late")

    assert recorder.named("tool_progress") == []
    assert recorder.events[-1] == "response"


async def test_the_context_tells_a_tool_where_it_is(tmp_path):
    seen = []

    @alloy.tool
    async def where(context: alloy.ToolContext) -> str:
        """Tells."""
        seen.append(context)
        return "here"

    await run_script([calls("where"), "."], tools=[where], working_directory=tmp_path, context={"user": 7})

    assert seen[0].working_directory == tmp_path
    assert seen[0].context == {"user": 7}
    assert (seen[0].tool_name, seen[0].turn) == ("where", 1)


class Crowd:
    """Tools that know how many of them run at once; each call waits until no more can come."""

    def __init__(self, **limits: int | None) -> None:
        self.now: dict[str, int] = dict.fromkeys(limits, 0)
        self.most: dict[str, int] = {**self.now, "all": 0}
        self.tools = [self._made(name, limit) for name, limit in limits.items()]

    def _made(self, name: str, limit: int | None) -> alloy.Tool:
        async def work(arguments, context):
            self.now[name] += 1
            self.most[name] = max(self.most[name], self.now[name])
            self.most["all"] = max(self.most["all"], sum(self.now.values()))
            await anyio.wait_all_tasks_blocked()
            self.now[name] -= 1
            return str(arguments["n"])

        return alloy.Tool(
            name=name,
            description="Works.",
            function=work,
            max_concurrency=limit,
            input_schema={"type": "object", "properties": {"n": {"type": "integer"}}},
        )


async def test_no_more_calls_run_at_once_than_the_run_and_the_tool_allow():
    crowd = Crowd(narrow=2, wide=None)
    batch = together(*(calls(name, n=n) for n in range(12) for name in ("narrow", "wide")))

    with anyio.fail_after(20):
        result = await run_script([batch, "Done."], tools=crowd.tools, max_concurrent_tools=5)

    assert crowd.most == {"narrow": 2, "wide": 3, "all": 5}
    assert [block.text for block in result.messages[2].tool_results] == [str(n) for n in range(12) for _ in range(2)]


async def test_a_tools_own_limit_does_not_keep_others_from_running():
    crowd = Crowd(narrow=1, wide=None)
    batch = together(*(calls("narrow", n=n) for n in range(8)), *(calls("wide", n=n) for n in range(8)))

    with anyio.fail_after(20):
        await run_script([batch, "Done."], tools=crowd.tools, max_concurrent_tools=4)

    assert crowd.most == {"narrow": 1, "wide": 3, "all": 4}


@pytest.mark.parametrize("limit", [0, -1, True, 1.5, "2"])
def test_a_limit_is_a_whole_number_above_0(limit):
    with pytest.raises(alloy.ConfigurationError):
        alloy.tool(max_concurrency=limit)(lambda: None)
    with pytest.raises(alloy.ConfigurationError):
        alloy.Config(max_concurrent_tools=limit)


async def test_the_context_tells_a_tool_how_long_it_may_take_and_what_else_is_allowed(tmp_path):
    seen: list[alloy.ToolContext] = []

    def look(context: alloy.ToolContext) -> None:
        """Looks."""
        seen.append(context)

    tools = [alloy.tool(look, name="slow", timeout=300), alloy.tool(look, name="usual")]
    await run_script(
        [together(calls("slow"), calls("usual")), "Done."],
        tools=tools,
        tool_timeout=7,
        allowed_paths=[tmp_path / "a" / ".." / "b", "c"],
    )

    assert {context.tool_name: context.timeout for context in seen} == {"slow": 300, "usual": 7}
    assert seen[0].allowed_paths == (tmp_path / "b", Path.cwd() / "c")


@pytest.mark.parametrize("paths", ["/tmp", Path("/tmp"), [""], [3], {"/tmp": 1}, None])
def test_allowed_paths_are_a_list_of_paths(paths):
    with pytest.raises(alloy.ConfigurationError, match="list of paths"):
        alloy.Config(allowed_paths=paths)


async def test_a_tool_that_heeds_its_time_can_tell_what_it_has_done_until_then():
    class Patient(alloy.Tool):
        name = "patient"
        description = "Does a part."
        grace = 60.0

        async def execute(self, arguments, context):
            with anyio.move_on_after(context.timeout):
                await anyio.sleep_forever()
            return "half of it"

    with anyio.fail_after(20):
        result = await run_script([calls("patient"), "Done."], tools=[Patient()], tool_timeout=0.05)

    assert result.tool_calls[0].content[0].text == "half of it"
