"""Alloy's tools, called by the official SDK's client."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx2
import mcp
import pytest
import uvicorn
from mcp import types

import alloy
from alloy import errors
from alloy._tasks import background
from tests.mcp import served
from tests.mcp.test_connect import call

pytestmark = pytest.mark.anyio

NOT_FOUND = b'{"jsonrpc": "2.0", "id": null, "error": {"code": -32600, "message": "Session not found"}}'
ROOT = str(Path(__file__).parent.parent.parent)
PROGRAM = [sys.executable, "-W", "error", str(Path(__file__).with_name("served.py"))]


@asynccontextmanager
async def over_stdio():
    """What the SDK's client connects to, to start the program."""
    yield mcp.StdioServerParameters(command=PROGRAM[0], args=PROGRAM[1:], env={"PYTHONPATH": ROOT})


@asynccontextmanager
async def over_http(heard=None, forgets=None, **options):
    """What the SDK's client connects to, over HTTP; the methods of the requests go to `heard`.

    `forgets` says of a request's session whether the server doesn't know it any more.
    """
    application = alloy.mcp.asgi_app(served.TOOLS, name="served", version="7", instructions="Add.", **options)

    async def app(scope, receive, send):
        if heard is not None:
            heard.append(scope.get("method"))
        if forgets is not None and forgets(dict(scope.get("headers", ())).get(b"mcp-session-id")):
            await send(
                {"type": "http.response.start", "status": 404, "headers": [(b"content-type", b"application/json")]}
            )
            await send({"type": "http.response.body", "body": NOT_FOUND})
            return
        await application(scope, receive, send)

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="on", timeout_graceful_shutdown=1))

        async def own():
            with anyio.CancelScope(shield=True):
                await server.serve(sockets=[listening])

        async with background(own):
            try:
                with anyio.fail_after(10):
                    while not server.started:
                        await anyio.lowlevel.checkpoint()
                yield f"http://127.0.0.1:{listening.getsockname()[1]}/mcp"
            finally:
                server.should_exit = True


@pytest.fixture(params=["stdio", "http"])
def transport(request):
    """Both ways to connect."""
    return over_stdio if request.param == "stdio" else over_http


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_client_finds_the_tools_and_what_they_give(transport, mode):
    lines = []

    async def hear(progress, total, message):
        lines.append((progress, message))

    async with transport() as target, mcp.Client(target, mode=mode) as client:
        listed = (await client.list_tools()).tools
        added = await client.call_tool("add", {"a": 1, "b": 2})
        failed = await client.call_tool("fails")
        broken = await client.call_tool("breaks")
        wrong = await client.call_tool("add", {"a": "one"})
        shown = await client.call_tool("steps", progress_callback=hear)

        assert client.server_info.name == "served"
        assert client.server_info.version == "7"
        assert client.instructions == "Add."
    assert [tool.name for tool in listed] == [tool.name for tool in served.TOOLS]
    assert (listed[0].description, listed[0].input_schema) == ("Adds.", served.add.input_schema)
    assert (json.loads(added.content[0].text), added.structured_content) == ({"sum": 3}, {"sum": 3})
    assert (failed.is_error, failed.content[0].text) == (True, "no luck")
    assert (broken.is_error, broken.content[0].text) == (True, "ValueError: a bug")
    assert wrong.is_error
    assert "a: input should be a valid integer" in wrong.content[0].text
    assert [part.type for part in shown.content] == ["text", "image"]
    assert lines == [(1, "one"), (2, "two")]


async def test_a_tool_that_is_not_there_is_an_error_of_the_protocol(transport):
    async with transport() as target, mcp.Client(target) as client:
        with pytest.raises(mcp.MCPError, match="there is no tool called 'subtract'; the tools are: add, ") as caught:
            await client.call_tool("subtract")

    assert caught.value.code == types.INVALID_PARAMS


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_a_call_that_the_client_cancels_is_cancelled(transport, mode, tmp_path):
    path = tmp_path / "state"
    async with transport() as target, mcp.Client(target, mode=mode) as client:
        async with anyio.create_task_group() as group:
            group.start_soon(client.call_tool, "waits", {"path": str(path)})
            await becomes(path, "begun")
            group.cancel_scope.cancel()
        await becomes(path, "cancelled")

        assert not (await client.call_tool("add", {"a": 1, "b": 2})).is_error


async def becomes(path, state):
    """Waits until a file says something."""
    with anyio.fail_after(10):
        while not path.exists() or path.read_text() != state:
            await anyio.lowlevel.checkpoint()


async def test_tools_that_cannot_run_beside_others_run_one_at_a_time(transport):
    results = []

    async def ask():
        results.append((await client.call_tool("alone")).content[0].text)

    async with transport() as target, mcp.Client(target) as client, anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(ask)

    assert results == ["1"] * 5


async def test_what_tools_print_goes_elsewhere_and_they_read_nothing():
    async with over_stdio() as target, mcp.Client(target) as client:
        result = await client.call_tool("prints")

    assert result.content[0].text == "''"


def test_when_the_input_ends_the_program_goes_on_with_an_output_of_its_own():
    done = subprocess.run(PROGRAM, input="", capture_output=True, text=True, timeout=50, check=False)

    assert (done.returncode, done.stdout, done.stderr) == (0, "the output is ours again\n", "")


async def test_serving_can_be_cancelled_while_it_waits_for_input():
    program = (
        "import anyio, alloy\n"
        "async def main():\n"
        "    with anyio.move_on_after(0.2):\n"
        "        await alloy.mcp.serve([], name='x')\n"
        "    print('cancelled')\n"
        "anyio.run(main)"
    )
    with anyio.fail_after(40):
        async with await anyio.open_process([sys.executable, "-W", "error", "-c", program]) as process:
            output = await process.stdout.receive()
            await process.wait()

    assert (output, process.returncode) == (b"cancelled\n", 0)


async def test_serving_over_http_ends_when_it_is_cancelled():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = set(signal.Signals), signal.getsignal(signal.SIGINT)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: alloy.mcp.serve(served.TOOLS, name="served", transport="http", port=port))
        with anyio.fail_after(20):
            while True:
                try:
                    async with mcp.Client(f"http://127.0.0.1:{port}/mcp") as client:
                        assert (await client.call_tool("add", {"a": 1, "b": 2})).structured_content == {"sum": 3}
                        break
                except (ExceptionGroup, OSError):
                    await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()

    with pytest.raises(OSError, match=r"[Rr]efused"):
        socket.create_connection(("127.0.0.1", port), timeout=1)
    assert (set(signal.Signals), signal.getsignal(signal.SIGINT)) == before


class Guard(alloy.Middleware):
    """Lets nobody add, and stops who wants to fail."""

    async def before_tool_call(self, call, run):
        if call.name == "fails":
            raise alloy.Halt("enough")
        return alloy.Blocked("nobody may add") if call.name == "add" else None


async def test_middleware_guards_calls_from_outside_as_any_others():
    async with over_http(middleware=[Guard()]) as target, mcp.Client(target) as client:
        blocked = await client.call_tool("add", {"a": 1, "b": 2})
        halted = await client.call_tool("fails")

    assert (blocked.is_error, blocked.content[0].text) == (True, "Not executed: nobody may add")
    assert (halted.is_error, halted.content[0].text) == (True, "enough")


async def test_requests_for_another_host_are_refused_unless_it_is_named():
    async def status(target, host):
        request = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        head = {"host": host, "content-type": "application/json", "accept": "application/json, text/event-stream"}
        async with httpx2.AsyncClient() as client:
            return (await client.post(target, json=request, headers=head)).status_code

    async with over_http(hosts=["tools.example.org"]) as target:
        assert await status(target, "evil.example.org") == 421
        assert await status(target, "tools.example.org") != 421
        assert await status(target, "localhost:1") != 421


def test_options_that_cannot_be_are_refused_at_once():
    with pytest.raises(errors.UnknownOptionError, match="tool_timeout"):
        alloy.mcp.asgi_app([], name="x", tool_timeuot=1)
    with pytest.raises(errors.InvalidOptionError, match="name"):
        alloy.mcp.asgi_app([], name=" ")
    with pytest.raises(errors.ToolDefinitionError, match="two tools have this name"):
        alloy.mcp.asgi_app([served.add, served.add], name="x")


async def test_a_transport_that_is_not_known_is_refused():
    with pytest.raises(errors.InvalidOptionError, match="'stdio' or 'http'"):
        await alloy.mcp.serve([], name="x", transport="sse")


def test_without_the_sdk_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setattr("alloy.mcp.server.find_spec", lambda _: None)

    with pytest.raises(errors.MissingExtraError, match=r"pip install 'alloy-harness\[mcp\]'"):
        alloy.mcp.asgi_app([], name="x")


@pytest.fixture
def legacy(monkeypatch):
    """Has our clients speak the protocol as it was before 2026-07-28, with sessions."""
    made = mcp.Client.__init__
    monkeypatch.setattr(mcp.Client, "__init__", lambda *args, **options: made(*args, mode="legacy", **options))


async def test_a_session_that_the_server_has_forgotten_is_begun_anew_and_the_call_is_made_again(legacy):
    sessions = []
    forgotten = []

    def forgets(session):
        if session is not None and session not in sessions:
            sessions.append(session)
        return session in forgotten

    async with over_http(forgets=forgets) as url, alloy.mcp.connect(url) as server:
        assert (await call(server, "add", a=1, b=2)).data == {"sum": 3}
        forgotten += sessions

        assert (await call(server, "add", a=2, b=2)).data == {"sum": 4}
    assert len(sessions) == 2


async def test_a_server_that_forgets_every_session_is_asked_no_more_than_twice(legacy):
    calls = []
    async with (
        over_http(forgets=lambda session: calls and session is not None) as url,
        alloy.mcp.connect(url) as server,
    ):
        calls.append(1)
        with pytest.raises(errors.AlloyError, match=r"Session not found|broke off"):
            await call(server, "add", a=1, b=2)


async def test_a_session_is_ended_at_the_server_also_by_a_cancellation(legacy):
    heard = []
    async with over_http(heard) as url:
        with anyio.CancelScope() as scope:
            async with alloy.mcp.connect(url):
                assert "DELETE" not in heard
                scope.cancel()
                await anyio.sleep_forever()

    assert heard.count("DELETE") == 1


async def test_ours_speaks_to_ours():
    async with alloy.mcp.connect(PROGRAM, env={"PYTHONPATH": ROOT}) as server:
        script = [alloy.testing.calls("served__add", a=1, b=2), "Three."]
        result = await alloy.run("Add.", provider=alloy.providers.Scripted(script), tools=server.tools)

    assert result.tool_calls[0].data == {"sum": 3}
