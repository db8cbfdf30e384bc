"""Searching texts for a regular expression: what the process that `grep` starts does, since nothing else can be stopped in it.

Python's regular expressions hold the interpreter while they match, and some patterns take longer than the universe lasts. This
module needs nothing but Python.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections import deque
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from alloy.errors import ToolError
from alloy.tools.paths import Folder
from alloy.tools.walk import Glob, Walk, shown

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

__all__ = ["REFUSED", "Search", "main"]

REFUSED = 3
"""The exit code for a search that can't be done; the output says why."""

_SNIFFED = 8192
_LONGEST = 1 << 20  # bytes of a line that are searched
_AROUND = 200  # characters of a long line on each side of the match
_PRINTED = 40_000  # bytes
_MORE = "... more matches; narrow the pattern, the path or include, or set limit higher"


@dataclass(frozen=True, slots=True)
class Search:
    """What is searched for.

    Attributes:
        descriptor: the folder's, or the file's.
        is_file: which of them it is.
        prefix: the names that lead to it.
        pattern: the regular expression.
        ignore_case: whether upper and lower case are the same.
        include: globs of the files to search; none for all.
        around: how many lines to show before and after a match.
        limit: how many matches to show.
    """

    descriptor: int
    is_file: bool
    prefix: tuple[str, ...]
    pattern: str
    ignore_case: bool
    include: tuple[str, ...]
    around: int
    limit: int

    def to_json(self) -> str:
        """The search, as `main` takes it."""
        return json.dumps(asdict(self))


def main(request: str) -> None:
    """Does a search and prints what it finds, each match at once.

    Args:
        request: a `Search` as JSON.
    """
    search = Search(**json.loads(request))
    try:
        _Finder(search).run()
    except (ToolError, re.error, RecursionError, OverflowError) as error:
        print(error if isinstance(error, ToolError) else f"{search.pattern!r} is no regular expression: {error}")  # noqa: T201  the output
        sys.exit(REFUSED)


class _Full(Exception):  # noqa: N818  no error
    """Enough is shown."""


class _Finder:
    def __init__(self, search: Search) -> None:
        self._search = search
        self._pattern = re.compile(search.pattern, re.IGNORECASE if search.ignore_case else 0)
        self._globs = [Glob(glob) for glob in search.include]
        self._matches = self._files = self._binary = self._printed = 0
        self._last: tuple[str, int] | None = None

    def run(self) -> None:
        walk = Walk()
        try:
            if self._search.is_file:
                self._file(self._search.descriptor, shown(self._search.prefix))
            else:
                self._folder(walk)
        except _Full:
            self._print(_MORE)
            return
        if walk.cut:
            self._print(f"... {walk.cut}; search one of the folders")
        if not self._matches:
            binary = f", {self._binary} binary" if self._binary else ""
            skipped = f"; not looked into: {', '.join(sorted(walk.skipped))}" if walk.skipped else ""
            self._print(f"no match in {self._files} file{'' if self._files == 1 else 's'}{binary}{skipped}")

    def _folder(self, walk: Walk) -> None:
        for names, kind, here in walk.of(Folder(Path(), self._search.descriptor)):
            if kind != "file" or not (not self._globs or any(glob(names) for glob in self._globs)):
                continue
            try:
                descriptor = here.open(names[-1])
            except OSError:  # gone, or not allowed
                continue
            self._file(descriptor, shown((*self._search.prefix, *names)))

    def _file(self, descriptor: int, path: str) -> None:
        with os.fdopen(descriptor, "rb") as file:
            start = file.read(_SNIFFED)
            self._files += 1
            if b"\0" in start:
                self._binary += 1
                return
            file.seek(0)
            self._lines(file, path)

    def _lines(self, file: BinaryIO, path: str) -> None:
        before: deque[tuple[int, str]] = deque(maxlen=self._search.around)
        after = 0
        for number, line in enumerate(_read_lines(file), 1):
            match = self._pattern.search(line)
            if match:
                self._matches += 1
                if self._matches > self._search.limit:
                    raise _Full
                for earlier, text in before:
                    self._line(path, earlier, "-", text[: 2 * _AROUND])
                before.clear()
                self._line(path, number, ":", _cut(line, match))
                after = self._search.around
            elif after:
                after -= 1
                self._line(path, number, "-", line[: 2 * _AROUND])
            else:
                before.append((number, line))

    def _line(self, path: str, number: int, mark: str, text: str) -> None:
        if self._search.around and self._last is not None and self._last != (path, number - 1):
            self._print("--")
        self._last = path, number
        self._print(f"{path}{mark}{number}{mark} {text}")

    def _print(self, line: str) -> None:
        data = line.encode("utf-8", "replace") + b"\n"
        if self._printed > _PRINTED and line != _MORE:
            raise _Full
        self._printed += len(data)
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


def _read_lines(file: BinaryIO) -> Iterator[str]:
    """A file's lines; of a very long one, what is searched of it."""
    while raw := file.readline(_LONGEST):
        rest = raw
        while len(rest) == _LONGEST and not rest.endswith(b"\n"):
            rest = file.readline(_LONGEST)
        yield raw.decode("utf-8-sig" if raw.startswith(b"\xef\xbb\xbf") else "utf-8", "replace").rstrip("\r\n")


def _cut(line: str, match: re.Match[str]) -> str:
    """The line, or what is around the match if it's long."""
    if len(line) <= 2 * _AROUND:
        return line
    start, end = max(match.start() - _AROUND, 0), min(match.start() + _AROUND, len(line))
    return ("..." if start else "") + line[start:end] + ("..." if end < len(line) else "")
