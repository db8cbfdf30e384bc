"""What a tool tells the vendors besides its name, description and schema."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alloy.errors import ToolDefinitionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from alloy.providers.base import ToolSpec

__all__ = ["ADAPTERS", "SchemaMemo", "ToolMemo", "lesser", "named_tool", "tool_options"]

_KNOWN: Mapping[str, frozenset[str]] = {
    "anthropic": frozenset({"strict", "defer_loading", "input_examples"}),
    "chat_completions": frozenset({"strict"}),
    "gemini": frozenset({"strict"}),
    "openai": frozenset({"strict", "defer_loading"}),
    "xai": frozenset({"strict"}),
}
"""The options that mean the same to several vendors, and which adapter's vendor has them."""
_SHARED = frozenset[str]().union(*_KNOWN.values())

ADAPTERS = frozenset(_KNOWN)
"""The keys of `ToolSpec.options` that hold options of one adapter."""


def lesser(setting: Any, limit: int) -> int:
    """The shorter of an answer's limits, in tokens: a setting, where it is a number, and a request's own."""
    return min(setting, limit) if isinstance(setting, int) else limit


def tool_options(tool: ToolSpec, adapter: str) -> dict[str, Any]:
    """The options of a tool that an adapter sends.

    ``{"strict": True, "anthropic": {"cache_control": {...}}}`` tells everybody the first and Anthropic the second, too. An option
    that a vendor doesn't have isn't sent to it; what stands under an adapter's name is sent as it is, and wins.

    Args:
        tool: the tool.
        adapter: one of `ADAPTERS`.

    Raises:
        ToolDefinitionError: an option that nobody knows.
    """
    for name, value in tool.options.items():
        if name in ADAPTERS:
            if not isinstance(value, Mapping):
                raise ToolDefinitionError(
                    tool.name, f"options[{name!r}] must be a mapping of that vendor's own options"
                )
        elif name not in _SHARED:
            raise ToolDefinitionError(
                tool.name,
                f"unknown option {name!r}; options for everybody are {', '.join(sorted(_SHARED))}, and what one vendor "
                f"has stands under its name, as {{'anthropic': {{{name!r}: ...}}}}",
            )
    shared = {name: value for name, value in tool.options.items() if name in _KNOWN[adapter]}
    return shared | dict(tool.options.get(adapter, {}))


def named_tool(choice: object) -> str | None:
    """The tool that a `tool_choice` of the form ``{"name": "a_tool"}`` names."""
    if isinstance(choice, Mapping) and choice.keys() == {"name"}:
        return str(choice["name"])
    return None


class ToolMemo:
    """Remembers how the latest tools are declared: a run has the same ones in each request.

    Args:
        declare: words one tool for an API.
    """

    __slots__ = ("_declare", "_declared", "_tools")

    def __init__(self, declare: Callable[[ToolSpec], dict[str, Any]]) -> None:
        self._declare = declare
        self._tools: tuple[ToolSpec, ...] = ()
        self._declared: list[dict[str, Any]] = []

    def __call__(self, tools: tuple[ToolSpec, ...]) -> list[dict[str, Any]]:
        """The declarations, in a list of its own."""
        if tools != self._tools:
            self._declared = [self._declare(tool) for tool in tools]
            self._tools = tools
        return list(self._declared)


class SchemaMemo:
    """Remembers how the latest schema of an answer is worded: a run has the same one in each request.

    Args:
        word: words a schema for an API.
    """

    __slots__ = ("_schema", "_word", "_worded")

    def __init__(self, word: Callable[[Mapping[str, Any]], dict[str, Any]]) -> None:
        self._word = word
        self._schema: Mapping[str, Any] | None = None
        self._worded: dict[str, Any] = {}

    def __call__(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """What the schema is called."""
        if schema is not self._schema:
            self._worded = self._word(schema)
            self._schema = schema
        return self._worded
