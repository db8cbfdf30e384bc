"""From a run to whoever reads it, in one event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Protocol

from anyio.lowlevel import checkpoint

if TYPE_CHECKING:
    from alloy.events import Envelope

__all__ = ["Channel", "Gate"]

CHECKPOINT_EVERY = 64  # envelopes that a reader takes in one go before others have their turn


class Gate(Protocol):
    """Lets a slow reader hold up the model that it reads."""

    @property
    def full(self) -> bool:
        """Whether to wait before going on."""
        ...

    async def wait(self) -> None:
        """Waits until there is room."""
        ...


class Channel:
    """Envelopes on their way: `push` never waits, `full` says when to.

    It waits on asyncio's futures, since an event of anyio's for each envelope costs more than all else that is done with it.

    Args:
        size: how many envelopes may be on their way.
    """

    __slots__ = ("_closed", "_envelopes", "_given", "_readers", "_room", "_size", "_writer")

    def __init__(self, size: int) -> None:
        self._size = size
        self._room = size // 2
        self._envelopes: deque[Envelope] = deque()
        self._closed = False
        self._given = 0
        self._readers: list[asyncio.Future[None]] = []
        self._writer: asyncio.Future[None] | None = None

    def push(self, envelope: Envelope) -> None:
        """Takes an envelope."""
        self._envelopes.append(envelope)
        if self._readers:
            self._wake_readers()

    def close(self) -> None:
        """Says that nothing follows."""
        self._closed = True
        self._wake_readers()

    @property
    def full(self) -> bool:
        """Whether the writer should wait."""
        return len(self._envelopes) >= self._size

    async def wait(self) -> None:
        """Waits until there is room for half of what fits, so that writer and reader don't take turns for each envelope."""
        while self.full:
            self._writer = asyncio.get_running_loop().create_future()
            await self._writer

    async def pull(self) -> Envelope | None:
        """Waits for the next envelope; None is the end."""
        while not self._envelopes:
            if self._closed:
                return None
            await self._filled()
        self._given += 1
        if self._given % CHECKPOINT_EVERY == 0:
            await checkpoint()
            if not self._envelopes:  # another reader was faster
                return await self.pull()
        envelope = self._envelopes.popleft()
        if self._writer is not None and len(self._envelopes) <= self._room:
            _wake(self._writer)
            self._writer = None
        return envelope

    async def _filled(self) -> None:
        filled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._readers.append(filled)
        try:
            await filled
        finally:
            if filled in self._readers:  # cancelled
                self._readers.remove(filled)

    def _wake_readers(self) -> None:
        for reader in self._readers:
            _wake(reader)
        self._readers.clear()


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
