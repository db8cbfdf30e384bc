"""When and how an agent's session is saved."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import anyio

from alloy.agents.suspension import StepKeeper
from alloy.errors import SessionError
from alloy.loop.middleware import Middleware

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.agents.owner import Owner
    from alloy.loop.config import Config
    from alloy.loop.middleware import RunContext
    from alloy.messages import Message
    from alloy.result import Result
    from alloy.sessions import Session, SessionStore

__all__ = ["save", "saving"]

SAVING_SOON = 4.0  # seconds for a save that somebody's result waits for; less than a run's last words have


async def save(store: SessionStore, session: Session, *, within: float) -> Session:
    """Saves a session, whatever the store may raise.

    Args:
        store: where.
        session: what.
        within: how long the store may take, in seconds.

    Returns:
        The session as it is stored.

    Raises:
        SessionError: it can't be saved.
    """
    try:
        with anyio.fail_after(within):
            return await store.save(session)
    except SessionError:
        raise
    except TimeoutError as error:
        raise SessionError(session.id, f"it wasn't saved within {within:g} seconds") from error
    except Exception as error:
        raise SessionError(session.id, f"the store failed ({type(error).__name__})") from error


def saving(owner: Owner) -> Config:
    """How an agent runs a request: as its config says, and its session is saved before the request's end is told."""
    if owner.store is None:
        return owner.config
    config = copy.copy(owner.config)  # a copy for each request costs microseconds, and one for each agent kilobytes
    # First, since a hook of the user's that raises or hangs keeps those after it from being called.
    object.__setattr__(config, "middleware", (_Saves(owner), *config.middleware))
    return config


class _Saves(Middleware):
    def __init__(self, owner: Owner) -> None:
        self._owner = owner

    async def after_compaction(
        self,
        before: Sequence[Message],
        after: Sequence[Message],
        run: RunContext,  # noqa: ARG002  the hook's signature
    ) -> None:
        from alloy.loop.shortening import removed  # noqa: PLC0415  an agent that compacts nothing needs none of it

        # Nothing is awaited between the change of the history and this, so no save comes between them.
        self._owner.archive(removed(before, after))

    async def session_end(self, result: Result, run: RunContext) -> None:  # noqa: ARG002  the hook's signature
        keeper = self._owner.run.desk.keeper if self._owner.run is not None else None
        if isinstance(keeper, StepKeeper) and keeper.stays(result):
            return  # what is saved is where it goes on from
        self._owner.suspended = None
        try:
            await self._owner.save(result.messages, self._owner.usage + result.usage, within=SAVING_SOON)
        except SessionError as error:
            self._owner.not_saved(error)
