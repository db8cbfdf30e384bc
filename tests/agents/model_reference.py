"""What must be: an agent in plain lists and dictionaries, told of everything at the moment when it happens."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alloy.agents.restarts import POISONOUS
from alloy.errors import (
    AgentBusyError,
    AgentClosedError,
    AgentQuarantinedError,
    QueueFullError,
    RequestConflictError,
)
from alloy.history import UNKNOWN_OUTCOME, check_history
from alloy.loop.toolrun import NOT_EXECUTED
from alloy.messages import Message, TextBlock, ToolResultBlock
from alloy.testing import check_envelopes
from alloy.usage import Usage
from tests.agents.model_script import RETRIES, Call, Plan, Setting, Turn

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.events import Envelope

KINDS = ("message_refused", "session_not_saved", "agent_crashed", "agent_restarted", "agent_given_up")
END = "the end"
WAIT = "nothing yet"


def plain(messages: Sequence[Message]) -> list[Any]:
    """A history as lists that can be compared, and read where they differ."""
    found: list[Any] = []
    for message in messages:
        if message.role == "user":
            found.append(["user", *map(_block, message.content)])
        else:
            ids = [call.id for call in message.tool_uses]
            found.append(["assistant", message.text, ids, "interrupted" if message.interrupted else ""])
    return found


def _block(block: Any) -> Any:
    if isinstance(block, TextBlock):
        return block.text
    assert isinstance(block, ToolResultBlock)
    return (block.tool_use_id, "".join(part.text for part in block.content), block.is_error)


@dataclass(eq=False)
class Called:
    """What became of a tool call, as the tool itself knows it."""

    id: str
    call: Call
    begun: bool = False
    result: tuple[str, bool] | None = None

    @property
    def block(self) -> Any:
        if self.result is None:
            return (self.id, UNKNOWN_OUTCOME if self.begun else NOT_EXECUTED, True)
        return (self.id, *self.result)


@dataclass(eq=False)
class Answer:
    """What the provider has given out of the turn that runs."""

    text: str = ""
    whole: bool = False
    refused: bool = False
    calls: list[Called] = field(default_factory=list)


@dataclass(eq=False)
class Asked:
    """A request."""

    id: str
    text: str
    plan: Plan
    accepted_at: int
    begun: bool = False
    cancelled: bool = False
    attempts: int = 0
    answer: Answer | None = None
    paid: Usage = field(default_factory=Usage)
    status: str | None = None
    histories: list[list[Any]] = field(default_factory=list)
    envelopes: list[Envelope] = field(default_factory=list)
    said: bool = False
    answers: int = 0

    def turn(self, number: int) -> Turn:
        return self.plan.turns[number] if number < len(self.plan.turns) else Turn()

    def expected(self, max_turns: int) -> str:
        """How it ends, if nobody cancels it and there is time."""
        for number in range(max_turns):
            turn = self.turn(number)
            if turn.failures > RETRIES or turn.end in ("fails", "breaks", "refuses", "crashes"):
                return "failed"
            if turn.end == "hangs":
                return "hangs"
            if turn.end == "blank" or not turn.calls:
                return "completed"
            if any(call.outcome == "crashes" for call in turn.calls):
                return "failed"
        return "max_turns"


class Reference:
    """An agent, and what was published by all agents of its name."""

    def __init__(self, setting: Setting, max_turns: int) -> None:
        self.setting = setting
        self.max_turns = max_turns
        self.log: list[Envelope] = []
        self.views: list[View] = []
        self.forgotten = 0  # how much of the log the bus has dropped
        self.closes_with: type[Exception] = AgentClosedError
        self.poison: dict[str, int] = {}  # crashes by message
        self.poisoning: str | None = None  # a message that has crashed, which isn't counted yet
        self.provider = "planned-0"
        self.begin()

    def begin(self) -> None:
        """Another agent of the same name."""
        self.open: dict[str, Asked] = {}
        self.settled: dict[str, Asked] = {}
        self.ended: list[Asked] = []
        self.queue: list[Asked | str] = []  # requests, "reset", and names of models
        self.running: Asked | None = None
        self.history: list[Any] = []
        self.usage = Usage()
        self.closed: bool | None = False  # None: it closes at some time soon
        self.first = True
        self.crashed = False
        self.cancelled = False  # with the task that holds the agent, which cancels everything at once

    # --- what is asked of it ------------------------------------------------------------------------------------------

    def find(self, request_id: str) -> Asked | None:
        return self.open.get(request_id) or self.settled.get(request_id)

    def expect(self, request_id: str, text: str) -> tuple[Asked | type[Exception] | None, ...]:
        """What sending a message may come to: a request that is known, an error, or None where it is accepted."""
        known = self.find(request_id)
        if known is not None:
            return (known if known.text == text else RequestConflictError,)
        crashes = self.poison.get(text, 0)
        if crashes >= POISONOUS:
            return (AgentQuarantinedError,)
        accepted: type[Exception] | None = None
        if len(self.open) > self.setting.max_pending:
            accepted = AgentBusyError if self.setting.max_pending == 0 else QueueFullError
        possible = (accepted,) if not self.closed else (self.closes_with,)
        if self.closed is None:
            possible += (self.closes_with,)
        if crashes + (self.poisoning == text) >= POISONOUS:
            possible += (AgentQuarantinedError,)
        return possible

    def accept(self, request_id: str, text: str, plan: Plan) -> Asked:
        asked = Asked(request_id, text, plan, len(self.log))
        self.open[request_id] = asked
        self.queue.append(asked)
        return asked

    def take_back(self, asked: Asked) -> None:
        del self.open[asked.id]
        self.queue.remove(asked)

    # --- what it tells ------------------------------------------------------------------------------------------------

    def tell(self, envelope: Envelope) -> Asked | None:
        """Takes an envelope that was published, and checks that it had to come now; gives the request that it ends."""
        self._check_number(envelope)
        self.log.append(envelope)
        for view in self.views:
            view.publish(envelope)
        asked = self.open.get(envelope.correlation_id)
        match envelope.event:
            case "runtime_event" if envelope.payload["kind"] == "prefix_changed":
                assert asked is self.running, "a request that doesn't run has a prefix"
            case "runtime_event":
                assert envelope.payload["kind"] in KINDS, envelope
                return None
            case _:
                assert asked is not None, f"an envelope of no open request: {envelope}"
        asked.envelopes.append(envelope)
        match envelope.event:
            case "request_queued":
                assert len(asked.envelopes) == 1, "queued twice, or late"
                position = list(self.open).index(asked.id)
                assert envelope.payload["position"] == position > 0, f"position {envelope.payload}, not {position}"
            case "request_cancelled":
                assert not asked.cancelled, "cancelled twice"
                asked.cancelled = True
            case "run_start":
                self._start(asked, envelope)
            case "response":
                return self._settle(asked, envelope)
            case _:
                assert asked is self.running, f"{envelope.event} of {asked.id}, which doesn't run"
                if envelope.event == "turn_end":
                    self._commit(asked)
        return None

    def _check_number(self, envelope: Envelope) -> None:
        if self.log and self.first:
            assert envelope.seq > self.log[-1].seq, f"numbers go back, from {self.log[-1].seq} to {envelope.seq}"
        elif self.log:
            assert envelope.seq == self.log[-1].seq + 1, f"{envelope.seq} follows {self.log[-1].seq}"
        self.first = False

    def _start(self, asked: Asked, envelope: Envelope) -> None:
        assert self.running is None, f"{asked.id} begins while {self.running and self.running.id} runs"
        assert next(iter(self.open.values())) is asked, f"{asked.id} begins before its turn"
        while (item := self.queue.pop(0)) is not asked:
            self._change(item)
        assert envelope.payload["provider"] == self.provider
        self.running = asked
        asked.begun = True

    def _change(self, item: Asked | str) -> None:
        assert isinstance(item, str), f"{item} was passed over"
        if item == "reset":
            self.history = []
        else:
            self.provider = item

    def apply_until(self, change: str) -> None:
        """A change was made, and all before it."""
        while any(item is change for item in self.queue):
            self._change(self.queue.pop(0))

    def apply_all(self) -> None:
        """The agent has ended, and what was to be changed was changed."""
        while self.queue:
            self._change(self.queue.pop(0))

    def histories(self) -> list[list[Any]]:
        """What the history may be now: a change that has its turn is made at some time."""
        possible = [self.history]
        if self.running is None:
            for item in self.queue:
                if not isinstance(item, str):
                    break
                if item == "reset":
                    possible.append([])
        return possible

    def _commit(self, asked: Asked) -> None:
        """The step that a turn adds, from what the provider and the tools have seen of it."""
        answer, asked.answer, asked.attempts = asked.answer, None, 0
        if answer is None or answer.refused or not (answer.whole or answer.text.strip()):
            return
        if not asked.said:
            asked.said = True
            last = self.history[-1] if self.history else []
            if last and last[0] == "user" and isinstance(last[-1], str):
                self.history = [*self.history[:-1], [*last, asked.text]]
            else:
                self.history = [*self.history, ["user", asked.text]]
        if answer.text.strip() or answer.calls:
            ids = [called.id for called in answer.calls] if answer.whole else []
            self.history = [*self.history, ["assistant", answer.text, ids, "" if answer.whole else "interrupted"]]
            if ids:
                self.history = [*self.history, ["user", *(called.block for called in answer.calls)]]

    def _settle(self, asked: Asked, envelope: Envelope) -> Asked:
        status = envelope.payload["status"]
        asked.histories = self.histories()
        assert asked.begun == (asked is self.running)
        if asked.begun:
            check_envelopes(
                [one for one in asked.envelopes if one.event not in ("request_queued", "request_cancelled")]
            )
        else:
            assert status in ("cancelled", "failed"), f"{status} without having run"
            names = [one.event for one in asked.envelopes if one.event not in ("request_queued", "request_cancelled")]
            assert names == ["response"], names
            self.queue.remove(asked)
        if asked.cancelled:
            assert status == "cancelled" or self.crashed, f"its cancellation was told, and then it {status}"
        elif asked.begun:
            allowed = {asked.expected(self.max_turns)}
            allowed |= {"failed"} if self.setting.timeout else set()
            allowed |= {"cancelled"} if self.cancelled else set()
            assert status in allowed, f"{status}, not {allowed}"
        assert envelope.payload["usage"] == asked.paid.as_dict(), f"{envelope.payload['usage']}, not {asked.paid}"
        asked.status = status
        self.running = None if asked.begun else self.running
        del self.open[asked.id]
        self.settled[asked.id] = asked
        self.ended.append(asked)
        if len(self.settled) > self.setting.remember:
            del self.settled[next(iter(self.settled))]
        return asked


class View:
    """What a subscriber must see."""

    def __init__(
        self, reference: Reference, *, asked: Asked | None, events: Any, after: int | None, buffer: int
    ) -> None:
        self._reference = reference
        self._asked = asked
        self._events = None if events is None else {*events, "lagged"}
        self._buffer: deque[Envelope] = deque()
        self._size = buffer
        self._after = after
        self._lost: list[Envelope] = []
        self.replay: deque[Any] = deque()
        self.ended = False
        self._live = False

    def enter(self, *, over: bool) -> bool:
        """Begins; gives whether it can."""
        log = self._reference.log
        kept = min(self._reference.setting.replay, len(log) - self._reference.forgotten)
        if self._after is not None or self._asked is not None:
            entries = log[self._asked.accepted_at :] if self._after is None else [e for e in log if e.seq > self._after]
            if self._after is not None and (
                len(entries) > kept or (self._after and self._after not in [e.seq for e in log])
            ):
                return False
            if len(entries) > kept:
                gone = [e for e in entries[: len(entries) - kept] if self._mine(e)]
                self.replay.append(("missed", len(gone)))
            for envelope in entries[max(len(entries) - kept, 0) :]:
                if self._mine(envelope):
                    self._pass(envelope, self.replay.append)
        self.ended = self.ended or over
        self._live = True
        self._reference.views.append(self)
        return True

    def _mine(self, envelope: Envelope) -> bool:
        return self._asked is None or (envelope.correlation_id == self._asked.id and not self.ended)

    def _pass(self, envelope: Envelope, put: Any) -> None:
        if self._events is None or envelope.event in self._events:
            put(envelope)
        if self._asked is not None and envelope.event == "response":
            self.ended = True

    def publish(self, envelope: Envelope) -> None:
        if self._live and not self.ended and self._mine(envelope):
            self._pass(envelope, self._put)

    def _put(self, envelope: Envelope) -> None:
        if len(self._buffer) == self._size:
            self._lost.append(self._buffer.popleft())
        self._buffer.append(envelope)

    def take(self, seen: Any = None) -> Any:
        """The next thing that the subscriber gets, as it must be now."""
        if self.replay and self.replay[0] == ("missed", 0) and getattr(seen, "event", None) != "lagged":
            self.replay.popleft()  # nothing of the request's own is gone, but nobody can know
        if self.replay:
            return self.replay.popleft()
        if self._lost:
            lost, self._lost = self._lost, []
            return ("lagged", len(lost), lost[0].seq, lost[-1].seq)
        if self._buffer:
            return self._buffer.popleft()
        return END if self.ended else WAIT

    def leave(self) -> None:
        self._live = False
        if self in self._reference.views:
            self._reference.views.remove(self)

    def close(self) -> None:
        self.ended = True


def check_seen(seen: Any, expected: Any) -> None:
    """Checks what a subscriber got against what it had to get."""
    if isinstance(expected, tuple):
        assert getattr(seen, "event", None) == "lagged", f"{seen} instead of {expected}"
        missed, payload = expected[1], seen.payload
        if expected[0] == "missed":
            assert payload["missed"] in (None, missed), f"{payload}, not {missed}"
        else:
            assert (payload["missed"], payload["first_seq"], payload["last_seq"]) == expected[1:], (
                f"{payload}: {expected}"
            )
    else:
        assert seen is expected or seen == expected, f"a subscriber got {seen} instead of {expected}"


def check_messages(messages: Sequence[Message], possible: list[list[Any]], when: str) -> None:
    check_history(messages)
    found = plain(messages)
    assert found in possible, f"{when}: the history is {found}, not {possible}"
