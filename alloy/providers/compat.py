"""Hosts that speak OpenAI's Chat Completions, each in its own way: their differences as data."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias
from urllib.parse import urlsplit

from alloy.errors import MissingKeyError
from alloy.providers.keys import Secret, checked_url

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["HOSTS", "UNKNOWN_HOST", "Compat", "compat_for", "key_for"]

CallIds: TypeAlias = Literal["any", "at_most_40", "alphanumeric_9"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Compat:
    """How one host differs from OpenAI; make your own with `dataclasses.replace`.

    Attributes:
        name: the vendor's name, as in ``vendor:model``.
        base_url: where the API is; empty where every customer has an address of their own.
        domains: what the host names of its base URLs end with.
        key_variables: the environment variables in which its key usually stands.
        url_variable: the environment variable in which another base URL may stand.
        key_required: whether it answers nobody without a key.
        key_header: the header that carries the key.
        key_prefix: what stands before the key in it.
        max_tokens: the request's field for the limit on the answer.
        stream_usage: whether it takes ``stream_options: {"include_usage": true}``.
        effort: where the reasoning effort goes: a field of its own, or ``reasoning: {"effort": ...}``.
        reasoning_required: whether an assistant's turn with tool calls must have ``reasoning_content``, if only an empty one.
        call_ids: what tool call ids may look like.
        assistant_after_tool: whether an assistant's turn must stand between tool results and the user's turn.
        annotations: whether it wants an answer's annotations back.
        media: whether it takes anything but text.
        video: whether it takes ``video_url``.
        response_schema: whether it takes a JSON schema for the answer.
        schema_beside_tools: whether it takes one in a request with tools, and still lets the model call them.
        references: whether it takes schemas of tools with references; if not, they are put in place.
        cache_key: whether it takes ``prompt_cache_key``.
        cache_control: whether it has Claude's prompts cached where a request says ``cache_control``.
        limits_per_model: whether each model has rate limits of its own; if not, all of an account's share them.
    """

    name: str
    base_url: str = ""
    domains: tuple[str, ...] = ()
    key_variables: tuple[str, ...] = ()
    url_variable: str | None = None
    key_required: bool = True
    key_header: str = "authorization"
    key_prefix: str = "Bearer"
    max_tokens: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    stream_usage: bool = True
    effort: Literal["reasoning_effort", "reasoning"] = "reasoning_effort"
    reasoning_required: bool = False
    call_ids: CallIds = "any"
    assistant_after_tool: bool = False
    annotations: bool = False
    media: bool = True
    video: bool = False
    response_schema: bool = True
    schema_beside_tools: bool = True
    references: bool = True
    cache_key: bool = False
    cache_control: bool = False
    limits_per_model: bool = True


UNKNOWN_HOST = Compat(name="chat_completions", key_required=False, video=True, schema_beside_tools=False)
"""A host that isn't in the list: it may need a key or not, and gets what most take."""

_HOSTS = (
    Compat(
        name="openai",
        base_url="https://api.openai.com/v1",
        domains=("api.openai.com",),
        key_variables=("OPENAI_API_KEY",),
        url_variable="OPENAI_BASE_URL",
        max_tokens="max_completion_tokens",
        call_ids="at_most_40",
        cache_key=True,
    ),
    Compat(
        name="azure",
        domains=("openai.azure.com", "services.ai.azure.com", "cognitiveservices.azure.com"),
        key_variables=("AZURE_OPENAI_API_KEY",),
        url_variable="AZURE_OPENAI_BASE_URL",
        key_header="api-key",
        key_prefix="",
        max_tokens="max_completion_tokens",
        call_ids="at_most_40",
    ),
    Compat(
        name="openrouter",
        base_url="https://openrouter.ai/api/v1",
        domains=("openrouter.ai",),
        key_variables=("OPENROUTER_API_KEY",),
        effort="reasoning",
        annotations=True,
        video=True,
        cache_control=True,  # https://openrouter.ai/docs/guides/best-practices/prompt-caching
    ),
    Compat(
        name="deepseek",
        base_url="https://api.deepseek.com",
        domains=("api.deepseek.com",),
        key_variables=("DEEPSEEK_API_KEY",),
        reasoning_required=True,
        media=False,
        response_schema=False,
    ),
    Compat(
        name="moonshot",
        base_url="https://api.moonshot.ai/v1",
        domains=("api.moonshot.ai", "api.moonshot.cn"),
        key_variables=("MOONSHOT_API_KEY", "KIMI_API_KEY"),
        reasoning_required=True,
        video=True,
        limits_per_model=False,  # https://platform.kimi.ai/docs/introduction
        schema_beside_tools=False,
    ),
    Compat(
        name="zai",
        base_url="https://api.z.ai/api/paas/v4",
        domains=("api.z.ai", "open.bigmodel.cn"),
        key_variables=("ZAI_API_KEY", "ZHIPUAI_API_KEY"),
        video=True,
        response_schema=False,  # https://docs.z.ai/guides/capabilities/struct-output
        references=False,
    ),
    Compat(
        name="mistral",
        base_url="https://api.mistral.ai/v1",
        domains=("api.mistral.ai",),
        key_variables=("MISTRAL_API_KEY",),
        stream_usage=False,  # it sends usage unasked, and refuses fields that it doesn't know
        call_ids="alphanumeric_9",
        assistant_after_tool=True,
        schema_beside_tools=False,  # it was seen to write its calls into the JSON
        cache_key=True,  # https://docs.mistral.ai/studio-api/conversations/advanced/prompt-caching
    ),
    Compat(
        name="groq",
        base_url="https://api.groq.com/openai/v1",
        domains=("api.groq.com",),
        key_variables=("GROQ_API_KEY",),
        max_tokens="max_completion_tokens",
        schema_beside_tools=False,  # https://console.groq.com/docs/structured-outputs
    ),
    Compat(
        name="cerebras",
        base_url="https://api.cerebras.ai/v1",
        domains=("api.cerebras.ai",),
        key_variables=("CEREBRAS_API_KEY",),
        max_tokens="max_completion_tokens",
        schema_beside_tools=False,
    ),
    Compat(
        name="together",
        base_url="https://api.together.xyz/v1",
        domains=("api.together.xyz", "api.together.ai"),
        key_variables=("TOGETHER_API_KEY",),
        video=True,
    ),
    Compat(
        name="fireworks",
        base_url="https://api.fireworks.ai/inference/v1",
        domains=("api.fireworks.ai",),
        key_variables=("FIREWORKS_API_KEY",),
    ),
    Compat(
        name="perplexity",
        base_url="https://api.perplexity.ai",
        domains=("api.perplexity.ai",),
        key_variables=("PERPLEXITY_API_KEY", "PPLX_API_KEY"),
        stream_usage=False,  # it sends usage unasked
    ),
    Compat(
        name="xai",
        base_url="https://api.x.ai/v1",
        domains=("api.x.ai",),
        key_variables=("XAI_API_KEY",),
        max_tokens="max_completion_tokens",
    ),
    Compat(name="ollama", base_url="http://localhost:11434/v1", domains=("ollama.com",), key_variables=("OLLAMA_API_KEY",), key_required=False, schema_beside_tools=False),
    Compat(name="vllm", base_url="http://localhost:8000/v1", key_variables=("VLLM_API_KEY",), key_required=False, video=True, schema_beside_tools=False),
    Compat(name="llama_cpp", base_url="http://localhost:8080/v1", key_variables=("LLAMA_API_KEY",), key_required=False, schema_beside_tools=False),
)  # fmt: skip
HOSTS: Mapping[str, Compat] = {compat.name: compat for compat in _HOSTS}
"""The hosts that are known, by name."""


def compat_for(base_url: str) -> Compat:
    """The host that a base URL belongs to, or `UNKNOWN_HOST`.

    Raises:
        InvalidOptionError: the address is none.
    """
    parts = urlsplit(checked_url(base_url))
    host = (parts.hostname or "").lower()
    for compat in _HOSTS:
        if any(host == domain or host.endswith("." + domain) for domain in compat.domains):
            return compat
    if host in ("localhost", "127.0.0.1", "::1") and parts.port == 11434:
        return HOSTS["ollama"]  # the other servers' ports are everybody's
    return UNKNOWN_HOST


def key_for(host: Compat, api_key: str | None) -> Secret | None:
    """The key that goes to a host; a variable that belongs to a vendor is never sent to anybody else.

    Args:
        host: who is asked.
        api_key: the key that was given, if any.

    Raises:
        MissingKeyError: the host answers nobody without one, and there is none.
    """
    keys = (api_key, *(os.environ.get(name) for name in host.key_variables))
    key = next((key for key in keys if key and key.strip()), None)
    if key is None and host.key_required:
        raise MissingKeyError(host.name, host.key_variables)
    return Secret(key, host.key_prefix) if key else None
