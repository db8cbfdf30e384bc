"""Opening files inside a directory, and nowhere else."""

from __future__ import annotations

import difflib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from alloy.errors import ToolError

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["inside", "open_inside"]

_WALKS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_READ = os.O_RDONLY | sum(
    getattr(os, flag, 0) for flag in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK")
)
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | sum(
    getattr(os, flag, 0) for flag in ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW")
)
_NEIGHBOURS = 2000
_LINKED = "{!r} leads through symbolic links that go round in circles, or that have just changed"


def inside(root: Path, path: str) -> tuple[Path, tuple[str, ...]]:
    """Where a path leads, with symbolic links resolved.

    Args:
        root: the directory to stay in; absolute.
        path: relative to it, or absolute.

    Returns:
        The real root, and the names that lead from there to the file, without links or ``..``.

    Raises:
        ToolError: it leads out of the directory, or is no path.
    """
    if not path or "\0" in path:
        raise ToolError(f"{path!r} is no path; give one inside the working directory, such as 'src/main.py'")
    try:
        real_root = Path(os.path.realpath(root))
        real = Path(os.path.realpath(real_root / path))
    except (OSError, ValueError) as error:  # too long, or what the file system can't spell
        raise ToolError(f"{path!r} is no path here: {_why(error)}") from None
    if not real_root.is_dir():
        raise ToolError(f"the working directory {str(root)!r} doesn't exist")
    if not real.is_relative_to(real_root):
        raise ToolError(f"{path!r} is outside of the working directory; only what is inside can be read")
    return real_root, real.relative_to(real_root).parts


def open_inside(root: Path, path: str) -> BinaryIO:
    """Opens a regular file for reading, if it's inside a directory.

    The path is resolved and checked, and then walked from the directory's descriptor without following links, so that
    nothing put in its way after the check leads out. Devices, pipes and the like aren't opened.

    Args:
        root: the directory to stay in; absolute.
        path: relative to it, or absolute.

    Raises:
        ToolError: there is no such file, it's something else, or it's outside of the directory.
    """
    real_root, names = inside(root, path)
    if not names:
        raise ToolError(f"{path!r} is a directory, not a file")
    try:
        descriptor = _walk(real_root, names, path) if _WALKS else _open_and_compare(real_root, names, path)
    except OSError as error:
        raise ToolError(f"can't open {path!r}: {_why(error)}") from None
    return os.fdopen(descriptor, "rb", buffering=0)


def _walk(root: Path, names: tuple[str, ...], path: str) -> int:
    """A descriptor of the file, reached from one directory to the next."""
    here = os.open(root, _PASS & ~os.O_NOFOLLOW)
    for depth in range(len(names)):
        try:
            following = _step(here, names, depth, path)
        finally:
            os.close(here)
        here = following
    return here


def _step(directory: int, names: tuple[str, ...], depth: int, path: str) -> int:
    """A descriptor of the directory or, at last, the file that `names[depth]` is in `directory`."""
    name, last = names[depth], depth == len(names) - 1
    try:
        mode = os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode
    except FileNotFoundError:
        raise ToolError(_missing(directory, names, depth, path)) from None
    if stat.S_ISLNK(mode):
        raise ToolError(_LINKED.format(path))
    if last:
        _check_kind(mode, path)
        return _checked(os.open(name, _READ, dir_fd=directory), path)
    if not stat.S_ISDIR(mode):
        raise ToolError(f"no file {path!r}: {'/'.join(names[: depth + 1])!r} is no directory")
    return os.open(name, _PASS, dir_fd=directory)


def _open_and_compare(root: Path, names: tuple[str, ...], path: str) -> int:
    """A descriptor of the file, for systems that can't walk: opened, and looked at again."""
    real = root.joinpath(*names)
    try:
        _check_kind(real.stat().st_mode, path)
    except FileNotFoundError:
        raise ToolError(f"no file {path!r}") from None
    descriptor = _checked(os.open(real, _READ), path)
    if os.path.realpath(real) == str(real) and os.path.samestat(os.fstat(descriptor), real.lstat()):
        return descriptor
    os.close(descriptor)
    raise ToolError(_LINKED.format(path))


def _checked(descriptor: int, path: str) -> int:
    """The descriptor, if it's of a file; closed if not."""
    try:
        _check_kind(os.fstat(descriptor).st_mode, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_kind(mode: int, path: str) -> None:
    if stat.S_ISDIR(mode):
        raise ToolError(f"{path!r} is a directory, not a file")
    if not stat.S_ISREG(mode):
        raise ToolError(f"{path!r} is a device, pipe or socket, not a file")


def _missing(directory: int, names: tuple[str, ...], depth: int, path: str) -> str:
    """That there is no such file, with the names in its directory that look like it."""
    near: list[str] = []
    with suppress(OSError):  # a directory that can be passed, but not listed
        descriptor = os.open(".", os.O_RDONLY, dir_fd=directory)
        try:
            with os.scandir(descriptor) as entries:
                found = [entry.name for entry, _ in zip(entries, range(_NEIGHBOURS), strict=False)]
        finally:
            os.close(descriptor)
        folded = {name.casefold(): name for name in sorted(found)}
        near = [folded[name] for name in difflib.get_close_matches(names[depth].casefold(), folded, n=3, cutoff=0.6)]
    hint = ", ".join(repr("/".join((*names[:depth], name, *names[depth + 1 :]))) for name in near)
    return f"no file {path!r}" + (f"; did you mean {hint}?" if hint else "")


def _why(error: OSError | ValueError) -> str:
    return (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else "it can't be encoded"
