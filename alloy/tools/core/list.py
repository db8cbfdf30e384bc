"""The core tool `list`: what is in a folder."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from alloy._tasks import run_in_thread
from alloy.errors import ToolError
from alloy.tools.base import CoreTool, ToolContext
from alloy.tools.core.read import PATIENCE
from alloy.tools.paths import open_folder, roots, why
from alloy.tools.walk import Walk, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from alloy.tools.paths import Folder, Kind

__all__ = ["list_"]

_SECONDS = 10.0


async def _list(path: str = ".", depth: int = 1, limit: int = 500, *, context: ToolContext) -> str:
    """Lists a folder, sorted: folders end with a slash, files are told with their size in bytes, links with an arrow.

    Args:
        path: The folder, relative to the working directory or absolute; it must be inside the working directory.
        depth: How many folders deep to go; 1 is the folder alone.
        limit: How many lines to list at most.
        context: The call's context.
    """
    if depth < 1 or limit < 1:
        raise ToolError("depth and limit must be 1 or more")
    stop = threading.Event()
    work = partial(_lines, roots(context), path, depth, limit, stop)
    return await run_in_thread(work, name="alloy tool list", stop=stop.set, within=PATIENCE)


def _lines(allowed: Sequence[Path], path: str, depth: int, limit: int, stop: threading.Event) -> str:
    walk = Walk(deepest=depth, seconds=_SECONDS, stopped=stop.is_set)
    lines: list[str] = []
    more = 0
    try:
        with open_folder(allowed, path) as folder:
            for names, kind, here in walk.of(folder):
                if len(lines) < limit:
                    lines.append(_line(names, kind, here))
                else:
                    more += 1
    except OSError as error:
        raise ToolError(f"can't list {path!r}: {why(error)}") from None
    if more:
        lines.append(f"... {more}{' or' if walk.cut else ''} more; list one of the folders, or set limit higher")
    if walk.cut:
        lines.append(f"... {walk.cut}; list one of the folders")
    return "\n".join(lines) or f"({path} is empty)"


def _line(names: tuple[str, ...], kind: Kind, here: Folder) -> str:
    match kind:
        case "folder":
            return f"{shown(names)}/"
        case "link":
            return f"{shown(names)} -> {shown([here.target(names[-1])])}"
        case "file":
            found = here.look(names[-1])
            return f"{shown(names)}  {found.st_size if found else '?'}"
        case "other":
            return f"{shown(names)}  (device, pipe or socket)"


list_ = CoreTool(_list, name="list")
"""Lists a folder inside the working directory."""
