"""Checks of numbers that are given to agents and supervisors."""

from __future__ import annotations

from typing import Any

from alloy.errors import InvalidOptionError

__all__ = ["seconds", "whole"]


def whole(name: str, value: Any, *, least: int = 1) -> int:
    """A whole number.

    Raises:
        InvalidOptionError: it is none, or less than `least`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InvalidOptionError(name, f"a whole number of at least {least}", value)
    return value


def seconds(name: str, value: Any, *, positive: bool = False) -> float:
    """A time in seconds, without an end as may be.

    Raises:
        InvalidOptionError: it is none, or less than 0, or 0 where it must be positive.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not (value > 0 or (value == 0 and not positive)):
        raise InvalidOptionError(name, "seconds, more than 0" if positive else "seconds, 0 or more", value)
    return float(value)
