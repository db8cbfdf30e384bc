"""OpenAI's Responses API."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

from alloy.errors import InvalidOptionError
from alloy.providers.adapter import Adapter, CommonSettings
from alloy.providers.compat import HOSTS, UNKNOWN_HOST, compat_for, key_for
from alloy.providers.counting import CountEndpoint, only
from alloy.providers.governor import LEARNED
from alloy.providers.http import READ_TIMEOUT, Secret
from alloy.providers.openai_decode import ResponsesDecoder
from alloy.providers.openai_encode import Encoder, custom_tools
from alloy.providers.strict_schema import answer_format

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx

    from alloy.providers.base import Request, StructuredOutput
    from alloy.providers.governor import RateLimits

__all__ = ["OpenAI", "OpenAISettings"]

ENCRYPTED = "reasoning.encrypted_content"
"""What to include so that reasoning can go back without the vendor storing anything."""

# Models that don't reason: they refuse reasoning items, and to include what encrypts them.
_NO_REASONING = re.compile(
    r"(?:^|[/:.])(?:gpt-[34]|chatgpt-|gpt-5(?:\.\d+)?-chat)|non-reasoning",
    re.IGNORECASE,
)


_COUNT = CountEndpoint(
    "/responses/input_tokens",
    "input_tokens",
    only(
        "model",
        "input",
        "instructions",
        "tools",
        "tool_choice",
        "parallel_tool_calls",
        "reasoning",
        "text",
        "truncation",
    ),
)
"""OpenAI's API reference, "Get input token counts"."""

_KEYED = ("openai", "xai")
"""Who takes a ``prompt_cache_key``; other hosts refuse fields that they don't know."""

# Models that take no JSON schema for their answers, and those among them that call no tools either.
# https://developers.openai.com/api/docs/guides/structured-outputs
_NO_SCHEMA = re.compile(r"(?:^|[/:])(?:gpt-3|gpt-4(?:-|$)|gpt-4o-2024-05-13)")
_NEITHER = re.compile(r"(?:^|[/:])(?:chatgpt-|o1-mini|o1-preview)")


class OpenAISettings(CommonSettings, total=False):
    """What a request can ask for besides an answer; see the vendor's reference for what its models take.

    `CommonSettings` has the rest.

    Attributes:
        reasoning: the API's object besides `effort`, such as ``{"summary": "auto"}``; also ``mode`` and ``context``.
        text: the API's object for the answer's form besides `response_schema`, such as ``{"verbosity": "low"}``.
        parallel_tool_calls: whether one answer may call several tools.
        server_tools: tools that the vendor runs, as the API has them, such as ``{"type": "web_search"}``.
        include: what else the answer should hold, such as ``web_search_call.action.sources``.
        store: whether the vendor keeps the answer; by default it doesn't.
        prompt_cache_key: what requests with the same beginning have in common; by default a digest of how the conversation
            began, at OpenAI and xAI themselves. None for none.
        prompt_cache_options: the API's object, such as ``{"mode": "explicit", "ttl": "30m"}``.
        service_tier: such as ``flex`` or ``priority``.
        metadata: texts that the vendor keeps with the answer.
    """

    reasoning: Mapping[str, Any]
    text: Mapping[str, Any]
    parallel_tool_calls: bool
    server_tools: Sequence[Mapping[str, Any]]
    include: Sequence[str]
    store: bool
    prompt_cache_key: str | None
    prompt_cache_options: Mapping[str, Any]
    service_tier: str
    metadata: Mapping[str, str]


class OpenAI(Adapter):
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
        rate_limits: what you know of the account's limits, besides what the server tells; None for never waiting for them.
        settings: see `OpenAISettings`.

    Raises:
        MissingKeyError: the host answers nobody without a key, and there is none.
        InvalidOptionError: a wrong value.
        UnknownOptionError: a setting that isn't one.
    """

    SETTINGS: ClassVar[type] = OpenAISettings
    _VENDOR: ClassVar[str] = "openai"

    def __init__(
        self,
        model: str,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        timeout: float = READ_TIMEOUT,
        client: httpx.AsyncClient | None = None,
        rate_limits: RateLimits | None = LEARNED,
        **settings: Unpack[OpenAISettings],
    ) -> None:
        super().__init__(model, settings)
        host = compat_for(base_url) if base_url else HOSTS[self._VENDOR]
        self._name = self._VENDOR if host is UNKNOWN_HOST else host.name
        url = base_url or os.environ.get(host.url_variable or "") or host.base_url
        key = key_for(host, api_key)
        headers: dict[str, str | Secret] = {host.key_header: key} if key else {}
        headers |= settings.get("extra_headers", {})
        self._reach("responses", url, key, headers, timeout=timeout, client=client, rate_limits=rate_limits)
        reasons = not _NO_REASONING.search(model)
        fields = _fields(model, settings, reasons=reasons)
        self._limit = fields.get("max_output_tokens")
        keyed = compat_for(url).name in _KEYED and "prompt_cache_key" not in settings
        self._encoder = Encoder(self.origin, fields, self._VENDOR, reasons=reasons, keyed=keyed)

    def structured_output(self, schema: Mapping[str, Any], *, tools: bool) -> StructuredOutput:  # noqa: ARG002  any schema, with tools or without
        """By the API; old models by a tool, or in words."""
        return _by_model(self._model)

    def decoder(self, request: Request) -> ResponsesDecoder:
        """What decodes the answer to `request`."""
        return ResponsesDecoder(**self._asked(request), custom=custom_tools(request, self._VENDOR))

    def _path(self, *, stream: bool) -> str:  # noqa: ARG002  one for both
        return "/responses"

    def _count_at(self) -> CountEndpoint | None:
        return _COUNT if self._VENDOR == "openai" else None


_WORDED = ("effort", "extra_body", "extra_headers", "include", "response_schema", "server_tools")
"""Settings that aren't fields of the body as they are."""


def _by_model(model: str) -> StructuredOutput:
    return "prompt" if _NEITHER.search(model) else "tool" if _NO_SCHEMA.search(model) else "native"


def _fields(model: str, settings: OpenAISettings, *, reasons: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": model, "store": False}
    for name, value in settings.items():
        if name not in _WORDED and not (name == "prompt_cache_key" and value is None):
            fields["max_output_tokens" if name == "max_tokens" else name] = value
    if "effort" in settings:
        fields["reasoning"] = _with(settings, "reasoning", "effort", settings["effort"])
    if "response_schema" in settings:
        form = {"type": "json_schema"} | answer_format(settings["response_schema"])
        fields["text"] = _with(settings, "text", "format", form)
    if server_tools := [dict(tool) for tool in settings.get("server_tools", ())]:
        fields["tools"] = server_tools
    if include := _include(settings, encrypted=reasons and not fields["store"]):
        fields["include"] = include
    extra = dict(settings.get("extra_body", {}))
    for name in ("previous_response_id", "conversation"):
        if extra.get(name) is not None:
            raise InvalidOptionError(
                "extra_body", f"no {name!r}, since each request holds the whole history", extra[name]
            )
    return fields | extra


def _include(settings: OpenAISettings, *, encrypted: bool) -> list[str]:
    include = list(settings.get("include", ()))
    return [*include, ENCRYPTED] if encrypted and ENCRYPTED not in include else include


def _with(settings: OpenAISettings, name: Literal["reasoning", "text"], field: str, value: Any) -> dict[str, Any]:
    """The vendor's object with what stands in a setting of its own."""
    given = dict(settings.get(name, {}))
    if field in given:
        raise InvalidOptionError(name, f"no {field!r} beside the setting that says the same", given)
    return given | {field: value}
