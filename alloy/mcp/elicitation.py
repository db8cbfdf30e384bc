"""What a server may ask the user in the middle of a call."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from alloy.tools.functions import call

if TYPE_CHECKING:
    from mcp import types
    from mcp.client.session import ClientRequestContext

__all__ = ["Elicitation", "OnElicitation", "answerer"]

_log = logging.getLogger("alloy.mcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Elicitation:
    """Something that a server wants to know from the user.

    Attributes:
        server: the server's name.
        message: what to show the user.
        schema: JSON schema of the answer, an object of plain values; empty where there is nothing to fill in.
        url: a page that the user is to visit, where that is what is asked for.
    """

    server: str
    message: str
    schema: Mapping[str, Any]
    url: str | None = None


OnElicitation: TypeAlias = Callable[[Elicitation], Mapping[str, Any] | Awaitable[Mapping[str, Any] | None] | None]
"""Asks the user: returns what was filled in, or None if the user declines."""


class _Callback(Protocol):
    async def __call__(
        self, context: ClientRequestContext, params: types.ElicitRequestParams
    ) -> types.ElicitResult | types.ErrorData: ...


def answerer(server: Callable[[], str], handler: OnElicitation | None) -> _Callback | None:
    """What the SDK calls when a server asks.

    What the user leaves out is filled in with the schema's defaults.

    Args:
        server: gives the server's name.
        handler: what the application gave; may be async, and blocks nobody if it isn't.

    Returns:
        None without a handler, so that servers are told that nobody can be asked.
    """
    if handler is None:
        return None
    from mcp import types  # noqa: PLC0415  only who can be asked pays for it

    async def answer(
        context: ClientRequestContext,  # noqa: ARG001  the SDK's signature
        params: types.ElicitRequestParams,
    ) -> types.ElicitResult | types.ErrorData:
        if isinstance(params, types.ElicitRequestFormParams):
            schema, url = dict(params.requested_schema), None
        else:
            schema, url = {}, params.url
        asked = Elicitation(server=server(), message=params.message, schema=schema, url=url)
        try:
            given = await call(handler, asked, name="on_elicitation")
        except Exception as error:  # noqa: BLE001  the server is told, too
            _log.error("on_elicitation failed for server %r", asked.server, exc_info=error)
            return types.ErrorData(code=types.INTERNAL_ERROR, message="the user couldn't be asked")
        if given is None:
            return types.ElicitResult(action="decline")
        return types.ElicitResult(action="accept", content={**_defaults(schema), **given} if url is None else None)

    return answer


def _defaults(schema: Mapping[str, Any]) -> dict[str, Any]:
    properties = schema.get("properties")
    if not isinstance(properties, Mapping):
        return {}
    return {
        name: each["default"] for name, each in properties.items() if isinstance(each, Mapping) and "default" in each
    }
