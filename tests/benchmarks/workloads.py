"""What is measured: the same work done by Alloy and by hand."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import httpx

import alloy
from alloy.providers import Anthropic, ChatCompletions, Gemini, OpenAI
from tests.benchmarks import floor
from tests.benchmarks.server import address
from tests.benchmarks.wire import word

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from alloy.providers.base import Provider
    from tests.benchmarks.server import Pace

__all__ = ["PROVIDERS", "Streaming", "Work"]

Work: TypeAlias = "Callable[[], Awaitable[list[str]]]"

PROVIDERS: dict[str, Callable[[str], Provider]] = {
    "anthropic": lambda url: Anthropic("claude-sonnet-4-5", "key", url),
    "responses": lambda url: OpenAI("gpt-5-mini", "key", url),
    "chat": lambda url: ChatCompletions("gpt-4.1-mini", "key", url, compat="openai"),
    "gemini": lambda url: Gemini("gemini-2.5-flash", "key", url),
}
"""An adapter for each wire format, made with a base URL."""

_PATHS = {
    "anthropic": "/v1/messages",
    "responses": "/responses",
    "chat": "/chat/completions",
    "gemini": "/models/gemini-2.5-flash:streamGenerateContent",
}


@dataclass(frozen=True, slots=True)
class Streaming:
    """Text streamed to a user, piece by piece.

    Attributes:
        wire: the wire format.
        pace: how the server sends.
        deltas: how many pieces.
    """

    wire: str
    pace: Pace
    deltas: int

    @asynccontextmanager
    async def prepared(self, server: str) -> AsyncIterator[tuple[Work, Work]]:
        """Opens connections, and gives the work as Alloy does it, and by hand; each gives the pieces that a user saw."""
        url = address(server, pace=self.pace, deltas=self.deltas)
        provider = PROVIDERS[self.wire](url)
        body = json.dumps({"stream": True, "messages": [{"role": "user", "content": "Go on."}]}).encode()

        async def by_alloy() -> list[str]:
            async with alloy.stream("Go on.", provider=provider) as run:
                return [text async for text in run.text_deltas()]

        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(httpx.AsyncClient(timeout=60))
            await stack.enter_async_context(provider)  # type: ignore[arg-type]  # each of these is a context manager
            yield by_alloy, lambda: floor.pieces(client, self.wire, url + _PATHS[self.wire], body)

    def check(self, pieces: list[str]) -> None:
        """Raises AssertionError where the work wasn't done."""
        assert pieces == [word(number) for number in range(self.deltas)]
