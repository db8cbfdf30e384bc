"""Every example is a program that runs anywhere, without a warning."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def run_example(example: Path, folder: Path, **environment: str) -> str:
    """What an example prints."""
    inherited = {name: value for name, value in os.environ.items() if name != "ALLOY_PROVIDER"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example)],
        cwd=folder,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_runs_without_a_model_and_without_a_warning(example, tmp_path):
    assert run_example(example, tmp_path).strip()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.stem)
def test_an_example_says_whose_answers_it_shows(example):
    assert "ALLOY_PROVIDER" in (ast.get_docstring(ast.parse(example.read_text())) or "")


@pytest.mark.embedded
def test_an_example_runs_with_the_embedded_model(tmp_path):
    one_shot = next(example for example in EXAMPLES if example.stem == "one_shot")

    assert "[completed: " in run_example(one_shot, tmp_path, ALLOY_PROVIDER="local")
