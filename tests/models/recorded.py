"""Recorded requests as Alloy has them, with what the vendors say that they had; ``tests/wire/README.md`` describes them."""

from __future__ import annotations

import base64
import json
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alloy import Message, TextBlock, ToolResultBlock, Usage
from alloy.errors import ProviderError
from alloy.messages import AudioBlock, DocumentBlock, ImageBlock, RawBlock, ThinkingBlock, ToolUseBlock, VideoBlock
from alloy.providers import Anthropic, ChatCompletions, Gemini, OpenAI, Request, ToolSpec
from alloy.providers.sse import EventParser

if TYPE_CHECKING:
    from collections.abc import Iterator

_WIRE = Path(__file__).parent.parent / "wire"
_UNCOUNTABLE = {
    "blob-shrunk",
    "text-shrunk",
    "request-not-recorded",
    "usage-missing",
    "previous-response-id",
    "server-or-builtin-tool-declared",
    "mcp-declared",
    "context-management",
    "compaction-replay",
    "container",
    "structured-output",
    "inline-data-output",
}
"""What makes a recording say nothing about counting: texts cut by the collector, or parts of the prompt that only the vendor has."""
_ADAPTERS: dict[str, Any] = {
    "anthropic": Anthropic,
    "chat_completions": ChatCompletions,
    "gemini": Gemini,
    "openai_responses": OpenAI,
}


@dataclass
class Recording:
    """One request whose size the vendor said.

    Attributes:
        id: the recording's name.
        wire: the wire format.
        vendor: who answered.
        model: which model.
        system: the system prompt.
        tools: the declared tools.
        messages: the history.
        usage: what the vendor reported.
    """

    id: str
    wire: str
    vendor: str
    model: str
    source: str
    system: str | None = None
    tools: list[ToolSpec] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    usage: Usage = field(default_factory=Usage)


def recordings() -> list[Recording]:
    """All that can be counted; an answer whose own request was recorded, too, says what it took."""
    found = []
    for entry in json.loads((_WIRE / "index.json").read_text()):
        features = set(entry["features"])
        if features & _UNCOUNTABLE or any(name.startswith("error") for name in features):
            continue
        document = json.loads((_WIRE / "exchanges" / f"{entry['id']}.json").read_text())
        usage = _usage(entry["provider"], document)
        if usage is None or not usage.prompt_tokens or usage.server_tool_calls:
            continue
        source = f"{document['source']['repo']}/{document['source']['path']}"
        recording = Recording(
            entry["id"], entry["provider"], document["vendor"], document["model"] or "a-model", source, usage=usage
        )
        body = document["request"]["body"]
        if "cachedContent" in body or any(word in json.dumps(body) for word in ('"fileData"', '"type": "url"')):
            continue  # what is elsewhere
        _READERS[entry["provider"]](recording, body)
        found.append(recording)
    _say_what_answers_took(found)
    return found


def _usage(wire: str, document: dict[str, Any]) -> Usage | None:
    options = {"compat": "openai"} if wire == "chat_completions" else {}
    adapter = _ADAPTERS[wire](document["model"] or "a-model", "sk-none", "http://somewhere.test", **options)
    decoder = adapter.decoder(Request(messages=[]))
    response = document["response"]
    try:
        if "sse" not in response:
            return decoder.whole(response["body"]).usage
        parser = EventParser(max_event=2**24)
        for event in [*parser.feed(response["sse"].encode()), *parser.end()]:
            if not decoder.done:
                list(decoder.feed(event))
        return decoder.end().usage
    except ProviderError:  # it says nothing
        return None


def _say_what_answers_took(found: list[Recording]) -> None:
    together = defaultdict(list)
    for recording in found:
        together[recording.source, recording.model].append(recording)
    for same in together.values():
        asked = {_said(one.messages): one.usage for one in same}
        for one in same:
            for index, message in enumerate(one.messages):
                if message.role == "assistant" and (usage := asked.get(_said(one.messages[:index]))):
                    one.messages[index] = Message("assistant", message.content, usage=usage)


def _said(messages: list[Message]) -> str:
    return repr([(message.role, message.content) for message in messages])


# --- wire formats ----------------------------------------------------------------------------------------------------


def _add(recording: Recording, role: Any, *blocks: Any) -> None:
    """Adds blocks to the history; neighbours of one role are one message."""
    kept = tuple(block for block in blocks if block is not None)
    if recording.messages and recording.messages[-1].role == role:
        kept = recording.messages.pop().content + kept
    recording.messages.append(Message(role, kept))


def _add_tool(recording: Recording, tool: dict[str, Any], schema: Any) -> None:
    recording.tools.append(ToolSpec(tool["name"], tool.get("description") or "", schema or {}))


def _text_of(content: Any) -> str:
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.get("text", "") for part in content)


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content or []


def _medium(media_type: str, data: str) -> Any:
    kinds = {"image": ImageBlock, "audio": AudioBlock, "video": VideoBlock}
    return kinds.get(media_type.partition("/")[0], DocumentBlock)(media_type, base64.b64decode(data))


def _linked(url: str, kind: Any) -> Any:
    if not url.startswith("data:"):
        return kind("image/*" if kind is ImageBlock else "application/pdf", url=url)
    head, _, data = url.partition(",")
    return _medium(head[5:].partition(";")[0], data)


def _anthropic(recording: Recording, body: dict[str, Any]) -> None:
    recording.system = _text_of(body.get("system")) or None
    for tool in body.get("tools", []):
        _add_tool(recording, tool, tool["input_schema"])
    for turn in body["messages"]:
        _add(recording, turn["role"], *(_anthropic_block(part) for part in _parts(turn["content"])))


def _anthropic_block(part: dict[str, Any]) -> Any:
    match part:
        case {"type": "text", "text": text}:
            return TextBlock(text)
        case {"type": "thinking", "thinking": text}:
            return ThinkingBlock(text, part.get("signature"))
        case {"type": "tool_use"}:
            return ToolUseBlock(part["id"], part["name"], part["input"])
        case {"type": "tool_result"}:
            return ToolResultBlock(part["tool_use_id"], tuple(map(_anthropic_block, _parts(part.get("content")))))
        case {"source": {"type": "base64", "media_type": media_type, "data": data}}:
            return _medium(media_type, data)
        case {"source": {"type": "text", "data": data}}:
            return DocumentBlock("text/plain", data.encode())
        case {"type": kind, "source": {"type": "url", "url": url}}:
            return _linked(url, ImageBlock if kind == "image" else DocumentBlock)
        case _:
            return RawBlock(part["type"], part)


def _chat(recording: Recording, body: dict[str, Any]) -> None:
    for tool in body.get("tools") or []:
        _add_tool(recording, tool["function"], tool["function"].get("parameters"))
    for turn in body["messages"]:
        content = turn.get("content")
        match turn["role"]:
            case "system" | "developer":
                recording.system = (recording.system or "") + _text_of(content)
            case "tool":
                _add(recording, "user", ToolResultBlock(turn["tool_call_id"], (TextBlock(_text_of(content)),)))
            case "user":
                _add(recording, "user", *map(_chat_part, _parts(content)))
            case _:
                thought = turn.get("reasoning_content") or turn.get("reasoning")
                calls = [
                    ToolUseBlock(call["id"] or "", call["function"]["name"], invalid=call["function"]["arguments"])
                    for call in turn.get("tool_calls") or []
                ]
                text = _text_of(content)
                blocks = (ThinkingBlock(thought) if thought else None, TextBlock(text) if text else None, *calls)
                _add(recording, "assistant", *blocks)


def _chat_part(part: dict[str, Any]) -> Any:
    match part:
        case {"text": text}:
            return TextBlock(text)
        case {"image_url": {"url": url}}:
            return _linked(url, ImageBlock)
        case {"input_audio": {"data": data, "format": kind}}:
            return _medium(f"audio/{kind}", data)
        case {"file": {"file_data": url}}:
            return _linked(url, DocumentBlock)
        case _:
            return RawBlock(part["type"], part)


def _responses(recording: Recording, body: dict[str, Any]) -> None:
    recording.system = body.get("instructions")
    for tool in body.get("tools") or []:
        _add_tool(recording, tool, tool.get("parameters"))
    items = body["input"] if isinstance(body["input"], list) else [{"role": "user", "content": body["input"]}]
    for item in items:
        match item:
            case {"role": "system" | "developer", "content": content}:
                recording.system = (recording.system or "") + _text_of(content)
            case {"role": role, "content": content}:
                _add(recording, role, *map(_responses_part, _parts(content)))
            case {"type": "function_call"}:
                _add(recording, "assistant", ToolUseBlock(item["call_id"], item["name"], invalid=item["arguments"]))
            case {"type": "function_call_output", "output": output}:
                result = ToolResultBlock(item["call_id"], tuple(map(_responses_part, _parts(output))))
                _add(recording, "user", result)
            case {"type": "reasoning"}:
                text = _text_of(item.get("content")) or _text_of(item.get("summary"))
                _add(recording, "assistant", ThinkingBlock(text, item.get("encrypted_content")))
            case _:
                _add(recording, "user" if "output" in item else "assistant", RawBlock(item["type"], item))


def _responses_part(part: dict[str, Any]) -> Any:
    match part:
        case {"text": text}:
            return TextBlock(text)
        case {"image_url": url}:
            return _linked(url, ImageBlock)
        case {"file_data": url} | {"file_url": url}:
            return _linked(url, DocumentBlock)
        case _:
            return RawBlock(part["type"], part)


def _gemini(recording: Recording, body: dict[str, Any]) -> None:
    system = body.get("systemInstruction") or body.get("system_instruction") or {}
    recording.system = _text_of(system.get("parts")) or None
    for tool in body.get("tools") or []:
        for one in tool.get("functionDeclarations") or tool.get("function_declarations") or []:
            _add_tool(recording, one, one.get("parametersJsonSchema") or one.get("parameters"))
    for turn in body["contents"]:
        role = "assistant" if turn.get("role") == "model" else "user"
        _add(recording, role, *map(_gemini_part, turn["parts"]))


def _gemini_part(part: dict[str, Any]) -> Any:
    match part:
        case {"thought": True, "text": text}:
            return ThinkingBlock(text)
        case {"text": text}:
            return TextBlock(text, _signed(part))
        case {"functionCall": call}:
            return ToolUseBlock(call.get("id") or "", call["name"], call.get("args") or {}, extra=_signed(part))
        case {"functionResponse": answer}:
            text = TextBlock(json.dumps(answer["response"], ensure_ascii=False))
            return ToolResultBlock(answer.get("id") or "", (text, *map(_gemini_part, answer.get("parts", []))))
        case {"inlineData": {"mimeType": media_type, "data": data}}:
            return _medium(media_type, data)
        case {"fileData": {"mimeType": "video/mp4", "fileUri": url}}:
            return VideoBlock("video/mp4", url=url)
        case _:
            return RawBlock("part", part)


def _signed(part: dict[str, Any]) -> dict[str, Any] | None:
    signature = part.get("thoughtSignature")
    return {"thoughtSignature": signature} if signature else None


_READERS = {"anthropic": _anthropic, "chat_completions": _chat, "gemini": _gemini, "openai_responses": _responses}


def by_wire(found: list[Recording]) -> Iterator[tuple[str, list[Recording]]]:
    """The recordings of each wire format."""
    for wire in _READERS:
        yield wire, [one for one in found if one.wire == wire]
