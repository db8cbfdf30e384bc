"""What a conversation cost, seen from the usage of its answers."""

from __future__ import annotations

from decimal import Decimal

import pytest

from alloy import Message, TextBlock, Usage
from alloy.models import ModelInfo, cost_of, price
from alloy.testing import Reply, run_script


class Flat:
    """A catalogue in which a token of output costs a dollar, for all models but one."""

    def find(self, provider, model):
        return None if model == "unknown" else ModelInfo(price=lambda usage, at: Decimal(usage.output_tokens))


def says(text, provider="openai", model="gpt-5", usage=None):
    return Message("assistant", (TextBlock(text),), provider=provider, model=model, usage=usage)


ASKS = Message("user", (TextBlock("Hi."),))
SHORT = Usage(input_tokens=1000, cache_read_tokens=500, output_tokens=100, requests=1)


def test_each_answer_is_priced_by_the_model_that_wrote_it():
    messages = [ASKS, says("A", usage=SHORT), ASKS, says("B", "anthropic", "claude-sonnet-4-5", SHORT)]

    cost = cost_of(messages)

    assert cost == price(SHORT, "openai", "gpt-5") + price(SHORT, "anthropic", "claude-sonnet-4-5")


def test_answers_are_priced_one_by_one_since_long_prompts_cost_more():
    long = Usage(input_tokens=150_000, requests=1)
    twice = [ASKS, says("A", "gemini", "gemini-2.5-pro", long), ASKS, says("B", "gemini", "gemini-2.5-pro", long)]

    assert cost_of(twice) == 2 * price(long, "gemini", "gemini-2.5-pro")
    assert cost_of(twice) < price(long + long, "gemini", "gemini-2.5-pro")


@pytest.mark.parametrize(
    "unknown", [says("B", model="unknown", usage=SHORT), says("B", usage=None), says("B", model=None)]
)
def test_a_cost_with_an_unknown_part_is_unknown(unknown):
    assert cost_of([ASKS, says("A", usage=SHORT), ASKS, unknown], catalogue=Flat()) is None


def test_what_the_application_wrote_itself_costs_nothing():
    assert cost_of([]) == 0
    assert cost_of([ASKS, Message("assistant", (TextBlock("An example."),))]) == 0


@pytest.mark.anyio
async def test_the_messages_of_a_result_can_be_priced():
    result = await run_script([Reply(text="Hello.", usage=SHORT)])

    assert cost_of(result.messages, catalogue=Flat()) == 100
