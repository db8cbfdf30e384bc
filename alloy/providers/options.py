"""What a tool tells one adapter and not the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alloy.providers.base import ToolSpec

__all__ = ["ADAPTERS", "tool_options"]

ADAPTERS = frozenset({"anthropic", "chat_completions", "gemini", "openai", "xai"})
"""The keys of `ToolSpec.options` that hold options of one adapter."""


def tool_options(tool: ToolSpec, adapter: str) -> dict[str, Any]:
    """The options of a tool that an adapter sends.

    ``{"strict": True, "anthropic": {"defer_loading": True}}`` tells everybody the first and Anthropic the second, too; what
    stands under an adapter's name wins.

    Args:
        tool: the tool.
        adapter: one of `ADAPTERS`.
    """
    own = tool.options.get(adapter)
    shared = {name: value for name, value in tool.options.items() if name not in ADAPTERS}
    return shared | dict(own) if isinstance(own, Mapping) else shared
