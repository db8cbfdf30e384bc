"""The core tool `grep`: lines that a regular expression matches."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio

import alloy
from alloy._tasks import run_in_thread
from alloy.errors import ToolError
from alloy.tools.base import CoreTool, ToolContext, ToolOutput
from alloy.tools.core.find import SECONDS
from alloy.tools.core.read import PATIENCE
from alloy.tools.paths import inside, open_folder, open_inside, prefix, roots
from alloy.tools.process import Exit, run_processes
from alloy.tools.search import REFUSED, Search

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["grep"]

_PROGRAM = """\
import sys
sys.path.insert(0, sys.argv[1])
from alloy.tools.search import main
main(sys.argv[2])
"""
_SOURCE = str(Path(alloy.__file__).parent.parent)
_OUTPUT = 200_000  # bytes; the program itself stops earlier
_LONGEST = 10_000  # characters of a pattern
_AROUND = 20


async def _grep(
    pattern: str,
    path: str = ".",
    include: list[str] | None = None,
    ignore_case: bool = False,
    context_lines: int = 0,
    limit: int = 100,
    *,
    context: ToolContext,
) -> ToolOutput:
    """Searches text files for a regular expression, line by line, and shows each match as path:line: text, sorted by path.
    Histories and caches, such as .git and node_modules, aren't looked into, nor are binary files.

    Args:
        pattern: A regular expression of Python's.
        path: The file or folder to search, relative to the working directory or absolute; it must be inside it.
        include: Globs of the files to search, such as *.py or src/**/*.ts; by default all.
        ignore_case: Whether upper and lower case are the same.
        context_lines: How many lines to show before and after each match.
        limit: How many matches to show at most.
        context: The call's context.
    """
    if not 0 <= context_lines <= _AROUND or limit < 1:
        raise ToolError(f"limit must be 1 or more, and context_lines from 0 to {_AROUND}")
    if not pattern or len(pattern) > _LONGEST:
        raise ToolError(f"pattern must have from 1 to {_LONGEST} characters")
    if not sys.executable:
        raise ToolError("there is no Python to search with; use bash")
    opened: list[int] = []
    stop = threading.Event()
    try:
        opening = partial(_open, roots(context), path, opened, stop)
        is_file, names = await run_in_thread(opening, name="alloy tool grep", stop=stop.set, within=PATIENCE)
        search = Search(opened[0], is_file, names, pattern, ignore_case, tuple(include or ()), context_lines, limit)
        return await _run(search, SECONDS if context.timeout is None else min(SECONDS, context.timeout * 0.8))
    finally:
        for descriptor in opened:
            os.close(descriptor)


def _open(allowed: Sequence[Path], path: str, opened: list[int], stop: threading.Event) -> tuple[bool, tuple[str, ...]]:
    """Opens what is to be searched, for the caller to close; returns whether it's a file, and the names that lead to it."""
    root, names = inside(allowed, path)
    if stop.is_set():
        raise ToolError("stopped")
    if os.path.isdir(root.joinpath(*names)):  # noqa: PTH112  False, too, for a name that is too long
        with open_folder(allowed, path) as folder:
            opened.append(folder.release())
            return False, prefix(allowed, folder)
    with open_inside(allowed, path) as file:
        opened.append(os.dup(file.fileno()))
        return True, (path,)


async def _run(search: Search, seconds: float) -> ToolOutput:
    output = bytearray()
    ended: Exit | None = None
    with anyio.move_on_after(seconds):
        ended = await run_processes(
            [sys.executable, "-I", "-S", "-B", "-c", _PROGRAM, _SOURCE, search.to_json()],
            env={"PATH": os.defpath, "LANG": "C.UTF-8"},
            cwd=Path("/"),
            output=lambda piece: output.extend(piece[: _OUTPUT - len(output)]),
            name="grep",
            pass_fds=[search.descriptor],
        )
    text = output.decode("utf-8", "replace").rstrip("\n")
    if ended is None:
        note = f"... stopped after {seconds:g} seconds; use a simpler pattern, or narrow the path or include"
        return ToolOutput(f"{text}\n{note}" if text else note, is_error=not text)
    if ended.code == REFUSED:
        raise ToolError(text)
    if ended.code:
        raise ToolError(f"the search failed, exit code {ended.code}: {text[-500:]}")
    return ToolOutput(text)


grep = CoreTool(_grep, name="grep")
"""Searches the text files inside the working directory for a regular expression."""
