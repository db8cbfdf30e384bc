"""Google's Gemini, by GenerateContent: at the Gemini API, on Vertex AI, or behind a proxy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Self, TypedDict, Unpack
from urllib.parse import quote, urlsplit

from alloy.errors import InvalidOptionError, MissingKeyError, UnknownOptionError
from alloy.providers.gemini_decode import GeminiDecoder
from alloy.providers.gemini_encode import Encoder
from alloy.providers.gemini_schema import gemini_schema
from alloy.providers.http import READ_TIMEOUT, Endpoint, Secret, origin

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    import httpx

    from alloy.providers.base import ProviderItem, Request

__all__ = ["Gemini", "GeminiSettings"]

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")

_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "validated": "VALIDATED"}
_GENERATION = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "stop": "stopSequences",
    "seed": "seed",
}


class GeminiSettings(TypedDict, total=False):
    """What a request can ask for besides an answer; see Google's reference for what its models take.

    Attributes:
        max_tokens: the longest answer, thinking included, in tokens; the model's own limit by default.
        temperature: how much chance plays, from 0.
        top_p: the share of likely tokens to choose from, up to 1.
        top_k: how many likely tokens to choose from.
        stop: texts before which to stop.
        seed: makes answers more alike.
        thinking_level: how much to think, for Gemini 3 and later: ``minimal``, ``low``, ``medium`` or ``high``.
        thinking_budget: how much to think, for Gemini 2.5, in tokens; 0 is not at all, -1 as the model likes.
        include_thoughts: whether to send summaries of the thinking.
        tool_choice: ``auto``, ``none``, ``required``, ``validated`` (arguments always fit the schema), or the API's
            ``functionCallingConfig``.
        server_tools: tools that Google runs, as its reference has them, such as ``{"googleSearch": {}}``.
        response_schema: the JSON schema of the answer, which is then JSON.
        safety_settings: the API's ``safetySettings``.
        cached_content: the name of a cache, such as ``cachedContents/abc``; it then holds the system prompt and the tools.
        extra_body: further fields of the request, as the API has them; they win over all others, but objects such as
            ``generationConfig`` are merged.
        extra_headers: further headers; they win over all others.
    """

    max_tokens: int
    temperature: float
    top_p: float
    top_k: int
    stop: Sequence[str]
    seed: int
    thinking_level: str
    thinking_budget: int
    include_thoughts: bool
    tool_choice: str | Mapping[str, Any]
    server_tools: Sequence[Mapping[str, Any]]
    response_schema: Mapping[str, Any]
    safety_settings: Sequence[Mapping[str, Any]]
    cached_content: str
    extra_body: Mapping[str, Any]
    extra_headers: Mapping[str, str]


class Gemini:
    """A Gemini model.

    It is an async context manager that keeps connections open between requests; without it each request connects anew, unless
    another provider does. It may be entered again while entered, and used by many tasks.

    Args:
        model: its name, such as ``gemini-3.8-flash``.
        api_key: the key; at Google's own addresses by default from GEMINI_API_KEY, else GOOGLE_API_KEY.
        base_url: what stands before ``/models/...`` in the API's address; the Gemini API's by default. For Vertex AI it ends
            with ``/publishers/google``, and `extra_headers` hold the ``Authorization``.
        timeout: how long the server may be silent, in seconds.
        client: an HTTP client to use instead of the shared one; it is never closed.
        settings: see `GeminiSettings`.

    Raises:
        MissingKeyError: there is no key, and Google is asked.
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
        **settings: Unpack[GeminiSettings],
    ) -> None:
        if not model.strip():
            raise InvalidOptionError("model", "a model's name", model)
        for name in settings:
            if name not in GeminiSettings.__annotations__:
                raise UnknownOptionError(name, GeminiSettings.__annotations__)
        url = base_url or BASE_URL
        extra_headers = settings.get("extra_headers", {})
        key = _key(api_key, url, extra_headers)
        headers: dict[str, str | Secret] = {"x-goog-api-key": key} if key else {}
        self._model = model
        self._endpoint = Endpoint(
            url, provider=self.name, model=model, headers=headers | dict(extra_headers), timeout=timeout, client=client
        )
        name = model.removeprefix("models/")
        self._path = "/" + quote(name if "/" in name else f"models/{name}")
        self.origin = origin("gemini", self._endpoint.base_url, key)
        self._encoder = Encoder(
            origin=self.origin,
            model=model,
            settings=_fields(settings),
            server_tools=settings.get("server_tools", ()),
            extra=settings.get("extra_body"),
            combine="aiplatform" not in url,  # Vertex AI doesn't know the field
        )

    @property
    def name(self) -> str:
        """``gemini``."""
        return "gemini"

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
        return self._encoder.encode(request)

    def decoder(self, request: Request) -> GeminiDecoder:
        """What decodes the answer to `request`."""
        return GeminiDecoder(
            provider=self.name,
            model=self._model,
            origin=self.origin,
            taken=(call.id for message in request.messages for call in message.tool_uses),
        )

    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[ProviderItem]]:
        """Asks the model; see `alloy.providers.base.Provider`.

        Raises:
            ProviderError: the request can't be sent so, or what goes wrong on entering or while iterating.
        """
        body = self.encode(request)
        path = self._path + (":streamGenerateContent?alt=sse" if request.stream else ":generateContent")
        return self._endpoint.ask(path, body, self.decoder(request), stream=request.stream)

    def __repr__(self) -> str:
        return f"Gemini({self._model!r}, base_url={self._endpoint.base_url!r})"


def _key(api_key: str | None, url: str, headers: Mapping[str, str]) -> Secret | None:
    """The key; one from the environment is Google's, and never sent to anybody else."""
    if api_key and api_key.strip():
        return Secret(api_key)
    host = urlsplit(url).hostname or ""
    if not host.endswith(".googleapis.com") or "authorization" in map(str.lower, headers):
        return None
    key = next((key for name in KEY_VARIABLES if (key := os.environ.get(name)) and key.strip()), None)
    if key is None:
        raise MissingKeyError("gemini", KEY_VARIABLES)
    return Secret(key)


def _fields(settings: GeminiSettings) -> dict[str, Any]:
    """What the settings are called in every request."""
    generation: dict[str, Any] = {_GENERATION[name]: value for name, value in settings.items() if name in _GENERATION}
    thinking: dict[str, Any] = {}
    fields: dict[str, Any] = {}
    if "thinking_level" in settings:
        thinking["thinkingLevel"] = settings["thinking_level"].upper()
    if "thinking_budget" in settings:
        thinking["thinkingBudget"] = settings["thinking_budget"]
    if "include_thoughts" in settings:
        thinking["includeThoughts"] = settings["include_thoughts"]
    if thinking:
        generation["thinkingConfig"] = thinking
    if "response_schema" in settings:
        generation["responseMimeType"] = "application/json"
        generation["responseJsonSchema"] = gemini_schema(settings["response_schema"])
    if generation:
        fields["generationConfig"] = generation
    if "tool_choice" in settings:
        fields["toolConfig"] = {"functionCallingConfig": _calling(settings["tool_choice"])}
    if "safety_settings" in settings:
        fields["safetySettings"] = list(settings["safety_settings"])
    if "cached_content" in settings:
        fields["cachedContent"] = settings["cached_content"]
    return fields


def _calling(choice: str | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(choice, str):
        return dict(choice)
    if choice not in _MODES:
        raise InvalidOptionError("tool_choice", f"one of {', '.join(_MODES)}, or a functionCallingConfig", choice)
    return {"mode": _MODES[choice]}
