"""Google's Gemini, by GenerateContent: at the Gemini API, on Vertex AI, or behind a proxy."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Unpack
from urllib.parse import quote, urlsplit

from pydantic_core import to_json

from alloy.errors import InvalidOptionError, MissingKeyError
from alloy.providers.adapter import Adapter, CommonSettings
from alloy.providers.counting import CountEndpoint, only
from alloy.providers.gemini_decode import GeminiDecoder
from alloy.providers.gemini_encode import Encoder, answer_format, is_old, over
from alloy.providers.governor import LEARNED
from alloy.providers.http import READ_TIMEOUT, Secret
from alloy.providers.keys import checked_url
from alloy.providers.options import named_tool

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx

    from alloy.providers.base import Request, StructuredOutput
    from alloy.providers.governor import RateLimits

__all__ = ["Gemini", "GeminiSettings"]

BASE_URL = "https://generativelanguage.googleapis.com/v1beta"
KEY_VARIABLES = ("GEMINI_API_KEY", "GOOGLE_API_KEY")

_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "validated": "VALIDATED"}
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576}
"""What Google's page on OpenAI compatibility has for efforts on Gemini 2.5, in tokens."""
_GENERATION = {
    "max_tokens": "maxOutputTokens",
    "temperature": "temperature",
    "top_p": "topP",
    "top_k": "topK",
    "stop": "stopSequences",
    "seed": "seed",
}

_VERTEX_COUNT = only("contents", "systemInstruction", "tools", "generationConfig")
"""Vertex AI's reference, "projects.locations.publishers.models.countTokens"."""


class GeminiSettings(CommonSettings, total=False):
    """What a request can ask for besides an answer; see Google's reference for what its models take.

    `CommonSettings` has the rest. In `extra_body`, objects such as ``generationConfig`` are merged.

    Attributes:
        top_k: how many likely tokens to choose from.
        stop: texts before which to stop.
        seed: makes answers more alike.
        thinking_budget: how much to think, for Gemini 2.5, in tokens, in place of `effort`; 0 is not at all, -1 as the
            model likes.
        include_thoughts: whether to send summaries of the thinking.
        server_tools: tools that Google runs, as its reference has them, such as ``{"googleSearch": {}}``.
        safety_settings: the API's ``safetySettings``.
        cached_content: the name of a cache, such as ``cachedContents/abc``; it then holds the system prompt and the tools.
    """

    top_k: int
    stop: Sequence[str]
    seed: int
    thinking_budget: int
    include_thoughts: bool
    server_tools: Sequence[Mapping[str, Any]]
    safety_settings: Sequence[Mapping[str, Any]]
    cached_content: str


class Gemini(Adapter):
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
        rate_limits: what you know of the account's limits, besides what the server tells; None for never waiting for them.
        settings: see `GeminiSettings`.

    Raises:
        MissingKeyError: there is no key, and Google is asked.
        InvalidOptionError: a wrong value.
        UnknownOptionError: a setting that isn't one.
    """

    SETTINGS: ClassVar[type] = GeminiSettings
    CHOICES: ClassVar[tuple[str, ...]] = tuple(_MODES)
    _name = "gemini"

    def __init__(
        self,
        model: str,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = READ_TIMEOUT,
        client: httpx.AsyncClient | None = None,
        rate_limits: RateLimits | None = LEARNED,
        **settings: Unpack[GeminiSettings],
    ) -> None:
        super().__init__(model, settings)
        url = base_url or BASE_URL
        extra_headers = settings.get("extra_headers", {})
        key = _key(api_key, url, extra_headers)
        headers: dict[str, str | Secret] = {"x-goog-api-key": key} if key else {}
        self._reach(
            "gemini", url, key, headers | dict(extra_headers), timeout=timeout, client=client, rate_limits=rate_limits
        )
        fields = _fields(model, settings)
        generation = over(fields, settings.get("extra_body", {})).get("generationConfig", {})
        self._limit = generation.get("maxOutputTokens")
        self._vertex = "aiplatform" in url
        self._server_tools = bool(
            settings.get("server_tools") or settings.get("cached_content")
        )  # a cache may hold some
        self._encoder = Encoder(
            origin=self.origin,
            model=model,
            settings=fields,
            server_tools=settings.get("server_tools", ()),
            extra=settings.get("extra_body"),
            combine=not self._vertex,  # Vertex AI doesn't know the field
        )

    def _count_at(self) -> CountEndpoint:
        path = self._path(stream=False).replace(":generateContent", ":countTokens")
        return CountEndpoint(path, "totalTokens", _VERTEX_COUNT if self._vertex else self._count)

    def _count(self, body: bytes) -> bytes:
        """The whole request inside of another (Google's API reference, "models.countTokens")."""
        name = to_json(f"models/{self._model.removeprefix('models/')}")
        return b'{"generateContentRequest":{"model":' + name + b"," + body[1:] + b"}"

    def structured_output(self, schema: Mapping[str, Any], *, tools: bool) -> StructuredOutput:  # noqa: ARG002  any schema
        """By the API; before Gemini 3 not beside tools, and ours not beside Google's. Gemma has neither."""
        if "gemma" in self._model:
            return "prompt"
        if not is_old(self._model) or not (tools or self._server_tools):
            return "native"
        return "prompt" if self._server_tools else "tool"

    def decoder(self, request: Request) -> GeminiDecoder:
        """What decodes the answer to `request`."""
        return GeminiDecoder(**self._asked(request))

    def _path(self, *, stream: bool) -> str:
        name = self._model.removeprefix("models/")
        address = quote(name if "/" in name else f"models/{name}")
        return f"/{address}:streamGenerateContent?alt=sse" if stream else f"/{address}:generateContent"


def _key(api_key: str | None, url: str, headers: Mapping[str, str]) -> Secret | None:
    """The key; one from the environment is Google's, and never sent to anybody else."""
    if api_key and api_key.strip():
        return Secret(api_key)
    host = urlsplit(checked_url(url)).hostname or ""
    if not host.endswith(".googleapis.com") or "authorization" in map(str.lower, headers):
        return None
    key = next((key for name in KEY_VARIABLES if (key := os.environ.get(name)) and key.strip()), None)
    if key is None:
        raise MissingKeyError("gemini", KEY_VARIABLES)
    return Secret(key)


def _fields(model: str, settings: GeminiSettings) -> dict[str, Any]:
    """What the settings are called in every request."""
    generation: dict[str, Any] = {_GENERATION[name]: value for name, value in settings.items() if name in _GENERATION}
    fields: dict[str, Any] = {}
    if thinking := _thinking(model, settings):
        generation["thinkingConfig"] = thinking
    if "response_schema" in settings:
        generation |= answer_format(settings["response_schema"])
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
    if name := named_tool(choice):
        return {"mode": "ANY", "allowedFunctionNames": [name]}
    return {"mode": _MODES[choice]} if isinstance(choice, str) else dict(choice)


def _thinking(model: str, settings: GeminiSettings) -> dict[str, Any]:
    """How much to think, as the model has it: Gemini 3 and later in words, older ones in tokens."""
    thinking: dict[str, Any] = {}
    if "thinking_budget" in settings:
        thinking["thinkingBudget"] = settings["thinking_budget"]
    if "include_thoughts" in settings:
        thinking["includeThoughts"] = settings["include_thoughts"]
    if "effort" not in settings:
        return thinking
    effort = settings["effort"]
    if "thinking_budget" in settings:
        raise InvalidOptionError("thinking_budget", "nothing beside effort", settings["thinking_budget"])
    if not is_old(model):
        return thinking | {"thinkingLevel": effort.upper()}
    if effort not in _BUDGETS:
        raise InvalidOptionError("effort", f"one of {', '.join(_BUDGETS)}; or say thinking_budget", effort)
    return thinking | {"thinkingBudget": _BUDGETS[effort]}
