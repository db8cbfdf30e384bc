"""An answer that appears while it is written, with what happens besides in between.

The environment variable ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so
this runs anywhere.
"""

import asyncio
import os

import alloy
from alloy.providers import Scripted
from alloy.testing import Reply, calls, together

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(
    [together(Reply(text="Let me look at the clock. "), calls("clock")), "It is noon, time for lunch."]
)


@alloy.tool
def clock() -> str:
    """Tells the time."""
    return "12:00"


async def main() -> None:
    """Prints text as it comes, and each tool call on a line of its own."""
    async with alloy.stream("Is it time for lunch?", provider=PROVIDER, tools=[clock]) as run:
        async for envelope in run:
            match envelope.event:
                case "text_delta":
                    print(envelope.payload["text"], end="", flush=True)
                case "tool_end":
                    print(f"\n  [{envelope.payload['name']} said {envelope.payload['text']!r}]")
    print(f"\n[{run.result.turns} turns, {run.result.usage.total_tokens} tokens]")


asyncio.run(main())
