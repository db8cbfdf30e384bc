"""An asyncio-native, model-agnostic agent harness.

`run` and `stream` take one conversation turn by turn until the model is done; `Agent` keeps one alive. Everything here is imported when it is first
used, so ``import alloy`` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alloy import mcp as mcp
    from alloy import models as models
    from alloy import providers as providers
    from alloy import sessions as sessions
    from alloy import testing as testing
    from alloy import tools as tools
    from alloy.agents.agent import Agent as Agent
    from alloy.agents.directory import cancel_request as cancel_request
    from alloy.agents.directory import send_message as send_message
    from alloy.agents.supervisor import Supervisor as Supervisor
    from alloy.errors import AgentError as AgentError
    from alloy.errors import AlloyError as AlloyError
    from alloy.errors import ConfigurationError as ConfigurationError
    from alloy.errors import Halt as Halt
    from alloy.errors import HistoryError as HistoryError
    from alloy.errors import ProviderError as ProviderError
    from alloy.errors import RequestCancelledError as RequestCancelledError
    from alloy.errors import RunError as RunError
    from alloy.errors import ToolError as ToolError
    from alloy.events import Envelope as Envelope
    from alloy.history import check_history as check_history
    from alloy.history import repair_history as repair_history
    from alloy.loop.approval import Approval as Approval
    from alloy.loop.compaction import Compaction as Compaction
    from alloy.loop.config import Config as Config
    from alloy.loop.middleware import Blocked as Blocked
    from alloy.loop.middleware import Middleware as Middleware
    from alloy.loop.middleware import RunContext as RunContext
    from alloy.loop.run import RunStream as RunStream
    from alloy.loop.run import run as run
    from alloy.loop.run import stream as stream
    from alloy.loop.subagent import agent_tool as agent_tool
    from alloy.messages import DocumentBlock as DocumentBlock
    from alloy.messages import ImageBlock as ImageBlock
    from alloy.messages import Message as Message
    from alloy.messages import TextBlock as TextBlock
    from alloy.messages import ToolResultBlock as ToolResultBlock
    from alloy.messages import ToolUseBlock as ToolUseBlock
    from alloy.messages import messages_from_json as messages_from_json
    from alloy.messages import messages_to_json as messages_to_json
    from alloy.providers.budget import Budget as Budget
    from alloy.result import Result as Result
    from alloy.tools.base import Tool as Tool
    from alloy.tools.base import ToolContext as ToolContext
    from alloy.tools.base import ToolOutput as ToolOutput
    from alloy.tools.base import tool as tool
    from alloy.usage import Usage as Usage

_MODULES = {
    "alloy.agents.agent": ("Agent",),
    "alloy.agents.directory": ("cancel_request", "send_message"),
    "alloy.agents.supervisor": ("Supervisor",),
    "alloy.errors": (
        "AgentError",
        "AlloyError",
        "ConfigurationError",
        "Halt",
        "HistoryError",
        "ProviderError",
        "RequestCancelledError",
        "RunError",
        "ToolError",
    ),
    "alloy.events": ("Envelope",),
    "alloy.history": ("check_history", "repair_history"),
    "alloy.loop.approval": ("Approval",),
    "alloy.loop.compaction": ("Compaction",),
    "alloy.loop.config": ("Config",),
    "alloy.loop.middleware": ("Blocked", "Middleware", "RunContext"),
    "alloy.loop.run": ("RunStream", "run", "stream"),
    "alloy.loop.subagent": ("agent_tool",),
    "alloy.messages": (
        "DocumentBlock",
        "ImageBlock",
        "Message",
        "TextBlock",
        "ToolResultBlock",
        "ToolUseBlock",
        "messages_from_json",
        "messages_to_json",
    ),
    "alloy.providers.budget": ("Budget",),
    "alloy.result": ("Result",),
    "alloy.tools.base": ("Tool", "ToolContext", "ToolOutput", "tool"),
    "alloy.usage": ("Usage",),
}
_SUBMODULES = ("mcp", "models", "providers", "sessions", "testing", "tools")
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Agent",
    "AgentError",
    "AlloyError",
    "Approval",
    "Blocked",
    "Budget",
    "Compaction",
    "Config",
    "ConfigurationError",
    "DocumentBlock",
    "Envelope",
    "Halt",
    "HistoryError",
    "ImageBlock",
    "Message",
    "Middleware",
    "ProviderError",
    "RequestCancelledError",
    "Result",
    "RunContext",
    "RunError",
    "RunStream",
    "Supervisor",
    "TextBlock",
    "Tool",
    "ToolContext",
    "ToolError",
    "ToolOutput",
    "ToolResultBlock",
    "ToolUseBlock",
    "Usage",
    "agent_tool",
    "cancel_request",
    "check_history",
    "mcp",
    "messages_from_json",
    "messages_to_json",
    "models",
    "providers",
    "repair_history",
    "run",
    "send_message",
    "sessions",
    "stream",
    "testing",
    "tool",
    "tools",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"alloy.{name}")
    elif name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415  slow, and seldom asked for

        value = version("alloy-harness")
    else:
        raise AttributeError(f"module 'alloy' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
