"""Anthropic's Messages API."""

from __future__ import annotations

import dataclasses
import os
import re
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Literal, Self, TypedDict, Unpack
from urllib.parse import urlsplit

from alloy.errors import InvalidOptionError, MissingKeyError, ProviderError, UnknownOptionError
from alloy.providers.anthropic_decode import AnthropicDecoder
from alloy.providers.anthropic_encode import Encoder
from alloy.providers.http import READ_TIMEOUT, Endpoint, Secret, origin

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    import httpx

    from alloy.providers.base import ProviderItem, Request

__all__ = ["Anthropic", "AnthropicSettings"]

BASE_URL = "https://api.anthropic.com"
VERSION = "2023-06-01"
KEY_VARIABLE = "ANTHROPIC_API_KEY"
URL_VARIABLE = "ANTHROPIC_BASE_URL"

# The API wants a limit in every request. What the models of a line can write, where that is less than 64,000 tokens.
_LIMITS = (
    (r"claude-3-7", 64_000),
    (r"claude-3", 4096),
    (r"claude-opus-4(-[01])?([-@]20\d*)?$", 32_000),
    (r"claude", 64_000),
)
_LIMIT_OF_OTHERS = 8192
_LONGEST_WHOLE = 16_384
"""The longest answer that is fetched whole, in tokens; longer ones take minutes, in which a silent connection may be cut."""


class AnthropicSettings(TypedDict, total=False):
    """What a request can ask for besides an answer; see Anthropic's reference for what its models take.

    Attributes:
        max_tokens: the longest answer, thinking included, in tokens; by default 64,000, or what an older model can.
        temperature: how much chance plays, from 0 to 1; models since Claude Opus 4.7 take none.
        top_p: the share of likely tokens to choose from, up to 1; as `temperature`.
        top_k: how many likely tokens to choose from; as `temperature`.
        stop: texts before which to stop.
        thinking: the API's object, such as ``{"type": "adaptive", "display": "summarized"}``.
        effort: how much to think and write, such as ``low``, ``medium``, ``high``, ``xhigh`` or ``max``.
        tool_choice: ``auto``, ``none``, ``any`` (or ``required``), or the API's object that names a tool.
        parallel_tool_calls: whether one answer may call several tools.
        response_schema: a JSON schema that the answer's text must match.
        server_tools: tools that Anthropic runs, as the API has them, such as
            ``{"type": "web_search_20250305", "name": "web_search"}``.
        citations: whether the answer may cite the documents.
        cache: how long prompts are cached, ``5m`` (the default) or ``1h``; None for not at all.
        betas: what of the API to try before it is generally available.
        extra_body: further fields of the request, as the API has them; they win over all others.
        extra_headers: further headers; they win over all others.
    """

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop: Sequence[str]
    thinking: Mapping[str, Any]
    effort: str
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    response_schema: Mapping[str, Any]
    server_tools: Sequence[Mapping[str, Any]]
    citations: bool
    cache: Literal["5m", "1h"] | None
    betas: Sequence[str]
    extra_body: Mapping[str, Any]
    extra_headers: Mapping[str, str]


class Anthropic:
    """A model behind Anthropic's Messages API.

    It is an async context manager that keeps connections open between requests; without it each request connects anew, unless
    another provider does. It may be entered again while entered, and used by many tasks.

    Args:
        model: its name, such as ``claude-opus-5-5``.
        api_key: the key; by default ``ANTHROPIC_API_KEY``, which is sent nowhere but to Anthropic and ``ANTHROPIC_BASE_URL``.
        base_url: where the API is, for other hosts that speak it; by default ``ANTHROPIC_BASE_URL`` or Anthropic's own.
        timeout: how long the server may be silent, in seconds.
        client: an HTTP client to use instead of the shared one; it is never closed.
        settings: see `AnthropicSettings`.

    Raises:
        MissingKeyError: there is no key, and the host is Anthropic.
        InvalidOptionError: a wrong value.
        UnknownOptionError: a setting that isn't one.
    """

    def __init__(
        self,
        model: str,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = READ_TIMEOUT,
        client: httpx.AsyncClient | None = None,
        **settings: Unpack[AnthropicSettings],
    ) -> None:
        if not model.strip():
            raise InvalidOptionError("model", "a model's name", model)
        _check(settings)
        self._model = model
        url = base_url or os.environ.get(URL_VARIABLE) or BASE_URL
        key = _key(api_key, url)
        self._endpoint = Endpoint(
            url.rstrip("/").removesuffix("/v1"),
            provider=self.name,
            model=model,
            headers=_headers(key, settings),
            timeout=timeout,
            client=client,
        )
        self.origin = origin("anthropic", self._endpoint.base_url, key)
        fields = _fields(model, settings)
        self._whole = fields["max_tokens"] <= _LONGEST_WHOLE
        self._encoder = Encoder(
            self.origin,
            fields,
            server_tools=settings.get("server_tools", ()),
            cache=settings.get("cache", "5m"),
            citations=settings.get("citations", False),
        )

    @property
    def name(self) -> str:
        """Always ``anthropic``."""
        return "anthropic"

    @property
    def model(self) -> str:
        """The model's name."""
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

    def decoder(self, request: Request) -> AnthropicDecoder:
        """What decodes the answer to `request`."""
        taken = (call.id for message in request.messages for call in message.tool_uses)
        return AnthropicDecoder(provider=self.name, model=self._model, origin=self.origin, taken=taken)

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncGenerator[AsyncIterator[ProviderItem]]:
        """Asks the model; see `alloy.providers.base.Provider`.

        Raises:
            ProviderError: on entering, if the request can't be sent so or is refused, or while iterating.
        """
        if not (request.stream or self._whole):
            request = dataclasses.replace(
                request, stream=True
            )  # nobody watches, but a long answer comes more safely so
        body, decoder = self.encode(request), self.decoder(request)
        async with self._endpoint.ask("/v1/messages", body, decoder, stream=request.stream) as items:
            yield items

    def __repr__(self) -> str:
        return f"Anthropic({self._model!r}, base_url={self._endpoint.base_url!r})"


def _check(settings: AnthropicSettings) -> None:
    for name in settings:
        if name not in AnthropicSettings.__annotations__:
            raise UnknownOptionError(name, AnthropicSettings.__annotations__)
    if settings.get("cache") not in (None, "5m", "1h"):
        raise InvalidOptionError("cache", "'5m', '1h', or None", settings.get("cache"))
    for name in ("stop", "betas"):
        if isinstance(settings.get(name), str):
            raise InvalidOptionError(name, "a list of texts", settings.get(name))


def _key(api_key: str | None, url: str) -> Secret | None:
    """The key; the variable that belongs to Anthropic is sent to nobody else."""
    host = urlsplit(url).hostname or ""
    vendor = host == "anthropic.com" or host.endswith(".anthropic.com")
    given = api_key or (os.environ.get(KEY_VARIABLE) if vendor or url == os.environ.get(URL_VARIABLE) else None)
    if given and given.strip():
        return Secret(given)
    if vendor:
        raise MissingKeyError("anthropic", [KEY_VARIABLE])
    return None


def _headers(key: Secret | None, settings: AnthropicSettings) -> dict[str, str | Secret]:
    headers: dict[str, str | Secret] = {"anthropic-version": VERSION}
    if key:
        headers["x-api-key"] = key
    if betas := settings.get("betas"):
        headers["anthropic-beta"] = ",".join(betas)
    return headers | {name.lower(): value for name, value in settings.get("extra_headers", {}).items()}


def _fields(model: str, settings: AnthropicSettings) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": model, "max_tokens": _limit(model)}
    output: dict[str, Any] = {}
    for name, value in settings.items():
        match name:
            case "max_tokens" | "temperature" | "top_p" | "top_k" | "thinking":
                fields[name] = value
            case "stop":
                fields["stop_sequences"] = value
            case "effort":
                output["effort"] = value
            case "response_schema":
                output["format"] = {"type": "json_schema", "schema": value}
            case _:
                pass  # not a field of the body
    if output:
        fields["output_config"] = output
    if choice := _tool_choice(settings):
        fields["tool_choice"] = choice
    return fields | dict(settings.get("extra_body", {}))


def _tool_choice(settings: AnthropicSettings) -> dict[str, Any] | None:
    choice, parallel = settings.get("tool_choice"), settings.get("parallel_tool_calls")
    if choice is None and parallel is None:
        return None
    chosen: dict[str, Any]
    chosen = {"type": _CHOICES.get(choice, choice)} if isinstance(choice, str) else dict(choice or {"type": "auto"})
    if parallel is not None and chosen["type"] != "none":
        chosen["disable_parallel_tool_use"] = not parallel
    return chosen


_CHOICES = {"required": "any"}


def _limit(model: str) -> int:
    return next((limit for name, limit in _LIMITS if re.search(name, model)), _LIMIT_OF_OTHERS)
