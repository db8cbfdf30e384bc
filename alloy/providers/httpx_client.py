"""Requests by httpx: through the proxies of the environment, and with clients that users bring. The only user of httpx."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, cast

import anyio

from alloy._tasks import last_words
from alloy.errors import ProviderError
from alloy.usage import Usage

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Mapping

    import httpx

    from alloy.providers.pool import Patience

__all__ = ["HttpxExchange", "new_client", "post"]

_LAST_WORDS = 2.0
_LEFT_OVER = 10_000  # pieces that may have come before the connection was closed


def new_client(tls: ssl.SSLContext) -> httpx.AsyncClient:
    """A client that speaks through the environment's proxies, but never to this machine through one.

    It follows no redirects and keeps no cookies. Importing httpx blocks, so call it in a thread.

    Args:
        tls: checks the servers' certificates.
    """
    from http.cookiejar import CookieJar  # noqa: PLC0415  as httpx

    import httpx  # noqa: PLC0415  only who needs it pays for it

    class NoCookies(CookieJar):
        """Doesn't even read them: two thousand take half a second."""

        def extract_cookies(self, response: object, request: object) -> None:
            pass

    here = ("localhost", "127.0.0.1", "[::1]")
    return httpx.AsyncClient(
        verify=tls,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=45.0),
        mounts={f"all://{host}": None for host in here},
        cookies=NoCookies(),
        follow_redirects=False,
    )


async def post(
    client: httpx.AsyncClient, url: str, headers: Mapping[str, str], body: bytes, patience: Patience
) -> HttpxExchange:
    """Sends a request, and waits for its answer's head.

    Args:
        client: sends it.
        url: where to.
        headers: with which headers.
        body: and which body.
        patience: how long to wait.

    Raises:
        ProviderError: there is no connection, or no answer.
    """
    import httpx  # noqa: PLC0415  loaded by now

    timeout = httpx.Timeout(patience.silence, connect=patience.connect, pool=None)
    try:
        with anyio.move_on_after(patience.answer):
            request = client.build_request("POST", url, content=body, headers=headers, timeout=timeout)
            return HttpxExchange(await client.send(request, stream=True, follow_redirects=False))
    except httpx.InvalidURL as error:
        raise ProviderError(f"the request can't be sent ({error})", kind="invalid_request") from None
    except (httpx.RequestError, OSError) as error:  # OSError: what TLS raises
        raise _broken(error, patience) from None
    raise ProviderError(f"no answer began within {patience.answer:g} seconds", kind="timeout")


class HttpxExchange:
    """As `alloy.providers.pool.Exchange`, by httpx.

    Attributes:
        status: the answer's HTTP status.
        headers: its headers, their names in lower case.
        chunks: 0, as they are given one by one.
        read: whether the client has read, and decompressed, the body already.
    """

    chunks = 0

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._raw: AsyncIterator[bytes] | None = None
        self.status = response.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}
        self.complete = False
        self.read = response.is_stream_consumed

    async def receive(self) -> bytes:
        """The body's next bytes; none at its end.

        Raises:
            ProviderError: the connection broke, or the server was silent for too long.
        """
        import httpx  # noqa: PLC0415  loaded by now

        if self._raw is None:
            self._raw = (
                self._response.aiter_bytes()
                if self.read
                else aiter(cast("httpx.AsyncByteStream", self._response.stream))  # as aiter_raw, but for a detour
            )
        try:
            async for chunk in self._raw:
                if chunk:
                    return chunk
        except (httpx.RequestError, OSError) as error:  # OSError: what TLS raises while reading
            raise _broken(error, None) from None
        self.complete = True
        return b""

    async def aclose(self) -> None:
        """Gives the connection back if all of the body has come, or up."""
        await last_words(self._close, within=_LAST_WORDS)

    async def _close(self) -> None:
        """Reading is four generators inside one another, which close one another only if they run to an end.

        So they read on, to fail at the closed connection, instead of being left to the garbage collector and to a task that
        nobody owns.
        """
        await self._response.aclose()
        if self._raw is not None:
            with contextlib.suppress(Exception):  # their end, in whichever way
                for _ in range(_LEFT_OVER):
                    await anext(self._raw)


def _broken(error: httpx.RequestError | OSError, patience: Patience | None) -> ProviderError:
    import httpx  # noqa: PLC0415  loaded by now

    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    match error:
        case httpx.ConnectTimeout():
            within = f" within {patience.connect:g} seconds" if patience else ""
            return ProviderError(f"no connection{within} ({what})", kind="timeout", usage=Usage())
        case httpx.ConnectError():
            return ProviderError(f"the connection failed ({what})", kind="network", usage=Usage())
        case httpx.TimeoutException():
            return ProviderError(f"the server was silent for too long ({what})", kind="timeout")
        case httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
            return ProviderError(f"the request can't be sent ({what})", kind="invalid_request")
        case _:
            return ProviderError(f"the connection failed ({what})", kind="network")
