"""Server-sent events out of bytes, as WHATWG's HTML standard has it (section 9.2, "Server-sent events"); no I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from alloy.errors import ProviderError

__all__ = ["EventParser", "ServerEvent"]

MAX_EVENT = 64 * 1024 * 1024
"""How long an event may get, in bytes: a generated film fits, an endless line doesn't."""

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ServerEvent:
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
        "_event",
        "_max",
        "_partial",
        "_size",
        "_skip_lf",
        "_unknown",
        "last_event_id",
        "retry",
    )

    def __init__(self, *, max_event: int = MAX_EVENT) -> None:
        self.last_event_id = ""
        self.retry: int | None = None
        self._max = max_event
        self._begun = False
        self._skip_lf = False
        self._partial: list[bytes] = []
        self._size = 0
        self._data: list[bytes] = []
        self._event = b""
        self._unknown: list[str] = []

    def feed(self, chunk: bytes) -> list[ServerEvent]:
        """Takes the next bytes.

        Returns:
            The events that they complete.

        Raises:
            ProviderError: an event is too long.
        """
        if self._skip_lf and chunk:
            self._skip_lf = False
            chunk = chunk.removeprefix(b"\n")
        events: list[ServerEvent] = []
        for line in chunk.splitlines(keepends=True):
            self._size += len(line)
            if self._size > self._max:
                raise ProviderError(f"an event of the stream is longer than {self._max} bytes", kind="unknown")
            if line[-1] not in b"\r\n":
                self._partial.append(line)
                continue
            if self._partial:
                line = b"".join((*self._partial, line))  # noqa: PLW2901  the line is whole only now
                self._partial.clear()
            self._line(line.rstrip(b"\r\n"), events)
        self._skip_lf = chunk.endswith(b"\r") if chunk else self._skip_lf
        return events

    def end(self) -> list[ServerEvent]:
        """Takes the end of the stream, and gives what was still open."""
        events: list[ServerEvent] = []
        if self._partial:
            self._line(b"".join(self._partial), events)
            self._partial.clear()
        self._dispatch(events)
        return events

    def _line(self, line: bytes, events: list[ServerEvent]) -> None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        if line.startswith(b"data:"):  # nearly every line
            self._data.append(line[6:] if line[5:6] == b" " else line[5:])
        elif not line:
            self._dispatch(events)
        elif line.startswith(b":"):
            self._size = sum(map(len, self._data))  # a comment isn't kept
        else:
            self._field(line)

    def _field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        match name:
            case b"event":
                self._event = value
            case b"data":
                self._data.append(value)
            case b"id":
                if b"\0" not in value:
                    self.last_event_id = value.decode(errors="replace")
            case b"retry":
                if value.isdigit():
                    self.retry = int(value[:9])
            case _:
                self._unknown.append(line.decode(errors="replace"))

    def _dispatch(self, events: list[ServerEvent]) -> None:
        if self._data or self._unknown:
            data = b"\n".join(self._data).decode(errors="replace")
            name = self._event.decode(errors="replace") if self._event else "message"
            events.append(ServerEvent(data, name, tuple(self._unknown)))
            self._data.clear()
            self._unknown.clear()
        self._event = b""
        self._size = 0
