"""Making one history shorter, as its settings say; a summary is asked of a model."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING

import anyio

from alloy.errors import ProviderError
from alloy.loop.shortening import (
    clear_results,
    fitting,
    forget_thinking,
    join,
    note,
    recent_from,
    removed,
    shrink,
    split,
    words_of_user,
)
from alloy.loop.summary import INSTRUCTIONS, chunks, summary_request, words_of
from alloy.models.text import estimated_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.loop.compaction import Compaction
    from alloy.loop.middleware import RunContext
    from alloy.loop.shortening import Parts
    from alloy.messages import Message
    from alloy.models.tokens import TokenCounter
    from alloy.providers.base import Provider

__all__ = ["Shortener"]

LEAST_PIECE = 500  # tokens


class Shortener:
    """Makes one history shorter.

    Args:
        settings: how.
        provider: who answers the run.
        counter: counts tokens.
        overhead: what a request has besides its messages, in tokens.
        writer: who writes summaries, if not `provider`.

    Attributes:
        methods: what was done: ``cleared``, ``summary``, ``truncated``, ``shrunk``.
        left: how many tokens a request has afterwards, about.
    """

    def __init__(
        self,
        settings: Compaction,
        provider: Provider,
        counter: TokenCounter,
        overhead: int,
        writer: Provider | None,
    ) -> None:
        self.methods: list[str] = []
        self.left = 0
        self._settings = settings
        self._provider = provider
        self._counter = counter
        self._overhead = overhead
        self._writer = writer

    async def shortened(
        self, messages: Sequence[Message], tokens: int, window: int, run: RunContext
    ) -> Sequence[Message] | None:
        """A history that leaves room for an answer; None where this one can't be made shorter.

        Args:
            messages: the history.
            tokens: what it has with all that goes with it, as far as known.
            window: how much the model reads and writes, in tokens.
            run: the run.

        Raises:
            ProviderError: it can't be made to fit (kind ``context_overflow``).
            Exception: what `Compaction.on_compaction` raises.
        """
        await self._counter.load()
        await self._counter.messages(messages)
        settings = self._settings
        off = max(1.0, tokens / (self._count(messages) + self._overhead))  # the sum of estimates may be too small
        room = int((window - self._overhead) / off)
        target = room - int(min(settings.reserve(window), max(window - self._overhead, 0) // 2) / off)
        recent = min(settings.keep_recent(window), max(target, 0) // 2)
        after = self._cleared(messages, recent, target) or await self._replaced(messages, recent, window, run)
        after = self._shrunk(after, target, room)
        if _same(after, messages):
            return None
        await self._tell(messages, after)
        made = forget_thinking(messages, after, bound=getattr(self._provider, "binds_thinking", False))
        self.left = int(self._count(made) * off) + self._overhead
        return made

    async def _tell(self, before: Sequence[Message], after: Sequence[Message]) -> None:
        lost = removed(before, after)
        if self._settings.on_compaction is not None and lost:
            told = self._settings.on_compaction(lost)
            if inspect.isawaitable(told):
                await told

    def _cleared(self, messages: Sequence[Message], recent: int, target: int) -> tuple[Message, ...] | None:
        """The history with old tool results cleared, if that makes enough room for a while."""
        if self._settings.keep_tool_results is None:
            return None
        until = recent_from(messages, recent, self._counter.message)
        cleared = clear_results(messages, until, self._settings.keep_tool_results)
        if self._count(cleared) > target * 3 // 4 or _same(cleared, messages):
            return None
        self.methods.append("cleared")
        return cleared

    async def _replaced(
        self, messages: Sequence[Message], recent: int, window: int, run: RunContext
    ) -> tuple[Message, ...]:
        """The history with its older part replaced by a summary, or else by a note."""
        parts = split(messages)
        start = recent_from(parts.rest, recent, self._counter.message)
        old, kept = parts.rest[:start], parts.rest[start:]
        if not old:
            return tuple(messages)
        words = fitting([*parts.words, *words_of_user(old)], self._settings.keep_user(window))
        summary = await self._summary(parts, old, window, run)
        if summary is not None:
            after = join(parts.head, summary, kept, words)
            if self._count(after) < self._count(messages):
                self.methods.append("summary")
                return after
            run.emit("compaction_failed", reason="the summary is longer than what it replaces")
        if self._settings.fallback == "error":
            raise self._overflow(
                "no summary could be made of the conversation so far, and compaction.fallback is 'error'"
            )
        self.methods.append("truncated")
        return join(parts.head, note(parts.summary), kept, words)

    async def _summary(self, parts: Parts, old: Sequence[Message], window: int, run: RunContext) -> str | None:
        """What a model writes of the older part; None if it doesn't."""
        if self._writer is not None:
            window = await _window_of(self._writer, run)
        summary = parts.summary
        instructions = self._settings.instructions or INSTRUCTIONS
        reason = f"no summary within {self._settings.timeout:g} seconds"
        with anyio.move_on_after(self._settings.timeout):
            try:
                for transcript in chunks(old, self._piece(window, summary, instructions)):
                    request = summary_request(transcript, summary, instructions)
                    summary = words_of(completion := await run.complete(request, self._writer))
                    if summary is None:
                        run.emit("compaction_failed", reason=f"the answer was no summary ({completion.stop_reason})")
                        return None
            except ProviderError as error:
                reason = f"{error.kind}: {error}"
            else:
                return summary
        run.emit("compaction_failed", reason=reason)
        return None

    def _piece(self, window: int, summary: str | None, instructions: str) -> int:
        """How much of a conversation a model can summarise at once, in tokens."""
        besides = estimated_tokens(instructions) + 2 * estimated_tokens(summary or "")
        return max(int((window - self._settings.reserve(window)) * 0.9 - besides), LEAST_PIECE)

    def _shrunk(self, messages: tuple[Message, ...], target: int, room: int) -> tuple[Message, ...]:
        """The history with long texts cut, where it is too long all the same."""
        if self._count(messages) <= target:
            return messages
        for everything, limit in ((False, target), (True, target), (True, room * 19 // 20)):
            after = shrink(messages, lambda attempt, limit=limit: self._count(attempt) <= limit, everything=everything)  # type: ignore[misc]  # a default is no argument
            if after is not None:
                self.methods.append("shrunk")
                return after
        raise self._overflow(
            f"the request needs {self._count(messages) + self._overhead} tokens, and {room + self._overhead} are all there is; "
            "use shorter messages, fewer tools, or a model with a larger window"
        )

    def _count(self, messages: Sequence[Message]) -> int:
        return sum(map(self._counter.message, messages))

    def _overflow(self, message: str) -> ProviderError:
        return ProviderError(message, kind="context_overflow", provider=self._provider.name, model=self._provider.model)


async def _window_of(provider: Provider, run: RunContext) -> int:
    known = getattr(provider, "context_window", None)
    return known if isinstance(known, int) else (await run.model_info(provider)).window


def _same(after: Sequence[Message], before: Sequence[Message]) -> bool:
    return len(after) == len(before) and all(new is old for new, old in zip(after, before, strict=True))
