"""Items that came together travel together: each step of an async iteration costs more than what is done with an item."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from alloy.providers.base import ProviderItem

__all__ = ["Batches", "in_batches"]


class Batches:
    """A provider's items, one by one for those who don't know better; `in_batches` gives them as they came.

    Args:
        batches: the items that came together.
    """

    __slots__ = ("_left", "batches")

    def __init__(self, batches: AsyncIterator[Sequence[ProviderItem]]) -> None:
        self.batches = batches
        self._left: Iterator[ProviderItem] = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ProviderItem:
        while (item := next(self._left, None)) is None:
            self._left = iter(await anext(self.batches))
        return item


class _Singles:
    """Items that come alone."""

    __slots__ = ("_items",)

    def __init__(self, items: AsyncIterator[ProviderItem]) -> None:
        self._items = items

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[ProviderItem]:
        return (await anext(self._items),)


def in_batches(items: AsyncIterator[ProviderItem]) -> AsyncIterator[Sequence[ProviderItem]]:
    """Any provider's items as they came, none of which was taken yet."""
    return items.batches if isinstance(items, Batches) else _Singles(items)
