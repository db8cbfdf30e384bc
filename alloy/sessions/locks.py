"""Locks on files, which the system takes back when their process ends, however it ends; blocking."""

from __future__ import annotations

import os
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = ["CREATE", "locked", "try_lock"]

CREATE = (
    os.O_RDWR
    | os.O_CREAT
    | sum(getattr(os, flag, 0) for flag in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NOINHERIT"))
)
_PAUSE = 0.001  # seconds between two tries


def try_lock(descriptor: int) -> bool:
    """Takes the lock on an open file, unless somebody else has it.

    Raises:
        OSError: the file system has no locks.
    """
    if sys.platform == "win32":
        os.lseek(descriptor, 0, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
    else:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _unlock(descriptor: int) -> None:
    """Gives the lock back, also for a child process that was forked meanwhile and has the file open, too."""
    if sys.platform == "win32":
        os.lseek(descriptor, 0, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


@contextmanager
def locked(path: Path, *, within: float) -> Iterator[None]:
    """Holds the lock on a file, which is made if it's missing and stays.

    Args:
        path: the file.
        within: how long to wait for it, in seconds.

    Raises:
        TimeoutError: somebody else has held it all the time.
        OSError: the file can't be opened or locked.
    """
    descriptor = os.open(path, CREATE, 0o600)
    try:
        until = time.monotonic() + within
        while not try_lock(descriptor):
            if time.monotonic() >= until:
                raise TimeoutError(f"somebody else holds the lock {path}")
            time.sleep(_PAUSE)
        try:
            yield
        finally:
            _unlock(descriptor)
    finally:
        os.close(descriptor)
