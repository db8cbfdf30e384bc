"""One connection to a server: made, written to, read from, and closed at once. No more than one task uses it at a time.

It is asyncio's own protocol, since anyio's streams took half of the time that a request and its answer take (tests/benchmarks).
"""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address
from itertools import chain, zip_longest
from select import select
from typing import TYPE_CHECKING, TypeAlias, cast

import anyio

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence

__all__ = ["Connection", "connect"]

MOST_UNREAD = 256 * 1024
"""How much may have come that nobody has taken yet, in bytes, before the server has to wait."""
NEXT_ATTEMPT = 0.25
"""How long to wait for a connection to one address before another is tried, too, in seconds: RFC 8305, section 5."""

_Address: TypeAlias = "tuple[int, int, int, tuple[object, ...]]"
"""Family, type, protocol, and what `socket.connect` takes."""


class Connection(asyncio.Protocol):
    """A connection; `connect` makes it.

    Attributes:
        closed: set when it has gone and its socket is closed.
        idle_since: when its last answer ended, in the event loop's seconds.
    """

    def __init__(self) -> None:
        self.closed = anyio.Event()
        self.idle_since = 0.0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received: list[bytes] = []
        self._unread = 0
        self._reading = True
        self._writing = True
        self._in_use = True
        self._ended = False
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._timeout = 0.0
        self._since = 0.0
        self._unsent = 0
        self._timer: asyncio.TimerHandle | None = None

    # --- What asyncio calls ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        if not self._in_use:  # nobody has asked anything
            self.abort()
            return
        self._received.append(data)
        self._unread += len(data)
        if self._unread > MOST_UNREAD and self._reading and self._transport is not None:
            self._transport.pause_reading()
            self._reading = False
        self._wake()

    def eof_received(self) -> None:
        self._ended = True
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self._ended = True
        self._error = self._error or exc
        self._stop_timer()
        self._wake()
        self.closed.set()

    def pause_writing(self) -> None:
        self._writing = False

    def resume_writing(self) -> None:
        self._writing = True
        self._wake()

    # --- What a request does -----------------------------------------------------------------------------------------

    @property
    def quiet(self) -> bool:
        """Whether nothing has come that nobody has taken, not even the connection's end."""
        return not self._received and not self._ended

    @property
    def usable(self) -> bool:
        """Whether an idle connection is still one, and the server has said nothing on it."""
        if self._ended or self._transport is None or self._transport.is_closing():
            return False
        return not _is_readable(self._transport.get_extra_info("socket"))

    def begin(self, timeout: float) -> None:
        """Takes it into use.

        Args:
            timeout: how long the server may be silent from now on, in seconds.
        """
        self._in_use = True
        if timeout < self._timeout:
            self._stop_timer()
        self._timeout = timeout

    def end(self) -> None:
        """Has it wait for the next `begin`."""
        self._in_use = False
        self.idle_since = self._loop.time()

    async def send(self, head: bytes, body: bytes, *, before: float) -> None:
        """Writes a request, and waits until the server has taken nearly all of it, or has hung up: it may have answered before.

        Args:
            head: what to write first.
            body: the rest.
            before: when to give up, in the event loop's seconds.

        Raises:
            TimeoutError: the server took nothing of it for too long.
            ConnectionError: there is no connection yet.
        """
        if self._transport is None:
            raise ConnectionError("not connected yet")
        if len(body) > 64 * 1024:  # too much to copy
            self._transport.write(head)
            self._transport.write(body)
        else:
            self._transport.write(head + body)
        while not self._writing and not self._ended:
            self._unsent = self._transport.get_write_buffer_size()
            await self._wait()
            if self._loop.time() > before:
                raise TimeoutError
        self._unsent = 0

    async def receive(self) -> bytes:
        """The next bytes; none where the server has hung up.

        Raises:
            TimeoutError: the server was silent for too long.
            OSError: the connection broke.
        """
        while not self._received:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return b""
            await self._wait()
        data = self._received[0] if len(self._received) == 1 else b"".join(self._received)
        self._received.clear()
        self._unread = 0
        if not self._reading and self._transport is not None:
            self._transport.resume_reading()
            self._reading = True
        return data

    def abort(self) -> None:
        """Closes it; the socket goes at the next turn of the event loop."""
        self._ended = True
        self._stop_timer()
        self._received.clear()
        if self._transport is not None:
            self._transport.abort()

    # --- Waiting -----------------------------------------------------------------------------------------------------

    async def _wait(self) -> None:
        """Waits for the server. One timer serves many waits: making one for each would cost as much as reading."""
        self._since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_at(self._since + self._timeout, self._check)
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _check(self) -> None:
        self._timer = None
        if self._waiter is None or self._waiter.done() or self._transport is None:
            return
        unsent = self._transport.get_write_buffer_size()
        if unsent < self._unsent:
            self._unsent, self._since = unsent, self._loop.time()
        due = self._since + self._timeout
        if due <= self._loop.time():
            self._waiter.set_exception(TimeoutError())
        else:
            self._timer = self._loop.call_at(due, self._check)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _is_readable(sock: socket.socket) -> bool:
    """Whether there is something to read on a socket, such as its end, that the event loop hasn't seen yet."""
    try:
        from select import poll  # noqa: PLC0415  not on Windows, where select takes any number of a socket
    except ImportError:
        return bool(select([sock.fileno()], [], [], 0)[0])
    looked = poll()
    looked.register(sock.fileno(), 1)
    return bool(looked.poll(0))


# --- Making one ------------------------------------------------------------------------------------------------------


async def connect(host: str, port: int, tls: ssl.SSLContext | None) -> Connection:
    """Connects to a server, by whichever of its addresses answers first.

    Args:
        host: its name or address.
        port: its port.
        tls: checks its certificate; None speaks plain HTTP.

    Raises:
        OSError: it can't be reached, or isn't who it should be.
    """
    sock = await _first(await _addresses(host, port))
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            Connection, sock=sock, ssl=tls, server_hostname=host if tls else None
        )
    except BaseException:
        sock.close()
        raise
    return connection


async def _addresses(host: str, port: int) -> Sequence[_Address]:
    """A server's addresses, those of both families in turn: RFC 8305, section 4."""
    try:
        family = socket.AF_INET if ip_address(host).version == 4 else socket.AF_INET6
    except ValueError:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        every = [(family, kind, protocol, address) for family, kind, protocol, _, address in found]
        first = [address for address in every if address[0] == every[0][0]]
        rest = [address for address in every if address[0] != every[0][0]]
        return [address for address in chain(*zip_longest(first, rest)) if address is not None]
    return [(family, socket.SOCK_STREAM, socket.IPPROTO_TCP, (host, port))]


async def _first(addresses: Sequence[_Address]) -> socket.socket:
    """A socket that is connected to the first of some addresses that takes it: RFC 8305, section 5."""
    if len(addresses) == 1:
        return await _attempt(addresses[0])
    connected: list[socket.socket] = []
    errors: list[OSError] = []

    async def attempt(address: _Address, over: anyio.Event) -> None:
        try:
            connected.append(await _attempt(address))
            group.cancel_scope.cancel()
        except OSError as error:
            errors.append(error)
        finally:
            over.set()

    try:
        async with anyio.create_task_group() as group:
            for address in addresses:
                over = anyio.Event()
                group.start_soon(attempt, address, over)
                with anyio.move_on_after(NEXT_ATTEMPT):
                    await over.wait()
    except BaseException:
        for sock in connected:
            sock.close()
        raise
    if not connected:
        raise errors[0]
    for sock in connected[1:]:
        sock.close()
    return connected[0]


async def _attempt(address: _Address) -> socket.socket:
    family, kind, protocol, where = address
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, where)
    except BaseException:
        sock.close()
        raise
    return sock
