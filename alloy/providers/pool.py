"""Connections that are kept for the next request to the same server, each found and put back in one step."""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

import anyio

from alloy._tasks import last_words, run_in_thread
from alloy.errors import ProviderError
from alloy.providers.connection import Connection, connect
from alloy.providers.http1 import ResponseParser
from alloy.usage import Usage

if TYPE_CHECKING:
    import ssl

__all__ = ["Exchange", "Patience", "Pool", "Server", "certificates"]

MOST_IDLE = 1000
"""How many unused connections are kept: as many as agents in one process, that answer to each other's ends."""
KEPT = 45.0
"""How long an unused connection is kept, in seconds; servers in front of models close theirs after a minute and more."""
_LAST_WORDS = 2.0

_loading = threading.Lock()
_tls: ssl.SSLContext | None = None


class Server(NamedTuple):
    """Whom to connect to.

    Attributes:
        host: a name or an address, without brackets.
        port: the port.
        secure: whether by TLS.
    """

    host: str
    port: int
    secure: bool


class Patience(NamedTuple):
    """How long to wait for a server, in seconds.

    Attributes:
        connect: for a connection.
        silence: for the next byte.
        answer: for the end of the answer's head, from the start.
    """

    connect: float
    silence: float
    answer: float


def certificates() -> ssl.SSLContext:
    """What checks servers' certificates: against those of Mozilla, or of ``SSL_CERT_FILE`` or ``SSL_CERT_DIR``.

    They are read once per process, which blocks for some milliseconds, so call it in a thread.
    """
    global _tls  # noqa: PLW0603  one per process is what it is for
    with _loading:
        if _tls is None:
            import ssl  # noqa: PLC0415  only who talks TLS pays for it

            import certifi  # noqa: PLC0415  as ssl

            file, folder = os.environ.get("SSL_CERT_FILE"), os.environ.get("SSL_CERT_DIR")
            if file or not folder:
                context = ssl.create_default_context(cafile=file or certifi.where())
            else:
                context = ssl.create_default_context(capath=folder)
            context.set_alpn_protocols(["http/1.1"])
            _tls = context
        return _tls


class Exchange:
    """A request that was sent, and its answer.

    Attributes:
        status: the answer's HTTP status.
        headers: its headers, their names in lower case.
        read: False, as the body is still to be read.
    """

    read = False
    __slots__ = ("_connection", "_parser", "_pool", "_server", "headers", "status")

    def __init__(self, pool: Pool, server: Server, connection: Connection, parser: ResponseParser) -> None:
        self._pool = pool
        self._server = server
        self._connection = connection
        self._parser = parser
        self.status = parser.status
        self.headers = parser.headers

    @property
    def chunks(self) -> int:
        """In how many chunks the body has come so far."""
        return self._parser.chunks

    @property
    def complete(self) -> bool:
        """Whether all of the body has come."""
        return self._parser.complete

    async def receive(self) -> bytes:
        """The body's next bytes; none at its end.

        Raises:
            ProviderError: the connection broke, or the server was silent for too long.
        """
        parser = self._parser
        while not (body := parser.take()) and not parser.complete:
            await _feed(parser, self._connection)
        return body

    async def aclose(self) -> None:
        """Gives the connection back if all of the body has come, or up."""
        if not self._pool.put(self._server, self._connection, reusable=self._parser.complete and self._parser.reusable):
            await last_words(self._connection.closed.wait, within=_LAST_WORDS)


async def _feed(parser: ResponseParser, connection: Connection) -> None:
    """Gives what comes next to the parser."""
    try:
        data = await connection.receive()
    except TimeoutError:
        raise ProviderError("the server was silent for too long", kind="timeout") from None
    except OSError as error:
        raise ProviderError(f"the connection failed ({_said(error)})", kind="network") from None
    if data:
        parser.feed(data)
    else:
        parser.end()


def _said(error: OSError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


class Pool:
    """The connections of one event loop.

    Attributes:
        is_closed: whether it was closed; it then keeps no connection any more.
    """

    def __init__(self) -> None:
        self.is_closed = False
        self._loop = asyncio.get_running_loop()
        self._idle: dict[Server, deque[Connection]] = {}
        self._count = 0
        self._timer: asyncio.TimerHandle | None = None
        self._loading = anyio.Lock()

    async def post(self, server: Server, head: bytes, body: bytes, patience: Patience) -> Exchange:
        """Sends a request, and waits for its answer's head.

        A connection that was used before is looked at first, as the server may have closed it. What has been written is never
        written again: a server that hangs up may have done what it was asked to all the same.

        Args:
            server: whom to ask.
            head: the request's head, up to the number that is its length.
            body: its body.
            patience: how long to wait.

        Raises:
            ProviderError: there is no connection, or no answer.
        """
        before = self._loop.time() + patience.answer
        connection = self._take(server) or await self._connect(server, patience.connect)
        try:
            connection.begin(patience.silence)
            await connection.send(b"%b%d\r\n\r\n" % (head, len(body)), body, before=before)
            parser = ResponseParser()
            while not parser.status:
                await _feed(parser, connection)
                if self._loop.time() > before:
                    raise ProviderError(f"no answer began within {patience.answer:g} seconds", kind="timeout")
        except TimeoutError:
            await self._give_up(connection)
            raise ProviderError("the server didn't take the request", kind="timeout") from None
        except BaseException:
            await self._give_up(connection)
            raise
        return Exchange(self, server, connection, parser)

    async def _connect(self, server: Server, within: float) -> Connection:
        try:
            with anyio.fail_after(within):
                return await connect(server.host, server.port, await self._certificates() if server.secure else None)
        except TimeoutError:
            said = f"no connection within {within:g} seconds"
            raise ProviderError(said, kind="timeout", usage=Usage()) from None
        except OSError as error:
            said = f"the connection failed ({_said(error)})"
            raise ProviderError(said, kind="network", usage=Usage()) from None
        except UnicodeError:  # a label of the name is empty, or has more than 63 characters
            said = f"the connection failed (no server can be called {server.host[:80]!r})"
            raise ProviderError(said, kind="invalid_request", usage=Usage()) from None

    async def _certificates(self) -> ssl.SSLContext:
        if _tls is not None:
            return _tls
        async with self._loading:
            return await run_in_thread(certificates, name="alloy tls")

    async def _give_up(self, connection: Connection) -> None:
        connection.abort()
        await last_words(connection.closed.wait, within=_LAST_WORDS)

    # --- Unused connections ------------------------------------------------------------------------------------------

    def _take(self, server: Server) -> Connection | None:
        """A connection that was used, the latest first, so that those that aren't needed get old."""
        idle = self._idle.get(server)
        while idle:
            connection = idle.pop()
            self._count -= 1
            if connection.usable:
                return connection
            connection.abort()
        return None

    def put(self, server: Server, connection: Connection, *, reusable: bool) -> bool:
        """Keeps a connection for the next, or closes it.

        Returns:
            Whether it was kept.
        """
        if not reusable or not connection.quiet or self.is_closed or self._count >= MOST_IDLE:
            connection.abort()
            return False
        connection.end()
        self._idle.setdefault(server, deque()).append(connection)
        self._count += 1
        if self._timer is None:
            self._timer = self._loop.call_later(KEPT, self._tidy)
        return True

    def _tidy(self) -> None:
        """Closes what nobody used for long, and looks again when the next may be that old."""
        self._timer = None
        now, oldest = self._loop.time(), None
        for server, idle in list(self._idle.items()):
            while idle and (idle[0].idle_since + KEPT <= now or idle[0].closed.is_set()):
                idle.popleft().abort()
                self._count -= 1
            if not idle:
                del self._idle[server]
            elif oldest is None or idle[0].idle_since < oldest:
                oldest = idle[0].idle_since
        if oldest is not None:
            self._timer = self._loop.call_at(oldest + KEPT, self._tidy)

    async def aclose(self) -> None:
        """Closes what is unused now, and from now on whatever isn't used any more."""
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        connections = [connection for idle in self._idle.values() for connection in idle]
        self._idle.clear()
        self._count = 0
        for connection in connections:
            connection.abort()
        for connection in connections:
            await connection.closed.wait()
