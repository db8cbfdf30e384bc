"""What becomes of whatever a tool returns."""

import dataclasses
import datetime as dt
import decimal
import enum
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from alloy.errors import InvalidOptionError, ToolError
from alloy.messages import DocumentBlock, ImageBlock, TextBlock
from alloy.tools import ToolOutput

IMAGE = ImageBlock("image/png", b"png")
PAPER = DocumentBlock("application/pdf", b"pdf")


class Point(BaseModel):
    x: int
    y: float = 0.5


@dataclasses.dataclass
class Line:
    start: Point
    name: str = "é"


class Colour(str, enum.Enum):  # noqa: UP042  whose str() isn't its value
    RED = "red"


def test_an_output_is_left_as_it_is():
    output = ToolOutput("x", data=1, media=(IMAGE,), is_error=True)
    assert ToolOutput.of(output) is output


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, ""),
        ("", ""),
        ("text", "text"),
        (Colour.RED, "red"),
        (TextBlock("block"), "block"),
        (True, "true"),
        (3, "3"),
        (10**30, str(10**30)),
        (1.5, "1.5"),
        ([], "[]"),
        ({}, "{}"),
        (["a", "é"], '["a","é"]'),
        (("a", 1), '["a",1]'),
        ({"a": {"b": [1, None]}}, '{"a":{"b":[1,null]}}'),
        ({1: 2}, '{"1":2}'),
        (Point(x=1), '{"x":1,"y":0.5}'),
        (Line(Point(x=1)), '{"start":{"x":1,"y":0.5},"name":"é"}'),
        (dt.date(2026, 1, 2), '"2026-01-02"'),
        (decimal.Decimal("1.10"), '"1.10"'),
        (Path("a/b"), '"a/b"'),
        (SecretStr("key"), '"**********"'),
    ],
)
def test_values_become_text_and_anything_else_compact_json(value, text):
    assert ToolOutput.of(value).text == text


def test_a_structured_value_is_kept_as_data():
    point = Point(x=1)
    assert ToolOutput.of(point).data is point
    assert ToolOutput.of("text").data is None


def test_media_alone_or_beside_text_are_media():
    assert ToolOutput.of(IMAGE) == ToolOutput(media=(IMAGE,))
    assert ToolOutput.of([TextBlock("a"), IMAGE, "b", PAPER]) == ToolOutput("a\nb", media=(IMAGE, PAPER))
    assert ToolOutput.of((TextBlock("a"), TextBlock("b"))) == ToolOutput("a\nb")


@pytest.mark.parametrize(
    "value", [math.nan, [math.inf], {"a": -math.inf}, Point(x=1, y=math.nan), Line(Point(x=1, y=math.inf))]
)
def test_numbers_that_json_does_not_have_become_valid_json(value):
    def refuse(name: str) -> None:
        raise AssertionError(name)

    json.loads(ToolOutput.of(value).text, parse_constant=refuse)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a\ud800b", "a\ufffdb"),
        ("\ud83d\ude00", "😀"),
        (["a\udfff"], '["a\ufffd"]'),
        ({"\ud800": Point(x=1)}, '{"\ufffd":{"x":1,"y":0.5}}'),
        (b"plain \xff", "plain \ufffd"),
        (TextBlock("\ud800"), "\ufffd"),
        (ToolOutput("\ud800"), "\ufffd"),
        ([TextBlock("\ud800"), IMAGE], "\ufffd"),
    ],
)
def test_text_that_is_no_unicode_is_made_safe(value, text):
    assert ToolOutput.of(value).text == text


def test_bytes_inside_of_a_value_are_text_or_base64():
    assert ToolOutput.of({"a": b"text"}).text == '{"a":"text"}'
    assert ToolOutput.of({"a": b"\xff\xfe"}).text == '{"a":"__4="}'


def loop_of_lists() -> list[Any]:
    own: list[Any] = []
    own.append(own)
    return own


def deep_list() -> list[Any]:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    return deep


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (object(), "returned a object, which isn't serialisable;"),
        ({"a": [object()]}, "returned a dict, which isn't serialisable (it holds a object)"),
        (lambda: 1, "returned a function"),
        ((n for n in range(3)), "returned a generator"),
        (iter([1]), "returned a list_iterator"),
        (["\ud800", object()], "returned a list"),
        (loop_of_lists(), "returned a list"),
        (deep_list(), "returned a list"),
    ],
    ids=["object", "inner", "function", "generator", "iterator", "two faults", "loop", "deep"],
)
def test_what_json_cannot_hold_is_an_error_without_addresses(value, words):
    with pytest.raises(ToolError) as caught:
        ToolOutput.of(value)
    assert words in str(caught.value)
    assert "0x" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_output_is_checked_when_it_is_made():
    with pytest.raises(InvalidOptionError, match=r"use ToolOutput\.of"):
        ToolOutput({"a": 1})  # type: ignore[arg-type]  # the point
    with pytest.raises(InvalidOptionError, match="image, audio"):
        ToolOutput("x", media=("y",))  # type: ignore[arg-type]  # the point
    assert ToolOutput(media=IMAGE).media == (IMAGE,)  # type: ignore[arg-type]  # forgiven
    assert ToolOutput(media=[IMAGE]).media == (IMAGE,)  # type: ignore[arg-type]  # forgiven


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text(st.characters(codec=None))
        | st.binary()
        | st.dates(),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec=None)), inner, max_size=3)
        ),
        max_leaves=10,
    )
)
def test_plain_data_is_always_text_that_can_be_sent(value):
    text = ToolOutput.of(value).text
    text.encode()
    if value is not None and not isinstance(value, str | bytes):
        json.loads(text)
