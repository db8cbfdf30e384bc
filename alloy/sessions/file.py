"""Sessions in files, one each."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import secrets
import stat
import threading
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio

from alloy._tasks import run_in_thread
from alloy.errors import SessionError
from alloy.sessions.base import Session, check_id, check_owner, saved
from alloy.sessions.locks import CREATE, locked, try_lock
from alloy.sessions.names import file_name, is_hashed, written_id

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager
    from typing import BinaryIO

__all__ = ["FileStore"]

LOCK_TIMEOUT = 10.0  # seconds; it is held for the time that a file is renamed in
HEAD = 2048  # bytes in which everything stands that a save changes for sure
_PAUSE = 0.002  # seconds between two looks whether an earlier call has ended
_TEMPORARY = re.compile(r"\.alloy-[0-9a-f]{16}\.tmp")
_READ = os.O_RDONLY | sum(getattr(os, flag, 0) for flag in ("O_BINARY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK"))

T = TypeVar("T")
_Stamp = tuple[int, int, int, bytes]


class _Record:
    """What is known of one session's file: what stood there when it was last read or written."""

    __slots__ = ("created_ms", "revision", "stamp", "turn", "undelivered")

    def __init__(self) -> None:
        self.turn = threading.Lock()
        self.forget()

    def forget(self) -> None:
        self.learn(None, None, 0)

    def learn(self, stamp: _Stamp | None, revision: int | None, created_ms: int, *, made_of: int | None = None) -> None:
        """Takes note of another file.

        Args:
            stamp: what it is recognised by.
            revision: its revision; None if there is no file.
            created_ms: when its session began.
            made_of: the revision it was saved over, until whoever saved it has been told.
        """
        self.stamp = stamp
        self.revision = revision
        self.created_ms = created_ms
        self.undelivered = made_of


class FileStore:
    """Keeps sessions in a directory, one JSON file each, for several processes of one machine.

    A file is replaced as a whole and on the disk before `save` returns, so a crash leaves the old session or the new one.
    Only the user can read it. The directory is made when the first session is saved. It has to be on a local disk: network
    file systems lock differently, or not at all.

    Args:
        directory: where the files are; ``~`` stands for the home directory.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory).expanduser().absolute()
        self._records: dict[str, _Record] = {}
        self._swept = False

    async def load(self, session_id: str) -> Session | None:
        """The session with this id, or None; see `SessionStore`."""
        check_id(session_id)
        return await self._in_turn(session_id, lambda record: self._read(session_id, record, known=False))

    async def save(self, session: Session) -> Session:
        """Saves a session; see `SessionStore`.

        Where this is cancelled, the writing goes on by itself, and whatever is asked for the same session next waits for it.
        """
        return await self._in_turn(session.id, lambda record: self._save(session, record), saves=True)

    async def delete(self, session_id: str) -> None:
        """Deletes the session with this id, also one that can't be read; see `SessionStore`."""
        check_id(session_id)
        await self._in_turn(session_id, lambda record: self._delete(session_id, record))

    async def ids(self) -> Sequence[str]:
        """The ids of all sessions, sorted; see `SessionStore`."""
        return await run_in_thread(self._ids, name="alloy sessions")

    def __repr__(self) -> str:
        return f"FileStore({str(self.directory)!r})"

    # --- One after the other -----------------------------------------------------------------------------------------

    async def _in_turn(self, session_id: str, function: Callable[[_Record], T], *, saves: bool = False) -> T:
        """Calls a function in a thread, when whatever was called before for the same session has ended.

        Args:
            session_id: the session.
            function: what to call, with the session's record.
            saves: whether it saves; if so, the caller has been told of it when this returns.
        """
        record = await self._turn(session_id)
        began = False
        leaving = ["last", "first"]  # the thread and its caller, who may be cancelled before

        def leave() -> None:
            if leaving.pop() == "last":
                if record.revision is None:
                    self._records.pop(session_id, None)  # ids that were only asked for take no memory
                record.turn.release()

        def call() -> T:
            nonlocal began
            began = True
            try:
                self._sweep_once()
                return function(record)
            except OSError as error:
                path = self.directory / file_name(session_id)
                raise SessionError(session_id, f"{path}: {_why(error)}") from error
            finally:
                leave()

        try:
            value = await run_in_thread(call, name="alloy session")
            if saves:
                record.undelivered = None
            return value
        except Exception:
            if not began:  # the system has no more threads
                leave()
            raise
        finally:
            leave()

    async def _turn(self, session_id: str) -> _Record:
        """Waits until nobody else does something with a session; its record's turn is taken then.

        Who does may be a thread that nobody waits for any more, or belong to another event loop: so this looks now and then.
        """
        while True:
            record = self._records.setdefault(session_id, _Record())
            if not record.turn.acquire(blocking=False):
                await anyio.sleep(_PAUSE)
            elif self._records.setdefault(session_id, record) is record:
                return record
            else:  # it was dropped just before it was taken
                record.turn.release()

    # --- In the thread -----------------------------------------------------------------------------------------------

    def _read(self, session_id: str, record: _Record, *, known: bool) -> Session | None:
        """Brings the record up to date.

        Args:
            session_id: the session.
            record: its record.
            known: whether a file that is known already needn't be read.

        Returns:
            The session; None if there is none, or where it wasn't read.
        """
        path = self.directory / file_name(session_id)
        try:
            file = _open(path)
        except FileNotFoundError:
            record.forget()
            return None
        with file:
            head = file.read(HEAD)
            stamp = _stamp(file, head)
            if known and stamp == record.stamp:
                return None
            data = head + file.read()
        try:
            session = Session.from_json(data, id=session_id)
        except SessionError as error:
            raise SessionError(session_id, f"{path}: {error.reason}") from None
        if stamp != record.stamp:
            record.learn(stamp, session.revision, session.created_ms)
        return session

    def _check_owner(self, session: Session, record: _Record) -> None:
        self._read(session.id, record, known=True)
        ours = record.undelivered == session.revision and record.created_ms == session.created_ms
        if not ours:  # a save that was cancelled has gone through, which its owner can't know
            check_owner(session, record.revision, record.created_ms)

    def _save(self, session: Session, record: _Record) -> Session:
        path = self.directory / file_name(session.id)
        _make(self.directory)
        self._check_owner(session, record)
        new = saved(session, (record.revision or 0) + 1)
        data = new.to_json()
        temporary = self.directory / f".alloy-{secrets.token_hex(8)}.tmp"
        file = self._new(temporary)
        try:
            _write(file.fileno(), data)
            stamp = _stamp(file, data[:HEAD])
            with self._locked():
                self._check_owner(session, record)
                file.close()  # Windows renames no open file
                temporary.replace(path)
        except BaseException:
            file.close()
            temporary.unlink(missing_ok=True)
            raise
        record.learn(stamp, new.revision, new.created_ms, made_of=session.revision)
        _sync(self.directory)
        return new

    def _delete(self, session_id: str, record: _Record) -> None:
        path = self.directory / file_name(session_id)
        with suppress(FileNotFoundError), self._locked():
            _check_kind(path)
            path.unlink()
            _sync(self.directory)
        record.forget()

    def _ids(self) -> Sequence[str]:
        self._sweep_once()
        try:
            names = [path.name for path in self.directory.iterdir()]
            found = [self._hashed_id(name) if is_hashed(name) else written_id(name) for name in names]
            return tuple(sorted(session_id for session_id in found if session_id is not None))
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise SessionError("*", f"{error.filename or self.directory}: {_why(error)}") from error

    def _hashed_id(self, name: str) -> str | None:
        """The id in a file whose name is too short for it; None if it has gone by now."""
        path = self.directory / name
        try:
            with _open(path) as file:
                session_id = Session.from_json(file.read()).id
        except FileNotFoundError:
            return None
        except SessionError as error:
            raise SessionError("*", f"{path}: {error.reason}") from None
        if file_name(session_id) != name:
            raise SessionError("*", f"{path}: it is another session's, by the id in it")
        return session_id

    # --- Temporary files ---------------------------------------------------------------------------------------------

    def _locked(self, *, wait: bool = True) -> AbstractContextManager[None]:
        """The lock of the directory: who holds it makes and renames files in it."""
        return locked(self.directory / ".alloy.lock", within=LOCK_TIMEOUT if wait else 0)

    def _new(self, temporary: Path) -> BinaryIO:
        """A new temporary file, locked as long as it is open: what isn't was left by a process that has died."""
        with self._locked():
            file = os.fdopen(os.open(temporary, CREATE | os.O_EXCL, 0o600), "wb", buffering=0)
            try_lock(file.fileno())
        return file

    def _sweep_once(self) -> None:
        """Removes the temporary files that dead processes have left, the first time."""
        if self._swept:
            return
        self._swept = True
        with suppress(OSError):  # nobody needs them gone, so nobody waits for it
            left = [path for path in self.directory.iterdir() if _TEMPORARY.fullmatch(path.name)]
            if left:
                with self._locked(wait=False):
                    for path in left:
                        _remove_if_left(path)


def _remove_if_left(path: Path) -> None:
    with suppress(FileNotFoundError):
        descriptor = os.open(path, CREATE & ~os.O_CREAT)
        try:
            in_use = not try_lock(descriptor)
        finally:
            os.close(descriptor)
        if not in_use:
            path.unlink()


# --- Files -----------------------------------------------------------------------------------------------------------


def _open(path: Path) -> BinaryIO:
    _check_kind(path)
    return os.fdopen(os.open(path, _READ), "rb", buffering=0)


def _check_kind(path: Path) -> None:
    mode = path.lstat().st_mode
    if not stat.S_ISREG(mode):
        raise OSError(0, "it is a symbolic link" if stat.S_ISLNK(mode) else "it is no file")


def _stamp(file: BinaryIO, head: bytes) -> _Stamp:
    """What a file is recognised by.

    Inodes are used again and clocks are coarse, so its first bytes are part of it, in which its revision is.
    """
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns, hashlib.blake2b(head, digest_size=16).digest()


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
    os.fsync(descriptor)


def _make(directory: Path) -> None:
    """Makes a directory and those above it, for the user alone."""
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    for path in reversed(missing):
        path.mkdir(mode=0o700, exist_ok=True)
        _sync(path.parent)


def _sync(directory: Path) -> None:
    """Sees to it that a directory's entries are on the disk; Windows does so by itself."""
    if os.name == "nt":
        return
    with suppress(PermissionError):  # it can be written to, but not read
        descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL:  # the file system does so by itself, or can't
                raise
        finally:
            os.close(descriptor)


def _why(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()
