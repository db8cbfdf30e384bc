"""What Gemini's users really sent back: recorded requests, taken into our words and encoded again, stay what they were."""

from __future__ import annotations

import base64
import json

from alloy.history import check_history
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    as_user_message,
)
from alloy.providers.base import Request, ToolSpec
from alloy.providers.gemini import Gemini
from alloy.providers.gemini_encode import NO_SIGNATURE
from alloy.providers.gemini_schema import gemini_schema
from tests.providers.conftest import Exchange

WIRE = "gemini"
MEDIA = {"image": ImageBlock, "audio": AudioBlock}


def provider(exchange, **settings):
    return Gemini(exchange.model, base_url="http://somewhere.test/v1beta", **settings)


def camel(name):
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)


def camelled(value, depth):
    """The API takes field names in both ways; what is deeper is the tools' own."""
    if isinstance(value, list):
        return [camelled(item, depth) for item in value]
    if not isinstance(value, dict) or not depth:
        return value
    return {camel(name): camelled(inner, depth - 1) for name, inner in value.items()}


def recorded(exchange):
    """The contents as sent, but for three things: blank unsigned text, and ``"thought": false``, which say nothing; and results
    in other words than ``output`` and ``error``."""
    contents = []
    for content in exchange.request["contents"]:
        parts = []
        for raw in content["parts"]:
            part = camelled(raw, 2)
            if result := part.get("functionResponse"):
                if result["response"] and not result["response"].keys() <= {"output", "error"}:
                    result["response"] = {"output": json.dumps(result["response"])}
                result |= {"parts": camelled(result["parts"], 2)} if "parts" in result else {}
            if part != {"text": ""}:
                parts.append({name: value for name, value in part.items() if (name, value) != ("thought", False)})
        contents.append({"role": content.get("role", "user"), "parts": parts})
    return contents


def history(exchange, contents):
    """Our history: what the model said, as it came; what was said to it, in our words."""
    messages, calls = [], []
    for content in contents:
        if content["role"] == "model":
            answer = {"candidates": [{"content": content, "finishReason": "STOP"}]}
            messages.append(provider(exchange).decoder(Request(messages=messages)).whole(answer).message)
            calls = list(messages[-1].tool_uses)
        else:
            messages.append(Message("user", tuple(block(part, calls) for part in content["parts"])))
    return messages


def block(part, calls):
    match part:
        case {"text": text}:
            return TextBlock(text)
        case {"inlineData": {"mimeType": kind, "data": data}}:
            return MEDIA.get(kind.split("/")[0], DocumentBlock)(kind, base64.b64decode(data))
        case {"functionResponse": {"response": response, **rest}}:
            text = [TextBlock(said) for said in (response.get("output"), response.get("error")) if said]
            media = [block(inner, []) for inner in rest.get("parts", [])]
            return ToolResultBlock(calls.pop(0).id, (*text, *media), is_error="error" in response)
    raise AssertionError(part)


def test_a_recorded_conversation_is_sent_as_it_was(continued):
    contents = recorded(continued)
    messages = history(continued, contents)
    check_history(messages)

    assert json.loads(provider(continued).encode(Request(messages=messages)))["contents"] == contents


def test_a_recorded_schema_is_sent_as_it_was(exchange):
    if not exchange.request:
        return
    body = camelled(exchange.request, 3)
    for tool in body.get("tools", []):
        for function in tool.get("functionDeclarations", []):
            if schema := function.get("parametersJsonSchema"):
                spec = ToolSpec(function["name"], function["description"], schema)
                sent = json.loads(provider(exchange).encode(Request(messages=[as_user_message("Hi")], tools=(spec,))))
                assert sent["tools"] == [{"functionDeclarations": [spec_sent(spec)]}]
    if schema := (body.get("generationConfig") or {}).get("responseJsonSchema"):
        assert gemini_schema(schema) == schema


def spec_sent(spec):
    return {"name": spec.name, "description": spec.description, "parametersJsonSchema": spec.input_schema}


def load(name):
    return Exchange({"id": name, "features": []})


def test_a_recorded_answer_goes_into_the_recorded_next_request():
    """A call of a tool that isn't there, told so: the recorded client gave the call an id, and wrote base64 for URLs."""
    answer, following = load("gemini-vertex-69f1b2d3d5"), load("gemini-vertex-3e8b4d0c24")
    prompt, call, result, *_ = recorded(following)
    decoded = provider(answer).decoder(Request(messages=[])).whole(answer.body).message
    error = result["parts"][0]["functionResponse"]["response"]["error"]
    (asked,) = decoded.tool_uses
    messages = [
        as_user_message(prompt["parts"][0]["text"]),
        decoded,
        Message("user", (ToolResultBlock(asked.id, (TextBlock(error),), is_error=True),)),
    ]
    sent = json.loads(provider(answer).encode(Request(messages=messages)))["contents"]
    signature = sent[1]["parts"][0].pop("thoughtSignature")

    assert signature.translate(str.maketrans("+/", "-_")) == call["parts"][0].pop("thoughtSignature")
    for part in (call["parts"][0]["functionCall"], result["parts"][0]["functionResponse"]):
        del part["id"]
    assert sent == [prompt, call, result]


def test_a_call_of_another_model_is_marked_as_the_recorded_one_was():
    """The recorded client wrote the placeholder's base64, where Google's page has it plain; both are the same bytes field."""
    exchange = load("gemini-google-5cdfc35755")
    contents = recorded(exchange)
    call = contents[1]["parts"][0]
    foreign = Message("assistant", (ToolUseBlock("search_call_1", "search_tools", call["functionCall"]["args"]),))
    result = Message("user", (block(contents[2]["parts"][0], list(foreign.tool_uses)),))
    messages = [as_user_message("Find the exchange-rate tool."), foreign, result]
    sent = json.loads(provider(exchange).encode(Request(messages=messages)))["contents"]
    placeholder = sent[1]["parts"][0].pop("thoughtSignature")

    assert placeholder == NO_SIGNATURE == base64.b64decode(call.pop("thoughtSignature")).decode()
    assert sent == contents[:3]
