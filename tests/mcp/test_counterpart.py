"""Servers made with the protocol's official SDK, over both transports."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from mcp import Client

import alloy
from alloy import errors
from alloy.mcp import connection
from alloy.messages import AudioBlock, ImageBlock
from tests.mcp.test_connect import call

pytestmark = pytest.mark.anyio

COUNTERPART = [sys.executable, str(Path(__file__).with_name("counterpart.py"))]


@contextlib.contextmanager
def listening(port):
    """Runs the server over HTTP."""
    with subprocess.Popen([*COUNTERPART, str(port)], stderr=subprocess.DEVNULL) as process:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert process.poll() is None
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def url():
    """A server over HTTP."""
    with listening(free_port()) as url:
        yield url


@pytest.fixture(params=["auto", "legacy"])
def era(request, monkeypatch):
    """The protocol since 2026-07-28, and before."""
    made = Client.__init__
    monkeypatch.setattr(Client, "__init__", lambda *args, **options: made(*args, mode=request.param, **options))
    return request.param


@pytest.mark.parametrize("transport", ["stdio", "http"])
async def test_everything_that_a_server_answers_arrives(transport, url, era):
    lines, asked = [], []
    target = url if transport == "http" else COUNTERPART

    async def ask(question):
        asked.append(question)
        return {"name": "Ada"}

    async with alloy.mcp.connect(target, on_elicitation=ask) as server:
        assert (server.name, server.instructions) == ("counterpart", "Ask nicely.")
        added = await call(server, "add", a=1, b=2)
        shown = await call(server, "picture")
        failed = await call(server, "fail")
        greeted = await call(server, "greet")
        await call(server, "slow", lines.append)

    assert (added.text, added.data) == ("3", {"result": 3})
    assert (shown.text, shown.media) == (
        "Look:",
        (ImageBlock("image/png", b"\x89PNG"), AudioBlock("audio/wav", b"RIFF")),
    )
    assert failed.is_error
    assert greeted.text == "Hello Ada, 7"
    assert [(each.server, each.message) for each in asked] == [("counterpart", "Who are you?")]
    assert list(asked[0].schema["properties"]) == ["name", "age"]
    assert lines == ["0/3 step 0", "1/3 step 1", "2/3 step 2"]


async def test_the_user_can_decline(url, era):
    async with alloy.mcp.connect(url, on_elicitation=lambda question: None) as server:
        assert (await call(server, "greet")).text == "They said decline"


async def test_a_question_that_fails_to_be_asked_is_an_error_to_the_server_alone(url, era, caplog):
    def ask(question):
        raise OSError("the terminal is gone")

    async with alloy.mcp.connect(url, on_elicitation=ask) as server:
        with contextlib.suppress(errors.ToolError):
            assert (await call(server, "greet")).is_error

        assert (await call(server, "add", a=1, b=2)).text == "3"
    assert "on_elicitation failed" in caplog.text


async def test_without_anybody_to_ask_the_server_is_told_so(url, era):
    async with alloy.mcp.connect(url) as server:
        with contextlib.suppress(errors.ToolError):
            assert (await call(server, "greet")).is_error

        assert (await call(server, "add", a=1, b=2)).text == "3"


async def test_tools_are_those_of_now(url, era):
    async with alloy.mcp.connect(url) as server:
        await call(server, "grow")
        with anyio.fail_after(10):
            while "counterpart__grown" not in [tool.name for tool in server.tools]:
                await anyio.lowlevel.checkpoint()

        assert (await call(server, "grown", a=1, b=2)).text == "3"


async def test_a_cancelled_call_leaves_the_connection_as_it_was(url, era):
    async with alloy.mcp.connect(url) as server:
        with anyio.move_on_after(0.05):
            await call(server, "forever")

        assert (await call(server, "add", a=1, b=2)).text == "3"


async def test_a_server_that_cannot_be_reached_any_more_is_an_error_of_the_call_and_then_of_the_server(monkeypatch):
    monkeypatch.setattr(connection, "_FIRST_WAIT", 0.001)
    with contextlib.ExitStack() as running:
        async with alloy.mcp.connect(running.enter_context(listening(free_port()))) as server:
            running.close()
            with pytest.raises(errors.ToolError, match="broke off in the middle of the call"):
                await call(server, "add", a=1, b=2)
            with pytest.raises(errors.MCPServerError, match="All connection attempts failed"):
                await call(server, "add", a=1, b=2)


async def test_a_url_where_nobody_listens_is_an_error_that_names_the_server():
    with pytest.raises(errors.MCPServerError, match=r"127\.0\.0\.1"):
        async with alloy.mcp.connect(f"http://127.0.0.1:{free_port()}/mcp"):
            pass


async def test_a_url_where_something_else_answers_is_an_error_with_the_status(url):
    with pytest.raises(errors.MCPServerError, match="HTTP 404"):
        async with alloy.mcp.connect(url + "/elsewhere"):
            pass
