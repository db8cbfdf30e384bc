"""Acting on the world: what a tool is, and the core tools."""

from alloy.tools.base import Tool, ToolContext, ToolOutput, tool
from alloy.tools.read import read

__all__ = ["Tool", "ToolContext", "ToolOutput", "read", "tool"]
