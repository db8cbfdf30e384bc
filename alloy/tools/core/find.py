"""The core tool `find`: files and folders by their names."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from alloy._tasks import run_in_thread
from alloy.errors import ToolError
from alloy.tools.base import CoreTool, ToolContext
from alloy.tools.core.read import PATIENCE
from alloy.tools.paths import open_folder, prefix, roots, why
from alloy.tools.walk import Glob, Walk, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["find"]

SECONDS = 10.0
"""How long a search goes on, in seconds."""


async def _find(pattern: str, path: str = ".", limit: int = 200, *, context: ToolContext) -> str:
    """Finds files and folders by name, sorted. Histories and caches, such as .git and node_modules, aren't looked into.

    Args:
        pattern: A glob, such as *.py for names anywhere, or src/**/test_*.py for paths; {a,b} means either.
        path: The folder to look in, relative to the working directory or absolute; it must be inside the working directory.
        limit: How many to show at most.
        context: The call's context.
    """
    if limit < 1:
        raise ToolError("limit must be 1 or more")
    glob, stop = Glob(pattern), threading.Event()
    work = partial(_found, roots(context), path, glob, limit, stop)
    text = await run_in_thread(work, name="alloy tool find", stop=stop.set, within=PATIENCE)
    return text or f"nothing in {path!r} is called {pattern!r}"


def _found(allowed: Sequence[Path], path: str, glob: Glob, limit: int, stop: threading.Event) -> str:
    walk = Walk(seconds=SECONDS, stopped=stop.is_set)
    lines: list[str] = []
    try:
        with open_folder(allowed, path) as folder:
            before = prefix(allowed, folder)
            for names, kind, _ in walk.of(folder):
                if not glob(names):
                    continue
                if len(lines) == limit:
                    lines.append(f"... more than {limit}; narrow the pattern or the path, or set limit higher")
                    break
                lines.append(shown((*before, *names)) + ("/" if kind == "folder" else ""))
    except OSError as error:
        raise ToolError(f"can't look into {path!r}: {why(error)}") from None
    if walk.cut:
        lines.append(f"... {walk.cut}; look in one of the folders")
    return "\n".join(lines)


find = CoreTool(_find, name="find")
"""Finds files and folders inside the working directory by name."""
