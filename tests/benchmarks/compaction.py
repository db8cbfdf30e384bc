"""What survives a long conversation: facts that were told early, with a summary and with truncation alone.

Run it with ``python -m tests.benchmarks.compaction``. Each conversation tells some facts among other talk, and then goes on until its
history has been shortened several times: some by the user in few words, some by the model amid many. Counted is which facts can still be read in
the history that the model gets at the end.
"""

from __future__ import annotations

import argparse
import random
import re
import sys
from typing import TYPE_CHECKING, Any

import anyio

import alloy
from alloy.messages import TextBlock
from alloy.providers import Local
from alloy.testing import Reply, Scripted
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable

    from alloy.providers.base import Request

WINDOW = 3_000  # tokens
THINGS = ("server", "invoice", "key", "customer", "branch", "ticket", "port", "order", "bucket", "deadline")
TALK = "Thank you. Let us look at the next part of the work and see what has to be done there, step by step. " * 6


def conversation(seed: int, facts: int) -> tuple[list[str], list[str], list[str]]:
    """Prompts of a long conversation, the facts that the user tells in them, and those that the model finds out."""
    chance = random.Random(seed)
    values = [f"{chance.choice('ABCDEFGH')}{chance.randrange(1000, 9999)}" for _ in range(2 * facts)]
    told, found = values[:facts], values[facts:]
    prompts = []
    for index, (one, other) in enumerate(zip(told, found, strict=True)):
        thing = THINGS[index % len(THINGS)]
        prompts.append(f"Please keep in mind: the {thing} number {index + 1} is {one}. Then look up {other}.")
    return prompts + [f"Go on with part {part}." for part in range(3 * facts)], told, found


def answering(summary: Callable[[Request], str] | None) -> Scripted:
    """A model that says what it looked up, and summarises with a function, if there is one."""

    def answer(request: Request) -> Reply:
        if "hand-off" in (request.system or ""):
            if summary is None:
                return Reply(stop_reason="refusal")
            return Reply(text=summary(request), usage=Usage(requests=1))
        asked = request.messages[-1].text.rpartition("look up ")[2].rstrip(".")
        found = f"I found that the file number {len(request.messages)} is {asked}." if len(asked) < 6 else ""
        return Reply(text=f"{TALK}{found} {TALK}", usage=Usage(requests=1))

    return Scripted([answer] * 1_000)


def careful(request: Request) -> str:
    """What a careful model would write: every fact that it was told."""
    told = re.findall(r"the \w+ number \d+ is [A-H]\d+", request.messages[0].text)
    return "## Facts\n" + "\n".join(dict.fromkeys(told))


async def survivors(seed: int, facts: int, compaction: dict[str, Any], model: Scripted) -> list[int]:
    """How many facts can be read at the end, of the user's and of the others; how often the history was shortened; how often in vain."""
    prompts, told, found = conversation(seed, facts)
    seen: list[alloy.Envelope] = []
    messages: tuple[alloy.Message, ...] = ()
    for prompt in prompts:
        result = await alloy.run(
            prompt, provider=model, messages=messages, max_tokens=WINDOW, compaction=compaction, on_event=seen.append
        )
        messages = result.messages
    text = "\n".join(block.text for message in messages for block in message.content if isinstance(block, TextBlock))
    found = [f"is {value}" for value in found]  # that it was to be looked up is no finding
    shortened = sum(envelope.event == "compaction" for envelope in seen)
    failed = sum(envelope.payload.get("kind") == "compaction_failed" for envelope in seen)
    return [sum(value in text for value in told), sum(value in text for value in found), shortened, failed]


def say(line: str) -> None:
    """Prints a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--conversations", type=int, default=2)
    parser.add_argument("--facts", type=int, default=10)
    parser.add_argument("--embedded", action="store_true", help="have the embedded model summarise, too (minutes)")
    args = parser.parse_args()
    nothing = {"keep_user_tokens": 0}
    ways: dict[str, tuple[dict[str, Any], Callable[[Request], str] | None]] = {
        "truncation alone": (nothing, None),
        "truncation, the user's words kept": ({}, None),
        "a careful summary (scripted)": (nothing, careful),
        "both": ({}, careful),
    }
    if args.embedded:
        ways["a summary by the embedded model"] = (
            {"provider": Local(max_tokens=400), "timeout": 600.0},
            None,
        )
    say(f"{'way':34} {'told kept':>12} {'found kept':>12} {'shortened':>10} {'failed':>7}")
    for way, (compaction, summary) in ways.items():
        sums = [0, 0, 0, 0]
        for seed in range(args.conversations):
            one = await survivors(seed, args.facts, compaction, answering(summary))
            sums = [a + b for a, b in zip(sums, one, strict=True)]
        of = f"of {args.conversations * args.facts:<4}"
        say(f"{way:34} {sums[0]:>5} {of} {sums[1]:>5} {of} {sums[2]:>8} {sums[3]:>7}")


if __name__ == "__main__":
    anyio.run(main)
