"""What becomes of runs that no command line can ask for."""

from __future__ import annotations

import sys

import anyio
import pytest

from alloy import Config, Halt, Middleware
from alloy.cli.rendering import Transcript
from alloy.cli.running import ask
from alloy.errors import MissingExtraError
from alloy.testing import Scripted

pytestmark = pytest.mark.anyio


class OverBudget(Middleware):
    async def before_completion(self, request, context):
        raise Halt("over budget")


async def test_a_halted_run_is_code_4(capfdbinary):
    config = Config(provider=Scripted(["never asked"]), middleware=[OverBudget()])

    with anyio.fail_after(20):
        assert await ask("hi", config, Transcript(sys.stdout, sys.stderr), interactive=False) == 4

    assert capfdbinary.readouterr() == (b"", b"alloy: halted: over budget\n")


async def test_what_is_missing_while_the_run_starts_is_a_matter_of_configuration(capfdbinary):
    missing = MissingExtraError("local", "pip install it", why="running a model here needs it")

    with anyio.fail_after(20):
        assert (
            await ask("hi", Config(provider=Scripted([missing])), Transcript(sys.stdout, sys.stderr), interactive=False)
            == 2
        )

    assert capfdbinary.readouterr().err.endswith(b"pip install it; or choose another model with --provider\n")


async def test_an_error_that_nobody_expected_is_named(capfdbinary):
    with anyio.fail_after(20):
        assert (
            await ask(
                "hi", Config(provider=Scripted([KeyError("x")])), Transcript(sys.stdout, sys.stderr), interactive=False
            )
            == 1
        )

    assert capfdbinary.readouterr().err == b"alloy: KeyError: 'x'\n"
