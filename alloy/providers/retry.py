"""Providers made of providers: `Retrying` asks again, `Fallback` asks somebody else.

Neither does once anything of an answer has come: what was shown is one model's answer or nothing.
"""

from __future__ import annotations

import copy
import random
from abc import ABC, abstractmethod
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Self, cast

import anyio

from alloy.errors import BudgetExceededError, InvalidOptionError, ProviderError
from alloy.providers.base import NOT_SENT, Provider, RateLimitWait, Retry, held, is_provider, structured_output
from alloy.providers.batches import Batches, in_batches
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence

    from alloy.errors import ErrorKind
    from alloy.providers.base import ProviderItem, Request, StructuredOutput

__all__ = ["Asking", "Fallback", "Retrying", "Wrapper"]

LONGEST_BACKOFF = 60.0  # seconds
LONGEST_WAIT = 600.0
"""The longest wait that a provider may ask for, in seconds; whoever asks for more is given up at once."""
_BEFORE = (Retry, RateLimitWait)
SAME_ELSEWHERE: frozenset[ErrorKind] = frozenset({"invalid_request", "refused"})


class Wrapper(ABC):
    """A provider that goes by the name of another, and holds that one."""

    def __init__(self, provider: Provider) -> None:
        self._provider = _checked(provider)

    @property
    def name(self) -> str:
        """Who answers."""
        return self._provider.name

    @property
    def model(self) -> str:
        """Which model answers."""
        return self._provider.model

    def around(self, wrap: Callable[[Provider], Provider]) -> Self:
        """The same around what `wrap` makes of each provider that is asked."""
        other = copy.copy(self)
        other._provider = wrap(self._provider)  # noqa: SLF001  its own class
        return other

    @property
    def binds_thinking(self) -> bool:
        """Whether signed thinking is only valid behind the messages that it came after."""
        return getattr(self._provider, "binds_thinking", False)

    @property
    def context_window(self) -> int | None:
        """How much the model reads and writes, in tokens, where the provider itself knows it."""
        return getattr(self._provider, "context_window", None)

    def structured_output(self, schema: Mapping[str, Any], *, tools: bool) -> StructuredOutput:
        """How the model is made to answer by a schema; see `alloy.providers.base.StructuresOutput`."""
        return structured_output(self._provider, schema, tools=tools)

    async def __aenter__(self) -> Self:
        if isinstance(self._provider, AbstractAsyncContextManager):
            await self._provider.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        if isinstance(self._provider, AbstractAsyncContextManager):
            await self._provider.__aexit__(*error)  # type: ignore[arg-type]  # passed on as it came

    @abstractmethod
    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[ProviderItem]]:
        """Asks; see `alloy.providers.base.Provider`."""

    async def count_tokens(self, request: Request) -> int:
        """How many tokens a request has, by the provider whose name this goes by; see `alloy.providers.base.CountsTokens`.

        Raises:
            ProviderError: that one's vendor has no endpoint for that, can't be reached, or refuses.
        """
        from alloy.providers.counting import passed_on  # noqa: PLC0415  only who counts pays for it

        return await passed_on(self._provider, request)


class Asking(AbstractAsyncContextManager[Any]):
    """A generator as a context manager; a generator more would cost as much as all the rest."""

    __slots__ = ("_batches",)

    def __init__(self, batches: AsyncGenerator[Sequence[ProviderItem]]) -> None:
        self._batches = batches

    async def __aenter__(self) -> AsyncIterator[ProviderItem]:
        return Batches(self._batches)

    async def __aexit__(self, *error: object) -> None:
        await self._batches.aclose()


def _checked(provider: object) -> Provider:
    if not is_provider(provider):
        raise InvalidOptionError("provider", "a provider object", provider)
    return cast("Provider", provider)


class Retrying(Wrapper):
    """Asks a provider again when it failed in a way that may pass.

    It waits longer each time, by chance between nothing and `backoff` doubled each time (full jitter, as in
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/), but as long as the provider asks for; where
    that would be longer than ten minutes or go past a surrounding deadline it gives up at once. A provider that makes all its
    requests wait by itself until then is asked at once.

    Args:
        provider: who is asked.
        max_retries: how many times to ask again, at most.
        backoff: the longest first wait, in seconds; no wait gets longer than 60 unless the provider asks for it.
        chance: gives numbers from 0 up to 1.

    Raises:
        InvalidOptionError: a wrong value.
    """

    def __init__(
        self,
        provider: Provider,
        *,
        max_retries: int = 3,
        backoff: float = 1.0,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(provider)
        if max_retries < 0:
            raise InvalidOptionError("max_retries", "a whole number of at least 0", max_retries)
        if not backoff >= 0:
            raise InvalidOptionError("retry_backoff", "a number of seconds of at least 0", backoff)
        self._max_retries = max_retries
        self._backoff = backoff
        self._chance = chance

    def __repr__(self) -> str:
        return f"Retrying({self._provider!r}, max_retries={self._max_retries})"

    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[ProviderItem]]:
        """Asks, and asks again; see `alloy.providers.base.Provider`.

        Raises:
            ProviderError: while iterating, when all attempts have failed or something was shown already.
        """
        return _Attempts(self, self._provider, request)

    def again(self, attempt: int, error: ProviderError) -> Retry | None:
        """What is said before another attempt; None if there is none after this failure."""
        if not error.retryable or attempt > self._max_retries or error.code == NOT_SENT:
            return None
        delay = self._delay(attempt, error)
        if delay > LONGEST_WAIT or anyio.current_time() + delay >= anyio.current_effective_deadline():
            return None
        return Retry(attempt=attempt, delay=delay, error=error, next=f"{self.name}:{self.model}")

    def _delay(self, attempt: int, error: ProviderError) -> float:
        wait = min(self._backoff * 2.0 ** (attempt - 1), LONGEST_BACKOFF) * self._chance()
        return max(wait, error.retry_after or 0.0)


class _Attempts(AbstractAsyncContextManager[Any]):
    """One attempt after the other; no generator, since every turn of every run goes through it, mostly with one attempt.

    Args:
        retrying: says whether there is another attempt.
        provider: who is asked.
        request: what is asked.
    """

    __slots__ = ("_answer", "_attempt", "_begun", "_delay", "_items", "_provider", "_request", "_retrying")

    def __init__(self, retrying: Retrying, provider: Provider, request: Request) -> None:
        self._retrying = retrying
        self._provider = provider
        self._request = request
        self._attempt = 1
        self._delay: float | None = None
        self._begun = False
        self._answer: AbstractAsyncContextManager[AsyncIterator[ProviderItem]] | None = None
        self._items: AsyncIterator[Sequence[ProviderItem]] | None = None

    async def __aenter__(self) -> AsyncIterator[ProviderItem]:
        return Batches(self)

    async def __aexit__(self, *error: object) -> None:
        answer, self._answer, self._items = self._answer, None, None
        if answer is not None:
            await answer.__aexit__(*error)  # type: ignore[arg-type]  # passed on as it came

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[ProviderItem]:
        try:
            batch = await anext(self._items or await self._open())
        except ProviderError as error:
            retry = None if self._begun else self._retrying.again(self._attempt, error)
            if retry is None:
                raise
            await self.__aexit__(type(error), error, error.__traceback__)
            self._attempt += 1
            self._delay = None if error.governed else retry.delay
            return (retry,)
        self._begun = self._begun or _is_answer(batch)
        return batch

    async def _open(self) -> AsyncIterator[Sequence[ProviderItem]]:
        if self._delay is not None:
            await anyio.sleep(self._delay)
        answer = self._provider.stream(self._request)
        self._items = in_batches(await answer.__aenter__())
        self._answer = answer
        return self._items


class Fallback(Wrapper):
    """Asks the next provider when one failed in a way that may be better elsewhere: everything but bad requests and refusals.

    Where a budget doesn't pay for one of them, the next is asked, too, which may be cheaper.

    Args:
        first: who is asked first, and whose name this goes by.
        others: who is asked then, in order; each is only held (connected, started) while it is asked.

    Raises:
        InvalidOptionError: something isn't a provider, or there are no others.
    """

    def __init__(self, first: Provider, *others: Provider) -> None:
        super().__init__(first)
        if not others:
            raise InvalidOptionError("fallback_providers", "at least one provider besides the first", None)
        self._others = tuple(_checked(other) for other in others)

    def around(self, wrap: Callable[[Provider], Provider]) -> Self:
        """The same around what `wrap` makes of each provider that is asked."""
        other = super().around(wrap)
        other._others = tuple(map(wrap, self._others))  # noqa: SLF001  its own class
        return other

    @property
    def binds_thinking(self) -> bool:
        """Whether signed thinking of any of them is only valid behind the messages that it came after."""
        return any(getattr(one, "binds_thinking", False) for one in (self._provider, *self._others))

    def __repr__(self) -> str:
        return f"Fallback({', '.join(map(repr, (self._provider, *self._others)))})"

    def structured_output(self, schema: Mapping[str, Any], *, tools: bool) -> StructuredOutput:
        """How all of them can be made to answer by a schema: as the one of them does that can least."""
        ways = {structured_output(one, schema, tools=tools) for one in (self._provider, *self._others)}
        return "prompt" if "prompt" in ways else "tool" if "tool" in ways else "native"

    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[ProviderItem]]:
        """Asks one after the other; see `alloy.providers.base.Provider`.

        Raises:
            ProviderError: while iterating, when all have failed or something was shown already.
        """
        return Asking(self._batches(request))

    async def _batches(self, request: Request) -> AsyncGenerator[Sequence[ProviderItem]]:
        for attempt, (provider, following) in enumerate(
            zip((self._provider, *self._others), (*self._others, None), strict=True), 1
        ):
            begun = False
            try:
                async with held(provider), provider.stream(request) as items:
                    async for batch in in_batches(items):
                        begun = begun or _is_answer(batch)
                        yield batch
                return
            except ProviderError as error:
                if begun or following is None or error.kind in SAME_ELSEWHERE:
                    raise
                failure = error
            except BudgetExceededError as error:
                if begun or following is None:
                    raise
                failure = _quota(error)  # a cheaper one may do
            yield (Retry(attempt=attempt, delay=0.0, error=failure, next=f"{following.name}:{following.model}"),)


def _is_answer(batch: Sequence[ProviderItem]) -> bool:
    """Whether anything of an answer is in it."""
    for item in batch:  # noqa: SIM110  any() with a generator takes three times as long, and there is a batch for each delta
        if not isinstance(item, _BEFORE):
            return True
    return False


def _quota(error: BudgetExceededError) -> ProviderError:
    """A budget that is too small for a provider, as a failure of that one's."""
    return ProviderError(
        error.reason, kind="quota", code="budget_exceeded", provider=error.provider, model=error.model, usage=Usage()
    )
