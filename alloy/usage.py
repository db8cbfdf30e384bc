"""What a run used: tokens, counted the same way for every provider."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alloy._quick import quick

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Usage"]


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one or more requests; add two with ``+``.

    The four main counts never overlap, whatever a vendor reports: what was read from a cache isn't in `input_tokens`,
    and reasoning is part of `output_tokens`.

    Attributes:
        input_tokens: prompt tokens that no cache served, in tokens.
        cache_read_tokens: prompt tokens served from a cache.
        cache_write_tokens: prompt tokens written to a cache.
        output_tokens: tokens that the model wrote, reasoning included.
        reasoning_tokens: the part of `output_tokens` that was reasoning.
        server_tool_calls: calls of tools that the vendor ran itself.
        requests: answers received, that is, requests that were paid for.
    """

    input_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    server_tool_calls: int = 0
    requests: int = 0

    @property
    def prompt_tokens(self) -> int:
        """The whole prompt, cached or not, in tokens."""
        return self.input_tokens + self.cache_read_tokens + self.cache_write_tokens

    @property
    def total_tokens(self) -> int:
        """Prompt and output, in tokens."""
        return self.prompt_tokens + self.output_tokens

    def as_dict(self) -> dict[str, int]:
        """The counts by name."""
        return {
            "input_tokens": self.input_tokens,
            "cache_read_tokens": self.cache_read_tokens,
            "cache_write_tokens": self.cache_write_tokens,
            "output_tokens": self.output_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "server_tool_calls": self.server_tool_calls,
            "requests": self.requests,
        }

    def __add__(self, other: Usage) -> Usage:
        return self.plus((other,))

    def plus(self, others: Sequence[Usage]) -> Usage:
        """The sum of this and others, in one go."""
        if not others:
            return self
        every = (self, *others)
        return Usage(
            input_tokens=sum([one.input_tokens for one in every]),
            cache_read_tokens=sum([one.cache_read_tokens for one in every]),
            cache_write_tokens=sum([one.cache_write_tokens for one in every]),
            output_tokens=sum([one.output_tokens for one in every]),
            reasoning_tokens=sum([one.reasoning_tokens for one in every]),
            server_tool_calls=sum([one.server_tool_calls for one in every]),
            requests=sum([one.requests for one in every]),
        )
