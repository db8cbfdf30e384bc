"""Budgets: what a request may take at most is there before it is sent, and nothing that is reserved stays so."""

from __future__ import annotations

import json
import math
import threading
from contextlib import asynccontextmanager, suppress
from decimal import Decimal
from random import Random

import anyio
import anyio.lowlevel
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import alloy
from alloy.errors import BudgetExceededError, InvalidOptionError, UnknownPriceError
from alloy.models import ModelInfo
from alloy.models.tokens import TokenCounter
from alloy.providers import XAI, Amount, Anthropic, Budget, ChatCompletions, Gemini, OpenAI
from alloy.providers.base import Completion, Request, TextDelta
from alloy.providers.budget import Reservation, together, wait_for_others
from alloy.providers.budgeted import BASE, LONGEST, MARGIN, SHORTEST, Budgeted, budgeted
from alloy.providers.retry import Fallback, Retrying
from alloy.testing import Reply, Scripted, hangs, sweep
from alloy.testing.virtual import run_virtually

pytestmark = pytest.mark.anyio

HELLO = (alloy.Message("user", (alloy.TextBlock("Hello!"),)),)
DEAREST = ("input_tokens", "cache_write_tokens", "cache_read_tokens")


def cents(usage, at):
    """A cent a token of the prompt, a quarter more to write it to a cache, and five for each that the model writes."""
    written = Decimal("1.25") * usage.cache_write_tokens
    return (usage.input_tokens + usage.cache_read_tokens / Decimal(10) + written + 5 * usage.output_tokens) / 100


def known(price=cents, **facts):
    async def find(provider):
        return ModelInfo(price=price, **facts)

    return find


def used(input_tokens=10, output_tokens=5):
    return alloy.Usage(input_tokens=input_tokens, output_tokens=output_tokens, requests=1)


def at_most(messages=HELLO):
    """The tokens of a prompt, at most, as a budget takes them."""
    counter = TokenCounter("script")
    return math.ceil(counter.history(messages, counter.overhead(None, ())) * MARGIN) + BASE


async def ask(provider, budget, find=None, request=None):
    """Asks once, and gives the last of the answer's items."""
    paid = budgeted(provider, [budget], find or known())
    async with paid.stream(request or Request(messages=HELLO)) as items:
        return [item async for item in items][-1]


# --- The object ------------------------------------------------------------------------------------------------------


def test_a_budget_says_what_is_spent_reserved_and_left():
    budget = Budget(money=1.5, tokens=1000, spent=Amount(Decimal("0.25"), 100))
    reservation = Reservation.of(together([budget]), (Decimal("0.5"), 300))

    assert budget.limit == Amount(Decimal("1.5"), 1000)
    assert budget.spent == Amount(Decimal("0.25"), 100)
    assert budget.reserved == Amount(Decimal("0.5"), 300)
    assert budget.left == Amount(Decimal("0.75"), 600)

    reservation.settle((Decimal("0.1"), 50))
    reservation.settle()

    assert budget.reserved == Amount(Decimal(0), 0)
    assert budget.spent == Amount(Decimal("0.35"), 150)


def test_what_is_spent_is_spent_from_all_parents_as_well_and_from_each_once():
    family = Budget(money=1)
    left, right = Budget(money=5, parent=family), Budget(tokens=900, parent=family)
    reservation = Reservation.of(together([left, right, family]), (Decimal("0.4"), 10))
    reservation.settle()

    assert family.spent == Amount(Decimal("0.4"), 10)
    assert left.spent == Amount(Decimal("0.4"), 10)
    assert right.spent == Amount(None, 10)
    assert left.left == Amount(Decimal("0.6"), None)
    assert right.left == Amount(Decimal("0.6"), 890)


def test_nothing_is_reserved_anywhere_where_one_has_too_little():
    small, large = Budget(money=1), Budget(money=10)

    assert Reservation.of(together([large, small]), (Decimal(2), 0)) is None
    assert large.reserved == small.reserved == Amount(Decimal(0), 0)


def test_money_that_no_decimal_has_exactly_leaves_nothing_reserved():
    budget = Budget(money=1000)
    reservations = [Reservation.of((budget,), (Decimal(1) / n, 1)) for n in range(3, 200)]
    for reservation in reservations:
        reservation.settle((Decimal(0), 0))

    assert not any(budget._reserved)
    assert budget.left == Amount(Decimal(1000), None)


@pytest.mark.parametrize(
    "options",
    [
        *({"money": money} for money in (None, -1, float("nan"), float("inf"), True, "1")),
        *({"tokens": tokens} for tokens in (-1, 1.5, True)),
        {"money": 1, "parent": 3},
    ],
)
def test_a_wrong_budget_is_refused(options):
    with pytest.raises(InvalidOptionError):
        Budget(**options)


def test_what_was_spent_elsewhere_can_be_counted():
    budget = Budget(money=1, tokens=10)
    budget.spend(0.3, 4)

    assert budget.left == Amount(Decimal("0.7"), 6)
    with pytest.raises(InvalidOptionError):
        budget.spend(-1)
    with pytest.raises(InvalidOptionError):
        budget.spend(tokens=-1)


def test_amounts_read_well():
    assert str(Amount(Decimal("1.5"), 3)) == "$1.50 and 3 tokens"
    assert str(Amount(Decimal("0.00123"))) == "$0.0012"
    assert str(Amount(tokens=3)) == "3 tokens"
    assert Amount(Decimal("0.500"), 3).as_dict() == {"money": "0.5", "tokens": 3}


def test_threads_can_share_a_budget():
    budget = Budget(money=1_000_000)

    def work():
        for _ in range(2000):
            Reservation.of((budget,), (Decimal("0.02"), 2)).settle((Decimal("0.01"), 1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert budget.spent == Amount(Decimal(80), 8000)
    assert budget.reserved == Amount(Decimal(0), 0)


async def test_what_another_thread_gives_back_wakes_who_waits_here():
    budget = Budget(money=1)
    reservation = Reservation.of((budget,), (Decimal(1), 0))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(wait_for_others, (budget,))
            await anyio.lowlevel.checkpoint()
            await anyio.to_thread.run_sync(reservation.settle)


# --- One request -----------------------------------------------------------------------------------------------------


async def test_the_worst_is_reserved_while_a_request_runs_and_what_was_reported_counts():
    budget = Budget(money=100_000)
    seen = []
    provider = Scripted([lambda request: seen.append(budget.reserved) or Reply(text="Hi.", usage=used(10, 5))])

    await ask(provider, budget, known(max_output=1000))

    prompt = at_most()
    assert seen == [Amount(Decimal("1.25") * prompt / 100 + 5 * 1000 / Decimal(100), prompt + 1000)]
    assert budget.spent == Amount(Decimal("0.35"), 15)
    assert budget.reserved == Amount(Decimal(0), 0)


async def test_an_answer_is_limited_to_what_the_rest_can_pay():
    budget = Budget(money=100)
    provider = Scripted(["Hi."])

    await ask(provider, budget)

    (request,) = provider.requests
    prompt = Decimal("1.25") * at_most() / 100
    assert SHORTEST < request.max_tokens < LONGEST
    assert prompt + Decimal(5) * request.max_tokens / 100 <= 100 < prompt + Decimal(5) * (request.max_tokens + 1) / 100


@pytest.mark.parametrize(
    ("own", "info", "asked", "sent"),
    [
        (None, None, None, LONGEST),
        (None, 50_000, None, 50_000),
        (2000, 50_000, None, 2000),
        (100, 50_000, None, 100),
        (2000, 1000, None, 1000),
        (2000, None, 300, 300),
    ],
)
async def test_an_answer_is_never_longer_than_anybody_says(own, info, asked, sent):
    provider = Scripted(["Hi."])
    provider.max_tokens = own

    await ask(provider, Budget(money=10**6), known(max_output=info), Request(messages=HELLO, max_tokens=asked))

    assert provider.requests[0].max_tokens == sent


async def test_a_request_that_does_not_fit_is_not_sent_and_the_error_says_why():
    budget = Budget(money=20, spent=Amount(Decimal("9.5"), 7))
    provider = Scripted(["never"])

    with pytest.raises(BudgetExceededError, match=r"\$9\.50 of \$20\.00 are spent") as caught:
        await ask(provider, budget)

    assert provider.requests == []
    assert caught.value.budget is budget
    assert caught.value.spent == Amount(Decimal("9.5"), 7)
    assert caught.value.needed.money == Decimal("1.25") * at_most() / 100 + 5 * SHORTEST / Decimal(100)
    assert caught.value.needed.tokens == at_most() + SHORTEST
    assert isinstance(caught.value, alloy.Halt)
    assert not isinstance(caught.value, alloy.ProviderError)


async def test_the_error_is_about_the_budget_that_has_too_little():
    family = Budget(money=1)

    with pytest.raises(BudgetExceededError) as caught:
        await ask(Scripted(["never"]), Budget(tokens=10**6, parent=family))

    assert caught.value.budget is family


async def test_a_budget_in_tokens_needs_no_price_and_asks_nobody_for_one():
    async def find(provider):
        raise AssertionError("nobody needs to be asked")

    budget = Budget(tokens=2000)
    provider = Scripted([Reply(text="Hi.", usage=used(100, 5))])

    await ask(provider, budget, find)

    assert provider.requests[0].max_tokens == 2000 - at_most()
    assert budget.spent == Amount(None, 105)


async def test_money_and_a_price_that_nobody_knows_is_an_error_that_says_what_to_do():
    budget = Budget(money=100)
    provider = Scripted(["never"])

    for price in (None, lambda usage, at: None):
        with pytest.raises(UnknownPriceError, match="model_metadata_overrides") as caught:
            await ask(provider, budget, known(price))
        assert (caught.value.provider, caught.value.model) == ("scripted", "script")

    assert provider.requests == []
    assert budget.reserved == Amount(Decimal(0), 0)


async def test_what_costs_nothing_fits_into_no_money():
    await ask(Scripted(["Hi."]), Budget(money=0), known(lambda usage, at: Decimal(0)))


async def test_more_than_was_foreseen_is_counted_all_the_same():
    budget = Budget(tokens=5000)

    await ask(Scripted([Reply(text="Hi.", usage=used(9000, 5))]), budget)

    assert budget.spent == Amount(None, 9005)
    assert budget.left == Amount(None, 0)


@pytest.mark.parametrize(
    ("script", "counted"),
    [
        ([Reply(text="Hi.", usage=used(10, 5))], 15),
        ([Reply(text="Hi.", usage=alloy.Usage(requests=1))], "everything"),
        ([Reply(text="Hi.", usage=used(0, 5))], "prompt and 5"),
        ([alloy.ProviderError("no", kind="refused", usage=used(7, 1))], 8),
        ([alloy.ProviderError("no", kind="network", usage=alloy.Usage())], 0),
        ([alloy.ProviderError("no", kind="server_error", status=500)], 0),
        ([alloy.ProviderError("no", kind="rate_limited")], 0),
        ([alloy.ProviderError("no", kind="network")], "everything"),
        ([alloy.ProviderError("no", kind="timeout")], "everything"),
        ([Reply(text="Half an", error=alloy.ProviderError("no", kind="overloaded"))], "everything"),
        ([Reply(text="Half an", error=alloy.ProviderError("no", kind="network", status=500))], "everything"),
        ([RuntimeError("a bug")], "everything"),
        ([alloy.errors.ToolDefinitionError("a_tool", "it can't be")], 0),
    ],
)
async def test_what_counts_of_a_request_that_failed_is_what_is_known_or_else_everything(script, counted):
    budget = Budget(tokens=3000)
    provider = Scripted(script)
    provider.max_tokens = 1000
    words = {"everything": at_most() + 1000, "prompt and 5": at_most() + 5}

    with suppress(alloy.AlloyError, RuntimeError):
        await ask(provider, budget)

    assert budget.spent.tokens == words.get(counted, counted)
    assert budget.reserved.tokens == 0


async def test_a_request_that_is_left_early_counts_in_full():
    budget = Budget(tokens=3000)
    provider = Scripted([hangs("One two")])
    provider.max_tokens = 1000

    with anyio.fail_after(5):
        async with budgeted(provider, [budget], known()).stream(Request(messages=HELLO)) as items:
            assert await anext(items) == TextDelta("One ")

    assert budget.spent == Amount(None, at_most() + 1000)
    assert budget.reserved.tokens == 0


async def test_a_price_that_cannot_be_told_in_the_end_leaves_nothing_reserved():
    told = []

    def price(usage, at):
        told.append(usage)
        if usage == used(10, 5):
            raise ValueError("no price today")
        return Decimal(1)

    budget = Budget(money=100)
    with pytest.raises(ValueError, match="no price today"):
        await ask(Scripted([Reply(text="Hi.", usage=used(10, 5))]), budget, known(price))

    assert told[-1] == used(10, 5)
    assert budget.reserved == Amount(Decimal(0), 0)
    assert budget.spent.money == 1


async def test_a_server_that_cannot_be_reached_costs_nothing():
    budget = Budget(tokens=50_000)
    provider = ChatCompletions("a", "key", base_url="http://127.0.0.1:9", rate_limits=None)

    with pytest.raises(alloy.ProviderError) as caught:
        await ask(provider, budget)

    assert caught.value.kind == "network"
    assert budget.spent.tokens == 0


# --- Retries and fallbacks -------------------------------------------------------------------------------------------


async def test_each_attempt_is_paid_for():
    budget = Budget(tokens=10_000)
    failed = alloy.ProviderError("no", kind="overloaded", usage=used(100, 0))
    provider = Scripted([failed, alloy.ProviderError("no", kind="network"), Reply(text="Hi.", usage=used(10, 5))])
    provider.max_tokens = 1000

    await ask(Retrying(provider, max_retries=3, backoff=0), budget)

    assert budget.spent.tokens == 100 + (at_most() + 1000) + 15


async def test_an_attempt_that_does_not_fit_any_more_is_not_made():
    budget = Budget(tokens=1200)
    provider = Scripted([alloy.ProviderError("no", kind="network"), "never"])

    with pytest.raises(BudgetExceededError):
        await ask(Retrying(provider, max_retries=3, backoff=0), budget)

    assert len(provider.requests) == 1


async def test_a_cheaper_fallback_is_asked_where_the_first_does_not_fit():
    async def find(provider):
        dear = provider.model == "dear"
        return ModelInfo(price=cents if dear else lambda usage, at: cents(usage, at) / 1000)

    budget = Budget(money=2)
    first, second = Scripted(["never"], model="dear"), Scripted([Reply(text="Hi.", usage=used())], model="cheap")

    items = []
    async with budgeted(Fallback(Retrying(first), second), [budget], find).stream(Request(messages=HELLO)) as stream:
        items += [item async for item in stream]

    assert first.requests == []
    assert (items[0].error.kind, items[0].error.code, items[0].next) == ("quota", "budget_exceeded", "scripted:cheap")
    assert isinstance(items[-1], Completion)
    assert budget.spent == Amount(Decimal("0.00035"), 15)


async def test_where_no_fallback_fits_either_the_request_is_not_sent():
    first, second = Scripted(["never"]), Scripted(["never"])

    with pytest.raises(BudgetExceededError):
        await ask(Fallback(first, second), Budget(tokens=10))

    assert first.requests == second.requests == []


async def test_what_an_inner_provider_tried_in_vain_counts_as_well():
    budget = Budget(tokens=50_000)
    failed = alloy.ProviderError("no", kind="overloaded", usage=used(100, 0))

    class Own:
        """A provider of the user's that asks again by itself."""

        name, model = "own", "script"

        def stream(self, request):
            return Retrying(Scripted([failed, Reply(text="Hi.", usage=used())]), backoff=0).stream(request)

    await ask(Own(), budget)

    assert budget.spent.tokens == 115


# --- Several at once -------------------------------------------------------------------------------------------------


async def test_who_does_not_fit_beside_others_waits_for_them_instead_of_being_refused_or_cut_short():
    budget = Budget(tokens=1500)
    going_on = anyio.Event()
    provider = Scripted([Reply(text="Hi.", usage=used())] * 3)
    provider.max_tokens = 1000

    class Slow(Scripted):
        @asynccontextmanager
        async def stream(self, request):
            await going_on.wait()
            async with provider.stream(request) as items:
                yield items

    slow = Slow([])
    slow.max_tokens = 1000
    with anyio.fail_after(5):
        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(ask, slow, budget)
            await anyio.wait_all_tasks_blocked()
            assert budget.reserved.tokens == at_most() + 1000
            going_on.set()

    assert [request.max_tokens for request in provider.requests] == [1000, 1000, 1000]
    assert budget.spent.tokens == 45
    assert budget._waiting == []


async def test_who_waits_for_others_can_be_cancelled_and_leaves_nothing():
    budget = Budget(tokens=1500)
    held = Reservation.of((budget,), (Decimal(0), 1400))

    with anyio.move_on_after(0.01) as scope:
        await ask(Scripted(["never"]), budget)

    assert scope.cancelled_caught
    assert budget._waiting == []
    held.settle()
    assert budget.spent.tokens == 1400


PROMPTS = []
"""The longest prompt that was foreseen for the request that is about to be sent."""


async def reserving(self, worst, reserve=Budgeted._reserve):
    """As a budget reserves, but tells for how long a prompt."""
    worst, reservation = await reserve(self, worst)
    PROMPTS[:] = [worst.prompt]
    return worst, reservation


class Vendor:
    """A model that takes any amount up to the worst, ends in any way, and keeps the books: what it bills, told or not."""

    name, model = "vendor", "script"

    def __init__(self, random, budgets, price):
        self._random = random
        self._budgets = budgets
        self._price = price
        self.billed = [Decimal(0), 0]
        self.requests = 0

    def _usage(self, request, bound):
        prompt = self._random.choice([1, bound // 2, bound])
        kinds = dict.fromkeys(DEAREST, 0) | {self._random.choice(DEAREST): prompt}
        return alloy.Usage(output_tokens=self._random.choice([0, 7, request.max_tokens]), requests=1, **kinds)

    @asynccontextmanager
    async def stream(self, request):
        items = self._items(request, PROMPTS.pop())
        try:
            yield items
        finally:
            await items.aclose()

    async def _items(self, request, bound):
        self.requests += 1
        chance = self._random.random
        for one in self._budgets:
            (money, tokens), limit = one._spent, one.limit
            assert limit.money is None or money + one._reserved[0] <= limit.money
            assert limit.tokens is None or tokens + one._reserved[1] <= limit.tokens
        await anyio.sleep(chance())
        if chance() < 0.15:
            raise alloy.ProviderError("busy", kind="overloaded", status=529)  # which isn't billed
        usage = self._usage(request, bound)
        self.billed[0] += self._price(usage, None)
        self.billed[1] += usage.total_tokens
        if chance() < 0.1:
            raise alloy.ProviderError("gone", kind="network")
        if chance() < 0.1:
            raise alloy.ProviderError("failed", kind="server_error", usage=usage)
        yield TextDelta("Well, ")
        await anyio.sleep(chance() * 2)
        if chance() < 0.1:
            raise alloy.ProviderError("gone", kind="network")
        if chance() < 0.1:
            await anyio.sleep_forever()
        called = [(name, chance()) for name in ("work", "helper") if any(tool.name == name for tool in request.tools)]
        calls = [alloy.ToolUseBlock(f"c{at}", name, {"task": "Help."}) for name, at in called if at < 0.5]
        yield Completion(
            message=alloy.Message(
                "assistant", (alloy.TextBlock("Well, yes."), *calls), provider="vendor", model="script"
            ),
            stop_reason="tool_use" if calls else "end_turn",
            usage=usage,
        )


@alloy.tool
async def work(task: str) -> str:
    """Works."""
    await anyio.sleep(0.1)
    return task * 20


def stepped(usage, at):
    """A price that doubles for long prompts, as some do."""
    return cents(usage, at) * (2 if usage.prompt_tokens > 200 else 1) / 100


async def in_place(function, *args, name):
    """In place of a thread, which a virtual loop doesn't wait for."""
    await anyio.lowlevel.checkpoint()
    return function(*args)


def many_runs(seed, counts):
    """Many runs and the agents in their calls, which share budgets; returns those that overran, after checking that none leaks."""
    random = Random(seed)
    price = random.choice([cents, stepped])
    shared = Budget(money=random.choice([3, 30, 300, 3000]), tokens=random.choice([None, 3000, 30_000]))
    budgets = [
        shared,
        *(Budget(money=random.choice([1, 20, 500]), parent=random.choice([shared, None])) for _ in range(2)),
    ]
    vendor = Vendor(random, budgets, price)
    facts = {"price": price, "max_output": random.choice([50, 500, 4000])}
    options = {"model_metadata_overrides": {"script": facts}, "max_turns": 6, "retry_backoff": 0.1, "timeout": 60.0}

    async def one():
        budget = random.choice([shared, *budgets, None])
        options_of_helper = {} if budget is None else {"max_budget": random.choice([1, *budgets])}
        helper = alloy.agent_tool(
            name="helper", description="Helps.", provider=vendor, tools=[work], **options, **options_of_helper
        )
        paying = budget if budget is not None else Budget(money=50, parent=shared)
        budgets.append(paying)
        await anyio.sleep(random.random() * 3)
        try:
            with anyio.move_on_after(random.choice([1.0, 5.0, 100.0]) * random.random()):
                result = await alloy.run("Work.", provider=vendor, tools=[work, helper], max_budget=paying, **options)
                counts[result.status] = counts.get(result.status, 0) + 1
        except alloy.RunError as error:
            counts[error.result.status] = counts.get(error.result.status, 0) + 1
            counts["exceeded"] = counts.get("exceeded", 0) + isinstance(error.cause, BudgetExceededError)

    async def all_of_them():
        async with anyio.create_task_group() as group:
            for _ in range(random.randint(1, 8)):
                group.start_soon(one)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("alloy.models.lookup.run_in_thread", in_place)
        patch.setattr(Budgeted, "_reserve", reserving)
        run_virtually(all_of_them(), seed)
    counts["requests"] = counts.get("requests", 0) + vendor.requests
    assert [one for one in budgets if any(one._reserved) or one._waiting] == []
    over = [one for one in budgets if one.limit.money is not None and one._spent[0] > one.limit.money]
    return over + [one for one in budgets if one.limit.tokens is not None and one._spent[1] > one.limit.tokens]


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_many_runs_that_share_budgets_never_spend_more_than_they_have(seed):
    assert many_runs(seed, {}) == []


@settings(max_examples=150, deadline=None)
@given(seed=st.integers(0, 2**32))
def test_what_is_counted_is_never_less_than_what_the_vendor_bills(seed):
    random = Random(seed)
    budget = Budget(money=random.choice([3, 30, 300]), tokens=random.choice([None, 3000]))
    vendor = Vendor(random, [budget], cents)

    async def one():
        await anyio.sleep(random.random() * 3)
        with anyio.move_on_after(5 * random.random()):
            with suppress(alloy.ProviderError, BudgetExceededError):
                await ask(Retrying(vendor, backoff=0.1, chance=random.random), budget, known(max_output=300))

    async def all_of_them():
        async with anyio.create_task_group() as group:
            for _ in range(random.randint(1, 12)):
                group.start_soon(one)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Budgeted, "_reserve", reserving)
        run_virtually(all_of_them(), seed)

    assert vendor.billed[0] <= budget.spent.money <= budget.limit.money
    assert vendor.billed[1] <= budget.spent.tokens
    assert not any(budget._reserved)


def test_a_budget_leaks_nothing_wherever_a_run_is_cancelled():
    async def scenario(probe):
        budget = Budget(tokens=40_000)
        failed = alloy.ProviderError("no", kind="overloaded")
        calling = Reply(text="So", tool_calls=(alloy.ToolUseBlock("a", "helper", {"task": "Help."}),), usage=used())
        helper = alloy.agent_tool(name="helper", description="Helps.", provider=Scripted(["Yes."]))
        try:
            await alloy.run(
                "Go.",
                provider=Scripted([failed, calling, "Done."]),
                tools=[helper],
                middleware=[probe],
                on_event=probe,
                retry_backoff=0,
                max_budget=budget,
            )
        finally:
            assert budget.reserved.tokens == 0
            assert budget._waiting == []

    assert sweep(scenario) > 30


# --- On the wire -----------------------------------------------------------------------------------------------------

ADAPTERS = [
    (lambda **own: Anthropic("claude-opus-4-5", "key", **own), ("max_tokens",)),
    (lambda **own: OpenAI("gpt-5", "key", **own), ("max_output_tokens",)),
    (lambda **own: XAI("grok-4", "key", **own), ("max_output_tokens",)),
    (lambda **own: ChatCompletions("gpt-5", "key", compat="openai", **own), ("max_completion_tokens",)),
    (lambda **own: ChatCompletions("a", "key", base_url="http://localhost:1", **own), ("max_tokens",)),
    (lambda **own: Gemini("gemini-2.5-pro", "key", **own), ("generationConfig", "maxOutputTokens")),
]


@pytest.mark.parametrize(("make", "path"), ADAPTERS)
@pytest.mark.parametrize(
    ("own", "asked", "sent"), [(None, 500, 500), (300, 500, 300), (900, 500, 500), (300, None, 300)]
)
def test_the_limit_of_a_request_is_on_the_wire_where_the_adapters_own_is_not_less(make, path, own, asked, sent):
    adapter = make(**({} if own is None else {"max_tokens": own}))

    body = json.loads(adapter.encode(Request(messages=HELLO, max_tokens=asked)))
    again = json.loads(adapter.encode(Request(messages=HELLO, max_tokens=None)))

    for key in path:
        body = body[key]
        again = again.get(key, {} if key != path[-1] else None)
    assert body == sent
    assert again == own or (own is None and again not in (asked, {}))
    assert adapter.max_tokens == own or own is None


def test_a_limit_in_the_extra_body_is_kept_to_as_well():
    chat = ChatCompletions("gpt-5", "key", compat="openai", extra_body={"max_tokens": 900, "temperature": 0})
    gemini = Gemini("gemini-2.5-pro", "key", extra_body={"generationConfig": {"maxOutputTokens": 900, "topK": 3}})
    request = Request(messages=HELLO, max_tokens=500)

    body = json.loads(chat.encode(request))
    assert (body["max_tokens"], "max_completion_tokens" in body) == (500, False)
    assert json.loads(gemini.encode(request))["generationConfig"] == {"maxOutputTokens": 500, "topK": 3}


@pytest.mark.parametrize(
    ("limit", "thinking"), [(20_000, 10_000), (8000, 4000), (1500, 1024), (1024, None), (300, None)]
)
def test_claude_thinks_less_than_its_answer_may_be_long(limit, thinking):
    claude = Anthropic("claude-opus-4-5", "key", thinking={"type": "enabled", "budget_tokens": 10_000})

    body = json.loads(claude.encode(Request(messages=HELLO, max_tokens=limit)))

    assert body["max_tokens"] == limit
    assert body.get("thinking", {}).get("budget_tokens") == thinking
