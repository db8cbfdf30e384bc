"""Alloy's tools for other programs: a server of the Model Context Protocol.

Each call is a run of its own, whose model is a script that makes this one call. So a tool is run here as it is in any other run: its
arguments are validated, its time and its result are limited, what it raises is told, and middleware sees it.
"""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, suppress
from importlib.util import find_spec
from itertools import count
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args

import anyio

from alloy._tasks import background, run_in_thread, task_group
from alloy.errors import InvalidOptionError, MissingExtraError, RunError, UnknownOptionError
from alloy.loop.config import Config
from alloy.loop.run import run
from alloy.messages import ToolUseBlock
from alloy.providers.scripted import Reply, Scripted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence

    from anyio.streams.memory import MemoryObjectSendStream
    from mcp import types
    from mcp.server.context import ServerRequestContext
    from mcp.server.lowlevel import Server
    from starlette.applications import Starlette

    from alloy.events import Envelope
    from alloy.loop.middleware import Middleware
    from alloy.tools.base import Tool

__all__ = ["ServeOptions", "asgi_app", "serve"]

_PROGRESS = 64  # lines of progress that a client may be behind
_PIECE = 1 << 16
_FAREWELL = 5  # seconds that open connections have when a server over HTTP is stopped
_LOCAL = ("127.0.0.1", "localhost", "[::1]")

Way = Literal["stdio", "http"]
"""How tools can be served."""


class ServeOptions(TypedDict, total=False):
    """The options of `serve` and `asgi_app`; those that `alloy.Config` has as well mean the same."""

    version: str
    instructions: str | None
    working_directory: str | os.PathLike[str]
    allowed_paths: Sequence[str | os.PathLike[str]]
    context: Mapping[str, Any]
    middleware: Sequence[Middleware]
    tool_timeout: float
    max_result_bytes: int


async def serve(
    tools: Sequence[Tool],
    *,
    name: str,
    transport: Way = "stdio",
    host: str = "127.0.0.1",
    port: int = 8000,
    **options: Unpack[ServeOptions],
) -> None:
    """Serves tools to MCP clients until the input ends, or until it's cancelled.

    Over ``stdio`` the client has started this program. While it's served, the standard output belongs to the client: what tools
    print goes to the standard error, and they have no input. Over ``http`` clients connect to ``http://host:port/mcp``; only
    those on this machine can, and there is nobody who checks who they are. For anything else put `asgi_app` into an application
    of yours.

    Args:
        tools: what clients can call.
        name: what the server is called.
        transport: ``stdio`` or ``http``.
        host: where to listen.
        port: where to listen.
        options: `version` and `instructions`, which clients are told; the others as of `alloy.Config`.

    Raises:
        ConfigurationError: an option can't be.
        MissingExtraError: the SDK isn't installed.
    """
    if transport not in get_args(Way):
        raise InvalidOptionError("transport", " or ".join(map(repr, get_args(Way))), transport)
    if transport == "http":
        await _serve_http(asgi_app(tools, name=name, **options), host, port)
        return
    server = _server(tools, name, options)
    from mcp.server.stdio import stdio_server  # noqa: PLC0415  it's here by now

    async with _input() as lines, stdio_server(stdin=lines) as (reading, writing):
        await server.run(reading, writing, server.create_initialization_options())


def asgi_app(
    tools: Sequence[Tool],
    *,
    name: str,
    path: str = "/mcp",
    hosts: Sequence[str] = (),
    **options: Unpack[ServeOptions],
) -> Starlette:
    """An ASGI application that serves tools by streamable HTTP.

    It must be told of startup and shutdown (the ``lifespan`` of ASGI). It doesn't check who its clients are; what does belongs
    before it.

    Args:
        tools: what clients can call.
        name: what the server is called.
        path: where it answers.
        hosts: the names, such as ``tools.example.org``, that it's reached by besides those of this machine. Requests for other
            hosts are refused, since a browser may have been led here by a page that pretends.
        options: as of `serve`.

    Raises:
        ConfigurationError: an option can't be.
        MissingExtraError: the SDK isn't installed.
    """
    server = _server(tools, name, options)
    from mcp.server.transport_security import TransportSecuritySettings  # noqa: PLC0415  it's here by now

    security = TransportSecuritySettings(
        allowed_hosts=[*(f"{host}:*" for host in _LOCAL), *hosts, *(f"{host}:*" for host in hosts)],
        allowed_origins=[*(f"http://{host}:*" for host in _LOCAL), *(f"https://{host}" for host in hosts)],
    )
    return server.streamable_http_app(streamable_http_path=path, transport_security=security)


def _server(tools: Sequence[Tool], name: str, options: ServeOptions) -> Server[Any]:
    if find_spec("mcp") is None:
        why = "serving tools over MCP needs the protocol's SDK"
        raise MissingExtraError("mcp", "pip install 'alloy-harness[mcp]'", why=why)
    for option in options:
        if option not in _OPTIONS:
            raise UnknownOptionError(option, _OPTIONS)
    if not name.strip():
        raise InvalidOptionError("name", "text", name)
    words = {option: value for option, value in options.items() if option in ("version", "instructions")}
    rest = {option: value for option, value in options.items() if option not in words}
    served = _Served(Config(tools=tools, **rest))  # type: ignore[arg-type]  # the options that Config has, too
    from mcp.server.lowlevel import Server  # noqa: PLC0415  brings the SDK

    return Server(name, on_list_tools=served.list_tools, on_call_tool=served.call_tool, **words)  # type: ignore[call-overload, no-any-return]  # two words of its own


class _Served:
    """Answers what clients ask."""

    def __init__(self, config: Config) -> None:
        self._config = config.with_options(max_turns=1)
        self._tools = {tool.name: tool for tool in config.tools}
        self._alone = anyio.Lock()  # tools that can't run beside others run one at a time

    async def list_tools(
        self, _: ServerRequestContext[Any], __: types.PaginatedRequestParams | None
    ) -> types.ListToolsResult:
        """What there is to be called."""
        from mcp import types  # noqa: PLC0415  it's here by now

        tools = [
            types.Tool(name=tool.name, description=tool.description, input_schema=dict(tool.input_schema))
            for tool in self._config.tools
        ]
        return types.ListToolsResult(tools=tools)

    async def call_tool(
        self, context: ServerRequestContext[Any], params: types.CallToolRequestParams
    ) -> types.CallToolResult:
        """Calls a tool, and tells of its progress meanwhile."""
        from mcp import MCPError, types  # noqa: PLC0415  it's here by now

        tool = self._tools.get(params.name)
        if tool is None:
            known = ", ".join(self._tools) or "none"
            raise MCPError(types.INVALID_PARAMS, f"there is no tool called {params.name!r}; the tools are: {known}")
        call = ToolUseBlock(f"mcp-{context.request_id}", tool.name, params.arguments or {})
        lines, heard = anyio.create_memory_object_stream[str](_PROGRESS)
        results: list[types.CallToolResult] = []

        async def work() -> None:
            with lines:
                if tool.concurrency_safe:
                    results.append(await self._run(call, lines))
                else:
                    async with self._alone:
                        results.append(await self._run(call, lines))

        async with task_group() as group:
            group.start_soon(work)
            with heard:
                numbers = count(1)
                async for line in heard:
                    await context.session.report_progress(next(numbers), None, line)
        if not results:
            raise MCPError(types.INTERNAL_ERROR, f"the call of {call.name!r} was cancelled; it may have taken effect")
        return results[0]

    async def _run(self, call: ToolUseBlock, lines: MemoryObjectSendStream[str]) -> types.CallToolResult:
        from mcp import types  # noqa: PLC0415  it's here by now

        from alloy.mcp.results import call_result  # noqa: PLC0415  as above

        script = Scripted([Reply(tool_calls=(call,))], name="mcp")
        try:
            result = await run(f"Call {call.name}.", self._config, provider=script, on_event=_teller(lines))
            problem = None
        except RunError as error:  # middleware, which stopped or broke
            result, problem = error.result, str(error.cause)
        if result.tool_calls and problem is None:
            return call_result(result.tool_calls[0])
        text = problem or "it was not called"
        return types.CallToolResult(content=[types.TextContent(text=text)], is_error=True)


_OPTIONS = frozenset(ServeOptions.__annotations__)


def _teller(lines: MemoryObjectSendStream[str]) -> Callable[[Envelope], None]:
    def tell(envelope: Envelope) -> None:
        if envelope.event == "tool_progress":
            with suppress(anyio.WouldBlock, anyio.BrokenResourceError):  # a client that's behind misses some
                lines.send_nowait(str(envelope.payload["text"]))

    return tell


class _Lines:
    """The lines of a descriptor, which is read in threads that nobody has to wait for."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._rest = bytearray()
        self.ended = False

    def __aiter__(self) -> _Lines:
        return self

    async def __anext__(self) -> str:
        start = 0
        while (end := self._rest.find(b"\n", start)) < 0:
            start = len(self._rest)
            # Not by a file object: it would keep its lock while it waits, and the interpreter couldn't end.
            piece = await run_in_thread(os.read, self._descriptor, _PIECE, name="alloy mcp stdin")
            if not piece:
                self.ended = True
                raise StopAsyncIteration
            self._rest += piece
        line = self._rest[:end].decode(errors="replace")
        del self._rest[: end + 1]
        return line


@asynccontextmanager
async def _input() -> AsyncIterator[Any]:
    """The standard input's lines, while everybody else who reads it finds nothing."""
    own = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    lines = _Lines(own)
    try:
        yield lines
    finally:
        os.dup2(own, 0)
        if lines.ended:  # else a thread still waits for it
            os.close(own)


async def _serve_http(app: Starlette, host: str, port: int) -> None:
    import uvicorn  # noqa: PLC0415  comes with the SDK; only this needs it

    config = uvicorn.Config(
        app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=_FAREWELL, lifespan="on"
    )
    server = uvicorn.Server(config)
    done = anyio.Event()

    async def own() -> None:
        with anyio.CancelScope(shield=True):  # cancelled, it would leave its sockets open
            try:
                await server.serve()
            finally:
                done.set()

    async with background(own):
        try:
            await done.wait()
        finally:
            server.should_exit = True
