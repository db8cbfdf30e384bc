"""What makes a history shorter when it gets too long for its model."""

from __future__ import annotations

import logging
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeAlias

from alloy.errors import ProviderError
from alloy.loop.asking import build_provider
from alloy.messages import TextBlock, ThinkingBlock, ToolResultBlock, ToolUseBlock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.loop.compaction import Compaction
    from alloy.loop.config import Config
    from alloy.loop.middleware import RunContext
    from alloy.loop.prefix import Prefix
    from alloy.messages import Message
    from alloy.models.tokens import TokenCounter
    from alloy.providers.base import Completion, Provider, ToolSpec

__all__ = ["Compactor", "Trail", "compactor_for", "details_of"]

Trail: TypeAlias = "tuple[Prefix, Compactor | None]"
"""What a run knows of a conversation's requests, for the next run of the same conversation."""

QUIET = 6_000
"""How many tokens are taken to fit into every window, so that nobody is asked how large it is."""
LOOK = 20_000  # characters after which it's counted again
OF_MEDIA = 3_000  # what a picture or a document is taken for until it's counted
OF_TOOL = 300  # what a tool's parameters are taken for until they are counted
LEAST_CUT = 1_000  # tokens; servers that leave something out keep more
CUT = 0.7
"""A request of which a server has read less than this share was cut by it."""

_log = logging.getLogger("alloy")


def compactor_for(
    config: Config, provider: Provider, specs: Sequence[ToolSpec], system: str | None
) -> Compactor | None:
    """What keeps a run of these options inside its model's window; None if nothing shall.

    Args:
        config: the options.
        provider: who answers the run.
        specs: the tools that every request offers.
        system: the system prompt that every request has.
    """
    settings = config.compaction
    if settings is None:
        return None
    writer = None
    if settings.provider is not None:
        writer = build_provider(config.with_options(provider=settings.provider, fallback_providers=()))
    return Compactor(settings, provider, specs, system, config.max_tokens, writer)


def details_of(compactor: Compactor | None, after: Sequence[Message]) -> dict[str, Any]:
    """What a ``compaction`` envelope says of a history that somebody made shorter, besides its length."""
    if compactor is None or compactor.made is not after:
        return {"methods": ["middleware"], "before_tokens": None, "after_tokens": None}
    before_tokens, after_tokens = compactor.tokens
    return {"methods": compactor.methods, "before_tokens": before_tokens, "after_tokens": after_tokens}


class Compactor:
    """Keeps one run inside its model's window, after its middleware had a chance to.

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
        self.methods: Sequence[str] = ()
        self.made: Sequence[Message] | None = None
        self.tokens = (0, 0)
        self._settings = settings
        self._provider = provider
        self._writer = writer
        self._system = system
        self._specs = specs
        self._least = len(system or "") + sum(len(tool.description) + OF_TOOL for tool in specs)
        self._window = max_tokens or getattr(provider, "context_window", None)
        self._looked = 0  # messages that were looked at
        self._counted = 0  # and those that were counted
        self._unsure = self._least  # more tokens than there are, as long as nothing was counted
        self._since = 0  # characters since something was counted
        self._sent = 0
        self._reported = 0

    def go_on_after(self, other: Compactor) -> None:
        """Takes over what is known of the same conversation, so that a request needn't look at all of it."""
        self._looked, self._counted, self._unsure = other._looked, other._counted, other._unsure
        self._since = other._since
        if self._provider.model == other._provider.model and "counter" in other.__dict__:
            self.__dict__["counter"] = other.counter
        if self._provider is other._provider:
            self._window = other._window

    @cached_property
    def counter(self) -> TokenCounter:
        """Counts tokens."""
        from alloy.models.tokens import TokenCounter  # noqa: PLC0415  a short run needs none of this

        return TokenCounter(self._provider.model)

    @cached_property
    def _overhead(self) -> int:
        return self.counter.overhead(self._system, self._specs)

    def worth_counting(self, messages: Sequence[Message]) -> bool:
        """Whether there may be too many tokens, or it's time to see: a character is hardly ever more than one."""
        self._sent = 0
        size = 0
        for message in messages[self._looked :]:
            size += _size(message)
        self._looked = len(messages)
        self._unsure += size
        self._since += size
        limit = QUIET if self._window is None else self._window - self._settings.reserve(self._window)
        return self._unsure > limit or self._since > LOOK

    async def compact(self, messages: Sequence[Message], run: RunContext) -> Sequence[Message] | None:
        """A shorter history, if this one is too long, which is counted; ask first whether it is `worth_counting`."""
        await self.counter.messages(messages[self._counted :])  # in a thread, if that's much
        tokens = self._sent = self.counter.history(messages, self._overhead)
        self._counted, self._unsure, self._since = len(messages), tokens, 0
        if self._window is None and tokens <= QUIET:
            return None
        window = await self._known_window(run)
        if tokens <= window - self._settings.reserve(window):
            return None
        return await self._shortened(messages, tokens, window, run)

    async def after_overflow(
        self, error: ProviderError, messages: Sequence[Message], run: RunContext
    ) -> Sequence[Message] | None:
        """A shorter history, since the provider finds this one too long, whatever we have counted."""
        window = await self._known_window(run)
        counted = self.counter.history(messages, self._overhead)
        self._window = min(window, max(counted * 9 // 10, 1))
        _log.info("the provider refused %d tokens as too many (%s)", counted, error.code or error.kind)
        try:
            return await self._shortened(messages, counted, self._window, run)
        except ProviderError:
            return None  # the provider's own error says it better

    def learn(self, completion: Completion, run: RunContext) -> None:
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

    async def _shortened(
        self, messages: Sequence[Message], tokens: int, window: int, run: RunContext
    ) -> Sequence[Message] | None:
        from alloy.loop.shortener import Shortener  # noqa: PLC0415  likewise

        self._reported = 0
        shortener = Shortener(self._settings, self._provider, self.counter, self._overhead, self._writer)
        made = await shortener.shortened(messages, tokens, window, run)
        if made is not None:
            self.made, self.methods, self.tokens = made, shortener.methods, (tokens, shortener.left)
        return made


def _size(message: Message) -> int:
    """How much a message has, about in characters; a look, not more."""
    size = 20
    for block in message.content:
        if isinstance(block, TextBlock):
            size += len(block.text)
        elif isinstance(block, ToolResultBlock):
            for part in block.content:
                size += len(part.text) if isinstance(part, TextBlock) else OF_MEDIA
        elif isinstance(block, ToolUseBlock):
            size += len(block.name) + len(repr(block.input))
        elif isinstance(block, ThinkingBlock):
            size += len(block.text) + len(block.signature or "")
        else:
            size += OF_MEDIA
    return size
