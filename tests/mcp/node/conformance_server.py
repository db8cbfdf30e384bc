"""A server with the tools that the protocol's conformance suite asks for; the port is the last argument."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

import alloy
from alloy.messages import AudioBlock

PICTURE = b"\x89PNG\r\n\x1a\n"
SCHEMA = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "$defs": {
        "address": {"type": "object", "properties": {"street": {"type": "string"}, "city": {"type": "string"}}},
    },
    "properties": {"name": {"type": "string"}, "address": {"$ref": "#/$defs/address"}},
    "additionalProperties": False,
}


@alloy.tool
async def test_simple_text() -> str:
    """Says something."""
    return "This is a simple text response for testing."


@alloy.tool
async def test_image_content() -> alloy.ImageBlock:
    """Shows a picture."""
    return alloy.ImageBlock("image/png", PICTURE)


@alloy.tool
async def test_audio_content() -> AudioBlock:
    """Plays a sound."""
    return AudioBlock("audio/wav", b"RIFF")


@alloy.tool
async def test_embedded_resource() -> alloy.DocumentBlock:
    """Gives a document."""
    return alloy.DocumentBlock("text/plain", b"This is an embedded resource content.", name="note.txt")


@alloy.tool
async def test_multiple_content_types() -> list[object]:
    """Gives some of everything."""
    document = alloy.DocumentBlock("application/json", b'{"test":"data"}', name="data.json")
    return ["Multiple content types test:", alloy.ImageBlock("image/png", PICTURE), document]


@alloy.tool
async def test_error_handling() -> str:
    """Fails."""
    raise alloy.ToolError("This tool intentionally returns an error for testing")


@alloy.tool
async def test_tool_with_progress(context: alloy.ToolContext) -> str:
    """Takes its time."""
    for percent in (0, 50, 100):
        context.report(f"{percent}%")
        await anyio.sleep(0.05)
    return "done"


async def nothing(arguments: object, context: object) -> str:
    return "ok"


WITH_SCHEMA = alloy.Tool(
    name="json_schema_2020_12_tool", description="Has a large schema.", input_schema=SCHEMA, function=nothing
)
TOOLS = [
    test_simple_text,
    test_image_content,
    test_audio_content,
    test_embedded_resource,
    test_multiple_content_types,
    test_error_handling,
    test_tool_with_progress,
    WITH_SCHEMA,
]

if __name__ == "__main__":
    anyio.run(
        lambda: alloy.mcp.serve(
            TOOLS, name="conformance", transport="http", port=int(sys.argv[-1]), working_directory=Path.cwd()
        )
    )
