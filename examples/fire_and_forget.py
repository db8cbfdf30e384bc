"""Messages sent without waiting, with a subscriber that tells what becomes of them.

The environment variable ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so
this runs anywhere.
"""

import asyncio
import os

import anyio

import alloy
from alloy.providers import Scripted

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(["The oven is on.", "The bread is in.", "The table is set."])
ORDERS = ["Preheat the oven.", "Bake the bread.", "Set the table."]


async def watch(agent: alloy.Agent, ready: anyio.Event) -> None:
    """Prints how each request ends, until the agent does."""
    async with agent.subscribe(events=["response"]) as envelopes:
        ready.set()
        async for envelope in envelopes:
            print(f"{envelope.correlation_id}: {envelope.payload['status']}: {envelope.payload['text']}")


async def main() -> None:
    """Gives three orders, and lets the agent finish them."""
    async with anyio.create_task_group() as group, alloy.Agent(provider=PROVIDER, max_pending=10) as agent:
        ready = anyio.Event()
        group.start_soon(watch, agent, ready)
        await ready.wait()
        for number, order in enumerate(ORDERS, 1):
            await agent.send_message(order, request_id=f"order {number}")
        print(f"[{len(ORDERS)} orders accepted]")
        await agent.drain()


asyncio.run(main())
