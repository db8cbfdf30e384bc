"""Whom a run asks, and what pays for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alloy import providers
from alloy.errors import InvalidOptionError
from alloy.providers.retry import Fallback, Retrying

if TYPE_CHECKING:
    from alloy.loop.config import Config
    from alloy.providers.base import Provider
    from alloy.providers.budget import Budget

__all__ = ["budgets_of", "build_provider"]


def build_provider(config: Config) -> Provider:
    """The provider that the options ask for, with its retries and its fallbacks.

    Raises:
        ConfigurationError: there is none, it isn't known, or it has no key.
    """
    if config.provider is None:
        raise InvalidOptionError("provider", "'vendor:model' or a provider object", None)
    first, *others = (_retried(provider, config) for provider in (config.provider, *config.fallback_providers))
    return Fallback(first, *others) if others else first


def budgets_of(config: Config) -> tuple[Budget, ...]:
    """What the options have requests be paid from: a new budget where they say a number; nothing where there is no limit."""
    if config.max_budget is None:
        return ()
    from alloy.providers.budget import Budget  # noqa: PLC0415  only who has one pays for it

    return (config.max_budget if isinstance(config.max_budget, Budget) else Budget(config.max_budget),)


def _retried(provider: Provider | str, config: Config) -> Provider:
    if isinstance(provider, str):
        provider = providers.from_string(provider)
    if not config.max_retries or isinstance(provider, Retrying):
        return provider
    return Retrying(provider, max_retries=config.max_retries, backoff=config.retry_backoff)
