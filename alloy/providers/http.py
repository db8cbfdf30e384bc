"""Talking HTTP to a provider: the shared client, one request, and what goes wrong on the way."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, TypeAlias
from urllib.parse import urlsplit

import anyio
from anyio.lowlevel import RunVar
from pydantic_core import from_json

from alloy._tasks import last_words, run_in_thread
from alloy.errors import ProviderError
from alloy.providers.batches import Batches
from alloy.providers.decoder import NOBODY, decode, deltas_of
from alloy.providers.errors import LONGEST_MESSAGE, LONGEST_NAME, error_from_response
from alloy.providers.http1 import request_head
from alloy.providers.keys import Secret, checked_url, cleaned, origin, scrub, shown_url
from alloy.providers.limits import LIMITS, Inflater, Intake, Tally
from alloy.providers.pool import Patience, Pool, Server, certificates
from alloy.providers.sse import EventParser

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping, Sequence

    import httpx

    from alloy.providers.base import ProviderItem
    from alloy.providers.decoder import Decoder, Listener
    from alloy.providers.httpx_client import HttpxExchange
    from alloy.providers.pool import Exchange

__all__ = ["Endpoint", "Reply", "Secret", "lease_client", "origin", "scrub"]

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 600.0
"""How long a model may be silent, in seconds: some think for minutes before the first byte."""

_NONSENSE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a decoder runs into where a document isn't what its specification says."""
_SECRET_HEADER = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)
_LAST_WORDS = 2.0
_DRAIN = 0.25
_LARGE = 16 * 1024
"""How much of a body is given at a time, in bytes: making items of it takes a millisecond, in which nobody else has a turn."""

_HERE = frozenset({"localhost", "127.0.0.1", "::1"})
_PATH = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})*"
_QUERY = r"(?:[A-Za-z0-9._~!$&'()*+,;=:@/?-]|%[0-9A-Fa-f]{2})*"
_PLAIN_URL = re.compile(
    rf"https?://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]+)?(?:/(?!\.){_PATH})*(?:\?{_QUERY})?"
)
"""An address that is sent as it is written, without escapes, dots to follow, or names in other scripts."""

AnyExchange: TypeAlias = "Exchange | HttpxExchange"


# --- The shared client -----------------------------------------------------------------------------------------------


class _Shared:
    """The clients of one event loop, and how many hold them.

    Attributes:
        client: our own, while anybody holds it.
        proxied: httpx's, from the first request on that needs a proxy or has an uncommon address.
        has_proxies: whether the environment names any.
    """

    def __init__(self) -> None:
        self.holders = 0
        self.lock = anyio.Lock()
        self.client: Pool | None = None
        self.proxied: httpx.AsyncClient | None = None
        self.has_proxies = False

    async def by_httpx(self) -> httpx.AsyncClient:
        async with self.lock:
            if self.proxied is None:
                from alloy.providers.httpx_client import new_client  # noqa: PLC0415  only who needs httpx pays for it

                self.proxied = await run_in_thread(lambda: new_client(certificates()), name="alloy tls")
            return self.proxied


_shared: RunVar[_Shared] = RunVar("alloy_http_client")


@asynccontextmanager
async def lease_client() -> AsyncGenerator[Pool]:
    """Gives the event loop's one HTTP client, and closes it when the last holder leaves.

    Whoever holds it longer keeps connections warm for everybody.
    """
    client = _acquire()
    try:
        yield client
    finally:
        await _release()


def _acquire() -> Pool:
    shared = _shared.get(None)
    if shared is None:
        shared = _Shared()
        _shared.set(shared)
    shared.holders += 1
    if shared.client is None:
        shared.client, shared.has_proxies = Pool(), _has_proxies()
    return shared.client


async def _release() -> None:
    shared = _shared.get()
    shared.holders -= 1
    if not shared.holders:
        client, shared.client = shared.client, None
        proxied, shared.proxied = shared.proxied, None
        for leaving in (client, proxied):
            if leaving is not None:
                await last_words(leaving.aclose, within=_LAST_WORDS)


def _has_proxies() -> bool:
    """Whether the environment, or the system's settings, name a proxy; httpx knows who is to be reached by it."""
    if sys.platform in ("darwin", "win32"):
        from urllib.request import getproxies  # noqa: PLC0415  rare, and slow to import

        return bool(getproxies())
    return any(
        value and name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name, value in os.environ.items()
    )


# --- One request -----------------------------------------------------------------------------------------------------


class Reply:
    """A response with a good status, whose body hasn't been read.

    Attributes:
        status: the HTTP status.
        headers: its headers, their names in lower case.
    """

    __slots__ = ("_exchange", "headers", "status")

    def __init__(self, exchange: AnyExchange) -> None:
        self._exchange = exchange
        self.status = exchange.status
        self.headers: Mapping[str, str] = exchange.headers

    @property
    def ended(self) -> bool:
        """Whether all of the body has come."""
        return self._exchange.complete

    @property
    def media_type(self) -> str:
        """The body's media type without parameters; empty where the server doesn't say."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def request_id(self) -> str | None:
        """The provider's id of the request."""
        names = ("x-request-id", "request-id", "apim-request-id", "cf-ray")
        return next((self.headers[name] for name in names if self.headers.get(name)), None)

    async def chunks(self, *, limit: int | None = None, values: int | None = None) -> AsyncGenerator[bytes]:
        """The body as it comes, decompressed.

        Args:
            limit: how many bytes to take, compressed and decompressed; by default what a stream may have.
            values: how many JSON values to take, likewise.

        Raises:
            ProviderError: the connection broke, was silent for too long, or brought too much.
        """
        intake = Intake(
            size=LIMITS.stream if limit is None else limit,
            values=LIMITS.stream_values if values is None else values,
            seconds=LIMITS.seconds,
        )
        exchange, inflater, pieces, chunks = self._exchange, self._inflater(), 0, 0
        while True:
            began = time.monotonic()
            received = await exchange.receive()
            intake.waited(time.monotonic() - began)
            if not received:
                return
            intake.framed(exchange.chunks - chunks)
            chunks = exchange.chunks
            if inflater:
                intake.received(len(received))
            for piece in inflater.feed(received) if inflater else _parts(received):
                intake.took(piece)
                yield piece
                pieces += 1
                if inflater or len(piece) == _LARGE or pieces % 64 == 0:  # many may have come together
                    await anyio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        """Gives the connection back if all was read, or up."""
        await self._exchange.aclose()

    def _inflater(self) -> Inflater | None:
        encoding = self.headers.get("content-encoding", "").strip().lower()
        if encoding in ("", "identity") or self._exchange.read:
            return None
        if encoding not in ("gzip", "x-gzip"):
            raise ProviderError(
                f"the server compressed its answer as {encoding[:40]!r}, but only gzip was asked for", kind="unknown"
            )
        return Inflater()

    async def beginning(self) -> bytes:
        """As much of an error's body as comes soon; what breaks off or goes on doesn't matter, as the status says enough."""
        body = bytearray()
        with anyio.move_on_after(LIMITS.error_seconds), contextlib.suppress(ProviderError):
            async with aclosing(self.chunks(limit=LIMITS.error)) as chunks:
                async for chunk in chunks:
                    body += chunk
            return bytes(body)
        return bytes(body) or b"(the server's reason broke off)"

    async def read(self, *, limit: int | None = None, values: int | None = None) -> bytes:
        """The whole body; takes and raises what `chunks` does, but for what a body may have."""
        body = bytearray()
        limit = LIMITS.body if limit is None else limit
        async with aclosing(self.chunks(limit=limit, values=values or LIMITS.body_values)) as chunks:
            async for chunk in chunks:
                body += chunk
        return bytes(body)


def _parts(body: bytes) -> Iterator[bytes]:
    if len(body) <= _LARGE:
        yield body
    else:
        for at in range(0, len(body), _LARGE):
            yield body[at : at + _LARGE]


class _Way:
    """How a request is sent; it doesn't show itself, as keys are in it.

    Attributes:
        server: whom to connect to; None for an address that httpx has to understand.
        head: the request's head, up to the number that is its length.
    """

    __slots__ = ("head", "server")

    def __init__(self) -> None:
        self.server: Server | None = None
        self.head = b""


class Endpoint:
    """Where an adapter sends its requests, and as whom.

    It is an async context manager, and may be entered again while entered: connections stay open in between.

    Args:
        base_url: the API's address, without a query; what `post` is given is put behind it.
        provider: who answers, for errors.
        model: which model, for errors.
        headers: sent with every request; secret ones are taken out of error texts.
        timeout: how long the server may be silent, in seconds.
        client: a client to use instead of the shared one; it is never closed.

    Raises:
        InvalidOptionError: the address is none, or holds a password.
    """

    def __init__(
        self,
        base_url: str,
        *,
        provider: str,
        model: str,
        headers: Mapping[str, str | Secret],
        timeout: float = READ_TIMEOUT,
        client: httpx.AsyncClient | None = None,
    ) -> None:
        self.base_url = checked_url(base_url)
        self.provider = provider
        self.model = model
        self._headers = {
            name.lower(): Secret.of_header(value) if isinstance(value, str) and _SECRET_HEADER.search(name) else value
            for name, value in headers.items()
        }
        self._timeout = timeout
        self._client = client
        self._ways: dict[tuple[str, bool], _Way] = {}

    async def __aenter__(self) -> Self:
        if self._client is None:
            _acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._client is None:
            await _release()

    @asynccontextmanager
    async def ask(
        self, path: str, body: bytes, decoder: Decoder, *, stream: bool, listener: Listener = NOBODY
    ) -> AsyncGenerator[AsyncIterator[ProviderItem]]:
        """Sends a request and has the answer decoded.

        Args:
            path: what to put behind the base URL.
            body: the request, as JSON.
            decoder: makes the answer's items.
            stream: whether the request asks for a stream; whichever way the server answers is understood.
            listener: is told what the answer says of limits and usage.

        Returns:
            A context manager with the answer's items; leaving it ends the request.

        Raises:
            ProviderError: on entering or while iterating.
        """
        async with (
            self.post(path, body, stream=stream, listener=listener) as reply,
            aclosing(self._batches(reply, decoder, stream=stream, listener=listener)) as batches,
        ):
            yield Batches(batches)

    async def _batches(
        self, reply: Reply, decoder: Decoder, *, stream: bool, listener: Listener
    ) -> AsyncGenerator[Sequence[ProviderItem]]:
        """The answer's items, as many at a time as came together; those before an error come before it."""
        tally = Tally(LIMITS)
        batch: list[ProviderItem] = []
        try:
            if _is_stream(reply, stream=stream):
                parser = EventParser(max_event=LIMITS.event)
                async with aclosing(reply.chunks()) as chunks:
                    async for chunk in chunks:
                        decode(decoder, parser.feed(chunk), tally, batch)
                        if batch:
                            yield batch
                            batch = []
                        if decoder.done:
                            if not reply.ended:
                                await _drain(chunks)
                            break
                decode(decoder, parser.end(), tally, batch)
                completion = decoder.end()
                tally.take(completion)
            else:
                completion = decoder.whole(_document(await reply.read()))
                tally.take(completion)
                batch += deltas_of(completion.message) if stream else ()
            listener.completed(completion.usage)
            yield [*batch, completion]
        except ProviderError as error:
            listener.failed(error)
            if batch:
                yield batch
            raise self._signed(error, reply) from None
        except _NONSENSE as error:
            if batch:
                yield batch
            message = f"the answer makes no sense ({type(error).__name__}: {error})"
            raise self._signed(ProviderError(message, kind="server_error"), reply) from error

    @asynccontextmanager
    async def post(self, path: str, body: bytes, *, stream: bool, listener: Listener = NOBODY) -> AsyncGenerator[Reply]:
        """Sends a request.

        Args:
            path: what to put behind the base URL.
            body: the request, as JSON.
            stream: whether to ask for server-sent events.
            listener: is told what the response says of limits.

        Returns:
            A context manager with the reply; leaving it ends the request.

        Raises:
            ProviderError: no connection, no answer in time, or an answer with an error status.
        """
        pool = None if self._client else _acquire()
        try:
            reply = Reply(await self._send(pool, path, body, stream=stream))
            try:
                listener.replied(reply.status, reply.headers)
                if not 200 <= reply.status < 300:
                    raise await self._refusal(reply, listener)
                yield reply
            finally:
                await reply.aclose()
        finally:
            if pool:
                await _release()

    async def _send(self, pool: Pool | None, path: str, body: bytes, *, stream: bool) -> AnyExchange:
        patience = Patience(
            CONNECT_TIMEOUT, self._timeout, 2 * (CONNECT_TIMEOUT + self._timeout)
        )  # connect and greet, send and hear
        try:
            way = self._way(path, stream=stream)
            if pool and way.server and (way.server.host in _HERE or not _shared.get().has_proxies):
                return await pool.post(way.server, way.head, body, patience)
            client = self._client or await _shared.get().by_httpx()
            from alloy.providers.httpx_client import post  # noqa: PLC0415  only who needs httpx pays for it

            return await post(client, self.base_url + path, self._sent_headers(stream=stream), body, patience)
        except ProviderError as error:
            raise self._signed(error, None) from None

    def _way(self, path: str, *, stream: bool) -> _Way:
        """How to send to this path, found out once."""
        way = self._ways.get((path, stream))
        if way is None:
            url = self.base_url + path
            way = self._ways[path, stream] = _Way()
            if _PLAIN_URL.fullmatch(url):
                parts = urlsplit(url)
                secure = parts.scheme == "https"
                way.server = Server(parts.hostname or "", parts.port or (443 if secure else 80), secure)
                target = f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/"
                host = parts.netloc.removesuffix(":443" if secure else ":80")
                way.head = request_head(host, target, self._sent_headers(stream=stream))
        return way

    def _sent_headers(self, *, stream: bool) -> dict[str, str]:
        headers = {
            "accept": "text/event-stream" if stream else "application/json",
            "accept-encoding": "gzip",
            "content-type": "application/json",
            "user-agent": "alloy-harness",
        }
        return headers | {name: v.header if isinstance(v, Secret) else v for name, v in self._headers.items()}

    async def _refusal(self, reply: Reply, listener: Listener) -> ProviderError:
        location = reply.headers.get("location")
        if location is not None and 300 <= reply.status < 400:
            message = f"the server redirects to {shown_url(location)}; a key follows no redirect, so make that the base_url if you trust it"
            return self._signed(ProviderError(message, kind="invalid_request", status=reply.status), reply)
        error = error_from_response(reply.status, reply.headers, await reply.beginning())
        listener.failed(error)
        return self._signed(error, reply)

    def _signed(self, error: ProviderError, reply: Reply | None) -> ProviderError:
        """The error with the names of those concerned, without keys, and without what would steer a terminal."""
        secrets = [value for value in self._headers.values() if isinstance(value, Secret)]
        error.message = cleaned(error.message, secrets, LONGEST_MESSAGE)
        error.args = (error.message,)
        error.code = cleaned(error.code, secrets, LONGEST_NAME) if error.code else error.code
        request_id = error.request_id or (reply.request_id if reply else None)
        error.request_id = cleaned(request_id, secrets, LONGEST_NAME) if request_id else request_id
        error.provider, error.model = self.provider, self.model
        return error

    def __repr__(self) -> str:
        return f"Endpoint({self.base_url!r})"


def _is_stream(reply: Reply, *, stream: bool) -> bool:
    """Whether the body is a stream of events: by what the server says or else by what was asked for."""
    media_type = reply.media_type
    if media_type == "text/event-stream":
        return True
    if media_type.endswith("json"):
        return False
    if media_type.endswith(("html", "xml")):
        raise ProviderError(
            f"the server sent a page ({media_type}) instead of an answer; is the base_url right, is a login in between?",
            kind="invalid_request",
            status=reply.status,
        )
    return stream


def _document(body: bytes) -> Any:
    try:
        return from_json(body)
    except ValueError:
        shown = body[:80].decode(errors="replace")
        raise ProviderError(f"the answer is no JSON: {shown!r}", kind="network") from None


async def _drain(chunks: AsyncGenerator[bytes]) -> None:
    """Reads what is behind the terminal event, so that the connection can be used again; gives up soon."""
    try:
        with anyio.move_on_after(_DRAIN):
            async for _ in chunks:
                pass
    except ProviderError:
        return  # the answer is complete; how the connection ended doesn't matter
