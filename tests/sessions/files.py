"""Helpers for the tests of sessions in files."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import threading
from typing import TYPE_CHECKING

import anyio
import anyio.to_thread

from alloy.messages import Message, TextBlock
from alloy.sessions import FileStore, Session

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOCK", "Gate", "by_somebody_else", "cancelled_save", "files", "said"]

LOCK = ".alloy.lock"


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
