"""OpenAI's Chat Completions, as its inventor and everybody else serves it."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack

from alloy.errors import InvalidOptionError, MissingKeyError, ProviderError, UnknownOptionError
from alloy.providers.chat_decode import ChatDecoder
from alloy.providers.chat_encode import Encoder
from alloy.providers.compat import HOSTS, Compat, compat_for
from alloy.providers.http import READ_TIMEOUT, Endpoint, Secret, origin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    import httpx

    from alloy.providers.base import ProviderItem, Request

__all__ = ["ChatCompletions", "ChatSettings"]


class ChatSettings(TypedDict, total=False):
    """What a request can ask for besides an answer; see the vendor's reference for what its models take.

    Attributes:
        max_tokens: the longest answer, reasoning included, in tokens.
        temperature: how much chance plays, from 0.
        top_p: the share of likely tokens to choose from, up to 1.
        stop: texts before which to stop.
        seed: makes answers more alike, where supported.
        reasoning_effort: how much to think, such as ``low``, ``medium`` or ``high``.
        tool_choice: ``auto``, ``none``, ``required``, or the vendor's object that names a tool.
        parallel_tool_calls: whether one answer may call several tools.
        response_format: the vendor's object, such as one with a JSON schema.
        extra_body: further fields of the request, as the vendor has them; they win over all others.
        extra_headers: further headers; they win over all others.
    """

    max_tokens: int
    temperature: float
    top_p: float
    stop: Sequence[str]
    seed: int
    reasoning_effort: str
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    response_format: Mapping[str, Any]
    extra_body: Mapping[str, Any]
    extra_headers: Mapping[str, str]


class ChatCompletions:
    """A model behind Chat Completions.

    It is an async context manager that keeps connections open between requests; without it each request connects anew, unless
    another provider does. It may be entered again while entered, and used by many tasks.

    Args:
        model: its name at the vendor's.
        api_key: the key; by default from the environment variable that is usual for the host.
        base_url: where the API is, such as ``http://localhost:8000/v1``; OpenAI's by default.
        compat: the host's ways, or their name; by default told from the base URL.
        timeout: how long the server may be silent, in seconds.
        client: an HTTP client to use instead of the shared one; it is never closed.
        settings: see `ChatSettings`.

    Raises:
        MissingKeyError: the host answers nobody without a key, and there is none.
        InvalidOptionError: a wrong value.
        UnknownOptionError: a setting that isn't one.
    """

    def __init__(
        self,
        model: str,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        compat: Compat | str | None = None,
        timeout: float = READ_TIMEOUT,
        client: httpx.AsyncClient | None = None,
        **settings: Unpack[ChatSettings],
    ) -> None:
        if not model.strip():
            raise InvalidOptionError("model", "a model's name", model)
        self._compat = _compat(compat, base_url)
        self._model = model
        url = base_url or os.environ.get(self._compat.url_variable or "") or self._compat.base_url
        if not url:
            raise InvalidOptionError("base_url", f"your endpoint's address, or else {self._compat.url_variable}", url)
        key = _key(self._compat, api_key)
        headers: dict[str, str | Secret] = {self._compat.key_header: key} if key else {}
        self._endpoint = Endpoint(
            url,
            provider=self.name,
            model=model,
            headers=headers | dict(settings.get("extra_headers", {})),
            timeout=timeout,
            client=client,
        )
        self.origin = origin("chat_completions", self._endpoint.base_url, key)
        fields = _fields(self._compat, model, settings)
        self._audio_type = f"audio/{(fields.get('audio') or {}).get('format', 'wav')}"
        self._encoder = Encoder(self._compat, self.origin, fields)

    @property
    def name(self) -> str:
        """The host's name, such as ``openai``."""
        return self._compat.name

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
        """
        try:
            return self._encoder.encode(request)
        except ProviderError as error:
            error.provider, error.model = self.name, self._model
            raise

    def decoder(self, request: Request) -> ChatDecoder:
        """What decodes the answer to `request`."""
        return ChatDecoder(
            provider=self.name,
            model=self._model,
            origin=self.origin,
            taken=(call.id for message in request.messages for call in message.tool_uses),
            usage_due=request.stream and self._compat.stream_usage,
            audio_type=self._audio_type,
        )

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[ProviderItem]]:
        """Asks the model; see `alloy.providers.base.Provider`.

        Raises:
            ProviderError: on entering, if the request can't be sent so or is refused, or while iterating.
        """
        body, decoder = self.encode(request), self.decoder(request)
        async with self._endpoint.ask("/chat/completions", body, decoder, stream=request.stream) as items:
            yield items

    def __repr__(self) -> str:
        return f"ChatCompletions({self._model!r}, base_url={self._endpoint.base_url!r}, compat={self.name!r})"


def _compat(compat: Compat | str | None, base_url: str | None) -> Compat:
    match compat:
        case Compat():
            return compat
        case str() if compat in HOSTS:
            return HOSTS[compat]
        case None:
            return compat_for(base_url) if base_url else HOSTS["openai"]
        case _:
            raise InvalidOptionError("compat", f"a Compat or one of {', '.join(sorted(HOSTS))}", compat)


def _key(compat: Compat, api_key: str | None) -> Secret | None:
    """The key; a variable that belongs to a vendor is never sent to anybody else."""
    keys = (api_key, *(os.environ.get(name) for name in compat.key_variables))
    key = next((key for key in keys if key and key.strip()), None)
    if key is None and compat.key_required:
        raise MissingKeyError(compat.name, compat.key_variables)
    return Secret(key, compat.key_prefix) if key else None


def _fields(compat: Compat, model: str, settings: ChatSettings) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": model}
    for name, value in settings.items():
        if name not in ChatSettings.__annotations__:
            raise UnknownOptionError(name, ChatSettings.__annotations__)
        match name:
            case "max_tokens":
                fields[compat.max_tokens] = value
            case "reasoning_effort" if compat.effort == "reasoning":
                fields["reasoning"] = {"effort": value}
            case "extra_body" | "extra_headers":
                pass
            case _:
                fields[name] = value
    return fields | dict(settings.get("extra_body", {}))
