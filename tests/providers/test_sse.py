"""Server-sent events: however the bytes are cut, the events are the same."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy.errors import ProviderError
from alloy.providers.sse import EventParser, ServerEvent


def parsed(*chunks: bytes) -> list[ServerEvent]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)] + parser.end()


@pytest.mark.parametrize(
    ("stream", "events"),
    [
        (b"data: a\n\n", [ServerEvent("a")]),
        (b"data:a\r\rdata: b\r\n\r\n", [ServerEvent("a"), ServerEvent("b")]),
        (b"data:  a\n\n", [ServerEvent(" a")]),
        (b"data: a\ndata:\ndata\ndata: b\n\n", [ServerEvent("a\n\n\nb")]),
        (b"event: ping\ndata: {}\n\ndata: x\n\n", [ServerEvent("{}", "ping"), ServerEvent("x")]),
        (b"event: lost\n\ndata: x\n\n", [ServerEvent("x")]),
        (b"\xef\xbb\xbfdata: a\n\n", [ServerEvent("a")]),
        (b": keep-alive\n\n:\ndata: a\n:\n\n", [ServerEvent("a")]),
        (b"data: a\xff\xc3\n\n", [ServerEvent("a\ufffd\ufffd")]),
        (b"event: e\ndata: a\n\nevent: e\ndata: b\ndata: c\n\n", [ServerEvent("a", "e"), ServerEvent("b\nc", "e")]),
        (b": a\ndata: b\n\nevent: \ndata: c\n\n", [ServerEvent("b"), ServerEvent("c")]),
        (
            b"data: a\n\ndata: b\n\n\ndata: c\n\ndata: d",
            [ServerEvent("a"), ServerEvent("b"), ServerEvent("c"), ServerEvent("d")],
        ),
        (b"data: no blank line", [ServerEvent("no blank line")]),
        (b"data: one\n", [ServerEvent("one")]),
        (b'error: {"message": "x"}\n\n', [ServerEvent("", unknown=('error: {"message": "x"}',))]),
        (b"", []),
        (b"\n\n\n", []),
    ],
)
def test_a_stream_gives_its_events(stream, events):
    assert parsed(stream) == events
    assert parsed(*(bytes([byte]) for byte in stream)) == events


def test_id_and_retry_are_kept_if_they_are_well_formed():
    parser = EventParser()
    parser.feed(b"id: 7\nretry: 1500\n\nid: a\0b\nretry: 1s\n\n")

    assert (parser.last_event_id, parser.retry) == ("7", 1500)


LINES = st.sampled_from(
    [b"data: x", b"data:", b"data: \xc3\xa9\xe2\x82\xac", b"event: e", b": c", b"", b"", b"error: no", b"data: \xff", b"\xef\xbb\xbf", b"id: 1"]
)  # fmt: skip


@given(
    lines=st.lists(st.tuples(LINES, st.sampled_from([b"\n", b"\r", b"\r\n"])), max_size=12),
    cuts=st.lists(st.integers(0, 120), max_size=8),
)
def test_any_cut_gives_the_same_events(lines, cuts):
    stream = b"".join(line + end for line, end in lines)
    places = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]

    assert parsed(*(stream[a:b] for a, b in itertools.pairwise(places))) == parsed(stream)


@pytest.mark.parametrize("piece", [b"data: 0123456789\n", b"0123456789", b"error: 0123456789\n"])
def test_an_endless_event_is_an_error(piece):
    parser = EventParser(max_event=1000)

    with pytest.raises(ProviderError, match="longer than 1000 bytes"):
        [parser.feed(piece) for _ in range(200)]


def test_many_short_events_and_comments_are_no_long_event():
    parser = EventParser(max_event=100)

    assert len([event for _ in range(500) for event in parser.feed(b": ping\n: ping\ndata: 0123456789\n\n")]) == 500


def test_an_event_that_is_no_json_is_a_broken_connection():
    with pytest.raises(ProviderError) as caught:
        ServerEvent('{"choices": [{"del').json()

    assert caught.value.kind == "network"
