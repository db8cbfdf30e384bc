"""What agents cost against the barest actor, a task with an `asyncio.Queue`."""

from __future__ import annotations

import asyncio
import gc
import time
import tracemalloc
import uuid
from functools import partial
from typing import TYPE_CHECKING, Self, TypeAlias

import anyio

import alloy
from alloy.agents.bus import LocalBus
from alloy.agents.subscription import subscribe
from alloy.events import Envelope
from alloy.providers.base import Completion
from tests.benchmarks.compare import by_turns, row

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.compare import Effort, Row, Side

__all__ = ["rows"]

SUBSCRIBERS = 100
PUBLISHED = 100
_Inbox: TypeAlias = "asyncio.Queue[asyncio.Future[str] | None]"


class Instant:
    """A provider that answers at once."""

    name = "instant"
    model = "word"

    def stream(self, request: object) -> Self:
        self._given = False
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        pass

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Completion:
        if self._given:
            raise StopAsyncIteration
        self._given = True
        return Completion(message=alloy.Message("assistant", (alloy.TextBlock("Yes."),)), stop_reason="end_turn")


async def actor(queue: _Inbox) -> None:
    """Answers what comes until None does."""
    while (waiting := await queue.get()) is not None:
        waiting.set_result("Yes.")


# --- Messages --------------------------------------------------------------------------------------------------------


async def answered_by_hand(count: int) -> float:
    queue: _Inbox = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        group.create_task(actor(queue))
        begun = time.process_time()
        for _ in range(count):
            waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            await queue.put(waiting)
            await waiting
        taken = time.process_time() - begun
        await queue.put(None)
    return taken / count


async def answered_by_an_agent(count: int) -> float:
    async with alloy.Agent(provider=Instant(), bus=LocalBus(replay=0)) as agent:
        begun = time.process_time()
        for _ in range(count):
            await agent.chat("Well?")
        return (time.process_time() - begun) / count


async def accepted_by_hand(count: int) -> float:
    queue: asyncio.Queue[object] = asyncio.Queue()
    begun = time.process_time()
    for _ in range(count):
        queue.put_nowait(object())
    return (time.process_time() - begun) / count


async def accepted_by_hand_with_an_id(count: int) -> float:
    queue: asyncio.Queue[str] = asyncio.Queue()
    waiting: dict[str, tuple[str, asyncio.Future[str]]] = {}
    begun = time.process_time()
    for _ in range(count):
        one = uuid.uuid4().hex
        waiting[one] = "Well?", asyncio.get_running_loop().create_future()
        queue.put_nowait(one)
    return (time.process_time() - begun) / count


async def accepted_by_an_agent(count: int) -> float:
    hangs = alloy.testing.Scripted([alloy.testing.Reply(hangs=True)])
    async with alloy.Agent(provider=hangs, max_pending=count, bus=LocalBus(replay=0)) as agent:
        await agent.send_message("Wait.")
        begun = time.process_time()
        for _ in range(count):
            await agent.send_message("Well?")
        return (time.process_time() - begun) / count


# --- Envelopes -------------------------------------------------------------------------------------------------------


def envelope(seq: int) -> Envelope:
    return Envelope(seq=seq, correlation_id="r", turn=1, ts_ms=0, event="text_delta", payload={"text": "word"})


async def delivered_by_hand() -> float:
    queues: list[asyncio.Queue[Envelope | None]] = [asyncio.Queue() for _ in range(SUBSCRIBERS)]

    async def read(queue: asyncio.Queue[Envelope | None]) -> None:
        while await queue.get() is not None:
            pass

    async with asyncio.TaskGroup() as group:
        for queue in queues:
            group.create_task(read(queue))
        await asyncio.sleep(0)
        begun = time.process_time()
        for seq in range(PUBLISHED):
            one = envelope(seq + 1)
            for queue in queues:
                queue.put_nowait(one)
            await asyncio.sleep(0)
        for queue in queues:
            queue.put_nowait(None)
    return time.process_time() - begun


async def delivered_by_a_bus() -> float:
    bus = LocalBus()
    ready = asyncio.Semaphore(0)

    async def read() -> None:
        async with subscribe(bus, "t", agent="t") as envelopes:
            ready.release()
            async for _ in envelopes:
                pass

    async with asyncio.TaskGroup() as group:
        for _ in range(SUBSCRIBERS):
            group.create_task(read())
        for _ in range(SUBSCRIBERS):
            await ready.acquire()
        begun = time.process_time()
        for seq in range(PUBLISHED):
            bus.publish("t", envelope(seq + 1))
            await asyncio.sleep(0)
        bus.close("t")
    return time.process_time() - begun


# --- Idle agents -----------------------------------------------------------------------------------------------------


class Meter:
    """Measures making many: processor time, or bytes that are held in the end, for each of them."""

    def __init__(self, count: int, *, held: bool) -> None:
        self._count = count
        self._held = held
        gc.collect()
        if held:
            tracemalloc.start()
        self._begun = time.process_time()

    def each(self) -> float:
        """What each of them took."""
        taken = time.process_time() - self._begun
        if self._held:
            gc.collect()
            taken = tracemalloc.get_traced_memory()[0]
            tracemalloc.stop()
        return taken / self._count


async def idle_by_hand(count: int, *, held: bool = False) -> float:
    queues: list[_Inbox] = []
    async with asyncio.TaskGroup() as group:
        meter = Meter(count, held=held)
        for _ in range(count):
            queues.append(asyncio.Queue())
            group.create_task(actor(queues[-1]))
        await asyncio.sleep(0)
        each = meter.each()
        for queue in queues:
            queue.put_nowait(None)
    return each


async def idle_by_a_supervisor(count: int, *, held: bool = False, asked: bool = False) -> float:
    config = alloy.Config(provider=Instant(), max_pending=8)
    async with alloy.Supervisor(watchdog=None, bus=LocalBus(replay=0)) as supervisor:
        await supervisor.start("first", config)
        meter = Meter(count, held=held)
        for number in range(count):
            agent = await supervisor.start(f"a{number}", config, remember=1)
            if asked:
                await agent.chat("Well?")
        return meter.each()


async def asleep(count: int) -> float:
    config = alloy.Config(provider=Instant(), max_pending=8)
    async with alloy.Supervisor(watchdog=None, idle_timeout=0.001) as supervisor:
        await supervisor.start("first", config)
        meter = Meter(count, held=True)
        for number in range(count):
            await supervisor.start(f"a{number}", config)
        while any(one.state != "asleep" for one in supervisor.health().values()):  # noqa: ASYNC110  nothing tells of it
            await anyio.sleep(0.05)
        return meter.each()


async def _a_kib() -> float:
    return 1024.0


def rows(effort: Effort) -> Iterator[Row]:
    """Measures it all."""
    messages, idle, few = 2 * effort.turns, 10 * effort.turns, max(1, effort.pairs // 3)

    def compared(what: str, ours: Side, floor: Side, aim: float | None, pairs: int = effort.pairs) -> Row:
        return row("actors", what, by_turns(ours, floor, pairs), aim)

    yield compared(
        "a message accepted while another runs / put_nowait",
        partial(accepted_by_an_agent, messages),
        partial(accepted_by_hand, messages),
        3,
    )
    yield compared(
        "the same / a UUID, a future, a dictionary, put_nowait",
        partial(accepted_by_an_agent, messages),
        partial(accepted_by_hand_with_an_id, messages),
        None,
    )
    yield compared(
        "a message answered / by a task with a queue",
        partial(answered_by_an_agent, max(1, messages // 10)),
        partial(answered_by_hand, messages),
        None,
    )
    yield compared("an envelope to each of 100 / to 100 queues", delivered_by_a_bus, delivered_by_hand, 2)
    yield compared(
        "an idle agent made / a task with a queue",
        partial(idle_by_a_supervisor, idle),
        partial(idle_by_hand, idle),
        2,
        few,
    )
    floor = partial(idle_by_hand, idle, held=True)
    ours = partial(idle_by_a_supervisor, idle, held=True)
    yield compared("the memory of an idle agent / a task with a queue", ours, floor, 1.5, 1)
    ours = partial(idle_by_a_supervisor, effort.turns, held=True, asked=True)
    yield compared("the same, once it has answered", ours, floor, None, 1)
    yield compared("the memory of an agent that sleeps / a KiB", partial(asleep, idle), _a_kib, 1, 1)
