"""How many tokens a request has: as the provider said where it did, estimated where it hasn't yet."""

from __future__ import annotations

import math
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from alloy._memo import Memo
from alloy._tasks import run_in_thread
from alloy.models.families import family_of
from alloy.models.tables import counting_by
from alloy.models.text import estimated_tokens, sampled
from alloy.models.weight import json_strings, size_of, weigh

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from alloy.messages import Message

__all__ = ["DescribedTool", "TokenCounter"]

_T = TypeVar("_T")

INLINE = 32_768
"""How much is counted on the event loop, in characters; a few milliseconds."""
_REMEMBERED = 32 * 1024 * 1024  # characters of messages that are kept with their counts
_REQUESTS = 64  # of which it's remembered how they were counted

_LEAST = 200
"""From how many estimated tokens on a report says something about estimates; below, fixed costs weigh more."""
_MOST = 20_000  # tokens that one report counts for, at most
_PRIOR = 500  # tokens that say that estimates are right
_REPORTS = 9  # of which the correction is made
_SANE = (0.5, 3.0)  # of what was estimated; what reports say beyond that is about something else
_BOUNDS = (0.7, 2.5)


class DescribedTool(Protocol):
    """A tool as a model is told of it, such as `alloy.providers.ToolSpec`."""

    @property
    def name(self) -> str:
        """What the model calls it by."""
        ...

    @property
    def description(self) -> str:
        """What it does."""
        ...

    @property
    def input_schema(self) -> Mapping[str, object]:
        """JSON schema of the arguments."""
        ...


class _Counted(NamedTuple):
    """What is remembered of a message: its tokens before any correction, and how much was read for that."""

    tokens: float
    size: int


class _Sum(NamedTuple):
    """Tokens: those that a provider reported, and those estimated, before any correction."""

    reported: float
    estimated: float

    def plus(self, estimated: float) -> _Sum:
        return _Sum(self.reported, self.estimated + estimated)


class _Place(NamedTuple):
    """How much there is up to and including `last` by our own count, from the first report on."""

    previous: Message | None
    last: Message
    counted: _Sum


class TokenCounter:
    """How many tokens requests to one model have.

    It is an estimate, made of the message's characters, or by tiktoken where its tables are on this machine (see `load`). What
    providers report corrects it (see `history` and `learn`). Each message is counted once, as long as it is in use. Nothing
    is ever fetched; `alloy.providers.base.CountsTokens` asks the vendor.

    It may be shared by conversations with the same model on one event loop.

    Args:
        model: the model's name, with or without its vendor; an unknown one is counted with a margin.
    """

    def __init__(self, model: str) -> None:
        self._family = family_of(model)
        self._count: Callable[[str], float] = estimated_tokens
        self._memo = self._new_memo()
        self._overhead: tuple[str | None, tuple[DescribedTool, ...], float] | None = None
        self._reports: deque[tuple[float, float]] = deque(maxlen=_REPORTS)
        self._factor = 1.0
        self._asked: dict[int, _Sum] = {}
        self._places: dict[int, _Place] = {}

    def _new_memo(self) -> Memo[_Counted]:
        return Memo(self._counted, size=lambda counted: counted.size, limit=_REMEMBERED)

    async def load(self) -> None:
        """Has texts counted by tiktoken from now on, if its table for the model is on this machine already.

        It is read in a thread, which takes about half a second the first time. Where there is none, nothing happens; tiktoken
        keeps its tables where ``TIKTOKEN_CACHE_DIR`` says. What was counted before is counted anew.
        """
        if self._count is not estimated_tokens:
            return
        count = await run_in_thread(counting_by, self._family.table, name="alloy token tables")
        if count is not None:
            self._count = lambda text: _exact(text, count)
            self._memo, self._overhead = self._new_memo(), None

    # --- estimates ---------------------------------------------------------------------------------------------------

    @property
    def correction(self) -> float:
        """What estimates are multiplied with, from 0.7 to 2.5; see `learn`."""
        return self._factor

    def message(self, message: Message) -> int:
        """About how many tokens a message has; remembered by its identity.

        Of long texts samples are counted, so this takes some milliseconds for a long message. See `messages` for many.
        """
        return self._corrected(self._memo(message).tokens)

    async def messages(self, messages: Sequence[Message]) -> int:
        """About how many tokens some messages have together; a thread counts what would take long."""
        await self._count_new(messages)
        return self._corrected(sum(self._memo(message).tokens for message in messages))

    async def _count_new(self, messages: Sequence[Message]) -> None:
        """Counts what isn't remembered, in a thread if it's much."""
        new = [message for message in messages if message not in self._memo]
        size = 0
        for message in new:
            size += size_of(message, INLINE) + 100
            if size > INLINE:
                break
        else:
            return  # so little that whoever wants it counts it
        counted = self._counted
        together = await run_in_thread(lambda: [counted(one) for one in new], name="alloy token counter")
        for message, tokens in zip(new, together, strict=True):
            self._memo.remember(message, tokens)

    def overhead(self, system: str | None, tools: Sequence[DescribedTool]) -> int:
        """About how many tokens a request has besides its messages; remembered for the latest tools.

        Args:
            system: the system prompt, if any.
            tools: the tools that the model may call.
        """
        tools = tuple(tools)
        if self._overhead is None or self._overhead[:2] != (system, tools):
            self._overhead = (system, tools, self._besides(system, tools))
        return self._corrected(self._overhead[2])

    def _besides(self, system: str | None, tools: Sequence[DescribedTool]) -> float:
        family = self._family
        tokens = family.request + (family.toolset if tools else 0.0)
        if system:
            tokens += family.message + self._text(system)
        for tool in tools:
            tokens += family.tool + self._text(f"{tool.name} {tool.description}")
            tokens += family.schema * self._text(json_strings(tool.input_schema))
        return tokens

    def _counted(self, message: Message) -> _Counted:
        texts, tokens = weigh(message, self._family)
        media = sum(len(getattr(block, "data", None) or b"") for block in message.content)
        return _Counted(tokens + sum(map(self._text, texts)), sum(map(len, texts)) + media + 100)

    def _text(self, text: str) -> float:
        return self._count(text) * self._family.scale

    def _corrected(self, tokens: float) -> int:
        return math.ceil(tokens * self._factor)

    # --- what providers report ---------------------------------------------------------------------------------------

    def history(self, messages: Sequence[Message], overhead: int) -> int:
        """How many tokens a request with these messages has, about.

        The newest answer that says what it took is taken for the truth up to there: its prompt, cached or not, and itself. What
        follows is estimated, and so is everything where no answer says it; each message once. So a turn costs what is new in it,
        however long the history is.

        Whoever takes something out of a history, or changes it, must make the answers after that say nothing, as with
        ``dataclasses.replace(message, usage=None)``: what they took was for the history as it was.

        Not taken for the truth are answers that broke off, or for which the vendor ran tools of its own, since that counts each
        of its steps; nor such as say less than half of what was counted, as where a server cuts a long prompt without saying so.

        Args:
            messages: the whole history; count long new messages with `messages` before.
            overhead: what `overhead` gives for the request.
        """
        follow = []
        counted = mine = _Sum(0.0, overhead / self._factor)
        for index in range(len(messages) - 1, -1, -1):
            reported = self._reported(messages[index])
            if reported is not None:
                mine = self._counted_until(messages, index) or _Sum(reported, 0.0)
                counted = _Sum(reported, 0.0) if 2 * reported >= self._total(mine) else mine
                break
            follow.append(messages[index])
        new = sum(self._memo(message).tokens for message in reversed(follow))
        counted = counted.plus(new)
        total = self._total(counted)
        _remember(self._asked, total, counted)
        if messages:
            previous = messages[-2] if len(messages) > 1 else None
            _remember(self._places, id(messages[-1]), _Place(previous, messages[-1], mine.plus(new)))
        return total

    def _total(self, counted: _Sum) -> int:
        return math.ceil(counted.reported) + self._corrected(counted.estimated)

    def _reported(self, message: Message) -> float | None:
        """What an answer says that everything up to and including it took, in this model's tokens."""
        usage = message.usage
        if usage is None or message.role != "assistant" or message.interrupted:
            return None
        if usage.prompt_tokens <= 0 or usage.output_tokens < 0 or usage.server_tool_calls or usage.requests > 1:
            return None
        total = usage.total_tokens
        if not any(block.type in ("thinking", "raw") for block in message.content):
            total -= min(usage.reasoning_tokens, usage.output_tokens)  # it doesn't go back
        other = family_of(message.model) if message.model else self._family
        return total * self._family.scale / other.scale

    def _counted_until(self, messages: Sequence[Message], index: int) -> _Sum | None:
        """The tokens up to an answer by what was counted when it was asked for; None where nothing was, or the vendor compacted."""
        answer = messages[index]
        if index == 0 or any(block.type == "raw" and block.kind == "compaction" for block in answer.content):
            return None
        place = self._places.get(id(messages[index - 1]))
        previous = messages[index - 2] if index > 1 else None
        if place is None or place.last is not messages[index - 1] or place.previous is not previous:
            return None
        return place.counted.plus(self._memo(answer).tokens)

    def learn(self, estimated: int, reported: int) -> None:
        """Corrects later estimates by what a request really had.

        What is far from what was estimated says nothing about how texts are counted (a server that reports nothing, or cuts
        prompts without saying so) and is left out, as are small requests. The rest counts by its size.

        Args:
            estimated: what `history` gave for the request, or `overhead` and `messages`.
            reported: its prompt as the provider reported it, cached or not: `Usage.prompt_tokens`.
        """
        known = self._asked.get(estimated, _Sum(0.0, estimated / self._factor))
        if reported <= 0 or known.estimated < _LEAST:
            return
        ratio = (reported - known.reported) / known.estimated
        if not _SANE[0] <= ratio <= _SANE[1]:
            return
        weight = min(known.estimated, _MOST)
        self._reports.append((weight, weight * ratio))
        learnt = (_PRIOR + sum(real for _, real in self._reports)) / (_PRIOR + sum(mine for mine, _ in self._reports))
        self._factor = min(max(learnt, _BOUNDS[0]), _BOUNDS[1])

    def __repr__(self) -> str:
        by = "characters" if self._count is estimated_tokens else self._family.table.name
        return f"TokenCounter(by {by}, correction={self._factor:.2f})"


def _exact(text: str, count: Callable[[str], int]) -> float:
    try:
        return sampled(text, count)
    except ValueError:  # a text that its patterns can't cut
        return estimated_tokens(text)


def _remember(entries: dict[int, _T], key: int, entry: _T) -> None:
    entries.pop(key, None)
    entries[key] = entry
    for old in list(islice(entries, max(0, len(entries) - _REQUESTS))):
        del entries[old]
