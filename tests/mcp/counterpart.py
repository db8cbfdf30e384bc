"""A server made with the protocol's official SDK; over stdio, or over HTTP at the port that is its argument."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import anyio
from mcp import types
from mcp.server.mcpserver import (
    AcceptedElicitation,
    Audio,
    Context,
    Elicit,
    ElicitationResult,
    Image,
    MCPServer,
    Resolve,
)
from pydantic import BaseModel, Field

server = MCPServer("counterpart", instructions="Ask nicely.")


class Person(BaseModel):
    name: str = "nobody"
    age: int = Field(default=7)


def who() -> Elicit[Person]:
    return Elicit("Who are you?", Person)


@server.tool()
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


@server.tool(annotations=types.ToolAnnotations(read_only_hint=True), structured_output=False)
def picture() -> list[object]:
    """Shows and plays something."""
    return ["Look:", Image(data=b"\x89PNG", format="png"), Audio(data=b"RIFF", format="wav")]


@server.tool()
def resources() -> types.CallToolResult:
    """Gives resources of all kinds."""
    pdf = types.BlobResourceContents(uri="file:///a/b.pdf", mime_type="application/pdf", blob="JVBERg==")
    return types.CallToolResult(
        content=[
            types.EmbeddedResource(resource=types.TextResourceContents(uri="file:///a.txt", text="Hello.")),
            types.EmbeddedResource(resource=pdf),
            types.ResourceLink(name="more", uri="file:///more.txt", mime_type="text/plain"),
        ]
    )


@server.tool()
def fail() -> str:
    """Fails."""
    raise ValueError("no luck")


@server.tool()
async def greet(person: Annotated[ElicitationResult[Person], Resolve(who)]) -> str:
    """Asks who you are."""
    if isinstance(person, AcceptedElicitation):
        return f"Hello {person.data.name}, {person.data.age}"
    return f"They said {person.action}"


@server.tool()
async def slow(context: Context) -> str:
    """Takes its time."""
    for step in range(3):
        await context.report_progress(step, 3, f"step {step}")
    return "done"


@server.tool()
async def forever() -> str:
    """Never ends."""
    await anyio.sleep_forever()
    return "never"


@server.tool()
async def grow(context: Context) -> str:
    """Makes another tool."""
    server.add_tool(add, name="grown")
    await context.notify_tools_changed()  # who listens since 2026-07-28
    await context.session.send_tool_list_changed()  # who was there before
    return "ok"


if __name__ == "__main__":
    logging.disable()
    if len(sys.argv) > 1:
        server.run("streamable-http", host="127.0.0.1", port=int(sys.argv[1]))
    else:
        server.run("stdio")
