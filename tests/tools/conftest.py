"""Calling a tool as a run does."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
import pytest

from alloy.errors import ToolError
from alloy.tools import ToolContext, ToolOutput

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class User:
    """Calls tools in a folder."""

    root: Path
    allowed: tuple[Path, ...] = ()
    timeout: float | None = None
    reports: list[str] = field(default_factory=list)

    def context(self, name: str = "tool") -> ToolContext:
        return ToolContext(
            call_id="call",
            tool_name=name,
            correlation_id="run",
            turn=1,
            working_directory=self.root,
            context={},
            report=self.reports.append,
            allowed_paths=self.allowed,
            timeout=self.timeout,
        )

    async def output(self, tool: Any, **arguments: Any) -> ToolOutput:
        """What a call gives."""
        with anyio.fail_after(30):
            return ToolOutput.of(await tool.execute(arguments, self.context(tool.name)))

    async def text(self, tool: Any, **arguments: Any) -> str:
        """The text that a call gives, which mustn't be an error."""
        output = await self.output(tool, **arguments)
        assert not output.is_error, output.text
        return output.text

    def assert_no_threads(self) -> None:
        """No tool has a thread any more, but for its last few steps."""
        for thread in threading.enumerate():
            if thread.name.startswith("alloy tool"):
                thread.join(1)
                assert not thread.is_alive(), thread.name

    async def refusal(self, tool: Any, **arguments: Any) -> str:
        """The one line that a call is refused with."""
        with pytest.raises(ToolError) as caught:
            await self.output(tool, **arguments)
        assert "\n" not in str(caught.value)
        return str(caught.value)


@pytest.fixture
def user(tmp_path: Path) -> User:
    """Works in a folder that has secrets around it."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "room-two").mkdir()
    (tmp_path / "room-two" / "secret.txt").write_text("secret")
    root = tmp_path / "room"
    (root / "src").mkdir(parents=True)
    (root / "src" / "main.py").write_text("import this\n")
    return User(root)
