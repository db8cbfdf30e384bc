"""Servers as sources of tools."""

from __future__ import annotations

import logging
import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack
from urllib.parse import urlsplit

import anyio
from anyio import AsyncContextManagerMixin

from alloy._secrets import Secret, looks_secret
from alloy._tasks import background
from alloy.errors import InvalidOptionError, MissingExtraError, ToolDefinitionError, ToolError, UnknownOptionError
from alloy.mcp.names import safe_names
from alloy.providers.keys import scrub
from alloy.tools.base import Tool, ToolContext, ToolOutput

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable
    from typing import Self

    from mcp import Client, types

    from alloy.mcp.connection import Connection, Life, Transport
    from alloy.mcp.elicitation import OnElicitation

__all__ = ["ConnectOptions", "Server", "connect"]

_AFTERMATH = 5.0  # seconds that a server that broke off has to be wound up, so that its last words are known
_log = logging.getLogger("alloy.mcp")


class ConnectOptions(TypedDict, total=False):
    """The options of `connect`, which says what they mean."""

    name: str
    env: Mapping[str, str]
    headers: Mapping[str, str]
    working_directory: str | os.PathLike[str]
    timeout: float | None
    start_timeout: float
    on_elicitation: OnElicitation | None


def connect(target: str | Sequence[str], **options: Unpack[ConnectOptions]) -> Server:
    """Connects to a server: ``async with alloy.mcp.connect("npx -y some-server") as server: ... server.tools``.

    Args:
        target: a command, as a line or as a list of its words, which is started and spoken to by its standard input and
            output; or a URL, ``http://`` or ``https://``.
        options: `name`, what the tools' names begin with, by default what the server calls itself; `env`, the environment
            variables that a command gets besides what any program needs, such as ``PATH`` and ``HOME``; `headers`, what each
            HTTP request carries; `working_directory`, where a command runs; `timeout`, how many seconds one call may take, by
            default the run's `tool_timeout`; `start_timeout`, how many seconds the server has to start, 60 by default;
            `on_elicitation`, a function, async or not, that asks the user what a server wants to know, and without which
            servers are told that nobody can be asked.

    Returns:
        The server, to be entered.

    Raises:
        UnknownOptionError: an option that isn't among these.
        InvalidOptionError: a value that can't be.
        MissingExtraError: the SDK isn't installed.
    """
    return Server(target, **options)


class Server(AsyncContextManagerMixin):
    """A server and its tools, made by `connect`; enter it with ``async with``.

    A server that ends, or can't be reached any more, is started or reached anew by the next call of one of its tools. Leaving the
    block ends the connection, and with a command the server and whatever it has begun.

    Args:
        target: see `connect`.
        options: see `connect`.

    Attributes:
        name: what the tools' names begin with.
        tools: its tools as of now. They change when the server says so, so pass them to each run anew.
        skipped: the tools that no model can be given, by their names, with the reasons.
        instructions: what the server says about its use; empty if it says nothing.
    """

    def __init__(self, target: str | Sequence[str], **options: Unpack[ConnectOptions]) -> None:
        for option in options:
            if option not in _OPTIONS:
                raise UnknownOptionError(option, _OPTIONS)
        if find_spec("mcp") is None:
            why = "speaking to MCP servers needs the protocol's SDK"
            raise MissingExtraError("mcp", "pip install 'alloy-harness[mcp]'", why=why)
        self._url, self._command = _target(target)
        self._given_name = options.get("name")
        self.name = _checked(str, "name", self._given_name, "text") or (
            _host(self._url) if self._url else Path(self._command[0]).name
        )
        self._env = _texts("env", options.get("env", {}))
        self._headers = {
            name: Secret.of_header(value) for name, value in _texts("headers", options.get("headers", {})).items()
        }
        if self._url and (self._env or "working_directory" in options):
            raise InvalidOptionError("env" if self._env else "working_directory", "nothing, with a URL", self._url)
        if not self._url and self._headers:
            raise InvalidOptionError("headers", "nothing, with a command; give it what it needs as env", object())
        folder = options.get("working_directory")
        self._folder = None if folder is None else Path(os.path.abspath(folder))  # noqa: PTH100  Path.absolute keeps ".."
        self._timeout = _seconds("timeout", options.get("timeout"))
        self._start_timeout = _seconds("start_timeout", options.get("start_timeout", 60.0)) or 60.0
        self._on_elicitation = options.get("on_elicitation")
        self._secrets = [*self._headers.values(), *_secret_values(self._env)]
        self._connection: Connection | None = None
        self.tools: tuple[Tool, ...] = ()
        self.skipped: Mapping[str, str] = {}
        self.instructions = ""

    def __repr__(self) -> str:
        return f"<alloy.mcp.Server {self.name!r}, {len(self.tools)} tools>"

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[Self]:
        from alloy.mcp.connection import Connection  # noqa: PLC0415  brings the SDK

        if self._connection is not None:
            raise InvalidOptionError("server", "to be entered once; connect anew", self.name)
        connection = self._connection = Connection(
            name=lambda: self.name,
            transport=self._transport,
            client=self._client,
            on_tools=self._listed,
            start_timeout=self._start_timeout,
            clean=lambda text: scrub(text, self._secrets),
        )
        async with background(connection.own):
            try:
                await connection.begin()
                yield self
            finally:
                connection.close()

    async def refresh(self) -> tuple[Tool, ...]:
        """Asks the server for its tools, for servers that don't tell when they change.

        Returns:
            `tools`, as of now.

        Raises:
            MCPServerError: it can't be asked.
        """
        connection = self._entered()
        await connection.list_tools(await connection.life())
        return self.tools

    async def call(self, tool: str, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Calls a tool by the name that the server has for it; the tools in `tools` do this.

        Raises:
            ToolError: it can't be called, or the server ended in the middle; the text says what is known.
            MCPServerError: the server can't be started or reached, several times in a row.
        """
        from mcp import MCPError  # noqa: PLC0415  it's here by now

        connection = self._entered()
        for again in (True, False):
            life = await connection.life()
            try:
                result = await life.client.call_tool(tool, dict(arguments), progress_callback=_reporter(context))
            except MCPError as error:
                if life.transport.expired:  # the server doesn't know us any more and has done nothing
                    life.break_off()
                    if again:
                        await life.over.wait()
                        continue
                raise await self._unanswered(life, error) from None
            except (RuntimeError, ValueError) as error:
                said = scrub(" ".join(str(error).split())[:500], self._secrets)
                raise ToolError(f"server {self.name!r} answered what the protocol doesn't allow: {said}") from None
            connection.answered()
            from alloy.mcp.results import tool_output  # noqa: PLC0415  as above

            return tool_output(result)
        raise AssertionError

    async def _unanswered(self, life: Life, error: Any) -> ToolError:
        """What to tell the model about a call that got no result."""
        from mcp.types import CONNECTION_CLOSED  # noqa: PLC0415  it's here by now

        connection = self._entered()
        if error.code != CONNECTION_CLOSED and not life.broken:
            connection.answered()
            return ToolError(f"server {self.name!r} refuses: {connection.refusal(life, error.message)}")
        life.break_off()
        with anyio.move_on_after(_AFTERMATH):
            await life.over.wait()
        return ToolError(
            f"server {self.name!r} broke off in the middle of the call ({connection.lament(life)}). "
            "The call may or may not have taken effect."
        )

    def _entered(self) -> Connection:
        if self._connection is None:
            raise ToolError(f"server {self.name!r} isn't connected; use its tools inside 'async with'")
        return self._connection

    def _transport(self, on_end: Callable[[], None]) -> Transport:
        if self._url:
            from alloy.mcp.http import Http  # noqa: PLC0415  only URLs need HTTP

            return Http(self._url, self._headers)
        from alloy.mcp.stdio import Stdio, minimal_environment  # noqa: PLC0415  only commands need processes

        return Stdio(self._command, env=minimal_environment(self._env), cwd=self._folder, on_end=on_end)

    def _client(self, transport: Transport, handler: Any) -> Client:
        from mcp import Client, types  # noqa: PLC0415  brings the protocol

        from alloy import __version__  # noqa: PLC0415  slow, and said only here
        from alloy.mcp.elicitation import answerer  # noqa: PLC0415  as above

        return Client(
            transport,
            client_info=types.Implementation(name="alloy", version=__version__),
            elicitation_callback=answerer(lambda: self.name, self._on_elicitation),
            message_handler=handler,
            cache=None,
        )

    def _listed(self, client: Client, tools: Sequence[types.Tool]) -> None:
        if self._given_name is None and client.server_info is not None and client.server_info.name:
            self.name = client.server_info.name
        self.instructions = client.instructions or ""
        names = safe_names(self.name, [tool.name for tool in tools])
        made: dict[str, Tool] = {}
        skipped: dict[str, str] = {}
        for tool in tools:
            if tool.name in made:
                skipped[tool.name] = "the server has two of this name; the first is taken"
                continue
            try:
                made[tool.name] = _MCPTool(self, tool, names[tool.name], self._timeout)
            except ToolDefinitionError as error:
                skipped[tool.name] = error.problem
        for name, reason in skipped.items():
            _log.warning("MCP server %r: tool %r is left out: %s", self.name, name, reason)
        self.tools = tuple(made.values())
        self.skipped = skipped


class _MCPTool(Tool):
    """A server's tool.

    Attributes:
        original_name: what the server calls it.
    """

    def __init__(self, server: Server, tool: types.Tool, name: str, timeout: float | None) -> None:
        self.original_name = tool.name
        self._server = server
        annotations = tool.annotations
        title = tool.title or (annotations.title if annotations else None)
        description = (tool.description or "").strip() or title or f"{tool.name} of the server {server.name}."
        super().__init__(
            name=name,
            description=description,
            input_schema={"type": "object", "properties": {}} | tool.input_schema,
            timeout=timeout,
            concurrency_safe=bool(annotations and annotations.read_only_hint),
        )

    async def execute(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Has the server run it; the server validates the arguments. See `Tool.execute`."""
        return await self._server.call(self.original_name, arguments, context)


_OPTIONS = frozenset(ConnectOptions.__annotations__)


def _reporter(context: ToolContext) -> Any:
    async def report(progress: float, total: float | None, message: str | None) -> None:
        numbers = f"{progress:g}" if total is None else f"{progress:g}/{total:g}"
        context.report(f"{numbers} {message}" if message else numbers)

    return report


def _target(target: Any) -> tuple[str, list[str]]:
    """The URL, or the words of the command."""
    if isinstance(target, str):
        if target.partition("://")[0].lower() in ("http", "https"):
            return target, []
        try:
            words = shlex.split(target, posix=os.name == "posix")
        except ValueError as error:
            raise InvalidOptionError("target", f"a command that can be read ({error})", target) from None
    elif isinstance(target, Sequence) and all(isinstance(word, str | os.PathLike) for word in target):
        words = [os.fspath(word) for word in target]
    else:
        raise InvalidOptionError("target", "a command, as text or a list of words, or a URL", target)
    if not words:
        raise InvalidOptionError("target", "a command, as text or a list of words, or a URL", target)
    return "", words


def _host(url: str) -> str:
    return urlsplit(url).hostname or "server"


def _checked(kind: type, option: str, value: Any, expected: str) -> Any:
    if value is not None and not (isinstance(value, kind) and value):
        raise InvalidOptionError(option, expected, value)
    return value


def _texts(option: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not all(isinstance(text, str) for pair in value.items() for text in pair):
        raise InvalidOptionError(option, "a mapping of text to text", object())  # its values may be secret
    return dict(value)


def _seconds(option: str, value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise InvalidOptionError(option, "a number of seconds above 0", value)
    return float(value)


def _secret_values(env: Mapping[str, str]) -> list[Secret]:
    return [
        Secret(value)
        for name, value in env.items()
        if looks_secret(name, value) and value.isascii() and value.isprintable()
    ]
