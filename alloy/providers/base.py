"""What a provider is: the words in which the loop asks and is answered, whatever the wire says."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable
from weakref import WeakSet

from alloy._quick import quick
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from alloy.errors import ProviderError
    from alloy.messages import Message
    from alloy.result import StopReason

__all__ = [
    "NOT_SENT",
    "Completion",
    "CountsTokens",
    "Delta",
    "Priority",
    "Provider",
    "ProviderItem",
    "RateLimitWait",
    "Request",
    "Retry",
    "StructuredOutput",
    "StructuresOutput",
    "TextDelta",
    "ThinkingDelta",
    "ToolCallDelta",
    "ToolSpec",
    "held",
    "is_provider",
    "structured_output",
]

StructuredOutput: TypeAlias = Literal["native", "tool", "prompt"]
"""How a model is made to answer by a schema: by its API, by the arguments of a tool, or by words in its prompt."""


Priority: TypeAlias = Literal["interactive", "batch"]
"""Who goes first where a rate limit makes requests wait: somebody waits for the answer, or nobody does."""


@dataclass(frozen=True, slots=True)
class ToolSpec:
    """A tool as a model sees it.

    Attributes:
        name: what the model calls it by.
        description: what it does and when to use it.
        input_schema: JSON schema of the arguments, an object.
        options: what vendors can be told besides: ``strict``, ``defer_loading`` and ``input_examples`` are for everybody who
            has them, and what stands under an adapter's name is that vendor's own, as its API has it:
            ``{"strict": True, "anthropic": {"type": "memory_20250818"}}``.
    """

    name: str
    description: str
    input_schema: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One question to a model.

    Attributes:
        messages: the history; it isn't changed while the request runs.
        system: the system prompt, if any.
        tools: the tools that the model may call.
        stream: whether somebody watches the deltas; if not, a provider may fetch the answer whole.
        caller: who asks: an agent, or a request of a user's; callers that share a rate limit take turns.
        priority: what goes first where a rate limit makes requests wait.
        estimated_tokens: how many tokens the prompt and its answer will take; by default learned from the caller's earlier ones.
        max_tokens: the longest answer that is paid for, thinking included, in tokens; a provider whose own setting is less
            keeps to that. None for no further limit.
        response_schema: a JSON schema of an object, which the answer's text must match; only for providers whose
            `structured_output` is ``native``.
    """

    messages: Sequence[Message]
    system: str | None = None
    tools: tuple[ToolSpec, ...] = ()
    stream: bool = True
    caller: str = ""
    priority: Priority = "interactive"
    estimated_tokens: int | None = None
    max_tokens: int | None = None
    response_schema: Mapping[str, Any] | None = None


@quick
@dataclass(frozen=True, slots=True)
class TextDelta:
    """A piece of the answer's text, never empty."""

    text: str


@quick
@dataclass(frozen=True, slots=True)
class ThinkingDelta:
    """A piece of the model's reasoning, never empty."""

    text: str


@quick
@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """A piece of a tool call.

    Attributes:
        index: which call of this answer, from 0.
        id: the call's id, as far as known.
        name: the tool, as far as known.
        arguments: a piece of the arguments' JSON text; may be empty.
    """

    index: int
    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Says that an attempt failed before anything of an answer came, and that another one follows.

    Attributes:
        attempt: which attempt failed, from 1.
        delay: how long until the next one, in seconds.
        error: why it failed.
        next: who is asked next, as ``name:model``.
    """

    attempt: int
    delay: float
    error: ProviderError
    next: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RateLimitWait:
    """Says that a request isn't sent yet, since a rate limit that it shares with others wouldn't allow it.

    Attributes:
        reason: what it waits for: the time that the server asked everybody to wait, requests, tokens, or that others end.
        delay: how long that will likely take, in seconds; None where it depends on how long others take.
        ahead: how many requests will likely go before it.
        waits_for: who is to be asked, as ``name:model``.
    """

    reason: Literal["retry_after", "requests", "tokens", "concurrency"]
    delay: float | None
    ahead: int
    waits_for: str


Delta: TypeAlias = TextDelta | ThinkingDelta | ToolCallDelta
"""A piece of an answer."""


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The end of an answer, and all of it.

    Attributes:
        message: the assistant's message; its content may be empty where the model said nothing.
        stop_reason: why the model stopped.
        usage: what it took.
        raw_stop_reason: the vendor's own word for `stop_reason`.
        detail: what the vendor says about it, such as the reason of a refusal.
    """

    message: Message
    stop_reason: StopReason
    usage: Usage = Usage(requests=1)  # noqa: RUF009  frozen
    raw_stop_reason: str | None = None
    detail: str | None = None


ProviderItem: TypeAlias = Retry | RateLimitWait | Delta | Completion
"""What a provider's stream gives: deltas, then one completion; before them, attempts that came to nothing and waits."""


@runtime_checkable
class Provider(Protocol):
    """Anything that can answer a `Request`.

    A provider may also be an async context manager. A run enters it before its first request and leaves it at its end, so
    whatever is expensive to have (connections, a server) is there in between; it must bear being entered again while entered.
    Enter it yourself to keep that longer than one run.
    """

    @property
    def name(self) -> str:
        """Who answers, such as ``openai``."""
        ...

    @property
    def model(self) -> str:
        """Which model answers."""
        ...

    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[ProviderItem]]:
        """Asks the model.

        Returns:
            A context manager; what it gives yields any number of deltas and then exactly one `Completion`. Leaving it early
            ends the request. Without a listener (``request.stream`` is false) there may be no deltas.

        Raises:
            ProviderError: on entering or while iterating. An answer that ends without its end is an error, too.
        """
        ...


@runtime_checkable
class CountsTokens(Protocol):
    """A provider that can be asked how many tokens a request has."""

    async def count_tokens(self, request: Request) -> int:
        """How many tokens a request has, as the vendor counts them; asks it, so it takes as long as that.

        Raises:
            ProviderError: the vendor has no endpoint for that (kind ``invalid_request``), can't be reached, or refuses.
            ToolDefinitionError: a tool has an option that nobody knows.
        """
        ...


@runtime_checkable
class StructuresOutput(Protocol):
    """A provider that knows how its model is made to answer by a schema."""

    def structured_output(self, schema: Mapping[str, Any], *, tools: bool) -> StructuredOutput:
        """The surest way that this model has.

        Args:
            schema: the schema, of an object.
            tools: whether requests have tools, too.
        """
        ...


def structured_output(provider: Provider, schema: Mapping[str, Any], *, tools: bool) -> StructuredOutput:
    """How a provider's model is made to answer by a schema; by a tool, if the provider doesn't say.

    Args:
        provider: whom to ask.
        schema: the schema, of an object.
        tools: whether requests have tools, too.
    """
    return provider.structured_output(schema, tools=tools) if isinstance(provider, StructuresOutput) else "tool"


NOT_SENT = "max_wait"
"""The code of the error of a request that would wait too long for its turn; asking again would make the wait no shorter."""

_KNOWN: WeakSet[type] = WeakSet()


def is_provider(value: object) -> bool:
    """Whether something can answer requests; looked at once for each class, since it takes as long as a short turn."""
    kind = type(value)
    if kind in _KNOWN:
        return True
    if isinstance(value, type) or not isinstance(value, Provider):
        return False
    _KNOWN.add(kind)
    return True


@asynccontextmanager
async def held(provider: Provider) -> AsyncIterator[None]:
    """Holds what a provider needs to answer, if it is one that can be held."""
    if isinstance(provider, AbstractAsyncContextManager):
        async with provider:
            yield
    else:
        yield
