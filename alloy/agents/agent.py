"""`Agent`: a long-lived conversation with one owner, an inbox, requests by id, and an event bus."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, Unpack

import anyio
from anyio.lowlevel import checkpoint, checkpoint_if_cancelled

from alloy._ids import new_id
from alloy._tasks import background, cancelled_alone, last_words
from alloy.agents.arguments import seconds, whole
from alloy.agents.bus import LocalBus
from alloy.agents.directory import register, unregister
from alloy.agents.inbox import Change
from alloy.agents.owner import GOODBYE, Owner, Watching
from alloy.agents.registry import check_deadlock, checked_name, waiting
from alloy.agents.subscription import subscribe
from alloy.agents.suspension import Answers
from alloy.errors import AgentClosedError, AgentCrashedError, AgentExistsError, InvalidOptionError, WrongEventLoopError
from alloy.loop.answering import Answering
from alloy.loop.asking import build_provider
from alloy.loop.run import RunStream, configured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

    from alloy.agents.bus import Bus
    from alloy.agents.registry import AgentRequest
    from alloy.agents.subscription import Subscription
    from alloy.events import EventName
    from alloy.loop.config import Config, Options
    from alloy.messages import Block, Message
    from alloy.providers.base import Provider
    from alloy.providers.budget import Budget
    from alloy.result import Result
    from alloy.sessions import Session, SessionStore
    from alloy.usage import Usage

__all__ = ["Agent", "AgentState", "Health"]

AgentState: TypeAlias = Literal[
    "new", "starting", "idle", "busy", "restarting", "closing", "closed", "asleep", "quarantined"
]

REMEMBERED = 64
CHECKPOINT_EVERY = 8  # messages that wait, before whoever sends many lets others have their turn
STREAM_BUFFER = 16_384  # envelopes that the reader of a stream_chat may be behind


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How an agent is.

    Attributes:
        name: whose health.
        state: what it does; ``closing`` is when it ends what it has accepted and takes nothing more, ``asleep`` and
            ``quarantined`` are only told by a supervisor.
        running: the id of the request that runs.
        pending: how many requests wait.
        messages: how long its history is.
        crashes: how often it has crashed.
        unsaved: whether its session couldn't be saved since it changed.
        error: the last thing that went wrong with the agent itself, such as a crash or a save.
    """

    name: str
    state: AgentState
    running: str | None
    pending: int
    messages: int
    crashes: int
    unsaved: bool
    error: BaseException | None


class Agent(Answering):
    """A conversation that lives: one task owns it, takes messages from its inbox, and answers one after the other.

    Enter it with ``async with``; leaving the block cancels what is left (`drain` finishes it first), saves and ends. It belongs to
    the event loop on which it was entered.

    Args:
        config: how requests are run; options by name go before it.
        name: what others find it by, and its session's id; 1 to 128 printable characters. Without one it can't be found.
        store: where its session is kept, saved before each request's end is told. If there is one of this name, the agent
            goes on from there.
        bus: where its envelopes are published; a `LocalBus` of its own by default.
        subscribe: topics of the bus; a message that is published there is a request like any other.
        remember: how many requests that have ended are remembered, for `result` and for repeated ids.
        on_shutdown: called with the session when the agent has ended; it has a few seconds.
        options: see `Config`; `max_pending` says how many requests may wait.

    Raises:
        ConfigurationError: an option can't be.
    """

    __slots__ = ("__weakref__", "_life", "_named", "_owner")

    def __init__(
        self,
        config: Config | None = None,
        *,
        name: str | None = None,
        store: SessionStore | None = None,
        bus: Bus | None = None,
        subscribe: Sequence[str] = (),
        remember: int = REMEMBERED,
        on_shutdown: Callable[[Session], Awaitable[object]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        if store is not None and name is None:
            raise InvalidOptionError("name", "a name, since a stored session is found by it", name)
        if isinstance(subscribe, str):
            raise InvalidOptionError("subscribe", "a list of topics", subscribe)
        self._named = name is not None
        watching = Watching(
            bus or LocalBus(), tuple(checked_name("subscribe", topic) for topic in subscribe), store, on_shutdown
        )
        self._owner = Owner(
            f"agent-{new_id()[:8]}" if name is None else checked_name("name", name),
            configured(config, options),
            watching,
            remember=whole("remember", remember),
        )
        self._life: Any = None

    @classmethod
    def of(cls, owner: Owner) -> Agent:
        """The face of an owner whose life is a supervisor's business."""
        agent = cls.__new__(cls)
        agent._named, agent._owner, agent._life = True, owner, owner  # noqa: SLF001  its own class
        return agent

    # --- its life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        if self._life is not None:
            raise AgentClosedError(self.name, "has been entered before; make a new one")
        self._life = self._lives()
        try:
            await self._life.__aenter__()
        except AgentExistsError:
            self._life = None  # it may be entered when the name is free
            raise
        return self

    async def __aexit__(self, *error: object) -> bool | None:
        return await self._life.__aexit__(*error)  # type: ignore[no-any-return]  # a context manager's

    @asynccontextmanager
    async def _lives(self) -> AsyncIterator[None]:
        owner = self._owner
        started = anyio.Event()
        failures: list[Exception] = []

        if self._named:
            register(self.name, self)
        owner.begin()
        try:
            async with background(partial(self._live, started, failures)):
                await started.wait()
                if not failures:
                    await self._check_entered()
                    try:
                        yield
                    finally:
                        self._close("is closed; start a new one")
                        owner.abort("the agent was left")
        finally:
            if owner.state != "closed":  # its task was cancelled before it had begun
                await owner.finish()
            if self._named:
                unregister(self.name, self)
        if failures:
            raise failures[0]
        if owner.error is not None and (owner.unsaved or isinstance(owner.error, AgentCrashedError)):
            raise owner.error

    async def _live(self, started: anyio.Event, failures: list[Exception]) -> None:
        owner = self._owner
        try:
            await owner.serve(started.set)
        except Exception as error:  # noqa: BLE001  raised where the agent is entered or left
            failures.append(error)
            self._close(f"has ended ({error}); start a new one")
        except BaseException as error:
            if cancelled_alone(error):
                owner.lose_task()
            raise
        finally:
            try:
                await owner.finish()
            finally:
                started.set()

    async def _check_entered(self) -> None:
        """Raises what is to be told where the agent has ended before it could be entered."""
        if self._owner.state == "closed" and self._owner.inbox.closed is not None:
            await checkpoint_if_cancelled()
            raise self._owner.inbox.closed()

    async def stop(self, grace: float = 0.0) -> tuple[str, ...]:
        """Ends the agent: takes no more requests, lets those accepted finish for a while, cancels the rest, saves.

        Args:
            grace: how long those accepted may take, in seconds; ``math.inf`` for as long as they take.

        Returns:
            The ids of the requests that were cancelled.

        Raises:
            InvalidOptionError: `grace` is no time.
            AgentDeadlockError: a request of its own asks for it.
        """
        seconds("grace", grace)
        owner = self._here()
        accepted = tuple(owner.registry)
        with waiting(self.name, accepted):
            self._close("is being stopped; start a new one")
            try:
                with anyio.move_on_after(grace):
                    await owner.wait_ended()
            finally:
                owner.abort("the agent was stopped")
            await owner.wait_ended()
        ended = [(request.id, request.result) for request in accepted]
        return tuple(request_id for request_id, result in ended if result is not None and result.status == "cancelled")

    async def drain(self) -> None:
        """Takes no more requests, waits until all that were accepted have ended, and ends the agent.

        Raises:
            AgentDeadlockError: a request of its own asks for it.
        """
        await self.stop(grace=float("inf"))

    async def awake(self, name: str) -> Agent:  # noqa: ARG002  as a supervisor does
        """Itself."""
        return self

    # --- requests -----------------------------------------------------------------------------------------------------

    async def chat(self, prompt: str | Block | Sequence[Block] | Message, *, request_id: str | None = None) -> Result:
        """Sends a message and waits until the model is done; it queues like any other request.

        Whoever is cancelled while waiting here cancels the request that he made, and nothing else.

        Args:
            prompt: the user's words.
            request_id: an id of yours. One that is known already, with the same message, isn't run again: its result is given.

        Returns:
            The result, with status ``completed`` or ``max_turns``.

        Raises:
            RunError: the request failed or was halted.
            RequestCancelledError: somebody cancelled it.
            AgentBusyError, QueueFullError, AgentClosedError, RequestConflictError: it wasn't accepted.
            AgentDeadlockError: a request of this agent asks for it, and would wait for itself.
            ConfigurationError, HistoryError: the prompt is no prompt.
        """
        request, new = self._submit(prompt, request_id, waits=True)
        try:
            return await request.outcome()
        except anyio.get_cancelled_exc_class():
            if new:
                await self._abandon(request)
            raise

    @asynccontextmanager
    async def stream_chat(
        self, prompt: str | Block | Sequence[Block] | Message, *, request_id: str | None = None
    ) -> AsyncIterator[RunStream]:
        """Sends a message and lets you watch its request; takes what `chat` takes.

        Leaving the block before the end cancels the request. A reader that falls behind by thousands of envelopes doesn't hold
        the agent up: it misses some, and is told by a ``lagged`` envelope.

        Returns:
            A context manager that gives a `RunStream`, as `alloy.stream` does.

        Raises:
            AgentError, ConfigurationError, HistoryError: on entering, as from `chat`.
            RunError: from iterating, at the end of a request that failed or was halted.
        """
        request, new = self._submit(prompt, request_id, waits=True)
        try:
            with waiting(self.name, (request,)):
                async with self.subscribe(request_id=request.id, buffer=STREAM_BUFFER) as events:
                    answers = Answers(self._owner, request)
                    yield RunStream(request, events, lambda: self._cancel(request), answers, self._owner.config)
        finally:
            if new:
                await self._abandon(request)

    async def send_message(
        self, prompt: str | Block | Sequence[Block] | Message, *, request_id: str | None = None
    ) -> str:
        """Sends a message and returns at once; the request runs when its turn has come.

        Args:
            prompt: the user's words.
            request_id: an id of yours. One that is known already, with the same message, isn't run again.

        Returns:
            The request's id, for `result`, `cancel_request` and `subscribe`.

        Raises:
            AgentBusyError: something runs, and nothing may wait (`max_pending=0`).
            QueueFullError: as many requests wait as may.
            AgentClosedError: the agent takes no more requests.
            RequestConflictError: another message had this id.
            ConfigurationError, HistoryError: the prompt is no prompt.
        """
        request, new = self._submit(prompt, request_id)
        if not new or len(self._owner.registry) % CHECKPOINT_EVERY == 0:
            await checkpoint()
        return request.id

    async def result(self, request_id: str) -> Result:
        """Waits until a request has ended.

        Returns:
            Its result, with status ``completed`` or ``max_turns``.

        Raises:
            RunError: it failed or was halted.
            RequestCancelledError: it was cancelled.
            UnknownRequestError: there is no such request, or it ended so long ago that it isn't remembered.
            AgentDeadlockError: a request of this agent asks for one that can't end before it.
        """
        return await self._here().registry.find(request_id).outcome()

    async def cancel_request(self, request_id: str, reason: str = "asked for") -> None:
        """Cancels a request, whether it waits or runs, and returns at once; work done so far stays in the history.

        Args:
            request_id: which one.
            reason: why, for those who watch.

        Raises:
            UnknownRequestError: there is no such request.
            RequestSettledError: it has ended.
        """
        owner = self._here()
        owner.cancel(owner.registry.find(request_id), reason)
        await checkpoint()

    def subscribe(
        self,
        *,
        request_id: str | None = None,
        events: Collection[EventName] | None = None,
        after: int | None = None,
        buffer: int = 1024,
    ) -> Subscription:
        """The agent's envelopes: ``async with agent.subscribe() as envelopes``, and iterate.

        After the agent's end, or the request's, there are those that are still kept.

        Args:
            request_id: only those of this request, from its beginning; it ends after its ``response``.
            events: only those of these names.
            after: go on after the envelope of this `seq`, without a gap; 0 for all that is kept.
            buffer: how many envelopes a slow reader may be behind until it misses some, which a ``lagged`` envelope tells.

        Raises:
            InvalidOptionError: an argument can't be.
            CursorError: on entering, if what came after the cursor isn't kept any more.
        """
        owner = self._here()
        request = None if request_id is None else owner.registry.find(request_id)
        envelopes = subscribe(
            owner.bus,
            owner.topic,
            request_id=request_id,
            events=events,
            after=after,
            buffer=buffer,
            agent=self.name,
        )
        if request is not None:
            envelopes.since = request.since
        envelopes.over = lambda: owner.state == "closed" or (request is not None and request.result is not None)
        return envelopes

    # --- questions, which never wait ----------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        """Its name."""
        return self._owner.name

    @property
    def messages(self) -> tuple[Message, ...]:
        """The conversation as of now, also while a request runs; it can be sent as it is."""
        return tuple(self._here().history.messages)

    @property
    def usage(self) -> Usage:
        """Tokens of all its requests, the running one's included."""
        owner = self._here()
        return owner.spent

    @property
    def budget(self) -> Budget | None:
        """What pays for its requests, if its `max_budget` says so."""
        return next(iter(self._here().budgets), None)

    def health(self) -> Health:
        """How it is."""
        owner = self._here()
        return Health(
            name=self.name,
            state=self._state(),
            running=owner.running.id if owner.running is not None else None,
            pending=len(owner.registry) - (owner.running is not None),
            messages=len(owner.history.messages),
            crashes=owner.crashes,
            unsaved=owner.unsaved,
            error=owner.error,
        )

    def export_session(self) -> Session:
        """The session as of now, to be kept or to start another agent from."""
        return self._here().session()

    # --- changes, which take their turn -------------------------------------------------------------------------------

    async def reset(self) -> None:
        """Begins the conversation anew, with the `messages` of its options; its usage goes on.

        It takes its turn in the inbox: requests accepted before still have the old conversation, those after it the new one. It
        returns at once while a request runs or waits, and otherwise when it is done.
        """
        await self._change(self._here().reset)

    async def set_model(self, provider: Provider | str) -> None:
        """Goes on with another provider or model; takes its turn as `reset` does.

        Args:
            provider: a provider object or ``"vendor:model"``.

        Raises:
            ConfigurationError: there is no such provider, or no key.
        """
        owner = self._here()
        config = owner.config.with_options(provider=provider)
        new = build_provider(config)
        await self._change(lambda: owner.use(config, new))

    # --- the rest -----------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        return f"Agent(name={self.name!r}, state={self._state()!r}, provider={self._owner.provider.name!r})"

    def _here(self) -> Owner:
        """The owner, for whoever is on its event loop."""
        owner = self._owner
        if owner.loop is None:
            raise AgentClosedError(self.name, "isn't running; enter it with 'async with'")
        if asyncio._get_running_loop() is not owner.loop:  # noqa: SLF001  the only way to ask that doesn't raise
            raise WrongEventLoopError(self.name)
        return owner

    def _answers(self) -> Answers:
        return Answers(self._here())

    def _submit(
        self, prompt: str | Block | Sequence[Block] | Message, request_id: str | None, *, waits: bool = False
    ) -> tuple[AgentRequest, bool]:
        owner = self._here()
        own_id = new_id() if request_id is None else checked_name("request_id", request_id)
        if waits and own_id not in owner.registry:
            check_deadlock(self.name, owner.registry)
        return owner.submit(prompt, own_id)

    def _cancel(self, request: AgentRequest) -> None:
        owner = self._owner
        if request.result is None and not (owner.running is request and owner.run is not None and owner.run.ending):
            owner.cancel(request, "its caller left")

    async def _abandon(self, request: AgentRequest) -> None:
        """Cancels a request whose caller has gone, and waits a little for its end."""
        if request.result is None:
            self._cancel(request)
            await last_words(request.wait, within=GOODBYE)

    async def _change(self, apply: Callable[[], None]) -> None:
        inbox = self._owner.inbox
        idle = not inbox.busy and not inbox.pending
        change = Change(apply)
        inbox.put(change)
        if idle:
            await change.done.wait()
        else:
            await checkpoint()

    def _close(self, why: str) -> None:
        self._owner.close(lambda: AgentClosedError(self.name, why))

    def _state(self) -> AgentState:
        owner = self._owner
        if owner.state != "running":
            return owner.state
        if owner.inbox.closed is not None:
            return "closing"
        return "idle" if owner.inbox.idle else "busy"
