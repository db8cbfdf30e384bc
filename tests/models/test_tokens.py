"""Counting tokens: what counts, what it costs to count, and what reports of providers do to it."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
import socket
import struct
import threading

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy import ImageBlock, Message, TextBlock, ToolResultBlock, ToolUseBlock, Usage
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    ThinkingBlock,
    VideoBlock,
)
from alloy.models import TokenCounter, tables, text, tokens
from alloy.models.media import image_size, pages, seconds
from alloy.providers import ToolSpec

pytestmark = pytest.mark.anyio

LONG = "The quick brown fox jumps over the lazy dog. " * 20


def asks(*blocks):
    return Message("user", tuple(TextBlock(block) if isinstance(block, str) else block for block in blocks))


def says(*blocks, usage=None, **fields):
    return dataclasses.replace(asks(*blocks), role="assistant", usage=usage, **fields)


def took(prompt, output, **fields):
    return Usage(input_tokens=prompt, output_tokens=output, requests=1, **fields)


def png(width, height):
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height)


@pytest.fixture
def counter():
    return TokenCounter("gpt-5")


@pytest.fixture
def counted(counter, monkeypatch):
    """The messages that were read, in order."""
    read = []
    real = tokens.weigh
    monkeypatch.setattr(tokens, "weigh", lambda message, family: read.append(message) or real(message, family))
    return read


# --- what counts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "block",
    [
        TextBlock(LONG),
        ThinkingBlock(LONG),
        ThinkingBlock("", "x" * 4000),
        ToolUseBlock("1", "write", {"path": "a.txt", "lines": [LONG, LONG]}),
        ToolUseBlock("1", "write", invalid=LONG),
        ToolUseBlock("1", "look", extra={"thoughtSignature": "x" * 4000}),
        ToolResultBlock("1", (TextBlock(LONG),)),
        ToolResultBlock("1", (TextBlock("See:"), ImageBlock("image/png", png(1000, 1000)))),
        ImageBlock("image/png", png(1000, 1000)),
        ImageBlock("image/png", url="https://pictures.test/1.png"),
        AudioBlock("audio/mpeg", bytes(200_000)),
        VideoBlock("video/mp4", url="https://films.test/1.mp4"),
        DocumentBlock("application/pdf", b"%PDF-1.7"),
        DocumentBlock("text/plain", LONG.encode()),
        ServerToolUseBlock("1", "web_search", {}, {"type": "server_tool_use", "input": {"query": LONG}}),
        ServerToolResultBlock("1", "web_search", {"content": [{"title": LONG, "encrypted_content": "x" * 4000}]}),
        RawBlock("compaction", {"content": LONG}),
        RawBlock("reasoning", {"encrypted_content": "x" * 4000}),
    ],
    ids=lambda block: type(block).__name__,
)
def test_whatever_a_message_holds_counts(counter, block):
    empty = counter.message(asks("."))

    assert 100 < counter.message(says(block)) - empty < 25_000


def test_a_request_is_its_messages_and_what_stands_before_them(counter):
    tool = ToolSpec(
        "weather", "What the weather is like.", {"type": "object", "properties": {"city": {"type": "string"}}}
    )

    assert counter.overhead(None, ()) < counter.overhead("Be brief.", ()) < counter.overhead("Be brief.", [tool])
    assert counter.overhead(None, [tool, tool]) > counter.overhead(None, [tool])
    assert counter.overhead(None, [dataclasses.replace(tool, description=LONG)]) > counter.overhead(None, [tool]) + 150


def test_claude_makes_more_tokens_of_a_text_since_4_7():
    old, new = (TokenCounter(name).message(asks(LONG)) for name in ("claude-sonnet-4-5", "claude-opus-4-7"))

    assert 1.2 < new / old < 1.4


@pytest.mark.parametrize(
    ("model", "width", "height", "tokens_"),
    [
        ("gpt-4o", 512, 512, 85 + 170),
        ("gpt-4o", 1024, 1024, 85 + 4 * 170),  # the example of OpenAI's guide
        ("gpt-4o", 2048, 4096, 85 + 6 * 170),  # the other one
        ("claude-sonnet-4-5", 280, 280, 100),
        ("claude-sonnet-4-5", 4000, 4000, 1600),
        ("gemini-2.5-flash", 384, 384, 258 * 1.08),
        ("gemini-2.5-flash", 960, 540, 258 * 6 * 1.08),  # the example of Google's page
    ],
)
def test_an_image_costs_what_its_vendor_says(model, width, height, tokens_):
    counter = TokenCounter(model)
    plain = counter.message(asks("."))

    cost = counter.message(asks(".", ImageBlock("image/png", png(width, height)))) - plain

    assert cost == pytest.approx(tokens_, abs=2, rel=0.1)


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (png(30, 20), (30, 20)),
        (b"GIF89a" + struct.pack("<HH", 30, 20), (30, 20)),
        (b"\xff\xd8\xff\xe0\x00\x04xx\xff\xc0\x00\x11\x08" + struct.pack(">HH", 20, 30), (30, 20)),
        (b"RIFF\0\0\0\0WEBPVP8X" + bytes(8) + b"\x1d\0\0\x13\0\0", (30, 20)),
        (b"RIFF\0\0\0\0WEBPVP8 " + bytes(10) + struct.pack("<HH", 30, 20), (30, 20)),
        (b"RIFF\0\0\0\0WEBPVP8L" + bytes(4) + b"\x2f" + (29 | 19 << 14).to_bytes(4, "little"), (30, 20)),
        (b"RIFF\0\0\0\0WEBPNEW!", None),
        (b"\xff\xd8" + b"\xff\xe0\x00\x02" * 2000, None),
        (b"\x89PNG\r\n\x1a\n", None),
        (b"BM", None),
    ],
)
def test_an_image_is_measured_by_its_header(data, size):
    assert image_size(data) == size


def test_an_image_without_any_size_costs_something(counter):
    assert counter.message(asks(ImageBlock("image/png", png(0, 0)))) > 50


def test_pages_and_seconds_are_counted_or_guessed():
    wave = b"RIFF\0\0\0\0WAVEfmt " + bytes(12) + (1000).to_bytes(4, "little")
    assert pages(b"/Type /Pages /Type/Page /Type /Page>>") == 2
    assert pages(bytes(120_000)) == 3
    assert seconds(wave + bytes(2000 - len(wave)), "audio") == 2.0
    assert seconds(bytes(32_000), "audio") == 2.0


# --- what it costs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reporting", [True, False])
def test_a_turn_costs_the_same_however_long_the_history_is(counter, counted, reporting):
    history, costs = [], {}
    for turn in range(1, 1001):
        history.append(asks(f"Question {turn}?"))
        before = len(counted)
        counter.history(history, counter.overhead(None, ()))
        costs[turn] = len(counted) - before
        history.append(says(f"Answer {turn}.", usage=took(20 * turn, 5) if reporting else None))

    assert costs[10] == costs[100] == costs[1000] <= 2


def test_a_resumed_history_is_read_from_its_last_answer_on(counter, counted):
    history = [message for n in range(500) for message in (asks("Why?"), says("So.", usage=took(100 * n + 9, 2)))]

    assert counter.history([*history, asks("And now?")], 0) == 100 * 499 + 11 + counter.message(asks("And now?"))
    assert counted[0].text == "And now?"
    assert len(counted) == 2  # it, and the same again by itself


def test_a_message_is_counted_once(counter, counted):
    message = asks(LONG)

    assert counter.message(message) == counter.message(message)
    assert counted == [message]


async def test_long_messages_are_counted_in_a_thread_and_small_ones_are_not(counter, monkeypatch):
    threads = []
    real = tokens.weigh
    monkeypatch.setattr(
        tokens, "weigh", lambda message, family: threads.append(threading.current_thread()) or real(message, family)
    )

    await counter.messages([asks("Hi.")])
    assert threads == [threading.main_thread()]
    long = [asks("word " * 20_000), says(ToolUseBlock("1", "t", {"text": ["word"] * 20_000}))]
    total = await counter.messages(long)

    assert threading.main_thread() not in threads[1:]
    assert len(threads) == 3
    assert abs(counter.history(long, 0) - total) <= 1
    assert len(threads) == 3


async def test_ten_megabytes_are_counted_by_samples(counter, monkeypatch):
    read = []
    real = text._estimate
    monkeypatch.setattr(text, "_estimate", lambda piece: read.append(len(piece)) or real(piece))
    message = asks("word " * 2_000_000)

    with anyio.fail_after(10):
        total = await counter.messages([message])

    assert abs(total - 2_000_000) < 300_000
    assert sum(read) < 50_000
    assert counter.message(message) == total


@pytest.mark.parametrize(
    "signs", [" " * 10**6, "\n" * 10**6, "a" * 10**6, "A" * 10**6, "=" * 10**6, "9" * 10**6, "\t" * 10**6 + "x"]
)
async def test_one_sign_over_and_over_takes_no_longer(counter, signs):
    with anyio.fail_after(5):
        assert await counter.messages([asks(signs)]) > 0


@pytest.mark.parametrize("words", ["", "\x00", "\ud800\udfff\ud800", "﷽" * 1000, "a\u0301" * 1000, "\U0010ffff" * 100])
def test_odd_texts_count(counter, words):
    assert 0 < counter.message(asks(words)) < 10 + 4 * len(words)


def test_a_message_without_content_counts(counter):
    assert 0 < counter.message(Message("assistant", ())) < 10


def test_arguments_as_deep_as_can_be_count(counter):
    deep = {}
    inner = deep
    for _ in range(50_000):
        inner["a"] = {"b": [1]}
        inner = inner["a"]
    numbers = {"n": [10**6000, 1.5, None, True, float("inf")]}

    assert counter.message(says(ToolUseBlock("1", "t", deep))) > 50_000
    assert counter.message(says(ToolUseBlock("1", "t", numbers))) > 1000


@given(st.text())
def test_every_text_has_a_number_of_tokens(words):
    assert 0 <= text.estimated_tokens(words) <= 4 * len(words) + 1


async def test_nothing_is_ever_fetched(counter, monkeypatch, tmp_path):
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", lambda *to: pytest.fail("a connection"))

    await counter.load()

    assert repr(counter) == "TokenCounter(by characters, correction=1.00)"
    assert not list(tmp_path.iterdir())


# --- tiktoken's tables -----------------------------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch, tmp_path):
    """A small table in the place of OpenAI's: every byte, and the word that's counted."""
    ranks = [bytes([byte]) for byte in range(256)] + [b"wo", b"rd", b"word", b" word"]
    data = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(ranks))
    small = dataclasses.replace(tables.O200K, sha256=hashlib.sha256(data).hexdigest())
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(tokens, "family_of", lambda model: dataclasses.replace(family_of(model), table=small))
    tables.path_of(small).write_bytes(data)
    return small


family_of = tokens.family_of


async def test_tables_that_are_there_are_used(table):
    counter = TokenCounter("gpt-5")
    message = asks("word" + " word" * 99)
    before = counter.message(message)

    await counter.load()
    await counter.load()

    assert repr(counter) == "TokenCounter(by o200k_base, correction=1.00)"
    assert counter.message(message) == 100 + 4
    assert before != counter.message(asks("strawberry"))
    assert counter.message(asks("\ud800")) > 4
    assert counter.message(asks("word" + " word" * 99_999)) == pytest.approx(100_000, rel=0.01)


async def test_a_table_that_is_not_whole_is_not_used(table):
    path = tables.path_of(table)
    path.write_bytes(path.read_bytes()[:-10])
    counter = TokenCounter("gpt-5")

    await counter.load()

    assert "by characters" in repr(counter)
    assert path.exists()


def test_tables_are_looked_for_where_tiktoken_keeps_them(monkeypatch, tmp_path):
    name = "fb374d419588a4632f3f557e76b4b70aebbca790"
    monkeypatch.delenv("TIKTOKEN_CACHE_DIR", raising=False)
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", str(tmp_path))
    assert tables.path_of(tables.O200K) == tmp_path / name
    monkeypatch.delenv("DATA_GYM_CACHE_DIR")
    assert tables.path_of(tables.O200K).parts[-2:] == ("data-gym-cache", name)
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "")
    assert tables.path_of(tables.O200K) is None
    assert tables.counting_by(tables.O200K) is None


# --- what providers report -------------------------------------------------------------------------------------------


def test_the_newest_report_is_the_truth_up_to_there(counter):
    usage = Usage(input_tokens=100, cache_read_tokens=7000, cache_write_tokens=900, output_tokens=50, requests=1)
    history = [asks("A"), says("B", usage=took(5, 5)), asks("C"), says("D", usage=usage), asks(LONG)]

    assert counter.history(history, 10_000) == 8050 + counter.message(history[-1])


def test_without_a_report_all_is_counted(counter):
    history = [asks(LONG), says(LONG), asks("And?")]

    assert counter.history(history, 1000) == pytest.approx(1000 + sum(map(counter.message, history)), abs=3)


def test_what_a_kept_message_took_is_forgotten_with_its_usage(counter):
    kept = says("D", usage=took(80_000, 50))

    assert counter.history([asks("Summary."), kept, asks("E")], 10) > 80_000
    assert counter.history([asks("Summary."), dataclasses.replace(kept, usage=None), asks("E")], 10) < 100


@pytest.mark.parametrize(
    ("usage", "fields"),
    [
        (Usage(requests=1), {}),
        (took(0, 50), {}),
        (took(-5, 50), {}),
        (took(9000, -50), {}),
        (took(9000, 50, server_tool_calls=3), {}),
        (Usage(input_tokens=9000, requests=2), {}),
        (took(9000, 50), {"interrupted": True}),
    ],
)
def test_a_report_that_says_something_else_is_not_the_truth(counter, usage, fields):
    history = [asks("A"), says("B", usage=usage, **fields), asks("C")]

    assert 10 < counter.history(history, 10) < 100


def test_reasoning_that_does_not_go_back_does_not_count(counter):
    usage = took(1000, 700, reasoning_tokens=600)

    assert counter.history([asks("A"), says("B", usage=usage)], 0) == 1100
    assert counter.history([asks("A"), says(ThinkingBlock("Hm."), "B", usage=usage)], 0) == 1700


def test_what_another_models_answer_took_is_converted():
    counter = TokenCounter("claude-opus-5-5")
    history = [asks("A"), says("B", usage=took(900, 100), model="gpt-5")]

    assert 1400 < counter.history(history, 0) < 1700


def test_a_server_that_cuts_prompts_without_saying_so_is_not_believed(counter):
    history, cut = [], 4096
    for _ in range(60):
        history.append(asks(LONG))
        total = counter.history(history, 50)
        history.append(says("Yes.", usage=took(min(total, cut), 3)))
        counter.learn(total, min(total, cut))

    assert counter.history([*history, asks(LONG)], 50) > 2 * cut
    assert counter.correction >= 0.7


def test_a_vendor_that_compacts_is_believed(counter):
    history = [asks(LONG * 20)]
    counter.history(history, 0)
    history += [says(RawBlock("compaction", {"content": "Fox."}), "Yes.", usage=took(300, 10)), asks("And?")]

    assert counter.history(history, 0) == pytest.approx(310, abs=20)


def test_estimates_learn_from_reports(counter):
    messages = [asks(LONG * 10)]
    before = counter.history(messages, 0)

    for _ in range(5):
        counter.learn(counter.history(messages, 0), round(1.4 * before))

    assert counter.history(messages, 0) == pytest.approx(1.4 * before, rel=0.05)


def test_only_what_was_estimated_is_learnt_from(counter):
    """The reported part of a count is right already, and however long it is, the estimated part was half as much as it should."""
    history = [asks("A"), says("B", usage=took(100_000, 10)), asks(LONG * 5)]
    estimated = counter.message(history[-1])

    for _ in range(5):
        counter.learn(counter.history(history, 0), 100_010 + 2 * estimated)

    assert counter.message(history[-1]) == pytest.approx(2 * estimated, rel=0.15)


@pytest.mark.parametrize(
    ("estimated", "reported"),
    [(10_000, 0), (10_000, -5), (10_000, 2), (10_000, 4096), (10_000, 10**9), (100, 250), (0, 0), (-5, 10)],
)
def test_nothing_is_learnt_from_nonsense(counter, estimated, reported):
    for _ in range(10):
        counter.learn(estimated, reported)

    assert counter.correction == 1.0


@given(st.lists(st.tuples(st.integers(), st.integers()), max_size=50))
def test_whatever_is_reported_the_correction_stays_in_bounds(reports):
    counter = TokenCounter("gpt-5")
    for estimated, reported in reports:
        counter.learn(estimated, reported)

    assert 0.7 <= counter.correction <= 2.5
    assert math.isfinite(counter.history([asks("A")], 0))
