"""`Supervisor`: many agents by name, started again when they crash, asleep when nobody needs them, ended in order."""

from __future__ import annotations

import asyncio
import logging
import math
import signal
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Self, Unpack
from weakref import WeakValueDictionary

import anyio
from anyio.lowlevel import checkpoint

from alloy._tasks import background, cancelled_alone, ending_alone, task_group
from alloy.agents.agent import REMEMBERED
from alloy.agents.arguments import seconds, whole
from alloy.agents.bus import LocalBus
from alloy.agents.directory import register, unregister
from alloy.agents.lives import TOPIC, Lives
from alloy.agents.members import Member, Plan, given_up
from alloy.agents.owner import Watching
from alloy.agents.registry import checked_name, waiting
from alloy.agents.restarts import Restarts
from alloy.agents.subscription import subscribe
from alloy.agents.watchdog import Watchdog
from alloy.errors import (
    AgentClosedError,
    AgentExistsError,
    InvalidOptionError,
    UnknownAgentError,
    WrongEventLoopError,
)
from alloy.loop.asking import build_provider
from alloy.loop.run import configured
from alloy.sessions import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence

    from alloy.agents.agent import Agent, Health
    from alloy.agents.bus import Bus
    from alloy.agents.registry import AgentRequest
    from alloy.agents.subscription import Subscription
    from alloy.agents.watchdog import Block
    from alloy.events import EventName
    from alloy.loop.config import Config, Options
    from alloy.sessions import Session, SessionStore

__all__ = ["StopReport", "Supervisor"]

CHECKPOINT_EVERY = 16  # agents that are started before others have their turn

_log = logging.getLogger("alloy")


@dataclass(frozen=True, slots=True, kw_only=True)
class StopReport:
    """What was left when a supervisor stopped.

    Attributes:
        cancelled: the ids of requests that were cancelled because their time was up, by agent.
        unsaved: the agents whose sessions couldn't be saved, and why.
    """

    cancelled: Mapping[str, tuple[str, ...]]
    unsaved: Mapping[str, BaseException | None]

    @property
    def clean(self) -> bool:
        """Whether nothing was left."""
        return not self.cancelled and not self.unsaved


class Supervisor:
    """Agents by name: it starts them again when they crash, lets them sleep, and ends them in order.

    Enter it with ``async with``. Leaving the block stops it, with its `grace`; leaving it by an exception or a cancellation cancels
    everything at once. It belongs to the event loop on which it was entered.

    Args:
        store: where the agents' sessions are kept; with an `idle_timeout` a `MemoryStore` by default.
        bus: where envelopes are published; a `LocalBus` of its own by default.
        max_restarts: how many crashes of an agent are borne `within` some time; one more, and it is quarantined.
        within: that time, in seconds.
        backoff: the longest wait before an agent is started again, in seconds; it doubles with each crash in that time.
        idle_timeout: after how many seconds without a request an agent falls asleep; None for never.
        grace: how long accepted requests may take when the supervisor stops, in seconds.
        watchdog: for how many seconds the event loop may be blocked before that is told; None for no watchdog.

    Raises:
        InvalidOptionError: an option can't be.
    """

    def __init__(  # noqa: PLR0913  options, by name
        self,
        *,
        store: SessionStore | None = None,
        bus: Bus | None = None,
        max_restarts: int = 3,
        within: float = 60.0,
        backoff: float = 0.5,
        idle_timeout: float | None = None,
        grace: float = 10.0,
        watchdog: float | None = 1.0,
    ) -> None:
        whole("max_restarts", max_restarts, least=0)
        seconds("within", within, positive=True)
        seconds("backoff", backoff)
        self._idle_timeout = None if idle_timeout is None else seconds("idle_timeout", idle_timeout, positive=True)
        self._grace = seconds("grace", grace)
        self._watchdog = None if watchdog is None else seconds("watchdog", watchdog, positive=True)
        self._store = MemoryStore() if store is None and idle_timeout is not None else store
        self._bus = bus or LocalBus()
        self._plans: WeakValueDictionary[Any, Plan] = WeakValueDictionary()
        self._members: dict[str, Member] = {}
        self._lives = Lives(self._bus, partial(Restarts, max_restarts, within, backoff), self._forget)
        self._report: StopReport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life: Any = None

    # --- its life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._life is not None:
            raise AgentClosedError(TOPIC, "has been entered before; make a new one")
        self._life = self._live()
        await self._life.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> bool | None:
        return await self._life.__aexit__(*error)  # type: ignore[no-any-return]  # a context manager's

    @asynccontextmanager
    async def _live(self) -> AsyncIterator[None]:
        self._loop = asyncio.get_running_loop()
        self._asked = anyio.Event()
        self._stopped = anyio.Event()
        self._deadline: anyio.CancelScope | None = None
        dog = Watchdog(self._watchdog, self._blocked) if self._watchdog is not None else None
        raised: BaseException | None = None
        accepted: dict[str, tuple[AgentRequest, ...]] = {}
        if dog is not None:
            dog.start()
        try:
            async with task_group() as self._group:
                self._lives.open(self._group)
                if self._idle_timeout is not None:
                    self._group.start_soon(self._lives.sweep, self._idle_timeout)
                try:
                    yield
                    await self._stop(self._grace)
                except anyio.get_cancelled_exc_class():
                    accepted = self._close()
                    raised = AgentClosedError(TOPIC, "has ended, since a task of its was cancelled; make a new one")
                    raise  # which ends here if nobody but the group was cancelled
                except BaseException as error:  # noqa: BLE001  raised again below, and not inside an ExceptionGroup
                    accepted = self._close()
                    raised = error
                self._group.cancel_scope.cancel()
        finally:
            try:
                await self._lives.bury()
            finally:
                self._end(accepted)
                if dog is not None:
                    await dog.stop()
        if raised is not None:
            raise raised

    async def stop(self, grace: float | None = None) -> StopReport:
        """Stops all agents: none takes new requests; those that were accepted may finish for a while, and are cancelled then.

        Sessions are saved. Asking again may shorten the grace, never lengthen it; once stopped, the report is given again.

        Args:
            grace: how long accepted requests may take, in seconds; the supervisor's `grace` by default.

        Returns:
            What was left.

        Raises:
            AgentDeadlockError: a request of one of its agents asks for it.
            InvalidOptionError: `grace` is no such number.
        """
        self._check_here(TOPIC)
        grace = self._grace if grace is None else seconds("grace", grace)
        with waiting(TOPIC, [request for accepted in self._accepted().values() for request in accepted]):
            return await self._stop(grace)

    async def run_until_signal(self, grace: float | None = None) -> StopReport:
        """Waits for SIGTERM or SIGINT, or for `stop` to be called, and stops; a second signal cancels at once what is left.

        Only in the main thread, where signals arrive.

        Args:
            grace: as for `stop`.

        Returns:
            What was left.
        """
        self._check_here(TOPIC)
        grace = self._grace if grace is None else seconds("grace", grace)
        with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:

            async def hear() -> None:
                try:
                    async for number in signals:
                        _log.info("%s: stopping", number.name)
                        if self._asked.is_set():
                            self._hasten(0.0)
                        self._asked.set()
                except BaseException as error:
                    if cancelled_alone(error):  # nobody hears signals any more
                        self._asked.set()
                    raise

            async with background(hear):
                await self._asked.wait()
                return await self._stop(grace)

    async def _stop(self, grace: float) -> StopReport:
        if self._report is None and self._deadline is None:
            self._deadline = anyio.CancelScope(deadline=math.inf)
            self._close()
            self._group.start_soon(self._stop_all, self._deadline)
        self._hasten(grace)
        await self._stopped.wait()
        assert self._report is not None  # noqa: S101  it is there when the event is set
        return self._report

    def _hasten(self, grace: float) -> None:
        if self._deadline is not None:
            self._deadline.deadline = min(self._deadline.deadline, anyio.current_time() + grace)

    async def _stop_all(self, grace: anyio.CancelScope) -> None:
        with ending_alone, grace:
            await self._lives.wait_for_all()
        left = self._accepted()
        for member in self._lives.alive:
            if member.owner is not None:
                member.owner.abort("the supervisor was stopped")
        with ending_alone:
            await self._lives.wait_for_all()
        self._end(left)

    def _close(self) -> dict[str, tuple[AgentRequest, ...]]:
        """Takes nothing more, and tells what was accepted."""
        self._lives.closed = True
        self._asked.set()
        for member in self._lives.alive:
            if member.owner is not None:
                member.owner.close(partial(AgentClosedError, member.name, "is being stopped with its supervisor"))
        return self._accepted()

    def _accepted(self) -> dict[str, tuple[AgentRequest, ...]]:
        return {
            m.name: tuple(m.owner.registry) for m in self._lives.alive if m.owner is not None and len(m.owner.registry)
        }

    def _end(self, left: dict[str, tuple[AgentRequest, ...]]) -> None:
        """Makes the report and forgets the agents."""
        if self._report is not None:
            return
        cancelled = {
            name: tuple(r.id for r in requests if r.result is not None and r.result.status == "cancelled")
            for name, requests in left.items()
        }
        self._report = StopReport(
            cancelled={name: ids for name, ids in cancelled.items() if ids}, unsaved=dict(self._lives.unsaved)
        )
        if not self._report.clean:
            _log.warning("the supervisor has stopped, and left something: %s", self._report)
        for member in tuple(self._members.values()):
            self._forget(member)
        self._bus.close(TOPIC)
        self._stopped.set()

    # --- agents -------------------------------------------------------------------------------------------------------

    async def start(
        self,
        name: str,
        config: Config | None = None,
        *,
        subscribe: Sequence[str] = (),
        remember: int = REMEMBERED,
        on_shutdown: Callable[[Session], Awaitable[object]] | None = None,
        **options: Unpack[Options],
    ) -> Agent:
        """Starts an agent, and waits until its session is loaded; `Agent` says more about the arguments.

        Whoever is cancelled while waiting leaves the agent to the supervisor. Agents that are given the same `Config` object share its
        provider.

        Args:
            name: what it is called, and its session's id.
            config: how requests are run; options by name go before it.
            subscribe: topics of the bus; what is published there is a request, and wakes the agent if it sleeps.
            remember: how many requests that have ended are remembered.
            on_shutdown: called with the session when the agent has ended or fallen asleep.
            options: see `Config`.

        Raises:
            AgentExistsError: there is an agent of this name.
            AgentQuarantinedError: there was, until it crashed too often.
            AgentClosedError: the supervisor isn't running.
            SessionError: its session can't be read; nothing was started.
            ConfigurationError: an option can't be.
        """
        self._check_open(checked_name("name", name))
        known = self._members.get(name)
        if known is not None:
            raise given_up(name, known.cause) if known.state == "quarantined" else AgentExistsError(name)
        member = Member(
            name, self._plan(configured(config, options), subscribe, whole("remember", remember), on_shutdown)
        )
        register(name, self)
        self._members[name] = member
        self._lives.begin(member)
        if len(self._members) % CHECKPOINT_EVERY == 0:
            await checkpoint()
        return await self._awake(member)

    async def get_or_start(self, name: str, config: Config | None = None, **options: Any) -> Agent:
        """The agent of this name: as it runs, woken up, or new.

        Args:
            name: whose.
            config: how to start it if there is none; takes no effect if there is.
            options: likewise; what `start` takes.

        Raises:
            AgentError, SessionError, ConfigurationError: as from `start` and `awake`.
        """
        self._check_open(checked_name("name", name))
        if name in self._members:
            return await self.awake(name)
        return await self.start(name, config, **options)

    async def awake(self, name: str) -> Agent:
        """The agent of this name, woken up where it sleeps.

        Raises:
            UnknownAgentError: there is none.
            AgentQuarantinedError: it crashed too often.
            AgentClosedError: the supervisor isn't running, or the agent was stopped meanwhile.
        """
        self._check_open(name)
        return await self._awake(self._member(name))

    async def revive(self, name: str) -> Agent:
        """Starts a quarantined agent again, from its session; its crashes are forgotten, and so is which messages caused them.

        Raises:
            UnknownAgentError: there is none of this name.
            AgentClosedError: the supervisor isn't running.
        """
        self._check_open(name)
        member = self._member(name)
        if member.state == "quarantined":
            member.restarts = member.cause = None
            self._lives.wake(member)
        return await self._awake(member)

    async def stop_agent(self, name: str, grace: float | None = None) -> tuple[str, ...]:
        """Ends one agent, awake or not, as `Agent.stop` does; its session stays, and its name is free.

        Args:
            name: which one.
            grace: how long its accepted requests may take, in seconds; the supervisor's `grace` by default.

        Returns:
            The ids of the requests that were cancelled.

        Raises:
            UnknownAgentError: there is none of this name.
            AgentDeadlockError: a request of its own asks for it.
        """
        self._check_here(name)
        member = self._member(name)
        grace = self._grace if grace is None else seconds("grace", grace)
        left: tuple[str, ...] = ()
        while member.owner is not None:
            if member.state == "awake" and member.agent is not None:
                left += await member.agent.stop(grace)
            else:
                if member.state != "falling asleep":
                    member.owner.close(partial(AgentClosedError, name, "is being stopped; start a new one"))
                    member.owner.abort("the agent was stopped")
                await member.change()
        self._forget(member)
        return left

    def get(self, name: str) -> Agent:
        """The agent of this name, which runs; never waits.

        Raises:
            UnknownAgentError: there is none.
            AgentClosedError: it sleeps, or has still to start; `awake` waits for it.
            AgentQuarantinedError: it crashed too often.
        """
        self._check_here(name)
        member = self._member(name)
        if member.state == "awake" and member.agent is not None:
            return member.agent
        raise given_up(name, member.cause) if member.state == "quarantined" else member.sleeps()

    def names(self) -> tuple[str, ...]:
        """The names of all agents, awake or not, in the order in which they were started."""
        self._check_here(TOPIC)
        return tuple(self._members)

    def health(self) -> Mapping[str, Health]:
        """How all agents are, by name."""
        self._check_here(TOPIC)
        return {name: member.health() for name, member in self._members.items()}

    def subscribe(
        self, *, events: Collection[EventName] | None = None, after: int | None = None, buffer: int = 1024
    ) -> Subscription:
        """What befalls the supervisor and its agents: a ``runtime_event`` for each crash, restart and block of the event loop.

        Takes what `Agent.subscribe` takes.
        """
        self._check_here(TOPIC)
        return subscribe(self._bus, TOPIC, events=events, after=after, buffer=buffer, agent=TOPIC)

    def __repr__(self) -> str:
        return f"<Supervisor of {len(self._members)} agents, {len(self._lives.alive)} awake>"

    # --- the rest -----------------------------------------------------------------------------------------------------

    async def _awake(self, member: Member) -> Agent:
        """An agent, as soon as it runs."""
        while member.state != "awake" or member.agent is None:
            if member.state == "asleep":
                self._check_open(member.name)
                self._lives.wake(member)
            elif member.state == "quarantined":
                raise given_up(member.name, member.cause)
            elif member.state == "gone":
                raise member.cause or AgentClosedError(member.name, "was stopped before it ran; start a new one")
            await member.change()
        return member.agent

    def _forget(self, member: Member) -> None:
        """Ends what an agent has besides its task: its name, and what listens and is listened to."""
        for detach in member.detach:
            detach()
        member.detach = ()
        if self._members.get(member.name) is member:
            del self._members[member.name]
            unregister(member.name, self)
            self._bus.close(f"agent/{member.name}")
        if member.state != "gone":
            member.become("gone")

    def _plan(
        self,
        config: Config,
        topics: Sequence[str],
        remember: int,
        on_shutdown: Callable[[Session], Awaitable[object]] | None,
    ) -> Plan:
        """How to make an agent: the plan of others that are made alike, if there are any."""
        if isinstance(topics, str):
            raise InvalidOptionError("subscribe", "a list of topics", topics)
        topics = tuple(checked_name("subscribe", topic) for topic in topics)
        key = (id(config), topics, remember, id(on_shutdown))  # whose objects live as long as the plan
        plan = self._plans.get(key)
        if plan is None:
            watching = Watching(self._bus, (), self._store, on_shutdown)
            plan = self._plans[key] = Plan(config, build_provider(config), watching, topics, remember)
        return plan

    def _member(self, name: str) -> Member:
        if name not in self._members:
            raise UnknownAgentError(name, self._members)
        return self._members[name]

    def _blocked(self, block: Block) -> None:
        self._lives.tell("loop_blocked", seconds=round(block.seconds, 3), frame=block.frame)

    def _check_here(self, name: str) -> None:
        if self._loop is None:
            raise AgentClosedError(name, "has no supervisor that runs; enter it with 'async with'")
        if asyncio._get_running_loop() is not self._loop:  # noqa: SLF001  the only way to ask that doesn't raise
            raise WrongEventLoopError(name)

    def _check_open(self, name: str) -> None:
        self._check_here(name)
        if self._lives.closed:
            raise AgentClosedError(name, "can't be started: its supervisor is stopping, or has stopped")
