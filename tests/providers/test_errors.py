"""What a provider's refusal means, in one word, whatever shape it comes in."""

from __future__ import annotations

import json

import pytest

from alloy.providers.errors import error_from_document, error_from_response, retry_after_seconds


def error(status, body, **headers):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return error_from_response(status, {name.replace("_", "-"): value for name, value in headers.items()}, data)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request"),
        (401, "auth"),
        (402, "quota"),
        (403, "auth"),
        (404, "invalid_request"),
        (408, "timeout"),
        (413, "context_overflow"),
        (422, "invalid_request"),
        (429, "rate_limited"),
        (500, "server_error"),
        (502, "server_error"),
        (503, "overloaded"),
        (504, "timeout"),
        (529, "overloaded"),
    ],
)
def test_a_status_has_a_kind(status, kind):
    assert error(status, {"error": {"message": "No."}}).kind == kind
    assert error(status, {"error": {"message": "No."}}).status == status


@pytest.mark.parametrize(
    "text",
    [
        "prompt is too long: 3333404 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 199000 + 9000 > 200000",
        "Input is too long for requested model.",
        "Your input exceeds the context window of this model.",
        "This model's maximum context length is 8192 tokens. However, you requested 9000 tokens.",
        "This endpoint's maximum context length is 131072 tokens.",
        "The input token count (1250074) exceeds the maximum number of tokens allowed (1048576).",
        "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
        "Please reduce the length of the messages or completion.",
        "prompt token count of 150000 exceeds the limit of 128000",
        "request (2009 tokens) exceeds the available context size (512 tokens), try increasing it",
        "The number of tokens to keep from the initial prompt is greater than the context length",
        "invalid params, context window exceeds limit",
        "Your request exceeded model token limit: 262144",
        "Prompt contains 150000 tokens and 0 draft tokens, too large for model with 131072 maximum context length",
        "Range of input length should be [1, 129024]",
        "Prompt exceeds max length",
        "The decoder prompt (length 9000) is longer than the maximum model length of 8192.",
        "The input (9000 tokens) is longer than the model's context length (8192 tokens).",
        "`inputs` tokens + `max_new_tokens` must be <= 4097. Given: 5000 inputs tokens",
        "The total length of all messages is too long.",
        "too many tokens: the total number of tokens in the prompt exceeds the limit",
        "prompt too long; exceeded max context length by 4 tokens",
    ],
)
def test_a_prompt_that_is_too_long_is_known_by_the_wording(text):
    assert error(400, {"error": {"message": text, "type": "invalid_request_error"}}).kind == "context_overflow"
    assert error(500, {"error": text}).kind == "context_overflow"
    assert error_from_document({"error": {"message": text}}).kind == "context_overflow"


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, b"", "context_overflow"),
        (413, b"", "context_overflow"),
        (400, {"error": {"code": "1261", "message": "Prompt"}}, "context_overflow"),
        (429, {"error": {"message": "Request too large for gpt on tokens per min (TPM): Limit 1, Requested 2"}}, "rate_limited"),
        (400, {"error": {"message": "Too many tokens per minute, rate limit reached"}}, "invalid_request"),
        (429, {"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}}, "quota"),
        (400, {"error": {"message": "Your credit balance is too low to access the API."}}, "quota"),
        (402, {"error": {"message": "Insufficient Balance"}}, "quota"),
        (400, {"code": "invalid-argument", "error": "Incorrect API key provided."}, "auth"),
        (400, {"error": {"code": 400, "message": "API key not valid.", "status": "INVALID_ARGUMENT"}}, "auth"),
        (403, {"error": {"message": "Your input was flagged by moderation"}}, "refused"),
        (400, {"error": {"code": "content_filter", "message": "Filtered"}}, "refused"),
        (500, {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, "overloaded"),
        (None, {"error": {"type": "rate_limit_error", "message": "x"}}, "rate_limited"),
        (None, {"error": {"code": 429, "message": "x"}}, "rate_limited"),
        (200, {"error": {"code": 503, "message": "x"}}, "overloaded"),
        (None, [{"error": {"code": 403, "message": "x", "status": "PERMISSION_DENIED"}}], "auth"),
        (None, {"error": {"message": "Something odd"}}, "unknown"),
    ],
)  # fmt: skip
def test_codes_and_wording_tell_more_than_the_status(status, body, kind):
    if status is None or status == 200:
        assert error_from_document(body, status=status).kind == kind
    else:
        assert error(status, body).kind == kind


@pytest.mark.parametrize(
    ("body", "message", "code"),
    [
        ({"error": {"message": "a", "type": "t", "code": "c"}}, "a", "c"),
        ({"error": {"message": "a", "type": "t", "code": None}}, "a", "t"),
        ({"error": {"message": "a", "code": 400, "type": "t"}}, "a", "t"),
        ({"error": "a"}, "a", None),
        ({"detail": "a"}, "a", None),
        ({"detail": [{"msg": "a", "loc": ["body"], "type": "missing"}]}, "a", "missing"),
        ({"code": 400, "message": "a", "type": "Bad Request"}, "a", "Bad Request"),
        ([{"error": {"message": "a"}}], "a", None),
        ({"error": {"message": "a", "metadata": {"raw": "b"}}}, "a: b", None),
        ({"error": {"message": {"deep": 1}}}, '{"deep":1}', None),
        ("a", "a", None),
        ({}, "HTTP 400 without a reason", None),
        (b"plain words", "plain words", None),
        (b"<html><body>Bad</body></html>", "the server sent a page of HTML, HTTP 400", None),
    ],
)
def test_message_and_code_are_found_in_any_shape(body, message, code):
    found = error(400, body)

    assert (found.message, found.code) == (message, code)


def test_an_endless_message_is_cut():
    assert len(error(400, {"error": "x" * 100_000}).message) == 2000


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after-ms": "0", "retry-after": "1"}, 1.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:01:00 GMT"}, 50.0),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "-3"}, None),
        ({"retry-after": "nan"}, None),
        ({"retry-after": ""}, None),
    ],
)
def test_retry_after_is_read_in_all_its_forms(headers, seconds):
    assert retry_after_seconds(headers, now=10.0) == seconds


def test_a_quota_that_frees_itself_is_a_rate():
    body = {"error": {"code": 429, "message": "You exceeded your current quota", "details": [{"retryDelay": "34s"}]}}

    assert (error(429, body).kind, error(429, body).retry_after) == ("rate_limited", 34.0)
