"""Text files: what is text and how it was written down, and replacing a file as a whole or not at all."""

from __future__ import annotations

import codecs
import os
import secrets
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alloy.errors import ToolError
from alloy.tools.paths import check_file, why

if TYPE_CHECKING:
    import threading

    from alloy.tools.paths import Folder

__all__ = ["Text", "read_whole", "refusal", "replace_file", "writable"]

LARGEST = 16 << 20
"""The largest file that is held in memory as a whole, in bytes."""

_ENCODINGS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))


@dataclass(frozen=True, slots=True)
class Text:
    """A file's text, and how it was written down.

    Attributes:
        content: the text, with the line ends that it has.
        encoding: UTF-8, or one of those that a byte order mark tells.
        mark: the byte order mark, if there is one.
    """

    content: str
    encoding: str = "utf-8"
    mark: bytes = b""

    @classmethod
    def of(cls, data: bytes, path: str) -> Text:
        """What is in a file.

        Raises:
            ToolError: it isn't text.
        """
        mark, encoding = next(((mark, name) for mark, name in _ENCODINGS if data.startswith(mark)), (b"", "utf-8"))
        try:
            content = data[len(mark) :].decode(encoding)
        except UnicodeDecodeError:
            content = "\0"
        if "\0" in content:
            raise ToolError(f"{path!r} isn't UTF-8 text; it's a binary file, or text in another encoding")
        return cls(content, encoding, mark)

    def with_content(self, content: str) -> bytes:
        """Another text, written down in the same way."""
        return self.mark + content.encode(self.encoding)


def writable(folder: Folder, name: str, path: str) -> os.stat_result | None:
    """What is there of a file that is going to be written; None if nothing is.

    Raises:
        ToolError: it's no regular file, or may not be written.
    """
    found = folder.look(name)
    if found is not None:
        check_file(found, path)
        if not folder.is_writable(name):
            raise ToolError(f"{path!r} is write-protected")
    return found


def read_whole(folder: Folder, name: str, path: str) -> tuple[bytes, os.stat_result]:
    """A file's bytes, and what it was when they were read.

    Raises:
        ToolError: it's no regular file, or a very large one.
        OSError: it can't be read.
    """
    with os.fdopen(folder.open(name), "rb") as file:
        found = os.fstat(file.fileno())
        check_file(found, path)
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ToolError(f"{path!r} has more than {LARGEST >> 20} MB, which is too large to be edited as a whole")
    return data, found


def replace_file(
    folder: Folder, name: str, data: bytes, *, path: str, before: os.stat_result | None, stop: threading.Event
) -> None:
    """Puts a file in the place of another, or of nothing: all of it, or nothing if that fails.

    It is written beside the other one under a name of its own and to the disk, and then takes its name. Mode and, where that
    is allowed, owner stay as they were.

    Args:
        folder: where.
        name: what it's called there.
        data: what is in it.
        path: how the model called it, for errors.
        before: what was there; None if nothing was.
        stop: set when nobody wants it any more.

    Raises:
        ToolError: what was there has changed meanwhile, or nobody wants it any more.
        OSError: it can't be written.
    """
    temporary = f".{name[:40]}.{secrets.token_hex(6)}.tmp"
    descriptor = folder.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if before is None else 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            if before is not None:
                _make_like(file.fileno(), before)
            os.fsync(file.fileno())
        if stop.is_set():
            raise ToolError(f"stopped; {path!r} is as it was")
        if _identity(folder.look(name)) != _identity(before):
            raise ToolError(f"{path!r} was changed by somebody else in this moment; read it again, and then try again")
        folder.replace(temporary, name)
    except BaseException:
        with suppress(OSError):
            folder.remove(temporary)
        raise
    folder.sync()


def _make_like(descriptor: int, before: os.stat_result) -> None:
    if hasattr(os, "fchown"):
        now = os.fstat(descriptor)
        if (now.st_uid, now.st_gid) != (before.st_uid, before.st_gid):
            with suppress(OSError):
                os.fchown(descriptor, before.st_uid, before.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(before.st_mode))


def _identity(found: os.stat_result | None) -> tuple[int, ...] | None:
    """What tells that a file is still the one it was, with the same content."""
    if found is None:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def refusal(path: str, error: OSError) -> ToolError:
    """What the model is told when the operating system refuses."""
    return ToolError(f"can't write {path!r}: {why(error)}")
