"""File names for ids: safe on every file system, and readable where they can be; no I/O.

Small ASCII letters, digits and ``_-.`` stand for themselves, every other byte of the id's UTF-8 is ``%xx``. So two ids never have
names that differ in case or in Unicode's normal forms only, and no name has a separator in it. What would be too long ends in
``~`` and a hash, and only the file itself says which id it is.
"""

from __future__ import annotations

import hashlib
import re
from urllib.parse import unquote_to_bytes

__all__ = ["HASHED", "file_name", "is_hashed", "written_id"]

SUFFIX = ".json"
LONGEST = 180  # of a name without its suffix; file systems take 255 bytes, some encrypted ones fewer
HASHED = "~"
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789_-.")
# What Windows takes for a device, whatever follows the first dot:
# https://learn.microsoft.com/windows/win32/fileio/naming-a-file#naming-conventions
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com[0-9]|lpt[0-9])(?:\.|$)")


def file_name(session_id: str) -> str:
    """The name of the file for an id."""
    stem = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in session_id.encode())
    if stem[0] in ".-" or _RESERVED.match(stem):
        stem = f"%{ord(stem[0]):02x}{stem[1:]}"
    if len(stem) > LONGEST:
        digest = hashlib.sha256(session_id.encode()).hexdigest()[:32]
        stem = stem[: LONGEST - len(HASHED) - len(digest)] + HASHED + digest
    return stem + SUFFIX


def is_hashed(name: str) -> bool:
    """Whether only the file says whose it is."""
    return re.fullmatch(rf".+{HASHED}[0-9a-f]{{32}}{re.escape(SUFFIX)}", name) is not None


def written_id(name: str) -> str | None:
    """The id that a file's name stands for, or None if it is no name that `file_name` gives, or a hashed one."""
    try:
        session_id = unquote_to_bytes(name.removesuffix(SUFFIX)).decode()
    except UnicodeDecodeError:
        return None
    return session_id if session_id and file_name(session_id) == name else None
