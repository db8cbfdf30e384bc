"""OpenAI's Chat Completions, as its inventor and everybody else serves it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Unpack

from alloy.errors import InvalidOptionError
from alloy.providers.adapter import Adapter, CommonSettings
from alloy.providers.chat_decode import ChatDecoder
from alloy.providers.chat_encode import Encoder
from alloy.providers.compat import HOSTS, Compat, compat_for, key_for
from alloy.providers.governor import LEARNED
from alloy.providers.http import READ_TIMEOUT, Secret
from alloy.providers.options import named_tool
from alloy.providers.strict_schema import answer_format

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx

    from alloy.providers.base import Request, StructuredOutput
    from alloy.providers.governor import RateLimits

__all__ = ["ChatCompletions", "ChatSettings"]


class ChatSettings(CommonSettings, total=False):
    """What a request can ask for besides an answer; see the vendor's reference for what its models take.

    `CommonSettings` has the rest.

    Attributes:
        stop: texts before which to stop.
        seed: makes answers more alike, where supported.
        parallel_tool_calls: whether one answer may call several tools.
        server_tools: tools that the vendor runs, as the API has them, where it has any.
        response_format: the vendor's object, such as ``{"type": "json_object"}``; else `response_schema`.
        prompt_cache_key: what requests with the same beginning have in common; by default a digest of how the conversation
            began, at OpenAI and Mistral themselves. None for none.
        cache: how long Claude's prompts are cached at OpenRouter, ``5m`` (the default) or ``1h``; None for not at all.
    """

    stop: Sequence[str]
    seed: int
    parallel_tool_calls: bool
    server_tools: Sequence[Mapping[str, Any]]
    response_format: Mapping[str, Any]
    prompt_cache_key: str | None
    cache: Literal["5m", "1h"] | None


class ChatCompletions(Adapter):
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
        rate_limits: what you know of the account's limits, besides what the server tells; None for never waiting for them.
        settings: see `ChatSettings`.

    Raises:
        MissingKeyError: the host answers nobody without a key, and there is none.
        InvalidOptionError: a wrong value.
        UnknownOptionError: a setting that isn't one.
    """

    SETTINGS: ClassVar[type] = ChatSettings

    def __init__(
        self,
        model: str,
        api_key: str | None = None,
        base_url: str | None = None,
        *,
        compat: Compat | str | None = None,
        timeout: float = READ_TIMEOUT,
        client: httpx.AsyncClient | None = None,
        rate_limits: RateLimits | None = LEARNED,
        **settings: Unpack[ChatSettings],
    ) -> None:
        super().__init__(model, settings)
        self._compat = _compat(compat, base_url)
        self._name = self._compat.name
        self._limits_per_model = self._compat.limits_per_model
        url = base_url or os.environ.get(self._compat.url_variable or "") or self._compat.base_url
        if not url:
            raise InvalidOptionError("base_url", f"your endpoint's address, or else {self._compat.url_variable}", url)
        key = key_for(self._compat, api_key)
        headers: dict[str, str | Secret] = {self._compat.key_header: key} if key else {}
        headers |= settings.get("extra_headers", {})
        self._reach("chat_completions", url, key, headers, timeout=timeout, client=client, rate_limits=rate_limits)
        fields = _fields(self._compat, model, settings)
        self._limit = 0 if "audio" in fields else fields.get(self._compat.max_tokens)  # streams hold raw sound only
        self._audio_type = f"audio/{(fields.get('audio') or {}).get('format', 'wav')}"
        # where a variable says the address, that may be another host
        host = self._compat if base_url or isinstance(compat, Compat) else compat_for(url)
        keyed = host.cache_key and "prompt_cache_key" not in settings
        self._encoder = Encoder(self._compat, self.origin, fields, keyed=keyed)

    def structured_output(self, schema: Mapping[str, Any], *, tools: bool) -> StructuredOutput:  # noqa: ARG002  any schema
        """By the API where the host has that, also beside tools if there are any; else by a tool."""
        compat = self._compat
        return "native" if compat.response_schema and (compat.schema_beside_tools or not tools) else "tool"

    def decoder(self, request: Request) -> ChatDecoder:
        """What decodes the answer to `request`."""
        return ChatDecoder(
            **self._asked(request),
            usage_due=request.stream and self._compat.stream_usage,
            audio_type=self._audio_type,
        )

    def _path(self, *, stream: bool) -> str:  # noqa: ARG002  one for both
        return "/chat/completions"

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


def _fields(compat: Compat, model: str, settings: ChatSettings) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": model} | _caching(compat, model, settings)
    for name, value in settings.items():
        match name:
            case "max_tokens":
                fields[compat.max_tokens] = value
            case "effort":
                fields |= {"reasoning": {"effort": value}} if compat.effort == "reasoning" else {compat.effort: value}
            case "tool_choice" if tool := named_tool(value):
                fields["tool_choice"] = {"type": "function", "function": {"name": tool}}
            case "response_schema":
                fields["response_format"] = _format(compat, settings)
            case "server_tools":
                fields["tools"] = [dict(tool) for tool in settings["server_tools"]]
            case "cache" | "extra_body" | "extra_headers":
                pass
            case "prompt_cache_key" if value is None:
                pass
            case _:
                fields[name] = value
    return fields | dict(settings.get("extra_body", {}))


def _caching(compat: Compat, model: str, settings: ChatSettings) -> dict[str, Any]:
    """What has Claude's prompts cached, up to the newest message."""
    cache, cached = settings.get("cache", "5m"), compat.cache_control and model.startswith("anthropic/")
    if cache not in (None, "5m", "1h"):
        raise InvalidOptionError("cache", "'5m', '1h', or None", cache)
    if not cached and settings.get("cache"):
        raise InvalidOptionError("cache", "nothing but for Claude at OpenRouter; others cache by themselves", cache)
    ttl = {} if cache == "5m" else {"ttl": cache}
    return {"cache_control": {"type": "ephemeral"} | ttl} if cached and cache else {}


def _format(compat: Compat, settings: ChatSettings) -> dict[str, Any]:
    if "response_format" in settings:
        raise InvalidOptionError(
            "response_format", "nothing beside response_schema, which says it", settings["response_format"]
        )
    if not compat.response_schema:
        expected = f"nothing at {compat.name}, which takes no schema; ask for JSON by response_format={{'type': 'json_object'}}"
        raise InvalidOptionError("response_schema", expected, settings["response_schema"])
    return {"type": "json_schema", "json_schema": answer_format(settings["response_schema"])}
