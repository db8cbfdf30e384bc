"""Tools of another program, by the Model Context Protocol: this program starts itself once more as the server.

The environment variable ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so
this runs anywhere.
"""

import asyncio
import os
import sys

import alloy
from alloy.providers import Scripted
from alloy.testing import calls

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(
    [calls("library__find", author="Le Guin"), "The library has two books by Ursula K. Le Guin."]
)


@alloy.tool
async def find(author: str) -> list[str]:
    """Finds books by their author's name."""
    books = {
        "A Wizard of Earthsea": "Ursula K. Le Guin",
        "Emma": "Jane Austen",
        "The Dispossessed": "Ursula K. Le Guin",
    }
    return [title for title, writer in books.items() if author.lower() in writer.lower()]


async def main() -> None:
    """Asks, and prints what the server's tool was asked."""
    async with alloy.mcp.connect([sys.executable, __file__, "serve"]) as library:
        result = await alloy.run("What is there by Le Guin?", provider=PROVIDER, tools=[*library.tools])
    for call in result.tool_calls:
        print(f"{call.name}({dict(call.arguments)}) -> {call.content[0].text}")
    print(result.text)


asyncio.run(alloy.mcp.serve([find], name="library") if "serve" in sys.argv else main())
