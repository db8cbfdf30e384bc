"""What the protocol's conformance suite runs as a client: it calls every tool of the server at its last argument."""

from __future__ import annotations

import sys

import anyio

import alloy


async def main() -> None:
    async with alloy.mcp.connect(sys.argv[-1], on_elicitation=lambda question: {}) as server:
        script = [
            alloy.testing.calls(tool.name, **dict.fromkeys(tool.input_schema.get("properties", {}), 5))
            for tool in server.tools
        ]
        provider = alloy.providers.Scripted([*script, "Done."])
        await alloy.run("Go.", provider=provider, tools=server.tools)


if __name__ == "__main__":
    anyio.run(main)
