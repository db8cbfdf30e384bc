"""Questions to a catalogue: how much a model reads, what something cost.

The first question to the default catalogue takes about half a second, so ask it in a thread where an event loop runs.
"""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

from alloy.models.genai import GenaiPrices
from alloy.models.info import Catalogue, ModelInfo, ModelMetadata
from alloy.models.overrides import Overrides

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from alloy.messages import Message
    from alloy.usage import Usage

__all__ = ["DEFAULT_CATALOGUE", "context_window", "cost_of", "price"]

_LOCAL_WINDOW = 8192  # what alloy.providers.Local gives its model unless told otherwise

DEFAULT_CATALOGUE: Catalogue = Overrides(
    {
        "local:": ModelMetadata(context_window=_LOCAL_WINDOW, patterns=(".+",)),
        "local:smollm2-135m-instruct": ModelMetadata(context_window=_LOCAL_WINDOW, max_output=512),
    },
    GenaiPrices(),
)
"""genai-prices and the embedded model."""


def context_window(provider: str, model: str, *, catalogue: Catalogue = DEFAULT_CATALOGUE) -> int:
    """How much a model reads and writes in one request, in tokens; `DEFAULT_WINDOW` where nobody knows.

    Args:
        provider: who serves it, such as ``openai``.
        model: its name there; dated snapshots of a family are found.
        catalogue: whom to ask.
    """
    return (catalogue.find(provider, model) or ModelInfo()).window


def price(
    usage: Usage,
    provider: str,
    model: str,
    *,
    at: datetime | None = None,
    catalogue: Catalogue = DEFAULT_CATALOGUE,
) -> Decimal | None:
    """What a request costs, in US dollars, by the list price.

    Some models cost more from a certain length of the prompt, so ask for one request at a time; `cost_of` does.

    Args:
        usage: what it used.
        provider: who served it, such as ``openai``.
        model: its name there.
        at: when it was made, for prices that changed; now by default.
        catalogue: whom to ask.

    Returns:
        The price; None where nobody knows it.
    """
    found = catalogue.find(provider, model)
    return found.price(usage, at) if found is not None and found.price is not None else None


def cost_of(
    messages: Iterable[Message], *, at: datetime | None = None, catalogue: Catalogue = DEFAULT_CATALOGUE
) -> Decimal | None:
    """What the answers among these messages cost, in US dollars, each by the list price of the model that wrote it.

    It is a view on the usage that each answer carries. Requests whose answer isn't among the messages, such as a refused one,
    aren't in it.

    Args:
        messages: a history, such as `Result.messages`; answers that you wrote yourself cost nothing.
        at: when they were written, for prices that changed; now by default.
        catalogue: whom to ask.

    Returns:
        The sum; None where the price or the usage of any answer is unknown.
    """
    total = Decimal(0)
    for message in messages:
        if message.role != "assistant" or message.provider is None:
            continue
        if message.usage is None or message.model is None:
            return None
        cost = price(message.usage, message.provider, message.model, at=at, catalogue=catalogue)
        if cost is None:
            return None
        total += cost
    return total
