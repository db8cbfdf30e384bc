"""What one task does for an agent: it takes requests out of the inbox, runs them one after the other, and saves.

Nothing else changes the agent's state. Other tasks put something into the inbox, or cancel a request's scope.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import anyio

from alloy._tasks import last_words, task_group, was_cancelled
from alloy.agents.inbox import Inbox
from alloy.agents.listening import Watching, hear
from alloy.agents.numbers import Numbers
from alloy.agents.publishing import publisher
from alloy.agents.registry import AgentRequest, Registry, current
from alloy.agents.restarts import Poison
from alloy.agents.saving import save, saving
from alloy.agents.spending import take_up, with_spent
from alloy.agents.suspension import begin_run, give_up, requeue, step_in, take_back, with_step
from alloy.errors import (
    AgentClosedError,
    AgentCrashedError,
    RequestSettledError,
    SessionConflictError,
    SessionError,
)
from alloy.events import Emitter
from alloy.loop.asking import budgets_of, build_provider
from alloy.loop.conversation import History, checked_prompt
from alloy.loop.run import guarded_sink
from alloy.loop.turn import announce
from alloy.loop.turns import Loop
from alloy.providers.base import held
from alloy.result import Result
from alloy.sessions import Session
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from alloy.agents.bus import Bus
    from alloy.events import Envelope
    from alloy.loop.compactor import Trail
    from alloy.loop.config import Config
    from alloy.loop.step import Step
    from alloy.messages import Message
    from alloy.providers.base import Provider
    from alloy.sessions import SessionStore
    from alloy.tools.decision import Outcome

__all__ = ["Owner", "OwnerState", "Watching"]

OwnerState: TypeAlias = Literal["new", "starting", "running", "restarting", "closed"]

SAVING = 10.0  # seconds for a save
GOODBYE = 5.0  # seconds for on_shutdown

_log = logging.getLogger("alloy")


class Owner:
    """An agent's state, and the routine that changes it.

    Args:
        name: the agent's name.
        config: how it runs its requests.
        watching: what it is connected with.
        remember: how many settled requests are remembered.
        provider: the provider of `config`, where it is made already.
    """

    __slots__ = (
        "_detach",
        "_ended",
        "_held",
        "_held_provider",
        "_loaded",
        "_numbers",
        "_publish_on",
        "_reset_to",
        "_session",
        "_trail",
        "_watching",
        "answered",
        "budgets",
        "config",
        "crashes",
        "error",
        "history",
        "inbox",
        "loop",
        "name",
        "poison",
        "provider",
        "registry",
        "run",
        "running",
        "scope",
        "state",
        "suspended",
        "unsaved",
        "usage",
    )

    def __init__(
        self, name: str, config: Config, watching: Watching, *, remember: int, provider: Provider | None = None
    ) -> None:
        self.name = name
        self.provider: Provider = build_provider(config) if provider is None else provider
        self._watching = watching
        self._reset_to = config.messages
        self.config = config
        self.budgets = budgets_of(config)
        self._publish_on = publisher(watching.bus, self.topic, guarded_sink(config.on_event))
        self.inbox = Inbox(name, config.max_pending)
        self.registry = Registry(name, remember)
        self.history = History(config.messages, None)
        self.usage = Usage()
        # A process that crashes may have given numbers that it never saved. So each life of a saved agent begins with a clock,
        # which no agent can overtake, and whose microseconds fit into the 53 bits of a number in JavaScript.
        self._numbers = Numbers(0 if watching.store is None else time.time_ns() // 1000)
        self._session: Session | None = None
        self._loaded = False
        self._trail: Trail | None = None
        self.poison: Poison | None = None
        self._detach: list[Callable[[], None]] = []
        self._held: AsyncExitStack | None = None
        self._held_provider: Provider | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self.scope: anyio.CancelScope | None = None
        self._ended: anyio.Event | None = None
        self.running: AgentRequest | None = None
        self.run: Loop | None = None
        self.state: OwnerState = "new"
        self.suspended: Step | None = None
        self.answered: dict[str, Outcome] | None = None
        self.unsaved = False
        self.crashes = 0
        self.error: BaseException | None = None

    @property
    def topic(self) -> str:
        """Where its envelopes are published."""
        return f"agent/{self.name}"

    @property
    def seq(self) -> int:
        """The newest envelope's number."""
        return self._numbers.last

    @property
    def bus(self) -> Bus:
        """What its envelopes are published on."""
        return self._watching.bus

    @property
    def store(self) -> SessionStore | None:
        """Where its session is saved."""
        return self._watching.store

    # --- from other tasks: deciding, at once --------------------------------------------------------------------------

    def submit(self, prompt: Any, request_id: str) -> tuple[AgentRequest, bool]:
        """Accepts a message, or says why not.

        Returns:
            The request, and whether it is new.

        Raises:
            AgentError: it isn't accepted.
            ConfigurationError: the prompt is no prompt.
            HistoryError: likewise.
        """
        message = checked_prompt(prompt)
        if (known := self.registry.known(request_id, message)) is not None:
            return known, False
        if self.poison is not None and (refusal := self.poison.refusal(self.name, message)) is not None:
            raise refusal
        events = self.emitter(request_id)
        request = AgentRequest(message, events, self.registry, self.seq)
        before = self.inbox.offer(request)
        self.registry.add(request)
        if before:
            events.emit("request_queued", position=before)
        return request, True

    def cancel(self, request: AgentRequest, reason: str, *, for_good: bool = True) -> None:
        """Cancels a request that runs, or ends one that waits; unless `for_good` it may be gone on with after the next start.

        Raises:
            RequestSettledError: it has ended, or is about to.
        """
        if request.result is not None:
            raise RequestSettledError(self.name, request.id, request.result.status)
        if request is self.running and self.run is not None and self.run.ending:
            raise RequestSettledError(self.name, request.id, "it ends at this moment")
        if for_good:
            give_up(self, request)
        if request is not self.running:
            self.inbox.remove(request)
            request.events.emit("request_cancelled", reason=reason)
            self._settle_unrun(request, "cancelled")
        elif request.scope is not None and not request.scope.cancel_called:
            request.scope.cancel()
            request.events.emit("request_cancelled", reason=reason)

    def close(self, why: Callable[[], AgentClosedError]) -> None:
        """Accepts nothing from here on; what was accepted goes on."""
        if self.inbox.closed is None:
            self.inbox.close(why)

    def lose_task(self) -> None:
        """Accepts nothing from here on, since somebody has cancelled the task; `finish` does the rest."""
        _log.warning("somebody has cancelled the task of agent %r; it ends", self.name)
        self.close(lambda: AgentClosedError(self.name, "has ended, since its task was cancelled; start a new one"))

    def abort(self, reason: str) -> None:
        """Cancels everything that was accepted, and ends."""
        for request in self.registry:
            with contextlib.suppress(RequestSettledError):
                self.cancel(request, reason, for_good=False)
        if self.scope is not None:
            self.scope.cancel()

    async def wait_ended(self) -> None:
        """Waits until the agent has ended."""
        while self.state != "closed":
            self._ended = self._ended or anyio.Event()
            await self._ended.wait()

    def session(self) -> Session:
        """The session as of now."""
        return self._session_of(self.history.messages, self.spent)

    @property
    def spent(self) -> Usage:
        """Tokens of all requests, including one that runs, or waits to be gone on with."""
        return self.usage + one.usage if (one := self.run or self.suspended) else self.usage

    def emitter(self, request_id: str) -> Emitter:
        """What makes a request's envelopes."""
        return Emitter(request_id, self._publish, agent_id=self.name, numbers=self._numbers)

    def emit(self, kind: str, request_id: str = "", **data: Any) -> None:
        """Tells of something that befalls the agent."""
        self.emitter(request_id).emit("runtime_event", kind=kind, **data)

    def begin(self) -> None:
        """Takes requests from here on; they run once it is served."""
        self.loop = asyncio.get_running_loop()
        self.state = "starting"
        self._numbers.pass_over(self.bus.newest(self.topic))

    def rest(self, attend: Callable[[], None]) -> None:
        """Takes requests from here on, and needs no task before the first of them, since there is nothing to load.

        Args:
            attend: begins the task.
        """
        self.inbox.attend = attend
        self._loaded = True
        self.state = "running"

    # --- the owner's task: doing --------------------------------------------------------------------------------------

    async def serve(self, started: Callable[[], None]) -> None:
        """Runs the agent until it is closed and has nothing left to do, or is aborted.

        Args:
            started: called when it is ready.

        Raises:
            SessionError: the saved session can't be read.
            AgentCrashedError: something broke that wasn't a request's own fault; requests that wait are still there.
        """
        self.begin()
        try:
            with anyio.CancelScope() as self.scope:
                await self._load()
                self._loaded = True
                requeue(self)
                self._listen()
                self.state = "running"
                started()
                await self._work()
        except (SessionError, AgentCrashedError) as error:
            self._crashed(error)
            raise
        except BaseException as error:
            if _passes(error):
                raise
            self._crashed(error)
            raise AgentCrashedError(self.name, error) from error

    async def _work(self) -> None:
        try:
            while (item := await self.inbox.take()) is not None:
                if isinstance(item, AgentRequest):
                    await self._answer(item)
                else:
                    item.apply()
                    try:
                        await self.save_quietly()
                    finally:
                        item.done.set()
        finally:
            stack, self._held, self._held_provider = self._held, None, None
            if stack is not None:
                await stack.aclose()

    async def _answer(self, request: AgentRequest) -> None:
        if self.poison is not None and (refusal := self.poison.refusal(self.name, request.message)) is not None:
            give_up(self, request)
            self.inbox.done()
            self._settle_unrun(request, "failed", refusal)  # others like it crashed while it waited
            return
        crashes: list[BaseException] = []
        try:
            await self._hold()
            if request.result is None:  # it wasn't cancelled meanwhile
                await self._run(request, crashes)
        except BaseException:
            if crashes:  # it is cancelled at the same moment
                self._crashed(AgentCrashedError(self.name, crashes[0]))
            raise
        finally:
            self.running = self.run = None
            if request.result is None:
                self.inbox.done()
                self._settle_unrun(request, "failed" if crashes else "cancelled", crashes[0] if crashes else None)
        if crashes:
            self.poison = self.poison or Poison()
            self.poison.remember(request.message, crashes[0])
            if isinstance(crashes[0], KeyboardInterrupt):
                raise crashes[0]
            raise AgentCrashedError(self.name, crashes[0])

    async def _run(self, request: AgentRequest, crashes: list[BaseException]) -> None:
        self.running, request.scope = request, anyio.CancelScope()
        self.run = run = Loop(saving(self), self.provider, self.history, request.events, None, self.budgets)
        self._trail = run.go_on_after(self._trail)
        begin_run(self, run, request)
        request.state = "running"
        with request.scope:
            async with task_group() as group:
                group.start_soon(self._execute, run, request, crashes)

    async def _execute(self, run: Loop, request: AgentRequest, crashes: list[BaseException]) -> None:
        current.set(request)
        try:
            await run.execute()
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001  the agent's crash, not the event loop's: raised by the owner
            crashes.append(error)

    async def _hold(self) -> None:
        """Keeps what the provider needs from one request to the next, such as its connections."""
        if self._held_provider is self.provider:
            return
        self._held_provider = self.provider
        self._held = self._held or AsyncExitStack()  # made when first needed: it takes 800 bytes
        try:
            await self._held.aclose()
        except Exception:  # noqa: BLE001  the agent has another one now, and this is logged
            _log.exception("agent %r couldn't close the provider that it had before", self.name)
        try:
            await self._held.enter_async_context(held(self.provider))
        except BaseException as error:  # the run meets the same one, and tells of it
            if _passes(error):
                raise

    def _publish(self, envelope: Envelope) -> None:
        """Settles the end of the request that runs together with its last envelope."""
        if envelope.event == "response" and self.running is not None and self.run is not None:
            self._settle(self.running, self.run)
        self._publish_on(envelope)

    def _settle(self, request: AgentRequest, run: Loop) -> None:
        if run.result is None:
            return  # it is another request's end, which never ran
        self.usage += take_back(self, run, run.result)
        self.inbox.done()
        self.registry.settle(request, run.result)
        self.running = self.run = None

    def _settle_unrun(
        self, request: AgentRequest, status: Literal["cancelled", "failed"], error: BaseException | None = None
    ) -> None:
        messages = tuple(self.history.messages)
        result = Result(status=status, messages=messages, error=error, request_id=request.id)
        self.registry.settle(request, result)
        announce(request.events, result, request.events.seq, time.perf_counter())

    # --- what survives ------------------------------------------------------------------------------------------------

    async def _load(self) -> None:
        """Takes up the saved session, unless what is in memory is that one, or newer."""
        if self.store is None or (self._loaded and self.unsaved):
            return
        saved = await self.store.load(self.name)
        if saved is None or (self._session is not None and saved.revision == self._session.revision):
            return
        take_up(saved, self.config, self.budgets)
        self._session = saved
        self.history = History(saved.messages, None)
        self.suspended, self.usage = step_in(saved)
        self.unsaved = False
        self._numbers.pass_over(saved.seq)

    async def save(self, messages: Sequence[Message], usage: Usage, *, within: float) -> None:
        """Saves the conversation, if there is a store.

        Args:
            messages: the history.
            usage: tokens so far.
            within: how long the store may take, in seconds.

        Raises:
            SessionError: it can't be saved.
        """
        if self.store is None:
            return
        self.unsaved = True
        self._session = await save(self.store, self._session_of(messages, usage), within=within)
        self.unsaved = False

    async def save_quietly(self) -> None:
        """Saves the conversation as of now; that it can't be saved is told."""
        try:
            await self.save(self.history.messages, self.spent, within=SAVING)
        except SessionError as error:
            self.not_saved(error)

    def not_saved(self, error: SessionError) -> None:
        """Tells that the session wasn't saved; it will be tried again after the next request, and at the end."""
        self.error = error
        _log.error("agent %r: %s", self.name, error)
        self.emit("session_not_saved", reason=str(error))
        if isinstance(error, SessionConflictError) and self.scope is not None:
            self.close(lambda: AgentClosedError(self.name, "has lost its session to another process; start a new one"))

    def archive(self, lost: Sequence[Message]) -> None:
        """Keeps in the session what compaction has taken out of the history."""
        session = self._session or Session(id=self.name)
        self._session = dataclasses.replace(session, archive=(*session.archive, *lost))

    def _session_of(self, messages: Iterable[Message], usage: Usage) -> Session:
        if self._session is None:  # one for good: when it began is part of what it is known by
            self._session = Session(id=self.name)
        session = with_spent(with_step(self._session, self.suspended), self.config, self.budgets)
        return dataclasses.replace(session, messages=tuple(messages), usage=usage, seq=self.seq)

    # --- crashes and the end ------------------------------------------------------------------------------------------

    def _crashed(self, error: BaseException) -> None:
        self.crashes += 1
        self.error = error
        self.state = "restarting"

    def _listen(self) -> None:
        if not self._detach:
            self._detach = [self.bus.attach(topic, self.hear) for topic in self._watching.topics]

    def hear(self, envelope: Envelope) -> None:
        """Takes a message from a topic into the inbox, or tells why not."""
        hear(self, envelope)

    async def finish(self, *, sleep: bool = False) -> None:
        """Ends what is left: requests that never ran, the last save, `on_shutdown`.

        Args:
            sleep: whether it will be started again, so that those who watch go on watching.
        """
        self.close(lambda: AgentClosedError(self.name))
        try:
            self._let_go()
            if self.unsaved:
                await last_words(self.save_quietly, within=SAVING + 1)
            if self._loaded and (say_goodbye := self._watching.on_shutdown) is not None:
                await last_words(lambda: self._say(say_goodbye), within=GOODBYE)
        finally:
            self.state = "closed"
            if sleep:
                self.bus.forget(self.topic)
            else:
                self.bus.close(self.topic)
            if self._ended is not None:
                self._ended.set()

    def _let_go(self) -> None:
        for detach in self._detach:
            detach()
        self._detach = []
        for request in self.registry:
            if self.state == "restarting":
                self._settle_unrun(request, "failed", self.error)
            else:
                self._settle_unrun(request, "cancelled")
        while (change := self.inbox.leftover()) is not None:
            if self._loaded:  # what couldn't be loaded isn't overwritten
                change.apply()
                self.unsaved = self.store is not None
            change.done.set()

    async def _say(self, goodbye: Callable[[Session], Awaitable[object]]) -> None:
        try:
            await goodbye(self.session())
        except Exception:  # noqa: BLE001  the agent has ended, and this is logged
            _log.exception("on_shutdown of agent %r failed", self.name)

    # --- changes between requests -------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Begins the conversation anew, without what was taken out of the old one."""
        self.history = History(self._reset_to, None)
        if self._session is not None:
            self._session = dataclasses.replace(self._session, archive=())

    def use(self, config: Config, provider: Provider) -> None:
        """Goes on with another provider."""
        self.config, self.provider = config, provider


def _passes(error: BaseException) -> bool:
    """Whether this is no crash, but what goes through everything."""
    return isinstance(error, KeyboardInterrupt) or was_cancelled(error)
