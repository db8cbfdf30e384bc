"""What is known about models, by the names that people use for them."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from genai_prices import data_snapshot, types

from alloy import models
from alloy.providers import Local
from alloy.usage import Usage

USED = Usage(input_tokens=1000, output_tokens=100)


def find(provider, model):
    return models.DEFAULT_CATALOGUE.find(provider, model)


# --- Windows ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("provider", "model", "window"),
    [("openai", "gpt-5", 400_000), ("anthropic", "claude-sonnet-4-20250514", 200_000), ("nobody", "nothing", 200_000)],
)
def test_a_models_window_is_found_also_for_dated_names_and_guessed_for_unknown_ones(provider, model, window):
    assert models.context_window(provider, model) >= window


@pytest.mark.parametrize(
    ("provider", "snapshot", "family"),
    [
        ("openai", "gpt-4.1-mini-2025-04-14", "gpt-4.1-mini"),
        ("openai", "gpt-5-2031-03-05", "gpt-5"),
        ("openai", "gpt-5-20310305", "gpt-5"),
        ("anthropic", "claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("anthropic", "claude-opus-4-7-2031-03-05", "claude-opus-4-7"),
        ("gemini", "claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("gemini", "gemini-2.5-flash-001", "gemini-2.5-flash"),
        ("gemini", "models/gemini-2.5-pro", "gemini-2.5-pro"),
        ("gemini", "publishers/google/models/gemini-2.5-flash", "gemini-2.5-flash"),
        ("xai", "grok-4-latest", "grok-4"),
        ("xai", "grok-3-mini-latest", "grok-3-mini"),
        ("deepseek", "deepseek-reasoner-2031-03-05", "deepseek-reasoner"),
        ("mistral", "mistral-large-4-2612", "mistral-large-4"),
        ("moonshot", "kimi-k3-0305", "kimi-k3"),
        ("perplexity", "sonar-pro-20310305", "sonar-pro"),
        ("openrouter", "openai/gpt-5-2025-08-07", "openai/gpt-5"),
        ("openrouter", "anthropic/claude-4.5-sonnet-20250929", "anthropic/claude-sonnet-4.5"),
        ("azure", "gpt-4o-2024-11-20", "gpt-4o"),
        ("fireworks", "accounts/fireworks/models/gpt-oss-120b-20310305", "accounts/fireworks/models/gpt-oss-120b"),
        ("groq", "openai/gpt-oss-120b-2031-03-05", "openai/gpt-oss-120b"),
        ("openai", "GPT-5", "gpt-5"),
    ],
)
def test_snapshots_and_other_spellings_of_a_name_mean_the_same_window_and_price(provider, snapshot, family):
    found, meant = find(provider, snapshot), find(provider, family)

    assert found.context_window == meant.context_window is not None
    assert found.price(USED, None) == meant.price(USED, None) > 0


@pytest.mark.parametrize(
    ("provider", "model", "same"),
    [
        ("openai", "ft:gpt-4.1-mini-2025-04-14:acme::abc123", "gpt-4.1-mini"),
        ("openrouter", "openai/gpt-oss-120b:exacto", "openai/gpt-oss-120b"),
    ],
)
def test_a_tuned_or_specially_routed_model_has_the_window_of_its_own_kind_but_not_the_price(provider, model, same):
    assert find(provider, model).context_window == find(provider, same).context_window is not None
    assert find(provider, model).price is None
    assert find(provider, same).price is not None


@pytest.mark.parametrize(
    ("provider", "model"), [("gemini", "gemini-2.5-pro"), ("openrouter", "x-ai/grok-4"), ("zai", "glm-4.5-air")]
)
def test_a_window_that_one_list_lacks_is_taken_from_another_of_the_same_model(provider, model):
    assert find(provider, model).context_window is not None


@pytest.mark.parametrize("model", ["llama3.3:70b", "qwen3:8b", "gpt-oss:20b"])
def test_models_of_a_server_that_sets_the_window_itself_are_unknown(model):
    assert find("ollama", model) is None


def test_the_embedded_model_has_the_window_that_its_provider_gives_it():
    given = inspect.signature(Local).parameters["context_size"].default

    assert find("local", "smollm2-135m-instruct").context_window == given
    assert find("local", "a-file-of-mine").context_window == given


def test_an_unknown_window_is_none_and_taken_for_200_000():
    assert models.ModelInfo().context_window is None
    assert models.ModelInfo().window == models.DEFAULT_WINDOW == 200_000
    assert models.ModelInfo(context_window=5).window == 5


# --- Prices ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "model"),
    [("gemini", "gemini-2.5-pro"), ("xai", "grok-4"), ("deepseek", "deepseek-chat"), ("moonshot", "kimi-k3")],
)
def test_vendors_are_found_under_the_names_that_alloy_uses(ours, model):
    assert models.price(USED, ours, model) > 0


def test_cached_tokens_are_priced_once_and_as_cached():
    plain = models.price(Usage(input_tokens=100_000), "openai", "gpt-5")
    cached = models.price(Usage(cache_read_tokens=100_000), "openai", "gpt-5")
    both = models.price(Usage(input_tokens=100_000, cache_read_tokens=100_000), "openai", "gpt-5")

    assert Decimal(0) < cached < plain
    assert both == cached + plain


def test_reasoning_is_part_of_the_output_and_priced_once():
    silent = models.price(Usage(output_tokens=1000), "openai", "gpt-5")

    assert models.price(Usage(output_tokens=1000, reasoning_tokens=900), "openai", "gpt-5") == silent


def test_a_price_that_changed_is_that_of_its_day():
    before = models.price(USED, "openai", "o3", at=datetime(2025, 5, 1, tzinfo=UTC))
    after = models.price(USED, "openai", "o3", at=datetime(2025, 7, 1, tzinfo=UTC))

    assert before == 5 * after


def test_a_price_that_nobody_knows_is_none_not_zero():
    assert models.price(USED, "local", "smollm2-135m-instruct") is None
    assert models.price(USED, "openai", "gpt-of-my-dreams") is None


def test_a_model_that_is_listed_without_a_price_has_none(monkeypatch):
    listed = types.ModelInfo(id="m", match=types.ClauseEquals("m"), context_window=5, prices=types.ModelPrice())
    vendor = types.Provider(id="v", name="V", api_pattern="https://v", models=[listed])
    monkeypatch.setattr(
        data_snapshot, "get_snapshot", lambda: data_snapshot.DataSnapshot([vendor], from_auto_update=False)
    )

    assert find("v", "m") == models.ModelInfo(context_window=5)


def test_a_model_that_is_free_by_name_costs_nothing():
    assert models.price(USED, "openrouter", "meta-llama/llama-3.3-70b-instruct:free") == 0
