"""Talking to models: the provider protocol, and what speaks it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from alloy.errors import InvalidOptionError, UnknownProviderError

if TYPE_CHECKING:
    from alloy.providers.base import (
        Completion,
        Delta,
        Provider,
        ProviderItem,
        Request,
        Retry,
        TextDelta,
        ThinkingDelta,
        ToolCallDelta,
        ToolSpec,
    )
    from alloy.providers.chat import ChatCompletions
    from alloy.providers.compat import Compat
    from alloy.providers.local import Local
    from alloy.providers.retry import Fallback, Retrying
    from alloy.providers.scripted import Scripted

__all__ = [
    "ChatCompletions",
    "Compat",
    "Completion",
    "Delta",
    "Fallback",
    "Local",
    "Provider",
    "ProviderItem",
    "Request",
    "Retry",
    "Retrying",
    "Scripted",
    "TextDelta",
    "ThinkingDelta",
    "ToolCallDelta",
    "ToolSpec",
    "from_string",
]

_ELSEWHERE = {
    "ChatCompletions": "chat",
    "Compat": "compat",
    "Local": "local",
    "Scripted": "scripted",
    "Fallback": "retry",
    "Retrying": "retry",
}


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

    Its key, and for some its address, come from the vendor's usual environment variables. ``local`` is the embedded model,
    ``local:/path/to/model.gguf`` another one.

    Raises:
        UnknownProviderError: nobody is called so.
        InvalidOptionError: the model is missing.
        MissingKeyError: the key is missing.
        MissingExtraError: the embedded model isn't installed.
    """
    from alloy.providers.compat import HOSTS  # noqa: PLC0415  only strings need it

    vendor, _, model = provider.partition(":")
    if vendor not in HOSTS and vendor != "local":
        raise UnknownProviderError(provider, [*HOSTS, "local"])
    if vendor == "local":
        from alloy.providers.local import Local  # noqa: PLC0415  an extra

        return Local(model) if model else Local()
    if not model.strip():
        raise InvalidOptionError("provider", f"a model too, as in '{vendor}:<model>'", provider)
    from alloy.providers.chat import ChatCompletions  # noqa: PLC0415  only who talks to it pays for it

    return ChatCompletions(model, compat=vendor)
