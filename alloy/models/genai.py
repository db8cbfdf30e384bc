"""The catalogue that comes with Alloy: windows and prices from the genai-prices package.

It is loaded when something is first asked, from disk, which takes about half a second. Nothing is ever fetched over the
network. It knows no output limits.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from alloy.models.info import SNAPSHOTS, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime
    from decimal import Decimal

    from genai_prices.data_snapshot import DataSnapshot
    from genai_prices.types import ModelInfo as Entry
    from genai_prices.types import Provider as Vendor

    from alloy.models.info import Price
    from alloy.usage import Usage

__all__ = ["GenaiPrices"]

_AUTHORS = {
    "anthropic": "anthropic",
    "cohere": "cohere",
    "deepseek": "deepseek",
    "google": "google",
    "mistral": "mistralai",
    "moonshotai": "moonshotai",
    "openai": "openai",
    "perplexity": "perplexity",
    "x-ai": "x-ai",
    "zai": "z-ai",
}
"""Vendors of models of their own, and what OpenRouter calls them."""

# Names that mean the same model at the same price: paths as in models/x and accounts/y/models/x, and snapshots of a family.
_PATH = re.compile(r"^.*\bmodels/")
_SNAPSHOT = re.compile(f"(?:{'|'.join(SNAPSHOTS)})$")
# Names that mean the same model at another price: fine-tuned ones, and OpenRouter's ways to choose a host.
_TUNED = re.compile(r"^ft:([^:]+):.*$")
_ROUTE = re.compile(r":[a-z]+$")


class GenaiPrices:
    """The list prices and windows of about fifty vendors.

    Other names of a model that it lists are understood: dated snapshots, ``-latest``, ``models/...``, ``ft:...`` and the
    ``:variants`` of OpenRouter; the last two without a price, since theirs is another. Where a vendor's list has no window,
    OpenRouter's for the same model counts, and the other way round.
    """

    def find(self, provider: str, model: str) -> ModelInfo | None:
        """What is known about a model; see `Catalogue`."""
        from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415  half a second that only who asks pays

        snapshot = get_snapshot()
        try:
            vendor = snapshot.find_provider(None, provider, None).id
        except LookupError:
            return None
        windows: list[int | None] = []
        price: Price | None = None
        names = list(_spellings(model.lower()))
        for name, same_price in names:
            listed = _listed(snapshot, vendor, name)
            if listed is None:
                continue
            if not windows and same_price and (_has_price(listed[1]) or name.endswith(":free")):
                price = partial(_priced, *listed)
            windows.append(listed[1].context_window)
        known = bool(windows)
        if not any(windows):
            windows = [_window_elsewhere(snapshot, vendor, name) for name, _ in names]
        window = next(filter(None, windows), None)
        return ModelInfo(context_window=window, price=price) if known or window else None


def _spellings(model: str) -> Iterator[tuple[str, bool]]:
    """Names under which a model may be listed, the likeliest first, and whether its price is the same there."""
    bare = _PATH.sub("", model)
    tuned = _TUNED.sub(r"\1", bare)
    for name in dict.fromkeys((model, bare, tuned, _ROUTE.sub("", tuned))):
        same_price = name in (model, bare)
        yield name, same_price
        family = _SNAPSHOT.sub("", name)
        if family != name:
            yield family, same_price


def _listed(snapshot: DataSnapshot, vendor: str, name: str) -> tuple[Vendor, Entry] | None:
    try:
        return snapshot.find_provider_model(name, None, vendor, None)
    except LookupError:
        return None


def _window_elsewhere(snapshot: DataSnapshot, vendor: str, name: str) -> int | None:
    """The window of the same model at OpenRouter, or at its author where OpenRouter is asked."""
    if vendor == "openrouter":
        author, _, own = name.partition("/")
        place = next((ours for ours, theirs in _AUTHORS.items() if theirs == author), None)
    else:
        own = f"{_AUTHORS.get(vendor)}/{name}"
        place = "openrouter" if vendor in _AUTHORS else None
    listed = _listed(snapshot, place, own) if place is not None else None
    return listed[1].context_window if listed else None


def _has_price(entry: Entry) -> bool:
    prices = entry.prices if isinstance(entry.prices, list) else [entry]
    return any(value is not None for one in prices for value in vars(one.prices).values())


def _priced(vendor: Vendor, entry: Entry, usage: Usage, at: datetime | None) -> Decimal:
    from genai_prices import Usage as Priced  # noqa: PLC0415  half a second that only prices need

    # Its input tokens include what was read from and written to a cache, ours don't.
    priced = Priced(
        input_tokens=usage.prompt_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        output_tokens=usage.output_tokens,
    )
    return entry.calc_price(priced, vendor, genai_request_timestamp=at).total_price
