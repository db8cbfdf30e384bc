"""Where file tools may go: inside some folders, and nowhere else.

A path is resolved and checked first. Then it is walked from the folder's descriptor, one name at a time and without following
links, and whatever is done is done by the descriptor that the walk ends with. So what is used is what was checked, whoever
moves or links things meanwhile. Systems whose calls take no descriptors of folders open by name, and look again afterwards.
"""

from __future__ import annotations

import difflib
import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias

from alloy.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from alloy.tools.base import ToolContext

__all__ = [
    "Folder",
    "Kind",
    "check_file",
    "inside",
    "missing",
    "open_folder",
    "open_inside",
    "open_parent",
    "prefix",
    "roots",
    "why",
]

_WALKS = os.open in os.supports_dir_fd and hasattr(os, "O_NOFOLLOW")
_NEVER = sum(getattr(os, flag, 0) for flag in ("O_BINARY", "O_CLOEXEC", "O_NOCTTY", "O_NOFOLLOW", "O_NONBLOCK"))
"""However a file is opened: no link followed, no terminal taken, no pipe waited for, nothing inherited."""
_READ = os.O_RDONLY | _NEVER
_PASS = getattr(os, "O_PATH", os.O_RDONLY) | sum(
    getattr(os, flag, 0) for flag in ("O_CLOEXEC", "O_DIRECTORY", "O_NOFOLLOW")
)
_NEIGHBOURS = 2000
_LONGEST = 4096  # characters; what most systems allow
_LINKED = "{!r} leads through symbolic links that go round in circles, or that have just changed"


Kind: TypeAlias = Literal["file", "folder", "link", "other"]
"""What something in a folder is: a regular file, a folder, a symbolic link, or a device, pipe or socket."""


def roots(context: ToolContext) -> tuple[Path, ...]:
    """The folders that a call's file tools may go to, the working directory first."""
    return (context.working_directory, *context.allowed_paths)


def inside(allowed: Sequence[Path], path: str) -> tuple[Path, tuple[str, ...]]:
    """Where a path leads, with symbolic links resolved.

    Args:
        allowed: the folders, or single files, to stay in; absolute. The first is the working directory.
        path: relative to the working directory, or absolute.

    Returns:
        The real path of the folder that it's in, and the names that lead from there, without links or ``..``.

    Raises:
        ToolError: it leads out of all of them, or is no path.
    """
    if not path or "\0" in path:
        raise ToolError(f"{path!r} is no path; give one inside the working directory, such as 'src/main.py'")
    if len(path) > _LONGEST:
        raise ToolError(f"{path[:100]!r}... is no path here: file name too long")
    try:
        here = os.path.realpath(allowed[0])
        real = Path(os.path.realpath(os.path.join(here, path)))  # noqa: PTH118  a Path drops the slash at its end
        tops = [Path(here), *(Path(os.path.realpath(top)) for top in allowed[1:])]
    except (OSError, ValueError) as error:  # too long, or what the file system can't spell
        raise ToolError(f"{path!r} is no path here: {why(error)}") from None
    if not tops[0].is_dir():
        raise ToolError(f"the working directory {str(allowed[0])!r} doesn't exist")
    for top in tops:
        if real.is_relative_to(top):
            return (top, real.relative_to(top).parts) if top.is_dir() else (top.parent, (top.name,))
    others = " and of what else is allowed" if len(tops) > 1 else ""
    raise ToolError(f"{path!r} is outside of the working directory{others}; only what is inside can be used")


class Folder:
    """A folder that is open; use it in a ``with`` block.

    Args:
        path: its real path.
        descriptor: its descriptor, which it closes; None on systems that can't use one.
        names: those that lead to it from the folder that the walk began in.
    """

    __slots__ = ("_descriptor", "names", "path")

    def __init__(self, path: Path, descriptor: int | None, names: tuple[str, ...] = ()) -> None:
        self.path = path
        self.names = names
        self._descriptor = descriptor

    @classmethod
    def at(cls, path: Path) -> Self:
        """Opens a folder by its real path."""
        return cls(path, os.open(path, _PASS & ~os.O_NOFOLLOW) if _WALKS else None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes it."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def look(self, name: str) -> os.stat_result | None:
        """What `name` in the folder is, links not followed; None if there is nothing."""
        try:
            return os.stat(self._name(name), **self._here(), follow_symlinks=False)  # noqa: PTH116  no Path a descriptor
        except FileNotFoundError:
            return None

    def enter(self, name: str) -> Folder:
        """Opens the folder `name` in it."""
        descriptor = self._descriptor
        if descriptor is None:
            self._name(name)
        else:
            descriptor = os.open(name, _PASS, dir_fd=descriptor)
        return Folder(self.path / name, descriptor, (*self.names, name))

    def open(self, name: str, flags: int = os.O_RDONLY, mode: int = 0o666) -> int:
        """Opens the file `name` in it and returns its descriptor."""
        descriptor = os.open(self._name(name), flags | _NEVER, mode, **self._here())
        if self._descriptor is None and not self._is_still(name, descriptor):
            os.close(descriptor)
            raise ToolError(_LINKED.format(name))
        return descriptor

    def make(self, name: str) -> None:
        """Makes the folder `name` in it, unless there is one."""
        with suppress(FileExistsError):
            os.mkdir(self._name(name), **self._here())  # noqa: PTH102  as above

    def replace(self, old: str, new: str) -> None:
        """Gives the file `old` in it the name `new`; what had it is gone."""
        here = self._here().get("dir_fd")
        os.replace(self._name(old), self._name(new), src_dir_fd=here, dst_dir_fd=here)

    def remove(self, name: str) -> None:
        """Removes the file `name` in it."""
        os.unlink(self._name(name), **self._here())

    def remove_folder(self, name: str) -> None:
        """Removes the empty folder `name` in it."""
        os.rmdir(self._name(name), **self._here())

    def move(self, name: str, to: Folder, new: str) -> None:
        """Has `name` in it be `new` in another folder; a file that was there is gone."""
        here, there = self._here().get("dir_fd"), to._here().get("dir_fd")
        os.rename(self._name(name), to._name(new), src_dir_fd=here, dst_dir_fd=there)

    def target(self, name: str) -> str:
        """Where the symbolic link `name` in it leads, as it's written in the link."""
        try:
            return os.readlink(self._name(name), **self._here())
        except OSError:
            return "?"

    def release(self) -> int:
        """Its descriptor, which is the caller's from now on.

        Raises:
            ToolError: the system has none.
        """
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is None:
            raise ToolError("this system has no descriptors of folders")
        return descriptor

    def is_writable(self, name: str) -> bool:
        """Whether the file `name` in it may be written."""
        return os.access(self._name(name), os.W_OK, **self._here())

    def entries(self, limit: int) -> dict[str, Kind]:
        """What is in it, by name, and of which kind, in no order; no more than `limit`."""
        listing: Any = self.listing()
        try:
            with os.scandir(listing) as entries:
                return {entry.name: _kind(entry) for entry, _ in zip(entries, range(limit), strict=False)}
        finally:
            if isinstance(listing, int):
                os.close(listing)

    def listing(self) -> int | str:
        """A descriptor that the folder can be listed by, for the caller to close; its path where there is none."""
        if self._descriptor is None:
            return str(self.path)
        return os.open(".", os.O_RDONLY | _NEVER, dir_fd=self._descriptor)

    def sync(self) -> None:
        """Has its entries written to the disk, where the system can."""
        listing = self.listing()
        if isinstance(listing, int):
            with suppress(OSError):
                os.fsync(listing)
            os.close(listing)

    def _here(self) -> dict[str, Any]:
        return {} if self._descriptor is None else {"dir_fd": self._descriptor}

    def _name(self, name: str) -> str:
        """The name, or the whole path where there is no descriptor; checked, as well as that can be."""
        if self._descriptor is not None:
            return name
        if os.path.realpath(self.path) != str(self.path):
            raise ToolError(_LINKED.format(str(self.path)))
        return str(self.path / name)

    def _is_still(self, name: str, descriptor: int) -> bool:
        real = self.path / name
        return os.path.realpath(real) == str(real) and os.path.samestat(os.fstat(descriptor), real.lstat())


def open_inside(allowed: Sequence[Path], path: str) -> BinaryIO:
    """Opens a regular file for reading, if it's inside. Devices, pipes and the like aren't opened.

    Args:
        allowed: as of `inside`.
        path: relative to the working directory, or absolute.

    Raises:
        ToolError: there is no such file, it's something else, or it's outside.
    """
    folder, name = open_parent(allowed, path)
    with folder, _named_errors(path):
        found = folder.look(name)
        if found is None:
            raise ToolError(missing(folder, name, path))
        check_file(found, path)
        descriptor = folder.open(name)
        try:
            check_file(os.fstat(descriptor), path)
        except BaseException:
            os.close(descriptor)
            raise
        return os.fdopen(descriptor, "rb", buffering=0)


def open_parent(allowed: Sequence[Path], path: str, *, make: bool = False) -> tuple[Folder, str]:
    """Opens the folder that a file is in, or is to be in.

    Args:
        allowed: as of `inside`.
        path: the file's, relative to the working directory, or absolute.
        make: whether to make the folders that aren't there.

    Returns:
        The folder, for the caller to close, and the file's name in it.

    Raises:
        ToolError: it's outside, something in its way is no folder, or it isn't there.
    """
    root, names = inside(allowed, path)
    if not names:
        raise ToolError(f"{path!r} is a directory, not a file")
    if path.endswith(("/", os.sep)):
        raise ToolError(f"{path!r} is a directory's path; a file's doesn't end with a slash")
    with _named_errors(path):
        return _walk(root, names, path, make=make, last=1), names[-1]


def open_folder(allowed: Sequence[Path], path: str) -> Folder:
    """Opens a folder, if it's inside, for the caller to close.

    Args:
        allowed: as of `inside`.
        path: relative to the working directory, or absolute.

    Raises:
        ToolError: there is no such folder, it's something else, or it's outside.
    """
    root, names = inside(allowed, path)
    with _named_errors(path):
        return _walk(root, names, path)


def prefix(allowed: Sequence[Path], folder: Folder) -> tuple[str, ...]:
    """The names that lead to a folder from the working directory; its whole path, if it is somewhere else."""
    here = os.path.realpath(allowed[0])
    if folder.path.is_relative_to(here):
        return folder.path.relative_to(here).parts
    return ("", *folder.path.parts[1:])


def _walk(root: Path, names: tuple[str, ...], path: str, *, make: bool = False, last: int = 0) -> Folder:
    """The folder that the names lead to from the root, but for the `last` ones."""
    here = Folder.at(root)
    for depth, name in enumerate(names[: len(names) - last]):
        with here:
            found = here.look(name)
            if found is None and make:
                here.make(name)
                found = here.look(name)
            if found is None:
                raise ToolError(missing(here, name, path, names[depth + 1 :]))
            if stat.S_ISLNK(found.st_mode):
                raise ToolError(_LINKED.format(path))
            if not stat.S_ISDIR(found.st_mode):
                raise ToolError(f"no file {path!r}: {'/'.join(names[: depth + 1])!r} is no directory")
            following = here.enter(name)
        here = following
    return here


def check_file(found: os.stat_result, path: str) -> None:
    """Checks that this is a regular file.

    Raises:
        ToolError: it's something else.
    """
    if stat.S_ISLNK(found.st_mode):
        raise ToolError(_LINKED.format(path))
    if stat.S_ISDIR(found.st_mode):
        raise ToolError(f"{path!r} is a directory, not a file")
    if not stat.S_ISREG(found.st_mode):
        raise ToolError(f"{path!r} is a device, pipe or socket, not a file")


class _named_errors:  # noqa: N801  a context manager, used as a function
    """Tells of the operating system's refusals by the path that was asked for."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, OSError):
            raise ToolError(f"can't open {self._path!r}: {why(error)}") from None


def _kind(entry: os.DirEntry[str]) -> Kind:
    if entry.is_symlink():
        return "link"
    if entry.is_dir(follow_symlinks=False):
        return "folder"
    return "file" if entry.is_file(follow_symlinks=False) else "other"


def missing(folder: Folder, name: str, path: str, after: tuple[str, ...] = ()) -> str:
    """That there is no such file (`name` in `folder`, and `after` below it), with the names in its directory that look like it."""
    near: list[str] = []
    with suppress(OSError):  # a directory that can be passed, but not listed
        folded = {name.casefold(): name for name in sorted(folder.entries(_NEIGHBOURS))}
        near = [folded[near] for near in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.6)]
    hint = ", ".join(repr("/".join((*folder.names, name, *after))) for name in near)
    return f"no file {path!r}" + (f"; did you mean {hint}?" if hint else "")


def why(error: OSError | ValueError) -> str:
    """What the operating system said, in a few words."""
    return (error.strerror or type(error).__name__).lower() if isinstance(error, OSError) else "it can't be encoded"
