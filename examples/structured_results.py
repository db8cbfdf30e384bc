"""A result as an object: `output_type` says what it is, and the model is told what is wrong until it is one.

The environment variable ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so
this runs anywhere.
"""

import asyncio
import os
from dataclasses import dataclass, field

import alloy
from alloy.providers import Scripted

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(
    [
        '{"sender": "Ada", "amount": "twelve"}',
        '{"sender": "Ada", "amount": 12, "items": ["tea", "milk"]}',
    ]
)


@dataclass
class Invoice:
    """What somebody wants to be paid, in whole euros."""

    sender: str
    amount: int
    items: list[str] = field(default_factory=list)


async def main() -> None:
    """Reads an invoice, and shows it while it is being written."""
    async with alloy.stream(
        "Read this invoice: 12 euros for tea and milk. Yours, Ada.", provider=PROVIDER, output_type=Invoice
    ) as run:
        async for invoice in run.partial_outputs():
            print(f"so far: {invoice}")
    result = run.result
    print(f"after {result.turns} answers: {result.output.amount} euros to {result.output.sender}")


asyncio.run(main())
