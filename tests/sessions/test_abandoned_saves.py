"""Saves that are cancelled, whose threads go on: each leaves the old session or the new one, in order."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest

from alloy._tasks import stuck_threads
from alloy.errors import SessionConflictError
from alloy.sessions import FileStore, Session
from tests.sessions.files import Gate, by_somebody_else, cancelled_save, files, said

pytestmark = pytest.mark.anyio


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
