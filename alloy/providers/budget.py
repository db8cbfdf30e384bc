"""Budgets: how much may be spent, in money or tokens, and by whom together; no I/O.

What a request may take at most is reserved before it is sent, and settled afterwards. All of it is plain arithmetic under one
lock, so a budget may be shared by runs on several event loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import TYPE_CHECKING, Any

import anyio

from alloy.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "ZERO",
    "Amount",
    "Budget",
    "Reservation",
    "covers",
    "dollars",
    "lacking",
    "room",
    "together",
    "wait_for_others",
]

ZERO = Decimal(0)
_SMALLEST = Decimal("1e-12")
"""What money is rounded up to, in dollars, so that what is added and taken away again leaves nothing."""
_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Amount:
    """Money and tokens; None where they aren't limited, and so aren't counted.

    Attributes:
        money: in US dollars.
        tokens: prompt, cached or not, and output.
    """

    money: Decimal | None = None
    tokens: int | None = None

    def of_limit(self, limit: Amount) -> Amount:
        """What of it a limit is about."""
        money = None if limit.money is None else self.money
        return Amount(money, None if limit.tokens is None else self.tokens)

    def as_dict(self) -> dict[str, str | int | None]:
        """Both by name, JSON-ready; money as text."""
        return {"money": None if self.money is None else f"{self.money.normalize():f}", "tokens": self.tokens}

    def __str__(self) -> str:
        money = () if self.money is None else (f"${_shown(self.money)}",)
        tokens = () if self.tokens is None else (f"{self.tokens} tokens",)
        return " and ".join((*money, *tokens)) or "nothing"


class Budget:
    """How much may be spent. Hand the same object to several runs and agents, and they spend from it together.

    It may be used from several event loops and threads.

    Args:
        money: how much, in US dollars; None for no limit.
        tokens: how many, prompts and answers together; None for no limit.
        parent: a budget that everything is spent from as well.
        spent: what was spent before, such as what you kept of `Budget.spent`.

    Raises:
        InvalidOptionError: a value is wrong, or nothing is limited.
    """

    __slots__ = ("_money", "_parent", "_reserved", "_spent", "_tokens", "_waiting")

    def __init__(
        self,
        money: Decimal | float | None = None,
        tokens: int | None = None,
        *,
        parent: Budget | None = None,
        spent: Amount | None = None,
    ) -> None:
        self._money = None if money is None else dollars("budget.money", money)
        self._tokens = None if tokens is None else _count("budget.tokens", tokens)
        if parent is not None and not isinstance(parent, Budget):
            raise InvalidOptionError("budget.parent", "a Budget or None", parent)
        if money is None and tokens is None and parent is None:
            raise InvalidOptionError("budget", "money, tokens or both", None)
        self._parent = parent
        before = spent or Amount()
        self._spent = (before.money or ZERO, before.tokens or 0)
        self._reserved = (ZERO, 0)
        self._waiting: list[tuple[asyncio.AbstractEventLoop, anyio.Event]] = []

    @property
    def limit(self) -> Amount:
        """How much may be spent in all."""
        return Amount(self._money, self._tokens)

    @property
    def parent(self) -> Budget | None:
        """The budget that everything is spent from as well."""
        return self._parent

    @property
    def spent(self) -> Amount:
        """What was spent so far; more than the limit where a vendor counted more than could be foreseen."""
        return self._counted(*self._spent)

    @property
    def reserved(self) -> Amount:
        """What the requests that run may take at most, which isn't in `spent` yet."""
        return self._counted(*self._reserved)

    @property
    def left(self) -> Amount:
        """What can be reserved now, here and at its parents; None for what isn't limited."""
        return room(together((self,)))

    def spend(self, money: Decimal | float | None = None, tokens: int = 0) -> None:
        """Counts what was spent elsewhere, here and at its parents.

        Args:
            money: how much, in US dollars.
            tokens: how many.

        Raises:
            InvalidOptionError: less than nothing.
        """
        paid = (ZERO if money is None else _rounded(dollars("money", money)), _count("tokens", tokens))
        with _lock:
            for one in together((self,)):
                one._spent = _plus(one._spent, paid)  # noqa: SLF001  its own class

    def _counted(self, money: Decimal, tokens: int) -> Amount:
        return Amount(None if self._money is None else money, tokens)

    def _room(self) -> Amount:
        """What isn't spent or reserved."""
        money, tokens = _plus(self._spent, self._reserved)
        return Amount(
            None if self._money is None else max(self._money - money, ZERO),
            None if self._tokens is None else max(self._tokens - tokens, 0),
        )

    def __repr__(self) -> str:
        return f"Budget(limit={self.limit}, spent={self.spent})"


class Reservation:
    """What a request may take at most, taken out of some budgets until it is settled."""

    __slots__ = ("_amount", "_budgets", "_open")

    def __init__(self, budgets: Sequence[Budget], amount: tuple[Decimal, int]) -> None:
        self._budgets = budgets
        self._amount = amount
        self._open = True

    @classmethod
    def of(cls, budgets: Sequence[Budget], amount: tuple[Decimal, int]) -> Reservation | None:
        """Reserves an amount in all of some budgets, if each of them has so much left; else in none.

        Args:
            budgets: what `together` gives.
            amount: dollars and tokens.
        """
        amount = (_rounded(amount[0]), amount[1])
        with _lock:
            if not covers(_least(budgets), amount):
                return None
            for one in budgets:
                one._reserved = _plus(one._reserved, amount)  # noqa: SLF001  its own file
        return cls(budgets, amount)

    def spend(self, amount: tuple[Decimal, int]) -> None:
        """Counts what was spent besides, such as by an attempt that failed; the reservation stays."""
        amount = (_rounded(amount[0]), amount[1])
        with _lock:
            for one in self._budgets:
                one._spent = _plus(one._spent, amount)  # noqa: SLF001  likewise

    def settle(self, amount: tuple[Decimal, int] | None = None) -> None:
        """Ends it, the first time it is called: counts what was spent, and gives the rest back.

        Args:
            amount: dollars and tokens, also more than was reserved; None for all that was reserved.
        """
        spent = self._amount if amount is None else (_rounded(amount[0]), amount[1])
        with _lock:
            if not self._open:
                return
            self._open = False
            back = (-self._amount[0], -self._amount[1])
            waiting = []
            for one in self._budgets:
                one._reserved = _plus(one._reserved, back)  # noqa: SLF001  likewise
                one._spent = _plus(one._spent, spent)  # noqa: SLF001  likewise
                waiting += one._waiting  # noqa: SLF001  likewise
                one._waiting = []  # noqa: SLF001  likewise
        for loop, event in waiting:
            with contextlib.suppress(RuntimeError):  # its loop is closed
                loop.call_soon_threadsafe(event.set)


def together(budgets: Iterable[Budget]) -> tuple[Budget, ...]:
    """Some budgets and all their parents, each once."""
    found: dict[int, Budget] = {}
    for budget in budgets:
        one: Budget | None = budget
        while one is not None:
            found[id(one)] = one
            one = one.parent
    return tuple(found.values())


def room(budgets: Sequence[Budget]) -> Amount:
    """What can be reserved in all of some budgets."""
    with _lock:
        return _least(budgets)


def lacking(budgets: Sequence[Budget], amount: tuple[Decimal, int]) -> Budget:
    """The first of some budgets that has less left than an amount; else the first."""
    with _lock:
        return next((one for one in budgets if not covers(one._room(), amount)), budgets[0])  # noqa: SLF001  its own file


async def wait_for_others(budgets: Sequence[Budget]) -> bool:
    """Waits until something that others have reserved is settled.

    Returns:
        False, at once, if nobody has reserved anything.
    """
    mine = (asyncio.get_running_loop(), anyio.Event())
    with _lock:
        held = [one for one in budgets if any(one._reserved)]  # noqa: SLF001  its own file
        for one in held:
            one._waiting.append(mine)  # noqa: SLF001  likewise
    if not held:
        return False
    try:
        await mine[1].wait()
    finally:
        with _lock:
            for one in held:
                one._waiting = [other for other in one._waiting if other is not mine]  # noqa: SLF001  likewise
    return True


def covers(left: Amount, amount: tuple[Decimal, int]) -> bool:
    """Whether so many dollars and tokens are left."""
    money, tokens = amount
    return (left.money is None or money <= left.money) and (left.tokens is None or tokens <= left.tokens)


def dollars(name: str, value: Any) -> Decimal:
    """A number of US dollars.

    Raises:
        InvalidOptionError: it is none of at least 0.
    """
    number = isinstance(value, int | float | Decimal) and not isinstance(value, bool)
    if not number or not math.isfinite(value) or value < 0:
        raise InvalidOptionError(name, "a number of US dollars of at least 0", value)
    return Decimal(str(value))


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InvalidOptionError(name, "a number of tokens of at least 0", value)
    return value


def _least(budgets: Sequence[Budget]) -> Amount:
    rooms = [one._room() for one in budgets]  # noqa: SLF001  its own file
    return Amount(
        min((one.money for one in rooms if one.money is not None), default=None),
        min((one.tokens for one in rooms if one.tokens is not None), default=None),
    )


def _plus(one: tuple[Decimal, int], other: tuple[Decimal, int]) -> tuple[Decimal, int]:
    return one[0] + other[0], one[1] + other[1]


def _rounded(money: Decimal) -> Decimal:
    return money.quantize(_SMALLEST, rounding=ROUND_CEILING)


def _shown(money: Decimal) -> str:
    """At least cents, and of a little its first digits."""
    if money == 0 or money >= 1:
        return f"{money:.2f}"
    return f"{money:.{max(2, 1 - money.adjusted())}f}"
