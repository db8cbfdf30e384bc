"""Measures agents against the barest actor, a task with an `asyncio.Queue`: ``python -m tests.benchmarks.actors``.

Processor time of this process; both sides take turns, and medians count.
"""

from __future__ import annotations

import asyncio
import gc
import json
import statistics
import sys
import time
import tracemalloc
from typing import TYPE_CHECKING, Self

import alloy
from alloy.agents.bus import LocalBus
from alloy.agents.subscription import subscribe
from alloy.events import Envelope
from alloy.providers.base import Completion

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

PAIRS = 7
MESSAGES = 2000
SUBSCRIBERS = 100
IDLE = 10_000


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


async def actor(queue: asyncio.Queue[asyncio.Future[str] | None]) -> None:
    while (waiting := await queue.get()) is not None:
        waiting.set_result("Yes.")


async def answered_by_hand() -> float:
    queue: asyncio.Queue[asyncio.Future[str] | None] = asyncio.Queue()
    async with asyncio.TaskGroup() as group:
        group.create_task(actor(queue))
        begun = time.process_time()
        for _ in range(MESSAGES):
            waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
            await queue.put(waiting)
            await waiting
        seconds = time.process_time() - begun
        await queue.put(None)
    return seconds / MESSAGES


async def answered_by_an_agent() -> float:
    async with alloy.Agent(provider=Instant(), max_retries=0, bus=LocalBus(replay=0)) as agent:
        begun = time.process_time()
        for _ in range(MESSAGES // 10):
            await agent.chat("Well?")
        return (time.process_time() - begun) / (MESSAGES // 10)


async def accepted_by_hand() -> float:
    queue: asyncio.Queue[object] = asyncio.Queue()
    begun = time.process_time()
    for _ in range(MESSAGES):
        queue.put_nowait(object())
    return (time.process_time() - begun) / MESSAGES


async def accepted_by_an_agent() -> float:
    hangs = alloy.testing.Scripted([alloy.testing.Reply(hangs=True)])
    async with alloy.Agent(provider=hangs, max_pending=MESSAGES, bus=LocalBus(replay=0)) as agent:
        await agent.send_message("Wait.")
        begun = time.process_time()
        for _ in range(MESSAGES):
            await agent.send_message("Well?")
        return (time.process_time() - begun) / MESSAGES


async def waits_for_acceptance() -> list[float]:
    """Seconds from `send_message` to its return while the agent streams an answer."""
    words = alloy.testing.Scripted(["word " * 20_000])
    waits: list[float] = []
    async with alloy.Agent(provider=words, max_pending=MESSAGES) as agent:
        await agent.send_message("Talk.")
        for _ in range(MESSAGES // 4):
            begun = time.perf_counter()
            await agent.send_message("Well?")
            waits.append(time.perf_counter() - begun)
    return waits


def envelope(seq: int) -> Envelope:
    return Envelope(seq=seq, correlation_id="r", turn=1, ts_ms=0, event="text_delta", payload={"text": "word"})


async def broadcast_by_hand() -> float:
    queues: list[asyncio.Queue[Envelope | None]] = [asyncio.Queue() for _ in range(SUBSCRIBERS)]

    async def read(queue: asyncio.Queue[Envelope | None]) -> None:
        while await queue.get() is not None:
            pass

    async with asyncio.TaskGroup() as group:
        for queue in queues:
            group.create_task(read(queue))
        await asyncio.sleep(0)
        begun = time.process_time()
        for seq in range(100):
            one = envelope(seq + 1)
            for queue in queues:
                queue.put_nowait(one)
            await asyncio.sleep(0)
        for queue in queues:
            queue.put_nowait(None)
    return (time.process_time() - begun) / 100


async def broadcast_by_a_bus() -> float:
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
        for seq in range(100):
            bus.publish("t", envelope(seq + 1))
            await asyncio.sleep(0)
        bus.close("t")
    return (time.process_time() - begun) / 100


async def idle_by_hand() -> tuple[float, float]:
    queues: list[asyncio.Queue[asyncio.Future[str] | None]] = []
    gc.collect()
    tracemalloc.start()
    async with asyncio.TaskGroup() as group:
        begun = time.process_time()
        for _ in range(IDLE):
            queues.append(asyncio.Queue())
            group.create_task(actor(queues[-1]))
        await asyncio.sleep(0)
        seconds = time.process_time() - begun
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        for queue in queues:
            queue.put_nowait(None)
    return seconds / IDLE, size / IDLE


async def idle_by_a_supervisor() -> tuple[float, float]:
    config = alloy.Config(provider=Instant(), max_pending=8)
    async with alloy.Supervisor(watchdog=None) as supervisor:
        await supervisor.start("first", config)
        gc.collect()
        tracemalloc.start()
        begun = time.process_time()
        for number in range(IDLE):
            await supervisor.start(f"a{number}", config)
        seconds = time.process_time() - begun
        size = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
    return seconds / IDLE, size / IDLE


def compare(
    what: str,
    ours: Callable[[], Coroutine[object, object, float]],
    floor: Callable[[], Coroutine[object, object, float]],
) -> dict[str, object]:
    pairs: list[tuple[float, float]] = [(asyncio.run(ours()), asyncio.run(floor())) for _ in range(PAIRS)]
    ratio = statistics.median(a / b for a, b in pairs)
    ours_us, floor_us = (statistics.median(pair[side] for pair in pairs) * 1e6 for side in (0, 1))
    return {"what": what, "alloy_us": round(ours_us, 2), "floor_us": round(floor_us, 2), "ratio": round(ratio, 2)}


def main() -> None:
    """Measures, and prints one line of JSON for each workload."""
    rows: list[dict[str, object]] = [
        compare("a message answered", answered_by_an_agent, answered_by_hand),
        compare("a message accepted while another runs / put_nowait", accepted_by_an_agent, accepted_by_hand),
        compare("an envelope to each of 100 subscribers", broadcast_by_a_bus, broadcast_by_hand),
    ]
    waits = sorted(asyncio.run(waits_for_acceptance()))
    rows.append(
        {
            "what": "wait for acceptance while an answer streams",
            "p50_us": round(waits[len(waits) // 2] * 1e6),
            "p99_us": round(waits[len(waits) * 99 // 100] * 1e6),
        }
    )
    ours, floor = asyncio.run(idle_by_a_supervisor()), asyncio.run(idle_by_hand())
    rows.append(
        {
            "what": "an idle agent of 10,000",
            "cpu_ratio": round(ours[0] / floor[0], 2),
            "kib": round(ours[1] / 1024, 2),
            "floor_kib": round(floor[1] / 1024, 2),
        }
    )
    for row in rows:
        sys.stdout.write(json.dumps(row) + "\n")


if __name__ == "__main__":
    main()
