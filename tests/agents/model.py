"""Plays: an agent, its subscribers and its callers, driven step by step, and compared with the reference all the time."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

import alloy
from alloy.agents.bus import LocalBus
from alloy.errors import (
    AgentCrashedError,
    RequestSettledError,
    SessionError,
)
from alloy.testing.virtual import run_virtually
from tests.agents import model_script as script
from tests.agents.model_callers import LONG, NAME, TOPIC, Callers
from tests.agents.model_reference import Asked, Reference, check_messages, plain
from tests.agents.model_world import Planned, SlowStore, make_tools, retrying

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from alloy.events import Envelope

MAX_TURNS = 3


@dataclass
class Counts:
    """How much was played."""

    plays: int = 0
    steps: int = 0
    envelopes: int = 0
    requests: int = 0


COUNTS = Counts()


def play(setting: script.Setting, steps: Sequence[script.Step]) -> World:
    """Plays it all, and checks everything; raises where the agent isn't as the reference."""
    COUNTS.plays += 1
    COUNTS.steps += len(steps)
    world = World(setting) if setting.supervised is None else _supervised(setting, setting.supervised)
    try:
        run_virtually(world.play(steps), setting.schedule)
    except BaseException as error:
        if world.failure is not None and world.failure is not error:
            raise world.failure from error
        raise
    COUNTS.envelopes += len(world.reference.log)
    return world


def _supervised(setting: script.Setting, supervision: script.Supervision) -> World:
    from tests.agents.model_supervised import Supervised  # noqa: PLC0415  which is made of this module

    return Supervised(setting, supervision)


class World(Callers):
    """One play."""

    def __init__(self, setting: script.Setting) -> None:
        super().__init__(setting, Reference(setting, MAX_TURNS), LocalBus(replay=setting.replay))
        self.failure: BaseException | None = None
        self.crashed = False
        self.calls: dict[str, Any] = {}
        self._tools = make_tools(self)
        self._store = None if setting.saves is None else SlowStore(self)
        self._called = 0
        self._on_event: list[Envelope] = []

    # --- the play -----------------------------------------------------------------------------------------------------

    async def play(self, steps: Sequence[script.Step]) -> None:
        self._attach()
        await self._start(script.Start())
        for step in steps:
            await self._do(step)
            await checkpoint()
            self.check()
        await anyio.sleep(LONG)
        self.check()
        self._check_rest()
        self._leave(script.Leave(cancelled=False))
        await self._home
        await anyio.sleep(LONG)
        left = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        assert not left, f"tasks left: {left}"
        self.check()

    async def _do(self, step: script.Step) -> None:  # noqa: C901, PLR0912  one case for each action
        match step:
            case script.Send():
                await self._send(step)
            case script.CancelRequest():
                await self._cancel_request(self._id(step.who))
            case script.CancelTask():
                self._cancel_task(step)
            case script.Ask():
                self._spawn(lambda one: self._ask(one, self._id(step.who)))
            case script.Watch():
                self._watch(step)
            case script.Listen():
                self._listen(step)
            case script.Reset():
                await self._reset()
            case script.SetModel():
                await self._set_model()
            case script.Pass():
                await anyio.sleep(step.seconds)
            case script.Breathe():
                for _ in range(step.rounds):
                    await checkpoint()
            case script.Stop():
                self._spawn(lambda _: self._stop(step))
            case script.Leave():
                self._leave(step)
            case script.Start():
                await self._start(step)

    # --- a life -------------------------------------------------------------------------------------------------------

    async def _start(self, step: script.Start) -> None:
        if hasattr(self, "_home"):
            if not self._home.done():
                return
            await self._home
        self._entered = asyncio.Event()
        self._leaving = asyncio.Event()
        self._home_scope = anyio.CancelScope()
        self._home = asyncio.get_running_loop().create_task(self._live(loads=step.loads), name="home")
        await self._entered.wait()

    def _make(self, *, loads: bool) -> None:
        self.reference.begin()
        self.crashed = self._aborted = False
        self._models = 0
        self.reference.provider = "planned-0"
        self.providers = [Planned(self, "planned-0")]
        if self._store:
            self._store.loads, self._store.good = loads, True
        self._goodbyes: list[Any] = []
        self.agent = alloy.Agent(
            provider=retrying(self.providers[0], self.setting.schedule),
            name=NAME,
            store=self._store,
            bus=self._bus,
            subscribe=["desk/in"],
            remember=self.setting.remember,
            on_shutdown=self._goodbye,
            on_event=self._observe,
            tools=self._tools,
            tool_timeout=script.TOOL_TIMEOUT,
            max_turns=MAX_TURNS,
            max_pending=self.setting.max_pending,
            timeout=self.setting.timeout,
        )

    async def _live(self, *, loads: bool) -> None:
        self._make(loads=loads)
        error: BaseException | None = None
        entered = False
        with self._home_scope:
            try:
                async with self.agent:
                    entered = True
                    self._entered.set()
                    await self._leaving.wait()
                    self.reference.closed = True
            except (SessionError, AgentCrashedError) as raised:
                error = raised
            except asyncio.CancelledError:
                pass
            finally:
                self._entered.set()
        with self.watching():
            self._check_ended(error, entered=entered, loads=loads)

    def _check_ended(self, error: BaseException | None, *, entered: bool, loads: bool) -> None:
        reference = self.reference
        reference.closed = True
        assert not reference.open, f"never settled: {list(reference.open)}"
        assert reference.running is None
        health = self.agent.health()
        assert (health.state, health.running, health.pending) == ("closed", None, 0), health
        assert all(provider.held == 0 for provider in self.providers), "a provider is still held"
        if self._store is not None and not loads:
            assert isinstance(error, SessionError), f"{error!r}, though the session couldn't be loaded"
            return
        reference.apply_all()
        check_messages(self.agent.messages, [reference.history], "at the end")
        assert self.agent.usage == reference.usage
        crashed = health.crashes > 0
        assert crashed == self.crashed or (self.crashed and self._aborted), "a crash was overlooked"
        expected: type[BaseException] = SessionError if health.unsaved else type(None)
        if self._home_scope.cancel_called:
            assert error is None or isinstance(error, AgentCrashedError), error
        else:
            assert isinstance(error, AgentCrashedError if crashed else expected), f"{error!r} on leaving"
        assert len(self._goodbyes) == 1, f"on_shutdown was called {len(self._goodbyes)} times"
        assert plain(self._goodbyes[0].messages) == reference.history
        if self._store is not None and not health.unsaved and self._store.session is not None:
            assert self._store.good, "said to be saved"
            assert plain(self._store.session.messages) == reference.history
            assert self._store.session.usage == reference.usage
            assert reference.ended == [] or self._store.session.seq <= reference.log[-1].seq

    async def _goodbye(self, session: alloy.Session) -> None:
        self._goodbyes.append(session)
        await checkpoint()

    def _leave(self, step: script.Leave) -> None:
        self._aborted = True
        if step.cancelled and not self._home.done():
            self.reference.closed = None
            self.reference.cancelled = True
            self._home_scope.cancel()
        else:
            self.reference.closed = None if not self.reference.closed else True
            self._leaving.set()

    async def _stop(self, step: script.Stop) -> None:
        self._aborted = True
        accepted = list(self.reference.open.values())
        crashed = self.crashed
        self.reference.closed = True
        begun = anyio.current_time()
        left = await self.agent.stop(step.grace)
        assert self.agent.health().state == "closed"
        assert left == tuple(asked.id for asked in accepted if asked.status == "cancelled")
        if not crashed and not self.crashed:
            longest = step.grace if accepted else 0.0
            assert anyio.current_time() - begun <= longest + 30, "stopping took too long"

    # --- what it tells ------------------------------------------------------------------------------------------------

    def _attach(self) -> None:
        self._bus.attach(TOPIC, self._sink, self._closed)

    def _closed(self) -> None:
        for view in self.reference.views:
            view.close()
        self._attach()

    def _sink(self, envelope: Envelope) -> None:
        with self.watching():
            self._look()
            self._settles(envelope)
            if envelope.payload.get("kind") == "message_refused":
                assert self._published is not None, "refused what nobody has sent"
                self._published.refused(getattr(alloy.errors, envelope.payload["error"]))
            ended = self.reference.tell(envelope)
            if envelope.event == "request_cancelled":
                wanted = self._aborted or envelope.correlation_id in self._wanted
                assert wanted, "cancelled, and nobody has asked for it"
            if envelope.payload.get("kind") == "session_not_saved":
                assert self._store is not None
                assert not self._store.good
                self._store.told = True
            self._check_state()
            if ended is not None:
                self._check_response(ended)
        if ended is not None and ended.plan.reacts and self.failure is None:
            with self.watching():
                self._react()

    def _settles(self, envelope: Envelope) -> None:
        """A request's end must stand when it is told."""
        if envelope.event != "response":
            return
        asking = self.agent.cancel_request(envelope.correlation_id)
        try:
            asking.send(None)
        except RequestSettledError as error:
            assert error.status == envelope.payload["status"]  # noqa: PT017  not every path raises
        else:
            raise AssertionError("its end was told before it stood")
        finally:
            asking.close()

    def _observe(self, envelope: Envelope) -> None:
        self._on_event.append(envelope)

    def _check_response(self, asked: Asked) -> None:
        COUNTS.requests += 1
        if self._store is not None and asked.begun:
            health = self.agent.health()
            assert health.unsaved != self._store.good, "unsaved, or not"
            assert self._store.told != self._store.good, "not saved, and nobody told"
            if self._store.good:
                assert self._store.session is not None
                assert plain(self._store.session.messages) == self.reference.history, (
                    "what was saved is another history"
                )
                assert self._store.session.usage == self.reference.usage

    def _check_state(self) -> None:
        """What must be so at every moment."""
        self._look()
        reference, health = self.reference, self.agent.health()
        check_messages(self.agent.messages, reference.histories(), "now")
        assert health.messages == len(self.agent.messages)
        assert self.agent.usage == reference.usage, f"{self.agent.usage}, not {reference.usage}"
        assert health.pending + (health.running is not None) == len(reference.open), (health, list(reference.open))
        if health.running is not None:
            assert reference.running is None or reference.running.id == health.running
            assert next(iter(reference.open)) == health.running
        else:
            assert reference.running is None, f"{reference.running} runs, and health doesn't say so"
        session = self.agent.export_session()
        assert (session.messages, session.usage) == (self.agent.messages, self.agent.usage)

    def check(self) -> None:
        """What must be so now; raises what went wrong somewhere else, too."""
        if self.failure is not None:
            raise self.failure
        self._check_state()
        health = self.agent.health()
        if health.state in ("idle", "busy"):
            assert self.reference.closed is not True
            assert (health.state == "idle") <= (not self.reference.open)
            assert (health.state == "busy") <= bool(self.reference.open or self.reference.queue), health
        assert self._on_event == self.reference.log or self.setting.supervised

    def _check_rest(self) -> None:
        """When nothing has happened for long, only those requests are left whose model hangs."""
        for one in self._tasks:
            asked = one.sending and one.sending.asked
            assert one.done or asked is None or asked.status is None, (
                f"whoever waits for {asked} wasn't told of its end"
            )
        left = list(self.reference.open.values())
        if self.agent.health().state != "closed" and left:
            assert left[0] is self.reference.running, f"{left[0].id} never began"
            assert left[0].expected(MAX_TURNS) == "hangs", f"{left[0].id} never ends"
            assert self.setting.timeout is None

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Keeps what goes wrong where nobody sees it."""
        try:
            yield
        except Exception as error:
            self.failure = self.failure or error
            raise

    async def breathe(self) -> None:
        await checkpoint()
        with self.watching():
            self._check_state()

    def crash(self) -> None:
        """Something crashes the agent now."""
        self.crashed = self.reference.crashed = True
        if self.reference.closed is False:
            self.reference.closed = None

    def new_call(self) -> str:
        """An id for a tool call."""
        self._called += 1
        return f"call-{self._called}"
