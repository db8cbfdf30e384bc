"""The arguments of a Gemini function call, whole or in pieces; pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from alloy.errors import ProviderError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Arguments"]

_STEP = re.compile(r"""\.([^.\[\]]+)|\[(\d+)\]|\['([^']*)'\]|\["([^"]*)"\]""")
_LONGEST = 10_000
"""How many items of a list a piece may skip."""


class Arguments:
    """A call's arguments while they arrive.

    Vertex AI can send them as ``partialArgs``: values with the JSON path (RFC 9535) of where they belong, texts in pieces.

    Attributes:
        value: the arguments so far.
        invalid: the arguments as they came, where they were no object.
    """

    def __init__(self) -> None:
        self.value: dict[str, Any] = {}
        self.invalid: str | None = None
        self._growing: set[str] = set()

    def take(self, call: Mapping[str, Any]) -> None:
        """Takes a ``functionCall``, or the next piece of one.

        Raises:
            ProviderError: a piece belongs nowhere.
        """
        match call.get("args"):
            case None:
                pass
            case dict() as value:
                self.value |= value
            case other:
                self.invalid = to_json(other).decode()
        for piece in call.get("partialArgs") or ():
            self._take(piece)

    def _take(self, piece: Mapping[str, Any]) -> None:
        path = str(piece.get("jsonPath") or "")
        value = next((piece[n] for n in ("stringValue", "numberValue", "boolValue") if n in piece), None)
        place, last = self._place(path)
        if path in self._growing and isinstance(value, str) and isinstance(place[last], str):
            value = place[last] + value
        place[last] = value
        if piece.get("willContinue"):
            self._growing.add(path)
        else:
            self._growing.discard(path)

    def _place(self, path: str) -> tuple[Any, Any]:
        """Where a path leads: what holds the value, made as needed, and its key there."""
        steps = list(_steps(path))
        if not steps or not isinstance(steps[0], str):
            raise _lost(path)
        place: Any = self.value
        for step, following in zip(steps, [*steps[1:], None], strict=True):
            if isinstance(step, str) != isinstance(place, dict):
                raise _lost(path)
            if isinstance(step, int):
                if step - len(place) > _LONGEST:
                    raise _lost(path)
                place.extend([None] * (step + 1 - len(place)))
            if following is None:
                return place, step
            inner = place.get(step) if isinstance(step, str) else place[step]
            if not isinstance(inner, dict | list):
                inner = {} if isinstance(following, str) else []
                place[step] = inner
            place = inner
        raise _lost(path)


def _steps(path: str) -> Iterator[str | int]:
    position = 1
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None or path[0] != "$":
            raise _lost(path)
        name, index, single, double = step.groups()
        yield int(index) if index is not None else next(n for n in (name, single, double) if n is not None)
        position = step.end()


def _lost(path: str) -> ProviderError:
    return ProviderError(f"the answer holds arguments for {path!r}, which is no place in them", kind="server_error")
