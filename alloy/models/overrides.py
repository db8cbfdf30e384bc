"""What an application knows better than a catalogue."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from alloy.errors import InvalidOptionError
from alloy.models.info import ModelInfo, ModelMetadata

if TYPE_CHECKING:
    from alloy.models.info import Catalogue

__all__ = ["Overrides", "checked_overrides"]


class Overrides:
    """A catalogue over another one: whatever it says goes before what the other says.

    Args:
        overrides: by the name of a model or a family, ``"model"`` or ``"vendor:model"``: the window in tokens, a
            `ModelMetadata`, or a mapping of its attributes. Where several fit, the longest name wins, and among equals the
            one with the vendor.
        over: the catalogue for what isn't overridden.

    Raises:
        InvalidOptionError: a name or a value is wrong.
    """

    def __init__(self, overrides: Mapping[str, Any], over: Catalogue) -> None:
        self._overrides = [(name.lower(), known) for name, known in checked_overrides("overrides", overrides).items()]
        self._over = over

    def find(self, provider: str, model: str) -> ModelInfo | None:
        """What is known about a model; see `Catalogue`."""
        found = self._over.find(provider, model)
        known = self._best(provider.lower(), model.lower())
        if known is None:
            return found
        found = found or ModelInfo()
        return ModelInfo(
            context_window=known.context_window or found.context_window,
            max_output=known.max_output or found.max_output,
            price=known.price or found.price,
        )

    def _best(self, provider: str, model: str) -> ModelMetadata | None:
        names = [*(f"{vendor}:{model}" for vendor in _names_of(provider)), model]
        best: tuple[int, int] | None = None
        chosen = None
        for name, known in self._overrides:
            for index, full in enumerate(names):
                rest = full[len(name) :]
                if not full.startswith(name) or (rest and not _follows(rest, known)):
                    continue
                rank = (len(rest), index)
                if best is None or rank < best:
                    best, chosen = rank, known
        return chosen


def checked_overrides(option: str, value: Any) -> dict[str, ModelMetadata]:
    """Overrides in their full form.

    Raises:
        InvalidOptionError: they aren't any; it says which one of them.
    """
    if not isinstance(value, Mapping):
        raise InvalidOptionError(option, "a mapping from names of models to windows in tokens", value)
    checked = {}
    for name, known in value.items():
        if not isinstance(name, str) or not name.strip():
            raise InvalidOptionError(option, "'model' or 'vendor:model' as its keys", name)
        try:
            checked[name] = ModelMetadata.of(known)
        except InvalidOptionError as error:
            attribute = "" if error.option == "metadata" else f".{error.option}"
            raise InvalidOptionError(f"{option}[{name!r}]{attribute}", error.expected, error.value) from None
    return checked


def _names_of(provider: str) -> tuple[str, ...]:
    """What a provider is called in strings that name it."""
    return (provider, f"{provider}-chat", "google") if provider == "gemini" else (provider, f"{provider}-chat")


def _follows(rest: str, known: ModelMetadata) -> bool:
    return any(re.fullmatch(pattern, rest, re.IGNORECASE) for pattern in known.patterns)
