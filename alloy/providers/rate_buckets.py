"""How much of a limit is left, reckoned from what was taken and corrected by what the server says; no I/O."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from alloy.providers.rate_headers import Reading, Resource

__all__ = ["Bucket"]

RESERVE = 0.02
"""The share of a learned limit that is left alone: requests may arrive a second sooner or later than they were sent."""
BURST = 0.1
"""How much of a limit set by hand may go at once."""
STALE = 600.0
"""For how long, in seconds, a limit holds that the server has stopped to speak of."""
_STANDARD = (1.0, 60.0, 3600.0, 86_400.0)
_TELLING = 1.0  # seconds; a shorter reset doesn't tell one kind of limit from the other
_PERSUADED = 20  # readings in a row


class Bucket:
    """One limit of one account.

    It fills again bit by bit, or all at once at the end of a window; a server's readings say which.

    Args:
        resource: what it holds.
        limit: how much of it there is in a window.
        now: the time, in seconds of the event loop's clock, as everywhere here.
        window: how long a window is, in seconds.
        learned: whether the server told of it; if not, the user set it.

    Attributes:
        resource: what it holds.
        learned: whether the server told of it.
        level: how much is there; below 0 where more was taken than was expected.
        resets_at: when all of it is there again at once; None where that isn't known, or it comes back bit by bit.
    """

    __slots__ = (
        "_at",
        "_capacity",
        "_contradicted",
        "_epoch",
        "_limit",
        "_matches",
        "_seen",
        "_window",
        "learned",
        "level",
        "resets_at",
        "resource",
    )

    def __init__(
        self, resource: Resource, limit: float, now: float, *, window: float = 60.0, learned: bool = True
    ) -> None:
        self.resource = resource
        self.learned = learned
        self._limit = limit
        self._capacity = limit if learned else max(limit * BURST, 1.0)
        self._window = window
        self.level = self._capacity
        self.resets_at: float | None = None
        self._at = self._seen = now
        self._epoch = -math.inf
        self._contradicted = False
        self._matches = 0

    @property
    def rate(self) -> float:
        """How much comes back, per second and on average."""
        return self._limit / self._window

    def stale(self, now: float) -> bool:
        """Whether the server hasn't spoken of it for long."""
        return self.learned and now - self._seen > STALE + self._window

    def wait(self, cost: float, now: float) -> float:
        """In how many seconds there is enough; what is larger than all that there ever is has to be the server's to refuse."""
        self._refill(now)
        if self.learned and cost > self._limit:
            return 0.0
        need = min(cost + (self._limit * RESERVE if self.learned else 0.0), self._capacity)
        if self.level >= need - 1e-9:
            return 0.0
        if self.resets_at is not None:
            return self.resets_at - now
        return (need - self.level) / self.rate

    def wait_behind(self, cost: float, total: float, now: float) -> float:
        """In how many seconds there is likely enough for one that takes `cost`, after others, `total` with it."""
        alone = self.wait(cost, now)
        if alone == 0.0 and (self.level >= total or (self.learned and cost > self._limit)):
            return 0.0
        if self.resets_at is not None:
            windows = max(0, math.ceil((total - max(self.level, 0.0)) / self._limit) - 1)
            return self.resets_at - now + windows * self._window
        return max(alone, (total - self.level) / self.rate)

    def take(self, cost: float, now: float) -> None:
        """Takes some out, or gives it back where `cost` is below 0."""
        self._refill(now)
        self.level = max(-self._limit, min(self._capacity, self.level - cost))

    def empty(self, now: float) -> None:
        """Takes the server at its word that nothing is left, though it gave no number."""
        self._refill(now)
        self.level = min(self.level, 0.0)

    def observe(self, reading: Reading, now: float, *, sent_at: float, uncounted: float) -> None:
        """Corrects it by what the server says.

        When the server read its own number, it may not yet have counted what was under way. So what is left now lies between
        that number without all of that, and that number with what has come back since the request was sent.

        Args:
            reading: what it says.
            now: when it came.
            sent_at: when the request was sent that it came with.
            uncounted: what was taken that it may not include.
        """
        self._refill(now)
        if reading.limit != self._limit:
            self.level = min(self.level, reading.limit)
            self._limit = self._capacity = reading.limit
        self._seen = now
        self._classify(reading, now, sent_at)
        if reading.remaining is None or sent_at < self._epoch:
            return
        back = 0.0 if self.resets_at is not None else (now - sent_at) * self.rate
        self.level = min(max(self.level, reading.remaining - uncounted), reading.remaining + back, self._limit)

    def _classify(self, reading: Reading, now: float, sent_at: float) -> None:
        """Learns how it comes back: a reset in proportion to what is missing is that of one that fills bit by bit."""
        if reading.window is not None:
            self._window = reading.window
        if reading.refills or reading.remaining is None or reading.reset is None:
            return
        if reading.reset > _TELLING:
            missing = 1.0 - reading.remaining / reading.limit
            windows = (reading.window,) if reading.window else _STANDARD
            matching = [one for one in windows if abs(reading.reset - missing * one) <= max(1.0, reading.reset * 0.1)]
            self._matches = self._matches + 1 if matching else 0
            self._contradicted = not matching or (self._contradicted and self._matches < _PERSUADED)
            if reading.window is None:
                whole = (one for one in _STANDARD[1:] if one >= reading.reset)
                self._window = matching[0] if matching else next(whole, _STANDARD[-1])
        if not self._contradicted:
            self.resets_at = None
        elif sent_at >= self._epoch:
            self.resets_at = now + reading.reset + (1.0 if reading.coarse else 0.0)

    def _refill(self, now: float) -> None:
        if self.resets_at is not None:
            if now >= self.resets_at:
                self.level, self._epoch, self.resets_at = self._capacity, now, now + self._window  # until it's told
        elif now > self._at:
            self.level = min(self._capacity, self.level + (now - self._at) * self.rate)
        self._at = now
