"""Processes that hold a model: started when first needed, shared, and gone with their last holder."""

from __future__ import annotations

import os
import secrets
import sys
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import RunVar
from pydantic_core import from_json, to_json

from alloy._tasks import last_words
from alloy.errors import ProviderError
from alloy.providers.http import Endpoint
from alloy.providers.keys import Secret, scrub

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from anyio.abc import ByteReceiveStream, Process

    from alloy.errors import ErrorKind

__all__ = ["Launch", "Server", "acquire", "lease_server", "release"]

START_TIMEOUT = 600.0
"""How long a model may take to load, in seconds: large ones come from slow disks."""

_SCRIPT = Path(__file__).with_name("_local_server.py")
_ENVIRONMENT = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "SYSTEMROOT", "TEMP", "TMP")
"""What a server gets of our environment: nothing that may hold a key."""

_EACH_ALONE = {"connection": "close"}  # it ends silent connections after seconds; one that is just asked would fail

_MAX_ANSWER = 64 * 1024
_KEPT_COMPLAINTS = 4096
_LAST_WORDS = 5.0
_DEATH = 1.0


@dataclass(frozen=True, slots=True)
class Launch:
    """What makes two servers the same.

    Attributes:
        file: the model's GGUF file, an absolute path.
        alias: the model's name.
        context_size: how much one request may hold, in tokens.
    """

    file: str
    alias: str
    context_size: int


class Server:
    """A running server.

    Attributes:
        endpoint: where it answers; its connections stay open as long as it runs.
    """

    def __init__(self, process: Process, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._process = process

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def dead(self) -> bool:
        """Whether the process has ended by itself."""
        return self._process.returncode is not None

    async def is_dying(self) -> bool:
        """Whether the process ends within a moment: a connection breaks a little before its server is known to be dead."""
        with anyio.move_on_after(_DEATH):
            await self._process.wait()
        return self.dead

    async def stop(self) -> None:
        """Ends the process and closes the connections; it has nothing to save, so it is killed."""
        await last_words(self._stop, within=_LAST_WORDS)

    async def _stop(self) -> None:
        try:
            await _reap(self._process)
        finally:
            await self.endpoint.__aexit__(None, None, None)


class _Shared:
    """The server of one event loop for one launch, and how many hold it."""

    def __init__(self) -> None:
        self.holders = 0
        self.lock = anyio.Lock()
        self.server: Server | None = None


_shared: RunVar[dict[Launch, _Shared]] = RunVar("alloy_local_servers")


@asynccontextmanager
async def lease_server(launch: Launch) -> AsyncGenerator[Server]:
    """Gives the event loop's one server for `launch`, started if need be; the last holder stops it.

    Raises:
        ProviderError: it didn't start.
    """
    server = await acquire(launch)
    try:
        yield server
    finally:
        await release(launch)


async def acquire(launch: Launch) -> Server:
    """Holds the server until `release`; a server that died is replaced.

    Raises:
        ProviderError: it didn't start; nothing is held then.
    """
    servers = _shared.get(None)
    if servers is None:
        servers = {}
        _shared.set(servers)
    shared = servers.setdefault(launch, _Shared())
    shared.holders += 1
    try:
        async with shared.lock:
            if shared.server is not None and shared.server.dead:
                dead, shared.server = shared.server, None
                await dead.stop()
            if shared.server is None:
                shared.server = await _start(launch)
            return shared.server
    except BaseException:
        await release(launch)
        raise


async def release(launch: Launch) -> None:
    """Gives back what `acquire` gave."""
    servers = _shared.get()
    shared = servers[launch]
    shared.holders -= 1
    if shared.holders == 0:
        del servers[launch]
        if shared.server is not None:
            await shared.server.stop()


async def _start(launch: Launch) -> Server:
    key = Secret(secrets.token_urlsafe(32), "Bearer")
    process = await anyio.open_process(
        [sys.executable, "-I", str(_SCRIPT)],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={name: os.environ[name] for name in _ENVIRONMENT if name in os.environ},
        start_new_session=True,  # an interrupt from the keyboard is for us to handle
    )
    try:
        address = await _address(process, launch, key)
        endpoint = Endpoint(
            f"{address}/v1", provider="local", model=launch.alias, headers={"authorization": key, **_EACH_ALONE}
        )
        await endpoint.__aenter__()
    except BaseException:
        await last_words(lambda: _reap(process), within=_LAST_WORDS)
        raise
    return Server(process, endpoint)


async def _reap(process: Process) -> None:
    if process.returncode is None:
        process.kill()
    await process.aclose()


async def _address(process: Process, launch: Launch, key: Secret) -> str:
    """Where the server answers, as soon as it does."""
    answer, complaints = bytearray(), bytearray()
    with anyio.move_on_after(START_TIMEOUT) as limit:
        async with anyio.create_task_group() as group:
            group.start_soon(_drain, process.stderr, complaints)
            group.start_soon(_tell, process, launch, key)
            await _read_line(process.stdout, answer)
            group.cancel_scope.cancel()
    if limit.cancelled_caught:
        raise _failed(launch, f"it didn't load within {START_TIMEOUT:g} seconds", kind="timeout")
    said = _json(answer)
    if isinstance(said.get("address"), str):
        return str(said["address"])
    with anyio.move_on_after(_DEATH):
        await _drain(process.stderr, complaints)
        await process.wait()
    lines = complaints.decode(errors="replace").strip().splitlines()
    reasons = [str(said.get("error", "")), next((line for line in lines if "error" in line), "")]
    if not any(reasons):
        reasons = [*lines[-1:], f"its process ended with code {process.returncode}"]
    why = scrub("; ".join(filter(None, reasons)), [key])
    raise _failed(launch, why, kind="invalid_request" if said else "server_error")


async def _tell(process: Process, launch: Launch, key: Secret) -> None:
    settings = {
        "path": _import_path(),
        "model": launch.file,
        "alias": launch.alias,
        "key": key.reveal(),
        "context_size": launch.context_size,
        "cores": _cores(),
    }
    assert process.stdin is not None  # noqa: S101  it was asked for
    try:
        await process.stdin.send(to_json(settings) + b"\n")
    except (anyio.BrokenResourceError, anyio.ClosedResourceError):
        return  # the process has ended, as its silence says


async def _read_line(stream: ByteReceiveStream | None, into: bytearray) -> None:
    """Reads up to the first line's end, or the stream's."""
    while stream is not None and b"\n" not in into and len(into) < _MAX_ANSWER:
        try:
            into += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return


async def _drain(stream: ByteReceiveStream | None, into: bytearray) -> None:
    """Reads up to the stream's end, and keeps the last of it."""
    while stream is not None:
        try:
            into += await stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            return
        del into[:-_KEPT_COMPLAINTS]


def _json(line: bytes | bytearray) -> dict[str, Any]:
    try:
        said = from_json(bytes(line))
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _failed(launch: Launch, why: str, *, kind: ErrorKind) -> ProviderError:
    return ProviderError(
        f"the model {launch.file} can't be served: {why}", kind=kind, provider="local", model=launch.alias
    )


def _import_path() -> list[str]:
    """Where this process imports from; the server is to find the same."""
    return [os.path.abspath(path) for path in sys.path]  # noqa: PTH100  as the import system does it


def _cores() -> int:
    """How many cores a model may use."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)
