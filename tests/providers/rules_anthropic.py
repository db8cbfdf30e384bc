"""What Anthropic's Messages API refuses, as a checker: its reference, its guides and the wording of its errors."""

from __future__ import annotations

import base64
import json
import re

__all__ = ["check"]

_FIELDS = {
    "model", "max_tokens", "messages", "system", "tools", "tool_choice", "stream", "temperature", "top_p", "top_k",
    "stop_sequences", "thinking", "output_config", "container", "metadata", "service_tier", "context_management",
}  # fmt: skip
_BLOCKS = {
    "user": {
        "text": {"text"},
        "image": {"source"},
        "document": {"source", "title", "context", "citations"},
        "tool_result": {"tool_use_id", "content", "is_error"},
    },
    "assistant": {
        "text": {"text", "citations"},
        "thinking": {"thinking", "signature"},
        "redacted_thinking": {"data"},
        "compaction": {"content"},
        "tool_use": {"id", "name", "input", "caller"},
        "server_tool_use": {"id", "name", "input", "caller"},
        "web_search_tool_result": {"tool_use_id", "content", "caller"},
    },
}
_SOURCES = {
    "base64": {"type", "media_type", "data"},
    "text": {"type", "media_type", "data"},
    "url": {"type", "url"},
}
_ID = re.compile("[A-Za-z0-9_-]{1,64}")
_CACHED = {"text", "image", "document", "tool_use", "tool_result"}


def check(body, *, signatures):
    """Checks a whole request body; any breach is an AssertionError.

    Args:
        body: the request.
        signatures: the genuine ones.
    """
    assert body.keys() <= _FIELDS
    assert body["max_tokens"] >= 1
    assert body.get("stream", True) is True
    _check_tools(body)
    _check_caching(body)
    for block in body.get("system", ()):
        assert block["type"] == "text"
        assert block["text"].strip(), "text content blocks must be non-empty"
    messages = body["messages"]
    assert messages, "at least one message is required"
    roles = [message["role"] for message in messages]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"] * (len(roles) % 2), "roles must alternate"
    for message in messages:
        _check_message(message, signatures)
    for before, message in zip([None, *messages], messages, strict=False):
        if message["role"] == "user":
            _check_results(before, message)
    for message in messages[:-1]:
        _check_end(message)
    _check_thinking(body)
    calls = [block["id"] for message in messages for block in message["content"] if block["type"] == "tool_use"]
    assert len(set(calls)) == len(calls), "tool_use ids must be unique"


def _check_tools(body):
    tools = body.get("tools", [])
    assert "tools" not in body or tools
    assert tools or "tool_choice" not in body, "tool_choice may only be specified while providing tools"
    names = [tool["name"] for tool in tools]
    assert len(set(names)) == len(names), "tool names must be unique"
    for tool in tools:
        assert _ID.fullmatch(tool["name"])
        if "type" not in tool or tool["type"] == "custom":
            assert tool["input_schema"]["type"] == "object"
        else:
            assert not {"input_schema", "description"} & tool.keys(), "extra inputs are not permitted"


def _check_caching(body):
    marked = [block for message in body["messages"] for block in message["content"] if "cache_control" in block]
    others = [block for block in (*body.get("system", ()), *body.get("tools", ())) if "cache_control" in block]
    assert len(marked) + len(others) <= 4, "a maximum of 4 blocks with cache_control may be provided"
    assert all(block["type"] in _CACHED for block in marked), "cache_control can't be set there"
    assert not any(block.get("defer_loading") for block in others)
    assert all(block["cache_control"]["type"] == "ephemeral" for block in (*marked, *others))
    assert json.dumps(body).count('"cache_control"') == len(marked) + len(others)


def _check_message(message, signatures):
    assert message.keys() == {"role", "content"}
    assert message["content"], "all messages must have non-empty content"
    for block in message["content"]:
        allowed = _BLOCKS[message["role"]][block["type"]]
        assert block.keys() <= allowed | {"type", "cache_control"}, "extra inputs are not permitted"
        match block:
            case {"type": "text", "text": text}:
                assert text.strip(), "text content blocks must contain non-whitespace text"
            case {"type": "thinking", "signature": signature}:
                assert signature in signatures, "invalid signature in thinking block"
            case {"type": "tool_use" | "server_tool_use", "id": call_id, "name": name, "input": arguments}:
                assert _ID.fullmatch(call_id)
                assert _ID.fullmatch(name)
                assert isinstance(arguments, dict)
            case {"type": "image" | "document", "source": source}:
                _check_source(source)
            case {"type": "tool_result"}:
                _check_result(block)


def _check_source(source):
    assert source.keys() == _SOURCES[source["type"]]
    if source["type"] == "base64":
        assert base64.b64decode(source["data"], validate=True)
        assert source["media_type"] in ("image/png", "image/jpeg", "image/gif", "image/webp", "application/pdf")


def _check_result(block):
    assert _ID.fullmatch(block["tool_use_id"])
    assert block["content"]
    for part in block["content"]:
        assert part["type"] in ("text", "image", "document")
        assert part["type"] == "text" or not block.get("is_error"), "all content must be type text if is_error is true"
        assert part["type"] != "text" or part["text"].strip()
        if part["type"] != "text":
            _check_source(part["source"])


def _check_results(before, message):
    calls = [block["id"] for block in (before or {"content": []})["content"] if block["type"] == "tool_use"]
    kinds = [block["type"] for block in message["content"]]
    results = [block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"]
    assert results == calls, "tool_use ids were found without tool_result blocks immediately after"
    assert kinds[: len(results)] == ["tool_result"] * len(results), "tool_result blocks must come first"


def _check_thinking(body):
    """With thinking of a fixed budget, a step that results go on with began with thinking."""
    *_, before, last = (None, *body["messages"])
    if body.get("thinking", {}).get("type") == "enabled" and last["content"][0]["type"] == "tool_result":
        assert before["content"][0]["type"] in ("thinking", "redacted_thinking"), (
            "a final assistant message must start with a thinking block"
        )


def _check_end(message):
    """What only the last message may have, since only that is continued."""
    if message["role"] == "user":
        return
    kinds = [block["type"] for block in message["content"]]
    assert kinds[-1] not in ("thinking", "redacted_thinking"), (
        "the final block in an assistant message cannot be thinking"
    )
    if "tool_use" not in kinds:
        answered = {block["tool_use_id"] for block in message["content"] if "tool_use_id" in block}
        for block in message["content"]:
            assert block["type"] != "server_tool_use" or block["id"] in answered, "found without a corresponding result"
