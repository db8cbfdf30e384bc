"""Recorded answers with nonsense put into them: each adapter makes an answer of it that can be sent again, or an error."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

import alloy
from alloy.errors import ProviderError
from alloy.messages import as_user_message, messages_from_json, messages_to_json
from alloy.providers import Anthropic, ChatCompletions, Gemini, OpenAI, Request

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.anyio

EXCHANGES = sorted((Path(__file__).parent.parent / "wire" / "exchanges").glob("*.json"))
ADAPTERS = {"anthropic": Anthropic, "openai_responses": OpenAI, "gemini": Gemini, "chat_completions": ChatCompletions}
HI = as_user_message("Hi")


def objects(depth: int) -> object:
    return {"a": objects(depth - 1)} if depth else 1


NONSENSE = [
    None, True, 0, -1, 10**30, 10**4000, 1.5, float("nan"), float("inf"), "", "x", "a\r\nb: c", "\0", "x" * 5000, "1e999",
    [], {}, [[]], [None], [{}], [1, 2], {"a": None}, {"type": "text"}, objects(150), "{", "[]", "null", '{"a":NaN}', '{"a":1e999}',
]  # fmt: skip


def spoiled(document: object, chance: random.Random) -> object:
    """The document with something else in one place."""
    if isinstance(document, dict | list) and document and chance.random() < 0.8:
        copy = document.copy()
        place = chance.choice(list(copy) if isinstance(copy, dict) else range(len(copy)))
        copy[place] = spoiled(copy[place], chance)
        return copy
    return chance.choice(NONSENSE)


def odd(document: object) -> object:
    """The document with numbers in every object that JSON doesn't have."""
    match document:
        case dict():
            return {name: odd(value) for name, value in document.items()} | {"odd": [float("nan"), float("-inf")]}
        case list():
            return [odd(value) for value in document]
        case _:
            return document


def answer(response: dict, change: Callable[[object], object], chance: random.Random | None = None) -> tuple[str, str]:
    """A recorded answer, changed in all events or by chance in two, and its media type."""
    if "sse" not in response:
        body = response["body"]
        return body if isinstance(body, str) else json.dumps(change(body)), "application/json"
    lines = response["sse"].split("\n")
    events = [number for number, line in enumerate(lines) if line.startswith("data: {") and line.endswith("}")]
    for number in chance.sample(events, min(len(events), 2)) if chance else events:
        lines[number] = "data: " + json.dumps(change(json.loads(lines[number][6:])))
    return "\n".join(lines), "text/event-stream"


async def sent_again(exchange: dict, body: str, media_type: str) -> bytes | None:
    """The request that follows such an answer, if it is one."""
    response = httpx.Response(exchange["response"]["status"], text=body, headers={"content-type": media_type})
    async with httpx.AsyncClient(transport=httpx.MockTransport(lambda _: response)) as client:
        provider = ADAPTERS[exchange["provider"]](
            exchange["model"] or "m",
            "key-0123456789",
            client=client,
            rate_limits=None,  # an error may ask to wait
        )
        try:
            async with provider.stream(Request(messages=[HI])) as items:
                *_, completion = [item async for item in items]
        except ProviderError:
            return None
    history = alloy.repair_history([HI, completion.message, HI])
    assert messages_from_json(messages_to_json(history))
    return provider.encode(Request(messages=history))


@pytest.mark.parametrize("path", EXCHANGES, ids=lambda path: path.stem)
async def test_nonsense_is_an_error_or_an_answer_that_can_be_sent_again(path):
    exchange = json.loads(path.read_text())
    chance = random.Random(path.stem)
    for _ in range(5):
        body = answer(exchange["response"], lambda document: spoiled(document, chance), chance)
        json.loads(await sent_again(exchange, *body) or "{}", parse_constant=pytest.fail)


@pytest.mark.parametrize("path", EXCHANGES, ids=lambda path: path.stem)
async def test_numbers_that_json_does_not_have_are_never_sent_back(path):
    exchange = json.loads(path.read_text())
    body = answer(exchange["response"], odd)
    json.loads(await sent_again(exchange, *body) or "{}", parse_constant=pytest.fail)
