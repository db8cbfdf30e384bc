"""Acting on the world: what a tool is, and the core tools. Everything is imported when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alloy._tasks import stuck_threads as stuck_threads
    from alloy.tools.base import Tool as Tool
    from alloy.tools.base import ToolContext as ToolContext
    from alloy.tools.base import ToolOutput as ToolOutput
    from alloy.tools.base import tool as tool
    from alloy.tools.core.bash import Bash as Bash
    from alloy.tools.core.bash import bash as bash
    from alloy.tools.core.edit import edit as edit
    from alloy.tools.core.find import find as find
    from alloy.tools.core.grep import grep as grep
    from alloy.tools.core.list import list_ as list_
    from alloy.tools.core.memory import Memory as Memory
    from alloy.tools.core.memory import memory as memory
    from alloy.tools.core.read import read as read
    from alloy.tools.core.write import write as write
    from alloy.tools.executor import Executor as Executor
    from alloy.tools.executor import LocalExecutor as LocalExecutor
    from alloy.tools.executor import SandboxExecutor as SandboxExecutor

_HOMES = {
    "Bash": "alloy.tools.core.bash",
    "Executor": "alloy.tools.executor",
    "LocalExecutor": "alloy.tools.executor",
    "Memory": "alloy.tools.core.memory",
    "SandboxExecutor": "alloy.tools.executor",
    "Tool": "alloy.tools.base",
    "ToolContext": "alloy.tools.base",
    "ToolOutput": "alloy.tools.base",
    "bash": "alloy.tools.core.bash",
    "edit": "alloy.tools.core.edit",
    "find": "alloy.tools.core.find",
    "grep": "alloy.tools.core.grep",
    "list_": "alloy.tools.core.list",
    "memory": "alloy.tools.core.memory",
    "read": "alloy.tools.core.read",
    "stuck_threads": "alloy._tasks",
    "tool": "alloy.tools.base",
    "write": "alloy.tools.core.write",
}

__all__ = [
    "Bash",
    "Executor",
    "LocalExecutor",
    "Memory",
    "SandboxExecutor",
    "Tool",
    "ToolContext",
    "ToolOutput",
    "bash",
    "edit",
    "find",
    "grep",
    "list_",
    "memory",
    "read",
    "stuck_threads",
    "tool",
    "write",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'alloy.tools' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
