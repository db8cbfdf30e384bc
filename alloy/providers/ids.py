"""Ids of tool calls, for hosts that send none, or the same ones in every answer."""

from __future__ import annotations

from uuid import uuid4

__all__ = ["unique_id"]


def unique_id(wanted: str, taken: set[str]) -> str:
    """An id that nobody has yet: `wanted` if it is free, else with a number behind it.

    Args:
        wanted: the host's id; may be empty.
        taken: all ids of the history; the new one is added.
    """
    base = wanted or f"call_{len(taken) + 1}"
    own, number = base, 1
    while own in taken:
        number += 1
        own = f"{base}_{number if number < 100 else uuid4().hex}"  # who calls all by one id can't keep us busy
    taken.add(own)
    return own
