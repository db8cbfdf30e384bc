"""What runs may spend: alone, together, and inside of one another."""

from __future__ import annotations

from decimal import Decimal

import pytest

import alloy
from alloy.errors import BudgetExceededError, InvalidOptionError, UnknownPriceError
from alloy.loop.compaction import Compaction
from alloy.providers import Amount, Budget
from alloy.testing import Recorder, Reply, Scripted, calls, hangs, run_script

pytestmark = pytest.mark.anyio

USED = alloy.Usage(input_tokens=100, output_tokens=10, requests=1)
COST = Decimal("0.015")


def price(usage, at):
    """A hundredth of a cent a token of the prompt, and five for each that the model writes."""
    return Decimal(usage.prompt_tokens + 5 * usage.output_tokens) / 10_000


PRICED = {"model_metadata_overrides": {"script": {"price": price, "max_output": 200}}}


def say(text="Hi.", **facts):
    return Reply(text=text, usage=USED, **facts)


def call(name, **arguments):
    return Reply(tool_calls=calls(name, **arguments).tool_calls, usage=USED)


@alloy.tool
def look() -> str:
    """Looks."""
    return "Rain."


async def halted(**options):
    """The error of a run that a budget halts, and its result."""
    with pytest.raises(alloy.RunError) as caught:
        await alloy.run("Go.", **options)
    assert isinstance(caught.value.cause, BudgetExceededError)
    return caught.value.cause, caught.value.result


async def test_a_number_is_for_each_run_alone():
    config = alloy.Config(max_budget=0.2, **PRICED)

    for _ in range(10):
        await alloy.run("Go.", config, provider=Scripted([say()]))

    assert config.max_budget == Decimal("0.2")


async def test_a_run_whose_budget_is_used_up_is_halted_with_all_its_work_kept():
    provider = Scripted([call("look") for _ in range(20)])

    error, result = await halted(provider=provider, tools=[look], max_budget=0.2, max_turns=30, **PRICED)

    assert result.status == "halted"
    assert result.turns == len(provider.requests) == len(result.tool_calls) < 10
    assert result.usage.requests == result.turns
    assert error.spent.money == COST * result.turns
    assert error.spent.money + error.needed.money > Decimal("0.2")
    assert alloy.check_history(result.messages) is None


async def test_what_comes_of_it_goes_on_with_another_budget():
    _, result = await halted(provider=Scripted([call("look")] * 9), tools=[look], max_budget=0.2, **PRICED)

    again = await alloy.run(messages=result.messages, provider=Scripted([say("Rain.")]), max_budget=0.2, **PRICED)

    assert again.text == "Rain."


async def test_runs_and_streams_that_are_given_one_budget_spend_from_it_together():
    budget = Budget(money=1, tokens=10_000)

    await alloy.run("Go.", provider=Scripted([say()]), max_budget=budget, **PRICED)
    async with alloy.stream("Go.", provider=Scripted([say()]), max_budget=budget, **PRICED) as run:
        assert (await run.wait()).text == "Hi."

    assert budget.spent == Amount(2 * COST, 220)


async def test_a_stream_that_is_left_early_gives_back_what_it_has_reserved():
    budget = Budget(tokens=10_000)

    async with alloy.stream("Go.", provider=Scripted([hangs("Well, now")]), max_budget=budget) as run:
        async for _ in run.text_deltas():
            break

    assert run.result.status == "cancelled"
    assert budget.reserved == Amount(None, 0)
    assert budget.spent.tokens > 0


async def test_a_price_that_nobody_knows_fails_the_run_before_anything_is_sent():
    provider = Scripted(["never"])

    with pytest.raises(alloy.RunError) as caught:
        await alloy.run("Go.", provider=provider, max_budget=1)

    assert caught.value.result.status == "failed"
    assert isinstance(caught.value.cause, UnknownPriceError)
    assert provider.requests == []


async def test_the_end_of_a_run_tells_what_was_spent():
    recorder = Recorder()

    await alloy.run("Go.", provider=Scripted([say()]), max_budget=1, on_event=recorder, **PRICED)

    (told,) = [one for one in recorder.named("runtime_event") if one.payload["kind"] == "budget"]
    assert told.payload["spent"] == {"money": "0.015", "tokens": 110}
    assert told.payload["left"] == {"money": "0.985", "tokens": None}
    assert recorder.envelopes[-1].event == "response"


async def test_without_a_budget_nothing_of_it_is_there():
    recorder = Recorder()
    provider = Scripted([say()])

    class Looks(alloy.Middleware):
        async def session_end(self, result, run):
            assert run.budgets == ()

    await alloy.run("Go.", provider=provider, on_event=recorder, middleware=[Looks()])

    assert provider.requests[0].max_tokens is None
    assert recorder.named("runtime_event") == []


@pytest.mark.parametrize("value", [-1, "5", True, float("nan"), float("inf"), {"money": 3}])
def test_what_is_no_budget_is_refused(value):
    with pytest.raises(InvalidOptionError, match="max_budget"):
        alloy.Config(max_budget=value)


async def test_a_failure_that_is_tried_again_is_paid_for_each_time():
    budget = Budget(tokens=10_000)
    failed = alloy.ProviderError("no", kind="overloaded", usage=USED)

    await alloy.run("Go.", provider=Scripted([failed, failed, say()]), max_budget=budget, retry_backoff=0)

    assert budget.spent.tokens == 330


async def test_providers_of_the_users_own_making_are_paid_for_inside_too():
    budget = Budget(tokens=10_000)
    failed = alloy.ProviderError("no", kind="overloaded", usage=USED)
    provider = alloy.providers.Fallback(
        alloy.providers.Retrying(Scripted([failed, failed]), max_retries=1, backoff=0), Scripted([say()])
    )

    result = await alloy.run("Go.", provider=provider, max_budget=budget, max_retries=0)

    assert result.text == "Hi."
    assert budget.spent.tokens == 330
    with pytest.raises(alloy.RunError):  # the provider is as it was
        await alloy.run("Go.", provider=provider)
    assert budget.spent.tokens == 330


# --- Runs inside of runs ---------------------------------------------------------------------------------------------


def helper(*script, **options):
    return alloy.agent_tool(name="helper", description="Helps.", provider=Scripted(script), **options)


async def test_an_agent_that_is_a_tool_spends_from_the_budget_of_the_run_that_calls_it():
    budget = Budget(tokens=10_000)
    inner = alloy.agent_tool(name="inner", description="Helps.", provider=Scripted([say()]))

    await run_script(
        [call("helper", task="Help."), say()],
        tools=[helper(call("inner", task="Help."), say(), tools=[inner])],
        max_budget=budget,
    )

    assert budget.spent.tokens == 5 * 110


async def test_it_spends_from_its_own_as_well_and_a_number_is_for_each_call():
    outer, own = Budget(money=5, tokens=10_000), Budget(tokens=10_000)
    numbered = alloy.agent_tool(
        name="numbered", description="Helps.", provider=Scripted([say(), say()]), max_budget=0.2, **PRICED
    )

    result = await run_script(
        [call("numbered", task="A."), call("numbered", task="B."), call("helper", task="C."), say()],
        tools=[numbered, helper(say(), max_budget=own, **PRICED)],
        max_budget=outer,
        **PRICED,
    )

    assert [one.is_error for one in result.tool_calls] == [False] * 3
    assert own.spent.tokens == 110
    assert outer.spent == Amount(7 * COST, 7 * 110)


async def test_where_its_own_budget_is_used_up_the_run_that_calls_it_reads_so_and_goes_on():
    result = await run_script(
        [call("helper", task="Help."), say("I do it myself.")],
        tools=[helper("never", max_budget=0.0001, **PRICED)],
        max_budget=5,
        **PRICED,
    )

    assert result.text == "I do it myself."
    assert "BudgetExceededError" in result.tool_calls[0].content[0].text


async def test_where_the_callers_budget_is_used_up_both_stop():
    script = [call("look") for _ in range(30)]

    error, result = await halted(
        provider=Scripted([call("helper", task="Help."), say()]),
        tools=[helper(*script, tools=[look], max_budget=100, max_turns=40, **PRICED)],
        max_budget=0.2,
        **PRICED,
    )

    assert "BudgetExceededError" in result.tool_calls[0].content[0].text
    assert error.budget.limit.money == Decimal("0.2")
    assert error.spent.money == COST * result.usage.requests


# --- What else asks a model ------------------------------------------------------------------------------------------


class Asks(alloy.Middleware):
    """Asks a model something besides, before the run's first request."""

    def __init__(self, provider=None):
        self.provider = provider

    async def session_start(self, run):
        question = alloy.Message("user", (alloy.TextBlock("What is it about?"),))
        await run.complete(alloy.providers.Request(messages=[question]), self.provider)


@pytest.mark.parametrize("provider", [None, Scripted([say()])])
async def test_what_middleware_asks_is_paid_for_whoever_answers(provider):
    budget = Budget(tokens=10_000)

    await run_script([say(), say()], middleware=[Asks(provider)], max_budget=budget)

    assert budget.spent.tokens == 220


async def test_summaries_are_paid_for():
    budget = Budget(tokens=100_000)
    long = [alloy.Message("user", (alloy.TextBlock("Once upon a time. " * 400),))]
    for _ in range(6):
        long.append(alloy.Message("assistant", (alloy.TextBlock("And then? " * 300),)))
        long.append(alloy.Message("user", (alloy.TextBlock("They went on. " * 300),)))
    writer = Scripted([say("## Goal\nA story was told. They went on.")])

    result = await alloy.run(
        messages=long,
        provider=Scripted([say()]),
        max_tokens=6000,
        compaction=Compaction(provider=writer),
        max_budget=budget,
    )

    assert result.text == "Hi."
    assert len(writer.requests) >= 1
    assert budget.spent.tokens == 110 * (1 + len(writer.requests))
