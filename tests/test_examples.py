"""Every example is a program that runs anywhere, without a warning."""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))


def run_example(example: Path, folder: Path, *arguments: str, error: str = "", **environment: str) -> str:
    """What an example prints; it fails with `error`, if that's expected."""
    inherited = {name: value for name, value in os.environ.items() if name != "ALLOY_PROVIDER"}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(example), *arguments],
        cwd=folder,
        stdin=subprocess.DEVNULL,
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stderr.strip()) == (int(bool(error)), error)
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


# --- The coding agent ------------------------------------------------------------------------------------------------

CODING_AGENT = next(example for example in EXAMPLES if example.stem == "coding_agent")
SMALL_REPO = CODING_AGENT.parent / "small_repo"


def passes(repository: Path) -> bool:
    """Whether the tests of a repository pass."""
    command = [sys.executable, "-B", "-m", "unittest"]
    return subprocess.run(command, cwd=repository, capture_output=True, timeout=50, check=False).returncode == 0


def test_the_coding_agent_makes_the_tests_pass_and_leaves_nothing_else(tmp_path):
    repository = shutil.copytree(SMALL_REPO, tmp_path / "repository")
    assert not passes(repository)

    printed = run_example(CODING_AGENT, tmp_path, "--repo", str(repository))

    assert passes(repository)
    changed = [file.name for file in repository.iterdir() if file.read_bytes() != (SMALL_REPO / file.name).read_bytes()]
    assert changed == ["durations.py"]
    assert "[completed after 7 turns and 9 tool calls]" in printed


def test_the_coding_agent_does_not_believe_its_model_that_the_work_is_done(tmp_path):
    never = "python -m unittest discover nowhere"
    error = "the run failed: scripted:script: the script has 7 replies, and this is request 8 [invalid_request]"

    assert "completed" not in run_example(CODING_AGENT, tmp_path, "--tests", never, error=error)


def test_the_page_about_the_coding_agent_shows_what_it_prints(tmp_path):
    page = (CODING_AGENT.parent.parent / "docs" / "coding-agent.md").read_text(encoding="utf-8")

    assert run_example(CODING_AGENT, tmp_path).strip() in page
