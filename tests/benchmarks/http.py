"""Measures what HTTP costs a run against a loop written by hand on httpx and json: ``python -m tests.benchmarks.http --help``.

- ``turns``: one run of ten tool rounds and an answer, nothing streamed: processor time for each turn.
- ``first``: the processor time until the first delta of a stream is there.
- ``many``: a thousand runs of two tool rounds at once, with a server that thinks for 50 ms: processor time, time by the clock, peak
  memory, and runs that failed; each time in a process of its own.

Processor time is this process's, user and system, in which the server has no part. Both sides take turns, and the median of the
pairs' ratios counts.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

import alloy
from alloy.providers import ChatCompletions
from tests.benchmarks.server import address, serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

ROUNDS = 10
BESIDE_ROUNDS = 2
THINK = 50
"""How long the server of ``many`` thinks before each answer, in milliseconds."""
FILES = 16_384
WHOLE = 1000
"""For how many tokens an answer is asked, so that it isn't streamed."""
_ROOT = Path(__file__).parent.parent.parent
_WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


# --- Both sides ------------------------------------------------------------------------------------------------------


@alloy.tool
async def weather(city: str) -> str:
    """The weather in a city."""
    return f"It rains in {city}."


def provider_at(url: str, client: httpx.AsyncClient | None = None) -> ChatCompletions:
    """The adapter that is measured."""
    return ChatCompletions("gpt-4.1-mini", "key", url, compat="openai", max_tokens=WHOLE, client=client)


def bare_client() -> httpx.AsyncClient:
    """httpx as it comes, but for limits that a thousand requests at once would meet."""
    return httpx.AsyncClient(timeout=60, limits=httpx.Limits(max_connections=None, max_keepalive_connections=None))


async def run_by_alloy(provider: ChatCompletions) -> str:
    """One run."""
    return (await alloy.run("Go on.", provider=provider, tools=[weather])).text


async def run_by_hand(client: httpx.AsyncClient, url: str) -> str:
    """The same, as short as it can be written."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": "Go on."}]
    fields = {"model": "gpt-4.1-mini", "max_completion_tokens": WHOLE, "tools": [_WEATHER], "messages": messages}
    while True:
        response = await client.post(url, json=fields, headers={"authorization": "Bearer key"})
        response.raise_for_status()
        message = response.json()["choices"][0]["message"]
        messages.append(message)
        if not message.get("tool_calls"):
            return str(message["content"])
        for call in message["tool_calls"]:
            city = json.loads(call["function"]["arguments"])["city"]
            text = f"It rains in {city}."
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": text})


async def first_by_alloy(provider: ChatCompletions) -> float:
    """Streams an answer; the processor time when its first delta was there, in seconds."""
    at = 0.0
    async with alloy.stream("Go on.", provider=provider) as run:
        async for _ in run.text_deltas():
            at = at or time.process_time()
    return at


async def first_by_hand(client: httpx.AsyncClient, url: str) -> float:
    """The same, as short as it can be written."""
    at = 0.0
    fields = {"model": "gpt-4.1-mini", "stream": True, "messages": [{"role": "user", "content": "Go on."}]}
    async with client.stream("POST", url, json=fields, headers={"authorization": "Bearer key"}) as response:
        async for line in response.aiter_lines():
            if not at and line.startswith("data: ") and line != "data: [DONE]":
                choices = json.loads(line[6:])["choices"]
                if choices and choices[0]["delta"].get("content"):
                    at = time.process_time()
    return at


# --- One at a time ---------------------------------------------------------------------------------------------------


async def _pairs(sides: dict[str, Callable[[], Awaitable[float]]], pairs: int) -> dict[str, list[float]]:
    """Each side's seconds, by turns; what comes first only warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(pairs + 1):
        for name, side in sides.items():
            gc.collect()
            took = await side()
            if number:
                seconds[name].append(took)
    return seconds


async def turns(server: str, pairs: int) -> dict[str, list[float]]:
    """Processor time for each turn of runs of ten tool rounds, in seconds."""
    url, repeat = address(server, deltas=20, rounds=ROUNDS), 20

    async def taken(work: Callable[[], Awaitable[str]]) -> float:
        begun = time.process_time()
        for _ in range(repeat):
            assert (await work()).endswith(" word19")
        return (time.process_time() - begun) / repeat / (ROUNDS + 1)

    async with bare_client() as client, provider_at(url) as provider:
        return await _pairs(
            {
                "alloy": lambda: taken(lambda: run_by_alloy(provider)),
                "by hand": lambda: taken(lambda: run_by_hand(client, url + "/chat/completions")),
            },
            pairs,
        )


async def first(server: str, pairs: int) -> dict[str, list[float]]:
    """Processor time until the first delta of a stream, in seconds, the connection being there."""
    url, repeat = address(server, pace="paced", deltas=2), 30

    async def taken(work: Callable[[], Awaitable[float]]) -> float:
        costs = []
        for _ in range(repeat):
            begun = time.process_time()
            costs.append(await work() - begun)
        return statistics.median(costs)

    async with bare_client() as client, provider_at(url) as provider:
        return await _pairs(
            {
                "alloy": lambda: taken(lambda: first_by_alloy(provider)),
                "by hand": lambda: taken(lambda: first_by_hand(client, url + "/chat/completions")),
            },
            pairs,
        )


# --- Many at once ----------------------------------------------------------------------------------------------------


async def _together(work: Callable[[], Awaitable[str]], count: int) -> dict[str, float]:
    """What so many at once took, after one alone."""
    await work()
    gc.collect()
    cpu, wall = time.process_time(), time.perf_counter()
    results = await asyncio.gather(*(work() for _ in range(count)), return_exceptions=True)
    took = {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall}
    errors = sum(not isinstance(result, str) or not result.endswith(" word19") for result in results)
    return took | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "errors": errors}


async def _side(name: str, server: str, count: int) -> dict[str, float]:
    """One side, in a process of its own."""
    url = address(server, deltas=20, rounds=BESIDE_ROUNDS, think=THINK)
    if name == "alloy":
        async with provider_at(url) as provider:
            return await _together(lambda: run_by_alloy(provider), count)
    async with bare_client() as client:
        return await _together(lambda: run_by_hand(client, url + "/chat/completions"), count)


def many(server: str, pairs: int, count: int) -> dict[str, list[dict[str, float]]]:
    """What so many runs at once take, each way, by turns."""
    taken: dict[str, list[dict[str, float]]] = {"alloy": [], "by hand": []}
    for _ in range(pairs):
        for name, rows in taken.items():
            command = [sys.executable, "-m", "tests.benchmarks.http", "--side", name, server, "--runs", str(count)]
            rows.append(json.loads(subprocess.run(command, cwd=_ROOT, check=True, capture_output=True).stdout))
    return taken


# --- Printing --------------------------------------------------------------------------------------------------------


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


def _print(name: str, unit: str, sides: dict[str, list[float]], most: float) -> None:
    ours, theirs = sides["alloy"], sides["by hand"]
    ratio = f"{_ratio(ours, theirs):.2f}" if all(theirs) else "-"
    say(f"{name:<34} {statistics.median(ours):>9.1f} {statistics.median(theirs):>9.1f} {unit:<3} {ratio:>7} {most:>7}")


def _scaled(sides: dict[str, list[float]], scale: float) -> dict[str, list[float]]:
    return {name: [value * scale for value in values] for name, values in sides.items()}


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _arguments(words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", action="append", choices=["turns", "first", "many"], help="what to measure; all by default"
    )
    parser.add_argument(
        "--pairs", type=int, default=9, help="how often each side has its turn; a third as often for many"
    )
    parser.add_argument("--runs", type=int, default=1000, help="how many runs there are at once")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: Sequence[str] | None = None) -> None:
    """Measures, and prints what Alloy takes, what the loop by hand takes, the ratio, and what it should be at most."""
    options = _arguments(words)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(FILES, hard)), hard))
    if options.side:
        name, server = options.side
        say(json.dumps(asyncio.run(_side(name, server, options.runs))))
        return
    only = options.only or ["turns", "first", "many"]
    say(f"{'':<34} {'alloy':>9} {'by hand':>9}     {'ratio':>7} {'at most':>7}")
    with serving() as server:
        if "turns" in only:
            seconds = asyncio.run(turns(server, options.pairs))
            _print("a turn: processor time", "us", _scaled(seconds, 1e6), 0.5)
        if "first" in only:
            seconds = asyncio.run(first(server, options.pairs))
            _print("the first delta: processor time", "us", _scaled(seconds, 1e6), 1.1)
        if "many" in only:
            taken = many(server, max(1, options.pairs // 3), options.runs)
            for what, unit, most in (("cpu", "s", 0.15), ("wall", "s", 0.3), ("memory", "MB", 1.2), ("errors", "", 0)):
                sides = {name: [row[what] for row in rows] for name, rows in taken.items()}
                _print(f"{options.runs} runs at once: {what}", unit, sides, most)


if __name__ == "__main__":
    main()
