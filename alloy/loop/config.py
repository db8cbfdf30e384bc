"""Every option, once."""

from __future__ import annotations

import inspect
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from alloy.errors import InvalidOptionError, ToolDefinitionError, UnknownOptionError
from alloy.history import check_history
from alloy.loop.compaction import Compaction, checked_compaction
from alloy.loop.middleware import Middleware
from alloy.messages import Message
from alloy.providers.base import Provider, is_provider
from alloy.tools.base import Tool

if TYPE_CHECKING:
    from decimal import Decimal

    from alloy.events import Sink
    from alloy.models import Catalogue, ModelMetadata
    from alloy.providers.base import Priority
    from alloy.providers.budget import Budget

__all__ = ["Config", "Options", "PlainOptions"]


class PlainOptions(TypedDict, total=False):
    """`Options` without the one that says what type a result has."""

    provider: Provider | str
    tools: Sequence[Tool]
    system_prompt: str | None
    messages: Sequence[Message]
    max_turns: int
    max_tokens: int | None
    compaction: Compaction | Mapping[str, Any] | bool | None
    middleware: Sequence[Middleware]
    working_directory: str | os.PathLike[str]
    allowed_paths: Sequence[str | os.PathLike[str]]
    context: Mapping[str, Any]
    until_tool: str | None
    timeout: float | None
    tool_timeout: float
    max_concurrent_tools: int
    max_result_bytes: int
    on_event: Sink | None
    fallback_providers: Sequence[Provider | str]
    max_retries: int
    retry_backoff: float
    priority: Priority
    max_budget: Budget | Decimal | float | None
    max_pending: int
    model_metadata_overrides: Mapping[str, int | ModelMetadata | Mapping[str, Any]]
    model_catalogue: Catalogue | None
    output_retries: int


class Options(PlainOptions, total=False):
    """The options of `run`, `stream` and `Config`, for editors and type checkers; `Config` says what they mean."""

    output_type: Any


@dataclass(frozen=True, kw_only=True, init=False)
class Config:
    """How conversations are run; immutable, checked when it is made, and good for any number of runs.

    Attributes:
        provider: who answers: an object from `alloy.providers`, or ``"vendor:model"``.
        tools: what the model can call.
        system_prompt: what the model is told first, in every request.
        messages: the conversation so far.
        max_turns: how many answers a run may take.
        max_tokens: how much a request and its answer may have together, in tokens; None for the model's window, or 200,000
            where nobody knows it.
        compaction: how the conversation is kept inside `max_tokens`: an `alloy.Compaction`, or a mapping of its options;
            None to send it as it is, however long.
        middleware: hooks into the run, first to last.
        working_directory: the folder that file tools stay in; absolute from here on.
        allowed_paths: further folders, or single files, that file tools may use; absolute from here on.
        context: anything of yours; tools and middleware get it.
        until_tool: the tool that must have been called successfully before the run completes.
        timeout: seconds that a run may take, all in all; None for no limit.
        tool_timeout: seconds that one tool call may take, unless the tool says otherwise.
        max_concurrent_tools: how many tool calls of one answer may run at once.
        max_result_bytes: how much of a tool result's text is kept, in bytes of UTF-8, unless the tool says otherwise.
        on_event: a function that gets every envelope; called on the event loop, so it must not block.
        fallback_providers: who is asked when `provider` fails for good, in order.
        max_retries: how many times each provider is asked again when it fails in a way that may pass.
        retry_backoff: the longest wait before the first time, in seconds; it doubles each time.
        priority: ``interactive`` or ``batch``: what goes first where requests that share a rate limit wait for their turn.
        max_budget: how much may be spent: US dollars, for each run or for an agent's whole life, or an
            `alloy.providers.Budget`, which may be shared; None for no limit.
        max_pending: how many requests an agent keeps waiting while it is busy with one; for `Agent` alone.
        model_metadata_overrides: what you know better about models, by ``"model"`` or ``"vendor:model"``: the window in tokens,
            an `alloy.models.ModelMetadata`, or a mapping of its attributes; dated snapshots of a name are meant, too.
        model_catalogue: whom to ask about models; by default genai-prices, which comes with Alloy.
        output_retries: how many times the model is told what is wrong with its result before the run fails.
        output_type: the type of the run's result, any that pydantic has a JSON schema for; `str` for the model's last words.

    Raises:
        UnknownOptionError: there is no such option.
        InvalidOptionError: a value is of the wrong type or makes no sense.
        ToolDefinitionError: two tools have one name.
        HistoryError: `messages` are no history that an API accepts.
    """

    provider: Provider | str | None = None
    tools: tuple[Tool, ...] = ()
    system_prompt: str | None = None
    messages: tuple[Message, ...] = field(default=(), repr=False)
    max_turns: int = 25
    max_tokens: int | None = None
    compaction: Compaction | None = Compaction()  # noqa: RUF009  frozen
    middleware: tuple[Middleware, ...] = ()
    working_directory: Path = Path()
    allowed_paths: tuple[Path, ...] = ()
    context: Mapping[str, Any] = field(default_factory=dict, repr=False)
    until_tool: str | None = None
    timeout: float | None = None
    tool_timeout: float = 120.0
    max_concurrent_tools: int = 16
    max_result_bytes: int = 50_000
    on_event: Sink | None = None
    fallback_providers: tuple[Provider | str, ...] = ()
    max_retries: int = 3
    retry_backoff: float = 1.0
    priority: Priority = "interactive"
    max_budget: Budget | Decimal | None = None
    max_pending: int = 0
    model_metadata_overrides: Mapping[str, ModelMetadata] = field(default_factory=dict)
    model_catalogue: Catalogue | None = None
    output_retries: int = 2
    output_type: Any = None

    def __init__(self, **options: Unpack[Options]) -> None:
        values: dict[str, Any] = {**_DEFAULTS, "context": {}, "model_metadata_overrides": {}}
        for option, value in options.items():
            if option not in _CHECKS:
                raise UnknownOptionError(option, _CHECKS)
            values[option] = _CHECKS[option](option, value)
        given = options.get("working_directory")
        values["working_directory"] = _path(os.getcwd() if given is None else os.path.abspath(given))  # noqa: PTH100, PTH109  Path.absolute keeps ".."
        self.__dict__.update(values)  # in one go, since each run makes one of these
        self._check_together()

    def with_options(self, **options: Unpack[Options]) -> Config:
        """The same, but for `options`.

        Raises:
            ConfigurationError: as `Config` does.
        """
        if not options:
            return self
        given = {name: getattr(self, name) for name in _CHECKS if name != "provider" or self.provider is not None}
        return Config(**{**given, **options})

    def _check_together(self) -> None:
        names = [tool.name for tool in self.tools]
        for name in names:
            if names.count(name) > 1:
                raise ToolDefinitionError(name, "two tools have this name; rename one with @alloy.tool(name=...)")
        if self.max_tokens is not None and self.compaction is not None:
            self.compaction.check_with(self.max_tokens)
        if self.until_tool is not None and self.until_tool not in names:
            raise InvalidOptionError(
                "until_tool", f"the name of one of the tools ({', '.join(names)})", self.until_tool
            )
        if self.until_tool is not None and self.output_type is not None:
            raise InvalidOptionError(
                "until_tool",
                "nothing beside output_type: either a tool's call ends the run or its result",
                self.until_tool,
            )


_path = lru_cache(64)(Path)
_DEFAULTS = {one.name: one.default for one in fields(Config)}


def _plain(kind: type | tuple[type, ...], expected: str) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> Any:
        if not isinstance(value, kind):
            raise InvalidOptionError(name, expected, value)
        return value

    return check


def _several(kind: type, expected: str) -> Callable[[str, Any], Any]:
    def check(name: str, value: Any) -> tuple[Any, ...]:
        if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
            raise InvalidOptionError(name, f"a list of {expected}", value)
        for item in value:
            if not isinstance(item, kind):
                raise InvalidOptionError(name, f"a list of {expected}", item)
        return tuple(value)

    return check


def _paths(name: str, value: Any) -> tuple[Path, ...]:
    if isinstance(value, str | bytes | os.PathLike | Mapping) or not isinstance(value, Sequence):
        raise InvalidOptionError(name, "a list of paths", value)
    for path in value:
        if not isinstance(path, str | os.PathLike) or not os.fspath(path):
            raise InvalidOptionError(name, "a list of paths", path)
    return tuple(Path(os.path.abspath(path)) for path in value)  # noqa: PTH100  Path.absolute keeps ".."


def _provider(name: str, value: Any) -> Any:
    if not isinstance(value, str) and not is_provider(value):
        raise InvalidOptionError(
            name, "'vendor:model' or a provider object such as alloy.providers.Scripted(...)", value
        )
    return value


def _fallbacks(name: str, value: Any) -> tuple[Provider | str, ...]:
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise InvalidOptionError(name, "a list of providers", value)
    return tuple(_provider(name, one) for one in value)


def _messages(name: str, value: Any) -> tuple[Message, ...]:
    messages: tuple[Message, ...] = _several(Message, "alloy.Message")(name, value)
    check_history(messages)
    return messages


def _whole(least: int) -> Callable[[str, Any], int]:
    def check(name: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise InvalidOptionError(name, f"a whole number of at least {least}", value)
        return value

    return check


def _maybe_whole(least: int) -> Callable[[str, Any], int | None]:
    check = _whole(least)
    return lambda name, value: None if value is None else check(name, value)


def _is_seconds(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 and math.isfinite(value)


def _wait(name: str, value: Any) -> float:
    if not _is_seconds(value):
        raise InvalidOptionError(name, "a number of seconds of at least 0", value)
    return float(value)


def _limit(name: str, value: Any) -> float:
    if not _is_seconds(value) or value == 0:
        raise InvalidOptionError(name, "a number of seconds above 0", value)
    return float(value)


def _maybe_limit(name: str, value: Any) -> float | None:
    return None if value is None else _limit(name, value)


def _budget(name: str, value: Any) -> Any:
    if value is None:
        return None
    from alloy.providers.budget import Budget, dollars  # noqa: PLC0415  only who has one pays for it

    return value if isinstance(value, Budget) else dollars(name, value)


def _priority(name: str, value: Any) -> Any:
    if value not in ("interactive", "batch"):
        raise InvalidOptionError(name, "'interactive' or 'batch'", value)
    return value


def _sink(name: str, value: Any) -> Any:
    if value is None:
        return None
    called = value if inspect.isroutine(value) else getattr(value, "__call__", None)  # noqa: B004  its code is wanted
    if not callable(value) or inspect.iscoroutinefunction(called):
        raise InvalidOptionError(
            name, "a plain function of one envelope; it is called where nothing can be awaited", value
        )
    return value


def _overrides(name: str, value: Any) -> Mapping[str, ModelMetadata]:
    if value == {}:
        return {}
    from alloy.models.overrides import checked_overrides  # noqa: PLC0415  only who overrides something pays for it

    return checked_overrides(name, value)


def _catalogue(name: str, value: Any) -> Any:
    if value is None:
        return None
    from alloy.models.info import Catalogue  # noqa: PLC0415  only who has one pays for it

    if not isinstance(value, Catalogue) or isinstance(value, str | bytes | type):  # texts have a find of their own
        raise InvalidOptionError(name, "an object with find(provider, model), or None", value)
    return value


def _output_type(_: str, value: Any) -> Any:
    if value is not None and value is not str:
        from alloy.loop.output import output_type  # noqa: PLC0415  pydantic, which only who wants a type pays for

        output_type(value)
    return value


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "provider": _provider,
    "tools": _several(Tool, "tools; put @alloy.tool on a function to make it one"),
    "system_prompt": _plain((str, type(None)), "text or None"),
    "messages": _messages,
    "max_turns": _whole(1),
    "max_tokens": _maybe_whole(1),
    "compaction": checked_compaction,
    "middleware": _several(Middleware, "alloy.Middleware instances"),
    "working_directory": _plain((str, os.PathLike), "a folder's path"),
    "allowed_paths": _paths,
    "context": _plain(Mapping, "a mapping"),
    "until_tool": _plain((str, type(None)), "a tool's name or None"),
    "timeout": _maybe_limit,
    "tool_timeout": _limit,
    "max_concurrent_tools": _whole(1),
    "max_result_bytes": _whole(1),
    "on_event": _sink,
    "fallback_providers": _fallbacks,
    "max_retries": _whole(0),
    "retry_backoff": _wait,
    "priority": _priority,
    "max_budget": _budget,
    "max_pending": _whole(0),
    "model_metadata_overrides": _overrides,
    "model_catalogue": _catalogue,
    "output_retries": _whole(0),
    "output_type": _output_type,
}
