"""Context windows and prices, from the genai-prices package; it is loaded when something is first asked, from disk.

The first question takes about half a second, so ask it in a thread where an event loop runs. Nothing is ever fetched over the
network.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime
    from decimal import Decimal

    from genai_prices.types import ModelInfo

    from alloy.usage import Usage

__all__ = ["DEFAULT_WINDOW", "context_window", "price"]

DEFAULT_WINDOW = 200_000
"""What an unknown model is taken to read, in tokens."""

# Vendors that the catalogue knows by another name than Alloy.
_NAMES = {"gemini": "google", "moonshot": "moonshotai", "xai": "x-ai"}


def context_window(provider: str, model: str) -> int:
    """How much a model reads and writes in one request, in tokens; `DEFAULT_WINDOW` where nobody knows.

    Args:
        provider: who serves it, such as ``openai``.
        model: its name there; dated snapshots of a family are found.
    """
    found = _find(provider, model)
    return (found and found.context_window) or DEFAULT_WINDOW


def price(usage: Usage, provider: str, model: str, *, at: datetime | None = None) -> Decimal | None:
    """What requests cost, in US dollars, by the list price.

    Args:
        usage: what they used.
        provider: who served them, such as ``openai``.
        model: its name there.
        at: when they were made, for prices that changed; now by default.

    Returns:
        The price; None where nobody knows it.
    """
    if _find(provider, model) is None:
        return None
    from genai_prices import Usage as Priced  # noqa: PLC0415  half a second that only prices need
    from genai_prices import calc_price  # noqa: PLC0415

    # Its input tokens include what was read from and written to a cache, ours don't.
    priced = Priced(
        input_tokens=usage.prompt_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    provider_id = _NAMES.get(provider, provider)
    return calc_price(priced, model, provider_id=provider_id, genai_request_timestamp=at).total_price


def _find(provider: str, model: str) -> ModelInfo | None:
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415  half a second that only prices need

    try:
        return get_snapshot().find_provider_model(model, None, _NAMES.get(provider, provider), None)[1]
    except LookupError:
        return None
