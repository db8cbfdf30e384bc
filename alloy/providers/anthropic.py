"""Anthropic's Messages API."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack
from urllib.parse import urlsplit

from alloy.errors import InvalidOptionError, MissingKeyError
from alloy.providers.adapter import Adapter, CommonSettings
from alloy.providers.anthropic_decode import AnthropicDecoder
from alloy.providers.anthropic_encode import Encoder, answer_format
from alloy.providers.counting import CountEndpoint, only
from alloy.providers.governor import LEARNED
from alloy.providers.http import READ_TIMEOUT, Secret
from alloy.providers.keys import checked_url
from alloy.providers.options import named_tool
from alloy.providers.strict_schema import ANTHROPIC, optional_properties, strict_schema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx

    from alloy.providers.base import Request, StructuredOutput
    from alloy.providers.governor import RateLimits

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

_COUNT = CountEndpoint(
    "/v1/messages/count_tokens",
    "input_tokens",
    only(
        "model",
        "messages",
        "system",
        "tools",
        "tool_choice",
        "thinking",
        "output_config",
        "cache_control",
        "mcp_servers",
        "context_management",
    ),
)
"""Anthropic's API reference, "Count tokens in a Message"."""

# Claude before 4.1, which takes no JSON schema for its answers.
_NO_SCHEMA = re.compile(r"claude-(?:[1-3]|instant|(?:opus|sonnet)-4(?:-0)?(?:[-@]20\d*)?$)")
_OPTIONAL = 10
"""How many properties of a schema may be optional, all in all, before the API may find it too complex."""


class AnthropicSettings(CommonSettings, total=False):
    """What a request can ask for besides an answer; see Anthropic's reference for what its models take.

    `CommonSettings` has the rest.

    Attributes:
        top_k: how many likely tokens to choose from; as `temperature`.
        stop: texts before which to stop.
        thinking: the API's object, such as ``{"type": "adaptive", "display": "summarized"}``.
        parallel_tool_calls: whether one answer may call several tools.
        server_tools: tools that Anthropic runs, as the API has them, such as
            ``{"type": "web_search_20250305", "name": "web_search"}``.
        citations: whether the answer may cite the documents.
        cache: how long prompts are cached, ``5m`` (the default) or ``1h``; None for not at all.
        betas: what of the API to try before it is generally available.
    """

    top_k: int
    stop: Sequence[str]
    thinking: Mapping[str, Any]
    parallel_tool_calls: bool
    server_tools: Sequence[Mapping[str, Any]]
    citations: bool
    cache: Literal["5m", "1h"] | None
    betas: Sequence[str]


class Anthropic(Adapter):
    """A model behind Anthropic's Messages API.

    It is an async context manager that keeps connections open between requests; without it each request connects anew, unless
    another provider does. It may be entered again while entered, and used by many tasks.

    Args:
        model: its name, such as ``claude-opus-5-5``.
        api_key: the key; by default ``ANTHROPIC_API_KEY``, which is sent nowhere but to Anthropic and ``ANTHROPIC_BASE_URL``.
        base_url: where the API is, for other hosts that speak it; by default ``ANTHROPIC_BASE_URL`` or Anthropic's own.
        timeout: how long the server may be silent, in seconds.
        client: an HTTP client to use instead of the shared one; it is never closed.
        rate_limits: what you know of the account's limits, besides what the server tells; None for never waiting for them.
        settings: see `AnthropicSettings`.

    Raises:
        MissingKeyError: there is no key, and the host is Anthropic.
        InvalidOptionError: a wrong value.
        UnknownOptionError: a setting that isn't one.
    """

    SETTINGS: ClassVar[type] = AnthropicSettings
    binds_thinking: ClassVar[bool] = True
    CHOICES: ClassVar[tuple[str, ...]] = (*Adapter.CHOICES, "any")
    COUNTS_CACHED: ClassVar[bool] = False
    _name = "anthropic"

    def __init__(
        self,
        model: str,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = READ_TIMEOUT,
        client: httpx.AsyncClient | None = None,
        rate_limits: RateLimits | None = LEARNED,
        **settings: Unpack[AnthropicSettings],
    ) -> None:
        super().__init__(model, settings)
        if settings.get("cache") not in (None, "5m", "1h"):
            raise InvalidOptionError("cache", "'5m', '1h', or None", settings.get("cache"))
        url = base_url or os.environ.get(URL_VARIABLE) or BASE_URL
        key = _key(api_key, url)
        url = url.rstrip("/").removesuffix("/v1")
        self._reach(
            "anthropic", url, key, _headers(key, settings), timeout=timeout, client=client, rate_limits=rate_limits
        )
        fields = _fields(model, settings)
        self._limit = fields["max_tokens"]
        self._cites = settings.get("citations", False)
        self._encoder = Encoder(
            self.origin,
            fields,
            server_tools=settings.get("server_tools", ()),
            cache=settings.get("cache", "5m"),
            citations=self._cites,
        )

    def structured_output(self, schema: Mapping[str, Any], *, tools: bool) -> StructuredOutput:  # noqa: ARG002  with tools or without
        """By the API where model and schema allow it, which isn't beside citations either; else by a tool."""
        if "claude" not in self._model or _NO_SCHEMA.search(self._model) or self._cites:
            return "tool"
        strict = strict_schema(schema, ANTHROPIC)
        return "tool" if strict is None or optional_properties(strict) > _OPTIONAL else "native"

    def decoder(self, request: Request) -> AnthropicDecoder:
        """What decodes the answer to `request`."""
        return AnthropicDecoder(**self._asked(request))

    def _path(self, *, stream: bool) -> str:  # noqa: ARG002  one for both
        return "/v1/messages"

    def _count_at(self) -> CountEndpoint:
        return _COUNT


def _key(api_key: str | None, url: str) -> Secret | None:
    """The key; the variable that belongs to Anthropic is sent to nobody else."""
    host = urlsplit(checked_url(url)).hostname or ""
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
    return headers | dict(settings.get("extra_headers", {}))


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
                output["format"] = answer_format(settings["response_schema"])
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
    if name := named_tool(choice):
        chosen = {"type": "tool", "name": name}
    else:
        chosen = {"type": _CHOICES.get(choice, choice)} if isinstance(choice, str) else dict(choice or {"type": "auto"})
    if parallel is not None and chosen["type"] != "none":
        chosen["disable_parallel_tool_use"] = not parallel
    return chosen


_CHOICES = {"required": "any"}


def _limit(model: str) -> int:
    return next((limit for name, limit in _LIMITS if re.search(name, model)), _LIMIT_OF_OTHERS)
