"""The core tool `write`: a file as a whole."""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from alloy._tasks import run_in_thread
from alloy.tools.base import CoreTool, ToolContext
from alloy.tools.files import refusal, replace_file, writable
from alloy.tools.paths import open_parent, roots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["write"]

PATIENCE = 5.0
"""How long a cancelled call waits for what is being written, in seconds."""


async def _write(path: str, content: str, *, context: ToolContext) -> str:
    """Writes a text file as a whole; what was in it is gone. Folders that are missing are made. To change a part, use edit.

    Args:
        path: The file, relative to the working directory or absolute; it must be inside the working directory.
        content: All that is to be in the file.
        context: The call's context.
    """
    stop = threading.Event()
    work = partial(_replace, roots(context), path, content, stop)
    return await run_in_thread(work, name="alloy tool write", stop=stop.set, within=PATIENCE)


def _replace(allowed: Sequence[Path], path: str, content: str, stop: threading.Event) -> str:
    data = content.encode()
    try:
        folder, name = open_parent(allowed, path, make=True)
        with folder:
            before = writable(folder, name, path)
            replace_file(folder, name, data, path=path, before=before, stop=stop)
    except OSError as error:
        raise refusal(path, error) from None
    lines = content.count("\n") + (not content.endswith("\n") and bool(content))
    was = "a new file" if before is None else f"it had {before.st_size} bytes"
    return f"wrote {len(data)} bytes, {lines} line{'' if lines == 1 else 's'}, to {path!r} ({was})"


write = CoreTool(_write, name="write", concurrency_safe=False)
"""Writes a text file inside the working directory, as a whole or not at all."""
