"""What a supervisor's tasks do: one for each agent that is awake, which starts it again when it crashes, and one that lets the
idle fall asleep."""

from __future__ import annotations

import contextvars
import itertools
import logging
from functools import partial
from typing import TYPE_CHECKING, Any, assert_never

import anyio
from anyio.lowlevel import checkpoint

from alloy._tasks import cancelled_alone, ending_alone, last_words
from alloy.agents.members import given_up
from alloy.agents.owner import GOODBYE, SAVING
from alloy.errors import AgentClosedError, AgentCrashedError, AgentError, SessionConflictError, SessionError
from alloy.events import Emitter

if TYPE_CHECKING:
    from collections.abc import Callable

    from anyio.abc import TaskGroup

    from alloy.agents.bus import Bus
    from alloy.agents.members import Ending, Member
    from alloy.agents.owner import Owner
    from alloy.agents.restarts import Restarts
    from alloy.events import Envelope

__all__ = ["TOPIC", "Lives"]

TOPIC = "supervisor"
"""Where what befalls any of the agents is published."""

SWEEPS = 8  # times in each idle timeout that agents are looked at
SHORTEST_SWEEP = 0.02  # seconds
AT_ONCE = 100  # agents that fall asleep before others have their turn
ENDING = SAVING + GOODBYE + 5  # seconds

_log = logging.getLogger("alloy")


class Lives:
    """The tasks of agents.

    Args:
        bus: where envelopes are published.
        restarts: what counts the crashes of an agent.
        gone: called with each agent that has ended for good.

    Attributes:
        alive: the agents that have a task, or will have one with their first message.
        unsaved: those that ended without being saved, and why.
        closed: whether none that sleeps is woken any more.
    """

    def __init__(self, bus: Bus, restarts: Callable[[], Restarts], gone: Callable[[Member], None]) -> None:
        self._bus = bus
        self._restarts = restarts
        self._gone = gone
        self._emptied: anyio.Event | None = None
        self._group: TaskGroup | None = None
        self._context = contextvars.Context()
        self.alive: dict[Member, None] = {}
        self.unsaved: dict[str, BaseException | None] = {}
        self.closed = False

    def open(self, group: TaskGroup) -> None:
        """From here on tasks run in this group; they inherit the context of this moment, and nothing from who starts an agent."""
        self._group = group
        self._context = contextvars.copy_context()

    def begin(self, member: Member) -> None:
        """Starts an agent; its task begins with the first message where it has nothing to load and nothing to listen to."""
        owner = member.begin()
        self.alive[member] = None
        if owner.store is None and not member.plan.topics:
            owner.rest(partial(self._begin_task, member, owner))
            member.become("awake")
        else:
            self._begin_task(member, owner)

    def wake(self, member: Member) -> None:
        """Starts the task of one that sleeps, or is quarantined."""
        owner = member.begin()
        self.alive[member] = None
        self._begin_task(member, owner)
        member.become("waking")

    def _begin_task(self, member: Member, owner: Owner) -> None:
        assert self._group is not None  # noqa: S101  the supervisor is running
        begin = partial(self._group.start_soon, self._live, member, owner, name=f"agent {member.name}")
        self._context.copy().run(begin)

    async def wait_for_all(self) -> None:
        """Waits until none is alive."""
        while self.alive:
            self._emptied = self._emptied or anyio.Event()
            await self._emptied.wait()

    # --- an agent's task ----------------------------------------------------------------------------------------------

    async def _live(self, member: Member, owner: Owner) -> None:
        ending: Ending = "gone"
        with ending_alone:
            try:
                ending = await self._serve(member, owner)
            except Exception as error:  # noqa: BLE001  such as a bus that raises: this agent's trouble, not all the others'
                _log.exception("the task of agent %r broke", member.name)
                member.cause, ending = error, "quarantined"
            except BaseException as error:
                if cancelled_alone(error):
                    owner.lose_task()
                raise
            finally:
                await self._finish(member, owner, ending)

    async def _finish(self, member: Member, owner: Owner, ending: Ending) -> None:
        try:
            await last_words(lambda: owner.finish(sleep=ending == "asleep"), within=ENDING)
        finally:
            self._ended(member, owner, ending)

    async def bury(self) -> None:
        """Ends the agents whose tasks were cancelled before they had begun; no other has a task any more."""
        for member in tuple(self.alive):
            if member.owner is not None:
                await self._finish(member, member.owner, "gone")

    async def _serve(self, member: Member, owner: Owner) -> Ending:
        """Serves an agent, again after each crash, until it ends."""
        restarted = False
        while owner.inbox.closed is None or not owner.inbox.idle:
            crash: SessionError | AgentCrashedError | None = None
            try:
                await owner.serve(partial(self._started, member, owner, restarted=restarted))
            except (SessionError, AgentCrashedError) as error:
                crash = error
            if crash is not None and member.state == "starting":
                member.cause = crash
                return "gone"
            if crash is not None and (ending := await self._recover(member, owner, crash)) is not None:
                return ending
            restarted = crash is not None
            if member.state == "falling asleep":
                if await self._is_saved(owner):
                    return "asleep"
                if self.closed or isinstance(owner.error, SessionConflictError):
                    return "gone"
                owner.inbox.open()
                member.become("awake")
            elif crash is None:
                return "gone"
        return "gone"

    def _started(self, member: Member, owner: Owner, *, restarted: bool) -> None:
        if restarted:
            self._tell(member, "agent_restarted", crashes=owner.crashes)
        if member.state in ("starting", "waking"):
            member.detach = member.detach or tuple(
                self._bus.attach(topic, partial(self._hear, member)) for topic in member.plan.topics
            )
            member.become("awake")

    async def _recover(self, member: Member, owner: Owner, crash: SessionError | AgentCrashedError) -> Ending | None:
        """Waits until a crashed agent can be started again; or says how it ends."""
        cause = crash.cause if isinstance(crash, AgentCrashedError) else crash
        member.restarts = member.restarts or self._restarts()
        delay = member.restarts.crashed(anyio.current_time())
        error = {"type": type(cause).__name__, "message": str(cause)}
        self._tell(member, "agent_crashed", error=error, crashes=owner.crashes, delay_s=delay)
        if member.state == "falling asleep" or (owner.inbox.closed is not None and owner.inbox.idle):
            _log.warning("agent %r crashed when it ended", member.name, exc_info=cause)
            return None
        if delay is None:
            member.cause = cause
            waiting = [request.id for request in owner.registry]
            _log.error("agent %r has crashed too often and isn't started again", member.name, exc_info=cause)
            self._tell(member, "agent_given_up", error=error, crashes=owner.crashes, waiting=waiting)
            owner.inbox.close(partial(given_up, member.name, cause))
            return "quarantined"
        _log.warning("agent %r crashed, and starts again in %.3g s", member.name, delay, exc_info=cause)
        with anyio.CancelScope() as owner.scope:
            await anyio.sleep(delay)
        return None

    async def _is_saved(self, owner: Owner) -> bool:
        if owner.unsaved:
            await owner.save_quietly()
        return not owner.unsaved

    def _ended(self, member: Member, owner: Owner, ending: Ending) -> None:
        self.alive.pop(member, None)
        if ending != "asleep" and owner.unsaved:
            self.unsaved[member.name] = owner.error
        member.end(ending)
        if ending == "gone":
            self._gone(member)
        for envelope in member.held():
            self._hear(member, envelope)  # wakes it, or refuses
        if not self.alive and self._emptied is not None:
            self._emptied.set()
            self._emptied = None

    # --- messages from topics -----------------------------------------------------------------------------------------

    def _hear(self, member: Member, envelope: Envelope) -> None:
        """Takes a message from a topic to an agent, wherever that is."""
        if envelope.event != "message":
            return
        match member.state:
            case "awake" | "waking" | "starting":
                self._give(member, envelope)
            case "falling asleep":
                if not member.hold(envelope):
                    self._give(member, envelope)  # which refuses it, being closed
            case "asleep" if not self.closed:
                self.wake(member)
                self._give(member, envelope)
            case "asleep" | "gone":
                self._refuse(member, envelope, AgentClosedError(member.name))
            case "quarantined":
                self._refuse(member, envelope, given_up(member.name, member.cause))
            case _:
                assert_never(member.state)

    def _give(self, member: Member, envelope: Envelope) -> None:
        if member.owner is not None:
            member.owner.hear(envelope)

    def _refuse(self, member: Member, envelope: Envelope, error: AgentError) -> None:
        _log.warning("a message was refused: %s", error)
        data = {"kind": "message_refused", "reason": str(error), "error": type(error).__name__}
        self._publish(f"agent/{member.name}", member.name, envelope.correlation_id, data)

    # --- sleep --------------------------------------------------------------------------------------------------------

    async def sweep(self, idle_timeout: float) -> None:
        """Lets agents that have been idle for so many seconds fall asleep, until it is closed."""
        with ending_alone:
            while not self.closed:
                await anyio.sleep(max(idle_timeout / SWEEPS, SHORTEST_SWEEP))
                await self._let_sleep(idle_timeout)
            return
        _log.warning("somebody has cancelled the task that lets agents fall asleep; they stay awake from here on")

    async def _let_sleep(self, idle_timeout: float) -> None:
        asleep = 0
        for member in tuple(self.alive):
            if self._is_idle(member, idle_timeout) and member.owner is not None:
                # Closed in the same step in which it is idle: what was accepted until now is run, and what comes is refused.
                member.owner.close(member.sleeps)
                member.become("falling asleep")
                asleep += 1
                if asleep % AT_ONCE == 0:
                    await checkpoint()

    def _is_idle(self, member: Member, idle_timeout: float) -> bool:
        owner = member.owner
        if member.state != "awake" or owner is None or owner.state != "running":
            return False
        if not owner.inbox.idle or owner.inbox.closed is not None or len(owner.registry):
            member.idle_since = None
            return False
        now = anyio.current_time()
        if member.idle_since is None or member.seen != owner.seq:
            member.idle_since, member.seen = now, owner.seq
        return now - member.idle_since >= idle_timeout

    # --- words --------------------------------------------------------------------------------------------------------

    def _tell(self, member: Member, kind: str, **data: Any) -> None:
        """Tells of what befell an agent, to who watches it and to who watches the supervisor."""
        if member.owner is not None:
            member.owner.emit(kind, **data)
        self.tell(kind, agent=member.name, **data)

    def tell(self, kind: str, *, agent: str | None = None, **data: Any) -> None:
        """Tells those who watch the supervisor."""
        self._publish(TOPIC, agent, "", {"kind": kind, **data})

    def _publish(self, topic: str, agent: str | None, request_id: str, data: dict[str, Any]) -> None:
        numbers = itertools.count(self._bus.newest(topic) + 1)
        emitter = Emitter(request_id, partial(self._bus.publish, topic), agent_id=agent, numbers=numbers)
        emitter.emit("runtime_event", **data)
