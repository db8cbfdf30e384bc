"""What a tool is: a name, a description, a schema of its arguments, and something to run."""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Protocol, TypedDict, TypeVar, overload

from alloy._quick import quick
from alloy.errors import InvalidOptionError, ToolDefinitionError, ToolError, UnknownOptionError
from alloy.messages import AudioBlock, DocumentBlock, ImageBlock, MediaBlock, ResultContent, TextBlock, VideoBlock
from alloy.tools import docstring
from alloy.tools.compact import encodable, json_text
from alloy.tools.decision import NOBODY, Decision
from alloy.tools.functions import call, is_async, name_of, yields

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Unpack

    from alloy.tools.schema import Signature

__all__ = ["FunctionTool", "Tool", "ToolContext", "ToolOptions", "ToolOutput", "tool"]

P = ParamSpec("P")
R = TypeVar("R")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
_NO_GENERATOR = (
    "it yields; a tool returns its result once, so collect the values, and tell progress by context.report()"
)


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class ToolContext:
    """Where and for whom a tool runs.

    Attributes:
        call_id: the id of this call, as in the history.
        tool_name: the name that the model called.
        correlation_id: the request's id.
        turn: in which turn, from 1.
        working_directory: the directory that file tools stay in; absolute.
        context: what the application passed to the run as `context`.
        report: sends a line of progress to whoever watches; never blocks, and may be called from any thread.
        allowed_paths: further folders and files that file tools may use; absolute.
        timeout: how long the call may take, in seconds; None where nobody has set a limit.
        seat: the call's place in its run, for Alloy's own use; None outside of a run.
    """

    call_id: str
    tool_name: str
    correlation_id: str
    turn: int
    working_directory: Path
    context: Mapping[str, Any]
    report: Callable[[str], None] = field(repr=False)
    allowed_paths: tuple[Path, ...] = ()
    timeout: float | None = None
    seat: Seat | None = field(default=None, repr=False)

    async def ask(self, reason: str) -> Decision:
        """Asks a person for approval, before something that can't be undone; the call's own time stands still meanwhile.

        Args:
            reason: what is to be approved, for the person.

        Returns:
            The decision, which is true if it is allowed; where nobody can answer it is denied at once.
        """
        if self.seat is None:
            return Decision.deny(NOBODY)
        return await self.seat.ask(reason)


class Seat(Protocol):
    """A call's place in its run."""

    async def ask(self, reason: str) -> Decision:
        """Asks for approval of the call."""
        ...


@quick
@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a tool gives back, where a plain value doesn't say enough.

    Attributes:
        text: what the model reads.
        data: the value for the application, in `ToolCall.data`; the model doesn't see it.
        media: images and other media that the model sees.
        is_error: whether the call failed.
    """

    text: str = ""
    data: Any = None
    media: tuple[MediaBlock, ...] = ()
    is_error: bool = False

    def __post_init__(self) -> None:
        text: Any = self.text
        if not isinstance(text, str):
            raise InvalidOptionError("text", "a string; use ToolOutput.of(value) to make text of a value", text)
        if (safe := encodable(text)) is not text:
            object.__setattr__(self, "text", safe)
        given: Any = self.media
        if given != ():
            object.__setattr__(self, "media", _checked_media(given))

    @classmethod
    def of(cls, value: Any) -> ToolOutput:
        """Whatever a tool returned, as an output.

        Text stays text, None is no text, media blocks (alone, or in a list with text) are media. Anything else becomes
        compact JSON, and the value itself is `data`.

        Raises:
            ToolError: the value can't be written as JSON.
        """
        match value:
            case ToolOutput():
                return value
            case None:
                return cls()
            case str():
                return cls(str.__str__(value))
            case bytes() | bytearray():
                return cls(value.decode(errors="replace"), data=value)
            case TextBlock():
                return cls(value.text)
            case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
                return cls(media=(value,))
            case [*parts] if _are_blocks(parts):
                texts = [
                    part if isinstance(part, str) else part.text for part in parts if isinstance(part, str | TextBlock)
                ]
                return cls("\n".join(texts), media=tuple(part for part in parts if isinstance(part, MediaBlock)))
        return cls(json_text(value), data=value)


def _checked_media(given: Any) -> tuple[MediaBlock, ...]:
    media = (given,) if isinstance(given, MediaBlock) else tuple(given)
    for block in media:
        if not isinstance(block, MediaBlock):
            raise InvalidOptionError("media", "image, audio, video and document blocks", block)
    return media


def _are_blocks(parts: Sequence[Any]) -> bool:
    blocks = [part for part in parts if isinstance(part, ResultContent)]
    return bool(blocks) and all(isinstance(part, str | ResultContent) for part in parts)


class ToolOptions(TypedDict, total=False):
    """What can be said about any tool; see `Tool` for what each means."""

    name: str
    description: str
    timeout: float | None
    concurrency_safe: bool
    max_concurrency: int | None
    max_result_bytes: int | None
    options: Mapping[str, Any]


class _DataOptions(ToolOptions, total=False):
    input_schema: Mapping[str, Any]
    function: Callable[[Mapping[str, Any], ToolContext], Any]


class Tool:
    """Something that a model can ask to be done.

    Made in one of three ways: by the `tool` decorator from a function; as data, ``Tool(name=..., description=...,
    input_schema=..., function=...)``; or as a subclass that sets these as class attributes and overrides `execute`.

    Args:
        name: what the model calls it by: a letter or underscore, then letters, digits, ``_`` and ``-``, 64 at most. That is
            what the naming rules of OpenAI, Anthropic and Gemini have in common.
        description: what it does and when to use it, for the model.
        input_schema: JSON schema of the arguments, of type object.
        function: called with the arguments and a `ToolContext`; a blocking one runs in a thread.
        timeout: how long a call may take, in seconds; None means the run's `tool_timeout`.
        concurrency_safe: whether calls may run beside other calls of the same answer.
        max_concurrency: how many calls of this tool may run beside each other; None for no limit of its own.
        max_result_bytes: how much of a result's text the model gets, in bytes; None means the run's own limit.
        options: what a vendor can be told besides, such as ``{"strict": True}``.

    Raises:
        UnknownOptionError: an argument that isn't among these.
        ToolDefinitionError: no model can be given such a tool; the message says what to change.
    """

    name: str = ""
    description: str = ""
    input_schema: Mapping[str, Any] = {"type": "object", "properties": {}}
    timeout: float | None = None
    concurrency_safe: bool = True
    max_concurrency: int | None = None
    max_result_bytes: int | None = None
    options: Mapping[str, Any] = {}

    grace: float = 0.0
    """How many seconds after its timeout a call may end by itself, for tools that heed `ToolContext.timeout`."""

    _function: Callable[[Mapping[str, Any], ToolContext], Any] | None = None

    def __init__(self, **options: Unpack[_DataOptions]) -> None:
        given: dict[str, Any] = {**options}
        for option in given:
            if option not in _DATA_OPTIONS:
                raise UnknownOptionError(option, _DATA_OPTIONS)
        self._function = given.pop("function", None)
        for option, value in given.items():
            setattr(self, option, value)
        self.check()
        for option in given.keys() & {"input_schema", "options"}:  # a copy: what is changed later isn't the tool's
            setattr(self, option, json.loads(json.dumps(dict(given[option]))))

    def check(self) -> None:
        """Checks that a model can be given this tool; done whenever one is made.

        Raises:
            ToolDefinitionError: it can't; the message says what to change.
        """
        problem = _common_problem(self) or self._function_problem()
        if problem:
            raise ToolDefinitionError(str(self.name), problem)

    async def execute(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Runs the tool.

        Args:
            arguments: what the model asks for, a JSON object.
            context: where and for whom.

        Returns:
            Anything that `ToolOutput.of` takes.

        Raises:
            ToolError: the arguments are wrong, or the tool says that it can't.
        """
        missing = [key for key in self.input_schema.get("required", ()) if key not in arguments]
        if missing:
            raise ToolError("invalid arguments: " + "; ".join(f"{key}: field required" for key in missing))
        if self._function is None:
            raise ToolDefinitionError(self.name, "it has nothing to run: pass function=, or override execute()")
        return await call(self._function, arguments, context, name=self.name)

    def _function_problem(self) -> str | None:
        execute: Any = type(self).execute
        function: Any = self._function
        if function is None:
            if execute is Tool.execute:
                return "it has nothing to run: pass function=, or override execute() in a subclass"
            if not is_async(execute):
                return "execute() blocks the event loop: write 'async def execute(self, arguments, context)'"
            return None
        if not callable(function):
            return f"function must be callable, not a {type(function).__name__}"
        if yields(function):
            return _NO_GENERATOR
        try:
            inspect.signature(function).bind({}, None)
        except TypeError:
            return (
                "function must take (arguments, context); for one with parameters of its own use alloy.tool(function)"
            )
        except ValueError:  # written in C, without a signature
            return None
        return None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r}>"


_DATA_OPTIONS = frozenset(_DataOptions.__annotations__)
_TOOL_OPTIONS = frozenset(ToolOptions.__annotations__)


class FunctionTool(Tool, Generic[P, R]):
    """A function as a tool, made by `tool`; calling it calls the function.

    Args:
        function: the function, async or not.
        options: as of `Tool`; name and description are otherwise the function's name and docstring.

    Raises:
        UnknownOptionError: an option that isn't among these.
        ToolDefinitionError: no model can be given such a function; the message says what to change.
    """

    def __init__(self, function: Callable[P, R], **options: Unpack[ToolOptions]) -> None:
        for option in options:
            if option not in _TOOL_OPTIONS:
                raise UnknownOptionError(option, _TOOL_OPTIONS)
        self._call = function
        functools.update_wrapper(self, function, updated=())
        options.setdefault("name", name_of(function))
        options.setdefault("description", docstring.summary(function))
        super().__init__(**options)

    def _function_problem(self) -> str | None:
        return _NO_GENERATOR if yields(self._call) else None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Calls the function as it is, without validation."""
        return self._call(*args, **kwargs)

    async def execute(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        """Validates the arguments and calls the function with them; see `Tool.execute`."""
        args, kwargs = self._signature.bind(arguments, context)
        if self._is_async:
            return await self._call(*args, **kwargs)  # type: ignore[misc]  # an awaitable
        return await call(functools.partial(self._call, *args, **kwargs), name=self.name)

    @functools.cached_property
    def _is_async(self) -> bool:
        return is_async(self._call)

    @functools.cached_property
    def input_schema(self) -> Mapping[str, Any]:  # type: ignore[override]  # an attribute like the others, once asked for
        """JSON schema of the arguments, from the function's parameters."""
        return self._signature.schema

    @functools.cached_property
    def _signature(self) -> Signature:
        from alloy.tools.schema import Signature  # noqa: PLC0415  brings pydantic, 64 ms

        return Signature.of(self._call, tool=self.name)


class CoreTool(FunctionTool[P, R]):
    """A function of Alloy's own as a tool; its schema, and pydantic with it, waits until somebody asks."""

    def check(self) -> None:
        """Nothing: the tests check it."""


@overload
def tool(function: Callable[P, R], /, **options: Unpack[ToolOptions]) -> FunctionTool[P, R]: ...
@overload
def tool(**options: Unpack[ToolOptions]) -> Callable[[Callable[P, R]], FunctionTool[P, R]]: ...
def tool(function: Callable[..., Any] | None = None, /, **options: Unpack[ToolOptions]) -> Any:
    """Makes a tool of a function: ``@tool``, ``@tool(timeout=5)`` or ``tool(function, name=...)``.

    The schema comes from the annotations, the descriptions from the docstring. A parameter annotated with `ToolContext` is
    given the call's context; the model doesn't see it. The tool can still be called as the function.

    Args:
        function: an async or blocking function; a blocking one runs in a thread.
        options: as of `Tool`.

    Returns:
        The tool, or a decorator if no function is given.

    Raises:
        UnknownOptionError: an option that isn't among those of `Tool`.
        ToolDefinitionError: no model can be given such a function; the message says what to change.
    """
    if function is not None:
        return FunctionTool(function, **options)

    return functools.partial(FunctionTool, **options)


# --- Checks ----------------------------------------------------------------------------------------------------------


def _common_problem(tool: Any) -> str | None:
    """What is wrong with a tool's attributes, and what to do; None if nothing is."""
    if not isinstance(tool.name, str) or not _NAME.fullmatch(tool.name):
        return (
            "no name that every provider takes: a letter or _, then letters, digits, _ and -, 64 characters at most; "
            "pass name=..."
        )
    if not isinstance(tool.description, str) or not tool.description.strip():
        return "it has no description, so no model knows when to use it: write a docstring, or pass description=..."
    if problem := _schema_problem(tool.input_schema):
        return problem
    if not isinstance(tool.options, Mapping) or not _is_json(tool.options):
        return "options must be a dict that can be written as JSON"
    if tool.timeout is not None and not (_is_number(tool.timeout) and 0 < tool.timeout < float("inf")):
        return "timeout must be a number of seconds above 0, or None for the run's tool_timeout"
    size = tool.max_result_bytes
    if size is not None and not (isinstance(size, int) and not isinstance(size, bool) and size > 0):
        return "max_result_bytes must be a whole number of bytes above 0, or None for the run's own limit"
    if not isinstance(tool.concurrency_safe, bool):
        return "concurrency_safe must be True or False"
    calls = tool.max_concurrency
    if calls is not None and not (isinstance(calls, int) and not isinstance(calls, bool) and calls > 0):
        return "max_concurrency must be a whole number of calls above 0, or None"
    return None


def _schema_problem(schema: Any) -> str | None:
    if not isinstance(schema, Mapping):
        return f"input_schema must be a dict, not a {type(schema).__name__}"
    if schema.get("type") != "object":
        return 'input_schema must describe an object: {"type": "object", "properties": {...}}'
    properties, required = schema.get("properties", {}), schema.get("required", [])
    if not isinstance(properties, Mapping) or not all(isinstance(of, Mapping | bool) for of in properties.values()):
        return 'the "properties" of input_schema must be a dict of schemas'
    if not isinstance(required, list) or not all(isinstance(key, str) for key in required):
        return 'the "required" of input_schema must be a list of names'
    return None if _is_json(schema) else "input_schema can't be written as JSON; use dicts, lists, strings and numbers"


def _is_json(value: Mapping[str, Any]) -> bool:
    try:
        json.dumps(dict(value), allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
