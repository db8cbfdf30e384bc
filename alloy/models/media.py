"""How large media are: pixels, pages, seconds; pure."""

from __future__ import annotations

import re
import struct

__all__ = ["image_size", "pages", "seconds"]

_BYTES_PER_PAGE = 50_000
_BYTES_PER_SECOND = {"audio": 16_000, "video": 250_000}  # MP3 at 128 kbit/s, and film at 2 Mbit/s
_PAGE = re.compile(rb"/Type\s{0,4}/Page(?![s\w])")
_JPEG_SIZES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""The markers of a JPEG's segments that begin with its size (ISO/IEC 10918-1, table B.1)."""


def image_size(data: bytes) -> tuple[int, int] | None:
    """An image's width and height in pixels, by its header; None where that isn't understood.

    Sources: the specifications of PNG, GIF89a, WebP (RFC 9649) and JPEG (ISO/IEC 10918-1).
    """
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack_from(">II", data, 16)
        if data.startswith((b"GIF87a", b"GIF89a")):
            return struct.unpack_from("<HH", data, 6)
        if data.startswith(b"\xff\xd8"):
            return _jpeg_size(data)
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp_size(data)
    except (IndexError, struct.error):
        pass  # it's cut off
    return None


def _jpeg_size(data: bytes) -> tuple[int, int] | None:
    at = 2
    for _ in range(1000):  # more segments no camera writes
        marker, length = struct.unpack_from(">HH", data, at)
        if marker & 0xFF in _JPEG_SIZES:
            height, width = struct.unpack_from(">HH", data, at + 5)
            return width, height
        at += 2 + length
    return None


def _webp_size(data: bytes) -> tuple[int, int] | None:
    match data[12:16]:
        case b"VP8X":
            return 1 + int.from_bytes(data[24:27], "little"), 1 + int.from_bytes(data[27:30], "little")
        case b"VP8L":
            bits = int.from_bytes(data[21:25], "little")
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, 26)
            return width & 0x3FFF, height & 0x3FFF
        case _:
            return None


def pages(data: bytes) -> int:
    """How many pages a PDF has, at least 1: as many as it says in the open, else by its length."""
    return len(_PAGE.findall(data)) or 1 + len(data) // _BYTES_PER_PAGE


def seconds(data: bytes, kind: str) -> float:
    """How long a recording is, by its header if it's WAVE, else by its length.

    Args:
        data: the file's bytes.
        kind: ``audio`` or ``video``.
    """
    rate = _BYTES_PER_SECOND[kind]
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE" and len(data) >= 32:
        rate = struct.unpack_from("<I", data, 28)[0] or rate
    return len(data) / rate
