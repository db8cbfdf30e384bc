"""Anything that has what the protocol asks for is a provider; nothing has to be inherited."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import alloy
from alloy.providers import Completion, Provider, ProviderItem, Request, TextDelta

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Echo:
    """Says what it hears."""

    name = "echo"
    model = "parrot"

    @asynccontextmanager
    async def stream(self, request: Request) -> AsyncIterator[AsyncIterator[ProviderItem]]:
        """Answers with the last message."""
        yield self._answer(request.messages[-1].text)

    async def _answer(self, text: str) -> AsyncIterator[ProviderItem]:
        yield TextDelta(text)
        message = alloy.Message("assistant", (alloy.TextBlock(text),), provider=self.name, model=self.model)
        yield Completion(message=message, stop_reason="end_turn")


class Mute:
    """Lacks what makes a provider."""

    name = "mute"
    model = "fish"


PROVIDER: Provider = Echo()
CONFIG = alloy.Config(provider=Echo())
NO_CONFIG = alloy.Config(provider=Mute())  # type: ignore[arg-type]  # the assertion
