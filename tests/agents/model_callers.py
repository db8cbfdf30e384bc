"""Those around an agent: who sends it messages, waits for results, cancels, changes it, and watches."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import anyio

import alloy
from alloy.agents.bus import message_envelope
from alloy.errors import (
    AgentClosedError,
    AgentDeadlockError,
    CursorError,
    RequestCancelledError,
    RequestSettledError,
    RunError,
    UnknownRequestError,
)
from tests.agents import model_script as script
from tests.agents.model_reference import END, Asked, Reference, View, check_seen, plain
from tests.agents.model_world import Planned, retrying

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from alloy.agents.bus import LocalBus
    from alloy.events import Envelope

NAME = "desk"
TOPIC = f"agent/{NAME}"
LONG = 3600.0  # seconds in which everything that ends by itself has ended


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


class Callers:
    """What others do to an agent; a `World` has the agent."""

    agent: alloy.Agent
    providers: list[Planned]

    def __init__(self, setting: script.Setting, reference: Reference, bus: LocalBus) -> None:
        self.setting = setting
        self.reference = reference
        self._bus = bus
        self._tasks: list[Spawned] = []
        self._wanted: set[str] = set()  # requests that somebody has tried to cancel
        self._published: Sending | None = None
        self._last = "r0"
        self._fresh = 0
        self._sent = 0
        self._models = 0

    def _look(self) -> None:
        """Sees whether there is another agent of the name now."""

    # --- requests -----------------------------------------------------------------------------------------------------

    def _sends(self, request_id: str, text: str | None, plan: script.Plan | None) -> Sending:
        self._look()
        return Sending(self.reference, request_id, text, plan)

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
        sending = self._sends(request_id, text, plan)
        try:
            yield sending
        except alloy.errors.AgentError as error:
            sending.refused(error)
        else:
            sending.accepted()

    async def _chat(self, one: Spawned, request_id: str, text: str, plan: script.Plan) -> None:
        one.sending = sending = self._sends(request_id, text, plan)
        try:
            await self._await_outcome(sending, lambda: self.agent.chat(text, request_id=request_id))
        except asyncio.CancelledError:
            if sending.new is not None and one.cancelled == 1:  # a second time, he doesn't even wait
                assert sending.new.status is not None, "whoever was cancelled in chat left his request running"
            raise

    async def _ask(self, one: Spawned, request_id: str) -> None:
        one.sending = sending = self._sends(request_id, None, None)
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
        one.sending = sending = self._sends(request_id, text, plan)
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
        self._published = sending = self._sends(request_id, text, plan)
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
        sending = self._sends(f"x{self._sent}", "reaction", script.Plan())
        asking = self.agent.send_message("reaction", request_id=f"x{self._sent}")
        try:
            with contextlib.suppress(StopIteration):  # it has returned, without letting others have their turn
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
        self._look()
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
        self._look()
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
        self._look()
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
