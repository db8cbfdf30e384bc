"""The numbers of an agent's envelopes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Numbers"]


class Numbers:
    """The numbers of an agent's envelopes; all its requests take theirs from here.

    Args:
        last: a number that was given already.

    Attributes:
        last: the newest number.
    """

    __slots__ = ("last",)

    def __init__(self, last: int) -> None:
        self.last = last

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        self.last += 1
        return self.last

    def pass_over(self, number: int) -> None:
        """Goes on behind a number that was given already."""
        self.last = max(self.last, number)
