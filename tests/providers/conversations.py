"""Conversations with every adapter, put together from recorded answers: a call with thinking, its results, and an answer."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

from alloy.messages import (
    Message,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    as_user_message,
)
from alloy.providers import XAI, Anthropic, ChatCompletions, Gemini, OpenAI, Request, ToolSpec
from alloy.providers.gemini_encode import NO_SIGNATURE
from alloy.providers.sse import EventParser
from alloy.providers.transcript import is_own
from tests.providers import rules_anthropic, rules_chat, rules_gemini, rules_openai

__all__ = [
    "GO_ON",
    "HI",
    "KEY",
    "SPEAKERS",
    "Speaker",
    "conversation",
    "decoded",
    "nobody_elses",
    "recorded",
    "recorded_signatures",
    "sent",
    "strings",
]

HI = as_user_message("Use your tools, please.")
GO_ON = as_user_message("Go on.")
KEY = "key-0123456789"
_EXCHANGES = Path(__file__).parent.parent / "wire" / "exchanges"
_SIGNED = {"signature", "encrypted_content", "thoughtSignature"}
_MADE = {"anthropic": Anthropic, "openai": OpenAI, "xai": XAI, "gemini": Gemini}
_MODELS = {"anthropic": "claude-sonnet-5-5", "openai": "gpt-6.1-sol", "xai": "grok-4.7", "gemini": "gemini-3.8-flash"}


@dataclass(frozen=True)
class Speaker:
    """An adapter, and what was recorded of its wire format.

    Attributes:
        name: the vendor.
        wire: the wire format.
        calling: the recording of an answer that calls tools; with ``#request`` the one that its request holds.
        saying: the recording of an answer without calls.
    """

    name: str
    wire: str
    calling: str
    saying: str

    def provider(self, *, key: str = KEY, base_url: str | None = None) -> Any:
        """The adapter; with another key or address it is another account."""
        if self.wire == "chat":
            return ChatCompletions("a-model", key, base_url, compat=self.name.removesuffix("-chat"))
        return _MADE[self.name](_MODELS[self.name], key, base_url)

    def check(self, body: dict[str, Any], signatures: set[str]) -> None:
        """Fails where the vendor would."""
        match self.wire:
            case "anthropic":
                rules_anthropic.check(body, signatures=signatures)
            case "responses":
                rules_openai.check(body)
            case "gemini":
                rules_gemini.check(body, multimodal_results=True, signatures=signatures | {NO_SIGNATURE})
            case _:
                rules_chat.check(body, self.name.removesuffix("-chat"))

    def turns(self, body: dict[str, Any]) -> list[str]:
        """The body's conversation, each turn as its JSON without what is said about caching."""
        turns = body[{"responses": "input", "gemini": "contents"}.get(self.wire, "messages")]
        return [json.dumps(_uncached(turn)) for turn in turns]

    def calls(self, body: dict[str, Any]) -> list[tuple[str, Any]]:
        """The name and the arguments of each call in a body."""
        return [(name, arguments) for kind, name, arguments in self._acts(body) if kind == "call"]

    def results(self, body: dict[str, Any]) -> list[str]:
        """The text of each result in a body."""
        return [text for kind, _, text in self._acts(body) if kind == "result"]

    def _acts(self, body: dict[str, Any]) -> list[tuple[str, str, Any]]:
        return [act for node in _nodes(body) if (act := _act(node)) is not None]


def _act(node: dict[str, Any]) -> tuple[str, str, Any] | None:
    """What an object of a body is: a call, a result, or neither."""
    match node:
        case {"type": "tool_use", "name": name, "input": arguments} | {
            "functionCall": {"name": name, "args": arguments}
        }:
            return "call", name, arguments
        case {"type": "function_call", "name": name, "arguments": text} | {
            "type": "function",
            "function": {"name": name, "arguments": text},
        }:
            return "call", name, json.loads(text)
        case {"type": "tool_result", "content": [*parts]}:
            return "result", "", "".join(part.get("text", "") for part in parts)
        case {"functionResponse": {"response": {"output": text}}}:
            return "result", "", text
        case {"type": "function_call_output", "output": text} | {"role": "tool", "content": text}:
            return "result", "", text
    return None


SPEAKERS = {
    speaker.name: speaker
    for speaker in (
        Speaker("anthropic", "anthropic", "anthropic-anthropic-48a5faaf31", "anthropic-anthropic-faf9e959bc"),
        Speaker("openai", "responses", "openai_responses-openai-98c8fe2931", "openai_responses-openai-1e6fa7a043"),
        Speaker("xai", "responses", "openai_responses-xai-960ff97a00", "openai_responses-xai-207d11b8da"),
        Speaker("gemini", "gemini", "gemini-google-4441995675", "gemini-google-547fcd50c0"),
        Speaker("openai-chat", "chat", "chat_completions-openai-2bb41488d3", "chat_completions-openai-b0b48bb35e"),
        Speaker(
            "deepseek", "chat", "chat_completions-deepseek-2144d91e9e#request", "chat_completions-deepseek-2144d91e9e"
        ),
        Speaker("mistral", "chat", "chat_completions-mistral-dd0e45d91f", "chat_completions-mistral-25157c80b9"),
        Speaker("moonshot", "chat", "chat_completions-avian-82c29667fe", "chat_completions-mistralrs-88acdc07f4"),
        Speaker("zai", "chat", "chat_completions-zai-2bba0f809b#request", "chat_completions-zai-2bba0f809b"),
        Speaker("groq", "chat", "chat_completions-groq-f3a90e5ba9", "chat_completions-groq-0404df1e1a"),
        Speaker(
            "openrouter", "chat", "chat_completions-openrouter-dd760725aa", "chat_completions-openrouter-33eae3830a"
        ),
        Speaker("llama_cpp", "chat", "chat_completions-llama_cpp-266e3cb5df", "chat_completions-llama_cpp-6feffc15e8"),
    )
}
"""Every adapter, and Chat Completions as several hosts want it."""


# --- Recordings ------------------------------------------------------------------------------------------------------


@cache
def recorded(name: str) -> tuple[bytes, str]:
    """The body of a recorded answer, and its media type."""
    name, _, part = name.partition("#")
    document = json.loads((_EXCHANGES / f"{name}.json").read_text())
    if part:
        turns = document["request"]["body"]["messages"]
        message = next(turn for turn in turns if turn.get("tool_calls"))
        choice = {"index": 0, "message": message, "finish_reason": "tool_calls"}
        return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 1}}).encode(), "application/json"
    if "sse" in document["response"]:
        return document["response"]["sse"].encode(), "text/event-stream"
    return json.dumps(document["response"]["body"]).encode(), "application/json"


def decoded(provider: Any, name: str, history: list[Message]) -> Message:
    """The message that an adapter makes of a recorded answer."""
    body, media_type = recorded(name)
    decoder = provider.decoder(Request(messages=history))
    if media_type == "application/json":
        return decoder.whole(json.loads(body)).message
    parser = EventParser()
    for event in (*parser.feed(body), *parser.end()):
        for _ in decoder.feed(event):
            pass
    return decoder.end().message


def conversation(speaker: Speaker, provider: Any, history: list[Message] | None = None) -> list[Message]:
    """A conversation that goes on from `history` with two answers of a provider's; the last turn is the user's."""
    history = list(history or [HI])
    calling = decoded(provider, speaker.calling, history)
    results = tuple(
        ToolResultBlock(call.id, (TextBlock(f"{speaker.name}'s result {number}"),), name=call.name)
        for number, call in enumerate(calling.tool_uses)
    )
    history += [calling, Message("user", results)]
    return [*history, decoded(provider, speaker.saying, history), GO_ON]


def nobody_elses(messages: list[Message]) -> set[str]:
    """What of answers is for their own provider alone: thinking, signatures, the vendor's items and ids."""
    spoken = " ".join(text for message in messages for text in strings([_spoken(block) for block in message.content]))
    private = {text for message in messages for text in strings([_private(block) for block in message.content])}
    return {text for text in private if len(text.strip()) >= 20 and text not in spoken}


def signatures(messages: list[Message]) -> set[str]:
    """The signatures among it."""
    found = [block.signature for m in messages for block in m.content if isinstance(block, ThinkingBlock)]
    extras = [_private(block) for message in messages for block in message.content]
    deep = [node[name] for node in _nodes(extras) for name in _SIGNED & node.keys()]
    return {text for text in (*found, *deep) if text}


def recorded_signatures(name: str) -> set[str]:
    """The signatures of a recorded answer, as they stand there."""
    body, media_type = recorded(name)
    parser = EventParser()
    events = [event.data for event in (*parser.feed(body), *parser.end())] if media_type != "application/json" else []
    documents = [json.loads(data) for data in (events or [body]) if data not in ("", "[DONE]")]
    done = [
        node for node in documents if node.get("type") == "response.output_item.done"
    ]  # other events differ from it
    return {node[name] for node in _nodes(done or documents) for name in _SIGNED & node.keys() if node[name]}


def sent(speaker: Speaker, provider: Any, history: list[Message]) -> dict[str, Any]:
    """What an adapter sends, checked: it keeps the vendor's rules, says what was said, and nothing that isn't the vendor's."""
    calls = [call for message in history for call in message.tool_uses]
    tools = tuple(ToolSpec(name, "A tool.", {"type": "object"}) for name in sorted({call.name for call in calls}))
    body = json.loads(provider.encode(Request(messages=history, system="Be brief.", tools=tools)))
    own = [message for message in history if is_own(message, provider.origin)]
    foreign = [message for message in history if message.role == "assistant" and message not in own]
    speaker.check(body, signatures(own))

    said = strings(body)
    assert not {text for text in nobody_elses(foreign) if any(text in one for one in said)}
    for text in (text for message in history for text in _texts(message, own=message in own)):
        assert any(text in one for one in said)
    assert speaker.calls(body) == [(call.name, call.input) for call in calls]
    assert speaker.results(body) == [result.text for message in history for result in message.tool_results]
    return body


def _texts(message: Message, *, own: bool) -> list[str]:
    """The texts of a message; where they are not its provider's own, those that follow each other are one."""
    texts = [(is_text, list(group)) for is_text, group in groupby(message.content, lambda b: isinstance(b, TextBlock))]
    runs = [[block.text for block in group] for is_text, group in texts if is_text]
    return [text for run in runs for text in run] if own else ["".join(run) for run in runs]


# --- JSON ------------------------------------------------------------------------------------------------------------


def strings(value: Any) -> list[str]:
    """All texts in a document, but for the names of fields; of JSON inside a text, too."""
    match value:
        case str():
            return [value]
        case dict():
            return [text for inner in value.values() for text in strings(inner)]
        case list():
            return [text for inner in value for text in strings(inner)]
    return []


def _nodes(value: Any) -> list[dict[str, Any]]:
    """All objects in a document, outermost first."""
    match value:
        case dict():
            return [value, *(node for inner in value.values() for node in _nodes(inner))]
        case list():
            return [node for inner in value for node in _nodes(inner)]
    return []


def _uncached(value: Any) -> Any:
    match value:
        case dict():
            return {name: _uncached(inner) for name, inner in value.items() if name != "cache_control"}
        case list():
            return [_uncached(inner) for inner in value]
    return value


def _spoken(block: Any) -> list[Any]:
    match block:
        case TextBlock(text=text):
            return [text]
        case ToolUseBlock(id=call_id, name=name, input=arguments):
            return [call_id, name, dict(arguments)]
    return []


def _private(block: Any) -> list[Any]:
    match block:
        case ThinkingBlock(text=text, signature=signature, extra=extra):
            return [text, signature, dict(extra or {})]
        case TextBlock(extra=extra) | ToolUseBlock(extra=extra):
            return [dict(extra or {})]
        case ServerToolUseBlock(raw=raw) | ServerToolResultBlock(raw=raw) | RawBlock(data=raw):
            return [dict(raw)]
    return []
