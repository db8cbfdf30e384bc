"""Says when the requests of one account may be sent, by what its server tells of its limits; nothing here awaits."""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio

from alloy.errors import InvalidOptionError, ProviderError
from alloy.providers.base import NOT_SENT, RateLimitWait
from alloy.providers.fair_queue import FairQueue
from alloy.providers.rate_buckets import Bucket
from alloy.providers.rate_headers import readings

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Mapping

    from alloy.providers.governor import Ticket
    from alloy.providers.rate_headers import Resource

__all__ = ["LEARNED", "Limiter", "RateLimits"]

LONGEST_WAIT = 600.0
"""What the server says isn't believed where that would make a request wait for longer, in seconds; then the server answers."""
MOST_CALLERS = 4096
"""For how many callers the usual size of a request is remembered."""
FIRST_GUESS = 20_000.0
"""The most tokens that a first request is taken for by its length, since that may be an image's."""
_BRISK = 4.0
"""How many times faster than the limit on average those go that have waited, so that they don't all rush at once."""
_LONGEST_GAP = 0.25  # seconds between two of them
_RECENT = 0.3  # the latest request's share of the average

_Reason: TypeAlias = Literal["retry_after", "requests", "tokens", "concurrency"]
_RESOURCES: Mapping[Resource, tuple[int, int, int]] = {
    "requests": (1, 0, 0),
    "tokens": (0, 1, 1),
    "input_tokens": (0, 1, 0),
    "output_tokens": (0, 0, 1),
}
"""What of requests, input tokens and output tokens is counted."""


def _is_above(value: object, least: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and least < value < math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimits:
    """What an account may use, as you know it; what the server tells is learned besides, and the tighter limit counts.

    Attributes:
        requests_per_minute: how many requests may be sent, on average; a tenth of them may go at once.
        tokens_per_minute: how many tokens they may take, prompts and answers, likewise.
        concurrency: how many may be under way at once.
        max_wait: how long a request may wait to be sent, in seconds; one that would wait longer fails at once.

    Raises:
        InvalidOptionError: a number that makes no sense.
    """

    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    concurrency: int | None = None
    max_wait: float = LONGEST_WAIT

    def __post_init__(self) -> None:
        for name in ("requests_per_minute", "tokens_per_minute", "max_wait"):
            value = getattr(self, name)
            if (value is not None or name == "max_wait") and not _is_above(value, 0):
                raise InvalidOptionError(name, "a number above 0", value)
        concurrency: object = self.concurrency
        if concurrency is not None and not (isinstance(concurrency, int) and _is_above(concurrency, 0)):
            raise InvalidOptionError("concurrency", "a whole number of at least 1", concurrency)


LEARNED = RateLimits()
"""No limits but those that the server tells."""


class Limiter:
    """Says when the requests of one account may go.

    Args:
        loop: the event loop that they run on.
        chance: gives numbers from 0 up to 1.

    Attributes:
        used_at: when it was used last, in the loop's time.
        flying: how many requests are under way.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, chance: Callable[[], float] = random.random) -> None:
        self._loop = loop
        self._now = loop.time
        self._chance = chance
        self.used_at = self._now()
        self.flying = 0
        self._queue: FairQueue[Ticket] = FairQueue()
        self._buckets: dict[tuple[Resource, float | None, bool], Bucket] = {}
        self._given: set[RateLimits] = set()
        self._most = math.inf
        self._taken = [0.0, 0.0, 0.0]
        self._told = [0.0, 0.0, 0.0]
        self._averages: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._average: tuple[float, float] | None = None
        self._guessed: set[Ticket] = set()
        self._closed_until = 0.0
        self._next_at = 0.0
        self._window = math.inf
        self._peak = 0
        self._cut_at = -math.inf
        self._timer: asyncio.TimerHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return not self.flying and not self._queue

    # --- who may go --------------------------------------------------------------------------------------------------

    def enter(self, ticket: Ticket) -> None:
        """Lets a request go, or has it wait for its turn.

        Raises:
            ProviderError: it would wait past a surrounding deadline, or too long (kind ``rate_limited``).
        """
        now = self.used_at = self._now()
        if ticket.account.limits is not LEARNED:
            self._take_over(ticket.account.limits, now)
        if not self._queue and self._blocked(ticket, now)[0] <= 0.0:
            self._admit(ticket, now)
            ticket.sent = True
            return
        ticket.deadline = min(anyio.current_effective_deadline(), now + ticket.account.limits.max_wait)
        ticket.waiting = True
        wait, _ = self.expected_wait(ticket)
        if now + wait >= ticket.deadline:
            raise self.refusal(ticket, wait)
        self._queue.add(ticket)
        self._pump()

    def leave(self, ticket: Ticket) -> None:
        """Ends a request, or its wait; what was taken for one that was never sent is given back."""
        self.used_at = self._now()
        if ticket.waiting:
            ticket.waiting = False
            self._queue.remove(ticket)
        else:
            self.flying -= 1
            self._guessed.discard(ticket)
            if not ticket.sent:
                self._correct(ticket, (0.0, 0.0, 0.0))
            if not ticket.answered:
                self._told[0] += ticket.cost[0]
            if not ticket.counted:
                self._told[1] += ticket.cost[1]
                self._told[2] += ticket.cost[2]
            if self._window > self._peak and not self._queue:
                self._window = math.inf
        self._pump()

    def _admit(self, ticket: Ticket, now: float) -> None:
        ticket.admit(now, (self._told[0], self._told[1], self._told[2]))
        self.flying += 1
        if self._average is None:
            self._guessed.add(ticket)
        self._taken[0] += ticket.cost[0]
        self._taken[1] += ticket.cost[1]
        self._taken[2] += ticket.cost[2]
        for bucket in self._buckets.values():
            bucket.take(_share(bucket.resource, ticket.cost), now)

    def _pump(self) -> None:
        """Lets go who may go now, and looks again when the next one may."""
        if self._timer is None and not self._queue:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now = self._now()
        while (ticket := self._queue.first()) is not None:
            wait, _ = self._blocked(ticket, now)
            wait = max(wait, self._next_at - now)
            if wait > 0.0:
                if wait < math.inf:
                    self._timer = self._loop.call_at(now + wait, self._pump)
                return
            self._queue.pop(ticket)
            self._admit(ticket, now)
            self._next_at = now + self._gap(ticket)

    def _blocked(self, ticket: Ticket, now: float) -> tuple[float, _Reason]:
        """How long a request has to wait if nobody else does, in seconds, and for what."""
        if self.flying >= self._most or self.flying >= self._window:
            return math.inf, "concurrency"
        wait, reason = self._closed_until - now, "retry_after"
        for key, bucket in list(self._buckets.items()):
            if bucket.stale(now):
                del self._buckets[key]
                continue
            alone = bucket.wait(_share(bucket.resource, ticket.cost), now)
            if alone > wait and not (bucket.learned and alone > LONGEST_WAIT):
                wait, reason = alone, "requests" if bucket.resource == "requests" else "tokens"
        return wait, reason  # type: ignore[return-value]  # the reasons are those words

    def _gap(self, ticket: Ticket) -> float:
        """How long the next of those that wait has to wait at least, after this one."""
        gaps = [_share(bucket.resource, ticket.cost) / bucket.rate / _BRISK for bucket in self._buckets.values()]
        if self._window < math.inf:
            gaps.append(1.0 / self._window)
        return min(max(gaps, default=0.0), _LONGEST_GAP) * (0.5 + self._chance())

    # --- how long it takes -------------------------------------------------------------------------------------------

    def expected_wait(self, ticket: Ticket) -> tuple[float, _Reason]:
        """How long a request that waits will likely wait, in seconds and as things stand, and for what."""
        now = self._now()
        wait, reason = self._blocked(ticket, now)
        if wait == math.inf:
            wait = max(0.0, self._closed_until - now)
        behind = self._queue.ahead(ticket) + 1
        for bucket in self._buckets.values():
            cost = _share(bucket.resource, ticket.cost)
            if bucket.learned and bucket.wait(cost, now) > LONGEST_WAIT:
                continue
            if (long := bucket.wait_behind(cost, cost * behind, now)) > wait:
                wait, reason = long, "requests" if bucket.resource == "requests" else "tokens"
        return max(wait, 0.0), reason

    def told_of(self, ticket: Ticket) -> RateLimitWait:
        """What a request waits for."""
        wait, reason = self.expected_wait(ticket)
        return RateLimitWait(
            reason=reason,
            delay=None if reason == "concurrency" else wait,
            ahead=self._queue.ahead(ticket),
            waits_for=f"{ticket.account.provider}:{ticket.account.model}",
        )

    def refusal(self, ticket: Ticket, wait: float) -> ProviderError:
        """What a request fails with that would wait for too long, or has.

        Args:
            ticket: the request's.
            wait: how long it would still wait, in seconds.
        """
        still = f"would wait for {wait:.3g} seconds" if wait >= 0.01 else "has waited for too long"
        return ProviderError(
            f"the request isn't sent: it {still} for its turn under a rate limit that it shares with others, and neither its "
            "deadline nor max_wait lets it wait longer",
            kind="rate_limited",
            code=NOT_SENT,
            retry_after=wait,
            provider=ticket.account.provider,
            model=ticket.account.model,
        )

    # --- what requests take ------------------------------------------------------------------------------------------

    def expected(self, caller: str, estimate: int | None, size: int) -> tuple[float, float, float]:
        """What a request will take: as it says, as its caller's and others' before it took, or by its length."""
        average = self._averages.get(caller) or self._average
        if average is None:
            guess = min(size / 4.0, FIRST_GUESS)
            average = (guess, guess / 4.0)
        spent, written = average
        if estimate is not None and estimate >= 0:
            written = min(written, float(estimate))
            spent = estimate - written
        return 1.0, spent, written

    def settle(self, ticket: Ticket, spent: tuple[float, float, float]) -> None:
        """Takes what a request took instead of what was expected, and remembers it."""
        self._correct(ticket, spent)
        ticket.counted = True
        latest = spent[1:]
        before = self._averages.pop(ticket.caller, None)
        self._averages[ticket.caller] = _blend(before, latest)
        self._guessed.discard(ticket)
        for guessed in self._guessed:  # what was guessed for others is known better now
            self._correct(guessed, (1.0, latest[0], latest[1]))
        self._guessed.clear()
        self._average = _blend(self._average, latest)
        if len(self._averages) > MOST_CALLERS:
            self._averages.popitem(last=False)
        self._told[1] += latest[0]
        self._told[2] += latest[1]
        self._pump()

    def _correct(self, ticket: Ticket, spent: tuple[float, float, float]) -> None:
        """Puts what a request took in the place of what was expected."""
        now = self._now()
        more = tuple(real - cost for real, cost in zip(spent, ticket.cost, strict=True))
        for bucket in self._buckets.values():
            if share := _share(bucket.resource, more):
                bucket.take(share, now)
        for index, extra in enumerate(more):
            self._taken[index] += extra
        ticket.cost = spent

    # --- what the server says ----------------------------------------------------------------------------------------

    def replied(self, ticket: Ticket, status: int, headers: Mapping[str, str]) -> None:
        """Learns from a response's headers."""
        now = self._now()
        ticket.answered = True
        self._told[0] += 1.0
        explained = False
        for reading in readings(headers):
            key = (reading.resource, reading.window, True)
            bucket = self._buckets.get(key)
            uncounted = self._uncounted(reading.resource, ticket)
            if bucket is None:
                bucket = self._buckets[key] = Bucket(reading.resource, reading.limit, now)
                bucket.level -= uncounted
            bucket.observe(reading, now, sent_at=ticket.admitted_at, uncounted=uncounted)
            short = max(_share(reading.resource, ticket.cost), reading.limit * 0.02)
            explained = explained or (reading.remaining is not None and reading.remaining < short)
        if status >= 400:
            ticket.refused = True
            self._correct(ticket, (1.0, 0.0, 0.0))
        if status == 429 and not explained:
            self._narrow(ticket, now)
        elif 200 <= status < 300:
            self._window += 1.0 / self._window  # nothing where it is infinite
        self._pump()

    def failed(self, ticket: Ticket, error: ProviderError) -> None:
        """Closes the gate for everybody where the server asks for that."""
        now = self._now()
        if error.kind == "rate_limited" and not ticket.refused:  # it came inside of an answer, without a number
            self._narrow(ticket, now)
        wait = error.retry_after
        if error.kind in ("rate_limited", "overloaded") and wait is not None and 0.0 < wait <= LONGEST_WAIT:
            error.governed = True
            until = now + wait + min(1.0, wait * 0.1) * self._chance()
            if until > self._closed_until:
                later = until > self._closed_until + 1.0
                self._closed_until = until
                if later:
                    self._refuse_in_vain(until)
        self._pump()

    def _refuse_in_vain(self, until: float) -> None:
        for ticket in [ticket for ticket in self._queue if ticket.deadline <= until]:
            ticket.refuse(self.refusal(ticket, until - self._now()))

    def _uncounted(self, resource: Resource, ticket: Ticket) -> float:
        """What was taken that the server may not have counted when it read its own numbers for this request."""
        taken = [taken - told for taken, told in zip(self._taken, ticket.told, strict=True)]
        taken[0] -= ticket.cost[0]
        return max(0.0, _share(resource, taken))

    def _narrow(self, ticket: Ticket, now: float) -> None:
        """Halves how many may be under way: the server has had enough, and no number says of what.

        Those that were sent before the last time don't count again. It widens by one for each round of answers, and is lifted
        when as many as before go well (https://www.rfc-editor.org/rfc/rfc5681 calls this congestion avoidance).
        """
        if ticket.admitted_at <= self._cut_at:
            return
        self._cut_at = now
        self._peak = self.flying
        self._window = max(1.0, min(self._window, self.flying) / 2.0)
        for bucket in self._buckets.values():
            if bucket.learned and bucket.resets_at is None:
                bucket.empty(now)

    def _take_over(self, limits: RateLimits, now: float) -> None:
        """Keeps to limits that the user has set; where adapters set several for one account, to the tightest."""
        if limits in self._given:
            return
        self._given.add(limits)
        self._most = min(self._most, limits.concurrency or math.inf)
        per_minute: dict[Resource, float | None] = {
            "requests": limits.requests_per_minute,
            "tokens": limits.tokens_per_minute,
        }
        for resource, limit in per_minute.items():
            if limit is not None:
                self._buckets[resource, limit, False] = Bucket(resource, limit, now, learned=False)


def _share(resource: Resource, amounts: tuple[float, ...] | list[float]) -> float:
    """How much of a resource there is in requests, input tokens and output tokens."""
    counted = _RESOURCES[resource]
    return counted[0] * amounts[0] + counted[1] * amounts[1] + counted[2] * amounts[2]


def _blend(before: tuple[float, float] | None, latest: tuple[float, ...]) -> tuple[float, float]:
    if before is None:
        return latest[0], latest[1]
    return before[0] + (latest[0] - before[0]) * _RECENT, before[1] + (latest[1] - before[1]) * _RECENT
