"""A play in which a supervisor keeps the agent: starts it again when it crashes, lets it sleep, and gives it up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import anyio

import alloy
from alloy.agents.bus import message_envelope
from alloy.errors import (
    AgentClosedError,
    AgentExistsError,
    AgentQuarantinedError,
    SessionError,
    UnknownAgentError,
)
from tests.agents.model import MAX_TURNS, World
from tests.agents.model_callers import NAME
from tests.agents.model_reference import check_messages
from tests.agents.model_script import TOOL_TIMEOUT, Plan, Setting, Start, Stop, Supervision
from tests.agents.model_world import Planned, retrying

if TYPE_CHECKING:
    from alloy.events import Envelope

WITHIN = 60.0  # seconds
BACKOFF = 0.5  # seconds


class Supervised(World):
    """One play with a supervisor."""

    agent: Any = None

    def __init__(self, setting: Setting, supervision: Supervision) -> None:
        super().__init__(setting)
        self.supervision = supervision
        self._crashes = 0
        self._crash_times: list[float] = []
        self._given_up = False
        self._topic_closed = False
        self._stopped: Any = None  # the agent that is being stopped

    # --- its life -----------------------------------------------------------------------------------------------------

    async def _start(self, step: Start) -> None:
        if self._store is not None:
            self._store.loads = step.loads or self.agent is None
        if not hasattr(self, "_home") or self._home.done():
            self._aborted = self.crashed = False
            self.reference.cancelled = False
            self.providers = []
            self._entered = asyncio.Event()
            self._leaving = asyncio.Event()
            self._home_scope = anyio.CancelScope()
            self._home = asyncio.get_running_loop().create_task(self._live(loads=True), name="home")
            await self._entered.wait()
        if self.agent is None:
            await self._rouse()
        else:
            self._spawn(lambda _: self._rouse())

    async def _live(self, *, loads: bool) -> None:
        idle = self.supervision.idle if self._store is not None else None
        self.supervisor = alloy.Supervisor(
            store=self._store,
            bus=self._bus,
            max_restarts=self.supervision.max_restarts,
            within=WITHIN,
            backoff=BACKOFF,
            idle_timeout=idle,
            grace=1.0,
            watchdog=None,
        )
        with self._home_scope:
            try:
                async with self.supervisor:
                    self._entered.set()
                    await self._leaving.wait()
            except asyncio.CancelledError:
                pass
            finally:
                self._entered.set()
        with self.watching():
            self._look()
            assert not self.reference.open, f"never settled: {list(self.reference.open)}"
            assert self.agent.health().state == "closed"
            assert all(provider.held == 0 for provider in self.providers), "a provider is still held"
            assert self.supervisor.names() == ()
            self._check_saved()

    def _check_saved(self) -> None:
        """What ended was saved, or it is said that it couldn't be."""
        health = self.agent.health()
        if self._store is not None and self._store.loaded and self._store.session is not None and not health.unsaved:
            self.reference.apply_all()
            check_messages(self._store.session.messages, [self.reference.history], "at the end")

    async def _rouse(self) -> None:
        """Has the agent awake, however it is."""
        try:
            member = self._member
            if member is None:
                await self._begin()
            elif member.state == "quarantined":
                self._crash_times = []
                self.reference.poison = {}
                await self.supervisor.revive(NAME)
            else:
                await self.supervisor.awake(NAME)
        except AgentQuarantinedError:
            pass
        except (AgentClosedError, AgentExistsError, UnknownAgentError, SessionError):
            if not self._aborted and self._store is None:
                raise
        self._look()

    async def _begin(self) -> None:
        provider = Planned(self, "planned-0")
        self.providers.append(provider)
        self._models = 0
        self._fresh_start = True
        await self.supervisor.start(
            NAME,
            provider=retrying(provider, self.setting.schedule),
            subscribe=["desk/in"],
            remember=self.setting.remember,
            on_event=self._observe,
            tools=self._tools,
            tool_timeout=TOOL_TIMEOUT,
            max_turns=MAX_TURNS,
            max_pending=self.setting.max_pending,
            timeout=self.setting.timeout,
        )

    async def _stop(self, step: Stop) -> None:
        self._look()
        accepted = list(self.reference.open.values())
        member = self._member
        awake = member is not None and member.state == "awake"
        if awake:
            self._aborted = True
            self._stopped = self.agent
        elif member is not None and member.owner is not None:
            return  # it is on its way, and somebody else's tests are about that
        try:
            left = await self.supervisor.stop_agent(NAME, step.grace)
        except (UnknownAgentError, AgentClosedError):
            assert member is None or self._leaving.is_set()
            return
        if awake:
            assert left == tuple(asked.id for asked in accepted if asked.status == "cancelled")

    # --- where it is --------------------------------------------------------------------------------------------------

    @property
    def _member(self) -> Any:
        return self.supervisor._members.get(NAME)

    def _look(self) -> None:
        reference, member = self.reference, self._member
        agent = member.agent if member is not None else None
        if agent is not None and agent is not self.agent:
            assert not reference.open, f"another agent, and these never ended: {list(reference.open)}"
            self._is_new(agent, fresh=getattr(self, "_fresh_start", False))
        if member is not None and member.state == "asleep":
            reference.forgotten = len(reference.log)
        if agent is None or member.state == "falling asleep":
            assert not reference.open or self._given_up or self._aborted, "it sleeps, and has something to do"
            reference.closed = True
        elif self._stopped is self.agent or self._given_up:
            reference.closed = True
        else:
            reference.closed = None if self._leaving.is_set() or self._home_scope.cancel_called else False
        reference.closes_with = AgentQuarantinedError if self._given_up else AgentClosedError

    def _is_new(self, agent: Any, *, fresh: bool) -> None:
        """An owner was made, for an agent that slept, was revived, or is new."""
        reference = self.reference
        history, usage = reference.history, reference.usage
        reference.apply_all()
        if not self._topic_closed:
            reference.forgotten = len(reference.log)
        reference.begin()
        if fresh:
            reference.provider = "planned-0"
            reference.poison = {}
            self._crashes, self._crash_times = 0, []
        elif self._store is None:
            reference.history, reference.usage = history, usage
        if self._given_up and not fresh:
            reference.poison = {}
        self._topic_closed = self._given_up = self._fresh_start = False
        self.agent = agent
        if self._store is not None:
            self._store.loaded = False

    def _closed(self) -> None:
        super()._closed()
        self._topic_closed = True

    # --- what it tells ------------------------------------------------------------------------------------------------

    def _sink(self, envelope: Envelope) -> None:
        super()._sink(envelope)
        with self.watching():
            match envelope.payload.get("kind"):
                case "agent_crashed":
                    self._check_crash(envelope)
                case "agent_given_up":
                    self._given_up = True
                    assert envelope.payload["waiting"] == list(self.reference.open)
                case "agent_restarted":
                    assert envelope.payload["crashes"] == self._crashes

    def _check_crash(self, envelope: Envelope) -> None:
        reference = self.reference
        if reference.poisoning is not None:
            reference.poison[reference.poisoning] = reference.poison.get(reference.poisoning, 0) + 1
            reference.poisoning = None
        self._crashes += 1
        assert envelope.payload["crashes"] == self._crashes == self.agent.health().crashes
        now = anyio.current_time()
        self._crash_times = [*(then for then in self._crash_times if now - then < WITHIN), now]
        delay, count = envelope.payload["delay_s"], len(self._crash_times)
        if count > self.supervision.max_restarts:
            assert delay is None, f"{count} crashes, and it is started again"
        else:
            longest = BACKOFF * 2 ** (count - 1)
            assert longest / 2 <= delay <= longest, f"{delay} s after {count} crashes"

    def crash(self) -> None:
        """Something crashes the agent now, and it is started again."""
        self.crashed = self.reference.crashed = True
        running = self.reference.running
        assert running is not None
        self.reference.poisoning = running.text

    def _publish(self, request_id: str, text: str, plan: Plan) -> None:
        member = self._member
        if member is None or member.state in ("starting", "falling asleep"):
            return
        closed = self.supervisor._lives.closed
        if member.state == "quarantined" or (member.state == "asleep" and closed):
            self._published = sending = self._sends(f"refused {request_id}", text, plan)
            self._bus.publish("desk/in", message_envelope(text, request_id=request_id))
            self._published = None
            assert sending.done, "neither accepted nor refused"
            return
        if member.state != "asleep":
            super()._publish(request_id, text, plan)
            return
        self._bus.publish("desk/in", message_envelope(text, request_id=request_id))  # which wakes it
        sending = self._sends(request_id, text, plan)
        assert sending.new is not None
        assert self.agent.health().pending == 1, "a message that woke the agent is lost"
