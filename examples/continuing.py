"""A conversation that is saved, loaded and continued.

The environment variable ALLOY_PROVIDER says who answers, such as ``local`` or ``openai:gpt-5``; without it a script does, so
this runs anywhere.
"""

import asyncio
import os
import tempfile
from pathlib import Path

import alloy
from alloy.providers import Scripted

PROVIDER = os.environ.get("ALLOY_PROVIDER") or Scripted(["Nice to meet you, Ada.", "Your name is Ada."])


async def main() -> None:
    """Talks, saves the messages, loads them, and goes on."""
    config = alloy.Config(provider=PROVIDER, system_prompt="You are brief.")
    first = await alloy.run("Hello, I'm Ada.", config)
    print(first.text)

    with tempfile.TemporaryDirectory() as folder:
        saved = Path(folder) / "conversation.json"
        saved.write_bytes(alloy.messages_to_json(first.messages))
        print(f"[{len(first.messages)} messages, {saved.stat().st_size} bytes of JSON]")
        messages = alloy.messages_from_json(saved.read_bytes())

    second = await alloy.run("What is my name?", config, messages=messages)
    print(second.text)


asyncio.run(main())
