"""What hosts of Chat Completions refuse, as a checker: their references, and the wording of their errors."""

from __future__ import annotations

import json
import re
from itertools import pairwise

__all__ = ["check"]

_FIELDS = {
    "model", "messages", "tools", "tool_choice", "parallel_tool_calls", "stream", "stream_options", "max_tokens",
    "max_completion_tokens", "temperature", "top_p", "stop", "seed", "reasoning_effort", "reasoning", "response_format",
}  # fmt: skip
_CACHING = {"openai": {"prompt_cache_key"}, "mistral": {"prompt_cache_key"}, "openrouter": {"cache_control"}}
_KEYS = {
    "system": {"role", "content"},
    "user": {"role", "content"},
    "tool": {"role", "content", "tool_call_id"},
    "assistant": {"role", "content", "tool_calls"},
}
_REASONING = {
    "deepseek": {"reasoning_content"},
    "moonshot": {"reasoning_content", "reasoning_details"},  # the latter where others serve its models
    "zai": {"reasoning_content"},
    "llama_cpp": {"reasoning_content"},
    "groq": {"reasoning"},
    "openrouter": {"reasoning", "reasoning_details", "annotations"},
}
"""What besides text and calls a host takes back; others say that the property is unsupported, or not permitted."""

_CALL_IDS = {"openai": "(?s:.{1,40})", "mistral": "[A-Za-z0-9]{9}"}
_NAME = re.compile("[A-Za-z0-9_-]{1,64}")
_PARTS = {
    "text": {"type", "text"},
    "image_url": {"type", "image_url"},
    "input_audio": {"type", "input_audio"},
    "file": {"type", "file"},
    "video_url": {"type", "video_url"},
}


def check(body, host):
    """Checks a whole request body as `host` would; any breach is an AssertionError."""
    assert body.keys() <= _FIELDS | _CACHING.get(host, set())
    assert len(body.get("prompt_cache_key", "")) <= 64
    assert body.get("stream", True) is True
    assert "stream_options" not in body or host != "mistral"
    assert body.get("tools", True), "[] is too short - 'tools'"
    assert "tools" in body or not {"tool_choice", "parallel_tool_calls"} & body.keys()
    for tool in body.get("tools", ()):
        assert _NAME.fullmatch(tool["function"]["name"])
        assert tool["function"]["parameters"]["type"] == "object"
    messages = body["messages"]
    for message in messages:
        _check_message(message, host)
    _check_turns(messages, host)
    _check_calls(messages, host)


def _check_message(message, host):
    role = message["role"]
    allowed = _KEYS[role] | (_REASONING.get(host, set()) if role == "assistant" else set())
    assert message.keys() <= allowed, f"not permitted: {message.keys() - allowed}"
    content = message["content"]
    if role == "assistant" and content is None:
        assert message["tool_calls"], "content or tool_calls must be set"
    elif isinstance(content, str):
        assert content.strip(), "content must not be empty"
    else:
        assert role in ("user", "assistant"), "parts are for the user"
        assert content
        for part in content:
            _check_part(part, role, host)
    for call in message.get("tool_calls", ()):
        assert call.keys() == {"id", "type", "function"}
        assert call["function"].keys() == {"name", "arguments"}
        assert _NAME.fullmatch(call["function"]["name"])
        assert isinstance(json.loads(call["function"]["arguments"]), dict)
    if "tool_calls" in message and host in ("deepseek", "moonshot"):
        assert isinstance(message["reasoning_content"], str), "the reasoning_content must be passed back"


def _check_part(part, role, host):
    if role == "assistant":
        assert part["type"] == "text" or (part["type"] == "thinking" and host == "mistral")
        return
    assert part.keys() == _PARTS[part["type"]]
    assert part["type"] == "text" or host != "deepseek", f"unknown variant `{part['type']}`, expected `text`"
    assert part["type"] != "text" or part["text"].strip()


def _check_turns(messages, host):
    roles = [message["role"] for message in messages]
    assert "system" not in roles[1:], "the system message comes first"
    assert next(role for role in roles if role != "system") == "user"
    for before, role in pairwise(roles):
        assert (before, role) not in (("user", "user"), ("assistant", "assistant")), "roles must alternate"
        assert (before, role) != ("tool", "user") or host != "mistral", "unexpected role 'user' after role 'tool'"
    assert roles[-1] in ("user", "tool"), "expected last role user or tool"


def _check_calls(messages, host):
    """Every call has one result, before anything else is said."""
    seen, open_calls = set(), []
    for message in messages:
        if message["role"] == "tool":
            assert open_calls, "messages with role 'tool' must be a response to a preceding message with 'tool_calls'"
            assert message["tool_call_id"] == open_calls.pop(0)
            continue
        assert not open_calls, "'tool_calls' must be followed by tool messages responding to each 'tool_call_id'"
        for call in message.get("tool_calls", ()):
            assert re.fullmatch(_CALL_IDS.get(host, "(?s:.+)"), call["id"]), "invalid tool call id"
            assert call["id"] not in seen
            seen.add(call["id"])
            open_calls.append(call["id"])
    assert not open_calls
