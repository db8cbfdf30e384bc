"""A provider that keeps a budget: each of its requests is paid for before it is sent, at its worst, and settled afterwards."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alloy.errors import BudgetExceededError, ConfigurationError, ProviderError, UnknownPriceError
from alloy.models.tokens import TokenCounter
from alloy.providers.base import Completion, RateLimitWait, Retry
from alloy.providers.batches import in_batches
from alloy.providers.budget import ZERO, Amount, Reservation, covers, dollars, lacking, room, together, wait_for_others
from alloy.providers.retry import Asking, Wrapper
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager
    from decimal import Decimal

    from alloy.models import ModelInfo, Price
    from alloy.providers.base import Provider, ProviderItem, Request
    from alloy.providers.budget import Budget

__all__ = ["LONGEST", "SHORTEST", "Budgeted", "budgeted"]

LONGEST = 16_384
"""How long an answer may get of which nobody knows how long it can, in tokens."""
SHORTEST = 256
"""An answer that has to be shorter than this is of no use, in tokens; the request isn't sent."""
MARGIN = 1.2
"""What the estimate of a prompt is multiplied with."""
BASE = 64
"""What is added to it, in tokens."""

_KINDS = ("input_tokens", "cache_write_tokens", "cache_read_tokens")
_NOT_TAKEN = ("rate_limited", "overloaded", "quota", "auth", "invalid_request", "context_overflow")
"""Kinds of errors that say that the request wasn't worked on."""


def budgeted(
    provider: Provider, budgets: Iterable[Budget], find: Callable[[Provider], Awaitable[ModelInfo]]
) -> Provider:
    """A provider whose requests are paid for out of some budgets: inside of its retries and fallbacks, so each attempt is.

    Args:
        provider: who is asked.
        budgets: what pays, each together with its parents.
        find: what is known about a provider's model.
    """
    paying = together(budgets)

    def around(one: Provider) -> Provider:
        if isinstance(one, Budgeted):
            return one
        return one.around(around) if isinstance(one, Wrapper) else Budgeted(one, paying, find)

    return around(provider)


@dataclass(frozen=True, slots=True)
class _Worst:
    """What a request may take at most.

    Attributes:
        estimated: tokens of the prompt, as estimated.
        prompt: tokens of the prompt, at most.
        longest: tokens of the answer, at most.
        price: what a use costs.
    """

    estimated: int
    prompt: int
    longest: int
    price: Callable[[Usage], Decimal]

    def amount(self, answer: int) -> tuple[Decimal, int]:
        """Dollars and tokens, at most, of an answer of that length."""
        uses = (Usage(**{kind: self.prompt}, output_tokens=answer, requests=1) for kind in _KINDS)
        return max(map(self.price, uses)), self.prompt + answer

    def longest_within(self, left: Amount) -> int:
        """The longest answer that can be paid; -1 if not even the prompt can."""
        if covers(left, self.amount(self.longest)):
            return self.longest
        fits, too_long = -1, self.longest
        while too_long - fits > 1:
            middle = (fits + too_long) // 2
            if covers(left, self.amount(middle)):
                fits = middle
            else:
                too_long = middle
        return fits

    def used(self, usage: Usage) -> tuple[Decimal, int]:
        """What was really used; all that may have been of what a server didn't report."""
        if not usage.total_tokens:
            return self.amount(self.longest)
        if not usage.prompt_tokens:
            usage = dataclasses.replace(usage, input_tokens=self.prompt)
        return self.price(usage), usage.total_tokens


class Budgeted(Wrapper):
    """Asks one provider, as far as some budgets pay for it.

    Before a request is sent, the most that it may take is reserved: the estimated prompt with a margin, at the price of its
    dearest kind of tokens, and the longest answer. Where there isn't so much left, it waits for what other requests have
    reserved, and then has the answer be shorter. What the provider reports is what is counted in the end. Of a request that broke
    off, or was cancelled, nobody knows what it took, so all that was reserved counts; one that was refused took nothing.

    Args:
        provider: who is asked.
        budgets: what pays, as `alloy.providers.budget.together` gives it.
        find: what is known about a provider's model.
    """

    def __init__(
        self, provider: Provider, budgets: Sequence[Budget], find: Callable[[Provider], Awaitable[ModelInfo]]
    ) -> None:
        super().__init__(provider)
        self._budgets = budgets
        self._find = find
        self._counter = TokenCounter(provider.model)

    def __repr__(self) -> str:
        return f"Budgeted({self._provider!r})"

    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[ProviderItem]]:
        """Asks, once it's paid for; see `alloy.providers.base.Provider`.

        Raises:
            BudgetExceededError: while iterating: there isn't enough left.
            ProviderError: while iterating, as the provider's own.
        """
        return Asking(self._batches(request))

    async def _batches(self, request: Request) -> AsyncGenerator[Sequence[ProviderItem]]:
        worst = await self._worst(request)
        worst, reservation = await self._reserve(worst)
        begun = False
        try:
            async with self._provider.stream(dataclasses.replace(request, max_tokens=worst.longest)) as items:
                async for batch in in_batches(items):
                    for item in batch:
                        begun = begun or not isinstance(item, Retry | RateLimitWait)
                        self._count(item, worst, reservation)
                    yield batch
        except (ProviderError, ConfigurationError) as error:
            if (used := _used(error, worst, begun=begun)) is not None:
                reservation.settle(used)
            raise
        finally:
            reservation.settle()

    def _count(self, item: ProviderItem, worst: _Worst, reservation: Reservation) -> None:
        if isinstance(item, Completion):
            reservation.settle(worst.used(item.usage))
            self._counter.learn(worst.estimated, item.usage.prompt_tokens)
        elif isinstance(item, Retry) and item.error.usage is not None:
            reservation.spend(worst.used(item.error.usage))

    async def _worst(self, request: Request) -> _Worst:
        info = await self._find(self._provider) if any(one.limit.money is not None for one in self._budgets) else None
        price = self._free if info is None else self._priced(info.price)
        messages = request.messages
        reported = (at for at in reversed(range(len(messages))) if messages[at].usage is not None)
        await self._counter.messages(messages[next(reported, -1) + 1 :])
        estimated = self._counter.history(messages, self._counter.overhead(request.system, request.tools))
        known = (getattr(self._provider, "max_tokens", None), info and info.max_output)
        longest = min((limit for limit in known if isinstance(limit, int) and limit > 0), default=LONGEST)
        if request.max_tokens is not None:
            longest = min(longest, request.max_tokens)
        return _Worst(estimated, math.ceil(estimated * MARGIN) + BASE, longest, price)

    async def _reserve(self, worst: _Worst) -> tuple[_Worst, Reservation]:
        """Reserves what a request may take, with a shorter answer if it must be.

        Raises:
            BudgetExceededError: not even a short answer can be paid.
        """
        alone = False
        while True:
            answer = worst.longest_within(room(self._budgets))
            if answer < worst.longest and not alone:
                alone = not await wait_for_others(self._budgets)
                continue
            if answer < min(SHORTEST, worst.longest):
                raise self._exceeded(worst)
            if (reservation := Reservation.of(self._budgets, worst.amount(answer))) is not None:
                return dataclasses.replace(worst, longest=answer), reservation
            alone = False

    def _exceeded(self, worst: _Worst) -> BudgetExceededError:
        needed = worst.amount(min(SHORTEST, worst.longest))
        budget = lacking(self._budgets, needed)
        return BudgetExceededError(
            budget,
            spent=budget.spent,
            needed=Amount(*needed),
            provider=self.name,
            model=self.model,
        )

    def _priced(self, price: Price | None) -> Callable[[Usage], Decimal]:
        def dollars_of(usage: Usage) -> Decimal:
            cost: Any = None if price is None else price(usage, None)
            if cost is None:
                raise UnknownPriceError(self.name, self.model)
            return dollars("price", cost)

        return dollars_of

    def _free(self, usage: Usage) -> Decimal:  # noqa: ARG002  whatever it is, nobody counts money
        return ZERO


def _used(error: ProviderError | ConfigurationError, worst: _Worst, *, begun: bool) -> tuple[Decimal, int] | None:
    """What a request took that failed; None where nobody knows."""
    if isinstance(error, ConfigurationError):
        return None if begun else (ZERO, 0)
    if error.usage is not None:
        return (worst.price(error.usage), error.usage.total_tokens) if error.usage.total_tokens else (ZERO, 0)
    if not begun and (error.status is not None or error.kind in _NOT_TAKEN):
        return ZERO, 0
    return None
