"""Servers that are started by a command."""

from __future__ import annotations

import json
import os
import shutil
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from mcp import types

import alloy
from alloy import errors
from alloy.mcp import connection, stdio
from alloy.mcp.elicitation import answerer
from alloy.tools import ToolContext, ToolOutput

pytestmark = pytest.mark.anyio

TINY = [sys.executable, "-I", "-S", str(Path(__file__).with_name("tiny_server.py"))]


@asynccontextmanager
async def tiny(*modes, **options):
    """A connection to the tiny server; gives a function that calls its tools."""
    async with alloy.mcp.connect([*TINY, *modes], **options) as server:
        yield server


async def call(server, name, report=lambda _: None, **arguments):
    """What a tool of the server gives back."""
    tool = next(tool for tool in server.tools if tool.original_name == name)
    context = ToolContext(
        call_id="1",
        tool_name=tool.name,
        correlation_id="r",
        turn=1,
        working_directory=Path.cwd(),
        context={},
        report=report,
    )
    return ToolOutput.of(await tool.execute(arguments, context))


def is_alive(pid):
    """Whether a process runs; one that has ended and isn't waited for doesn't."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def messages(journal):
    """What the server has heard."""
    return [json.loads(line) for line in journal.read_text().splitlines()] if journal.exists() else []


async def heard(journal, method):
    """Waits until the server has heard a message, and gives its parameters."""
    with anyio.fail_after(10):
        while not (found := [each["params"] for each in messages(journal) if each.get("method") == method]):
            await anyio.lowlevel.checkpoint()
    return found[0]


# --- Tools -----------------------------------------------------------------------------------------------------------


async def test_a_run_calls_the_tools_of_a_server_by_names_that_begin_with_the_servers():
    script = [alloy.testing.calls("tiny__echo", words="hello"), "It said hello."]
    async with tiny() as server:
        result = await alloy.run("Say hello.", provider=alloy.providers.Scripted(script), tools=[*server.tools])

    assert result.text == "It said hello."
    assert result.tool_calls[0].content[0].text == "hello"
    assert not result.tool_calls[0].is_error


async def test_a_tools_description_and_schema_are_the_servers():
    async with tiny(name="desk") as server:
        echo, *others = server.tools

    assert (echo.name, echo.original_name, echo.description) == ("desk__echo", "echo", "Tool echo.")
    assert echo.input_schema["required"] == ["words"]
    assert {tool.name for tool in others} >= {"desk__die", "desk__wait"}
    assert next(tool for tool in others if tool.original_name == "bare").description == "bare of the server desk."


async def test_only_tools_that_say_they_only_read_may_run_beside_others():
    async with tiny() as server:
        safe = {tool.original_name for tool in server.tools if tool.concurrency_safe}

    assert safe == {"echo"}


async def test_many_calls_are_answered_at_once_each_to_whom_it_belongs():
    answers = {}

    async def ask(number):
        answers[number] = (await call(server, "echo", words=str(number))).text

    async with tiny() as server, anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(ask, number)

    assert answers == {number: str(number) for number in range(50)}


async def test_progress_is_reported_line_by_line():
    lines = []
    async with tiny() as server:
        await call(server, "steps", lines.append)

    assert lines == ["1/2 step 1", "2/2 step 2"]


async def test_arguments_that_are_missing_are_the_servers_to_refuse():
    async with tiny() as server:
        with pytest.raises(errors.ToolError, match="server 'tiny' refuses: not today"):
            await call(server, "refuse")

        assert (await call(server, "echo", words="still here")).text == "still here"


async def test_a_result_that_is_not_what_the_server_promised_is_an_error_that_says_so():
    async with tiny() as server:
        with pytest.raises(errors.ToolError, match="server 'tiny' answered what the protocol doesn't allow"):
            await call(server, "wrong")


async def test_what_a_server_prints_besides_messages_does_no_harm():
    async with tiny() as server:
        assert (await call(server, "chatter")).text == "ok"
        assert (await call(server, "echo", words="and on")).text == "and on"


async def test_tools_are_those_of_now_after_the_server_says_that_they_changed():
    async with tiny() as server:
        before = server.tools
        await call(server, "grow")
        with anyio.fail_after(10):
            while server.tools is before:
                await anyio.lowlevel.checkpoint()

        assert [tool.name for tool in server.tools if tool not in before][-1] == "tiny__grown"


async def test_tools_can_be_asked_for():
    async with tiny() as server:
        await call(server, "grow")

        assert (await server.refresh())[-1].name == "tiny__grown"


# --- Questions --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_elicitation", [None, lambda question: None])
async def test_a_server_is_told_whether_the_user_can_be_asked(tmp_path, on_elicitation):
    journal = tmp_path / "journal"
    async with tiny(f"journal={journal}", on_elicitation=on_elicitation):
        capabilities = (await heard(journal, "initialize"))["capabilities"]

    assert ("elicitation" in capabilities) == (on_elicitation is not None)
    assert not {"sampling", "roots"} & capabilities.keys()


async def test_what_the_user_leaves_out_is_the_schemas_default():
    properties = {"name": {"type": "string"}, "age": {"type": "integer", "default": 7}, "odd": True}
    form = types.ElicitRequestFormParams(message="Who?", requested_schema={"type": "object", "properties": properties})
    answer = await answerer(lambda: "desk", lambda question: {"name": "Ada"})(None, form)

    assert (answer.action, answer.content) == ("accept", {"name": "Ada", "age": 7})


async def test_a_page_to_visit_is_asked_for_by_its_url():
    asked = []
    page = types.ElicitRequestURLParams(message="Log in.", url="https://example.org/login")
    answer = await answerer(lambda: "desk", lambda question: asked.append(question) or {})(None, page)

    assert (asked[0].server, asked[0].url, asked[0].schema) == ("desk", "https://example.org/login", {})
    assert (answer.action, answer.content) == ("accept", None)


# --- Cancellation and time --------------------------------------------------------------------------------------------


async def test_the_server_is_told_that_a_call_was_cancelled(tmp_path):
    journal = tmp_path / "journal"
    async with tiny(f"journal={journal}") as server:
        async with anyio.create_task_group() as group:
            group.start_soon(call, server, "wait")
            await heard(journal, "tools/call")
            group.cancel_scope.cancel()
        cancelled = await heard(journal, "notifications/cancelled")

        asked = next(each["id"] for each in messages(journal) if each.get("method") == "tools/call")
        assert cancelled["requestId"] == asked
        assert (await call(server, "echo", words="still here")).text == "still here"


async def test_a_call_that_takes_too_long_is_cancelled_at_the_server_and_told_to_the_model(tmp_path):
    journal = tmp_path / "journal"
    script = [alloy.testing.calls("tiny__wait"), "Too slow."]
    async with tiny(f"journal={journal}", timeout=0.05) as server:
        result = await alloy.run("Wait.", provider=alloy.providers.Scripted(script), tools=server.tools)
        await heard(journal, "notifications/cancelled")

    assert "Timed out after 0.05 seconds" in result.tool_calls[0].content[0].text


async def test_leaving_the_block_while_a_call_runs_elsewhere_ends_the_call():
    outcome = []

    async def wait(server):
        with pytest.raises(errors.AlloyError) as caught:
            await call(server, "wait")
        outcome.append(str(caught.value))

    async with anyio.create_task_group() as group, tiny() as server:
        group.start_soon(wait, server)
        await anyio.lowlevel.checkpoint()

    assert len(outcome) == 1


async def test_tools_outside_of_the_block_say_where_they_can_be_called():
    async with tiny() as server:
        pass

    with pytest.raises(errors.MCPServerError, match="inside 'async with'"):
        await call(server, "echo", words="?")


# --- Servers that die -------------------------------------------------------------------------------------------------


async def test_a_server_that_dies_in_a_call_makes_it_fail_with_its_last_words_and_the_next_call_starts_it_anew():
    async with tiny(env={"SOME_TOKEN": "sk-secret-123456789"}) as server:
        with pytest.raises(errors.ToolError) as caught:
            await call(server, "die")

        assert "broke off in the middle of the call (it ended with code 3" in str(caught.value)
        assert "the disk is full" in str(caught.value)
        assert "may or may not have taken effect" in str(caught.value)
        assert "sk-secret" not in str(caught.value)
        assert (await call(server, "echo", words="back again")).text == "back again"


async def test_a_server_that_dies_again_and_again_is_given_up_for_a_while(monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_WAIT", 0.001)
    async with tiny() as server:
        for _ in range(connection.PATIENCE):
            with pytest.raises(errors.ToolError, match="broke off"):
                await call(server, "die")
        server._connection._due = anyio.current_time() + 1000

        with pytest.raises(errors.MCPServerError, match="the disk is full") as caught:
            await call(server, "echo", words="?")
        assert (caught.value.server, caught.value.reason) == ("tiny", "it ended with code 3")
        assert caught.value.stderr.startswith("the disk is full")

        server._connection._due = anyio.current_time()
        assert (await call(server, "echo", words="back again")).text == "back again"


async def test_a_server_that_starts_no_more_is_tried_a_few_times_with_growing_waits(monkeypatch, tmp_path):
    monkeypatch.setattr(connection, "_FIRST_WAIT", 0.001)
    program = tmp_path / "server.py"
    shutil.copy(TINY[-1], program)
    async with alloy.mcp.connect([*TINY[:-1], str(program)]) as server:
        program.write_text("import sys; sys.exit('the database is gone')")
        with pytest.raises(errors.ToolError):
            await call(server, "die")

        with pytest.raises(errors.MCPServerError, match="it ended with code 1; it wrote: the database is gone"):
            await call(server, "echo", words="?")
        assert server._connection._failures == connection.PATIENCE


async def test_waits_between_tries_double_and_are_bounded(monkeypatch):
    kept = connection.Connection(
        name=lambda: "x", transport=None, client=None, on_tools=None, start_timeout=1, clean=str
    )
    monkeypatch.setattr(anyio, "current_time", lambda: 0.0)
    life = connection.Life(lambda _: stdio.Stdio(["x"], env={}, cwd=None, on_end=lambda: None), lambda: None)
    waits = []
    for _ in range(10):
        kept._failed("it ended", life)
        waits.append(kept._due)

    assert waits == [0, 0.5, 1, 2, 4, 8, 16, 30, 30, 30]


async def test_connecting_to_what_is_no_program_says_so():
    with pytest.raises(errors.MCPServerError, match="there is no program 'no-such-program'"):
        async with alloy.mcp.connect("no-such-program --really"):
            pass


async def test_a_server_that_ends_at_once_is_told_with_what_it_wrote():
    with pytest.raises(errors.MCPServerError, match="it ended with code 1; it wrote: no configuration found"):
        async with tiny("dies"):
            pass


async def test_a_server_that_never_answers_is_given_up_after_the_start_timeout():
    with pytest.raises(errors.MCPServerError, match=r"it didn't start within 0\.3 seconds"):
        async with tiny("silent", start_timeout=0.3):
            pass


async def test_a_message_without_an_end_breaks_the_connection_before_it_fills_the_memory(monkeypatch):
    monkeypatch.setattr(stdio, "MAX_MESSAGE", 100_000)
    async with tiny() as server:
        with pytest.raises(errors.ToolError, match="it sent a message of more than 100000 bytes"):
            await call(server, "huge")


# --- Nothing is left --------------------------------------------------------------------------------------------------


async def test_a_servers_processes_end_with_it_also_those_in_sessions_of_their_own():
    async with tiny() as server:
        pids = json.loads((await call(server, "spawn")).text)
        assert all(map(is_alive, pids))

    assert not any(map(is_alive, pids))


async def test_a_server_that_ignores_its_end_is_killed(monkeypatch):
    monkeypatch.setattr(stdio, "GRACE", 0.05)
    monkeypatch.setattr("alloy.tools.process.GRACE", 0.05)
    async with tiny("stubborn") as server:
        pids = json.loads((await call(server, "spawn")).text)

    assert not any(map(is_alive, pids))


async def test_a_server_that_died_leaves_nothing_of_what_it_began(monkeypatch):
    async with tiny() as server:
        pids = json.loads((await call(server, "spawn")).text)
        with pytest.raises(errors.ToolError):
            await call(server, "die")

        assert not any(map(is_alive, pids))


async def test_an_error_in_the_block_comes_out_as_it_is():
    with pytest.raises(LookupError, match="mine"):
        async with tiny():
            raise LookupError("mine")


async def test_a_task_that_is_cancelled_in_the_block_leaves_no_process():
    pids = []
    with anyio.CancelScope() as scope:
        async with tiny() as server:
            pids += json.loads((await call(server, "spawn")).text)
            scope.cancel()
            await anyio.sleep_forever()

    assert len(pids) == 3
    assert not any(map(is_alive, pids))


async def test_a_start_that_is_cancelled_ends_at_once():
    with anyio.fail_after(20), anyio.move_on_after(0.2) as scope:
        async with tiny("silent", start_timeout=1000):
            pass

    assert scope.cancelled_caught


async def test_an_interrupt_from_the_keyboard_is_ours_alone():
    async with tiny() as server:
        pid, *_ = json.loads((await call(server, "spawn")).text)

        assert os.getsid(pid) == pid


# --- Secrets ----------------------------------------------------------------------------------------------------------


async def test_a_server_gets_what_programs_need_and_what_it_is_given_and_nothing_else(monkeypatch):
    monkeypatch.setenv("ANTHROPIC_API_KEY", "sk-ant-123456789")
    monkeypatch.setenv("SOMETHING_ELSE", "1")
    async with tiny(env={"LEVEL": "3"}) as server:
        environment = json.loads((await call(server, "environment")).text)

    assert environment["LEVEL"] == "3"
    assert environment["PATH"] == os.environ["PATH"]
    assert environment.keys() <= {*stdio._INHERITED, "LEVEL", "ALLOY_COMMAND_ID"}


async def test_what_a_server_writes_is_not_on_our_standard_error(capfd):
    async with tiny() as server:
        with pytest.raises(errors.ToolError):
            await call(server, "die")

    assert capfd.readouterr() == ("", "")


# --- Options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "options", "complaint"),
    [
        ("", {}, "target"),
        ([], {}, "target"),
        ("npx 'unclosed", {}, "target"),
        (3, {}, "target"),
        ("npx x", {"env": {"A": 1}}, "env"),
        ("npx x", {"headers": {"authorization": "Bearer secret"}}, "headers"),
        ("https://example.org/mcp", {"env": {"A": "1"}}, "env"),
        ("https://example.org/mcp", {"working_directory": "."}, "working_directory"),
        ("npx x", {"timeout": 0}, "timeout"),
        ("npx x", {"start_timeout": float("inf")}, "start_timeout"),
        ("npx x", {"name": ""}, "name"),
        ("npx x", {"nome": "x"}, "did you mean 'name'"),
    ],
)
def test_options_that_cannot_be_are_refused_at_once(target, options, complaint):
    with pytest.raises(errors.ConfigurationError, match=complaint):
        alloy.mcp.connect(target, **options)


def test_no_secret_shows_in_a_servers_representation():
    server = alloy.mcp.connect("https://example.org/mcp", headers={"authorization": "Bearer very-secret-key"})

    assert "very-secret-key" not in repr(server) + repr(vars(server))


async def test_a_connection_is_entered_once():
    async with tiny() as server:
        pass

    with pytest.raises(errors.InvalidOptionError, match="connect anew"):
        async with server:
            pass


def test_without_the_sdk_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("alloy.mcp.client.find_spec", lambda _: None)

    with pytest.raises(errors.MissingExtraError, match=r"pip install 'alloy-harness\[mcp\]'"):
        alloy.mcp.connect("npx x")
