"""How far estimates are from what vendors report; ``pytest -s`` prints the figures.

The recorded requests are short, so fixed costs, such as what a vendor tells its model about tools, weigh more than texts. Those
of the bigger families were fitted to the same recordings; how texts are counted wasn't.
"""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from alloy.models import TokenCounter
from alloy.models.tables import O200K, counting_by
from alloy.models.text import estimated_tokens
from tests.models.recorded import by_wire, recordings

pytestmark = pytest.mark.anyio

LEAST = 200  # tokens; below, a few make a great difference
BOUNDS = {  # median and p90 of the error, without correction; what was measured, and half as much again
    "anthropic": (0.04, 0.35),
    "chat_completions": (0.32, 0.90),
    "gemini": (0.45, 0.65),
    "openai_responses": (0.20, 1.0),
}
SAMPLES = json.loads((Path(__file__).parent / "token_samples.json").read_text())


async def errors(recorded, *, tables=False, learning=False, history=False):
    """How far each estimate is off, as a share of what was reported."""
    counters, found = {}, []
    for one in recorded:
        counter = counters.setdefault(one.model, TokenCounter(one.model)) if learning else TokenCounter(one.model)
        if tables:
            await counter.load()
        overhead = counter.overhead(one.system, one.tools)
        estimated = overhead + await counter.messages(one.messages)
        if history:
            estimated = counter.history(one.messages, overhead)
        reported = one.usage.prompt_tokens
        if reported >= LEAST:
            found.append(abs(estimated - reported) / reported)
        if learning:
            counter.learn(estimated, reported)
    return found


def tell(line):
    print(line)  # noqa: T201  the figures


def shown(found):
    p90 = sorted(found)[min(len(found) - 1, int(0.9 * len(found)))]
    return statistics.median(found), p90


async def test_estimates_come_near_what_vendors_report():
    tell(f"\n{'':18}{'requests':>9}{'median':>9}{'p90':>9}")
    for wire, recorded in by_wire(recordings()):
        plain = await errors(recorded)
        ways = {"": plain, "corrected": await errors(recorded, learning=True)}
        if counting_by(O200K):
            ways["by tables"] = await errors(recorded, tables=True)
        for name, found in ways.items():
            median, p90 = shown(found)
            tell(f"{name or wire:18}{len(found):>9}{median:>9.0%}{p90:>9.0%}")
        assert len(plain) >= 2
        for measured, bound in zip(shown(plain), BOUNDS[wire], strict=True):
            assert measured <= bound, wire


async def test_what_follows_a_reported_answer_is_all_that_is_uncertain():
    continued = [one for one in recordings() if any(message.usage for message in one.messages)]

    found = await errors([one for one in continued if one.usage.prompt_tokens >= LEAST], history=True)

    tell(f"\nafter a reported answer: {len(found)} requests, at most {max(found):.1%}")
    assert len(found) >= 2
    assert max(found) <= 0.02


@pytest.mark.parametrize("name", SAMPLES)
def test_a_text_of_any_kind_is_estimated_within_a_quarter(name):
    known = SAMPLES[name]["o200k_base"]

    estimated = estimated_tokens(SAMPLES[name]["text"])

    tell(f"\n{name}: {known} tokens, {estimated / known - 1:+.0%}")
    assert abs(estimated - known) <= known / 4


@pytest.mark.parametrize("name", SAMPLES)
def test_a_long_text_is_estimated_by_its_parts(name):
    text, known = SAMPLES[name]["text"] * 1000, SAMPLES[name]["o200k_base"] * 1000

    assert abs(estimated_tokens(text) - known) <= known * 0.3
