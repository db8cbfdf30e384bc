"""What OpenAI's Responses API asks of a request, as its reference and its error messages say; any breach is an AssertionError."""

from __future__ import annotations

import json
import re

__all__ = ["check"]

_ITEMS = {
    "message": {"type", "id", "role", "status", "content", "phase"},
    "reasoning": {"type", "id", "summary", "content", "encrypted_content", "status"},
    "function_call": {"type", "id", "call_id", "name", "arguments", "status", "namespace", "caller"},
    "function_call_output": {"type", "id", "call_id", "output", "status", "caller"},
}
_PARTS = {
    "input_text": {"type", "text"},
    "input_image": {"type", "image_url", "detail"},
    "input_file": {"type", "filename", "file_data", "file_url"},
    "output_text": {"type", "text", "annotations", "logprobs"},
    "refusal": {"type", "refusal"},
}
_NAME = re.compile("[A-Za-z0-9_-]{1,64}")


def check(body):
    """Checks a whole request body."""
    assert isinstance(body["model"], str)
    assert body["store"] is False
    assert not {"previous_response_id", "conversation"} & body.keys()
    assert body.get("instructions", "x").strip()
    assert body.get("stream", True) is True
    _check_tools(body)
    assert body["input"]
    for item in body["input"]:
        _check_item(item)
    _check_order(body["input"])
    _check_calls(body["input"])


def _check_tools(body):
    tools = body.get("tools")
    if tools is None:
        assert not {"tool_choice", "parallel_tool_calls"} & body.keys()
        return
    assert tools
    for tool in tools:
        if tool["type"] == "function":
            assert tool.keys() <= {"type", "name", "description", "parameters", "strict"}
            assert _NAME.fullmatch(tool["name"])
            assert tool["parameters"]["type"] == "object"
            assert isinstance(tool["strict"], bool)
    names = [tool["name"] for tool in tools if "name" in tool]
    assert len(set(names)) == len(names)


def _check_item(item):
    kind = item["type"]
    assert item.keys() <= _ITEMS.get(kind, item.keys())
    match kind:
        case "message":
            assert item["role"] in ("user", "assistant")
            allowed = "input_" if item["role"] == "user" else ("output_text", "refusal")
            assert item["content"]
            for part in item["content"]:
                assert part["type"].startswith(allowed)
                _check_part(part)
        case "reasoning":
            assert isinstance(item["summary"], list)
            assert item.get("encrypted_content") or item.get("content"), "it isn't stored, so its id means nothing"
        case "function_call":
            assert _NAME.fullmatch(item["name"])
            assert _is_object(item["arguments"])
        case "function_call_output":
            output = item["output"]
            assert output
            for part in [] if isinstance(output, str) else output:
                assert part["type"].startswith("input_")
                _check_part(part)


def _is_object(text):
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _check_part(part):
    assert part.keys() <= _PARTS[part["type"]]
    match part["type"]:
        case "input_text":
            assert part["text"].strip()
        case "input_image":
            assert part["image_url"].startswith(("data:image/", "https://"))
        case "input_file":
            assert ("file_data" in part and part["filename"]) or part["file_url"]
        case "refusal":
            assert part["refusal"]


def _check_order(items):
    """A reasoning item stands before what it led to, in the same answer."""
    for item, follower in zip(items, [*items[1:], None], strict=True):
        if item["type"] == "reasoning":
            assert follower is not None
            assert follower.get("role") != "user"
            assert not follower["type"].endswith("_output")


def _check_calls(items):
    """Every call has one result, after it and before anything else is said."""
    calls, answered = [], set()
    for item in items:
        if item["type"] == "function_call":
            assert re.fullmatch("(?s:.{1,64})", item["call_id"])
            assert item["call_id"] not in calls
            calls.append(item["call_id"])
        elif item["type"] == "function_call_output":
            assert item["call_id"] in calls
            assert item["call_id"] not in answered
            answered.add(item["call_id"])
        elif item.get("role") == "user":
            assert set(calls) == answered
    assert set(calls) == answered
