"""An agent's own budget lasts for its whole life; one that is shared is everybody's."""

from __future__ import annotations

import dataclasses
from decimal import Decimal

import pytest

import alloy
from alloy.errors import BudgetExceededError, SessionError
from alloy.providers import Amount, Budget
from alloy.sessions import MemoryStore
from alloy.testing import Reply, Scripted, calls, hangs
from tests.agents.supervising import Melt

pytestmark = pytest.mark.anyio

COST = Decimal("0.015")


def price(usage, at):
    """A hundredth of a cent a token of the prompt, and five for each that the model writes."""
    return Decimal(usage.prompt_tokens + 5 * usage.output_tokens) / 10_000


PRICED = {"model_metadata_overrides": {"script": {"price": price, "max_output": 200}}}


def say(text="Hi.", **facts):
    return Reply(text=text, usage=alloy.Usage(input_tokens=100, output_tokens=10, requests=1), **facts)


async def test_a_number_is_for_all_requests_of_an_agent(make):
    async with make(*[say()] * 20, max_budget=0.2, **PRICED) as agent:
        assert agent.budget.left.money == Decimal("0.2")
        answered = 0
        with pytest.raises(alloy.RunError) as caught:
            while True:
                await agent.chat("Hello!")
                answered += 1

        assert isinstance(caught.value.cause, BudgetExceededError)
        assert agent.budget.spent == Amount(COST * answered, 110 * answered)
        assert 5 < answered < 10


async def test_what_an_agent_has_spent_counts_when_it_is_started_again(make):
    store = MemoryStore()
    spent = []
    for _ in range(3):
        async with make(say(), name="desk", store=store, max_budget=1, **PRICED) as agent:
            await agent.chat("Hello!")
            spent.append(agent.budget.spent)

    assert spent == [Amount(COST * n, 110 * n) for n in (1, 2, 3)]
    assert (await store.load("desk")).metadata["alloy.spent"] == {"money": "0.045", "tokens": 330}


async def test_a_budget_that_is_used_up_stays_so_after_a_restart_and_a_larger_one_helps(make):
    store = MemoryStore()
    async with make(say(), name="desk", store=store, max_budget=0.15, **PRICED) as agent:
        await agent.chat("Hello!")
    async with make("never", name="desk", store=store, max_budget=0.03, **PRICED) as agent:
        with pytest.raises(alloy.RunError, match=r"\$0\.015 of \$0\.030 are spent"):
            await agent.chat("Hello!")
    async with make(say("Hello again."), name="desk", store=store, max_budget=0.2, **PRICED) as agent:
        assert (await agent.chat("Hello!")).text == "Hello again."
        assert agent.budget.spent.money == 2 * COST


async def test_a_budget_counts_from_the_first_start_that_has_one_and_over_starts_without(make):
    store = MemoryStore()
    for budget in (None, 1, None, 1):
        async with make(say(), name="desk", store=store, max_budget=budget, **PRICED) as agent:
            await agent.chat("Hello!")
            if budget is None:
                assert agent.budget is None
    async with make(name="desk", store=store, max_budget=1, **PRICED) as agent:
        assert agent.budget.spent.money == 2 * COST
        assert agent.usage.requests == 4


async def test_a_request_that_is_cancelled_has_spent_what_it_may_have_also_after_a_restart(make):
    store = MemoryStore()
    async with make(hangs("Well"), name="desk", store=store, max_budget=1, **PRICED) as agent:
        async with agent.subscribe() as envelopes:
            request_id = await agent.send_message("Hello!")
            async for envelope in envelopes:
                if envelope.event == "text_delta":
                    break
        await agent.cancel_request(request_id)
        with pytest.raises(alloy.RequestCancelledError):
            await agent.result(request_id)
        spent = agent.budget.spent
        assert spent.money > COST
        assert agent.budget.reserved == Amount(Decimal(0), 0)
    async with make(name="desk", store=store, max_budget=1, **PRICED) as agent:
        assert agent.budget.spent == spent


async def test_agents_that_share_a_budget_spend_from_it_together_and_keep_nothing_of_it(make):
    store, budget = MemoryStore(), Budget(money=1)
    async with (
        make(say(), name="one", store=store, max_budget=budget, **PRICED) as one,
        make(say(), name="two", store=store, max_budget=budget, **PRICED) as two,
    ):
        await one.chat("Hello!")
        await two.chat("Hello!")
        assert one.budget is two.budget is budget

    assert budget.spent.money == 2 * COST
    assert "alloy.spent" not in (await store.load("one")).metadata


async def test_agents_that_are_made_of_one_config_have_a_budget_each(make):
    config = alloy.Config(max_budget=1, **PRICED)
    async with make(say(), config=config) as one, make(say(), config=config) as two:
        await one.chat("Hello!")
        assert (one.budget.spent.money, two.budget.spent.money) == (COST, 0)


async def test_supervised_agents_have_a_budget_each_which_they_keep_while_they_sleep(supervising, until):
    config = alloy.Config(provider=Scripted([say()] * 3), max_budget=1, **PRICED)
    async with supervising(idle_timeout=0.02) as supervisor:
        one = await supervisor.start("one", config)
        await one.chat("Hello!")
        assert one.budget.spent.money == COST
        two = await supervisor.start("two", config)
        assert two.budget.spent.money == 0
        await until(lambda: supervisor.health()["one"].state == "asleep")
        again = await supervisor.get_or_start("one", config)
        await again.chat("Hello!")
        assert again.budget.spent.money == 2 * COST


async def test_an_agent_that_was_quarantined_goes_on_with_what_it_has_spent(supervising, until):
    def melt(request):
        raise Melt("hot")

    config = alloy.Config(provider=Scripted([say(), melt, say()]), max_budget=1, max_retries=0, **PRICED)
    async with supervising(max_restarts=0) as supervisor:
        agent = await supervisor.start("desk", config)
        await agent.chat("Hello!")
        with pytest.raises(alloy.RunError):
            await agent.chat("Melt!")
        await until(lambda: supervisor.health()["desk"].state == "quarantined")
        again = await supervisor.revive("desk")
        assert again.budget.spent.money > COST  # nobody knows what the request took
        spent = again.budget.spent.money
        await again.chat("Hello!")
        assert again.budget.spent.money == spent + COST


async def test_another_model_is_paid_from_the_same_budget(make):
    async with make(say(), max_budget=1, **PRICED) as agent:
        await agent.chat("Hello!")
        await agent.set_model(Scripted([say()]))
        await agent.chat("Hello!")
        assert agent.budget.spent.money == 2 * COST


async def test_a_reset_gives_nothing_back(make):
    async with make(say(), max_budget=1, **PRICED) as agent:
        await agent.chat("Hello!")
        await agent.reset()
        assert agent.budget.spent.money == COST


async def test_a_request_that_waits_for_approval_over_a_restart_goes_on_with_what_was_spent(make, until):
    @alloy.tool
    def look() -> str:
        """Looks."""
        return "Rain."

    store = MemoryStore()
    options = {"name": "desk", "store": store, "tools": [look], "max_budget": 1, **PRICED}
    approval = alloy.Approval([], otherwise="ask")
    first = say(tool_calls=calls("look").tool_calls)
    async with make(first, middleware=[approval], **options) as agent:
        request_id = await agent.send_message("Look!")
        await until(agent.approvals)
    async with make(say("Rain."), middleware=[approval], **options) as agent:
        assert agent.budget.spent.money == COST
        await until(agent.approvals)
        agent.approve(agent.approvals()[0].id)
        assert (await agent.result(request_id)).text == "Rain."
        assert agent.budget.spent.money == 2 * COST


@pytest.mark.parametrize(
    "spent",
    [
        *(3, {}, {"money": "1", "tokens": None}),
        *({"money": money, "tokens": 1} for money in ("x", None, "Infinity", "NaN")),
    ],
)
async def test_what_was_spent_and_cannot_be_read_keeps_the_agent_from_starting(make, spent):
    store = MemoryStore()
    session = alloy.sessions.Session(id="desk")
    await store.save(dataclasses.replace(session, metadata={"alloy.spent": spent}))

    with pytest.raises(SessionError, match=r"alloy\.spent"):
        async with make("never", name="desk", store=store, max_budget=1):
            pass
