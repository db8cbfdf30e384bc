"""What an application knows better than the catalogue."""

from __future__ import annotations

from decimal import Decimal

import pytest

import alloy
from alloy.errors import InvalidOptionError
from alloy.models import ModelInfo, ModelMetadata, Overrides
from alloy.usage import Usage


class Knows:
    """A catalogue that knows one thing about every model, or nothing."""

    def __init__(self, info=None):
        self.info = info

    def find(self, provider, model):
        return self.info


def window(overrides, model, provider="openai"):
    found = Overrides(overrides, Knows()).find(provider, model)
    return found and found.context_window


@pytest.mark.parametrize(
    "model",
    [
        "gpt-9",
        "GPT-9",
        "gpt-9-2026-03-05",
        "gpt-9-20260305",
        "gpt-9@20260305",
        "gpt-9-0305",
        "gpt-9-latest",
        "gpt-9:latest",
    ],
)
def test_a_number_is_the_window_of_a_family_and_its_dated_snapshots(model):
    assert window({"gpt-9": 32_000}, model) == 32_000


@pytest.mark.parametrize("model", ["gpt-9-mini", "gpt-90", "gpt-9-2026-13-05", "my-gpt-9", "gpt-9-9999", "gpt"])
def test_another_model_of_a_similar_name_is_not_meant(model):
    assert window({"gpt-9": 32_000}, model) is None


def test_patterns_say_what_may_follow_the_name_and_nothing_else_may():
    overrides = {"gpt-9": ModelMetadata(context_window=5, patterns=(r"-v\d+$", "-turbo"))}

    assert [window(overrides, model) for model in ("gpt-9", "gpt-9-v12", "gpt-9-turbo")] == [5, 5, 5]
    assert [window(overrides, model) for model in ("gpt-9-v", "gpt-9-turbo-v1", "gpt-9-2026-03-05")] == [None] * 3


def test_no_patterns_mean_that_one_name():
    overrides = {"gpt-9": {"context_window": 5, "patterns": []}}

    assert window(overrides, "gpt-9") == 5
    assert window(overrides, "gpt-9-2026-03-05") is None


@pytest.mark.parametrize("reverse", [False, True])
def test_the_longest_name_wins_and_then_the_one_with_the_vendor(reverse):
    anything = (".*",)
    overrides = {
        "gpt": ModelMetadata(context_window=1, patterns=anything),
        "openai:gpt-9": ModelMetadata(context_window=2, patterns=anything),
        "gpt-9-mini": ModelMetadata(context_window=3, patterns=anything),
        "openai:gpt-9-mini-0305": 4,
        "gpt-9-mini-0305": 5,
    }
    if reverse:
        overrides = dict(reversed(overrides.items()))

    assert window(overrides, "gpt-8") == 1
    assert window(overrides, "gpt-9") == 2
    assert window(overrides, "gpt-9-mini") == 3
    assert window(overrides, "gpt-9-mini-0305") == 4
    assert window(overrides, "gpt-9-mini-0305", "azure") == 5


@pytest.mark.parametrize(
    ("key", "provider"),
    [("gemini:m", "gemini"), ("google:m", "gemini"), ("openai-chat:m", "openai"), ("ollama:m", "ollama")],
)
def test_a_vendor_may_be_named_as_in_a_provider_string(key, provider):
    assert window({key: 7}, "m", provider) == 7
    assert window({key: 7}, "m", "another") is None


def test_a_tag_is_part_of_the_name():
    assert window({"llama3.3:70b": 8192}, "llama3.3:70b", "ollama") == 8192
    assert window({"ollama:llama3.3:70b": 8192}, "llama3.3:70b", "ollama") == 8192
    assert window({"ollama:": {"context_window": 4096, "patterns": [".+"]}}, "anything", "ollama") == 4096


def test_what_is_said_goes_before_the_catalogue_and_the_rest_stays():
    def price(usage, at):
        return Decimal(usage.output_tokens)

    listed = ModelInfo(context_window=1000, max_output=100, price=price)
    known = Overrides({"m": 2000, "n": {"max_output": 50}, "o": {"price": lambda usage, at: Decimal(7)}}, Knows(listed))

    assert known.find("v", "m") == ModelInfo(context_window=2000, max_output=100, price=price)
    assert known.find("v", "n") == ModelInfo(context_window=1000, max_output=50, price=price)
    assert known.find("v", "o").price(Usage(), None) == 7
    assert known.find("v", "p") is listed


@pytest.mark.parametrize(
    ("given", "where", "expected"),
    [
        (["gpt-9"], "model_metadata_overrides", "a mapping"),
        ({3: 5}, "model_metadata_overrides", "'vendor:model'"),
        ({" ": 5}, "model_metadata_overrides", "'vendor:model'"),
        ({"m": "32k"}, "model_metadata_overrides['m']", "a number of tokens"),
        ({"m": True}, "model_metadata_overrides['m']", "a number of tokens"),
        ({"m": 0}, "model_metadata_overrides['m']", "a number of tokens"),
        ({"m": 1.5}, "model_metadata_overrides['m']", "a number of tokens"),
        ({"m": None}, "model_metadata_overrides['m']", "a number of tokens"),
        ({"m": {}}, "model_metadata_overrides['m']", "'context_window', 'max_output'"),
        ({"m": {"limit": 5}}, "model_metadata_overrides['m']", "'context_window', 'max_output'"),
        ({"m": {"context_window": "5"}}, "model_metadata_overrides['m'].context_window", "a number of tokens"),
        ({"m": {"max_output": -1}}, "model_metadata_overrides['m'].max_output", "a number of tokens"),
        ({"m": {"price": 3}}, "model_metadata_overrides['m'].price", "a function"),
        ({"m": {"patterns": "-v1"}}, "model_metadata_overrides['m'].patterns", "a list of regular expressions"),
        ({"m": {"patterns": ["("]}}, "model_metadata_overrides['m'].patterns", "a list of regular expressions"),
        ({"m": {"patterns": [3]}}, "model_metadata_overrides['m'].patterns", "a list of regular expressions"),
    ],
)
def test_a_wrong_override_is_an_error_that_names_it_and_says_what_would_do(given, where, expected):
    with pytest.raises(InvalidOptionError) as raised:
        alloy.Config(model_metadata_overrides=given)

    assert raised.value.option == where
    assert expected in raised.value.expected


@pytest.mark.parametrize("given", ["genai", {}, Knows, object()])
def test_a_catalogue_that_finds_nothing_is_an_error(given):
    with pytest.raises(InvalidOptionError, match=r"'model_catalogue' takes an object with find\(provider, model\)"):
        alloy.Config(model_catalogue=given)


def test_overrides_stay_as_they_are_when_a_config_is_made_of_another():
    made = alloy.Config(model_metadata_overrides={"gpt-9": 5, "gpt-8": {"max_output": 3}}, model_catalogue=Knows())

    assert made.with_options(max_turns=25) == made
    assert made.model_metadata_overrides["gpt-9"] == ModelMetadata(context_window=5)
