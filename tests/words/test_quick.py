"""Dataclasses whose objects are made quickly are dataclasses like any other."""

from __future__ import annotations

import copy
import dataclasses
import inspect
import pickle
from dataclasses import FrozenInstanceError, dataclass, field

import pytest

from alloy._quick import quick
from alloy.messages import Message, TextBlock, ToolUseBlock
from alloy.providers.base import Completion, Request
from alloy.result import ToolCall
from alloy.tools.base import ToolContext, ToolOutput
from alloy.usage import Usage


@quick
@dataclass(frozen=True, slots=True)
class Quick:
    first: int
    last: int = field(default=9, kw_only=True)
    made: list[int] = field(default_factory=list)
    seen: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "seen", (self.first, self.last))


@dataclass(frozen=True, slots=True)
class Plain:
    first: int
    last: int = field(default=9, kw_only=True)
    made: list[int] = field(default_factory=list)
    seen: tuple[int, ...] = ()


def test_it_takes_what_the_dataclass_would_take():
    quick_one = Quick(1, [2], last=3)

    assert (quick_one.first, quick_one.last, quick_one.made) == (1, 3, [2])
    assert inspect.signature(Quick) == inspect.signature(Plain)
    assert Quick.__init__.__qualname__ == "Quick.__init__"
    for kind in (Quick, Plain):
        with pytest.raises(TypeError):
            kind()
        with pytest.raises(TypeError):
            kind(1, [], (), 4)
        with pytest.raises(TypeError):
            kind(1, other=4)


def test_defaults_are_made_for_each_and_its_last_word_is_said():
    one, other = Quick(1), Quick(1)

    assert one.made == other.made == []
    assert one.made is not other.made
    assert one.seen == (1, 9)


def test_it_stays_as_it_is_and_can_be_copied():
    one = Quick(1, last=2)

    with pytest.raises(FrozenInstanceError):
        one.first = 2
    assert dataclasses.replace(one, first=5).seen == (5, 2)
    assert copy.deepcopy(one) == pickle.loads(pickle.dumps(one)) == one


@pytest.mark.parametrize(
    "kind", [TextBlock, ToolUseBlock, Message, Usage, Request, Completion, ToolCall, ToolContext, ToolOutput]
)
def test_what_a_turn_makes_has_every_field_in_its_place(kind):
    given = {one.name: object() for one in dataclasses.fields(kind)}
    if kind is ToolOutput:
        given |= {"text": "text", "media": ()}

    assert {name: getattr(kind(**given), name) for name in given} == given
