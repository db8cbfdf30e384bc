"""How much of an answer is taken: a server may be broken, or hostile; no I/O."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

from alloy.errors import ProviderError
from alloy.providers.base import Completion, RateLimitWait, Retry, TextDelta, ThinkingDelta, ToolCallDelta

if TYPE_CHECKING:
    from collections.abc import Iterator

    from alloy.providers.base import ProviderItem

__all__ = ["LIMITS", "Inflater", "Intake", "Limits", "Tally"]

MOST_TOKENS = 10**15
PIECE = 64 * 1024
"""How much is decompressed at a time, in bytes."""
CHUNK_COST = 8
"""For how many values a chunk of a body counts besides its own, as each takes time."""
_COUNTED_TOGETHER = 4096  # bytes
_SEPARATORS = (b",", b"[", b"{", b"\n", b"\r")


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Where an answer is given up; what no honest one comes near.

    Attributes:
        body: bytes of an answer that isn't streamed, compressed and decompressed.
        body_values: JSON values and lines in it; a value of two bytes can take a hundred in memory.
        stream: bytes of a stream; each token costs a few hundred.
        stream_values: JSON values and lines in a stream; each token costs up to twenty.
        event: bytes of one event: a generated film fits, an endless line doesn't.
        error: bytes of an error's body that are read.
        text: characters of text, thinking and arguments in one answer.
        calls: tool calls in one answer.
        name: characters of a call's id or name.
        seconds: how long an answer may be waited for after it began, all in all.
        error_seconds: how long an error's body is waited for.
    """

    body: int = 64 * 1024 * 1024
    body_values: int = 500_000
    stream: int = 256 * 1024 * 1024
    stream_values: int = 8_000_000
    event: int = 64 * 1024 * 1024
    error: int = 1024 * 1024
    text: int = 16 * 1024 * 1024
    calls: int = 1000
    name: int = 64 * 1024
    seconds: float = 6 * 3600.0
    error_seconds: float = 10.0


LIMITS = Limits()


class Inflater:
    """Decompresses gzip (RFC 1952) a little at a time, so that no chunk becomes gigabytes at once."""

    __slots__ = ("_inflate",)

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        """Takes the next bytes, and gives what they become in pieces of at most `PIECE` bytes.

        Raises:
            ProviderError: they are no gzip (kind ``network``).
        """
        piece = chunk
        while chunk or len(piece) == PIECE:
            try:
                piece = self._inflate.decompress(chunk, PIECE)
            except zlib.error as error:
                raise ProviderError(f"the compressed answer is broken ({error})", kind="network") from None
            chunk = self._inflate.unconsumed_tail
            if piece:
                yield piece


class Intake:
    """Measures a body while it comes, and gives it up where it is too much.

    Args:
        size: how many bytes are taken.
        values: how many JSON values are taken.
        seconds: how long the server is waited for, all in all.
    """

    __slots__ = ("_limits", "_seconds", "_size", "_uncounted", "_uncounted_size", "_values")

    def __init__(self, *, size: int, values: int, seconds: float) -> None:
        self._limits = (size, values, seconds)
        self._size = 0
        self._values = 0
        self._seconds = 0.0
        self._uncounted: list[bytes] = []
        self._uncounted_size = 0

    def waited(self, seconds: float) -> None:
        """Counts time that was spent waiting for the server.

        Raises:
            ProviderError: it is too long (kind ``timeout``).
        """
        self._seconds += seconds
        if self._seconds > self._limits[2]:
            raise ProviderError(f"the answer took longer than {self._limits[2]:g} seconds", kind="timeout")

    def received(self, size: int) -> None:
        """Counts bytes that came together.

        Raises:
            ProviderError: they are too many (kind ``unknown``, since as many would come again).
        """
        self._size += size
        if self._size > self._limits[0]:
            raise ProviderError(f"the answer is longer than {self._limits[0]} bytes", kind="unknown")
        self._count(CHUNK_COST)

    def framed(self, chunks: int) -> None:
        """Counts HTTP chunks that came together.

        Raises:
            ProviderError: they are too many (kind ``unknown``).
        """
        self._count(CHUNK_COST * chunks)

    def took(self, piece: bytes) -> None:
        """Counts a piece of a document: its bytes, its lines, and its JSON values with what looks like them in its texts.

        Small pieces are counted together, a little later.

        Raises:
            ProviderError: they are too many (kind ``unknown``).
        """
        self.received(len(piece))
        self._uncounted.append(piece)
        self._uncounted_size += len(piece)
        if self._uncounted_size >= _COUNTED_TOGETHER:
            together = b"".join(self._uncounted)
            self._uncounted.clear()
            self._uncounted_size = 0
            self._count(sum(map(together.count, _SEPARATORS)))

    def _count(self, values: int) -> None:
        self._values += values
        if self._values > self._limits[1]:
            raise ProviderError(f"the answer has more than {self._limits[1]} JSON values and lines", kind="unknown")


class Tally:
    """Counts what an answer says, and gives it up where that is too much.

    Args:
        limits: how much is too much.
    """

    __slots__ = ("_limits", "_text")

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._text = 0

    def take(self, item: ProviderItem) -> None:
        """Counts an item of the answer.

        Raises:
            ProviderError: it is too much (kind ``unknown``, since the same would come again).
        """
        match item:
            case TextDelta() | ThinkingDelta():
                self._text += len(item.text)
            case ToolCallDelta(index, id_, name, arguments):
                self._text += len(arguments)
                self._call(index, id_, name)
            case Completion(message=message, usage=usage):
                if usage.total_tokens > MOST_TOKENS:
                    raise ProviderError("the answer's usage makes no sense", kind="server_error")
                for index, call in enumerate(message.tool_uses):
                    self._call(index, call.id, call.name)
            case Retry() | RateLimitWait():
                pass
            case _:
                assert_never(item)
        if self._text > self._limits.text:
            raise ProviderError(f"the answer is longer than {self._limits.text} characters", kind="unknown")

    def _call(self, index: int, id_: str, name: str) -> None:
        if index >= self._limits.calls:
            raise ProviderError(f"the answer calls more than {self._limits.calls} tools", kind="unknown")
        if max(len(id_), len(name)) > self._limits.name:
            raise ProviderError(f"the answer calls a tool by more than {self._limits.name} characters", kind="unknown")
