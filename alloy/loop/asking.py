"""Whom a run asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alloy import providers
from alloy.errors import InvalidOptionError
from alloy.providers.retry import Fallback, Retrying

if TYPE_CHECKING:
    from alloy.loop.config import Config
    from alloy.providers.base import Provider

__all__ = ["build_provider"]


def build_provider(config: Config) -> Provider:
    """The provider that the options ask for, with its retries and its fallbacks.

    Raises:
        ConfigurationError: there is none, it isn't known, or it has no key.
    """
    if config.provider is None:
        raise InvalidOptionError("provider", "'vendor:model' or a provider object", None)
    first, *others = (_retried(provider, config) for provider in (config.provider, *config.fallback_providers))
    return Fallback(first, *others) if others else first


def _retried(provider: Provider | str, config: Config) -> Provider:
    if isinstance(provider, str):
        provider = providers.from_string(provider)
    if not config.max_retries or isinstance(provider, Retrying):
        return provider
    return Retrying(provider, max_retries=config.max_retries, backoff=config.retry_backoff)
