"""What survives a long conversation: facts that were told early, with a summary and with truncation alone.

Run it with ``python -m tests.benchmarks.compaction``. Each conversation tells some facts among other talk, and then goes on until its
history has been shortened several times. Counted is which facts can still be read in the history that the model gets at the end.
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


def conversation(seed: int, facts: int) -> tuple[list[str], list[str]]:
    """Prompts of a long conversation, and the facts in them."""
    chance = random.Random(seed)
    values = [f"{chance.choice('ABCDEFGH')}{chance.randrange(1000, 9999)}" for _ in range(facts)]
    prompts = [
        f"Please keep in mind: the {THINGS[index % len(THINGS)]} number {index + 1} is {value}. {TALK}"
        for index, value in enumerate(values)
    ]
    prompts += [f"Part {part}. {TALK}" for part in range(2 * facts)]
    return prompts, values


def answering(summary: Callable[[Request], str] | None) -> Scripted:
    """A model that says little, and summarises with a function, if there is one."""

    def answer(request: Request) -> Reply:
        if "hand-off" in (request.system or ""):
            if summary is None:
                return Reply(stop_reason="refusal")
            return Reply(text=summary(request), usage=Usage(requests=1))
        return Reply(text=f"Very well. {TALK}", usage=Usage(requests=1))

    return Scripted([answer] * 1_000)


def careful(request: Request) -> str:
    """What a careful model would write: every fact that it was told."""
    told = re.findall(r"the \w+ number \d+ is [A-H]\d+", request.messages[0].text)
    return "## Facts\n" + "\n".join(dict.fromkeys(told))


async def survivors(seed: int, facts: int, compaction: dict[str, Any] | None, model: Scripted) -> tuple[int, int, int]:
    """How many facts can be read at the end, how many times the history was shortened, and how many summaries failed."""
    prompts, values = conversation(seed, facts)
    seen: list[alloy.Envelope] = []
    messages: tuple[alloy.Message, ...] = ()
    for prompt in prompts:
        result = await alloy.run(
            prompt, provider=model, messages=messages, max_tokens=WINDOW, compaction=compaction, on_event=seen.append
        )
        messages = result.messages
    text = "\n".join(block.text for message in messages for block in message.content if isinstance(block, TextBlock))
    shortened = sum(envelope.event == "compaction" for envelope in seen)
    failed = sum(envelope.payload.get("kind") == "compaction_failed" for envelope in seen)
    return sum(value in text for value in values), shortened, failed


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
    ways: dict[str, tuple[dict[str, Any], Callable[[Request], str] | None]] = {
        "truncation alone": ({}, None),
        "a careful summary (scripted)": ({}, careful),
    }
    if args.embedded:
        ways["a summary by the embedded model"] = ({"provider": Local(max_tokens=400), "timeout": 600.0}, None)
    say(f"{'way':34} {'facts kept':>12} {'shortened':>10} {'failed':>7}")
    for way, (compaction, summary) in ways.items():
        kept = shortened = failed = 0
        for seed in range(args.conversations):
            one = await survivors(seed, args.facts, compaction, answering(summary))
            kept, shortened, failed = kept + one[0], shortened + one[1], failed + one[2]
        say(f"{way:34} {kept:>5} of {args.conversations * args.facts:<4} {shortened:>8} {failed:>7}")


if __name__ == "__main__":
    anyio.run(main)
