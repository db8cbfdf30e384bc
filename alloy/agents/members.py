"""What a supervisor knows of each of its agents, awake or asleep."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

import anyio

from alloy.agents.agent import Agent, Health
from alloy.agents.owner import Owner
from alloy.errors import AgentClosedError, AgentQuarantinedError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from alloy.agents.agent import AgentState
    from alloy.agents.owner import Watching
    from alloy.agents.restarts import Poison, Restarts
    from alloy.events import Envelope
    from alloy.loop.config import Config
    from alloy.loop.conversation import History
    from alloy.providers.base import Provider
    from alloy.providers.budget import Budget
    from alloy.usage import Usage

__all__ = ["Ending", "Member", "Plan", "given_up"]

Ending: TypeAlias = Literal["asleep", "quarantined", "gone"]
State: TypeAlias = Literal["starting", "awake", "falling asleep", "waking"] | Ending


@dataclass(frozen=True, slots=True, weakref_slot=True)
class Plan:
    """How an agent is made; agents that are made alike share one.

    Attributes:
        config: how it runs its requests.
        provider: the provider of `config`.
        watching: what it is connected with, but for its topics.
        topics: the topics it listens to; the supervisor listens for it, also while it sleeps.
        remember: how many settled requests are remembered.
    """

    config: Config
    provider: Provider
    watching: Watching
    topics: tuple[str, ...]
    remember: int


class Member:
    """One agent of a supervisor. What it needs while it is awake, its owner, is gone while it sleeps.

    Attributes:
        name: its name.
        plan: how to make it.
        state: where it is.
        agent: its face, while there is one.
        owner: its owner, likewise.
        cause: why it is quarantined, or couldn't be started.
        restarts: its crashes, if there were any.
        detach: what ends its listening to its topics.
        idle_since: when it was first seen to be idle.
        seen: its newest envelope's number then.
    """

    __slots__ = (
        "_changed",
        "_crashes",
        "_held",
        "_kept",
        "_messages",
        "_poison",
        "agent",
        "cause",
        "detach",
        "idle_since",
        "name",
        "owner",
        "plan",
        "restarts",
        "seen",
        "state",
    )

    def __init__(self, name: str, plan: Plan) -> None:
        self.name = name
        self.plan = plan
        self.state: State = "starting"
        self.agent: Agent | None = None
        self.owner: Owner | None = None
        self.cause: BaseException | None = None
        self.restarts: Restarts | None = None
        self.detach: tuple[Callable[[], None], ...] = ()
        self.idle_since: float | None = None
        self.seen = 0
        self._changed: anyio.Event | None = None
        self._held: deque[Envelope] | None = None
        self._poison: Poison | None = None
        self._kept: tuple[History, Usage, tuple[Budget, ...]] | None = None
        self._messages = 0
        self._crashes = 0

    # --- states -------------------------------------------------------------------------------------------------------

    def become(self, state: State) -> None:
        """Changes the state; whoever waits for that goes on."""
        self.state = state
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def change(self) -> None:
        """Waits until the state changes."""
        self._changed = self._changed or anyio.Event()
        await self._changed.wait()

    def begin(self) -> Owner:
        """Makes the owner, out of the plan and of what is known from before."""
        plan = self.plan
        self.owner = owner = Owner(
            self.name, plan.config, plan.watching, remember=plan.remember, provider=plan.provider
        )
        owner.crashes, owner.poison = self._crashes, self._poison
        if self._kept is not None:
            owner.history, owner.usage, owner.budgets = self._kept
            self._kept = None
        owner.begin()
        self.agent = Agent.of(owner)
        self.idle_since = None
        return owner

    def end(self, ending: Ending) -> None:
        """Lets the owner go, and keeps what is needed to make another one."""
        owner = self.owner
        assert owner is not None  # noqa: S101  whoever ends has begun
        self._messages, self._crashes = len(owner.history.messages), owner.crashes
        self._poison = owner.poison if ending == "asleep" else None
        if ending == "quarantined" and owner.store is None:  # nobody else has it
            self._kept = owner.history, owner.usage, owner.budgets
        plan = self.plan
        if owner.config is not plan.config:  # it got another model
            self.plan = Plan(owner.config, owner.provider, plan.watching, plan.topics, plan.remember)
        self.owner = self.agent = None
        self.become(ending)

    # --- messages that come while it falls asleep ---------------------------------------------------------------------

    def hold(self, envelope: Envelope) -> bool:
        """Keeps a message until the agent is awake again; False where as many are kept as may wait."""
        self._held = self._held or deque()
        if len(self._held) > self.plan.config.max_pending:
            return False
        self._held.append(envelope)
        return True

    def held(self) -> Sequence[Envelope]:
        """The messages that were kept, which are forgotten now."""
        held, self._held = self._held or (), None
        return tuple(held)

    # --- words --------------------------------------------------------------------------------------------------------

    def sleeps(self) -> AgentClosedError:
        """What whoever has an agent that sleeps is told."""
        return AgentClosedError(
            self.name, "sleeps; wake it with 'await supervisor.awake(name)', or send to it by its name"
        )

    def health(self) -> Health:
        """How it is."""
        if self.agent is not None and self.state in ("awake", "falling asleep"):
            return self.agent.health()
        states: dict[State, AgentState] = {"asleep": "asleep", "quarantined": "quarantined", "gone": "closed"}
        return Health(
            name=self.name,
            state=states.get(self.state, "starting"),
            running=None,
            pending=0 if self.owner is None else len(self.owner.registry),
            messages=self._messages,
            crashes=self._crashes,
            unsaved=False,
            error=self.cause,
        )


def given_up(agent: str, cause: BaseException | None) -> AgentQuarantinedError:
    """What whoever comes to a quarantined agent is told."""
    why = "has crashed too often and isn't started again before 'await supervisor.revive(name)'"
    return AgentQuarantinedError(agent, cause or RuntimeError("no cause is known"), why)
