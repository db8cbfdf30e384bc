"""Hearing one answer: what comes of it is shown, counted, and kept for whoever has to break off."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

from alloy.errors import ProviderError
from alloy.providers.base import Completion, RateLimitWait, Retry, TextDelta, ThinkingDelta, ToolCallDelta, held
from alloy.providers.batches import in_batches

if TYPE_CHECKING:
    from collections.abc import Callable

    from alloy.errors import ErrorKind
    from alloy.events import Emitter
    from alloy.loop.channel import Gate
    from alloy.loop.turn import Turn
    from alloy.providers.base import Provider, ProviderItem, Request
    from alloy.usage import Usage

__all__ = ["NO_ANSWER", "Listener", "provider_error"]

NO_ANSWER = ("refusal", "unknown")
"""Why a model stopped that has not answered."""


def provider_error(provider: Provider, message: str, kind: ErrorKind, code: str | None = None) -> ProviderError:
    """An error of this provider's."""
    return ProviderError(message, kind=kind, code=code, provider=provider.name, model=provider.model)


class Listener:
    """Hears answers.

    Args:
        provider: who answers.
        events: where to show them.
        gate: holds the run up while its reader is behind.
        spend: is told what was paid for, be it an answer or a failure.
    """

    def __init__(self, provider: Provider, events: Emitter, gate: Gate | None, spend: Callable[[Usage], None]) -> None:
        self._provider = provider
        self._events = events
        self._gate = gate
        self._spend = spend

    async def listen(self, turn: Turn, request: Request) -> Completion:
        """Hears one answer.

        Args:
            turn: gets the answer, or what there was of it.
            request: what to ask.

        Raises:
            ProviderError: it failed, or broke off.
        """
        gate = self._gate
        try:
            async with self._provider.stream(request) as items:
                async for batch in in_batches(items):
                    for item in batch:
                        if turn.completion is not None:
                            said = "the provider sent something after the end of its answer"
                            raise provider_error(self._provider, said, "unknown")
                        self._hear(turn, item)
                        if gate is not None and gate.full:
                            await gate.wait()
            if turn.completion is None:
                raise provider_error(self._provider, "the answer broke off before its end", "network")
        except ProviderError as error:
            self._count(turn, error.usage)
            raise
        return turn.completion

    async def ask_aside(self, provider: Provider, request: Request) -> Completion:
        """Asks something besides the conversation, of which nothing is shown but that it's retried or waits.

        Raises:
            ProviderError: it failed, or broke off.
        """
        completion: Completion | None = None
        try:
            async with held(provider), provider.stream(request) as items:
                async for batch in in_batches(items):
                    for item in batch:
                        if isinstance(item, Completion):
                            completion = item
                            self._spend(item.usage)
                        elif isinstance(item, Retry | RateLimitWait):
                            self._tell(item)
        except ProviderError as error:
            if error.usage is not None:
                self._spend(error.usage)
            raise
        if completion is None:
            raise provider_error(provider, "the answer broke off before its end", "network")
        return completion

    def _count(self, turn: Turn, usage: Usage | None) -> None:
        if usage is not None:
            turn.spend(usage)
            self._spend(usage)

    def _hear(self, turn: Turn, item: ProviderItem) -> None:
        match item:
            case TextDelta():
                if self._events.watched:
                    turn.emitted = True
                    turn.shown.append(item.text)
                    self._events.emit("text_delta", text=item.text)
            case ThinkingDelta() | ToolCallDelta():
                if self._events.watched:
                    turn.emitted = True
                    self._show(item)
            case Completion():
                turn.completion = item
                self._count(turn, item.usage)
                if item.stop_reason not in NO_ANSWER and not turn.shown and item.message.text:
                    self._events.emit("text_delta", text=item.message.text)
            case Retry(error=error):
                if error.usage is not None:
                    turn.spend(error.usage)
                self._tell(item)
            case RateLimitWait():
                self._tell(item)
            case _:
                assert_never(item)

    def _tell(self, item: Retry | RateLimitWait) -> None:
        match item:
            case Retry(attempt=attempt, delay=delay, error=error, next=asked_next):
                if error.usage is not None:
                    self._spend(error.usage)
                said = {"type": type(error).__name__, "kind": error.kind, "message": str(error)}
                self._events.emit("retry", attempt=attempt, delay_s=delay, error=said, next=asked_next)
            case RateLimitWait(reason=reason, delay=delay, ahead=ahead, waits_for=awaited):
                told = {"reason": reason, "delay_s": delay, "ahead": ahead, "waits_for": awaited}
                self._events.emit("runtime_event", kind="rate_limited_wait", **told)
            case _:
                assert_never(item)

    def _show(self, delta: ThinkingDelta | ToolCallDelta) -> None:
        match delta:
            case ThinkingDelta(text):
                self._events.emit("thinking_delta", text=text)
            case ToolCallDelta(index, id_, name, arguments):
                self._events.emit("tool_call_delta", index=index, id=id_, name=name, arguments=arguments)
            case _:
                assert_never(delta)
