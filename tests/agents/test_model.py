"""Agents do what a simple reference says, whatever is done to them, and in whatever order."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, given, settings

from tests.agents.model import play
from tests.agents.model_script import plays, supervised_plays

EXAMPLES = int(os.environ.get("ALLOY_MODEL_EXAMPLES", "0"))


@settings(
    max_examples=EXAMPLES or 300,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(plays)
def test_agents_do_what_the_reference_says(one):
    play(*one)


@settings(
    max_examples=EXAMPLES or 150,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(supervised_plays)
def test_supervised_agents_do_what_the_reference_says(one):
    play(*one)
