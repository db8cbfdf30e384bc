"""An agent's own budget lasts for its whole life: what it has spent is in its session."""

from __future__ import annotations

import dataclasses
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING

from alloy.errors import InvalidOptionError, SessionError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.loop.config import Config
    from alloy.providers.budget import Budget
    from alloy.sessions import Session

__all__ = ["KEY", "take_up", "with_spent"]

KEY = "alloy.spent"
"""Where a session's metadata has what an agent has spent of its own budget."""


def with_spent(session: Session, config: Config, budgets: Sequence[Budget]) -> Session:
    """A session that says what an agent has spent, if the budget is its own; what others share isn't one agent's to keep."""
    if not budgets or config.max_budget in budgets:
        return session
    return dataclasses.replace(session, metadata={**session.metadata, KEY: budgets[0].spent.as_dict()})


def take_up(session: Session, config: Config, budgets: Sequence[Budget]) -> None:
    """Counts what a session says was spent of an agent's own budget, as far as it isn't counted yet.

    Raises:
        SessionError: what it says can't be read.
    """
    if not budgets or config.max_budget in budgets or KEY not in session.metadata:
        return
    known = budgets[0].spent
    try:
        saved = session.metadata[KEY]
        money, tokens = Decimal(saved["money"]), int(saved["tokens"])
        budgets[0].spend(max(money - (known.money or 0), Decimal(0)), max(tokens - (known.tokens or 0), 0))
    except (InvalidOperation, InvalidOptionError, KeyError, TypeError, ValueError):
        raise SessionError(session.id, f"what was spent can't be read (metadata {KEY!r})") from None
