"""OpenAI's Responses API."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypedDict, Unpack

from alloy.errors import InvalidOptionError, MissingKeyError, UnknownOptionError
from alloy.providers.compat import HOSTS, UNKNOWN_HOST, Compat, compat_for
from alloy.providers.http import READ_TIMEOUT, Endpoint, Secret, origin
from alloy.providers.openai_decode import ResponsesDecoder
from alloy.providers.openai_encode import Encoder, custom_tools

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import httpx

    from alloy.providers.base import ProviderItem, Request

__all__ = ["OpenAI", "OpenAISettings"]

ENCRYPTED = "reasoning.encrypted_content"
"""What to include so that reasoning can go back without the vendor storing anything."""

# Models that don't reason: they refuse reasoning items, and to include what encrypts them.
_NO_REASONING = re.compile(
    r"(?:^|[/:.])(?:gpt-[34]|chatgpt-|gpt-5(?:\.\d+)?-chat)|non-reasoning",
    re.IGNORECASE,
)


class OpenAISettings(TypedDict, total=False):
    """What a request can ask for besides an answer; see the vendor's reference for what its models take.

    Attributes:
        max_output_tokens: the longest answer, reasoning included, in tokens; by default what the model can.
        temperature: how much chance plays, from 0; only where the model doesn't reason.
        top_p: the share of likely tokens to choose from, up to 1; as `temperature`.
        reasoning: the API's object, such as ``{"effort": "high", "summary": "auto"}``; also ``mode`` and ``context``.
        text: the API's object for the answer's form: ``format`` with a JSON schema, ``verbosity``.
        tool_choice: ``auto``, ``none``, ``required``, or the API's object that names a tool.
        parallel_tool_calls: whether one answer may call several tools.
        server_tools: tools that the vendor runs, as the API has them, such as ``{"type": "web_search"}``.
        include: what else the answer should hold, such as ``web_search_call.action.sources``.
        store: whether the vendor keeps the answer; by default it doesn't.
        prompt_cache_key: what requests with the same beginning have in common.
        prompt_cache_options: the API's object, such as ``{"mode": "explicit", "ttl": "30m"}``.
        service_tier: such as ``flex`` or ``priority``.
        metadata: texts that the vendor keeps with the answer.
        extra_body: further fields of the request, as the API has them; they win over all others.
        extra_headers: further headers; they win over all others.
    """

    max_output_tokens: int
    temperature: float
    top_p: float
    reasoning: Mapping[str, Any]
    text: Mapping[str, Any]
    tool_choice: str | Mapping[str, Any]
    parallel_tool_calls: bool
    server_tools: Sequence[Mapping[str, Any]]
    include: Sequence[str]
    store: bool
    prompt_cache_key: str
    prompt_cache_options: Mapping[str, Any]
    service_tier: str
    metadata: Mapping[str, str]
    extra_body: Mapping[str, Any]
    extra_headers: Mapping[str, str]


class OpenAI:
    """A model behind the Responses API.

    Each request holds the whole history, and the vendor is asked to store nothing. It is an async context manager that keeps
    connections open between requests; without it each request connects anew, unless another provider does. It may be entered
    again while entered, and used by many tasks.

    Args:
        model: its name at the vendor's.
        api_key: the key; by default ``OPENAI_API_KEY``, which is sent nowhere but to OpenAI and ``OPENAI_BASE_URL``.
        base_url: where the API is, for other hosts that speak it; by default ``OPENAI_BASE_URL`` or OpenAI's own.
        timeout: how long the server may be silent, in seconds.
        client: an HTTP client to use instead of the shared one; it is never closed.
        settings: see `OpenAISettings`.

    Raises:
        MissingKeyError: the host answers nobody without a key, and there is none.
        InvalidOptionError: a wrong value.
        UnknownOptionError: a setting that isn't one.
    """

    _VENDOR: ClassVar[str] = "openai"

    def __init__(
        self,
        model: str,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = READ_TIMEOUT,
        client: httpx.AsyncClient | None = None,
        **settings: Unpack[OpenAISettings],
    ) -> None:
        if not model.strip():
            raise InvalidOptionError("model", "a model's name", model)
        host = compat_for(base_url) if base_url else HOSTS[self._VENDOR]
        self._model = model
        self._name = self._VENDOR if host is UNKNOWN_HOST else host.name
        url = base_url or os.environ.get(host.url_variable or "") or host.base_url
        key = _key(host, api_key)
        headers: dict[str, str | Secret] = {host.key_header: key} if key else {}
        self._endpoint = Endpoint(
            url,
            provider=self._name,
            model=model,
            headers=headers | dict(settings.get("extra_headers", {})),
            timeout=timeout,
            client=client,
        )
        self.origin = origin("responses", self._endpoint.base_url, key)
        reasons = not _NO_REASONING.search(model)
        self._encoder = Encoder(self.origin, _fields(model, settings, reasons=reasons), self._VENDOR, reasons=reasons)

    @property
    def name(self) -> str:
        """The host's name, such as ``openai``."""
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
        """
        return self._encoder.encode(request)

    def decoder(self, request: Request) -> ResponsesDecoder:
        """What decodes the answer to `request`."""
        return ResponsesDecoder(
            provider=self._name,
            model=self._model,
            origin=self.origin,
            taken=(call.id for message in request.messages for call in message.tool_uses),
            custom=custom_tools(request, self._VENDOR),
        )

    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[ProviderItem]]:
        """Asks the model; see `alloy.providers.base.Provider`.

        Raises:
            ProviderError: the request can't be sent so, or what goes wrong on entering or while iterating.
        """
        body = self.encode(request)
        return self._endpoint.ask("/responses", body, self.decoder(request), stream=request.stream)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._model!r}, base_url={self._endpoint.base_url!r})"


def _key(host: Compat, api_key: str | None) -> Secret | None:
    """The key; a variable that belongs to a vendor is never sent to anybody else."""
    keys = (api_key, *(os.environ.get(name) for name in host.key_variables))
    key = next((key for key in keys if key and key.strip()), None)
    if key is None and host.key_required:
        raise MissingKeyError(host.name, host.key_variables)
    return Secret(key, host.key_prefix) if key else None


def _fields(model: str, settings: OpenAISettings, *, reasons: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": model, "store": False}
    for name, value in settings.items():
        if name not in OpenAISettings.__annotations__:
            raise UnknownOptionError(name, OpenAISettings.__annotations__)
        if name not in ("server_tools", "include", "extra_body", "extra_headers"):
            fields[name] = value
    if server_tools := [dict(tool) for tool in settings.get("server_tools", ())]:
        fields["tools"] = server_tools
    include = list(settings.get("include", ()))
    if reasons and not fields["store"] and ENCRYPTED not in include:
        include.append(ENCRYPTED)
    if include:
        fields["include"] = include
    extra = dict(settings.get("extra_body", {}))
    for name in ("previous_response_id", "conversation"):
        if extra.get(name) is not None:
            raise InvalidOptionError(
                "extra_body", f"no {name!r}, since each request holds the whole history", extra[name]
            )
    return fields | extra
