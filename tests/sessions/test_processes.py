"""Several processes with one directory, some of which die."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from alloy.errors import SessionError
from alloy.sessions import FileStore, Session
from alloy.sessions import file as file_module
from tests.sessions.files import LOCK, files, said

pytestmark = pytest.mark.anyio


COUNT = """
import asyncio, dataclasses, sys
from alloy.errors import SessionConflictError
from alloy.messages import Message, TextBlock
from alloy.sessions import FileStore, Session

async def main(directory, who, times):
    store = FileStore(directory)
    conflicts = 0
    for number in range(times):
        while True:
            session = await store.load("desk") or Session(id="desk")
            turn = Message("user", (TextBlock(f"{who} {number}"),)), Message("assistant", (TextBlock("x" * 5000),))
            try:
                await store.save(dataclasses.replace(session, messages=(*session.messages, *turn)))
                break
            except SessionConflictError:
                conflicts += 1
    print(conflicts)

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_p3_two_processes_lose_no_update(tmp_path):
    done = []

    async def count(who: str) -> None:
        done.append(await anyio.run_process([sys.executable, "-c", COUNT, str(tmp_path), who, "30"]))

    async with anyio.create_task_group() as group:
        group.start_soon(count, "ada")
        group.start_soon(count, "bob")

    session = await FileStore(tmp_path).load("desk")
    words = [message.text for message in session.messages[::2]]
    assert sorted(words) == sorted(f"{who} {number}" for who in ("ada", "bob") for number in range(30))
    assert session.revision == 60
    assert sum(int(process.stdout) for process in done) > 0  # they did get in each other's way
    assert files(tmp_path) == {"desk.json"}


HOLD = """
import pathlib, sys
from alloy.sessions.locks import locked

with locked(pathlib.Path(sys.argv[1]), within=0):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_that_another_process_keeps_is_an_error_that_says_so(store, tmp_path, monkeypatch):
    monkeypatch.setattr(file_module, "LOCK_TIMEOUT", 0.02)
    old = asyncio.run(store.save(Session(id="desk")))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / LOCK)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(SessionError, match=r"somebody else holds the lock .*\.alloy\.lock"):
            asyncio.run(store.save(said(old, "New.")))
        assert asyncio.run(store.load("desk")) == old  # reading needs no lock
        holder.kill()  # which gives the lock back

    assert asyncio.run(store.save(said(old, "New."))).revision == 2
    assert files(tmp_path) == {"desk.json"}


SAVE_FOR_EVER = """
import asyncio, dataclasses, sys
from alloy.messages import Message, TextBlock
from alloy.sessions import FileStore, Session

async def main(directory):
    store = FileStore(directory)
    session = await store.load("desk") or Session(id="desk")
    while True:
        text = str(session.revision + 1) * 20000
        session = await store.save(dataclasses.replace(session, messages=(Message("user", (TextBlock(text),)),)))
        print(session.revision, flush=True)

asyncio.run(main(sys.argv[1]))
"""


def test_p4_a_process_killed_while_it_saves_leaves_a_whole_session_and_its_rest_is_swept(tmp_path):
    left = 0
    for moment in range(20):
        with subprocess.Popen([sys.executable, "-c", SAVE_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE) as process:
            for _ in range(2 + moment % 3):
                told = int(process.stdout.readline())
            while moment % 2 and not any(name.endswith(".tmp") for name in files(tmp_path)):
                pass  # half of them as soon as they have a temporary file
            process.kill()
        left += len(files(tmp_path) - {"desk.json"})

        session = asyncio.run(FileStore(tmp_path).load("desk"))

        assert session.revision >= told  # what was reported as saved is there
        assert session.messages[0].text == str(session.revision) * 20000
        assert files(tmp_path) == {"desk.json"}
    assert left > 0
