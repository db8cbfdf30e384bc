"""A connection that is kept: one task owns it, from the first word to the last, and begins it anew when it breaks.

The SDK's streams and task groups must be left by the task that entered them. So `own` alone enters and leaves them; requests are
sent by whoever has something to ask, in their own tasks, which the SDK's session allows.
"""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING, Any, Protocol

import anyio
from mcp import Client, MCPError, types
from mcp.client.subscriptions import ListenNotSupportedError, SubscriptionLost

from alloy._tasks import task_group
from alloy.errors import MCPServerError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

    from mcp.client.session import IncomingMessage, MessageHandlerFnT

__all__ = ["Connection", "Life", "Transport"]

PATIENCE = 4
"""How many failures in a row calls wait out; after that they fail at once until the next try is due."""

_FIRST_WAIT = 0.5  # seconds, after the second failure; doubled each time
_LONGEST_WAIT = 30.0
_GOODBYE = 15.0
_PAGES = 100

_log = logging.getLogger("alloy.mcp")


class Transport(Protocol):
    """How a server is spoken to; entered once."""

    @property
    def complaints(self) -> str:
        """What the server wrote about itself."""
        ...

    @property
    def expired(self) -> bool:
        """Whether the server has forgotten the session."""
        ...

    @property
    def note(self) -> str:
        """What else is known of its latest refusal."""
        ...

    @property
    def ending(self) -> str:
        """How it ended."""
        ...

    async def __aenter__(self) -> Any: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> bool | None: ...


class Life:
    """A connection from its first word to its last.

    Attributes:
        client: the SDK's client, which any task may ask something.
        began: whether it could ever be asked.
        broken: whether there is nobody to answer any more.
        over: set when everything of it is gone.
    """

    def __init__(self, transport: Callable[[Callable[[], None]], Transport], nudge: Callable[[], None]) -> None:
        self.client: Client
        self.transport = transport(self.break_off)
        self.began = False
        self.broken = False
        self.over = anyio.Event()
        self._nudge = nudge

    def break_off(self) -> None:
        """Says that nobody answers any more."""
        self.broken = True
        self._nudge()


class Connection:
    """A kept connection.

    Args:
        name: gives the server's name, for errors.
        transport: makes a new transport; its argument is to be called when the server can't be spoken to any more.
        client: makes the SDK's client for a transport and a handler of notifications.
        on_tools: is given the server's tools, whenever they're listed.
        start_timeout: how long a start may take, in seconds.
        clean: takes keys out of a text.
    """

    def __init__(
        self,
        *,
        name: Callable[[], str],
        transport: Callable[[Callable[[], None]], Transport],
        client: Callable[[Transport, MessageHandlerFnT], Client],
        on_tools: Callable[[Client, list[types.Tool]], None],
        start_timeout: float,
        clean: Callable[[str], str],
    ) -> None:
        self._name = name
        self._transport = transport
        self._client = client
        self._on_tools = on_tools
        self._start_timeout = start_timeout
        self._clean = clean
        self._life: Life | None = None
        self._scope = anyio.CancelScope()
        self._closing = False
        self._closed = "the connection is closed; call its tools inside 'async with'"
        self._wanted = False
        self._stale = False
        self._nudged = anyio.Event()
        self._changed = anyio.Event()
        self._failures = 0
        self._failure: MCPServerError | None = None
        self._due = -math.inf

    # --- For those who ask -------------------------------------------------------------------------------------------

    async def begin(self) -> None:
        """Has the connection begin, without a second try.

        Raises:
            MCPServerError: it can't.
        """
        self._wanted = True
        self._nudge()
        while self._life is None:
            await self._changed.wait()
            if self._failure is not None:
                raise self._failure
            if self._closing:
                raise MCPServerError(self._name(), self._closed)

    async def life(self) -> Life:
        """The connection, begun anew if need be.

        Raises:
            MCPServerError: it can't be begun, or it's closed.
        """
        tried = self._failures
        while True:
            if self._closing:
                raise MCPServerError(self._name(), self._closed)
            if self._life is not None and not self._life.broken:
                return self._life
            if self._failure is not None and self._failures >= PATIENCE:
                waiting = self._failures == tried and anyio.current_time() >= self._due
                if not waiting:
                    raise self._failure
            self._wanted = True
            self._nudge()
            await self._changed.wait()

    def answered(self) -> None:
        """A call was answered: what went wrong before doesn't count any more."""
        self._failures = 0
        self._failure = None

    def refusal(self, life: Life, message: str) -> str:
        """What the server said, with what is known besides; without keys."""
        return self._clean(f"{message} ({life.transport.note})" if life.transport.note else message)

    def lament(self, life: Life) -> str:
        """How a connection ended, and what the server wrote about it; without keys."""
        words = life.transport.complaints
        return self._clean(life.transport.ending + (f"; it wrote: {words}" if words else ""))

    async def list_tools(self, life: Life) -> None:
        """Has the tools listed now.

        Raises:
            MCPServerError: the server doesn't.
        """
        try:
            await self._list(life.client)
        except (MCPError, ValueError) as error:
            raise MCPServerError(self._name(), f"it can't list its tools: {self._clean(str(error))}") from None

    def relist(self) -> None:
        """Has the tools listed anew, soon."""
        self._stale = True
        self._nudge()

    def close(self) -> None:
        """Has the owner leave; whatever is being asked fails."""
        if self._closing:
            return
        self._closing = True
        if self._life is None:
            self._scope.cancel()  # a start, or a wait for one
        self._nudge()
        self._tell()

    def _nudge(self) -> None:
        self._nudged.set()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # --- The owner ---------------------------------------------------------------------------------------------------

    async def own(self) -> None:
        """Owns the connection until `close`; it isn't ended by cancellation, since it has to leave in good order."""
        try:
            with anyio.CancelScope(shield=True):
                while await self._asked_for():
                    await self._live()
        finally:
            if not self._closing:
                self._closing, self._closed = True, "somebody has cancelled the connection's task; connect anew"
                self._tell()

    async def _asked_for(self) -> bool:
        """Waits until somebody wants the connection and it's time to try; False when it's closed."""
        with anyio.CancelScope() as self._scope:
            while not self._closing and not self._wanted:
                await self._nudged.wait()
                self._nudged = anyio.Event()
            if not self._closing:
                await anyio.sleep_until(self._due)
        return not self._closing

    async def _live(self) -> None:
        """One connection, from its start to its end."""
        life = Life(self._transport, self._nudge)
        problem = ""
        try:
            with anyio.CancelScope() as self._scope:
                self._scope.deadline = anyio.current_time() + self._start_timeout
                await self._speak(life)
            if not life.began:
                problem = f"it didn't start within {self._start_timeout:g} seconds"
        except Exception as error:  # noqa: BLE001  told to whoever asks next
            if not life.broken:
                problem = "; ".join(_words(leaf) for leaf in _leaves(error))
        finally:
            self._life = None
            life.broken = True
            life.over.set()
        if not self._closing:
            self._failed(problem or life.transport.ending, life)
        self._tell()

    async def _speak(self, life: Life) -> None:
        async with self._client(life.transport, self._hear) as life.client:
            await self._list(life.client)
            self._scope.deadline = math.inf
            life.began, self._wanted, self._life = True, False, life
            self._tell()
            await self._watch(life)
            self._life = None
            self._scope.deadline = anyio.current_time() + _GOODBYE

    async def _watch(self, life: Life) -> None:
        """Waits until the connection breaks or is closed, and lists the tools when they have changed."""
        async with task_group() as group:
            group.start_soon(self._subscribe, life.client)
            while not (self._closing or life.broken):
                await self._nudged.wait()
                self._nudged = anyio.Event()
                if self._stale and not self._closing:
                    try:
                        await self.list_tools(life)
                    except MCPServerError as error:
                        _log.warning("%s", error)
            group.cancel_scope.cancel()

    async def _list(self, client: Client) -> None:
        self._stale = False
        if client.server_capabilities.tools is None:
            self._on_tools(client, [])
            return
        tools: list[types.Tool] = []
        cursor: str | None = None
        for _ in range(_PAGES):
            page = await client.list_tools(cursor=cursor)
            tools += page.tools
            cursor = page.next_cursor
            if cursor is None:
                break
        self._on_tools(client, tools)

    async def _hear(self, message: IncomingMessage) -> None:
        if isinstance(message, types.ToolListChangedNotification):
            self.relist()

    async def _subscribe(self, client: Client) -> None:
        """Since 2026-07-28 servers tell of changes only to those who ask for it."""
        tools = client.server_capabilities.tools
        if tools is None or not tools.list_changed:
            return
        try:
            async with client.listen(tools_list_changed=True) as changes:
                self.relist()  # they may have changed before the server knew that we listen
                async for _ in changes:
                    self.relist()
        except (ListenNotSupportedError, SubscriptionLost, MCPError, TimeoutError) as error:
            _log.debug("MCP server %r tells of no changes: %r", self._name(), error)

    def _failed(self, problem: str, life: Life) -> None:
        self._failures += 1
        words = self._clean(life.transport.complaints)
        self._failure = MCPServerError(self._name(), self.refusal(life, problem), stderr=words)
        wait = 0.0 if self._failures < 2 else min(_FIRST_WAIT * 2 ** (self._failures - 2), _LONGEST_WAIT)
        self._due = anyio.current_time() + wait
        if self._failures >= PATIENCE:
            self._wanted = False


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for each in error.exceptions:
            yield from _leaves(each)
    else:
        yield error


def _words(error: BaseException) -> str:
    if isinstance(error, FileNotFoundError):
        return f"there is no program {error.filename!r}; is it installed, and on the PATH?"
    return str(error) or type(error).__name__
