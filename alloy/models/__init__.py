"""What is known about models: how much they can read, and what they cost."""

from __future__ import annotations

from alloy.models.catalogue import DEFAULT_WINDOW, context_window, price

__all__ = ["DEFAULT_WINDOW", "context_window", "price"]
