"""Plays: an agent, its subscribers and its callers, driven step by step, and compared with the reference all the time."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio
from anyio.lowlevel import checkpoint

import alloy
from alloy.agents.bus import LocalBus, message_envelope
from alloy.errors import (
    AgentClosedError,
    AgentCrashedError,
    AgentDeadlockError,
    CursorError,
    RequestCancelledError,
    RequestSettledError,
    RunError,
    SessionError,
    UnknownRequestError,
)
from alloy.testing.virtual import run_virtually
from tests.agents import model_script as script
from tests.agents.model_reference import END, Asked, Reference, View, check_messages, check_seen, plain
from tests.agents.model_world import Planned, SlowStore, make_tools, retrying

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from alloy.events import Envelope

NAME = "desk"
TOPIC = f"agent/{NAME}"
MAX_TURNS = 3
LONG = 3600.0  # seconds in which everything that ends by itself has ended


@dataclass
class Counts:
    """How much was played."""

    plays: int = 0
    steps: int = 0
    envelopes: int = 0
    requests: int = 0


COUNTS = Counts()


@dataclass
class Spawned:
    """A task beside the play, and the message that it sends."""

    id: str | None
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)
    task: asyncio.Task[None] | None = None
    sending: Sending | None = None
    cancelled: int = 0

    @property
    def done(self) -> bool:
        return self.task is not None and self.task.done()

    @property
    def owns(self) -> bool:
        """Whether the request is cancelled with it."""
        return self.id is not None and (self.sending is None or self.sending.new is not None)


def play(setting: script.Setting, steps: Sequence[script.Step]) -> World:
    """Plays it all, and checks everything; raises where the agent isn't as the reference."""
    COUNTS.plays += 1
    COUNTS.steps += len(steps)
    world = World(setting)
    try:
        run_virtually(world.play(steps), setting.schedule)
    except BaseException as error:
        if world.failure is not None and world.failure is not error:
            raise world.failure from error
        raise
    COUNTS.envelopes += len(world.reference.log)
    return world


class World:
    """One play."""

    def __init__(self, setting: script.Setting) -> None:
        self.setting = setting
        self.failure: BaseException | None = None
        self.crashed = False
        self.calls: dict[str, Any] = {}
        self.reference = Reference(setting, MAX_TURNS)
        self._tools = make_tools(self)
        self._bus = LocalBus(replay=setting.replay)
        self._store = None if setting.saves is None else SlowStore(self)
        self._tasks: list[Spawned] = []
        self._wanted: set[str] = set()  # requests that somebody has tried to cancel
        self._published: Sending | None = None
        self._last = "r0"
        self._fresh = 0
        self._sent = 0
        self._called = 0
        self._models = 0
        self._on_event: list[Envelope] = []
        self._observed = 0

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
        assert self._on_event == self.reference.log

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

    # --- requests -----------------------------------------------------------------------------------------------------

    def _id(self, who: int) -> str:
        return self._last if who == script.LAST else f"r{who}"

    async def _send(self, step: script.Send) -> None:
        self._fresh += 1
        self._last = request_id = f"n{self._fresh}" if step.who == script.LAST else self._id(step.who)
        text = f"{request_id} {'other' if step.other else 'same'}"
        match step.how:
            case "send":
                with self._sending(request_id, text, step.plan) as sending:
                    sending.given = await self.agent.send_message(text, request_id=request_id)
            case "topic":
                self._publish(request_id, text, step.plan)
            case "chat":
                self._spawn(lambda one: self._chat(one, request_id, text, step.plan), request_id)
            case "stream":
                self._spawn(lambda one: self._stream(one, request_id, text, step.plan, step.reading), request_id)

    @contextlib.contextmanager
    def _sending(self, request_id: str, text: str, plan: script.Plan) -> Iterator[Sending]:
        """A message that is sent inside the block, which has no await before it is accepted or refused."""
        sending = Sending(self.reference, request_id, text, plan)
        try:
            yield sending
        except alloy.errors.AgentError as error:
            sending.refused(error)
        else:
            sending.accepted()

    async def _chat(self, one: Spawned, request_id: str, text: str, plan: script.Plan) -> None:
        one.sending = sending = Sending(self.reference, request_id, text, plan)
        try:
            await self._await_outcome(sending, lambda: self.agent.chat(text, request_id=request_id))
        except asyncio.CancelledError:
            if sending.new is not None and one.cancelled == 1:  # a second time, he doesn't even wait
                assert sending.new.status is not None, "whoever was cancelled in chat left his request running"
            raise

    async def _ask(self, one: Spawned, request_id: str) -> None:
        one.sending = sending = Sending(self.reference, request_id, None, None)
        await self._await_outcome(sending, lambda: self.agent.result(request_id))

    async def _await_outcome(self, sending: Sending, call: Callable[[], Awaitable[alloy.Result]]) -> None:
        try:
            result = await call()
        except RunError as error:
            result = error.result
            assert result.status in ("failed", "halted")
        except RequestCancelledError as error:
            assert error.result is not None  # noqa: PT017  not every path raises
            result = error.result
            assert result.status == "cancelled"
        except alloy.errors.AgentError as error:
            sending.refused(error)
            return
        else:
            assert result.status in ("completed", "max_turns")
        sending.accepted()
        asked = sending.asked
        assert asked is not None
        assert (result.status, result.request_id) == (asked.status, asked.id)
        assert plain(result.messages) in asked.histories
        assert result.usage == asked.paid

    async def _stream(
        self, one: Spawned, request_id: str, text: str, plan: script.Plan, reading: script.Reading
    ) -> None:
        one.sending = sending = Sending(self.reference, request_id, text, plan)
        view = None
        try:
            async with self.agent.stream_chat(text, request_id=request_id) as run:
                sending.accepted()
                asked = sending.asked
                assert asked is not None
                view = View(self.reference, asked=asked, events=None, after=None, buffer=1 << 14)
                view.enter(over=asked.status is not None)
                try:
                    await self._read(run, view, reading)
                except RunError as error:
                    assert asked.status in ("failed", "halted")
                    assert plain(error.result.messages) in asked.histories  # noqa: PT017  not every path raises
                if reading.count is None:
                    assert run.result.status == asked.status
                if sending.new is not None:
                    self._wanted.add(request_id)
            if sending.new is not None:
                assert sending.new.status is not None, "whoever left stream_chat left his request running"
        except alloy.errors.AgentError as error:
            assert view is None
            sending.refused(error)
        except asyncio.CancelledError:
            if sending.new is not None and one.cancelled == 1:
                assert sending.new.status is not None, "whoever was cancelled in stream_chat left his request running"
            raise
        finally:
            if view is not None:
                view.leave()

    def _publish(self, request_id: str, text: str, plan: script.Plan) -> None:
        """A message from a topic, which is accepted, refused visibly, or heard by nobody."""
        self._published = sending = Sending(self.reference, request_id, text, plan)
        self._bus.publish("desk/in", message_envelope(text, request_id=request_id))
        self._published = None
        if sending.done:
            return
        health = self.agent.health()
        if self.reference.closed is not False and health.pending + bool(health.running) < len(self.reference.open):
            sending.refused(AgentClosedError)  # it didn't listen any more
        elif self.reference.closed is False:
            sending.accepted()

    def _react(self) -> None:
        """Somebody who sees a request's end sends the next one at once."""
        self._sent += 1
        sending = Sending(self.reference, f"x{self._sent}", "reaction", script.Plan())
        asking = self.agent.send_message("reaction", request_id=f"x{self._sent}")
        try:
            asking.send(None)
        except alloy.errors.AgentError as error:
            sending.refused(error)
        else:
            sending.accepted()
        finally:
            asking.close()

    async def send_inside(self) -> str:
        """A tool sends its own agent a message."""
        self._sent += 1
        with self._sending(f"x{self._sent}", "from inside", script.Plan()) as sending:
            sending.given = await self.agent.send_message("from inside", request_id=f"x{self._sent}")
        return f"sent {self._sent}"

    async def wait_inside(self, called: Any, *, chats: bool) -> None:
        """A tool asks its own agent, and would wait for itself."""
        running = self.reference.running
        assert running is not None
        try:
            if chats:
                await self.agent.chat("from inside", request_id="y")
            else:
                await self.agent.result(running.id)
        except AgentDeadlockError as error:
            called.result = (f"AgentDeadlockError: {error}", True)
            raise
        raise AssertionError("a tool could wait for its own request")

    async def _cancel_request(self, request_id: str) -> None:
        asked = self.reference.find(request_id)
        before = set(self._wanted)
        self._wanted.add(request_id)
        asking = self.agent.cancel_request(request_id)
        try:
            await asking
        except UnknownRequestError:
            assert asked is None
        except RequestSettledError:
            assert asked is not None
            assert asked.status is not None or (asked.begun and asked.envelopes[-1].event == "turn_end"), asked
        else:
            assert asked is not None and asked.cancelled, "its cancellation wasn't told"  # noqa: PT018  one fact
        finally:
            self._wanted &= before

    def _cancel_task(self, step: script.CancelTask) -> None:
        waiting = [one for one in self._tasks if not one.done]
        if waiting:
            one = waiting[step.which % len(waiting)]
            assert one.task is not None
            if one.owns and one.id is not None:
                self._wanted.add(one.id)
            one.cancelled += 1
            one.task.cancel() if step.native else one.scope.cancel()

    # --- changes ------------------------------------------------------------------------------------------------------

    async def _reset(self) -> None:
        change = "".join(["re", "set"])  # noqa: FLY002  a text of its own, told apart by identity
        await self._change(change, self.agent.reset)

    async def _set_model(self) -> None:
        self._models += 1
        provider = Planned(self, f"planned-{self._models}")
        self.providers.append(provider)
        await self._change(provider.name, lambda: self.agent.set_model(retrying(provider, self.setting.schedule)))

    async def _change(self, change: str, call: Callable[[], Awaitable[None]]) -> None:
        reference = self.reference
        before = reference.closed
        idle = not reference.open and all(isinstance(item, str) for item in reference.queue)
        reference.queue.append(change)
        try:
            await call()
        except AgentClosedError:
            assert before is not False, "a change was refused"
            reference.queue = [item for item in reference.queue if item is not change]
            return
        assert before is not True, "a closed agent was changed"
        if idle:
            reference.apply_until(change)

    # --- those who watch ----------------------------------------------------------------------------------------------

    def _watch(self, step: script.Watch) -> None:
        log = self.reference.log
        after = None
        if step.after is not None and step.who is None:
            index = round(step.after * len(log))
            after = 0 if index == 0 else log[index - 1].seq if index <= len(log) else 1 << 60
        self._spawn(lambda _: self._subscribe(step, after))

    async def _subscribe(self, step: script.Watch, after: int | None) -> None:
        request_id = None if step.who is None else self._id(step.who)
        asked = None if request_id is None else self.reference.find(request_id)
        view = View(self.reference, asked=asked, events=step.events, after=after, buffer=step.buffer)
        over = self.agent.health().state == "closed" or (asked is not None and asked.status is not None)
        try:
            subscription = self.agent.subscribe(
                request_id=request_id,
                events=step.events,  # type: ignore[arg-type]  # names of events
                after=after,
                buffer=step.buffer,
            )
        except UnknownRequestError:
            assert step.who is not None and asked is None  # noqa: PT018  one fact
            return
        assert step.who is None or asked is not None
        possible = view.enter(over=over)
        try:
            async with subscription as envelopes:
                assert possible, f"resumed after {after}, though that isn't kept"
                await self._read(envelopes, view, step.reading)
        except CursorError:
            assert not possible or after == 0, f"couldn't resume after {after}"
        finally:
            view.leave()

    async def _read(self, envelopes: Any, view: View, reading: script.Reading) -> None:
        taken = 0
        while reading.count is None or taken < reading.count:
            try:
                seen = await anext(envelopes)
            except (StopAsyncIteration, RunError) as end:
                check_seen(END, view.take())
                if isinstance(end, RunError):
                    raise
                return
            check_seen(seen, view.take(seen))
            taken += 1
            await anyio.sleep(reading.pause)
        if reading.then == "stays":
            await anyio.sleep(LONG / 2)

    def _listen(self, step: script.Listen) -> None:
        heard = 0

        def sink(envelope: Envelope) -> None:
            nonlocal heard
            assert heard <= step.raises_at, "who has raised gets more"
            heard += 1
            if heard > step.raises_at:
                raise RuntimeError("a watcher broke")

        self._bus.attach(TOPIC, sink)

    # --- tasks --------------------------------------------------------------------------------------------------------

    def _spawn(self, function: Callable[[Spawned], Awaitable[None]], request_id: str | None = None) -> None:
        one = Spawned(request_id)

        async def run() -> None:
            with self.watching(), one.scope:
                await function(one)

        one.task = asyncio.get_running_loop().create_task(run(), name=f"task {len(self._tasks)}")
        self._tasks.append(one)

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


class Sending:
    """A message on its way in: what may come of it, and then what came of it."""

    def __init__(self, reference: Reference, request_id: str, text: str | None, plan: script.Plan | None) -> None:
        self._reference = reference
        self.given: str | None = None
        self.done = False
        self.new: Asked | None = None
        self.known: Asked | None = None
        if text is None or plan is None:
            self.known = reference.find(request_id)
            self.possible: tuple[Any, ...] = (self.known or UnknownRequestError,)
            return
        self.possible = reference.expect(request_id, text)
        if None in self.possible:
            self.new = reference.accept(request_id, text, plan)
        elif isinstance(self.possible[0], Asked):
            self.known = self.possible[0]

    @property
    def asked(self) -> Asked | None:
        return self.new or self.known

    def accepted(self) -> None:
        assert self.asked is not None, f"accepted, not {self.possible}"
        assert self.given in (None, self.asked.id)

    def refused(self, error: BaseException | type[BaseException]) -> None:
        self.done = True
        kind = error if isinstance(error, type) else type(error)
        assert kind in self.possible, f"{error!r}, not {self.possible}"
        if self.new is not None:
            self._reference.take_back(self.new)
            self.new = None
