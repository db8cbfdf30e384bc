"""Core tools in the cancellation sweep: cancelled at each await, they leave neither half a file nor a process."""

import contextlib
from pathlib import Path

import anyio
import pytest

import alloy
from alloy.testing import Scripted, calls, sweep, together
from alloy.testing.sweep import SIDES
from alloy.tools import bash, edit, find, grep, list_, process, read, write


@alloy.tool
async def crowd(name: str) -> str:
    """Does its work in a task group of its own, which takes a while to end."""

    async def work():
        try:
            await anyio.sleep(0.01)
        finally:
            with anyio.CancelScope(shield=True):
                for _ in range(3):
                    await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await anyio.sleep(0.01)
    return name


TOOLS = [crowd, bash, edit, find, grep, list_, read, write]
SCRIPTS = {
    "files": lambda: [
        calls("write", path="a/b.txt", content="one\n"),
        together(calls("read", path="a/b.txt"), calls("find", pattern="*"), calls("list")),
        calls("edit", path="a/b.txt", edits=[{"old": "one", "new": "two"}]),
        "Done.",
    ],
    "a command": lambda: [calls("bash", command="echo one; sleep 0.02; echo two"), "Done."],
    "a command that leaves something": lambda: [calls("bash", command="sleep 1000 & echo one"), "Done."],
    "a command that is timed out": lambda: [calls("bash", command="sleep 1000", timeout=0.05), "Done."],
    "task groups": lambda: [together(calls("crowd", name="a"), calls("crowd", name="b")), "Done."],
    "a search": lambda: [calls("grep", pattern="o"), "Done."],
}
PATIENT = {"a command that is timed out", "a command that leaves something", "a command"}


def processes(folder):
    """The processes of commands in a folder that still live, whoever their parents are by now."""
    found = set()
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (path / "cwd").readlink() == folder:
                found.add((path.name, (path / "cmdline").read_bytes()))
    return found


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.timeout(300)
def test_p1_p2_p4_hold_wherever_a_core_tool_is_cancelled(script, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "GRACE", 0.2)
    files = tmp_path / "a"

    async def scenario(probe):
        assert (
            processes(tmp_path) == set()
        )  # nothing of the last time is left; the sweep has waited for threads meanwhile
        try:
            await alloy.run(
                "Go.",
                provider=Scripted(SCRIPTS[script]()),
                tools=TOOLS,
                working_directory=tmp_path,
                middleware=[probe],
                on_event=probe,
                timeout=1000,
            )
        finally:
            texts = {path.name: path.read_text() for path in files.glob("*") if not path.name.startswith(".")}
            assert texts in ({}, {"b.txt": "one\n"}, {"b.txt": "two\n"})

    # A clock that jumps past every deadline takes away the time that is left for ending processes.
    sides = [side for side in SIDES if side != "deadline" or script not in PATIENT]
    assert sweep(scenario, sides=sides) > 20
    assert processes(tmp_path) == set()
    assert [path.name for path in files.glob(".*")] == []
