"""The core tool `edit`: parts of a text file replaced, all of them or none."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from alloy._tasks import run_in_thread
from alloy.errors import ToolError
from alloy.tools.base import CoreTool, ToolContext
from alloy.tools.core.write import PATIENCE
from alloy.tools.files import Text, read_whole, refusal, replace_file, writable
from alloy.tools.paths import missing, open_parent, roots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Edit", "edit"]

_SHOWN = 20


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement.

    Attributes:
        old: the text to replace, exactly as it is in the file, without line numbers.
        new: what to put there.
        replace_all: whether to replace every place where it is; otherwise there must be only one.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    old: str
    new: str
    replace_all: bool = False


async def _edit(path: str, edits: list[Edit], *, context: ToolContext) -> str:
    """Replaces parts of a text file. Each old text must be in the file exactly once, unless replace_all is set. The edits are
    made one after the other, each to what the one before has left; if one of them can't be made, none is.

    Args:
        path: The file, relative to the working directory or absolute; it must be inside the working directory.
        edits: What to replace, as a list of objects: old is the text as it is in the file, without line numbers; new is what
            to put there; replace_all, if true, replaces every match.
        context: The call's context.
    """
    _check(edits)
    stop = threading.Event()
    work = partial(_change, roots(context), path, edits, stop)
    return await run_in_thread(work, name="alloy tool edit", stop=stop.set, within=PATIENCE)


def _check(edits: Sequence[Edit]) -> None:
    if not edits:
        raise ToolError("edits is empty; give at least one, such as {'old': 'teh', 'new': 'the'}")
    for number, each in enumerate(edits, 1):
        if not each.old:
            raise ToolError(f"{_named(number, edits)}: old is empty; give the text to replace, or use write")
        if _plain(each.old) == _plain(each.new):
            raise ToolError(f"{_named(number, edits)}: old and new are the same, so there is nothing to do")


def _change(allowed: Sequence[Path], path: str, edits: Sequence[Edit], stop: threading.Event) -> str:
    try:
        folder, name = open_parent(allowed, path)
        with folder:
            if writable(folder, name, path) is None:
                raise ToolError(missing(folder, name, path))
            data, before = read_whole(folder, name, path)
            text = Text.of(data, path)
            changed, done = text.content, list[str]()
            for number, each in enumerate(edits, 1):
                changed, lines = _replaced(changed, each, f"{_named(number, edits)}: ", path)
                done.append(f"{_counted(lines)}, {_on_lines(lines)}")
            if changed == text.content:
                raise ToolError("the edits undo each other, so nothing was changed")
            replace_file(folder, name, text.with_content(changed), path=path, before=before, stop=stop)
    except OSError as error:
        raise refusal(path, error) from None
    return f"edited {path!r}: replaced {'; '.join(done)}"


def _replaced(text: str, edit: Edit, which: str, path: str) -> tuple[str, list[int]]:
    """The text after one edit, and the lines where it was made, as they were before.

    A line's end matches whichever kind the file has there, and what is put there gets the same kind.

    Raises:
        ToolError: there is no match, or more than one.
    """
    pattern = re.compile("\r?\n".join(map(re.escape, _plain(edit.old).split("\n"))))
    found = list(pattern.finditer(text))
    lines = [text.count("\n", 0, match.start()) + 1 for match in found[: _SHOWN + 1]]
    lines += [0] * (len(found) - len(lines))  # counting them all in a large file takes long, and nobody reads it
    if not found:
        raise ToolError(f"{which}the old text isn't in {path!r}{_hint(text, edit.old)}; nothing was changed")
    if len(found) > 1 and not edit.replace_all:
        raise ToolError(
            f"{which}the old text is in {path!r} {len(found)} times, {_on_lines(lines)}; nothing was changed. "
            "Give more of the text around the right one, or set replace_all"
        )
    mostly = "\r\n" if 2 * text.count("\r\n") > text.count("\n") else "\n"

    def put(match: re.Match[str]) -> str:
        end = ("\r\n" if "\r\n" in match[0] else "\n") if "\n" in match[0] else mostly
        return _plain(edit.new).replace("\n", end)

    return pattern.sub(put, text), lines


def _hint(text: str, old: str) -> str:
    """Where the old text may have been meant: the line that is like its first one, but for blanks."""
    first = next((line.strip() for line in old.splitlines() if line.strip()), "")
    like = [number for number, line in enumerate(text.splitlines(), 1) if first and line.strip() == first]
    if not like:
        return ""
    return f", though {_on_lines(like[:_SHOWN], 'line')} is like its first line; it must be the same in blanks, too"


def _plain(text: str) -> str:
    return text.replace("\r\n", "\n")


def _named(number: int, edits: Sequence[Edit]) -> str:
    return f"edit {number} of {len(edits)}"


def _counted(lines: Sequence[int]) -> str:
    return "1 match" if len(lines) == 1 else f"{len(lines)} matches"


def _on_lines(lines: Sequence[int], before: str = "on line") -> str:
    shown = list(dict.fromkeys(line for line in lines if line))
    text = ", ".join(map(str, shown[:_SHOWN])) + (", ..." if len(lines) > _SHOWN else "")
    return f"{before}{'' if len(shown) == 1 else 's'} {text}"


edit = CoreTool(_edit, name="edit", concurrency_safe=False)
"""Replaces parts of a text file inside the working directory, all of them or none."""
