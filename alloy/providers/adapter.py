"""What all adapters that speak HTTP have in common; each adds how its API words a request and an answer."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, Self, TypedDict, Unpack

from alloy.errors import InvalidOptionError, ProviderError, UnknownOptionError
from alloy.providers.base import Completion
from alloy.providers.http import Endpoint, Secret, origin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping

    import httpx

    from alloy.providers.base import ProviderItem, Request
    from alloy.providers.decoder import Decoder

__all__ = ["Adapter", "CommonSettings"]

LONGEST_WHOLE = 16_384
"""The longest answer that is fetched whole, in tokens; longer ones take minutes, in which a silent connection may be cut."""

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

    origin: str
    _name: str
    _endpoint: Endpoint
    _encoder: _Encoder
    _limit: Any

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

    def _reach(
        self,
        protocol: str,
        url: str,
        key: Secret | None,
        headers: Mapping[str, str | Secret],
        **options: Unpack[_Options],
    ) -> None:
        """Says whom to ask: where, by which account, with which headers, and the rest that `Endpoint` takes."""
        self._endpoint = Endpoint(url, provider=self.name, model=self._model, headers=headers, **options)
        self.origin = origin(protocol, self._endpoint.base_url, key)

    @property
    def name(self) -> str:
        """Who answers, such as ``openai``."""
        return self._name

    @property
    def model(self) -> str:
        """The model's name at the vendor's."""
        return self._model

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
    def decoder(self, request: Request) -> Decoder:
        """What decodes the answer to `request`."""

    def _asked(self, request: Request) -> dict[str, Any]:
        """What every decoder is told."""
        taken = (call.id for message in request.messages for call in message.tool_uses)
        return {"provider": self.name, "model": self._model, "origin": self.origin, "taken": taken}

    @abstractmethod
    def _path(self, *, stream: bool) -> str:
        """What stands behind the base URL."""

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[ProviderItem]]:
        """Asks the model; see `alloy.providers.base.Provider`.

        Where nobody watches, an answer that may get long is streamed all the same, without showing its deltas.

        Raises:
            ProviderError: on entering, if the request can't be sent so or is refused, or while iterating.
            ToolDefinitionError: as `encode`.
        """
        watched = request.stream
        if not watched and not (isinstance(self._limit, int) and self._limit <= LONGEST_WHOLE):
            request = dataclasses.replace(request, stream=True)
        body, decoder = self.encode(request), self.decoder(request)
        path = self._path(stream=request.stream)
        async with self._endpoint.ask(path, body, decoder, stream=request.stream) as items:
            if watched:
                yield items
            else:
                async with aclosing(_completions(items)) as unwatched:
                    yield unwatched

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model!r}, base_url={self._endpoint.base_url!r})"


async def _completions(items: AsyncIterator[ProviderItem]) -> AsyncGenerator[ProviderItem]:
    """Nothing but the end: what nobody saw can be asked for again."""
    async for item in items:
        if isinstance(item, Completion):
            yield item
