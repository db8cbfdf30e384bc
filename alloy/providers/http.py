"""Talking HTTP to a provider: the shared client, one request, and what goes wrong on the way. The only user of httpx."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, Self, cast

import anyio
from anyio.lowlevel import RunVar
from pydantic_core import from_json

from alloy._tasks import last_words, run_in_thread
from alloy.errors import ProviderError
from alloy.providers.batches import Batches
from alloy.providers.decoder import NOBODY, decode, deltas_of
from alloy.providers.errors import LONGEST_MESSAGE, LONGEST_NAME, error_from_response
from alloy.providers.keys import Secret, checked_url, cleaned, origin, scrub, shown_url
from alloy.providers.limits import LIMITS, Inflater, Intake, Tally
from alloy.providers.sse import EventParser
from alloy.usage import Usage

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence

    import httpx

    from alloy.providers.base import ProviderItem
    from alloy.providers.decoder import Decoder, Listener

__all__ = ["Endpoint", "Reply", "Secret", "lease_client", "origin", "scrub"]

CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 600.0
"""How long a model may be silent, in seconds: some think for minutes before the first byte."""

_NONSENSE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What a decoder runs into where a document isn't what its specification says."""
_SECRET_HEADER = re.compile("auth|key|token|secret|cookie", re.IGNORECASE)
_LAST_WORDS = 2.0
_LEFT_OVER = 10_000  # pieces that may have come before the connection was closed
_DRAIN = 0.25


# --- The shared client -----------------------------------------------------------------------------------------------


class _Shared:
    """The client of one event loop, and how many hold it."""

    def __init__(self) -> None:
        self.holders = 0
        self.lock = anyio.Lock()
        self.client: httpx.AsyncClient | None = None


_shared: RunVar[_Shared] = RunVar("alloy_http_client")
_loading = threading.Lock()
_ssl_context: ssl.SSLContext | None = None


@asynccontextmanager
async def lease_client() -> AsyncGenerator[httpx.AsyncClient]:
    """Gives the event loop's one HTTP client, and closes it when the last holder leaves.

    Whoever holds it longer keeps connections warm for everybody. It speaks through the environment's proxies, but never to
    this machine through one; it follows no redirects and keeps no cookies.
    """
    client = await _acquire()
    try:
        yield client
    finally:
        await _release()


async def _acquire() -> httpx.AsyncClient:
    shared = _shared.get(None)
    if shared is None:
        shared = _Shared()
        _shared.set(shared)
    shared.holders += 1
    try:
        async with shared.lock:
            if shared.client is None:
                shared.client = _new_client(await run_in_thread(_load, name="alloy tls"))
            return shared.client
    except BaseException:
        await _release()
        raise


async def _release() -> None:
    shared = _shared.get()
    shared.holders -= 1
    if not shared.holders and shared.client is not None:
        client, shared.client = shared.client, None
        await last_words(client.aclose, within=_LAST_WORDS)


def _load() -> ssl.SSLContext:
    """Imports httpx and reads the certificates, once per process; a quarter of a second that blocks."""
    global _ssl_context  # noqa: PLW0603  one per process is what it is for
    with _loading:
        if _ssl_context is None:
            import httpx  # noqa: PLC0415  only who talks HTTP pays for it

            _ssl_context = httpx.create_ssl_context()
        return _ssl_context


def _new_client(context: ssl.SSLContext) -> httpx.AsyncClient:
    from http.cookiejar import CookieJar  # noqa: PLC0415  as httpx

    import httpx  # noqa: PLC0415  loaded by now

    class NoCookies(CookieJar):
        """Doesn't even read them: two thousand take half a second."""

        def extract_cookies(self, response: object, request: object) -> None:
            pass

    here = ("localhost", "127.0.0.1", "[::1]")
    return httpx.AsyncClient(
        verify=context,
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=100, keepalive_expiry=45.0),
        mounts={f"all://{host}": None for host in here},
        cookies=NoCookies(),
        follow_redirects=False,
    )


# --- One request -----------------------------------------------------------------------------------------------------


class Reply:
    """A response with a good status, whose body hasn't been read.

    Attributes:
        status: the HTTP status.
        headers: its headers, their names in lower case.
    """

    __slots__ = ("_raw", "_response", "headers", "status")

    def __init__(self, response: httpx.Response) -> None:
        self._response = response
        self._raw: AsyncIterator[bytes] | None = None
        self.status = response.status_code
        self.headers: Mapping[str, str] = {name.lower(): value for name, value in response.headers.items()}

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
        import httpx  # noqa: PLC0415  loaded by now

        intake = Intake(
            size=LIMITS.stream if limit is None else limit,
            values=LIMITS.stream_values if values is None else values,
            seconds=LIMITS.seconds,
        )
        inflater, pieces = self._inflater(), 0
        try:
            began = time.monotonic()
            async for chunk in self._received():
                intake.waited(time.monotonic() - began)
                if inflater:
                    intake.received(len(chunk))
                for piece in inflater.feed(chunk) if inflater else (chunk,):
                    intake.took(piece)
                    yield piece
                    pieces += 1
                    if inflater or pieces % 64 == 0:  # many may have come together
                        await anyio.lowlevel.checkpoint()
                began = time.monotonic()
        except (httpx.RequestError, OSError) as error:  # OSError: what TLS raises while reading
            raise _broken(error) from None

    def _received(self) -> AsyncIterator[bytes]:
        """The body's bytes; where a client of the user's own has read them already, they are decompressed."""
        if self._response.is_stream_consumed:
            return self._response.aiter_bytes()
        self._raw = aiter(cast("httpx.AsyncByteStream", self._response.stream))  # as aiter_raw, but for a detour
        return self._raw

    async def aclose(self) -> None:
        """Gives the connection up, or back if all was read.

        Reading is four generators inside one another, which close one another only if they run to an end. So they read on, to
        fail at the closed connection, instead of being left to the garbage collector and to a task that nobody owns.
        """
        await self._response.aclose()
        if self._raw is not None:
            with contextlib.suppress(Exception):  # their end, in whichever way
                for _ in range(_LEFT_OVER):
                    await anext(self._raw)

    def _inflater(self) -> Inflater | None:
        encoding = self.headers.get("content-encoding", "").strip().lower()
        if encoding in ("", "identity") or self._response.is_stream_consumed:
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

    async def __aenter__(self) -> Self:
        if self._client is None:
            await _acquire()
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
        async with self._leased() as client:
            reply = Reply(await self._send(client, path, body, stream=stream))
            try:
                listener.replied(reply.status, reply.headers)
                if not 200 <= reply.status < 300:
                    raise await self._refusal(reply, listener)
                yield reply
            finally:
                await last_words(reply.aclose, within=_LAST_WORDS)

    @asynccontextmanager
    async def _leased(self) -> AsyncGenerator[httpx.AsyncClient]:
        if self._client is not None:
            yield self._client
        else:
            async with lease_client() as client:
                yield client

    async def _send(self, client: httpx.AsyncClient, path: str, body: bytes, *, stream: bool) -> httpx.Response:
        import httpx  # noqa: PLC0415  loaded by now

        headers = {
            "accept": "text/event-stream" if stream else "application/json",
            "accept-encoding": "gzip",
            "content-type": "application/json",
            "user-agent": "alloy-harness",
        }
        headers |= {name: v.header if isinstance(v, Secret) else v for name, v in self._headers.items()}
        within = 2 * (CONNECT_TIMEOUT + self._timeout)  # to connect and greet, to send and hear
        try:
            with anyio.move_on_after(within):
                request = client.build_request(
                    "POST",
                    self.base_url + path,
                    content=body,
                    headers=headers,
                    timeout=httpx.Timeout(self._timeout, connect=CONNECT_TIMEOUT, pool=None),
                )
                return await client.send(request, stream=True, follow_redirects=False)
        except (httpx.RequestError, OSError) as error:
            raise self._signed(_broken(error), None) from None
        raise self._signed(ProviderError(f"no answer began within {within:g} seconds", kind="timeout"), None)

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


def _broken(error: httpx.RequestError | OSError) -> ProviderError:
    import httpx  # noqa: PLC0415  loaded by now

    what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    match error:
        case httpx.ConnectTimeout():
            said = f"no connection within {CONNECT_TIMEOUT:g} seconds ({what})"
            return ProviderError(said, kind="timeout", usage=Usage())
        case httpx.ConnectError():
            return ProviderError(f"the connection failed ({what})", kind="network", usage=Usage())
        case httpx.TimeoutException():
            return ProviderError(f"the server was silent for too long ({what})", kind="timeout")
        case httpx.UnsupportedProtocol() | httpx.LocalProtocolError():
            return ProviderError(f"the request can't be sent ({what})", kind="invalid_request")
        case _:
            return ProviderError(f"the connection failed ({what})", kind="network")
