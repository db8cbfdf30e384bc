"""One question, one answer.

The environment variable ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so
this runs anywhere.
"""

import asyncio
import os

import alloy
from alloy.providers import Scripted

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(["The capital of France is Paris."])


async def main() -> None:
    """Asks, and prints the answer and what it took."""
    result = await alloy.run(
        "What is the capital of France?", provider=PROVIDER, system_prompt="You answer in one sentence."
    )
    print(result.text)
    print(f"[{result.status}: {result.usage.input_tokens} tokens read, {result.usage.output_tokens} written]")


asyncio.run(main())
