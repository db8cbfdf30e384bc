"""The core tool `read`: a page of a text file."""

from __future__ import annotations

import codecs
import threading
from functools import partial
from typing import TYPE_CHECKING

from alloy._tasks import run_in_thread
from alloy.errors import ToolError
from alloy.tools.base import CoreTool, ToolContext
from alloy.tools.paths import open_inside, roots

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from typing import BinaryIO

__all__ = ["read"]

PAGE_BYTES = 50_000
"""How much one call gives, in bytes of UTF-8."""

PATIENCE = 2.0
"""How long a cancelled call waits until its thread has stopped, in seconds."""

_CHUNK = 1 << 18
_LINE_CHARACTERS = 2_000
_LINE_BYTES = 4 * _LINE_CHARACTERS  # what a line of so many characters takes at most
_SNIFFED = 8_192
_COUNTED = 64 << 20  # how far the lines after the page are counted
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


async def _read(path: str, offset: int = 1, limit: int = 2000, *, context: ToolContext) -> str:
    """Reads a text file, with line numbers. Long files come in pages; the end of a page says how to go on.

    Args:
        path: The file, relative to the working directory or absolute; it must be inside the working directory.
        offset: The line to begin with, counted from 1.
        limit: How many lines to read at most.
        context: The call's context.
    """
    if offset < 1:
        raise ToolError("offset counts lines from 1")
    if limit < 1:
        raise ToolError("limit must be 1 or more")
    stop = threading.Event()
    work = partial(_page, roots(context), path, (offset, limit), stop)
    return await run_in_thread(work, name="alloy tool read", stop=stop.set, within=PATIENCE)


def _page(allowed: Sequence[Path], path: str, span: tuple[int, int], stop: threading.Event) -> str:
    offset, limit = span
    with open_inside(allowed, path) as file:
        lines = _Lines(file, path, stop)
        passed = lines.skip(offset - 1)
        first = lines.next() if passed == offset - 1 else None
        if first is None:
            if passed == 0:
                return f"({path} is empty)"
            raise ToolError(f"offset {offset} is past the end: {path!r} has {_many(passed)}")
        page, size, number = [f"{offset:6}\t{first}"], len(first.encode()), offset
        while size < PAGE_BYTES and number - offset + 1 < limit and (line := lines.next()) is not None:
            number += 1
            page.append(f"{number:6}\t{line}")
            size += len(line.encode()) + 8
        more, counted = lines.rest()
        if more or not counted:
            left = f"{more} more {'line' if more == 1 else 'lines'}" if counted else f"more than {more} lines"
            page.append(f"... {left}; go on with offset={number + 1}")
    return "\n".join(page)


class _Lines:
    """A file's lines, read a chunk at a time, so that neither a large file nor a long line fills the memory."""

    def __init__(self, file: BinaryIO, path: str, stop: threading.Event) -> None:
        self._file = file
        self._path = path
        self._stop = stop
        self._at = 0
        self._chunk = b""
        self._more()
        if self._chunk.startswith(_UTF16):
            raise ToolError(f"{path!r} is UTF-16 text; convert it to UTF-8 to read it")
        if b"\0" in self._chunk[:_SNIFFED]:
            raise self._binary()
        if self._chunk.startswith(codecs.BOM_UTF8):
            self._at = len(codecs.BOM_UTF8)

    def skip(self, count: int) -> int:
        """Passes over `count` lines and returns how many there were."""
        passed, partial = 0, False
        while passed < count:
            if self._at == len(self._chunk) and not self._more():
                return passed + partial
            found = self._chunk.count(b"\n", self._at)
            if passed + found < count:
                passed += found
                partial = not self._chunk.endswith(b"\n")
                self._at = len(self._chunk)
            else:
                for _ in range(count - passed):
                    self._at = self._chunk.index(b"\n", self._at) + 1
                return count
        return passed

    def next(self) -> str | None:
        """The next line, cut if it's too long; None at the end."""
        newline = self._chunk.find(b"\n", self._at)
        if 0 <= newline - self._at <= _LINE_CHARACTERS:  # most lines are short, and in one chunk
            line, self._at = self._chunk[self._at : newline], newline + 1
            return self._text(line, len(line))
        kept, length, ended = bytearray(), 0, False
        while not ended and (self._at < len(self._chunk) or self._more()):
            newline = self._chunk.find(b"\n", self._at)
            ended = newline >= 0
            end = newline if ended else len(self._chunk)
            kept += self._chunk[self._at : min(end, self._at + _LINE_BYTES - len(kept))]
            length += end - self._at
            self._at = end + ended
        return self._text(bytes(kept), length) if ended or length else None

    def rest(self) -> tuple[int, bool]:
        """How many lines are left, and whether that is all of them; a very long rest isn't counted to its end."""
        found, read, partial = 0, 0, False
        while self._at < len(self._chunk) or self._more():
            if read > _COUNTED:
                return found, False
            found += self._chunk.count(b"\n", self._at)
            partial = not self._chunk.endswith(b"\n")
            read += len(self._chunk) - self._at
            self._at = len(self._chunk)
        return found + partial, True

    def _more(self) -> bool:
        if self._stop.is_set():
            raise ToolError("stopped")
        self._chunk, self._at = self._file.read(_CHUNK), 0
        return bool(self._chunk)

    def _text(self, kept: bytes, length: int) -> str:
        whole = len(kept) == length
        if b"\0" in kept:
            raise self._binary()
        try:
            text = kept.decode() if whole else codecs.getincrementaldecoder("utf-8")().decode(kept)
        except UnicodeDecodeError:
            raise self._binary() from None
        if whole and len(text) <= _LINE_CHARACTERS:
            return text.removesuffix("\r")
        return f"{text[:_LINE_CHARACTERS]} [... cut: the line has {length} bytes]"

    def _binary(self) -> ToolError:
        return ToolError(f"{self._path!r} isn't UTF-8 text; it's a binary file, or text in another encoding")


def _many(lines: int) -> str:
    return f"{lines} line{'' if lines == 1 else 's'}"


read = CoreTool(_read, name="read", max_result_bytes=2 * PAGE_BYTES)
"""Reads a text file inside the working directory, with line numbers, a page at a time."""
