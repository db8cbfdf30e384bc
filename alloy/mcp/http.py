"""A server at a URL, spoken to by the protocol's streamable HTTP.

Source: https://modelcontextprotocol.io/specification/2025-11-25/basic/transports#streamable-http
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx2
from anyio import AsyncContextManagerMixin
from mcp.client.streamable_http import streamable_http_client

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from alloy._secrets import Secret

__all__ = ["Http"]

_TIMEOUT = httpx2.Timeout(30.0, read=None)
"""Seconds. A call is answered when it's done, which may take long: the call's own timeout counts."""

_SESSION = "mcp-session-id"


class Http(AsyncContextManagerMixin):
    """Gives the streams of a server's messages.

    Args:
        url: where it answers.
        headers: what each request carries.
    """

    complaints = ""
    ending = "the connection ended"

    def __init__(self, url: str, headers: dict[str, Secret]) -> None:
        self._url = url
        self._headers = headers
        self.expired = False
        self.note = ""

    async def _look(self, response: httpx2.Response) -> None:
        """Remembers what the SDK doesn't tell: the status, and that it means that the server knows the session no more."""
        if response.status_code >= 400:
            self.note = f"HTTP {response.status_code}"
        if response.status_code == 404 and _SESSION in response.request.headers:
            self.expired = True

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[tuple[Any, Any]]:
        headers = {name: value.header for name, value in self._headers.items()}
        async with (
            httpx2.AsyncClient(headers=headers, timeout=_TIMEOUT, event_hooks={"response": [self._look]}) as client,
            streamable_http_client(self._url, http_client=client) as streams,
        ):
            yield streams
