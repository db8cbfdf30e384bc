"""Folders within folders: what is in them, in order, and which of it a glob means. Needs nothing but Python."""

from __future__ import annotations

import fnmatch
import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING

from alloy.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from alloy.tools.paths import Folder, Kind

__all__ = ["SKIPPED", "Glob", "Walk", "shown"]

SKIPPED = frozenset(
    {".git", ".hg", ".svn", "node_modules", "__pycache__", ".venv", ".tox", ".nox"}
    | {".mypy_cache", ".pytest_cache", ".ruff_cache"}
)
"""Folders that aren't gone into, unless one is asked for itself: histories, caches, and what others wrote."""

_DEEPEST = 64
_MOST = 200_000
_BRACES = 64


class Walk:
    """Everything in a folder and in the folders in it, sorted; symbolic links are told and not followed.

    Args:
        deepest: how many folders deep to go; 1 is the folder alone.
        seconds: how long to go on.
        stopped: says when nobody wants to know any more.

    Attributes:
        cut: why the walk ended before its end; None if it didn't.
        skipped: the names of folders that weren't gone into.
    """

    def __init__(
        self, *, deepest: int = _DEEPEST, seconds: float = float("inf"), stopped: Callable[[], bool] = lambda: False
    ) -> None:
        self.cut: str | None = None
        self.skipped: set[str] = set()
        self._deepest = deepest
        self._until = time.monotonic() + seconds
        self._seconds = seconds
        self._stopped = stopped
        self._seen = 0

    def of(self, folder: Folder, names: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Kind, Folder]]:
        """What is there: the names that lead to it, what it is, and the folder it's in, which is open until the next step.

        Raises:
            ToolError: nobody wants to know any more.
        """
        entries = folder.entries(_MOST + 1 - self._seen)
        for name in sorted(entries):
            if self._ended():
                return
            kind = entries[name]
            yield (*names, name), kind, folder
            if kind != "folder" or len(names) + 1 == self._deepest:
                continue
            if name in SKIPPED or len(names) + 1 >= _DEEPEST:
                self.skipped.add(name)
                continue
            try:
                inner = folder.enter(name)
            except OSError:  # gone, not allowed, or a link by now
                continue
            with inner:
                yield from self.of(inner, (*names, name))

    def _ended(self) -> bool:
        if self._stopped():
            raise ToolError("stopped")
        self._seen += 1
        if self._seen > _MOST:
            self.cut = f"stopped after {_MOST} files and folders"
        elif time.monotonic() > self._until:
            self.cut = f"stopped after {self._seconds:g} seconds"
        return self.cut is not None


class Glob:
    """A glob: ``*`` and ``?`` stay in a name, ``**`` stands for any folders, ``{a,b}`` for either.

    Args:
        pattern: the glob; one without a slash means names in any folder.

    Raises:
        ToolError: it's empty or absolute, or has too many braces.
    """

    def __init__(self, pattern: str) -> None:
        pattern = pattern.removeprefix("./")
        if not pattern or pattern.startswith("/"):
            raise ToolError(f"{pattern!r} is no glob; give one such as '*.py' or 'src/**/*.py', and the folder in path")
        self._ways = [_parts(one) for one in _expanded(pattern)]

    def __call__(self, names: Sequence[str]) -> bool:
        """Whether it means what these names lead to."""
        return any(_matches(way, names) for way in self._ways)


def _expanded(pattern: str) -> list[str]:
    """The pattern without braces: one for each choice."""
    done, waiting = list[str](), [pattern]
    while waiting:
        one = waiting.pop()
        match = re.search(r"\{([^{}]*,[^{}]*)\}", one)
        if match is None:
            done.append(one)
        else:
            waiting += [one[: match.start()] + choice + one[match.end() :] for choice in match[1].split(",")]
        if len(done) + len(waiting) > _BRACES:
            raise ToolError(f"{pattern[:100]!r} has too many braces")
    return done


def _parts(pattern: str) -> tuple[str, ...]:
    parts = tuple(part for part in pattern.split("/") if part not in ("", "."))
    if "/" not in pattern:
        parts = ("**", *parts)
    return (*parts, "*") if parts[-1:] == ("**",) else parts  # what is in the folder, not the folder itself


def _matches(parts: tuple[str, ...], names: Sequence[str]) -> bool:
    """Whether the names fit the parts, in time that grows with both and no faster."""
    reached = {0}  # how many parts can be used up by the names so far
    for name in names:
        reached = _past_stars(parts, reached)
        reached = {
            at if parts[at] == "**" else at + 1
            for at in reached
            if at < len(parts) and (parts[at] == "**" or _name(parts[at]).match(name))
        }
    return len(parts) in reached


def _past_stars(parts: tuple[str, ...], reached: set[int]) -> set[int]:
    every = set(reached)
    for at in range(len(parts)):
        if at in every and parts[at] == "**":
            every.add(at + 1)
    return every


@lru_cache(256)
def _name(part: str) -> re.Pattern[str]:
    return re.compile(fnmatch.translate(part))


def shown(names: Sequence[str]) -> str:
    """A path as one line of text, whatever its names are made of."""
    path = "/".join(names)
    return path if path.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in path)
