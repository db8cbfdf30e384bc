"""A server as a process of ours, spoken to by its standard input and output, a message a line.

It runs in a session of its own and has a mark in its environment, so that whatever it begins can be found and ended with it.
The SDK's own transport leaves behind what a server left running, and reads lines of any length.

Source: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#stdio
"""

from __future__ import annotations

import os
import secrets
from contextlib import asynccontextmanager, suppress
from subprocess import PIPE
from typing import TYPE_CHECKING, Any, TypeAlias

import anyio
from anyio import AsyncContextManagerMixin
from mcp import types
from mcp.shared.message import SessionMessage

from alloy._tasks import run_in_thread, task_group
from alloy.tools.process import MARK, end_session

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
    from pathlib import Path

    from anyio.abc import ByteReceiveStream, ByteSendStream, Process
    from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

    _Sender: TypeAlias = MemoryObjectSendStream[SessionMessage | Exception]
    _Receiver: TypeAlias = MemoryObjectReceiveStream[SessionMessage]

__all__ = ["Stdio", "minimal_environment"]

MAX_MESSAGE = 64 << 20
"""How long one message may be, in bytes."""

GRACE = 2.0
"""How long a server has to end by itself when its input has ended, in seconds."""

_FLUSH = 0.5
_DEATH = 1.0
_DRAIN = 0.2  # how long what a server wrote before it ended may take to arrive, in seconds
_TICK = 0.01
_KEPT = 4096
_WINDOWS = (
    "APPDATA HOMEDRIVE HOMEPATH LOCALAPPDATA PATH PATHEXT PROCESSOR_ARCHITECTURE SYSTEMDRIVE SYSTEMROOT TEMP USERNAME "
    "USERPROFILE"
)
_POSIX = "HOME LANG LC_ALL LC_CTYPE LOGNAME PATH SHELL TMPDIR TZ USER"
_INHERITED = (_WINDOWS if os.name == "nt" else _POSIX).split()
_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


def minimal_environment(given: Mapping[str, str]) -> dict[str, str]:
    """What a server gets of our environment: what programs need to be found and to run, and what is asked for."""
    return {name: os.environ[name] for name in _INHERITED if name in os.environ} | {**given}


class Stdio(AsyncContextManagerMixin):
    """Starts a server and gives the streams of its messages; whoever leaves it leaves nothing of the server running.

    Args:
        command: the program and its arguments.
        env: its whole environment.
        cwd: where it runs; None for where we are.
        on_end: called, once or more, when the server can't be spoken to any more.
    """

    expired = False
    note = ""

    def __init__(
        self, command: Sequence[str], *, env: Mapping[str, str], cwd: Path | None, on_end: Callable[[], None]
    ) -> None:
        self._command = list(command)
        self._mark = secrets.token_hex(8)
        self._env = {**env, MARK: self._mark}
        self._cwd = cwd
        self._on_end = on_end
        self._complaints = bytearray()
        self._exit_code: int | None = None
        self._problem = ""

    @property
    def complaints(self) -> str:
        """The last of what it wrote to its standard error, and to its standard output besides messages."""
        return self._complaints.decode(errors="replace").strip()

    @property
    def ending(self) -> str:
        """How it ended, in a few words."""
        if self._problem or self._exit_code is None:
            return self._problem or "it closed its output"
        return f"it ended with code {self._exit_code}"

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[tuple[Any, Any]]:
        with anyio.CancelScope(shield=True):  # a start that is interrupted would leave a process behind
            process = await anyio.open_process(
                self._command,
                stdin=PIPE,
                stdout=PIPE,
                stderr=PIPE,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )
        assert process.stdin and process.stdout and process.stderr  # noqa: S101, PT018  they were asked for
        written, incoming = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        outgoing, wanted = anyio.create_memory_object_stream[SessionMessage](0)
        flushed = anyio.Event()
        async with task_group() as group:
            group.start_soon(self._read, process.stdout, written)
            group.start_soon(self._write, process.stdin, wanted, flushed)
            group.start_soon(self._listen, process.stderr)
            group.start_soon(self._watch, process)
            try:
                yield incoming, outgoing
            finally:
                with anyio.CancelScope(shield=True):
                    incoming.close()
                    outgoing.close()
                    with anyio.move_on_after(_FLUSH):
                        await flushed.wait()
                    await self._stop(process)
                group.cancel_scope.cancel()

    async def _read(self, stdout: ByteReceiveStream, sink: _Sender) -> None:
        """Passes messages on, and goes on reading when nobody wants them: a server that can't write can't end."""
        with suppress(*_GONE):
            async with sink:
                try:
                    async for line in self._lines(stdout):
                        if (message := self._message(line)) is not None:
                            await sink.send(message)
                finally:
                    self._on_end()
        with suppress(*_GONE):
            while True:
                await stdout.receive()

    async def _lines(self, stdout: ByteReceiveStream) -> AsyncIterator[bytes]:
        rest = bytearray()
        while True:
            try:
                piece = await stdout.receive()
            except _GONE:
                return
            start = 0
            while (end := piece.find(b"\n", start)) >= 0:
                rest += piece[start:end]
                yield bytes(rest)
                rest.clear()
                start = end + 1
            rest += piece[start:]
            if len(rest) > MAX_MESSAGE:
                self._problem = f"it sent a message of more than {MAX_MESSAGE} bytes"
                return

    def _message(self, line: bytes) -> SessionMessage | None:
        if not line.strip():
            return None
        try:
            return SessionMessage(types.jsonrpc_message_adapter.validate_json(line, by_name=False))
        except ValueError:  # a greeting, or a print() that was forgotten
            self._complain(line[:_KEPT] + b"\n")
            return None

    async def _write(self, stdin: ByteSendStream, source: _Receiver, flushed: anyio.Event) -> None:
        try:
            async with source:
                async for message in source:
                    line = message.message.model_dump_json(by_alias=True, exclude_unset=True)
                    await stdin.send(line.encode() + b"\n")
        except _GONE:
            self._on_end()
        finally:
            flushed.set()

    async def _listen(self, stderr: ByteReceiveStream) -> None:
        with suppress(*_GONE):
            while True:
                self._complain(await stderr.receive())

    async def _watch(self, process: Process) -> None:
        """Notices a server that has ended while what it began still holds its output."""
        await _exited(process, _DRAIN)
        await anyio.sleep(_DRAIN)
        self._on_end()

    def _complain(self, words: bytes) -> None:
        self._complaints += words
        del self._complaints[:-_KEPT]

    async def _stop(self, process: Process) -> None:
        """Ends the server as the specification says: its input ends, then it's asked, then it's killed; with all it began."""
        assert process.stdin is not None  # noqa: S101  it was asked for
        with suppress(*_GONE):
            await process.stdin.aclose()
        with anyio.move_on_after(GRACE):
            await _exited(process)
        if os.name == "posix":
            await run_in_thread(end_session, process.pid, self._mark, name="alloy mcp end")
        elif process.returncode is None:
            process.kill()
        with anyio.move_on_after(_DEATH):
            await _exited(process)
        self._exit_code = process.returncode
        with anyio.move_on_after(_DEATH), suppress(*_GONE):
            await process.aclose()


async def _exited(process: Process, tick: float = _TICK) -> None:
    """Waits for the process alone: `wait` would wait for whoever holds its pipes, too."""
    descriptor = None
    try:
        if hasattr(os, "pidfd_open"):
            with suppress(OSError):  # it has been waited for already, or the system forbids it
                descriptor = os.pidfd_open(process.pid)
                await anyio.wait_readable(descriptor)
    finally:
        if descriptor is not None:
            os.close(descriptor)
    while process.returncode is None:  # noqa: ASYNC110  nothing tells when it's set
        await anyio.sleep(tick)
