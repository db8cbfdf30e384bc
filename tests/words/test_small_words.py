"""Usage, errors and envelopes."""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy import errors
from alloy.events import Emitter, Envelope
from alloy.result import Result
from alloy.usage import Usage

counts = st.integers(min_value=0, max_value=10**9)
usages = st.builds(Usage, **{field.name: counts for field in dataclasses.fields(Usage)})


@given(usages, usages)
def test_usage_adds_up_field_by_field(a, b):
    assert dataclasses.asdict(a + b) == {
        name: value + getattr(b, name) for name, value in dataclasses.asdict(a).items()
    }
    assert (a + b).total_tokens == a.total_tokens + b.total_tokens
    assert a + Usage() == a
    assert a.as_dict() == dataclasses.asdict(a)


def test_reasoning_is_counted_once():
    usage = Usage(input_tokens=1, cache_read_tokens=2, cache_write_tokens=3, output_tokens=10, reasoning_tokens=8)

    assert usage.prompt_tokens == 6
    assert usage.total_tokens == 16


@pytest.mark.parametrize("kind", ["rate_limited", "overloaded", "server_error", "timeout", "network"])
def test_errors_that_pass_are_retryable(kind):
    assert errors.ProviderError("x", kind=kind).retryable


@pytest.mark.parametrize("kind", ["context_overflow", "quota", "auth", "invalid_request", "refused", "unknown"])
def test_errors_that_stay_are_not_retryable(kind):
    assert not errors.ProviderError("x", kind=kind).retryable


def test_a_provider_error_says_who_what_and_when():
    error = errors.ProviderError(
        "too many requests",
        kind="rate_limited",
        status=429,
        code="tpm",
        retry_after=2.5,
        provider="openai",
        model="gpt",
    )

    assert str(error) == "openai:gpt: too many requests [rate_limited, HTTP 429, tpm, retry after 2.5 s]"


def test_p9_an_error_kind_that_nobody_knows_is_refused():
    with pytest.raises(errors.InvalidOptionError, match="rate_limited"):
        errors.ProviderError("x", kind="tired")


def test_p9_an_unknown_vendor_is_named_with_the_one_that_was_meant():
    error = errors.UnknownProviderError("opnai:gpt", ["openai", "groq"])

    assert "did you mean 'openai'?" in str(error)
    assert "groq, openai" in str(error)


def test_errors_show_no_long_values():
    assert len(str(errors.InvalidOptionError("x", "a number", "y" * 10_000))) < 300


def test_a_run_error_carries_the_result_and_its_cause():
    cause = ValueError("bug")
    error = errors.RunError(Result(status="failed", error=cause), cause)

    assert str(error) == "the run failed: bug"
    assert error.__cause__ is cause


def test_an_emitter_numbers_and_stamps_what_it_sends():
    envelopes = []
    emitter = Emitter("r1", envelopes.append, agent_id="desk", clock=lambda: 1.5)
    first = emitter.emit("run_start", provider="p")
    emitter.turn = 1
    second = emitter.emit("text_delta", text="hi")

    assert (first, second) == (1, 2)
    assert json.loads(envelopes[1].to_json()) == {
        "v": 1,
        "seq": 2,
        "correlation_id": "r1",
        "turn": 1,
        "ts_ms": 1500,
        "event": "text_delta",
        "payload": {"text": "hi"},
        "agent_id": "desk",
    }


def test_what_an_emitter_sends_is_a_frozen_envelope_like_any_other():
    envelopes = []
    Emitter("r1", envelopes.append, clock=lambda: 1.5).emit("text_delta", text="hi")

    assert envelopes == [
        Envelope(seq=1, correlation_id="r1", turn=0, ts_ms=1500, event="text_delta", payload={"text": "hi"})
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        envelopes[0].seq = 2


def test_an_envelope_with_something_odd_inside_is_json_all_the_same():
    envelopes = []
    Emitter("r1", envelopes.append).emit("runtime_event", kind="odd", value=object)

    assert json.loads(envelopes[0].to_json())["payload"]["kind"] == "odd"
