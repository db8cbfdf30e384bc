"""Sessions in files: whole or not at all, and for the user alone."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import os
import stat
import sys
import threading
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from alloy.errors import SessionConflictError, SessionError
from alloy.sessions import FileStore, Session
from alloy.sessions import file as file_module
from tests.sessions.files import by_somebody_else, files, said

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.anyio

CANARY = "CANARY-6b1f"


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


# --- What is remembered -----------------------------------------------------------------------------------------------


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
