"""Sessions and their JSON: what goes in comes out, and nothing else does."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import alloy
from alloy.errors import InvalidOptionError, SessionError
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
)
from alloy.sessions import Session
from alloy.usage import Usage
from tests.providers.histories import DOCUMENTS, IMAGES, TEXTS, histories

CANARY = "CANARY-6b1f"
EVERY_BLOCK = (
    Message(
        "user",
        (
            TextBlock('Look: é\u2028😀\0"\\', extra={"citations": [{"n": 1.5, "big": 10**30}]}),
            ImageBlock("image/png", b"\x89PNG\xff\x00"),
            AudioBlock("audio/wav", b"RIFF"),
            VideoBlock("video/mp4", url="https://x.test/a.mp4"),
            DocumentBlock("application/pdf", b"%PDF", name="a.pdf"),
        ),
    ),
    Message(
        "assistant",
        (
            ThinkingBlock("Hm.", signature="s", extra={"id": "r"}),
            RawBlock("redacted_thinking", {"type": "redacted_thinking", "data": "x"}),
            ServerToolUseBlock("s1", "web_search", {"query": "x"}, {"id": "s1"}),
            ServerToolResultBlock("s1", "web_search", {"id": "s1"}, is_error=True),
            TextBlock("Let me see."),
            ToolUseBlock("c1", "look", {"deep": [{"er": [None, True, 1.25, "é"]}]}, extra={"signature": "t"}),
            ToolUseBlock("c2", "look", invalid='{"cut'),
        ),
        provider="anthropic",
        model="claude",
        origin="0123456789abcdef",
        usage=Usage(input_tokens=1, cache_read_tokens=2, cache_write_tokens=3, output_tokens=4, reasoning_tokens=5),
    ),
    Message(
        "user",
        (
            ToolResultBlock("c1", (TextBlock("seen"), ImageBlock("image/png", b"x")), name="look"),
            ToolResultBlock("c2", (TextBlock("invalid"),), is_error=True),
        ),
    ),
    Message("assistant", (TextBlock("I s"),), interrupted=True),
)
FULL = Session(
    id="Help desk/ü",
    revision=7,
    created_ms=1_700_000_000_000,
    updated_ms=1_700_000_000_001,
    seq=123,
    usage=Usage(input_tokens=9, requests=2),
    metadata={"todo": [{"text": "milk", "done": False}], "n": None},
    messages=EVERY_BLOCK,
    archive=(Message("assistant", (TextBlock("Long ago."),)),),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
IDS = st.text(min_size=1, max_size=128).filter(str.isprintable)
COUNTS = st.integers(0, 2**60)
HISTORIES = histories(
    "here", own=st.one_of(TEXTS, IMAGES, DOCUMENTS, *(st.just(block) for block in EVERY_BLOCK[1].content[:5]))
)


def changed(**fields) -> bytes:
    """A whole document in which some fields are others."""
    return json.dumps(json.loads(FULL.to_json()) | fields).encode()


def without(name: str) -> bytes:
    document = json.loads(FULL.to_json())
    del document[name]
    return json.dumps(document).encode()


def in_message(**fields) -> bytes:
    """A whole document whose first block is another."""
    document = json.loads(FULL.to_json())
    document["messages"][0]["content"][0].update(fields)
    return json.dumps(document).encode()


# --- What goes in comes out ------------------------------------------------------------------------------------------


def test_every_kind_of_block_survives():
    assert Session.from_json(FULL.to_json()) == FULL
    assert Session.from_json(FULL.to_json().decode(), id=FULL.id) == FULL


@given(
    st.builds(
        Session,
        id=IDS,
        revision=COUNTS,
        created_ms=COUNTS,
        updated_ms=COUNTS,
        seq=COUNTS,
        usage=st.builds(Usage, input_tokens=COUNTS, requests=COUNTS),
        metadata=st.dictionaries(st.text(max_size=5), JSON, max_size=3),
        messages=HISTORIES,
        archive=HISTORIES,
    )
)
@settings(deadline=None, max_examples=150)
def test_every_session_is_the_same_after_it_was_written_and_read(session):
    assert Session.from_json(session.to_json(), id=session.id) == session


def test_a_document_says_its_version_and_starts_with_what_changes_at_every_save():
    document = json.loads(FULL.to_json())

    assert list(document)[:5] == ["v", "id", "revision", "created_ms", "updated_ms"]
    assert document["v"] == 1


def test_a_new_session_has_an_id_and_the_time_and_nothing_else():
    before = int(time.time() * 1000)
    session = Session(id="desk")

    assert before <= session.created_ms <= int(time.time() * 1000)
    assert session == Session(id="desk", created_ms=session.created_ms, revision=0, updated_ms=0, seq=0)
    assert (session.messages, session.archive, session.metadata, session.usage) == ((), (), {}, Usage())


def test_what_was_compacted_away_needs_no_valid_history():
    session = dataclasses.replace(FULL, archive=EVERY_BLOCK[1:2])

    assert Session.from_json(session.to_json()).archive == EVERY_BLOCK[1:2]


def test_metadata_is_copied():
    notes = {"todo": ["milk"], "pair": (1, 2)}
    session = Session(id="desk", metadata=notes)
    notes["todo"].append("tea")

    assert session.metadata == {"todo": ["milk"], "pair": [1, 2]}


# --- What can't be a session -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", ["", "x" * 129, "a\nb", "a\0b", "\ud800", "\u200b", 7, None])
def test_an_id_has_1_to_128_printable_characters(bad):
    with pytest.raises(InvalidOptionError, match="1 to 128 printable characters"):
        Session(id=bad)


@pytest.mark.parametrize("name", ["revision", "created_ms", "updated_ms", "seq"])
@pytest.mark.parametrize("bad", [-1, 1.5, "1", True, None])
def test_numbers_are_whole_and_not_negative(name, bad):
    with pytest.raises(InvalidOptionError, match=name):
        Session(id="desk", **{name: bad})


def endless() -> list:
    around = []
    around.append(around)
    return around


@pytest.mark.parametrize(
    ("bad", "where"),
    [
        ({"a": object()}, "metadata.a"),
        ({"a": [1, {"b": float("nan")}]}, "metadata.a.1.b"),
        ({"a": b"x"}, "metadata.a"),
        ({"a": "\ud800"}, "metadata.a"),
        ({1: "a"}, "metadata"),
        ({"a": endless()}, "metadata.a"),
        ([], "metadata"),
    ],
)
def test_metadata_that_is_no_json_is_refused_where_it_is_made(bad, where):
    with pytest.raises(InvalidOptionError) as caught:
        Session(id="desk", metadata=bad)

    assert caught.value.option.startswith(where)


def nested(depth: int) -> dict:
    inner = {}
    for _ in range(depth):
        inner = {"a": inner}
    return inner


@pytest.mark.parametrize(
    "block",
    [
        TextBlock(f"{CANARY} \ud800"),
        TextBlock(5),
        ToolUseBlock("1", "f", {"a": object(), "b": CANARY}),
        ToolUseBlock("1", "f", {"a": CANARY, "b": nested(198)}),
        ToolUseBlock("1", "f", {"a": CANARY, "b": nested(1000)}),
        CANARY,
    ],
    ids=["no Unicode", "no text", "no JSON", "too deep to read", "too deep to write", "no block"],
)
def test_what_could_not_be_read_again_is_not_written_and_the_error_says_where(block):
    user, assistant = Message("user", (TextBlock("Hi."),)), Message("assistant", (TextBlock("Hello."),))
    for fields, where in (
        ({"messages": (user, assistant, Message("user", (block,)))}, "message 2 can't be written"),
        ({"archive": (user, Message("assistant", (block,)))}, "archived message 1 can't be written"),
    ):
        with pytest.raises(SessionError, match=where) as caught:
            Session(id="desk", **fields).to_json()
        assert CANARY not in str(caught.value)


def test_p1_a_history_that_no_api_accepts_is_not_written():
    session = Session(id="desk", messages=EVERY_BLOCK[:2])

    with pytest.raises(SessionError, match=r"message 1: unanswered_call.*alloy\.repair_history"):
        session.to_json()


# --- What can't be read ----------------------------------------------------------------------------------------------


def test_a_document_cut_short_anywhere_is_an_error():
    document = FULL.to_json()

    for length in range(len(document)):
        with pytest.raises(SessionError, match="it is cut short"):
            Session.from_json(document[:length])


@given(st.integers(0, len(FULL.to_json()) - 1), st.binary(max_size=3))
@settings(deadline=None, max_examples=300)
def test_a_document_with_wrong_bytes_in_it_is_an_error_or_a_session(at, wrong):
    document = FULL.to_json()
    try:
        session = Session.from_json(document[:at] + wrong + document[at + 1 :], id=FULL.id)
    except SessionError:
        return
    alloy.check_history(session.messages)
    assert session.id == FULL.id


@pytest.mark.parametrize(
    ("document", "says"),
    [
        (b"", "it is cut short"),
        (CANARY.encode(), "it isn't JSON"),
        (b"\xff\xfe", "it isn't JSON"),
        (FULL.to_json() + b"x", "it isn't JSON"),
        (b"null", "it has no version"),
        (b"[]", "it has no version"),
        (f'"{CANARY}"'.encode(), "it has no version"),
        (without("v"), "it has no version"),
        (changed(v=2), "a newer Alloy saved it, in version 2; this one reads version 1"),
        (b'{"v": 2, "all": "new"}', "a newer Alloy saved it, in version 2"),
        (changed(v=0), "it is of version 0"),
        (changed(v=CANARY), "int type at v"),
        (changed(v=1.5), "int type at v"),
        *((without(name), f"missing at {name}") for name in list(json.loads(FULL.to_json()))[1:]),
        (changed(**{CANARY: 1}), "unexpected keyword argument at the top"),
        (changed(id=7), "string type at id"),
        (changed(id="a\n"), "another session's"),
        (changed(seq="7"), "int type at seq"),
        (changed(seq=True), "int type at seq"),
        (changed(revision=-1), "wrong value at revision"),
        (changed(usage={"requests": CANARY}), "int type at usage.requests"),
        (changed(usage=None), "dataclass type at usage"),
        (changed(metadata=[CANARY]), "metadata"),
        (changed(metadata={"a": nested(150)}), "wrong value at metadata"),
        (changed(messages={}), "tuple type at messages"),
        (changed(messages=[CANARY]), "dataclass type at messages.0"),
        (changed(archive=[{"role": CANARY, "content": []}]), "literal error at archive.0.role"),
        (in_message(type=CANARY), "union tag invalid at messages.0.content.0"),
        (in_message(text=None), "string type at messages.0.content.0"),
        (in_message(**{CANARY: 1}), "unexpected keyword argument at messages.0.content.0"),
        (changed(messages=[{"role": "assistant", "content": []}]), "message 0: first_turn, message 0: empty_message"),
    ],
)
def test_p9_a_document_that_is_no_session_is_an_error_that_says_why_and_quotes_nothing(document, says):
    with pytest.raises(SessionError) as caught:
        Session.from_json(document, id=FULL.id)

    assert says in str(caught.value)
    assert CANARY not in str(caught.value)
    assert caught.value.session_id == FULL.id
    assert caught.value.__cause__ is None


def test_another_session_than_the_one_asked_for_is_refused():
    with pytest.raises(SessionError, match="it is another session's") as caught:
        Session.from_json(FULL.to_json(), id="desk")

    assert caught.value.session_id == "desk"


def test_p9_an_id_that_no_session_can_have_is_refused():
    with pytest.raises(SessionError, match="wrong value at id"):
        Session.from_json(changed(id="a\n"))


def test_p1_an_invalid_history_is_refused_and_can_be_repaired():
    document = changed(messages=json.loads(FULL.to_json())["messages"][:2])

    with pytest.raises(SessionError, match=r"message 1: unanswered_call.*repair=True.*alloy\.repair_history") as caught:
        Session.from_json(document)
    repaired = Session.from_json(document, repair=True)

    assert "c1" not in str(caught.value)
    assert repaired.messages == alloy.repair_history(EVERY_BLOCK[:2])
    assert dataclasses.replace(repaired, messages=EVERY_BLOCK) == FULL
