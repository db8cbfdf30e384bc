"""What all adapters that speak HTTP have in common; each adds how its API words a request and an answer."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from contextlib import aclosing, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypedDict, Unpack

from alloy._memo import Growing
from alloy.errors import InvalidOptionError, ProviderError, UnknownOptionError
from alloy.providers.base import Completion
from alloy.providers.batches import Batches, in_batches
from alloy.providers.counting import asked, cannot_count
from alloy.providers.decoder import NOBODY
from alloy.providers.governor import Account
from alloy.providers.http import Endpoint, Secret, origin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import httpx

    from alloy.messages import Message
    from alloy.providers.base import ProviderItem, Request, StructuredOutput
    from alloy.providers.counting import CountEndpoint
    from alloy.providers.decoder import Decoder
    from alloy.providers.governor import RateLimits, Ticket

__all__ = ["Adapter", "CommonSettings"]

LONGEST_WHOLE = 16_384
"""The longest answer that is fetched whole, in tokens; longer ones take minutes, in which a silent connection may be cut."""

SHORT_WAIT = 0.25
"""How long a request may wait for its turn without a word, in seconds."""

_LISTS = ("betas", "include", "stop")


class CommonSettings(TypedDict, total=False):
    """What a request can ask for at every adapter, besides an answer; see the vendor's reference for what its models take.

    Attributes:
        max_tokens: the longest answer, thinking included, in tokens; by default what the model can.
        temperature: how much chance plays, from 0; many models that think take none.
        top_p: the share of likely tokens to choose from, up to 1; as `temperature`.
        effort: how much to think, such as ``low``, ``medium`` or ``high``.
        tool_choice: ``auto``, ``none``, ``required``, ``{"name": "a_tool"}``, or the API's own object.
        response_schema: a JSON schema that the answer must match; its text is then JSON.
        extra_body: further fields of the request, as the API has them; they win over all others.
        extra_headers: further headers; they win over all others.
    """

    max_tokens: int
    temperature: float
    top_p: float
    effort: str
    tool_choice: str | Mapping[str, Any]
    response_schema: Mapping[str, Any]
    extra_body: Mapping[str, Any]
    extra_headers: Mapping[str, str]


class _Options(TypedDict):
    timeout: float
    client: httpx.AsyncClient | None
    rate_limits: RateLimits | None


class _Encoder(Protocol):
    """Makes request bodies."""

    def encode(self, request: Request) -> bytes:
        """The body to send."""
        ...


class Adapter(ABC):
    """A model behind a vendor's API.

    A subclass says in ``__init__`` whom it asks (`_reach`) and how it words a request (`_encoder`, `_limit`).

    Args:
        model: its name at the vendor's.
        settings: what its requests ask for, of the names in `SETTINGS`.

    Attributes:
        origin: a fingerprint of who answers.

    Raises:
        InvalidOptionError: there is no model's name, or a wrong value.
        UnknownOptionError: a setting that isn't one.
    """

    SETTINGS: ClassVar[type]
    """The settings, a `TypedDict`."""
    CHOICES: ClassVar[tuple[str, ...]] = ("auto", "none", "required")
    """The words that `tool_choice` may be."""
    binds_thinking: ClassVar[bool] = False
    """Whether signed thinking is only valid behind the messages that it came after."""
    COUNTS_CACHED: ClassVar[bool] = True
    """Whether prompt tokens that were read from a cache count against a rate limit."""

    origin: str
    _name: str
    _endpoint: Endpoint
    _encoder: _Encoder
    _limit: Any
    _account: Account | None = None
    _limits_per_model = True

    def __init__(self, model: str, settings: Mapping[str, Any]) -> None:
        if not model.strip():
            raise InvalidOptionError("model", "a model's name", model)
        known: frozenset[str] = self.SETTINGS.__optional_keys__  # type: ignore[attr-defined]  # a TypedDict has it
        for name, value in settings.items():
            if name not in known:
                raise UnknownOptionError(name, known)
            if name in _LISTS and isinstance(value, str):
                raise InvalidOptionError(name, "a list of texts", value)
        choice = settings.get("tool_choice")
        if isinstance(choice, str) and choice not in self.CHOICES:
            expected = f"one of {', '.join(self.CHOICES)}, {{'name': ...}}, or the API's own object"
            raise InvalidOptionError("tool_choice", expected, choice)
        self._model = model
        self._taken: Growing[set[str]] = Growing(set, _take, size=lambda taken: 100 * len(taken))

    def _reach(
        self,
        protocol: str,
        url: str,
        key: Secret | None,
        headers: Mapping[str, str | Secret],
        **options: Unpack[_Options],
    ) -> None:
        """Says whom to ask: where, by which account, with which headers, and by which rate limits."""
        limits = options["rate_limits"]
        self._endpoint = Endpoint(
            url,
            provider=self.name,
            model=self._model,
            headers=headers,
            timeout=options["timeout"],
            client=options["client"],
        )
        self.origin = origin(protocol, self._endpoint.base_url, key)
        shared = origin("rate limits", self._endpoint.base_url, key)  # an account's, whichever of its APIs is asked
        if limits is not None:
            self._account = Account(
                f"{shared} {self._model}" if self._limits_per_model else shared,
                limits,
                provider=self.name,
                model=self._model,
                counts_cached=self.COUNTS_CACHED,
            )

    @property
    def name(self) -> str:
        """Who answers, such as ``openai``."""
        return self._name

    @property
    def model(self) -> str:
        """The model's name at the vendor's."""
        return self._model

    @property
    def max_tokens(self) -> int | None:
        """The longest answer that requests ask for, in tokens; None for what the model can."""
        return self._limit if isinstance(self._limit, int) and self._limit > 0 else None

    async def __aenter__(self) -> Self:
        await self._endpoint.__aenter__()
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._endpoint.__aexit__(*error)

    def encode(self, request: Request) -> bytes:
        """The body to send.

        Raises:
            ProviderError: something in it that the API can't take (kind ``invalid_request``).
            ToolDefinitionError: a tool has an option that nobody knows.
        """
        try:
            return self._encoder.encode(request)
        except ProviderError as error:
            error.provider, error.model = self.name, self._model
            raise

    @abstractmethod
    def structured_output(self, schema: Mapping[str, Any], *, tools: bool) -> StructuredOutput:
        """How the model is made to answer by a schema; see `alloy.providers.base.StructuresOutput`."""

    @abstractmethod
    def decoder(self, request: Request) -> Decoder:
        """What decodes the answer to `request`."""

    def _asked(self, request: Request) -> dict[str, Any]:
        """What every decoder is told."""
        taken = self._taken(request.messages)
        return {"provider": self.name, "model": self._model, "origin": self.origin, "taken": taken}

    @abstractmethod
    def _path(self, *, stream: bool) -> str:
        """What stands behind the base URL."""

    def _count_at(self) -> CountEndpoint | None:
        """Where the vendor counts tokens; None where it doesn't."""
        return None

    async def count_tokens(self, request: Request) -> int:
        """Asks the vendor how many tokens a request has; see `alloy.providers.base.CountsTokens`.

        Nothing is asked of a model. Vendors have rate limits of their own for it.

        Raises:
            ProviderError: the vendor has no endpoint for that (kind ``invalid_request``), can't be reached, or refuses.
            ToolDefinitionError: as `encode`.
        """
        where = self._count_at()
        if where is None:
            raise cannot_count(self.name, self._model)
        return await asked(self._endpoint, where, self.encode(dataclasses.replace(request, stream=False)))

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[ProviderItem]]:
        """Asks the model; see `alloy.providers.base.Provider`.

        Where nobody watches, an answer that may get long is streamed all the same, without showing its deltas. Where a rate limit
        is known, the request is sent when that allows it.

        Raises:
            ProviderError: on entering, if the request can't be sent so or is refused, or while iterating.
            ToolDefinitionError: as `encode`.
        """
        watched = request.stream
        if not watched and not (isinstance(self._limit, int) and self._limit <= LONGEST_WHOLE):
            request = dataclasses.replace(request, stream=True)
        body, decoder = self.encode(request), self.decoder(request)
        path = self._path(stream=request.stream)
        with self._account.enter(request, len(body)) if self._account else nullcontext() as ticket:
            asked = self._endpoint.ask(path, body, decoder, stream=request.stream, listener=ticket or NOBODY)
            async with _in_turn(ticket, asked) if ticket and ticket.waiting else asked as items:
                if watched:
                    yield items
                else:
                    async with aclosing(_completions(items)) as unwatched:
                        yield unwatched

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model!r}, base_url={self._endpoint.base_url!r})"


def _take(taken: set[str], message: Message) -> None:
    taken.update([call.id for call in message.tool_uses])


@asynccontextmanager
async def _in_turn(
    ticket: Ticket, asked: AbstractAsyncContextManager[AsyncIterator[ProviderItem]]
) -> AsyncGenerator[AsyncIterator[ProviderItem]]:
    async with aclosing(_batches_in_turn(ticket, asked)) as batches:
        yield Batches(batches)


async def _batches_in_turn(
    ticket: Ticket, asked: AbstractAsyncContextManager[AsyncIterator[ProviderItem]]
) -> AsyncGenerator[Sequence[ProviderItem]]:
    """The answer, once the request may be sent; a wait that lasts is told of first."""
    if wait := await ticket.wait(SHORT_WAIT):
        yield (wait,)
        await ticket.wait()
    async with asked as items:
        async for batch in in_batches(items):
            yield batch


async def _completions(items: AsyncIterator[ProviderItem]) -> AsyncGenerator[ProviderItem]:
    """Nothing but the end: what nobody saw can be asked for again."""
    async for item in items:
        if isinstance(item, Completion):
            yield item
