"""Gemini: what is sent, and to whom."""

from __future__ import annotations

import base64
import json

import httpx
import pytest

from alloy.errors import InvalidOptionError, MissingKeyError, ProviderError, UnknownOptionError
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    RawBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
    as_user_message,
)
from alloy.providers import from_string
from alloy.providers.base import Provider, Request, ToolSpec
from alloy.providers.gemini import Gemini
from alloy.providers.gemini_encode import NO_SIGNATURE

URL = "http://somewhere.test/v1beta"
HI = as_user_message("Hi")
TOOL = ToolSpec("t", "Does.", {"type": "object", "properties": {}})


def provider(model="gemini-3.8-flash", **settings):
    return Gemini(model, "key-0123456789", URL, **settings)


def sent(messages, *, to=None, **request):
    return json.loads((to or provider()).encode(Request(messages=messages, **request)))


def answer(origin=None, *blocks):
    return Message("assistant", blocks, origin=origin)


def result(call_id, *content, **options):
    return ToolResultBlock(call_id, tuple(TextBlock(c) if isinstance(c, str) else c for c in content), **options)


def inline(kind, data):
    return {"inlineData": {"mimeType": kind, "data": base64.b64encode(data).decode()}}


def chunk(*parts, finish=None, **candidate):
    candidate |= {"content": {"role": "model", "parts": list(parts)}}
    return {"candidates": [candidate | ({"finishReason": finish} if finish else {})]}


def whole(document):
    return provider().decoder(Request(messages=[HI], stream=False)).whole(document)


# --- What is sent ----------------------------------------------------------------------------------------------------


def test_a_conversation_is_sent_turn_by_turn():
    history = [
        HI,
        answer(None, TextBlock("Looking."), ToolUseBlock("c1", "look", {"at": "é"}), ToolUseBlock("c2", "look")),
        Message("user", (result("c1", "a"), result("c2", "b", is_error=True), TextBlock("And?"))),
        answer(None, TextBlock("Done.")),
        as_user_message("Thanks"),
    ]
    body = sent(history, system="Be brief.")

    assert body["systemInstruction"] == {"parts": [{"text": "Be brief."}]}
    assert body["contents"] == [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {
            "role": "model",
            "parts": [
                {"text": "Looking."},
                {
                    "functionCall": {"name": "look", "args": {"at": "é"}, "id": "c1"},
                    "thoughtSignature": NO_SIGNATURE,
                },
                {"functionCall": {"name": "look", "args": {}, "id": "c2"}},
            ],
        },
        {
            "role": "user",
            "parts": [
                {"functionResponse": {"name": "look", "id": "c1", "response": {"output": "a"}}},
                {"functionResponse": {"name": "look", "id": "c2", "response": {"error": "b"}}},
            ],
        },
        {"role": "user", "parts": [{"text": "And?"}]},
        {"role": "model", "parts": [{"text": "Done."}]},
        {"role": "user", "parts": [{"text": "Thanks"}]},
    ]


def test_media_are_sent_as_bytes_or_by_address():
    blocks = (
        ImageBlock("image/png", b"\x89PNG"),
        ImageBlock("image/*", url="https://x.test/a"),
        AudioBlock("audio/mpeg", b"x"),
        VideoBlock("video/mp4", url="https://youtu.be/x"),
        DocumentBlock("application/pdf", b"%PDF"),
    )

    assert sent([Message("user", blocks)])["contents"][0]["parts"] == [
        inline("image/png", b"\x89PNG"),
        {"fileData": {"fileUri": "https://x.test/a"}},
        inline("audio/mpeg", b"x"),
        {"fileData": {"fileUri": "https://youtu.be/x", "mimeType": "video/mp4"}},
        inline("application/pdf", b"%PDF"),
    ]


def test_media_of_a_result_go_inside_it_where_the_model_takes_that():
    history = [
        HI,
        answer(None, ToolUseBlock("c1", "shot")),
        Message("user", (result("c1", ImageBlock("image/png", b"x"), AudioBlock("audio/wav", b"y"), name="shot"),)),
    ]
    _, _, results, apart = sent(history)["contents"]
    _, _, old_results, old_apart = sent(history, to=provider("gemini-2.5-flash"))["contents"]

    assert results["parts"][0]["functionResponse"]["parts"] == [inline("image/png", b"x")]
    assert apart["parts"] == [{"text": "Attached to the result of shot:"}, inline("audio/wav", b"y")]
    assert old_results["parts"] == [
        {"functionResponse": {"name": "shot", "id": "c1", "response": {"output": "(see the attached media)"}}}
    ]
    assert old_apart["parts"][1:] == [inline("image/png", b"x"), inline("audio/wav", b"y")]


def test_what_is_signed_goes_back_to_where_it_came_from_and_nowhere_else():
    own = provider()
    blocks = (
        ThinkingBlock("Hm.", "S1"),
        TextBlock("Yes.", {"thoughtSignature": "S2", "groundingMetadata": {}}),
        TextBlock("No."),
        ImageBlock("image/png", b"x"),
        RawBlock("part_fields", {"thoughtSignature": "S3"}),
        RawBlock("part", {"text": "", "thoughtSignature": "S4"}),
        ToolUseBlock("call_1", "t", extra={}),
        ToolUseBlock("f0", "t", extra={"id": "f0", "thoughtSignature": "S5"}),
    )
    tail = Message("user", (result("call_1", "x"), result("f0", "y")))
    mine = sent([HI, answer(own.origin, *blocks), tail], to=own)["contents"]
    other = sent([HI, answer("another", *blocks), tail], to=own)["contents"]

    assert mine[1]["parts"] == [
        {"text": "Hm.", "thought": True, "thoughtSignature": "S1"},
        {"text": "Yes.", "thoughtSignature": "S2"},
        {"text": "No."},
        inline("image/png", b"x") | {"thoughtSignature": "S3"},
        {"text": "", "thoughtSignature": "S4"},
        {"functionCall": {"name": "t", "args": {}}, "thoughtSignature": NO_SIGNATURE},
        {"functionCall": {"name": "t", "args": {}, "id": "f0"}, "thoughtSignature": "S5"},
    ]
    assert [part["functionResponse"].get("id") for part in mine[2]["parts"]] == [None, "f0"]
    assert other[1]["parts"] == [
        {"text": "Yes.No."},
        inline("image/png", b"x"),
        {"functionCall": {"name": "t", "args": {}, "id": "call_1"}, "thoughtSignature": NO_SIGNATURE},
        {"functionCall": {"name": "t", "args": {}, "id": "f0"}},
    ]


def test_turns_that_meet_when_foreign_thinking_goes_are_one():
    history = [HI, answer("another", ThinkingBlock("Hm.")), as_user_message("Well?")]

    assert sent(history)["contents"] == [{"role": "user", "parts": [{"text": "Hi"}, {"text": "Well?"}]}]


def test_a_conversation_that_pauses_goes_on_by_the_users_word():
    assert sent([HI, answer(None, TextBlock("Wait."))])["contents"][-1] == {
        "role": "user",
        "parts": [{"text": "Continue."}],
    }


def test_settings_are_put_where_the_api_wants_them():
    settings = {
        "max_tokens": 9, "temperature": 0.5, "top_p": 0.9, "top_k": 4, "stop": ["!"], "seed": 7,
        "effort": "low", "include_thoughts": True, "safety_settings": [{"category": "X"}],
        "cached_content": "cachedContents/a", "response_schema": {"type": "object", "$schema": "x"},
        "extra_body": {"generationConfig": {"responseModalities": ["TEXT"], "seed": 8}, "labels": {"a": "b"}},
    }  # fmt: skip
    body = sent([HI], to=provider(**settings))

    assert body.pop("contents")
    assert body == {
        "generationConfig": {
            "maxOutputTokens": 9, "temperature": 0.5, "topP": 0.9, "topK": 4, "stopSequences": ["!"], "seed": 8,
            "thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True},
            "responseMimeType": "application/json", "responseJsonSchema": {"type": "object"},
            "responseModalities": ["TEXT"],
        },
        "safetySettings": [{"category": "X"}],
        "cachedContent": "cachedContents/a",
        "labels": {"a": "b"},
    }  # fmt: skip
    thinking = sent([HI], to=provider("gemini-2.5-flash", thinking_budget=0))["generationConfig"]
    assert thinking == {"thinkingConfig": {"thinkingBudget": 0}}


def test_nothing_is_asked_for_unasked():
    assert sent([HI]) == {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]}


@pytest.mark.parametrize(
    ("choice", "config"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ("validated", {"mode": "VALIDATED"}),
        ({"mode": "ANY", "allowedFunctionNames": ["t"]}, {"mode": "ANY", "allowedFunctionNames": ["t"]}),
    ],
)
def test_a_choice_of_tools_is_sent_with_tools_only(choice, config):
    choosy = provider(tool_choice=choice)

    assert sent([HI], to=choosy, tools=(TOOL,))["toolConfig"] == {"functionCallingConfig": config}
    assert "toolConfig" not in sent([HI], to=choosy)


def test_a_strict_tool_makes_the_request_strict():
    strict = ToolSpec("t", "Does.", TOOL.input_schema, {"strict": True, "gemini": {"behavior": "BLOCKING"}})
    body = sent([HI], tools=(strict,))

    assert body["toolConfig"] == {"functionCallingConfig": {"mode": "VALIDATED"}}
    assert body["tools"][0]["functionDeclarations"][0] == {
        "name": "t", "description": "Does.", "parametersJsonSchema": TOOL.input_schema, "behavior": "BLOCKING",
    }  # fmt: skip
    assert "functionCallingConfig" in sent([HI], to=provider(tool_choice="auto"), tools=(strict,))["toolConfig"]


def test_tools_of_both_kinds_are_told_apart_where_they_can_be_combined():
    search = {"server_tools": [{"googleSearch": {}}]}
    vertex = "https://aiplatform.googleapis.com/v1/projects/p/locations/global/publishers/google"
    both = sent([HI], to=provider(**search), tools=(TOOL,))

    assert [list(tool) for tool in both["tools"]] == [["googleSearch"], ["functionDeclarations"]]
    assert both["toolConfig"] == {"includeServerSideToolInvocations": True}
    assert "toolConfig" not in sent([HI], to=provider(**search))
    assert "toolConfig" not in sent([HI], to=provider("gemini-2.5-pro", **search), tools=(TOOL,))
    assert "toolConfig" not in sent([HI], to=Gemini("gemini-3.8-flash", "k", vertex, **search), tools=(TOOL,))


def test_what_no_message_can_hold_is_refused_before_sending():
    with pytest.raises(ProviderError, match="RawBlock") as caught:
        sent([Message("user", (RawBlock("x", {}),))])
    assert caught.value.kind == "invalid_request"
    with pytest.raises(ProviderError, match="ToolResultBlock"):
        sent([HI, answer(None, result("c", "x"))])


# --- Who is asked ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_keys(monkeypatch):
    for name in ("GEMINI_API_KEY", "GOOGLE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("vendor", ["gemini", "google"])
def test_a_string_names_it(no_keys, vendor):
    no_keys.setenv("GOOGLE_API_KEY", "key-of-google-1")
    made = from_string(f"{vendor}:gemini-3.8-flash")

    assert isinstance(made, Provider)
    assert (made.name, made.model) == ("gemini", "gemini-3.8-flash")
    assert "generativelanguage.googleapis.com/v1beta" in repr(made)
    assert "key-of" not in repr(made)


def test_its_own_variable_comes_first(no_keys):
    no_keys.setenv("GOOGLE_API_KEY", "key-of-google-1")
    no_keys.setenv("GEMINI_API_KEY", "key-of-gemini-1")

    assert Gemini("m")._endpoint._headers["x-goog-api-key"].reveal() == "key-of-gemini-1"
    assert Gemini("m", "key-given-1")._endpoint._headers["x-goog-api-key"].reveal() == "key-given-1"


def test_googles_key_is_sent_to_nobody_else(no_keys):
    with pytest.raises(MissingKeyError, match="GEMINI_API_KEY or GOOGLE_API_KEY"):
        Gemini("m")
    no_keys.setenv("GEMINI_API_KEY", "key-of-gemini-1")

    assert "x-goog-api-key" not in Gemini("m", base_url=URL)._endpoint._headers
    assert "x-goog-api-key" not in Gemini("m", base_url="https://x.googleapis.com.evil.test")._endpoint._headers
    assert "x-goog-api-key" not in Gemini("m", extra_headers={"Authorization": "Bearer t"})._endpoint._headers


def test_what_is_no_option_is_said_so():
    with pytest.raises(UnknownOptionError, match="temperature"):
        provider(temprature=1)
    with pytest.raises(InvalidOptionError, match="tool_choice"):
        provider(tool_choice="any")
    with pytest.raises(InvalidOptionError, match="model"):
        provider(" ")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("model", "base_url", "path"),
    [
        ("gemini-3.8-flash", None, "/v1beta/models/gemini-3.8-flash"),
        ("models/gemini-3.8-flash", None, "/v1beta/models/gemini-3.8-flash"),
        ("tunedModels/mine", None, "/v1beta/tunedModels/mine"),
        ("gemini?x=1", None, "/v1beta/models/gemini%3Fx%3D1"),
        (
            "gemini-3.8-flash",
            "https://eu-aiplatform.googleapis.com/v1/projects/p/locations/eu/publishers/google",
            "/v1/projects/p/locations/eu/publishers/google/models/gemini-3.8-flash",
        ),
    ],
)
async def test_each_way_of_answering_has_its_address(model, base_url, path):
    asked = []

    def respond(request):
        asked.append((request.url.raw_path.decode(), request.headers["x-goog-api-key"]))
        document = chunk({"text": "Hello"}, finish="STOP")
        if "alt=sse" in str(request.url):
            head = {"content-type": "text/event-stream"}
            return httpx.Response(200, headers=head, text=f"data: {json.dumps(document)}\r\n\r\n")
        return httpx.Response(200, json=document)

    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        for stream in (True, False):
            gemini = Gemini(model, "key-0123456789", base_url, client=client, max_tokens=99)
            async with gemini, gemini.stream(Request(messages=[HI], stream=stream)) as items:
                assert [item async for item in items][-1].message.text == "Hello"

    assert asked == [
        (f"{path}:streamGenerateContent?alt=sse", "key-0123456789"),
        (f"{path}:generateContent", "key-0123456789"),
    ]
