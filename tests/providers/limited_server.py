"""A server with rate limits, in the tests' own time: it counts what it grants, and tells as vendors do what is left."""

from __future__ import annotations

import json
import math
from random import Random

import anyio
import httpx

from alloy.messages import as_user_message
from alloy.providers import ChatCompletions
from alloy.providers.base import Request


class Limit:
    """One limit per minute, that fills bit by bit or all at once."""

    def __init__(self, size: float, *, fixed: bool = False, phase: float = 0.0) -> None:
        self.size = self.level = size
        self.fixed = fixed
        self._at = -phase
        self._phase = phase
        self.granted = 0.0

    def refill(self) -> None:
        now = anyio.current_time()
        if self.fixed:
            if now >= self._at + 60:
                self._at += (now - self._at) // 60 * 60
                self.level = self.size
        else:
            self.level = min(self.size, self.level + (now - max(self._at, 0.0)) * self.size / 60)
            self._at = now

    def reset(self) -> float:
        """In how many seconds all is there again."""
        return self._at + 60 - anyio.current_time() if self.fixed else (self.size - self.level) * 60 / self.size

    def wait(self, cost: float) -> float:
        """In how many seconds there is enough."""
        if self.level >= cost:
            return 0.0
        return self.reset() if self.fixed else (cost - self.level) * 60 / self.size

    def possible(self, seconds: float) -> float:
        """What could be granted in so long."""
        return self.size * (math.ceil((seconds + self._phase) / 60) if self.fixed else 1 + seconds / 60)


class Server(httpx.AsyncBaseTransport):
    """Answers Chat Completions; the last message is a number, of the tokens that the request takes."""

    def __init__(self, *, requests=None, tokens=None, concurrency=math.inf, style="openai", seed=1, latency=(0.5, 3.0)):
        self.limits = {"requests": requests, "tokens": tokens}
        self.concurrency = concurrency
        self.style = style
        self.latency = latency
        self.retry_after = True
        self.answers: list[httpx.Response] = []  # to give instead, first to last
        self.seen: list[tuple[float, str]] = []  # when each request came, and what it said
        self.refused: list[float] = []
        self.flying = self.most = 0
        self._random = Random(seed)

    @property
    def granted(self) -> int:
        return len(self.seen) - len(self.refused)

    def client(self) -> httpx.AsyncClient:
        return httpx.AsyncClient(transport=self)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        latency = self._random.uniform(*self.latency)
        self.flying += 1
        self.most = max(self.most, self.flying)
        try:
            await anyio.sleep(min(0.2, latency / 4) * self._random.random())
            content = json.loads(request.content)["messages"][-1]["content"]
            self.seen.append((anyio.current_time(), content))
            if self.answers:
                return self.answers.pop(0)
            return await self._answer(int(content), latency)
        finally:
            self.flying -= 1

    async def _answer(self, tokens: int, latency: float) -> httpx.Response:
        costs = {"requests": 1, "tokens": tokens}
        limits = {name: limit for name, limit in self.limits.items() if limit}
        for limit in limits.values():
            limit.refill()
        wait = max([limit.wait(costs[name]) for name, limit in limits.items()], default=0.0)
        if wait or self.flying > self.concurrency:
            self.refused.append(anyio.current_time())
            headers = self._headers(limits)
            if self.retry_after:
                headers["retry-after"] = str(math.ceil(wait) or 1)
            return httpx.Response(429, headers=headers, json={"error": {"message": "Too many requests"}})
        for name, limit in limits.items():
            limit.level -= costs[name]
            limit.granted += costs[name]
        headers = self._headers(limits)
        await anyio.sleep(latency)
        usage = {"prompt_tokens": tokens - tokens // 4, "completion_tokens": tokens // 4}
        choice = {"index": 0, "message": {"role": "assistant", "content": "Yes."}, "finish_reason": "stop"}
        return httpx.Response(200, headers=headers, json={"choices": [choice], "usage": usage})

    def _headers(self, limits) -> dict[str, str]:
        headers = {}
        for name, limit in limits.items():
            values = {"limit": round(limit.size), "remaining": max(0, int(limit.level)), "reset": limit.reset()}
            for field, value in values.items():
                match self.style:
                    case "openai":
                        said = f"{int(value // 60)}m{value % 60:.3f}s" if field == "reset" else value
                        headers[f"x-ratelimit-{field}-{name}"] = str(said)
                    case "minute":
                        headers[f"x-ratelimit-{field}-{name}-minute"] = str(value)
                    case "seconds":
                        headers[f"x-ratelimit-{field}-{name}"] = str(int(value))
                    case "anthropic":
                        said = "2026-01-01T00:00:00Z" if field == "reset" else value
                        headers[f"anthropic-ratelimit-{name}-{field}"] = str(said)
        return headers


def asked(tokens: int = 100, caller: str = "", **options) -> Request:
    return Request(messages=[as_user_message(str(tokens))], stream=False, caller=caller, **options)


def adapter(client: httpx.AsyncClient, **options) -> ChatCompletions:
    return ChatCompletions("m", "key-0123456789", "http://limited.test/v1", client=client, max_tokens=100, **options)


async def ask(provider, request: Request) -> list:
    async with provider.stream(request) as items:
        return [item async for item in items]
