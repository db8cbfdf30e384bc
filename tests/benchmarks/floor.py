"""Streaming by hand, on httpx and json: what nothing built on them can go below."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

__all__ = ["pieces"]


def _messages_text(event: dict[str, Any]) -> Any:
    return event["delta"]["text"] if event["type"] == "content_block_delta" else None


def _responses_text(event: dict[str, Any]) -> Any:
    return event["delta"] if event["type"] == "response.output_text.delta" else None


def _chat_text(event: dict[str, Any]) -> Any:
    return event["choices"][0]["delta"].get("content") if event["choices"] else None


def _gemini_text(event: dict[str, Any]) -> Any:
    return event["candidates"][0]["content"]["parts"][0]["text"]


_TEXTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "anthropic": _messages_text,
    "responses": _responses_text,
    "chat": _chat_text,
    "gemini": _gemini_text,
}


async def pieces(client: httpx.AsyncClient, wire: str, url: str, body: bytes) -> list[str]:
    """Streams an answer with as little work as possible: the body's bytes, split at the ends of events."""
    text_of, found, rest = _TEXTS[wire], list[str](), b""
    async with client.stream("POST", url, content=body, headers={"content-type": "application/json"}) as response:
        async for chunk in response.aiter_raw():
            *events, rest = (rest + chunk).split(b"\n\n")
            for event in events:
                data = event[event.find(b"data: ") + 6 :]
                if data != b"[DONE]":
                    text = text_of(json.loads(data))
                    if text:
                        found.append(text)
    return found
