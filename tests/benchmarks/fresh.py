"""What a fresh process pays: for an import, and for its first answer over HTTP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.compare import row
from tests.benchmarks.server import address, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.benchmarks.compare import Effort, Row

__all__ = ["rows"]

_ROOT = Path(__file__).parent.parent.parent
_PROGRAM = "import time; begun = time.process_time()\n{}\nprint(time.process_time() - begun)"
_BY_ALLOY = """
import asyncio, alloy
from alloy.providers import ChatCompletions
provider = ChatCompletions("gpt-4.1-mini", "key", {url!r}, compat="openai", max_tokens=1000)
assert asyncio.run(alloy.run("Go on.", provider=provider)).text.endswith(" word19")
"""
_BY_HAND = """
import asyncio, httpx
async def ask():
    fields = {{"model": "gpt-4.1-mini", "max_completion_tokens": 1000, "messages": [{{"role": "user", "content": "Go on."}}]}}
    async with httpx.AsyncClient() as client:
        response = await client.post({url!r} + "/chat/completions", json=fields, headers={{"authorization": "Bearer key"}})
    return response.json()["choices"][0]["message"]["content"]
assert asyncio.run(ask()).endswith(" word19")
"""


def _seconds(program: str) -> float:
    """Processor time of a program in a fresh interpreter, without what the interpreter takes to begin, in seconds."""
    command = [sys.executable, "-c", _PROGRAM.format(program)]
    return float(subprocess.run(command, cwd=_ROOT, check=True, capture_output=True, text=True).stdout)


def _pairs(ours: str, floor: str, pairs: int) -> list[tuple[float, float]]:
    """By turns; a first pair only warms up the files."""
    return [(_seconds(ours), _seconds(floor)) for _ in range(pairs + 1)][1:]


def rows(effort: Effort) -> Iterator[Row]:
    """Measures it all."""
    yield row("fresh", "import alloy / import httpx", _pairs("import alloy", "import httpx", effort.pairs), 0.6)
    with serving() as server:
        url = address(server, deltas=20)
        pairs = _pairs(_BY_ALLOY.format(url=url), _BY_HAND.format(url=url), effort.pairs)
        yield row("fresh", "the first answer over HTTP / by hand on httpx", pairs, 1.1)
