"""Words in which the tests of the Responses API say what is sent and what comes."""

from __future__ import annotations

import json

from alloy.messages import Message, TextBlock, ToolResultBlock, as_user_message
from alloy.providers.base import Request
from alloy.providers.openai import OpenAI
from alloy.providers.sse import ServerEvent

__all__ = [
    "HI",
    "URL",
    "added",
    "back",
    "call",
    "delta",
    "done",
    "end",
    "items",
    "provider",
    "reasoning",
    "result",
    "said",
    "sent",
    "streamed",
    "whole",
]

URL = "http://somewhere.test/v1"
HI = as_user_message("Hi")


def provider(model="gpt-6.1-sol", **settings):
    return OpenAI(model, "sk-0123456789", URL, **settings)


def sent(messages=(HI,), *, to=None, **request):
    return json.loads((to or provider()).encode(Request(messages=messages, **request)))


def items(*messages, **options):
    return sent(messages, **options)["input"]


def result(call_id, *content, **options):
    return ToolResultBlock(call_id, tuple(TextBlock(c) if isinstance(c, str) else c for c in content), **options)


def said(text, **more):
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text} | more]}


def reasoning(number=1, **more):
    return {"type": "reasoning", "id": f"rs_{number}", "summary": [], "encrypted_content": "sealed"} | more


def call(call_id="c1", name="look", arguments="{}", **more):
    return {"type": "function_call", "id": "fc_1", "call_id": call_id, "name": name, "arguments": arguments} | more


def whole(*output, to=None, tools=(), **response):
    """The completion that a response object becomes."""
    decoder = (to or provider()).decoder(Request(messages=[HI], tools=tools))
    return decoder.whole({"object": "response", "status": "completed", "output": list(output)} | response)


def streamed(*events, to=None, tools=(), history=(HI,)):
    """The deltas and the completion of a stream of these events."""
    decoder = (to or provider()).decoder(Request(messages=history, tools=tools))
    deltas = [delta for event in events for delta in decoder.feed(ServerEvent(json.dumps(event)))]
    return deltas, decoder.end()


def added(index, item):
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(index, item):
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def delta(kind, index, text, **more):
    return {"type": f"response.{kind}.delta", "output_index": index, "delta": text} | more


def end(kind="completed", **response):
    return {"type": f"response.{kind}", "response": {"status": kind, "output": []} | response}


def back(*output, to=None, tools=(), results=(), **response):
    """The items that an answer becomes in the next request, without the turns around it."""
    asked = to or provider()
    message = whole(*output, to=asked, tools=tools, **response).message
    history = [HI, message, *([Message("user", tuple(results))] if results else []), HI]
    return items(*history, to=asked, tools=tools)[1:-1]
