"""Whatever history there is, what is sent to Gemini keeps to its rules."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy.messages import (
    ImageBlock,
    Message,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
    as_user_message,
)
from alloy.providers.base import Request
from alloy.providers.gemini import Gemini
from alloy.providers.gemini_encode import NO_SIGNATURE
from tests.providers.histories import TEXTS, requests
from tests.providers.rules_gemini import check

SIGNATURES = {"S0", NO_SIGNATURE}
CODE = {"executableCode": {"code": "print(1)", "language": "PYTHON"}, "thoughtSignature": "S0"}
RESULT = {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "1"}}
OWN = st.one_of(
    TEXTS,
    st.just(TextBlock("Signed.", {"thoughtSignature": "S0", "groundingMetadata": {"webSearchQueries": ["x"]}})),
    st.just(ThinkingBlock("Hm.")),
    st.just(ThinkingBlock("", "S0")),
    st.just(RawBlock("part", {"text": "", "thoughtSignature": "S0"})),
    st.just(RawBlock("part_fields", {"thoughtSignature": "S0"})),
    st.just(ServerToolUseBlock("c_1", "code_execution", {}, CODE)),
    st.just(ServerToolResultBlock("c_1", "code_execution", RESULT)),
    st.just(ImageBlock("image/png", b"\x89PNG")),
)
PROVIDERS = {model: Gemini(model, "key-0123456789") for model in ("gemini-2.5-flash", "gemini-3.8-flash")}
ORIGIN = PROVIDERS["gemini-2.5-flash"].origin  # the same for both: it is the account that counts


@pytest.mark.parametrize("model", PROVIDERS)
@given(request=requests(ORIGIN, own=OWN, own_call_id="f0sssgi{}"))
def test_whatever_is_sent_keeps_the_rules(model, request):
    body = json.loads(PROVIDERS[model].encode(request))

    check(body, multimodal_results=model == "gemini-3.8-flash", signatures=SIGNATURES)


@given(request=requests(ORIGIN, own=OWN))
def test_the_same_request_is_sent_in_the_same_bytes(request):
    fresh = Gemini("gemini-3.8-flash", "key-0123456789")

    assert fresh.encode(request) == fresh.encode(request) == PROVIDERS["gemini-3.8-flash"].encode(request)


@pytest.mark.parametrize(
    "contents",
    [
        [],
        [{"role": "model", "parts": [{"text": "x"}]}],
        [{"role": "user", "parts": []}],
        [{"role": "user", "parts": [{"text": "x", "thoughtSignature": "S0"}]}],
        [{"role": "user", "parts": [{"text": "x"}]}, {"role": "user", "parts": [{"text": "y"}]}],
        [{"role": "user", "parts": [{"functionResponse": {"name": "t", "response": {"output": "x"}}}]}],
    ],
)
def test_the_rules_know_a_wrong_request(contents):
    with pytest.raises(AssertionError):
        check({"contents": contents}, multimodal_results=True, signatures=SIGNATURES)


def test_the_rules_know_an_unsigned_call():
    call = Message("assistant", (ToolUseBlock("c", "t"),))
    body = json.loads(PROVIDERS["gemini-3.8-flash"].encode(Request(messages=[as_user_message("Hi"), call])))
    del body["contents"][1]["parts"][0]["thoughtSignature"]

    with pytest.raises(AssertionError):
        check(body, multimodal_results=True, signatures=SIGNATURES)
