"""A result while it is being written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alloy.errors import InvalidOptionError
from alloy.loop.goal import final_tool_name
from alloy.loop.output import UnfitError, output_type

if TYPE_CHECKING:
    from alloy.events import Envelope
    from alloy.loop.config import Config

__all__ = ["PartialOutput"]

OFTEN = 1024
"""Up to which length each piece is looked at, in characters; a longer text has to grow by a sixteenth before it is read again."""


class PartialOutput:
    """The result of a run, read off its envelopes.

    Args:
        config: the run's options.

    Attributes:
        value: the latest one.

    Raises:
        InvalidOptionError: the run has no `output_type`.
    """

    def __init__(self, config: Config) -> None:
        if config.output_type is None:
            raise InvalidOptionError("output_type", "the type of the values that partial_outputs() gives", None)
        self.value: Any = None
        self._kind = None if config.output_type is str else output_type(config.output_type)
        self._tool = final_tool_name(config.tools)
        self._any = False
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._call: int | None = None
        self._text = ""
        self._pieces: list[str] = []
        self._new = 0

    def changed_by(self, envelope: Envelope) -> bool:
        """Takes the next envelope; whether there is another value now."""
        match envelope.event:
            case "turn_start":
                self._begin_anew()
            case "text_delta" if self._call is None:
                return self._grow(envelope.payload["text"])
            case "tool_call_delta" if self._kind is not None:
                call = envelope.payload
                if call["name"] == self._tool and self._call is None:
                    self._begin_anew()
                    self._call = call["index"]
                if call["index"] == self._call:
                    return self._grow(call["arguments"])
            case _:
                pass
        return False

    def changed_to(self, value: Any) -> bool:
        """Takes a value; whether it is another one."""
        if self._any and type(value) is type(self.value) and value == self.value:
            return False
        self._any, self.value = True, value
        return True

    def _grow(self, piece: str) -> bool:
        self._pieces.append(piece)
        self._new += len(piece)
        if not self._new or (len(self._text) > OFTEN and self._new < len(self._text) // 16):
            return False
        self._text += "".join(self._pieces)
        self._pieces.clear()
        self._new = 0
        if self._kind is None:
            return self.changed_to(self._text)
        begin = self._text.find("{")
        if begin < 0:
            return False
        try:
            return self.changed_to(self._kind.partial(self._text[begin:]))
        except UnfitError:
            return False
