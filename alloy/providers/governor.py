"""The rate governor: all requests of an event loop that share an account's limits share one `Limiter`, which says who may go when.

It learns the limits from the server's headers, and waits only where it knows that there is something to wait for. What is decided
is decided without an await; only `Ticket.wait` waits.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict
from typing import TYPE_CHECKING, Self, TypeAlias

import anyio
from anyio.lowlevel import RunVar

from alloy.errors import InvalidOptionError
from alloy.providers.limiter import LEARNED, Limiter, RateLimits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alloy.errors import ProviderError
    from alloy.providers.base import Priority, RateLimitWait, Request
    from alloy.usage import Usage

__all__ = ["LEARNED", "Account", "RateLimits", "Ticket"]

IDLE = 900.0
"""After how long, in seconds, what was learned about an account is forgotten if nobody uses it."""


class Account:
    """Whose limits an adapter's requests use.

    Args:
        key: a fingerprint of what is limited: an account, and the model where each has limits of its own.
        limits: what the user knows of them.
        provider: who answers, for errors.
        model: which model, for errors.
        counts_cached: whether prompt tokens that were read from a cache count.
    """

    __slots__ = ("_limiters", "_loop", "counts_cached", "key", "limits", "model", "provider")

    def __init__(self, key: str, limits: RateLimits, *, provider: str, model: str, counts_cached: bool) -> None:
        self.key = key
        self.limits = limits
        self.provider = provider
        self.model = model
        self.counts_cached = counts_cached
        self._loop: asyncio.AbstractEventLoop | None = None
        self._limiters: _Limiters = OrderedDict()

    def enter(self, request: Request, size: int) -> Ticket:
        """Asks to send a request; a context manager, which must be left when the request has ended.

        Args:
            request: what is to be sent.
            size: how long it is, in bytes.

        Raises:
            InvalidOptionError: its priority is none.
            ProviderError: it would have to wait past a surrounding deadline, or too long (kind ``rate_limited``).
        """
        if request.priority not in ("interactive", "batch"):
            raise InvalidOptionError("priority", "'interactive' or 'batch'", request.priority)
        loop = asyncio.get_running_loop()
        if self._loop is not loop:  # looking a RunVar up takes longer than all the rest
            self._loop, self._limiters = loop, _limiters_here()
        limiter = _limiter(self._limiters, self.key, loop)
        ticket = Ticket(self, limiter, request, size)
        limiter.enter(ticket)
        return ticket


class Ticket:
    """One request's place, from the moment that it wants to be sent until it has ended.

    Attributes:
        caller: who asks.
        priority: what goes first.
        account: whose limits it uses.
        cost: one request, and the tokens that it is expected to take for its prompt and its answer.
        deadline: until when it may wait, in the event loop's time.
        waiting: whether it isn't sent yet.
        admitted_at: when it was allowed to be sent.
        told: what the server had counted for sure when it was allowed to be sent.
        sent: whether the server may have got it.
        answered: whether the server has answered.
        refused: whether that was an error.
        counted: whether it is known what it took.
    """

    __slots__ = (
        "_error",
        "_event",
        "_limiter",
        "account",
        "admitted_at",
        "answered",
        "caller",
        "cost",
        "counted",
        "deadline",
        "priority",
        "refused",
        "sent",
        "told",
        "waiting",
    )

    def __init__(self, account: Account, limiter: Limiter, request: Request, size: int) -> None:
        self.account = account
        self.caller = request.caller
        self.priority: Priority = request.priority
        self.cost = limiter.expected(request.caller, request.estimated_tokens, size)
        self.deadline = math.inf
        self.waiting = False
        self.admitted_at = 0.0
        self.told = (0.0, 0.0, 0.0)
        self.sent = self.answered = self.refused = self.counted = False
        self._limiter = limiter
        self._event: anyio.Event | None = None
        self._error: ProviderError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._limiter.leave(self)

    async def wait(self, within: float = math.inf) -> RateLimitWait | None:
        """Waits until it may be sent.

        Args:
            within: for how long, in seconds.

        Returns:
            What it still waits for after that time; None where it may be sent.

        Raises:
            ProviderError: it would have to wait past its deadline, or has waited for too long (kind ``rate_limited``).
        """
        if self.waiting:
            self._event = self._event or anyio.Event()
            left = self.deadline - anyio.current_time()
            with anyio.move_on_after(min(within, max(left, 0.0))):
                await self._event.wait()
        if self._error is not None:
            raise self._error
        if not self.waiting:
            self.sent = True
            return None
        if anyio.current_time() >= self.deadline:
            raise self._limiter.refusal(self, self._limiter.expected_wait(self)[0])
        return self._limiter.told_of(self)

    def admit(self, now: float, told: tuple[float, float, float]) -> None:
        """Lets it be sent."""
        self.waiting = False
        self.admitted_at = now
        self.told = told
        if self._event is not None:
            self._event.set()

    def refuse(self, error: ProviderError) -> None:
        """Has it fail instead of waiting in vain."""
        self._error = error
        if self._event is not None:
            self._event.set()

    def replied(self, status: int, headers: Mapping[str, str]) -> None:
        """Takes what the server's response says about limits.

        Args:
            status: the HTTP status.
            headers: their names in lower case.
        """
        self._limiter.replied(self, status, headers)

    def failed(self, error: ProviderError) -> None:
        """Takes the error that the server answered with; one that holds everybody back says so from then on."""
        self._limiter.failed(self, error)

    def completed(self, usage: Usage) -> None:
        """Takes what the request took, and gives back what else it was expected to take."""
        if not self.counted and usage.total_tokens:
            spent = usage.prompt_tokens if self.account.counts_cached else usage.prompt_tokens - usage.cache_read_tokens
            self._limiter.settle(self, (1.0, float(spent), float(usage.output_tokens)))


# --- The limiters of an event loop -----------------------------------------------------------------------------------

_Limiters: TypeAlias = OrderedDict[str, Limiter]
_limiters: RunVar[_Limiters] = RunVar("alloy_limiters")


def _limiters_here() -> _Limiters:
    limiters = _limiters.get(None)
    if limiters is None:
        limiters = OrderedDict()
        _limiters.set(limiters)
    return limiters


def _limiter(limiters: _Limiters, key: str, loop: asyncio.AbstractEventLoop) -> Limiter:
    """The limiter for an account; those that nobody has used for long are dropped on the way."""
    limiter = limiters.get(key)
    if limiter is None:
        limiter = limiters[key] = Limiter(loop)
    limiters.move_to_end(key)
    oldest = next(iter(limiters))
    candidate = limiters[oldest]
    if candidate is not limiter and loop.time() - candidate.used_at > IDLE:
        limiters.move_to_end(oldest)
        if candidate.idle:
            del limiters[oldest]
    return limiter
