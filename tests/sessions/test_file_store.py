"""Sessions in files: whole or not at all, for the user alone, whatever their names and whoever else writes."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import errno
import itertools
import json
import os
import stat
import subprocess
import sys
import threading
import unicodedata
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy._tasks import stuck_threads
from alloy.errors import SessionConflictError, SessionError
from alloy.messages import Message, TextBlock
from alloy.sessions import FileStore, Session
from alloy.sessions import file as file_module
from alloy.sessions.names import file_name, is_hashed, written_id

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

CANARY = "CANARY-6b1f"
IDS = st.text(min_size=1, max_size=128).filter(str.isprintable)
LOCK = ".alloy.lock"


@pytest.fixture
def store(tmp_path) -> FileStore:
    return FileStore(tmp_path)


def said(session: Session, text: str) -> Session:
    """The session with this history."""
    turn = (Message("user", (TextBlock(text),)), Message("assistant", (TextBlock("Yes."),)))
    return dataclasses.replace(session, messages=turn, seq=session.seq + 1)


def files(directory: Path) -> set[str]:
    """What is in a directory, but for the lock."""
    return {path.name for path in directory.iterdir()} - {LOCK}


def by_somebody_else(store: FileStore) -> FileStore:
    """What another process sees."""
    return FileStore(store.directory)


# --- Names -----------------------------------------------------------------------------------------------------------

ODD = [
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "a\\b",
    "C:",
    "CON",
    "con",
    "con.txt",
    "nul",
    "com1",
    ".hidden",
    "-rf",
    "a.",
    "a ",
    " ",
    "*?<>|\"'`$;&",
    "100%",
    "%2e",
    "~",
    "a~" + "0" * 32,
    "desk",
    "Desk",
    "DESK",
    "ß",
    "ẞ",
    "\u00e9",
    "e\u0301",
    "İ",
    "日本語",
    "😀",
    ".alloy.lock",
    ".alloy-0123456789abcdef.tmp",
    "x" * 128,
    "X" * 128,
    "X" * 127 + "Y",
    "é" * 128,
    "😀" * 128,
]


@pytest.mark.parametrize("name", ["desk", "support-2.de", "a_b"])
def test_a_plain_id_is_its_file_name(name):
    assert file_name(name) == f"{name}.json"


def test_odd_ids_have_file_names_that_every_system_keeps_apart():
    names = [file_name(name) for name in ODD]
    stems = [name.removesuffix(".json") for name in names]

    assert len({unicodedata.normalize("NFKD", name).casefold() for name in names}) == len(ODD)
    for name, stem in zip(names, stems, strict=True):
        assert name == f"{stem}.json"
        assert name.isascii()
        assert name == name.lower()
        assert len(name) <= 200
        assert not set(name) & set("/\\:*?\"<>|' ")
        assert stem[0] not in ".-"
        assert stem.partition(".")[0] not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@given(IDS)
def test_every_id_can_be_told_from_its_file_name_or_from_its_file(session_id):
    name = file_name(session_id)

    assert written_id(name) == (None if is_hashed(name) else session_id)


@given(IDS, IDS)
def test_no_two_ids_have_one_file_name(one, other):
    assert (file_name(one) == file_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["Desk.json", "desk", "desk.txt", ".json", "%41%.json", "%ff.json", "a b.json", LOCK])
def test_a_file_with_another_name_is_no_session(name):
    assert written_id(name) is None


async def test_every_odd_id_is_saved_loaded_listed_and_deleted(store, tmp_path):
    for name in ODD:
        await store.save(said(Session(id=name), f"I am {name}."))

    other = by_somebody_else(store)
    assert await other.ids() == tuple(sorted(ODD))
    for name in ODD:
        assert (await other.load(name)).messages[0].text == f"I am {name}."
        await other.delete(name)
    assert files(tmp_path) == set()


async def test_what_is_not_a_session_is_not_listed(store, tmp_path):
    await store.save(Session(id="desk"))
    for name in ("README", ".DS_Store", "Desk.json.bak", "notes.txt"):
        (tmp_path / name).write_text("mine")

    assert await store.ids() == ("desk",)


async def test_a_long_id_that_its_file_does_not_tell_is_an_error_that_names_the_file(store, tmp_path):
    await store.save(Session(id="X" * 128))
    path = tmp_path / file_name("X" * 128)
    path.rename(tmp_path / file_name("Y" * 128))

    with pytest.raises(SessionError, match="another session's") as caught:
        await store.ids()
    assert file_name("Y" * 128) in str(caught.value)

    (tmp_path / file_name("Y" * 128)).write_text(CANARY)
    with pytest.raises(SessionError, match="it isn't JSON") as caught:
        await store.ids()
    assert CANARY not in str(caught.value)


# --- Files and directories -------------------------------------------------------------------------------------------


async def test_the_directory_is_made_with_those_above_it_for_the_user_alone(tmp_path):
    directory = tmp_path / "a" / "b" / "c"
    store = FileStore(str(directory))

    assert await store.load("desk") is None
    assert await store.ids() == ()
    await store.delete("desk")
    assert not (tmp_path / "a").exists()

    await store.save(Session(id="desk"))
    for path in (directory, directory.parent, directory.parent.parent):
        assert stat.S_IMODE(path.stat().st_mode) == 0o700
    for path in directory.iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert files(directory) == {"desk.json"}


async def test_a_store_stays_where_it_is_when_the_process_goes_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    store, at_home = FileStore("sessions"), FileStore("~/sessions")
    monkeypatch.chdir("/")

    await store.save(Session(id="desk"))
    await at_home.save(Session(id="desk"))

    assert (tmp_path / "sessions" / "desk.json").exists()
    assert (tmp_path / "home" / "sessions" / "desk.json").exists()


async def test_a_file_is_the_session_as_json(store, tmp_path):
    saved = await store.save(said(Session(id="desk"), "Hi."))

    assert (tmp_path / "desk.json").read_bytes() == saved.to_json()


def fill(path: Path, kind: str) -> None:
    """Puts something at a path that is no session of "desk"."""
    match kind:
        case "cut short":
            path.write_bytes(Session(id="desk").to_json()[:-20])
        case "empty":
            path.write_bytes(b"")
        case "newer":
            path.write_bytes(Session(id="desk").to_json().replace(b'"v":1', b'"v":2'))
        case "not ours":
            path.write_text(CANARY)
        case "another's":
            path.write_bytes(Session(id="other").to_json())
        case "symbolic link":
            (path.parent / "elsewhere").write_bytes(Session(id="desk").to_json())
            path.symlink_to(path.parent / "elsewhere")
        case "dangling link":
            path.symlink_to(path.parent / "nowhere")
        case "directory":
            path.mkdir()
        case "pipe":
            os.mkfifo(path)


UNREADABLE = {
    "cut short": "it is cut short",
    "empty": "it is cut short",
    "newer": "a newer Alloy saved it",
    "not ours": "it isn't JSON",
    "another's": "it is another session's",
    "symbolic link": "it is a symbolic link",
    "dangling link": "it is a symbolic link",
    "directory": "it is no file",
    "pipe": "it is no file",
}


@pytest.mark.parametrize("kind", UNREADABLE)
async def test_p9_what_can_not_be_read_is_an_error_that_names_the_file_and_stays(store, tmp_path, kind):
    mine = await store.save(said(Session(id="desk"), "Hi."))
    path = tmp_path / "desk.json"
    path.unlink()
    fill(path, kind)
    before = (os.lstat(path), None if kind in {"directory", "pipe", "dangling link"} else path.read_bytes())

    for attempt in (store.load("desk"), store.save(mine), by_somebody_else(store).save(Session(id="desk"))):
        with pytest.raises(SessionError, match=UNREADABLE[kind]) as caught, anyio.fail_after(10):
            await attempt
        assert not isinstance(caught.value, SessionConflictError)
        assert str(path) in str(caught.value)
        assert CANARY not in str(caught.value)
        assert caught.value.session_id == "desk"

    after = (os.lstat(path), None if before[1] is None else path.read_bytes())
    assert (after[0].st_ino, after[0].st_mtime_ns, after[1]) == (before[0].st_ino, before[0].st_mtime_ns, before[1])
    assert not [name for name in files(tmp_path) if name.endswith(".tmp")]


async def test_an_unreadable_file_can_be_deleted_but_what_is_no_file_stays(store, tmp_path):
    fill(tmp_path / "desk.json", "not ours")
    fill(tmp_path / "other.json", "directory")

    await store.delete("desk")
    with pytest.raises(SessionError, match="it is no file"):
        await store.delete("other")

    assert files(tmp_path) == {"other.json"}


async def test_a_file_that_may_not_be_read_is_an_error_and_is_not_replaced(store, tmp_path, monkeypatch):
    mine = await store.save(Session(id="desk"))
    before = (tmp_path / "desk.json").read_bytes()
    (tmp_path / "desk.json").touch()  # so that it has to be looked at
    real = os.open

    def refuse(path, *args, **options):
        if str(path).endswith("desk.json"):
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return real(path, *args, **options)

    with monkeypatch.context() as patch:  # root may read everything
        patch.setattr(os, "open", refuse)
        for attempt in (store.load("desk"), store.save(mine)):
            with pytest.raises(SessionError, match=r"desk\.json: permission denied"):
                await attempt

    assert (tmp_path / "desk.json").read_bytes() == before


async def test_a_directory_that_is_a_file_is_an_error(tmp_path):
    (tmp_path / "sessions").write_text("mine")
    store = FileStore(tmp_path / "sessions")

    for attempt in (store.load("desk"), store.save(Session(id="desk")), store.delete("desk"), store.ids()):
        with pytest.raises(SessionError, match="sessions"):
            await attempt
    assert (tmp_path / "sessions").read_text() == "mine"


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
async def test_a_full_disk_leaves_the_old_session_and_nothing_else(store, tmp_path, monkeypatch, call):
    old = await store.save(said(Session(id="desk"), "Hi."))
    real_write = os.write
    written = itertools.count()

    def full(*args, **options):
        if call == "write" and next(written) == 0:
            return real_write(args[0], bytes(args[1])[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(SessionError, match=r"desk\.json: no space left on device") as caught:
            await store.save(said(old, CANARY))

    assert CANARY not in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)
    assert files(tmp_path) == {"desk.json"}
    assert await store.load("desk") == old
    assert (await store.save(said(old, "Again."))).revision == 2


async def test_a_real_limit_on_file_sizes_leaves_the_old_session(tmp_path):
    program = """
import asyncio, resource, sys
from alloy.errors import SessionError
from alloy.messages import Message, TextBlock
from alloy.sessions import FileStore, Session

async def main():
    store = FileStore(sys.argv[1])
    old = await store.save(Session(id="desk"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
    try:
        import dataclasses
        await store.save(dataclasses.replace(old, messages=(Message("user", (TextBlock("x" * 5000),)),)))
    except SessionError as error:
        print(error.reason.rpartition(": ")[2])
    print((await store.load("desk")) == old)

asyncio.run(main())
"""
    done = await anyio.run_process([sys.executable, "-c", program, str(tmp_path)])

    assert done.stdout.decode().splitlines() == ["file too large", "True"]
    assert files(tmp_path) == {"desk.json"}


async def test_a_save_that_could_not_be_put_on_the_disk_for_sure_can_be_made_again(store, tmp_path, monkeypatch):
    old = await store.save(said(Session(id="desk"), "Hi."))
    with monkeypatch.context() as patch:

        def broken(directory):
            raise OSError(errno.EIO, "Input/output error")

        patch.setattr(file_module, "_sync", broken)
        with pytest.raises(SessionError, match="input/output error"):
            await store.save(said(old, "New."))

    again = await store.save(said(old, "Again."))

    assert await by_somebody_else(store).load("desk") == again


async def test_who_can_not_start_a_thread_can_save_later(store, monkeypatch):
    def none(self):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", none)
        with pytest.raises(RuntimeError):
            await store.save(Session(id="desk"))

    with anyio.fail_after(5):
        assert (await store.save(Session(id="desk"))).revision == 1


# --- Cancellation ----------------------------------------------------------------------------------------------------


class Gate:
    """Stops a function of `os` at its next call, in its thread, until it is let go on."""

    def __init__(self, monkeypatch, name: str) -> None:
        self._real = getattr(os, name)
        self._left = ["stop"]
        self.reached = threading.Event()
        self.go_on = threading.Event()
        monkeypatch.setattr(os, name, self)

    def __call__(self, *args, **options):
        with contextlib.suppress(IndexError):
            self._left.pop()
            self.reached.set()
            assert self.go_on.wait(30)
        return self._real(*args, **options)

    async def wait(self) -> None:
        with anyio.fail_after(10):
            await anyio.to_thread.run_sync(self.reached.wait)


async def cancelled_save(store: FileStore, session: Session, gate: Gate) -> None:
    """Saves, and is cancelled at the gate."""
    async with anyio.create_task_group() as group:
        group.start_soon(store.save, session)
        await gate.wait()
        group.cancel_scope.cancel()


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
async def test_p3_an_abandoned_save_never_overwrites_a_later_one(store, tmp_path, monkeypatch, call):
    old = await store.save(said(Session(id="desk"), "Old."))
    gate = Gate(monkeypatch, call)
    await cancelled_save(store, said(old, "Abandoned."), gate)
    saved = []

    async def save() -> None:
        saved.append(await store.save(said(old, "Later.")))

    async with anyio.create_task_group() as group:
        group.start_soon(save)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert saved == []  # it waits for the earlier one
        with anyio.fail_after(5):  # reading needs no lock, nor does it wait to sweep
            assert (await by_somebody_else(store).load("desk")) == old
        gate.go_on.set()

    assert saved[0].revision == 3
    assert await by_somebody_else(store).load("desk") == saved[0]
    assert files(tmp_path) == {"desk.json"}


async def test_p3_an_abandoned_first_save_does_not_keep_its_owner_from_saving(store, monkeypatch):
    gate = Gate(monkeypatch, "fsync")
    await cancelled_save(store, Session(id="desk", created_ms=1), gate)
    gate.go_on.set()

    saved = await store.save(Session(id="desk", created_ms=1, seq=9))

    assert (saved.revision, saved.seq) == (2, 9)


async def test_p3_looking_at_what_an_abandoned_save_left_does_not_keep_its_owner_from_saving(store, monkeypatch):
    old = await store.save(said(Session(id="desk"), "Old."))
    gate = Gate(monkeypatch, "fsync")
    await cancelled_save(store, said(old, "Abandoned."), gate)
    gate.go_on.set()
    seen = await store.load("desk")

    saved = await store.save(said(old, "Mine."))

    assert (seen.revision, saved.revision) == (2, 3)
    with pytest.raises(SessionConflictError):
        await store.save(said(seen, "Theirs."))
    assert await store.load("desk") == saved


async def test_p3_after_an_abandoned_save_somebody_else_is_still_somebody_else(store, monkeypatch):
    old = await store.save(said(Session(id="desk"), "Old."))
    gate = Gate(monkeypatch, "fsync")
    await cancelled_save(store, said(old, "Abandoned."), gate)
    gate.go_on.set()
    assert (await store.load("desk")).messages[0].text == "Abandoned."  # waits for it
    other = by_somebody_else(store)
    theirs = await other.save(said(await other.load("desk"), "Theirs."))

    with pytest.raises(SessionConflictError):
        await store.save(said(old, "Mine."))
    assert await store.load("desk") == theirs


async def test_a_load_after_an_abandoned_save_sees_what_it_leaves(store, monkeypatch):
    gate = Gate(monkeypatch, "fsync")
    await cancelled_save(store, Session(id="desk"), gate)
    loaded = []

    async def load() -> None:
        loaded.append(await store.load("desk"))

    async with anyio.create_task_group() as group:
        group.start_soon(load)
        await store.save(Session(id="other"))  # other sessions don't wait
        assert loaded == []
        gate.go_on.set()

    assert loaded[0].revision == 1


async def test_p4_an_abandoned_save_that_fails_leaves_the_old_session_and_no_file(store, tmp_path, monkeypatch):
    old = await store.save(said(Session(id="desk"), "Old."))
    gate = Gate(monkeypatch, "fsync")

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    gate._real = full
    await cancelled_save(store, said(old, "Abandoned."), gate)
    monkeypatch.undo()
    gate.go_on.set()

    assert await store.load("desk") == old
    assert files(tmp_path) == {"desk.json"}
    assert (await store.save(said(old, "New."))).revision == 2


async def test_p4_who_is_cancelled_while_waiting_in_line_has_done_nothing(store, monkeypatch):
    old = await store.save(said(Session(id="desk"), "Old."))
    gate = Gate(monkeypatch, "fsync")
    await cancelled_save(store, said(old, "Abandoned."), gate)

    with anyio.move_on_after(0.02) as scope:
        await store.save(said(old, "Impatient."))
    assert scope.cancelled_caught
    assert stuck_threads().count("alloy session") == 1
    gate.go_on.set()

    assert (await store.load("desk")).messages[0].text == "Abandoned."
    assert stuck_threads() == ()


def test_an_abandoned_save_may_outlive_its_event_loop(tmp_path, monkeypatch):
    store = FileStore(tmp_path)
    old = asyncio.run(store.save(said(Session(id="desk"), "Old.")))
    gate = Gate(monkeypatch, "fsync")
    asyncio.run(cancelled_save(store, said(old, "Abandoned."), gate))
    gate.go_on.set()

    new = asyncio.run(store.save(said(old, "New.")))

    assert new.revision == 3
    assert asyncio.run(store.load("desk")) == new


async def test_p3_of_many_who_save_at_once_in_one_process_only_the_owners_save_goes_through(store):
    session = await store.save(Session(id="desk"))
    for _ in range(20):
        outcomes = []

        async def save(session: Session, number: int, outcomes: list) -> None:
            with contextlib.suppress(SessionConflictError):
                outcomes.append(await store.save(said(session, str(number))))

        async with anyio.create_task_group() as group:
            for number in range(4):
                group.start_soon(save, session, number, outcomes)

        assert len(outcomes) == 1
        session = outcomes[0]
        assert await store.load("desk") == session


# --- What is remembered ----------------------------------------------------------------------------------------------


async def test_p10_a_file_that_is_known_is_not_read_again(store, tmp_path, monkeypatch):
    session = await store.save(said(Session(id="desk"), "Hi."))
    other = by_somebody_else(store)
    await other.load("desk")

    with monkeypatch.context() as patch:
        patch.setattr(Session, "from_json", None)
        for text in ("a", "b", "c"):
            session = await store.save(said(session, text))

    with pytest.raises(SessionConflictError):
        await other.save(dataclasses.replace(session, revision=1))


async def test_a_file_that_was_touched_is_read_again_and_saved_over(store, tmp_path):
    session = await store.save(Session(id="desk"))
    os.utime(tmp_path / "desk.json", ns=(1, 1))

    assert (await store.save(session)).revision == 2


async def test_p3_a_change_that_inode_size_and_time_do_not_show_is_seen(store, tmp_path):
    mine = await store.save(said(Session(id="desk", revision=0), "Old."))
    path = tmp_path / "desk.json"
    before = path.stat()
    theirs = dataclasses.replace(mine, revision=5)
    path.write_bytes(theirs.to_json())
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (before.st_ino, before.st_size, before.st_mtime_ns) == (after.st_ino, after.st_size, after.st_mtime_ns)

    with pytest.raises(SessionConflictError):
        await store.save(said(mine, "Mine."))
    assert await store.load("desk") == theirs


async def test_p10_ids_that_were_only_asked_for_are_not_remembered(store):
    for number in range(50):
        await store.load(f"nobody {number}")
    await store.save(Session(id="desk"))
    await store.delete("desk")

    assert store._records == {}


# --- Other processes -------------------------------------------------------------------------------------------------

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


async def test_a_temporary_file_that_is_in_use_is_not_swept(store, tmp_path, monkeypatch):
    gate = Gate(monkeypatch, "fsync")
    await cancelled_save(store, Session(id="desk"), gate)
    (tmp_path / f".alloy-{'0' * 16}.tmp").write_text("left")
    (tmp_path / ".mine.tmp").write_text("mine")

    await by_somebody_else(store).ids()

    kept = files(tmp_path)
    gate.go_on.set()
    assert len(kept) == 2
    assert ".mine.tmp" in kept
    assert (await store.load("desk")).revision == 1


async def test_p7_the_event_loop_goes_on_while_the_disk_is_busy(store, monkeypatch):
    gate = Gate(monkeypatch, "fsync")
    saved = []

    async def save() -> None:
        saved.append(await store.save(Session(id="desk")))

    async with anyio.create_task_group() as group:
        group.start_soon(save)
        await gate.wait()
        assert saved == []
        gate.go_on.set()
    assert json.loads((store.directory / "desk.json").read_bytes())["revision"] == 1
