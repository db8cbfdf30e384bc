"""The protocol's own servers and its conformance suite; ``nox -s mcp`` installs them and runs this.

``ALLOY_NODE`` is the node program, and ``ALLOY_NODE_MODULES`` the folder that package.json was installed in.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import anyio
import pytest

import alloy
from alloy.messages import ImageBlock
from tests.mcp.test_connect import call, is_alive

pytestmark = pytest.mark.anyio

HERE = Path(__file__).parent
NODE = os.environ["ALLOY_NODE"]
MODULES = Path(os.environ["ALLOY_NODE_MODULES"], "@modelcontextprotocol")
CLIENT_SCENARIOS = ["initialize", "tools_call", "elicitation-sep1034-client-defaults", "sse-retry"]
"""All but those about OAuth, which is the application's: it gives the headers."""
SERVER_SCENARIOS = [
    "server-initialize",
    "ping",
    "tools-list",
    "tools-call-simple-text",
    "tools-call-image",
    "tools-call-audio",
    "tools-call-embedded-resource",
    "tools-call-mixed-content",
    "tools-call-error",
    "tools-call-with-progress",
    "json-schema-2020-12",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
]
"""All about tools and the transport; there are no resources, prompts, completions and logs, and tools ask nobody."""


def server(name, *arguments):
    """The command of a server."""
    return [NODE, str(MODULES / f"server-{name}" / "dist" / "index.js"), *map(str, arguments)]


def conformance(*arguments):
    """What the conformance suite finds: how many checks passed, and how many failed."""
    program = MODULES / "conformance" / "dist" / "index.js"
    done = subprocess.run([NODE, program, *arguments], capture_output=True, text=True, timeout=50, check=False)
    print(done.stdout, done.stderr)  # noqa: T201  for whoever reads why it failed
    return (
        done.returncode,
        re.findall(r"FAILURE|\b[1-9]\d* failed", done.stdout + done.stderr),
        "SUCCESS" in done.stdout + done.stderr,
    )


async def test_server_everything_over_stdio():
    lines = []
    async with alloy.mcp.connect(server("everything", "stdio"), name="every") as every:
        assert len(every.tools) >= 10
        assert (await call(every, "echo", message="hi")).text == "Echo: hi"
        assert (await call(every, "get-sum", a=1, b=2)).text == "The sum of 1 and 2 is 3."
        assert isinstance((await call(every, "get-tiny-image")).media[0], ImageBlock)
        assert "temperature" in (await call(every, "get-structured-content", location="Chicago")).data
        assert "[resource demo://" in (await call(every, "get-resource-links", count=2)).text
        reference = await call(every, "get-resource-reference", resourceType="Text", resourceId=1)
        assert "This is a plaintext resource" in reference.text
        await call(every, "trigger-long-running-operation", lines.append, duration=0.3, steps=3)
        assert (await call(every, "get-sum", a="one")).is_error
        with anyio.move_on_after(0.2):
            await call(every, "trigger-long-running-operation", duration=60, steps=3)
        assert (await call(every, "echo", message="still here")).text == "Echo: still here"
    assert lines == ["1/3", "2/3", "3/3"]


async def test_server_everything_asks_the_user():
    async with alloy.mcp.connect(
        server("everything", "stdio"), on_elicitation=lambda question: {"name": "Ada"}
    ) as every:
        answer = await call(every, "trigger-elicitation-request")

    assert "Ada" in answer.text


async def test_server_filesystem(tmp_path):
    (tmp_path / "note.txt").write_text("buy milk")
    script = [
        alloy.testing.calls("files__read_text_file", path=str(tmp_path / "note.txt")),
        alloy.testing.calls("files__read_text_file", path="/etc/passwd"),
        alloy.testing.calls("files__write_file", path=str(tmp_path / "new.txt"), content="done"),
        "Milk.",
    ]
    async with alloy.mcp.connect(server("filesystem", tmp_path), name="files") as files:
        result = await alloy.run("What?", provider=alloy.providers.Scripted(script), tools=files.tools)

    assert [call.is_error for call in result.tool_calls] == [False, True, False]
    assert result.tool_calls[0].content[0].text == "buy milk"
    assert (tmp_path / "new.txt").read_text() == "done"


async def test_server_memory(tmp_path):
    command = server("memory")
    env = {"MEMORY_FILE_PATH": str(tmp_path / "memory.json")}
    entity = {"name": "Ada", "entityType": "person", "observations": ["likes tea"]}
    async with alloy.mcp.connect(command, env=env) as memory:
        await call(memory, "create_entities", entities=[entity])
    async with alloy.mcp.connect(command, env=env) as memory:
        found = await call(memory, "search_nodes", query="tea")

    assert found.data["entities"] == [entity]


async def test_a_server_that_npx_starts_ends_with_all_that_npx_has_started(tmp_path):
    program = Path(NODE).parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npx-cli.js"
    npx = [NODE, str(program), "--prefix", str(MODULES.parent.parent), "--no-install", "mcp-server-memory"]
    env = {"MEMORY_FILE_PATH": str(tmp_path / "memory.json"), "PATH": f"{Path(NODE).parent}:{os.environ['PATH']}"}
    async with alloy.mcp.connect(npx, env=env) as memory:
        assert (await call(memory, "read_graph")).data == {"entities": [], "relations": []}
        processes = descendants(os.getpid())
        assert processes

    assert not any(map(is_alive, processes))


def descendants(pid):
    """The processes that one has begun, and those that they have."""
    children = [
        child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return [*children, *(each for child in children for each in descendants(child))]


@pytest.mark.parametrize("scenario", CLIENT_SCENARIOS)
def test_conformance_of_the_client(scenario):
    client = f"{sys.executable} -W error {HERE / 'conformance_client.py'}"

    assert conformance("client", "--command", client, "--scenario", scenario) == (0, [], True)


@pytest.fixture(scope="module")
def served():
    """A server with the tools that the suite asks for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [sys.executable, "-W", "error", str(HERE / "conformance_server.py"), str(port)]
    with subprocess.Popen(program) as process:
        try:
            while True:
                with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
                assert process.poll() is None
            yield f"http://127.0.0.1:{port}/mcp"
        finally:
            process.kill()


@pytest.mark.parametrize("scenario", SERVER_SCENARIOS)
def test_conformance_of_the_server(served, scenario):
    code, failed, _ = conformance("server", "--url", served, "--scenario", scenario)

    assert (code, failed) == (0, [])
