"""How a conversation is kept inside its model's window: the settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal

from alloy.errors import InvalidOptionError

if TYPE_CHECKING:
    from alloy.messages import Message
    from alloy.providers.base import Provider

__all__ = ["Compaction", "checked_compaction"]

RESERVE = 16_384  # tokens
KEEP_RECENT = 20_000  # tokens
KEEP_USER = 10_000  # tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class Compaction:
    """How a conversation is kept inside its model's window.

    When a request would have more than `Config.max_tokens` less `reserve_tokens`, its history is made shorter before it is
    sent: old tool results are cleared; where that isn't enough, all but the first message and the recent ones is replaced by
    a summary that a model writes; where there is none, `fallback` says what happens; and at last long texts are cut.

    Attributes:
        reserve_tokens: what is left free for the answer, in tokens; by default 16,384, or a quarter of `max_tokens` if that is less.
        keep_recent_tokens: how much of the recent conversation stays word for word, in tokens, at least the last step; by
            default 20,000, or a quarter of `max_tokens` if that is less.
        keep_user_tokens: how much of what the user said in the older part stays word for word beside the summary, the newest
            first, in tokens; by default 10,000, or a tenth of `max_tokens` if that is less.
        keep_tool_results: how many of the newest tool results are never cleared; None to clear none at all.
        fallback: what to do where a summary fails: ``truncate`` goes on without the older part, ``error`` fails the run with
            its history as it is.
        instructions: what the summary has to be like, in place of Alloy's own words.
        provider: who writes summaries, as an object or ``"vendor:model"``; by default the run's own provider.
        timeout: seconds that a summary may take.
        on_compaction: is called with the messages that are about to be taken out, before anything is lost; may be async. What
            it raises fails the run, with its history as it was.

    Raises:
        InvalidOptionError: a value is wrong.
    """

    reserve_tokens: int | None = None
    keep_recent_tokens: int | None = None
    keep_user_tokens: int | None = None
    keep_tool_results: int | None = 3
    fallback: Literal["truncate", "error"] = "truncate"
    instructions: str | None = None
    provider: Provider | str | None = None
    timeout: float = 120.0
    on_compaction: Callable[[Sequence[Message]], Awaitable[object] | object] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("reserve_tokens", "keep_recent_tokens", "keep_user_tokens", "keep_tool_results"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise InvalidOptionError(f"compaction.{name}", "a whole number of at least 0, or None", value)
        if self.fallback not in ("truncate", "error"):  # who isn't type-checked
            raise InvalidOptionError("compaction.fallback", "'truncate' or 'error'", self.fallback)
        instructions: Any = self.instructions
        if instructions is not None and (not isinstance(instructions, str) or not instructions.strip()):
            raise InvalidOptionError("compaction.instructions", "text or None", instructions)
        timeout: Any = self.timeout
        if isinstance(timeout, bool) or not isinstance(timeout, int | float) or not 0 < timeout < float("inf"):
            raise InvalidOptionError("compaction.timeout", "a number of seconds above 0", timeout)
        if self.on_compaction is not None and not callable(self.on_compaction):
            raise InvalidOptionError("compaction.on_compaction", "a function of messages", self.on_compaction)

    def check_with(self, max_tokens: int) -> None:
        """Checks that it leaves room in a window of so many tokens.

        Raises:
            InvalidOptionError: it doesn't.
        """
        reserve, keep = self.reserve(max_tokens), self.keep_recent(max_tokens) + self.keep_user(max_tokens)
        if reserve >= max_tokens:
            raise InvalidOptionError("compaction.reserve_tokens", f"less than max_tokens, {max_tokens}", reserve)
        if keep >= max_tokens - reserve:
            left = f"less than max_tokens leaves besides reserve_tokens, {max_tokens - reserve}"
            raise InvalidOptionError("compaction.keep_recent_tokens with keep_user_tokens", left, keep)

    def reserve(self, window: int) -> int:
        """`reserve_tokens` in a window of so many tokens."""
        return min(RESERVE, window // 4) if self.reserve_tokens is None else self.reserve_tokens

    def keep_recent(self, window: int) -> int:
        """`keep_recent_tokens` in a window of so many tokens."""
        return min(KEEP_RECENT, window // 4) if self.keep_recent_tokens is None else self.keep_recent_tokens

    def keep_user(self, window: int) -> int:
        """`keep_user_tokens` in a window of so many tokens."""
        return min(KEEP_USER, window // 10) if self.keep_user_tokens is None else self.keep_user_tokens


def checked_compaction(name: str, value: Any) -> Compaction | None:
    """The compaction that an option's value stands for; None for none.

    Raises:
        InvalidOptionError: it stands for none.
    """
    match value:
        case True:
            return Compaction()
        case None | False:
            return None
        case Compaction():
            return value
        case Mapping():
            known = [one.name for one in fields(Compaction)]
            for option in value:
                if option not in known:
                    raise InvalidOptionError(name, f"a mapping with some of {', '.join(known)}", option)
            return Compaction(**value)
        case _:
            raise InvalidOptionError(name, "an alloy.Compaction, a mapping of its options, or None for none", value)
