"""File names for ids, and the ids that are listed."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy.errors import SessionError
from alloy.sessions import Session
from alloy.sessions.names import file_name, is_hashed, written_id
from tests.sessions.files import LOCK, by_somebody_else, files, said

pytestmark = pytest.mark.anyio


IDS = st.text(min_size=1, max_size=128).filter(str.isprintable)
ODD = [
    ".",
    "..",
    "../../etc/passwd",
    "a/b",
    "a\\b",
    "C:",
    "CON",
    "con",
    "con.txt",
    "nul",
    "com1",
    ".hidden",
    "-rf",
    "a.",
    "a ",
    " ",
    "*?<>|\"'`$;&",
    "100%",
    "%2e",
    "~",
    "a~" + "0" * 32,
    "desk",
    "Desk",
    "DESK",
    "ß",
    "ẞ",
    "\u00e9",
    "e\u0301",
    "İ",
    "日本語",
    "😀",
    ".alloy.lock",
    ".alloy-0123456789abcdef.tmp",
    "x" * 128,
    "X" * 128,
    "X" * 127 + "Y",
    "é" * 128,
    "😀" * 128,
]


@pytest.mark.parametrize("name", ["desk", "support-2.de", "a_b"])
def test_a_plain_id_is_its_file_name(name):
    assert file_name(name) == f"{name}.json"


def test_odd_ids_have_file_names_that_every_system_keeps_apart():
    names = [file_name(name) for name in ODD]
    stems = [name.removesuffix(".json") for name in names]

    assert len({unicodedata.normalize("NFKD", name).casefold() for name in names}) == len(ODD)
    for name, stem in zip(names, stems, strict=True):
        assert name == f"{stem}.json"
        assert name.isascii()
        assert name == name.lower()
        assert len(name) <= 200
        assert not set(name) & set("/\\:*?\"<>|' ")
        assert stem[0] not in ".-"
        assert stem.partition(".")[0] not in {"con", "prn", "aux", "nul", "com1", "lpt9"}


@given(IDS)
def test_every_id_can_be_told_from_its_file_name_or_from_its_file(session_id):
    name = file_name(session_id)

    assert written_id(name) == (None if is_hashed(name) else session_id)


@given(IDS, IDS)
def test_no_two_ids_have_one_file_name(one, other):
    assert (file_name(one) == file_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["Desk.json", "desk", "desk.txt", ".json", "%41%.json", "%ff.json", "a b.json", LOCK])
def test_a_file_with_another_name_is_no_session(name):
    assert written_id(name) is None


async def test_every_odd_id_is_saved_loaded_listed_and_deleted(store, tmp_path):
    for name in ODD:
        await store.save(said(Session(id=name), f"I am {name}."))

    other = by_somebody_else(store)
    assert await other.ids() == tuple(sorted(ODD))
    for name in ODD:
        assert (await other.load(name)).messages[0].text == f"I am {name}."
        await other.delete(name)
    assert files(tmp_path) == set()


async def test_what_is_not_a_session_is_not_listed(store, tmp_path):
    await store.save(Session(id="desk"))
    for name in ("README", ".DS_Store", "Desk.json.bak", "notes.txt"):
        (tmp_path / name).write_text("mine")

    assert await store.ids() == ("desk",)


async def test_a_long_id_that_its_file_does_not_tell_is_an_error_that_names_the_file(store, tmp_path):
    await store.save(Session(id="X" * 128))
    path = tmp_path / file_name("X" * 128)
    path.rename(tmp_path / file_name("Y" * 128))

    with pytest.raises(SessionError, match="another session's") as caught:
        await store.ids()
    assert file_name("Y" * 128) in str(caught.value)

    (tmp_path / file_name("Y" * 128)).write_text("CANARY")
    with pytest.raises(SessionError, match="it isn't JSON") as caught:
        await store.ids()
    assert "CANARY" not in str(caught.value)
