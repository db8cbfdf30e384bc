"""Asking a vendor how many tokens a request has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from alloy._tasks import run_in_thread
from alloy.errors import ProviderError
from alloy.messages import Message
from alloy.providers.base import Completion, CountsTokens
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from alloy.providers.base import Delta, Provider, Request
    from alloy.providers.http import Endpoint
    from alloy.providers.sse import ServerEvent

__all__ = ["CountEndpoint", "asked", "cannot_count", "only", "passed_on"]

INLINE = 262_144
"""How long a body is that is worded anew on the event loop, in bytes."""


@dataclass(frozen=True, slots=True)
class CountEndpoint:
    """Where a vendor counts tokens.

    Attributes:
        path: what to put behind the base URL.
        field: what the answer calls the number.
        word: makes of a request for an answer the one for the number.
    """

    path: str
    field: str
    word: Callable[[bytes], bytes]


def only(*names: str) -> Callable[[bytes], bytes]:
    """Keeps some fields of a request."""

    def word(body: bytes) -> bytes:
        fields: dict[str, Any] = from_json(body)
        return to_json({name: value for name, value in fields.items() if name in names})

    return word


async def asked(endpoint: Endpoint, where: CountEndpoint, body: bytes) -> int:
    """The number of tokens that a vendor counts in a request.

    Args:
        endpoint: whom to ask.
        where: its endpoint for that.
        body: the request for an answer, as JSON.

    Raises:
        ProviderError: it can't be reached, refuses, or answers something else.
    """
    body = where.word(body) if len(body) <= INLINE else await run_in_thread(where.word, body, name="alloy token count")
    async with endpoint.ask(where.path, body, _Count(where.field), stream=False) as items:
        return [item.usage.input_tokens async for item in items if isinstance(item, Completion)][-1]


async def passed_on(provider: Provider, request: Request) -> int:
    """What the provider says, if it's one that can be asked.

    Raises:
        ProviderError: it isn't (kind ``invalid_request``), or as `CountsTokens.count_tokens`.
    """
    if isinstance(provider, CountsTokens):
        return await provider.count_tokens(request)
    raise cannot_count(provider.name, provider.model)


def cannot_count(name: str, model: str) -> ProviderError:
    """The error for a provider that has no endpoint to count tokens."""
    message = f"{name} has no endpoint that counts tokens; estimate with alloy.models.TokenCounter({model!r})"
    return ProviderError(message, kind="invalid_request", provider=name, model=model)


class _Count:
    """Decodes the number, as the usage of an answer that says nothing."""

    done = False

    def __init__(self, field: str) -> None:
        self._field = field

    def feed(self, event: ServerEvent) -> Iterable[Delta]:  # noqa: ARG002  there's nothing to wait for
        return ()

    def end(self) -> Completion:
        raise ProviderError("the server streams what should be a number of tokens", kind="server_error")

    def whole(self, document: Any) -> Completion:
        count = document.get(self._field) if isinstance(document, dict) else None
        if isinstance(count, bool) or not isinstance(count, int) or count < 0:
            raise ProviderError(f"the answer says no number of tokens in {self._field!r}", kind="server_error")
        return Completion(
            message=Message("assistant", ()), stop_reason="end_turn", usage=Usage(input_tokens=count, requests=0)
        )
