"""The middleware that makes a history shorter when it gets too long for its model."""

from __future__ import annotations

import inspect
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any

import anyio

from alloy.errors import ProviderError
from alloy.loop.asking import build_provider
from alloy.loop.middleware import Middleware
from alloy.loop.shortening import clear_results, forget_thinking, join, note, recent_from, removed, shrink, split
from alloy.loop.summary import INSTRUCTIONS, chunks, summary_request, words_of
from alloy.messages import TextBlock, ThinkingBlock, ToolResultBlock, ToolUseBlock
from alloy.models.text import estimated_tokens
from alloy.models.tokens import TokenCounter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.loop.compaction import Compaction
    from alloy.loop.config import Config
    from alloy.loop.middleware import RunContext
    from alloy.loop.shortening import Parts
    from alloy.messages import Message
    from alloy.providers.base import Completion, Provider, ToolSpec

__all__ = ["Compactor", "compactor_for", "details_of"]

QUIET = 6_000
"""How many tokens are taken to fit into every window, so that nobody is asked how large it is."""
LOOK = 20_000  # characters after which it's counted again
OF_MEDIA = 3_000  # what a picture or a document is taken for until it's counted
OF_TOOL = 300  # what a tool's parameters are taken for until they are counted
LEAST_PIECE = 500  # tokens
LEAST_CUT = 1_000  # tokens; servers that leave something out keep more
CUT = 0.7
"""A request of which a server has read less than this share was cut by it."""

_log = logging.getLogger("alloy")


def compactor_for(config: Config, provider: Provider, specs: Sequence[ToolSpec]) -> Compactor | None:
    """What keeps a run of these options inside its model's window; None if nothing shall.

    Args:
        config: the options.
        provider: who answers the run.
        specs: the tools that every request offers.
    """
    settings = config.compaction
    if settings is None:
        return None
    writer = None
    if settings.provider is not None:
        writer = build_provider(config.with_options(provider=settings.provider, fallback_providers=()))
    return Compactor(settings, provider, specs, config.system_prompt, config.max_tokens, writer)


def details_of(compactor: Compactor | None, after: Sequence[Message]) -> dict[str, Any]:
    """What a ``compaction`` envelope says of a history that somebody made shorter, besides its length."""
    if compactor is None or compactor.made is not after:
        return {"methods": ["middleware"], "before_tokens": None, "after_tokens": None}
    before_tokens, after_tokens = compactor.tokens
    return {"methods": compactor.methods, "before_tokens": before_tokens, "after_tokens": after_tokens}


class Compactor(Middleware):
    """The middleware that keeps one run inside its model's window.

    Args:
        settings: how.
        provider: who answers the run.
        specs: the tools that every request offers.
        system: the system prompt that every request has.
        max_tokens: the window, in tokens; None for what the model's is.
        writer: who writes summaries, if not `provider`.

    Attributes:
        methods: what the last compaction did: ``cleared``, ``summary``, ``truncated``, ``shrunk``.
        made: the history that the last compaction made.
        tokens: how many a request had before it and has after it, about.
    """

    def __init__(
        self,
        settings: Compaction,
        provider: Provider,
        specs: Sequence[ToolSpec],
        system: str | None,
        max_tokens: int | None,
        writer: Provider | None,
    ) -> None:
        self.methods: list[str] = []
        self.made: Sequence[Message] | None = None
        self.tokens = (0, 0)
        self._settings = settings
        self._provider = provider
        self._writer = writer
        self._system = system
        self._specs = specs
        self._least = len(system or "") + sum(len(tool.description) + OF_TOOL for tool in specs)
        self._window = max_tokens or getattr(provider, "context_window", None)
        self._looked = 0  # messages of the history that were looked at
        self._counted = 0  # and those that were counted
        self._unsure = self._least  # more tokens than it has, as long as nothing was counted
        self._since = 0  # characters since something was counted
        self._sent = 0
        self._reported = 0

    @cached_property
    def counter(self) -> TokenCounter:
        """Counts tokens."""
        return TokenCounter(self._provider.model)

    @cached_property
    def _overhead(self) -> int:
        return self.counter.overhead(self._system, self._specs)

    # --- hooks -------------------------------------------------------------------------------------------------------

    async def compact(self, messages: Sequence[Message], run: RunContext) -> Sequence[Message] | None:
        """Makes a history shorter that is too long."""
        if not self._worth_counting(messages):
            return None
        await self.counter.messages(messages[self._counted :])  # in a thread, if that's much
        tokens = self._sent = self.counter.history(messages, self._overhead)
        self._counted, self._unsure, self._since = len(messages), tokens, 0
        if self._window is None and tokens <= QUIET:
            return None
        window = await self._known_window(run)
        if tokens <= window - self._settings.reserve(window):
            return None
        return await self._shortened(messages, tokens, window, run)

    def _worth_counting(self, messages: Sequence[Message]) -> bool:
        """Whether there may be too many tokens, or it's time to see: a character is hardly ever more than one."""
        self._sent = 0
        if len(messages) < self._looked:
            self._looked, self._counted, self._unsure = 0, 0, self._least
        size = sum(map(_size, messages[self._looked :]))
        self._looked = len(messages)
        self._unsure += size
        self._since += size
        limit = QUIET if self._window is None else self._window - self._settings.reserve(self._window)
        return self._unsure > limit or self._since > LOOK

    async def on_context_overflow(
        self, error: ProviderError, messages: Sequence[Message], run: RunContext
    ) -> Sequence[Message] | None:
        """Makes a history shorter that the provider finds too long, whatever we have counted."""
        window = await self._known_window(run)
        counted = self.counter.history(messages, self._overhead)
        self._window = min(window, max(counted * 9 // 10, 1))
        _log.info("the provider refused %d tokens as too many (%s)", counted, error.code or error.kind)
        try:
            return await self._shortened(messages, counted, self._window, run)
        except ProviderError:
            return None  # the provider's own error says it better

    async def after_completion(self, completion: Completion, run: RunContext) -> None:
        """Learns what a request really had, and notices when a server has left out its beginning."""
        reported, expected = completion.usage.prompt_tokens, max(self._sent, self._reported)
        if reported < LEAST_CUT:
            return
        if reported < expected * CUT:
            self._window = min(self._window or reported, reported + completion.usage.output_tokens)
            run.emit("context_truncated", reported_tokens=reported, expected_tokens=expected)
            _log.warning("%s read %d tokens of a request of about %d", self._provider.name, reported, expected)
        elif self._sent:
            self.counter.learn(self._sent, reported)
        self._reported = reported

    async def _known_window(self, run: RunContext) -> int:
        if self._window is None:
            self._window = (await run.model_info()).window
        return self._window

    # --- the work ----------------------------------------------------------------------------------------------------

    async def _shortened(
        self, messages: Sequence[Message], tokens: int, window: int, run: RunContext
    ) -> Sequence[Message] | None:
        """A history that leaves room for an answer.

        Args:
            messages: the history.
            tokens: what it has with all that goes with it, as far as known.
            window: how much the model reads and writes, in tokens.
            run: the run.

        Raises:
            ProviderError: there is none (kind ``context_overflow``).
        """
        settings, self.methods, self._reported, self._looked = self._settings, [], 0, 0
        self._counted = 0
        await self.counter.load()
        await self.counter.messages(messages)
        off = max(1.0, tokens / (self._count(messages) + self._overhead))  # the sum of estimates may be too small
        room = int((window - self._overhead) / off)
        target = room - int(min(settings.reserve(window), max(window - self._overhead, 0) // 2) / off)
        recent = min(settings.keep_recent(window), max(target, 0) // 2)
        after = self._cleared(messages, recent, target) or await self._replaced(messages, recent, run)
        after = self._shrunk(after, target, room)
        if _same(after, messages):
            return None
        await self._tell(messages, after)
        self.made = forget_thinking(messages, after, bound=getattr(self._provider, "binds_thinking", False))
        self.tokens = (tokens, int(self._count(self.made) * off) + self._overhead)
        return self.made

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
        until = recent_from(messages, recent, self.counter.message)
        cleared = clear_results(messages, until, self._settings.keep_tool_results)
        if self._count(cleared) > target * 3 // 4 or _same(cleared, messages):
            return None
        self.methods.append("cleared")
        return cleared

    async def _replaced(self, messages: Sequence[Message], recent: int, run: RunContext) -> tuple[Message, ...]:
        """The history with its older part replaced by a summary, or else by a note."""
        parts = split(messages)
        start = recent_from(parts.rest, recent, self.counter.message)
        old, kept = parts.rest[:start], parts.rest[start:]
        if not old:
            return tuple(messages)
        summary = await self._summary(parts, old, run)
        if summary is not None:
            after = join(parts.head, summary, kept)
            if self._count(after) < self._count(messages):
                self.methods.append("summary")
                return after
            run.emit("compaction_failed", reason="the summary is longer than what it replaces")
        if self._settings.fallback == "error":
            raise self._overflow(
                "no summary could be made of the conversation so far, and compaction.fallback is 'error'"
            )
        self.methods.append("truncated")
        return join(parts.head, note(parts.summary), kept)

    async def _summary(self, parts: Parts, old: Sequence[Message], run: RunContext) -> str | None:
        """What a model writes of the older part; None if it doesn't."""
        provider = self._writer
        window = await self._window_of(provider, run)
        summary = parts.summary
        instructions = self._settings.instructions or INSTRUCTIONS
        reason = f"no summary within {self._settings.timeout:g} seconds"
        with anyio.move_on_after(self._settings.timeout):
            try:
                for transcript in chunks(old, self._piece(window, summary, instructions)):
                    request = summary_request(transcript, summary, instructions)
                    summary = words_of(completion := await run.complete(request, provider))
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

    async def _window_of(self, provider: Provider | None, run: RunContext) -> int:
        if provider is None:
            return await self._known_window(run)
        known = getattr(provider, "context_window", None)
        return known if isinstance(known, int) else (await run.model_info(provider)).window

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
        return sum(map(self.counter.message, messages))

    def _overflow(self, message: str) -> ProviderError:
        return ProviderError(message, kind="context_overflow", provider=self._provider.name, model=self._provider.model)


def _size(message: Message) -> int:
    """How much a message has, about in characters; a look, not more."""
    size = 20
    for block in message.content:
        match block:
            case TextBlock():
                size += len(block.text)
            case ToolUseBlock():
                size += len(block.name) + len(repr(block.input))
            case ToolResultBlock():
                size += sum(len(part.text) if isinstance(part, TextBlock) else OF_MEDIA for part in block.content)
            case ThinkingBlock():
                size += len(block.text) + len(block.signature or "")
            case _:
                size += OF_MEDIA
    return size


def _same(after: Sequence[Message], before: Sequence[Message]) -> bool:
    return len(after) == len(before) and all(new is old for new, old in zip(after, before, strict=True))
