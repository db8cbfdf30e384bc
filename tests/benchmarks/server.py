"""A model's server for benchmarks, in a process of its own: four wire formats over hand-written HTTP/1.1, as cheap as can be.

``python -m tests.benchmarks.server`` serves until its standard input ends, and prints its address. The first segment of a
request's path says how to answer, ``PACE-DELTAS-ROUNDS-THINK``, such as ``burst-2000-0-50``: with so many pieces of text, after so
many rounds in which it calls the tool ``weather``, so many milliseconds after each request. What follows is the API's own path.
"""

from __future__ import annotations

import asyncio
import functools
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from tests.benchmarks.wire import FORMATS, Answer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Pace", "address", "serving"]

Pace: TypeAlias = Literal["blocks", "burst", "paced"]
"""How a stream is sent: in large blocks, as proxies do; each event in an HTTP chunk of its own, but at once; or each alone."""

GAP = 0.0005
"""The least time between two events of a paced stream, in seconds."""
BLOCK = 16 * 1024
_ROOT = Path(__file__).parent.parent.parent


def address(server: str, *, pace: Pace = "burst", deltas: int = 0, rounds: int = 0, think: int = 0) -> str:
    """The base URL for answers of this kind; `think` is in milliseconds."""
    return f"{server}/{pace}-{deltas}-{rounds}-{think}"


@contextmanager
def serving() -> Iterator[str]:
    """Starts a server in a process of its own, gives its address, and ends it."""
    command = [sys.executable, "-m", "tests.benchmarks.server"]
    with subprocess.Popen(command, cwd=_ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.stdin.close()


@functools.cache
def _chunks(format_name: str, pace: Pace, answer: Answer) -> list[bytes]:
    """A stream, as it is written: each entry alone."""
    events = list(FORMATS[format_name].events(answer))
    if pace == "blocks":
        body = b"".join(events)
        return [b"".join(_chunked(body[at : at + BLOCK]) for at in range(0, len(body), BLOCK)) + _chunked(b"")]
    chunks = [*map(_chunked, events), _chunked(b"")]
    return [b"".join(chunks)] if pace == "burst" else chunks


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


@functools.cache
def _whole(format_name: str, answer: Answer) -> bytes:
    body = json.dumps(FORMATS[format_name].document(answer)).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)


class _Connection(asyncio.Protocol):
    """One client."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._pending: list[bytes] = []
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self._pending.clear()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, found, body = bytes(self._received).partition(b"\r\n\r\n")
        if not found:
            return
        length = next(
            (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
        )
        if len(body) >= length:
            self._received.clear()
            target = head.split(b" ", 2)[1].decode()
            think = int(target.split("/", 2)[1].rpartition("-")[2])
            if think:
                asyncio.get_running_loop().call_later(think / 1000, self._answer, target, body)
            else:
                self._answer(target, body)

    def _answer(self, target: str, body: bytes) -> None:
        assert self._transport is not None
        _, how, path = target.partition("?")[0].split("/", 2)
        pace, deltas, rounds, _ = how.split("-")
        name, wire = next((name, wire) for name, wire in FORMATS.items() if path.endswith(wire.path.lstrip("/")))
        done = body.replace(b'": ', b'":').count(wire.result)
        answer = Answer(int(deltas)) if done >= int(rounds) else Answer(0, call=done)
        if b'"stream":true' not in body.replace(b'": ', b'":') and "streamGenerate" not in path:
            self._transport.write(_whole(name, answer))
            return
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        first, *rest = _chunks(name, _pace(pace), answer)
        self._transport.write(head + first)
        if rest:
            self._pending = rest[::-1]
            asyncio.get_running_loop().call_later(GAP, self._next)

    def _next(self) -> None:
        if self._pending and self._transport is not None:
            self._transport.write(self._pending.pop())
            asyncio.get_running_loop().call_later(GAP, self._next)


def _pace(name: str) -> Pace:
    match name:
        case "blocks" | "burst" | "paced":
            return name
        case _:
            raise ValueError(name)


async def _serve() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(_Connection, "127.0.0.1", 0, backlog=2048)
    sys.stdout.write(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(_serve())
