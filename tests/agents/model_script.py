"""What happens in a play of the model: what is done to an agent, what its model answers, what its tools and its store do."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

from hypothesis import strategies as st

SECONDS = st.sampled_from([0.0, 0.5, 1.0, 2.0, 7.0])
IDS = 5  # ids of requests there are, so that they are repeated
LAST = -1  # the request that was sent last; to be sent: a new one
RETRIES = 2
TOOL_TIMEOUT = 20.3  # at which moment nothing else happens


@dataclass(frozen=True)
class Call:
    """A tool call: how long it takes, and what comes of it."""

    seconds: float
    outcome: Literal["text", "blank", "tool_error", "raises", "hangs", "crashes", "sends", "chats", "asks"]
    alone: bool = False


@dataclass(frozen=True)
class Turn:
    """One answer: attempts that fail before it, a wait before each of its words, its calls, and how it ends."""

    failures: int = 0
    wait: float = 0.0
    words: int = 2
    calls: tuple[Call, ...] = ()
    end: Literal["done", "blank", "fails", "breaks", "hangs", "crashes", "refuses"] = "done"


@dataclass(frozen=True)
class Plan:
    """What becomes of a message when it is run; with `reacts`, somebody who sees its end sends another one right there."""

    turns: tuple[Turn, ...] = ()
    reacts: bool = False


@dataclass(frozen=True)
class Save:
    seconds: float
    outcome: Literal["saves", "fails", "breaks"] = "saves"
    cancelled: Literal["old", "new"] = "old"


@dataclass(frozen=True)
class Supervision:
    """How a supervisor keeps the agent."""

    max_restarts: int
    idle: float | None


@dataclass(frozen=True)
class Setting:
    """An agent and what is around it."""

    schedule: int | None
    max_pending: int
    remember: int
    replay: int
    timeout: float | None
    connect: float
    saves: tuple[Save, ...] | None
    supervised: Supervision | None = None


# --- What is done ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Reading:
    """How a subscriber reads: that many envelopes and then no more, pausing between them."""

    count: int | None
    pause: float = 0.0
    then: Literal["leaves", "stays"] = "leaves"


@dataclass(frozen=True)
class Send:
    how: Literal["send", "chat", "stream", "topic"]
    who: int
    plan: Plan
    other: bool = False
    reading: Reading = Reading(None)


@dataclass(frozen=True)
class CancelRequest:
    who: int


@dataclass(frozen=True)
class CancelTask:
    which: int
    native: bool


@dataclass(frozen=True)
class Ask:
    who: int


@dataclass(frozen=True)
class Watch:
    who: int | None
    events: tuple[str, ...] | None
    after: float | None
    buffer: int
    reading: Reading


@dataclass(frozen=True)
class Listen:
    """Somebody listens whose function raises at some time."""

    raises_at: int


@dataclass(frozen=True)
class Reset:
    pass


@dataclass(frozen=True)
class SetModel:
    pass


@dataclass(frozen=True)
class Pass:
    seconds: float


@dataclass(frozen=True)
class Breathe:
    rounds: int


@dataclass(frozen=True)
class Stop:
    grace: float


@dataclass(frozen=True)
class Leave:
    cancelled: bool


@dataclass(frozen=True)
class Start:
    """A new agent of the same name, once the one before has ended."""

    loads: bool = True


Step = (
    Send | CancelRequest | CancelTask | Ask | Watch | Listen | Reset | SetModel | Pass | Breathe | Stop | Leave | Start
)

# --- Any of it -------------------------------------------------------------------------------------------------------

calls = st.builds(
    Call,
    SECONDS,
    st.sampled_from(
        ["text"] * 6 + ["blank", "tool_error", "raises", "hangs", "crashes", "sends", "sends", "chats", "asks"]
    ),
    st.booleans(),
)
turns = st.builds(
    Turn,
    st.sampled_from([0, 0, 0, 0, 1, 2, 3]),
    SECONDS,
    st.integers(0, 4),
    st.lists(calls, max_size=3).map(tuple),
    st.sampled_from(["done"] * 9 + ["blank", "fails", "breaks", "hangs", "crashes", "refuses"]),
)
plans = st.builds(Plan, st.lists(turns, max_size=4).map(tuple), st.sampled_from([False, False, False, True]))
saves = st.builds(
    Save,
    st.sampled_from([0.0, 0.0, 0.5, 3.0, 30.0]),
    st.sampled_from(["saves"] * 6 + ["fails", "breaks"]),
    st.sampled_from(["old", "new"]),
)
settings = st.builds(
    Setting,
    schedule=st.one_of(st.none(), st.integers(0, 2**16)),
    max_pending=st.integers(0, 3),
    remember=st.sampled_from([1, 2, 64]),
    replay=st.sampled_from([0, 5, 20, 512, 512]),
    timeout=st.sampled_from([None, None, None, 5.0]),
    connect=st.sampled_from([0.0, 0.0, 3.0]),
    saves=st.one_of(st.none(), st.lists(saves, min_size=1, max_size=4).map(tuple)),
)
who = st.one_of(st.just(LAST), st.integers(0, IDS - 1))
readings = st.builds(
    Reading,
    st.one_of(st.none(), st.integers(0, 12)),
    st.sampled_from([0.0, 0.0, 0.5, 2.0]),
    st.sampled_from(["leaves", "stays"]),
)
names = st.sampled_from(
    [None, None, None, ("text_delta",), ("response", "run_start"), ("tool_start", "tool_end", "turn_end")]
)
sends = st.builds(
    Send,
    st.sampled_from(["send", "send", "chat", "stream", "topic"]),
    who,
    plans,
    st.sampled_from([False] * 7 + [True]),
    readings,
)
cancels = st.builds(CancelRequest, who)
tasks_cancelled = st.builds(CancelTask, st.integers(0, 7), st.booleans())
watches = st.builds(
    Watch,
    st.one_of(st.none(), who),
    names,
    st.one_of(st.none(), st.floats(0, 1.1)),
    st.sampled_from([1, 2, 3, 5, 1024]),
    readings,
)
passes = st.builds(Pass, st.sampled_from([0.5, 1.0, 2.0, 7.0, 60.0]))
breathes = st.builds(Breathe, st.integers(1, 9))
others = st.one_of(
    st.builds(Ask, who),
    st.builds(Listen, st.integers(0, 5)),
    st.just(Reset()),
    st.just(SetModel()),
)
ends = st.one_of(
    st.builds(Stop, st.sampled_from([0.0, 1.0, 10.0, 1000.0, math.inf])),
    st.builds(Leave, st.booleans()),
    st.builds(Start, st.sampled_from([True, True, True, True, False])),
    st.just(Start()),
    st.just(Start()),
)
WEIGHTED = [sends] * 6 + [
    cancels,
    cancels,
    tasks_cancelled,
    watches,
    watches,
    passes,
    passes,
    breathes,
    breathes,
    others,
    others,
    ends,
]
steps = st.sampled_from(range(len(WEIGHTED))).flatmap(WEIGHTED.__getitem__)
some = st.lists(steps, max_size=12)
lists = st.tuples(some, some, some, some).map(lambda parts: [step for part in parts for step in part])
plays = st.tuples(settings, lists)
supervisions = st.builds(Supervision, st.sampled_from([0, 1, 5, 5]), st.sampled_from([None, None, 8.0, 50.0]))
supervised_plays = st.tuples(
    st.builds(lambda setting, supervised: replace(setting, supervised=supervised), settings, supervisions), lists
)
