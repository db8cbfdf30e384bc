"""What is known about one model, and who may be asked for it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from decimal import Decimal
from typing import Any, Protocol, TypeAlias, runtime_checkable

from alloy.errors import InvalidOptionError
from alloy.usage import Usage

__all__ = ["DEFAULT_WINDOW", "SNAPSHOTS", "Catalogue", "ModelInfo", "ModelMetadata", "Price"]

DEFAULT_WINDOW = 200_000
"""What an unknown model is taken to read, in tokens."""

SNAPSHOTS = (
    r"[-@]20\d{2}-?(0[1-9]|1[0-2])-?([0-2]\d|3[01])",  # -2026-03-05, -20260305, @20260305
    r"-(0[1-9]|1[0-2])([0-2]\d|3[01])",  # -0709, month and day
    r"-2\d(0[1-9]|1[0-2])",  # -2512, year and month
    r"-00\d",  # -001
    r"[-@:]latest",
)
"""What is put behind the name of a family to name one snapshot of it, as regular expressions."""

Price: TypeAlias = Callable[[Usage, datetime | None], Decimal | None]
"""What one request costs in US dollars: from what it used and when it was made (None for now); None where nobody knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelInfo:
    """What is known about a model; None for what isn't.

    Attributes:
        context_window: how much it reads and writes in one request, in tokens.
        max_output: the longest answer, in tokens.
        price: what a request costs.

    Raises:
        InvalidOptionError: a number isn't a whole one of at least 1, or the price can't be called.
    """

    context_window: int | None = None
    max_output: int | None = None
    price: Price | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("context_window", "max_output"):
            value = getattr(self, name)
            if value is not None and not _is_count(value):
                raise InvalidOptionError(name, "a number of tokens of at least 1, or None", value)
        if self.price is not None and not callable(self.price):
            raise InvalidOptionError("price", "a function of what was used and when", self.price)

    @property
    def window(self) -> int:
        """`context_window`; `DEFAULT_WINDOW` where nobody knows it."""
        return self.context_window or DEFAULT_WINDOW


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelMetadata(ModelInfo):
    """What you know about a model, or a family of models; what is None stays as the catalogue has it.

    Attributes:
        context_window: how much it reads and writes in one request, in tokens.
        max_output: the longest answer, in tokens.
        price: what a request costs.
        patterns: what may follow the family's name in the name of a model that belongs to it: regular expressions, each for
            all of the rest. By default those of dated snapshots; empty for that one name alone.

    Raises:
        InvalidOptionError: a value is wrong.
    """

    patterns: Sequence[str] = SNAPSHOTS

    def __post_init__(self) -> None:
        ModelInfo.__post_init__(self)
        expected = "a list of regular expressions, such as r'-\\d{4}'"
        patterns: Any = self.patterns
        if isinstance(patterns, str) or not isinstance(patterns, Sequence):
            raise InvalidOptionError("patterns", expected, patterns)
        for pattern in patterns:
            if not isinstance(pattern, str) or not _compiles(pattern):
                raise InvalidOptionError("patterns", expected, pattern)
        object.__setattr__(self, "patterns", tuple(patterns))

    @classmethod
    def of(cls, value: Any) -> ModelMetadata:
        """The metadata that a number of tokens or a mapping of the attributes stands for.

        Raises:
            InvalidOptionError: it stands for none.
        """
        if isinstance(value, ModelMetadata):
            return value
        names = [one.name for one in fields(cls)]
        if isinstance(value, Mapping) and value and set(value) <= set(names):
            return cls(**value)
        if _is_count(value):
            return cls(context_window=value)
        expected = f"a number of tokens of at least 1, a ModelMetadata, or a mapping with some of {', '.join(map(repr, names))}"
        raise InvalidOptionError("metadata", expected, value)


@runtime_checkable
class Catalogue(Protocol):
    """Anything that knows models."""

    def find(self, provider: str, model: str) -> ModelInfo | None:
        """What is known about a model; called in a thread during a run, so it may block.

        Args:
            provider: who serves it, such as ``openai``.
            model: its name there.

        Returns:
            What is known; None for an unknown model.
        """
        ...


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True
