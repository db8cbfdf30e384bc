"""Frozen dataclasses whose objects are made in half the time; each turn makes a dozen of them."""

from __future__ import annotations

import functools
from dataclasses import MISSING, Field, fields
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["quick"]

T = TypeVar("T")


def quick(cls: type[T]) -> type[T]:
    """Gives a dataclass with ``frozen=True, slots=True`` an `__init__` that fills each slot by the slot's own setter.

    The one that it has looks `object.__setattr__` up, and then the slot, for each field. It takes the same arguments.
    """
    given: dict[str, Any] = {}
    parameters, lines = [], []
    for one in sorted(fields(cls), key=lambda one: one.kw_only):  # type: ignore[arg-type,return-value]  # a dataclass
        if one.kw_only and "*" not in parameters:
            parameters.append("*")
        parameters.append(_parameter(one, given))
        value = one.name
        if one.default_factory is not MISSING:
            value = f"_make_{one.name}() if {one.name} is _missing else {one.name}"
        given[f"_set_{one.name}"] = getattr(cls, one.name).__set__
        lines.append(f"    _set_{one.name}(self, {value})")
    if hasattr(cls, "__post_init__"):
        lines.append("    self.__post_init__()")
    source = "\n".join([f"def __init__(self, {', '.join(parameters)}):", *lines])
    exec(source, given)  # noqa: S102  as dataclasses do, from the names of fields
    init: Callable[..., None] = given["__init__"]
    cls.__init__ = functools.wraps(cls.__init__)(init)  # type: ignore[method-assign]  # so that its signature shows the same
    return cls


def _parameter(one: Field[Any], given: dict[str, Any]) -> str:
    if one.default_factory is not MISSING:
        given[f"_make_{one.name}"], given["_missing"] = one.default_factory, MISSING
        return f"{one.name}=_missing"
    if one.default is not MISSING:
        given[f"_default_{one.name}"] = one.default
        return f"{one.name}=_default_{one.name}"
    return one.name
