"""A result as an object: the run isn't over before the model has called a tool with it.

The environment variable ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so
this runs anywhere.
"""

import asyncio
import os
from dataclasses import dataclass

import alloy
from alloy.providers import Scripted
from alloy.testing import calls

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(
    ["The sender is Ada.", calls("record", sender="Ada", amount=12.5), calls("record", sender="Ada", amount=12)]
)


@dataclass
class Invoice:
    """What we want of an invoice."""

    sender: str
    amount: int


@alloy.tool
async def record(sender: str, amount: int) -> Invoice:
    """Records an invoice. Call it once, with the sender's name and the amount in whole euros."""
    return Invoice(sender, amount)


async def main() -> None:
    """Reads an invoice, and prints what the model made of it."""
    result = await alloy.run(
        "Record this: 12 euros for tea. Yours, Ada.", provider=PROVIDER, tools=[record], until_tool="record"
    )
    for call in result.tool_calls:
        print(f"turn {call.turn}: {call.content[0].text}")
    print(f"recorded: {result.tool_calls[-1].data}")


asyncio.run(main())
