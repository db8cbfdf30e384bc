"""Talking to models: the provider protocol, and what speaks it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from alloy.errors import InvalidOptionError, UnknownProviderError

if TYPE_CHECKING:
    from alloy.providers.anthropic import Anthropic
    from alloy.providers.base import (
        Completion,
        CountsTokens,
        Delta,
        Priority,
        Provider,
        ProviderItem,
        RateLimitWait,
        Request,
        Retry,
        StructuredOutput,
        StructuresOutput,
        TextDelta,
        ThinkingDelta,
        ToolCallDelta,
        ToolSpec,
    )
    from alloy.providers.budget import Amount, Budget
    from alloy.providers.chat import ChatCompletions
    from alloy.providers.compat import Compat
    from alloy.providers.gemini import Gemini
    from alloy.providers.governor import RateLimits
    from alloy.providers.local import Local
    from alloy.providers.openai import OpenAI
    from alloy.providers.retry import Fallback, Retrying
    from alloy.providers.scripted import Scripted
    from alloy.providers.xai import XAI

__all__ = [
    "XAI",
    "Amount",
    "Anthropic",
    "Budget",
    "ChatCompletions",
    "Compat",
    "Completion",
    "CountsTokens",
    "Delta",
    "Fallback",
    "Gemini",
    "Local",
    "OpenAI",
    "Priority",
    "Provider",
    "ProviderItem",
    "RateLimitWait",
    "RateLimits",
    "Request",
    "Retry",
    "Retrying",
    "Scripted",
    "StructuredOutput",
    "StructuresOutput",
    "TextDelta",
    "ThinkingDelta",
    "ToolCallDelta",
    "ToolSpec",
    "from_string",
]

_ELSEWHERE = {
    "Amount": "budget",
    "Budget": "budget",
    "Anthropic": "anthropic",
    "ChatCompletions": "chat",
    "Compat": "compat",
    "Gemini": "gemini",
    "Local": "local",
    "Scripted": "scripted",
    "Fallback": "retry",
    "Retrying": "retry",
    "RateLimits": "governor",
    "OpenAI": "openai",
    "XAI": "xai",
}
_ADAPTERS = {"anthropic": "Anthropic", "gemini": "Gemini", "google": "Gemini", "openai": "OpenAI", "xai": "XAI"}
"""Vendors with an adapter of their own; where they serve Chat Completions as well, that is ``vendor-chat``."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_ELSEWHERE.get(name, 'base')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def from_string(provider: str) -> Provider:
    """The provider that a string such as ``openai:gpt-5`` names.

    Its key, and for some its address, come from the vendor's usual environment variables. A vendor's own API is asked
    where there is an adapter for it; ``openai-chat`` and ``xai-chat`` are those vendors' Chat Completions. ``local`` is the
    embedded model, ``local:/path/to/model.gguf`` another one.

    Raises:
        UnknownProviderError: nobody is called so.
        InvalidOptionError: the model is missing.
        MissingKeyError: the key is missing.
        MissingExtraError: the embedded model isn't installed.
    """
    from alloy.providers.compat import HOSTS  # noqa: PLC0415  only strings need it

    vendor, _, model = provider.partition(":")
    chat = {f"{name}-chat" if name in _ADAPTERS else name: name for name in HOSTS}
    if vendor not in chat and vendor not in _ADAPTERS and vendor != "local":
        raise UnknownProviderError(provider, [*chat, *_ADAPTERS, "local"])
    if vendor == "local":
        from alloy.providers.local import Local  # noqa: PLC0415  an extra

        return Local(model) if model else Local()
    if not model.strip():
        raise InvalidOptionError("provider", f"a model too, as in '{vendor}:<model>'", provider)
    if vendor in _ADAPTERS:
        made: Provider = __getattr__(_ADAPTERS[vendor])(model)
        return made
    from alloy.providers.chat import ChatCompletions  # noqa: PLC0415  only who talks to it pays for it

    return ChatCompletions(model, compat=chat[vendor])
