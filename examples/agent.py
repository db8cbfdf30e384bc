"""An agent awaited from an application: it remembers, and one question can be watched while it is answered.

The environment variable ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so
this runs anywhere.
"""

import asyncio
import os

import alloy
from alloy.providers import Scripted

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(
    ["Hello, Ada. What can I do for you?", "Your name is Ada, and you have asked me two things so far."]
)


async def main() -> None:
    """Has a conversation of two questions."""
    async with alloy.Agent(provider=PROVIDER, system_prompt="You are brief.", timeout=60) as agent:
        result = await agent.chat("Hello, I'm Ada.")
        print(result.text)
        async with agent.stream_chat("What do you know about me?") as run:
            async for text in run.text_deltas():
                print(text, end="", flush=True)
        print(f"\n[{len(agent.messages)} messages, {agent.usage.total_tokens} tokens]")


asyncio.run(main())
