"""What is known about models."""

from __future__ import annotations

from decimal import Decimal

import pytest

from alloy import models
from alloy.usage import Usage


@pytest.mark.parametrize(
    ("provider", "model", "window"),
    [("openai", "gpt-5", 400_000), ("anthropic", "claude-sonnet-4-20250514", 200_000), ("nobody", "nothing", 200_000)],
)
def test_a_models_window_is_found_also_for_dated_names_and_guessed_for_unknown_ones(provider, model, window):
    assert models.context_window(provider, model) >= window


@pytest.mark.parametrize(
    ("ours", "model"), [("gemini", "gemini-2.5-pro"), ("xai", "grok-4"), ("deepseek", "deepseek-chat")]
)
def test_vendors_are_found_under_the_names_that_alloy_uses(ours, model):
    assert models.price(Usage(input_tokens=1000), ours, model) > 0


def test_cached_tokens_are_priced_once_and_as_cached():
    plain = models.price(Usage(input_tokens=1_000_000), "openai", "gpt-5")
    cached = models.price(Usage(cache_read_tokens=1_000_000), "openai", "gpt-5")
    both = models.price(Usage(input_tokens=1_000_000, cache_read_tokens=1_000_000), "openai", "gpt-5")

    assert Decimal(0) < cached < plain
    assert both == cached + plain


def test_a_price_that_nobody_knows_is_none_not_zero():
    assert models.price(Usage(input_tokens=1000), "local", "smollm2-135m-instruct") is None
    assert models.price(Usage(input_tokens=1000), "openai", "gpt-of-my-dreams") is None
