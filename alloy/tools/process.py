"""One command and all its processes: begun together, watched by one thread, ended together.

The command runs in a session of its own, so that its processes can be ended as one group. Beside it a watcher reads a pipe
whose other end only this process holds: should this process die, however that happens, the watcher ends the group. Processes
that left the group are found by a mark in their environment, where there is a ``/proc``.
"""

from __future__ import annotations

import os
import secrets
import select
import signal
import subprocess
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alloy._tasks import run_in_thread
from alloy.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

__all__ = ["MARK", "Exit", "end_session", "run_processes"]

GRACE = 2.0
"""How long processes have after SIGTERM before they are killed, in seconds."""

MARK = "ALLOY_COMMAND_ID"
"""The variable whose value tells which processes belong together, also those that have left their session."""

_POSIX = os.name == "posix"
_PROC = Path("/proc")
_CHUNK = 1 << 16
_TICK = 0.02  # seconds between two looks, where nothing tells of an exit
_DRAINED = 64  # pieces that are read at once of processes that go on writing
_DEATH = 1.0  # seconds that a killed process may take to be gone
_SHELL = "/bin/sh"
_LAUNCH = """\
exec 3<&0 </dev/null
trap : HUP INT TERM
{ trap '' HUP INT TERM; read -r _ <&3 || kill -KILL 0; } >/dev/null 2>&1 &
exec 3<&- 4>&2 2>/dev/null
(exec "$@" 2>&4 4>&-)
code=$?
kill -KILL $!
wait $!
exit $code
"""


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended.

    Attributes:
        code: its exit code, as a shell tells it: 128 and the signal's number, if it died of one.
        ended: how many processes it left running, which were ended then.
    """

    code: int
    ended: int = 0

    @property
    def signal(self) -> str | None:
        """The name of the signal that it died of, if it did."""
        try:
            return signal.Signals(self.code - 128).name
        except ValueError:
            return None


async def run_processes(
    argv: Sequence[str],
    *,
    env: Mapping[str, str],
    cwd: Path,
    output: Callable[[bytes], None],
    name: str,
    pass_fds: Sequence[int] = (),
) -> Exit:
    """Runs a program without input and without a terminal, until it has ended and nothing of it is left.

    When cancelled, its processes get SIGTERM, and SIGKILL two seconds later. Those that the program leaves running when it ends
    by itself are ended in the same way.

    Args:
        argv: the program and its arguments.
        env: its whole environment.
        cwd: where it runs.
        output: gets what it writes, both outputs as one, a piece at a time, in another thread.
        name: the tool's.
        pass_fds: descriptors that it gets.

    Raises:
        ToolError: it can't be started, or the system isn't POSIX.
    """
    if not _POSIX:
        raise ToolError("commands need a POSIX system; on Windows run the program in WSL or in a container")
    run = _Run(argv, env=env, cwd=cwd, output=output, pass_fds=pass_fds)
    try:
        return await run_in_thread(run, name=f"alloy tool {name}", stop=run.stop, within=GRACE + 2 * _DEATH)
    except OSError as error:
        raise ToolError(f"can't run {os.path.basename(argv[0])!r}: {(error.strerror or str(error)).lower()}") from None  # noqa: PTH119  a word


class _Run:
    """What the thread does: starts the processes, reads what they write, and ends them."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str],
        cwd: Path,
        output: Callable[[bytes], None],
        pass_fds: Sequence[int],
    ) -> None:
        self._argv = argv
        self._mark = secrets.token_hex(8)
        self._env = {**env, MARK: self._mark}
        self._cwd = cwd
        self._output = output
        self._pass_fds = pass_fds
        self._lock = threading.Lock()
        self._stopped = False
        self._wake: int | None = None

    def stop(self) -> None:
        """Has the thread end the processes; may be called from any thread, and at any time."""
        with self._lock:
            self._stopped = True
            if self._wake is not None:
                os.write(self._wake, b"x")

    def __call__(self) -> Exit:
        woken, wake = os.pipe()
        with self._lock:
            self._wake = wake
            stopped = self._stopped
        try:
            return Exit(-1) if stopped else self._run(woken)
        finally:
            with self._lock:
                self._wake = None
            os.close(wake)
            os.close(woken)

    def _run(self, woken: int) -> Exit:
        alive, lifeline = os.pipe()
        reading, writing = os.pipe()
        process = None
        try:
            try:
                process = self._start(alive, writing)
            finally:
                os.close(alive)
                os.close(writing)
            os.set_blocking(reading, False)
            self._watch(process, reading, woken)
            left = self._end(process, reading)
        finally:
            os.close(lifeline)  # whatever has happened here, the watcher kills what is left
            os.close(reading)
            if process is not None:
                with suppress(subprocess.TimeoutExpired):  # it hangs in the kernel, and nobody can end it
                    process.wait(_DEATH)
        code = process.returncode if process.returncode is not None else -signal.SIGKILL
        return Exit(code if code >= 0 else 128 - code, left)

    def _start(self, alive: int, writing: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(  # noqa: S603  running commands is what it's for
            [_SHELL, "-c", _LAUNCH, "alloy", *self._argv],
            stdin=alive,
            stdout=writing,
            stderr=writing,
            cwd=self._cwd,
            env=self._env,
            pass_fds=self._pass_fds,
            start_new_session=True,
        )

    def _watch(self, process: subprocess.Popen[bytes], reading: int, woken: int) -> None:
        """Passes the output on until the program has ended, or nobody wants it any more."""
        ended = _exit_descriptor(process.pid)
        waiting = select.poll()
        for descriptor in (reading, woken, ended):
            if descriptor is not None:
                waiting.register(descriptor, select.POLLIN)
        try:
            while True:
                ready = {descriptor for descriptor, _ in waiting.poll(None if ended is not None else _TICK * 1000)}
                if reading in ready and not self._read(reading):
                    waiting.unregister(reading)  # everybody has closed it
                if woken in ready or ended in ready or (ended is None and process.poll() is not None):
                    return
        finally:
            if ended is not None:
                os.close(ended)

    def _read(self, reading: int) -> bool:
        """Passes one piece of output on; False when there is none at the moment, or never again."""
        try:
            piece = os.read(reading, _CHUNK)
        except BlockingIOError:
            return False
        if piece:
            self._output(piece)
        return bool(piece)

    def _end(self, process: subprocess.Popen[bytes], reading: int) -> int:
        """Ends every process that is left; returns how many there were."""

        def meanwhile() -> None:
            self._drain(reading)
            if not _PROC.is_dir():
                process.poll()  # or the group would seem to be there as long as nobody has waited for it

        meanwhile()
        left = end_session(process.pid, self._mark, meanwhile=meanwhile)
        self._drain(reading)
        return left

    def _drain(self, reading: int) -> None:
        """Passes on what is there, so that nobody has to wait for us to read before it can end."""
        for _ in range(_DRAINED):
            if not self._read(reading):
                return


def end_session(session: int, mark: str, *, meanwhile: Callable[[], None] = lambda: None) -> int:
    """Ends every process of a session and those that have its mark, gently at first; blocks until they're gone.

    Args:
        session: the id of the process that the session began with.
        mark: the value of `MARK` in their environment.
        meanwhile: called again and again while they have time to end.

    Returns:
        How many there were.
    """
    left = _members(session, mark)
    for number, within in ((signal.SIGTERM, GRACE), (signal.SIGKILL, _DEATH)):
        until, now, told = time.monotonic() + within, left, set[int]()
        while now and time.monotonic() < until:
            for pid in now:
                if pid not in told:
                    _send(pid, number)
            told.update(now)
            time.sleep(_TICK)
            meanwhile()
            now = _members(session, mark)
        if not now:
            break
    _send(-session, signal.SIGKILL)  # whoever was begun while we looked; the group can't grow under this
    return len(left)


def _members(session: int, mark: str) -> list[int]:
    """The processes that are left, as ids for `os.kill`; where there is no ``/proc``, their group."""
    if _PROC.is_dir():
        # A process that is begun while we look isn't on the list, and who has begun it may have ended when its turn comes.
        return _listed(session, mark) or _listed(session, mark)
    try:
        os.killpg(session, 0)
    except OSError:  # nobody, or only one that has ended and isn't waited for
        return []
    return [-session]


def _listed(session: int, mark: str) -> list[int]:
    return [int(name) for name in os.listdir(_PROC) if name.isdigit() and _belongs(name, session, mark)]  # noqa: PTH208  a thousand names


def _belongs(name: str, session: int, mark: str) -> bool:
    """Whether a process lives, and is in the command's session or has its mark."""
    try:
        # man 5 proc: pid (name) state ppid pgrp session ...
        state, _, _, own, *_ = (_PROC / name / "stat").read_bytes().rpartition(b") ")[2].split()
        if state in (b"Z", b"X"):
            return False
        return int(own) == session or f"{MARK}={mark}\0".encode() in (_PROC / name / "environ").read_bytes()
    except (OSError, ValueError):  # it has ended, or is another user's
        return False


def _exit_descriptor(pid: int) -> int | None:
    """A descriptor that can be read when the process has ended, where the system has such a thing."""
    if not hasattr(os, "pidfd_open"):
        return None
    with suppress(OSError):  # forbidden, as in some containers
        return os.pidfd_open(pid)
    return None


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)
