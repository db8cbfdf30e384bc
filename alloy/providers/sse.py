"""Server-sent events out of bytes, as WHATWG's HTML standard has it (section 9.2, "Server-sent events"); no I/O."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

from pydantic_core import from_json

from alloy.errors import ProviderError
from alloy.providers.limits import LIMITS

__all__ = ["EventParser", "ServerEvent"]

MAX_UNKNOWN = 1000
"""How many lines of an event may be no SSE fields; a page of text that calls itself a stream has more."""

_BOM = b"\xef\xbb\xbf"


class ServerEvent(NamedTuple):
    """One event.

    Attributes:
        data: its data lines, joined by newlines.
        event: its type.
        unknown: its lines that are no SSE fields, as they came; some servers put ``error: ...`` or bare JSON there.
    """

    data: str
    event: str = "message"
    unknown: tuple[str, ...] = ()

    def json(self) -> Any:
        """The data as JSON.

        Raises:
            ProviderError: it is none, as where the connection was cut.
        """
        try:
            return from_json(self.data)
        except ValueError:
            shown = self.data if len(self.data) <= 80 else self.data[:77] + "..."
            raise ProviderError(f"an event of the stream is no JSON: {shown!r}", kind="network") from None


_new_event = functools.partial(tuple.__new__, ServerEvent)  # half the time of ServerEvent(...)


class EventParser:
    """Turns chunks of bytes, split anywhere, into events.

    Unlike the standard it gives the last event even if the stream ends without a blank line after it, and events that
    consist of unknown lines only. Invalid UTF-8 becomes U+FFFD.

    Args:
        max_event: how long an event, or a line, may get, in bytes.

    Attributes:
        last_event_id: the latest ``id`` that the server sent.
        retry: how long the server asks to wait before connecting again, in milliseconds.
    """

    __slots__ = (
        "_begun",
        "_data",
        "_data_lines",
        "_event",
        "_kept",
        "_max",
        "_partial",
        "_size",
        "_skip_lf",
        "_unknown",
        "last_event_id",
        "retry",
    )

    def __init__(self, *, max_event: int = LIMITS.event) -> None:
        self.last_event_id = ""
        self.retry: int | None = None
        self._max = max_event
        self._begun = False
        self._skip_lf = False
        self._partial = bytearray()  # a list of small pieces would take many times their bytes
        self._size = 0
        self._kept = 0
        self._data = bytearray()
        self._data_lines = 0
        self._event = b""
        self._unknown: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Takes the next bytes.

        Returns:
            The events that they complete.

        Raises:
            ProviderError: an event is too long, or the lines are none of a stream.
        """
        events: list[ServerEvent] = []
        if self._size or self._skip_lf or not self._begun:
            end = chunk.find(b"\n\n") + 2
            if end < 2:
                self._lines(chunk, events)
                return events
            self._lines(chunk[:end], events)
            chunk = chunk[end:]
        if len(chunk) > self._max or b"\r" in chunk:
            self._lines(chunk, events)
        else:
            whole, blank, rest = chunk.rpartition(b"\n\n")
            if blank:
                self._whole(whole, events)
            if rest:
                self._lines(rest, events)
        return events

    def _whole(self, chunk: bytes, events: list[ServerEvent]) -> None:
        """Takes whole events without the blank line after the last: the way of nearly all, several times as fast as lines."""
        try:
            blocks = chunk.decode().split("\n\n")
        except UnicodeDecodeError:
            self._lines(chunk + b"\n\n", events)
            return
        for block in filter(None, blocks):
            name, newline, line = block.partition("\n")
            if not newline and name.startswith("data: "):
                events.append(_new_event((name[6:], "message", ())))
            elif name.startswith("event: ") and line.startswith("data: ") and "\n" not in line:
                events.append(_new_event((line[6:], name[7:] or "message", ())))
            elif newline or not name.startswith(":"):
                self._lines(block.encode() + b"\n\n", events)

    def _lines(self, chunk: bytes, events: list[ServerEvent]) -> None:
        """Takes bytes of any kind, line by line."""
        if self._skip_lf and chunk:
            self._skip_lf = False
            chunk = chunk.removeprefix(b"\n")
        for line in chunk.splitlines(keepends=True):
            self._size += len(line)
            if self._size > self._max:
                raise ProviderError(f"an event of the stream is longer than {self._max} bytes", kind="unknown")
            if line[-1] not in b"\r\n":
                self._partial += line
                continue
            if self._partial:
                line = bytes(self._partial + line)  # noqa: PLW2901  the line is whole only now
                self._partial.clear()
            self._line(line.rstrip(b"\r\n"), events)
        self._skip_lf = chunk.endswith(b"\r") if chunk else self._skip_lf

    def end(self) -> list[ServerEvent]:
        """Takes the end of the stream, and gives what was still open."""
        events: list[ServerEvent] = []
        if self._partial:
            self._line(bytes(self._partial), events)
            self._partial.clear()
        self._dispatch(events)
        return events

    def _line(self, line: bytes, events: list[ServerEvent]) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        if line.startswith(b"data:"):  # nearly every line
            self._add(line[6:] if line[5:6] == b" " else line[5:])
        elif not line:
            self._dispatch(events)
        elif line.startswith(b":"):
            self._size = self._kept  # a comment isn't kept
        else:
            self._field(line)
        self._kept = self._size

    def _add(self, data: bytes) -> None:
        if self._data_lines:
            self._data += b"\n"
        self._data += data
        self._data_lines += 1

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"event":
                self._event = value
            case b"data":
                self._add(value)
            case b"id":
                if b"\0" not in value:
                    self.last_event_id = value.decode(errors="replace")
            case b"retry":
                if value.isdigit():
                    self.retry = int(value[:9])
            case _ if len(self._unknown) < MAX_UNKNOWN:
                self._unknown.append(line.decode(errors="replace"))
            case _:
                raise ProviderError("what the server sends is no stream of events", kind="unknown")

    def _dispatch(self, events: list[ServerEvent]) -> None:
        if self._data_lines or self._unknown:
            data = self._data.decode(errors="replace")
            name = self._event.decode(errors="replace") if self._event else "message"
            events.append(ServerEvent(data, name, tuple(self._unknown)))
            self._data.clear()
            self._data_lines = 0
            self._unknown.clear()
        self._event = b""
        self._size = 0
