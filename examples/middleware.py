"""Middleware that asks before anything is deleted, and middleware that counts tokens.

The environment variable ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so
this runs anywhere.
"""

import asyncio
import os

import alloy
from alloy.messages import ToolUseBlock
from alloy.providers import Completion, Scripted
from alloy.testing import calls

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(
    [calls("delete", path="thesis/chapter-1.tex"), "I'm not allowed to delete your thesis, so it's still there."]
)


@alloy.tool
def delete(path: str) -> str:
    """Deletes a file."""
    return f"pretended to delete {path}"


class Approval(alloy.Middleware):
    """Lets nobody delete anything; a real one would ask."""

    async def before_tool_call(self, call: ToolUseBlock, run: alloy.RunContext) -> alloy.Blocked | None:
        """Blocks deletions."""
        return alloy.Blocked(f"{run.context['user']} said no") if call.name == "delete" else None


class Meter(alloy.Middleware):
    """Prints what every answer takes."""

    async def after_completion(self, completion: Completion, run: alloy.RunContext) -> None:
        """Prints the tokens of this answer, and of all so far."""
        print(f"[turn {run.turn}: {completion.usage.total_tokens} tokens, {run.usage.total_tokens} so far]")


async def main() -> None:
    """Asks for a deletion, and prints what became of it."""
    config = alloy.Config(provider=PROVIDER, tools=[delete], middleware=[Approval(), Meter()], context={"user": "Ada"})
    result = await alloy.run("Delete thesis/chapter-1.tex.", config)
    for call in result.tool_calls:
        print(f"{call.name}: {call.content[0].text}")
    print(result.text)


asyncio.run(main())
