"""What is known about models: how much they can read, and what they cost."""

from __future__ import annotations

from alloy.models.catalogue import DEFAULT_CATALOGUE, context_window, cost_of, price
from alloy.models.genai import GenaiPrices
from alloy.models.info import DEFAULT_WINDOW, SNAPSHOTS, Catalogue, ModelInfo, ModelMetadata, Price
from alloy.models.overrides import Overrides
from alloy.models.tokens import TokenCounter

__all__ = [
    "DEFAULT_CATALOGUE",
    "DEFAULT_WINDOW",
    "SNAPSHOTS",
    "Catalogue",
    "GenaiPrices",
    "ModelInfo",
    "ModelMetadata",
    "Overrides",
    "Price",
    "TokenCounter",
    "context_window",
    "cost_of",
    "price",
]
