"""Scripts in a few words."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, Unpack

from alloy.loop.config import Config
from alloy.loop.run import run
from alloy.messages import ToolUseBlock
from alloy.providers.scripted import Reply, Scripted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.loop.config import Options
    from alloy.providers.scripted import ScriptLine
    from alloy.result import Result

__all__ = ["calls", "hangs", "run_script", "together"]


def calls(tool: str, /, **arguments: Any) -> Reply:
    """A reply that calls a tool.

    Args:
        tool: its name.
        arguments: what it is called with.
    """
    return Reply(tool_calls=(ToolUseBlock("", tool, arguments),))


def together(*replies: Reply) -> Reply:
    """One reply that thinks, says and calls what several do, in order; the rest is as in the last."""
    return dataclasses.replace(
        replies[-1],
        thinking="".join(reply.thinking for reply in replies),
        text="".join(reply.text for reply in replies),
        tool_calls=tuple(call for reply in replies for call in reply.tool_calls),
        blocks=tuple(block for reply in replies for block in reply.blocks),
    )


def hangs(text: str = "") -> Reply:
    """A reply that never ends.

    Args:
        text: what it says before.
    """
    return Reply(text=text, hangs=True)


async def run_script(script: Sequence[ScriptLine], prompt: str = "Go.", **options: Unpack[Options]) -> Result:
    """Runs a conversation against a script; an error in it is final, unless `max_retries` is given.

    Args:
        script: the model's replies, in order.
        prompt: the user's words.
        options: any options of `alloy.run`.

    Raises:
        RunError: as `alloy.run` does.
    """
    return await run(prompt, Config(provider=Scripted(script), max_retries=0), **options)
