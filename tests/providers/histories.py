"""Histories that anybody might have, for Hypothesis: of one origin or of several, broken off, with odd ids and media.

An adapter's test draws requests for its own origin and checks whatever it encodes against the vendor's rules:

    @given(requests(provider.origin, own=blocks_of_the_vendor))
    def test_whatever_is_sent_keeps_the_rules(request):
        check(json.loads(provider.encode(request)))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from alloy.history import check_history
from alloy.messages import (
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
)
from alloy.providers.base import Request, ToolSpec

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

    from alloy.messages import Block

__all__ = ["DOCUMENTS", "IMAGES", "TEXTS", "answers", "histories", "requests"]

_CALL_IDS = ("toolu_{}", "call_{}", "functions.look:{}", "{}", "über {}", "x" * 70 + "{}", "fc|{}\n")
_JSON = st.dictionaries(
    st.text("abc", min_size=1, max_size=3),
    st.none() | st.booleans() | st.integers(-9, 9) | st.text("aé\n\"'", max_size=4),
)

TEXTS = st.text("ab é\n\u2028😀", max_size=12).map(lambda text: TextBlock(text + "."))
IMAGES = st.sampled_from([ImageBlock("image/png", b"\x89PNG"), ImageBlock("image/jpeg", url="https://x.test/a.jpg")])
DOCUMENTS = st.sampled_from(
    [
        DocumentBlock("application/pdf", b"%PDF-1.4", name="a.pdf"),
        DocumentBlock("text/plain", "wörds".encode(), name="a.txt"),
        DocumentBlock("text/plain", b"words"),
    ]
)
_ELSEWHERE = st.one_of(
    TEXTS,
    st.builds(ThinkingBlock, st.sampled_from(["", "Hm."]), st.sampled_from([None, "signed elsewhere"])),
    st.just(TextBlock("Cited.", extra={"citations": [{"type": "elsewhere"}]})),
    st.just(RawBlock("reasoning", {"type": "reasoning", "encrypted_content": "x"})),
    st.just(ServerToolUseBlock("s_1", "search", {}, {"id": "s_1"})),
    st.just(ServerToolResultBlock("s_1", "search", {"id": "s_1"})),
    IMAGES,
)
_OWN = st.one_of(TEXTS, st.just(ThinkingBlock("Hm.")))


def answers(
    origin: str, *, own: SearchStrategy[Block] = _OWN, own_call_id: str = "toolu_{}"
) -> SearchStrategy[tuple[Message, tuple[str, ...]]]:
    """Assistant's messages, with their calls' ids as templates for a number.

    Args:
        origin: the fingerprint of the provider that is asked.
        own: blocks of its own answers, but for calls.
        own_call_id: an id of a call of its own.
    """
    ours = st.tuples(
        st.lists(own, max_size=4), st.lists(st.just(own_call_id), max_size=3), st.just(origin), st.just(False)
    )
    theirs = st.tuples(
        st.lists(_ELSEWHERE, max_size=4),
        st.lists(st.sampled_from(_CALL_IDS), max_size=3),
        st.sampled_from(["elsewhere", None]),
        st.booleans(),
    )
    return (ours | theirs).filter(lambda drawn: bool(drawn[0] or drawn[1])).map(_answer)


def _answer(drawn: tuple[list[Block], list[str], str | None, bool]) -> tuple[Message, tuple[str, ...]]:
    blocks, ids, origin, interrupted = drawn
    message = Message("assistant", tuple(blocks), origin=origin, interrupted=interrupted and not ids)
    return message, tuple(ids)


@st.composite
def histories(
    draw: DrawFn, origin: str, *, own: SearchStrategy[Block] = _OWN, own_call_id: str = "toolu_{}"
) -> tuple[Message, ...]:
    """Histories that `check_history` accepts and that end with the user's turn; the arguments are those of `answers`."""
    said = st.lists(TEXTS | IMAGES | DOCUMENTS, min_size=1, max_size=3).map(tuple)
    extra = st.none() | st.just({"caller": {"type": "direct"}})
    history = [Message("user", draw(said))]
    number = 0
    for message, ids in draw(st.lists(answers(origin, own=own, own_call_id=own_call_id), max_size=5)):
        calls = []
        for template in ids:
            number += 1
            calls.append(ToolUseBlock(template.format(number), "look", draw(_JSON), extra=draw(extra)))
        history.append(
            Message("assistant", (*message.content, *calls), origin=message.origin, interrupted=message.interrupted)
        )
        results = tuple(draw(_result(call.id)) for call in calls)
        match results and draw(st.sampled_from(["results", "and a prompt", "then a prompt"])):
            case "results":
                history.append(Message("user", results))
            case "then a prompt":
                history += [Message("user", results), Message("user", draw(said))]
            case _:
                history.append(Message("user", (*results, *draw(said))))
    check_history(history)
    return tuple(history)


def _result(call_id: str) -> SearchStrategy[ToolResultBlock]:
    content = st.lists(TEXTS | IMAGES, min_size=1, max_size=3).map(tuple)
    return st.builds(
        ToolResultBlock, st.just(call_id), content, is_error=st.booleans(), name=st.sampled_from(["", "look"])
    )


def requests(
    origin: str, *, own: SearchStrategy[Block] = _OWN, own_call_id: str = "toolu_{}"
) -> SearchStrategy[Request]:
    """Requests with such histories; the arguments are those of `answers`."""
    tools = (
        ToolSpec("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}}),
        ToolSpec("leave", "", {"type": "object", "properties": {}}),
    )
    return st.builds(
        Request,
        messages=histories(origin, own=own, own_call_id=own_call_id),
        system=st.sampled_from([None, "", "Be brief."]),
        tools=st.sampled_from([(), tools]),
        stream=st.booleans(),
    )
