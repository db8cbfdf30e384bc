"""What servers say about their limits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy.providers.rate_buckets import Bucket
from alloy.providers.rate_headers import readings, seconds_until

WIRE = Path(__file__).parent.parent / "wire" / "exchanges"


def said(exchange):
    headers = json.loads((WIRE / f"{exchange}.json").read_text())["response"]["headers"]
    found = readings({name.lower(): value for name, value in headers.items()}, now=0.0)
    return {(one.resource, one.window): (one.limit, one.remaining) for one in found}


@pytest.mark.parametrize(
    ("recorded", "expected"),
    [
        (
            "anthropic-anthropic-045faeacf2",
            {
                ("requests", 60.0): (4000, 3999),
                ("tokens", 60.0): (2_400_000, 2_398_000),
                ("input_tokens", 60.0): (2_000_000, 1_998_000),
                ("output_tokens", 60.0): (400_000, 400_000),
            },
        ),
        (
            "openai_responses-openai-88800a27a6",
            {("requests", None): (500, 499), ("tokens", None): (500_000, 499_829)},
        ),
        ("openai_responses-xai-207d11b8da", {("requests", None): (480, 480), ("tokens", None): (4_000_000, 4_000_000)}),
        (
            "chat_completions-cerebras-48d1e8586a",
            {("requests", 86_400.0): (1_440_000, 1_439_994), ("tokens", 60.0): (1_000_000, 999_122)},
        ),
        ("chat_completions-huggingface-fa36202d65", {("requests", None): (400, 399), ("requests", 60.0): (400, 399)}),
        (
            "chat_completions-mistral-dd0e45d91f",
            {
                ("tokens", None): (500_000, 342_032),
                ("tokens", 60.0): (500_000, 342_032),
                ("tokens", 2_592_000.0): (1_000_000_000, 997_342_940),
            },
        ),
        ("chat_completions-together-e929ae984c", {("requests", None): (2, 1)}),
        (
            "chat_completions-anthropic-d3b9348060",
            {("requests", None): (4000, 3999), ("tokens", None): (2_400_000, 2_400_000)},
        ),
    ],
)
def test_recorded_headers_of_every_vendor_are_understood(recorded, expected):
    assert expected.items() <= said(recorded).items()


def test_a_limit_of_minus_one_is_none():
    headers = {"x-ratelimit-limit-tokens": "-1", "x-ratelimit-remaining-tokens": "-1", "x-ratelimit-reset-tokens": "0"}

    assert readings(headers) == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("6m0s", 360.0),
        ("1s", 1.0),
        ("12ms", 0.012),
        ("15m50.4s", 950.4),
        ("1h2m3s", 3723.0),
        ("1d", 86_400.0),
        ("7.25", 7.25),
        ("0", 0.0),
        ("1000000030", 30.0),
        ("1000000030500", 30.5),
        ("2001-09-09T01:47:10Z", 30.0),
        ("2001-09-09T03:47:10+02:00", 30.0),
        ("2001-09-09T01:46:00Z", 0.0),
        ("1999-01-01T00:00:00", 0.0),
        ("-3", None),
        ("soon", None),
        ("9" * 16 + "s", None),
        ("3000000000", None),
        ("0001-01-01T00:00:00+23:59", 0.0),
        ("", None),
    ],
)
def test_resets_are_understood_in_every_format(value, seconds):
    found = seconds_until(value, now=1_000_000_000.0)

    assert found == (None if seconds is None else pytest.approx(seconds))


def test_a_time_is_by_the_clock_of_the_server_that_tells_it():
    headers = {
        "anthropic-ratelimit-requests-limit": "50",
        "anthropic-ratelimit-requests-reset": "2020-01-01T00:00:07Z",
        "date": "Wed, 01 Jan 2020 00:00:00 GMT",
    }

    assert readings(headers)[0].reset == 7.0


NAMES = st.from_regex(
    r"(x-|anthropic-)?ratelimit-(limit|remaining|reset)(-(requests|tokens|input))?(-(minute|day))?", fullmatch=True
)
VALUES = st.text(max_size=30) | st.from_regex(r"-?[0-9]{1,30}(\.[0-9]+)?(e[0-9]+|ms|s|m)?", fullmatch=True)


@given(st.dictionaries(NAMES, VALUES, max_size=8), st.floats(0, 100), st.integers(0, 10**7))
def test_whatever_headers_say_no_wait_is_endless_or_none_at_all(headers, later, cost):
    for reading in readings(headers, now=1e9):
        bucket = Bucket(reading.resource, reading.limit, 0.0)
        bucket.observe(reading, 1.0, sent_at=0.5, uncounted=0.0)
        bucket.take(cost, 1.0)

        assert 0.0 <= bucket.wait(1.0, 1.0 + later) < 400 * 86_400


def reading(remaining, reset, *, limit=1000, suffix=""):
    name = "x-ratelimit-{}-requests" + suffix
    values = {"limit": limit, "remaining": remaining, "reset": f"{reset}s"}
    (found,) = readings({name.format(field): str(value) for field, value in values.items()}, now=0.0)
    return found


def test_what_comes_back_bit_by_bit_is_told_from_what_comes_back_at_once():
    bit_by_bit, at_once = Bucket("requests", 1000, 0.0), Bucket("requests", 1000, 0.0)
    bit_by_bit.observe(reading(500, 30), 0.0, sent_at=0.0, uncounted=0.0)
    at_once.observe(reading(500, 45.5), 0.0, sent_at=0.0, uncounted=0.0)
    for bucket in (bit_by_bit, at_once):
        bucket.take(500, 0.0)

    assert bit_by_bit.wait(1, 0.0) == pytest.approx(21 * 60 / 1000)
    assert at_once.wait(1, 0.0) == pytest.approx(45.5)
    assert at_once.wait(900, 46.0) == 0.0


def test_a_limit_per_day_that_comes_back_bit_by_bit_is_known_by_its_reset():
    bucket = Bucket("requests", 1000, 0.0)
    bucket.observe(reading(989, 950.4), 0.0, sent_at=0.0, uncounted=0.0)

    assert bucket.rate == pytest.approx(1000 / 86_400)


def test_an_answer_that_comes_late_does_not_undo_what_was_taken_since():
    bucket = Bucket("requests", 1000, 0.0)
    bucket.take(900, 0.0)
    bucket.observe(reading(999, 0.06), 5.0, sent_at=0.0, uncounted=899.0)

    assert 100 <= bucket.level <= 200


def test_an_answer_from_before_the_window_began_does_not_count_in_it():
    bucket = Bucket("requests", 1000, 0.0)
    bucket.observe(reading(10, 20.5), 0.0, sent_at=0.0, uncounted=0.0)
    assert bucket.wait(900, 21.0) == 0.0
    bucket.take(300, 21.0)
    bucket.observe(reading(0, 0.3), 21.5, sent_at=20.0, uncounted=0.0)

    assert bucket.level == 700
    assert bucket.resets_at == 81.0
