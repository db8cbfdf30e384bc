"""Names that any provider takes, for tools of any name."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from alloy.mcp.names import safe_names

WORDS = st.text(max_size=90) | st.text("ab._-/ ", max_size=5) | st.from_regex(r"[A-Za-z0-9_-]{1,70}", fullmatch=True)


def test_a_tool_is_named_after_its_server_and_itself():
    assert safe_names("files", ["read_file", "list-dir"]) == {
        "read_file": "files__read_file",
        "list-dir": "files__list-dir",
    }


def test_what_no_provider_takes_becomes_an_underscore():
    assert safe_names("mcp-servers/every thing", ["a.b/c", "größe"]) == {
        "a.b/c": "mcp-servers_every_thing__a_b_c",
        "größe": "mcp-servers_every_thing__gr_e",
    }


def test_of_two_tools_with_one_safe_name_the_one_that_was_safe_keeps_it():
    names = safe_names("s", ["a.b", "a_b", "a/b"])

    assert names["a_b"] == "s__a_b"
    assert len(set(names.values())) == 3
    assert all(name.startswith("s__a_b") for name in names.values())


def test_long_names_are_cut_and_told_apart():
    names = safe_names("server" * 20, ["x" * 80 + "1", "x" * 80 + "2"])

    assert len(set(names.values())) == 2
    assert {len(name) for name in names.values()} == {64}


def test_a_name_that_begins_with_a_digit_begins_with_an_underscore():
    assert safe_names("7zip", ["pack"]) == {"pack": "_7zip__pack"}


@given(WORDS, st.lists(WORDS, unique=True, max_size=8), st.randoms())
def test_names_are_valid_unique_and_independent_of_the_order(server, tools, random):
    names = safe_names(server, tools)
    shuffled = random.sample(tools, len(tools))

    assert set(names) == set(tools)
    assert len(set(names.values())) == len(tools)
    assert all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", name) for name in names.values())
    assert safe_names(server, shuffled) == names
