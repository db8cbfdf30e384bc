"""What a run knows about its models, asked once and off the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio

from alloy._tasks import run_in_thread
from alloy.models.catalogue import DEFAULT_CATALOGUE
from alloy.models.info import ModelInfo
from alloy.models.overrides import Overrides

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alloy.models.info import Catalogue

__all__ = ["Lookup"]


class Lookup:
    """Asks a catalogue once for each model.

    Args:
        catalogue: whom to ask; None for the default.
        overrides: what goes before it.
    """

    def __init__(self, catalogue: Catalogue | None, overrides: Mapping[str, Any]) -> None:
        self._catalogue = Overrides(overrides, DEFAULT_CATALOGUE if catalogue is None else catalogue)
        self._found: dict[tuple[str, str], ModelInfo] = {}
        self._asking = anyio.Lock()

    async def find(self, provider: str, model: str) -> ModelInfo:
        """What is known about a model, if only that nothing is.

        Raises:
            Exception: whatever the catalogue raises.
        """
        async with self._asking:
            if (provider, model) not in self._found:
                found = await run_in_thread(self._catalogue.find, provider, model, name="alloy models")
                self._found[provider, model] = found or ModelInfo()
        return self._found[provider, model]
