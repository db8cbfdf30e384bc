"""Connections: which are used again, what is never sent twice, how long anything takes, and what is left behind."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, contextmanager
from types import SimpleNamespace

import anyio
import httpx
import hypercorn.asyncio
import hypercorn.config
import pytest
import trustme
import uvicorn

from alloy.errors import ProviderError
from alloy.providers import connection as connecting
from alloy.providers import http, pool
from alloy.providers.http import Endpoint
from alloy.providers.http1 import request_head
from alloy.providers.pool import Patience, Pool, Server
from alloy.testing import sweep
from tests.providers.hostile_server import Server as Hostile
from tests.providers.hostile_server import plain, waiting, whole

pytestmark = pytest.mark.anyio

PATIENCE = Patience(5.0, 1000.0, 2000.0)
HI = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


class Peer:
    """A server whose connections do what they are told: for each request, the next of its answers."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.connections = 0
        self.requests = []
        self.gone = anyio.Event()
        self.writers = []

    async def serve(self, reader, writer):
        self.connections += 1
        self.writers.append(writer)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = next(int(line[15:]) for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
                self.requests.append(head + await reader.readexactly(length))
                answer = self.answers.pop(0) if self.answers else HI
                if answer is None:
                    return
                for part in answer if isinstance(answer, list) else [answer]:
                    writer.write(part)
                    await writer.drain()
                    await asyncio.sleep(0)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.gone.set()


@asynccontextmanager
async def serving(*answers, host="127.0.0.1", tls=None):
    peer = Peer(*answers)
    with anyio.fail_after(20):
        server = await asyncio.start_server(peer.serve, host, 0, ssl=tls)
        peer.server = Server(host, server.sockets[0].getsockname()[1], tls is not None)
        try:
            yield peer
        finally:
            server.close()
            for writer in peer.writers:
                writer.transport.abort()


@asynccontextmanager
async def pooling():
    connections = Pool()
    try:
        yield connections
    finally:
        await connections.aclose()


async def sent(connections, server, body=b"{}", patience=PATIENCE):
    return await connections.post(server, request_head(server.host, "/x", {"accept": "*/*"}), body, patience)


async def read(exchange):
    body = b""
    try:
        while part := await exchange.receive():
            body += part
    finally:
        await exchange.aclose()
    return body


async def asked(connections, server, body=b"{}", patience=PATIENCE):
    return await read(await sent(connections, server, body, patience))


async def turned():
    """Lets the other side, which is on the same event loop, go on until nothing more happens."""
    for _ in range(20):
        await asyncio.sleep(0)


# --- Used again ------------------------------------------------------------------------------------------------------


async def test_requests_one_after_the_other_share_a_connection():
    async with serving() as peer, pooling() as connections:
        for _ in range(5):
            assert await asked(connections, peer.server) == b"hi"

    assert (peer.connections, len(peer.requests)) == (1, 5)


async def test_requests_at_once_have_a_connection_each_which_are_all_kept():
    async with serving() as peer, pooling() as connections:
        for _ in range(2):
            exchanges = [await sent(connections, peer.server) for _ in range(7)]
            assert [await read(exchange) for exchange in exchanges] == [b"hi"] * 7

    assert peer.connections == 7


async def test_each_server_has_its_own():
    async with serving() as one, serving() as other, pooling() as connections:
        for peer in (one, other, one, other):
            await asked(connections, peer.server)

    assert (one.connections, other.connections) == (1, 1)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
        b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        HI + b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n",
    ],
)
async def test_a_connection_that_can_not_be_trusted_is_not_used_again(answer):
    async with serving(answer) as peer, pooling() as connections:
        assert await asked(connections, peer.server) == b"hi"
        assert await asked(connections, peer.server) == b"hi"

    assert peer.connections == 2


async def test_what_a_server_says_unasked_answers_nobody():
    async with serving() as peer, pooling() as connections:
        await asked(connections, peer.server)
        peer.writers[0].write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        assert await asked(connections, peer.server) == b"hi"  # seen though the event loop hasn't read it yet
        await asked(connections, peer.server)
        peer.writers[1].write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil")
        await turned()
        assert await asked(connections, peer.server) == b"hi"

    assert peer.connections == 3


async def test_a_connection_that_the_server_has_closed_is_not_used_again():
    for wait in (False, True):
        async with serving() as peer, pooling() as connections:
            await asked(connections, peer.server)
            peer.writers[0].close()
            if wait:
                await turned()
            else:
                await asyncio.sleep(0)  # it's closed, but not seen to be
            assert await asked(connections, peer.server) == b"hi"
        assert peer.connections == 2


async def test_an_answer_that_is_left_in_the_middle_takes_its_connection_with_it():
    start = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n"
    async with serving(start) as peer, pooling() as connections:
        exchange = await sent(connections, peer.server)
        assert await exchange.receive() == b"hello"
        await exchange.aclose()
        await peer.gone.wait()
        assert await asked(connections, peer.server) == b"hi"


async def test_connections_get_old(monkeypatch):
    monkeypatch.setattr(pool, "KEPT", 0.01)
    async with serving() as peer, pooling() as connections:
        await asked(connections, peer.server)
        await peer.gone.wait()
        assert connections._idle == {}
        assert connections._count == 0
        assert connections._timer is None


async def test_no_more_than_so_many_are_kept(monkeypatch):
    monkeypatch.setattr(pool, "MOST_IDLE", 3)
    async with serving() as peer, pooling() as connections:
        exchanges = [await sent(connections, peer.server) for _ in range(5)]
        for exchange in exchanges:
            await read(exchange)
        assert connections._count == 3


# --- Never twice -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("used", [False, True])
async def test_a_request_that_was_sent_is_never_sent_again(used):
    async with serving(*([HI] if used else []), None) as peer, pooling() as connections:
        if used:
            await asked(connections, peer.server)
        with pytest.raises(ProviderError) as caught:
            await asked(connections, peer.server)

    assert (caught.value.kind, caught.value.retryable, caught.value.usage) == ("network", True, None)
    assert len(peer.requests) == 1 + used


async def test_who_was_never_reached_has_taken_nothing():
    async with serving() as peer:
        server = peer.server
    async with pooling() as connections:
        with pytest.raises(ProviderError) as caught:
            await asked(connections, server)

    assert caught.value.kind == "network"
    assert caught.value.usage.total_tokens == 0


@pytest.mark.parametrize("host", ["a..test", f"{'a' * 64}.test"])
async def test_a_name_that_nobody_can_have_is_said_to_be_one(host):
    async with pooling() as connections:
        with pytest.raises(ProviderError, match="no server can be called") as caught:
            await asked(connections, Server(host, 80, secure=False))

    assert (caught.value.kind, caught.value.usage.total_tokens) == ("invalid_request", 0)


# --- Time ------------------------------------------------------------------------------------------------------------

SHORT = Patience(0.05, 0.05, 5.0)


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nh"])
@pytest.mark.parametrize("used", [False, True])
async def test_silence_is_a_timeout_also_where_others_have_more_patience(answer, used):
    async with serving(*([HI] if used else []), answer) as peer, pooling() as connections:
        if used:
            await asked(connections, peer.server)
        with pytest.raises(ProviderError) as caught:
            await asked(connections, peer.server, patience=SHORT)
        await peer.gone.wait()

    assert caught.value.kind == "timeout"


async def test_who_drips_headers_is_given_up():
    drip = [b"HTTP/1.1 200 OK\r\n", *[b"x-a: b\r\n"] * 100_000]
    async with serving(drip) as peer, pooling() as connections:
        with pytest.raises(ProviderError) as caught:
            await asked(connections, peer.server, patience=Patience(5.0, 5.0, 0.0))
        await peer.gone.wait()

    assert (caught.value.kind, caught.value.message) == ("timeout", "no answer began within 0 seconds")


async def test_who_never_greets_is_given_up():
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        server = Server("127.0.0.1", listener.getsockname()[1], secure=True)
        async with pooling() as connections:
            with anyio.fail_after(5), pytest.raises(ProviderError) as caught:
                await asked(connections, server, patience=SHORT)

    assert (caught.value.kind, caught.value.usage.total_tokens) == ("timeout", 0)


async def test_a_long_request_arrives_whole():
    body = os.urandom(5_000_000)
    async with serving() as peer, pooling() as connections:
        assert await asked(connections, peer.server, body=body) == b"hi"

    assert peer.requests[0].endswith(body)


async def test_a_long_answer_waits_in_the_server_until_it_is_wanted():
    body = os.urandom(20_000_000)
    async with (
        serving(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body) as peer,
        pooling() as connections,
    ):
        exchange = await sent(connections, peer.server)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert exchange._connection._unread < 2 * connecting.MOST_UNREAD
        assert await read(exchange) == body


# --- Whom it talks to ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority():
    return trustme.CA()


@pytest.fixture
def trusted(authority, tmp_path, monkeypatch):
    """A server's side of TLS as "here.test", whose authority is trusted by the environment."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    monkeypatch.setattr(pool, "_tls", None)

    async def here(self, host, port, **options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.SelectorEventLoop, "getaddrinfo", here)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("here.test", "127.0.0.1").configure_cert(context)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


async def test_a_server_that_is_who_it_says_is_talked_to_in_http_1(trusted):
    names = []
    trusted.sni_callback = lambda _, name, __: names.append(name)
    async with serving(tls=trusted) as peer, pooling() as connections:
        server = peer.server._replace(host="here.test")
        assert await asked(connections, server, body=bytes(1_000_000)) == b"hi"
        assert await asked(connections, server) == b"hi"
        assert peer.writers[0].get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"

    assert names == ["here.test"]
    assert peer.connections == 1


async def test_a_server_may_be_known_by_its_address(trusted):
    async with serving(tls=trusted) as peer, pooling() as connections:
        assert await asked(connections, peer.server) == b"hi"


@pytest.mark.parametrize("host", ["there.test", "localhost"])
async def test_a_server_that_is_somebody_else_is_told_nothing(trusted, host):
    async with serving(tls=trusted) as peer, pooling() as connections:
        with pytest.raises(ProviderError, match="CERTIFICATE_VERIFY_FAILED") as caught:
            await asked(connections, peer.server._replace(host=host))

    assert (caught.value.kind, caught.value.usage.total_tokens) == ("network", 0)
    assert peer.requests == []


async def test_a_server_that_nobody_vouches_for_is_told_nothing(trusted, monkeypatch, tmp_path):
    trustme.CA().cert_pem.write_to_path(tmp_path / "ca.pem")
    async with serving(tls=trusted) as peer, pooling() as connections:
        with pytest.raises(ProviderError, match="CERTIFICATE_VERIFY_FAILED"):
            await asked(connections, peer.server)

    assert peer.requests == []


async def test_the_authorities_that_everybody_trusts_are_read_where_none_are_named(monkeypatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    monkeypatch.setattr(pool, "_tls", None)
    context = pool.certificates()

    assert context.verify_mode == ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) > 50
    assert pool.certificates() is context


async def test_a_server_with_several_addresses_is_reached_by_one_that_answers(monkeypatch):
    async with serving() as peer, pooling() as connections:
        dead = socket.create_server(("127.0.0.1", 0))
        gone = dead.getsockname()
        dead.close()

        async def found(self, host, port, **options):
            kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
            return [(*kind, gone), (socket.AF_INET6, *kind[1:], ("::1", gone[1], 0, 0)), (*kind, ("127.0.0.1", port))]

        monkeypatch.setattr(asyncio.SelectorEventLoop, "getaddrinfo", found)
        assert await asked(connections, peer.server._replace(host="many.test")) == b"hi"

    assert peer.connections == 1


async def test_an_address_that_never_answers_delays_the_next_only_a_little(monkeypatch):
    waits = anyio.Event()
    real = connecting._attempt

    async def attempt(address):
        if address[3][1] == 1:
            await waits.wait()
        return await real(address)

    async def found(self, host, port, **options):
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, ("127.0.0.1", 1)), (*kind, ("127.0.0.1", port))]

    monkeypatch.setattr(connecting, "_attempt", attempt)
    monkeypatch.setattr(connecting, "NEXT_ATTEMPT", 0.01)
    monkeypatch.setattr(asyncio.SelectorEventLoop, "getaddrinfo", found)
    async with serving() as peer, pooling() as connections:
        assert await asked(connections, peer.server._replace(host="slow.test")) == b"hi"


async def test_addresses_of_both_families_have_their_turns(monkeypatch):
    six, four = (socket.AF_INET6, socket.SOCK_STREAM, 6), (socket.AF_INET, socket.SOCK_STREAM, 6)

    async def found(self, host, port, **options):
        return [(*six, "", ("1", port)), (*six, "", ("2", port)), (*six, "", ("3", port)), (*four, "", ("4", port))]

    monkeypatch.setattr(asyncio.SelectorEventLoop, "getaddrinfo", found)

    assert [where[0] for *_, where in await connecting._addresses("many.test", 80)] == ["1", "4", "2", "3"]
    assert await connecting._addresses("::1", 80) == [(*six, ("::1", 80))]


@pytest.mark.parametrize(
    ("url", "common"),
    [
        ("https://api.test/v1", True),
        ("http://127.0.0.1:81", True),
        ("http://[::1]:81/v1/x:y?alt=sse", True),
        ("https://API.test/v1%3A", True),
        ("https://b\xfccher.test/v1", False),
        ("https://a.test/v1/../v2", False),
        ("https://a.test/v%1", False),
        ("https://a.test/v 1", False),
        ("https://a.test/v\r\nx", False),
        ("https://a.test/v#x", False),
        ("https://a.test/caf\xe9", False),
    ],
)
def test_an_address_that_is_not_sent_as_it_is_written_is_left_to_httpx(url, common):
    way = Endpoint(url, provider="p", model="m", headers={})._way("", stream=False)

    assert (way.server is not None) == common


@pytest.mark.parametrize(
    ("url", "server", "host"),
    [
        ("https://API.test", Server("api.test", 443, secure=True), b"API.test"),
        ("https://api.test:443", Server("api.test", 443, secure=True), b"api.test"),
        ("http://api.test:443", Server("api.test", 443, secure=False), b"api.test:443"),
        ("http://[::1]:80", Server("::1", 80, secure=False), b"[::1]"),
    ],
)
def test_a_server_is_named_as_everybody_names_it(url, server, host):
    way = Endpoint(url, provider="p", model="m", headers={})._way("/v1?x=1", stream=False)

    assert way.server == server
    assert way.head.startswith(b"POST /v1?x=1 HTTP/1.1\r\nhost: %b\r\n" % host)


async def test_an_uncommon_address_is_asked_all_the_same():
    with Hostile(waiting(whole({}))) as server:
        async with Endpoint(server.url + "/caf\xe9", provider="p", model="m", headers={}).post(
            "/x", b"{}", stream=False
        ) as reply:
            assert await reply.read() == b"{}"

    assert server.requests[0].startswith(b"POST /v1/caf%C3%A9/x HTTP/1.1\r\n")
    assert http._shared.get().proxied is None


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
async def test_who_is_elsewhere_is_reached_by_the_proxy(name, monkeypatch):
    with Hostile(plain(whole({}))) as proxy:
        monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        async with Endpoint("http://far.test/v1", provider="p", model="m", headers={}).post(
            "/x", b"{}", stream=False
        ) as reply:
            assert await reply.read() == b"{}"

    assert proxy.requests[0].startswith(b"POST http://far.test/v1/x HTTP/1.1\r\n")


# --- Servers that others wrote ---------------------------------------------------------------------------------------


async def app(scope, receive, send):
    """Answers with what it was sent: in chunks, of a length, with an error, or with nothing."""
    if scope["type"] != "http":
        return
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    path = scope["path"].rpartition("/")[2]
    status = {"empty": 204, "error": 500}.get(path, 200)
    headers = [(b"content-type", b"application/octet-stream")]
    if path == "whole":
        headers.append((b"content-length", str(len(body)).encode()))
    if path == "close":
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    if status != 204:
        for at in range(0, len(body), 1000):
            await send({"type": "http.response.body", "body": body[at : at + 1000], "more_body": True})
    await send({"type": "http.response.body", "body": b""})


@contextmanager
def by_uvicorn(sock, parser):
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off", ws="none", http=parser))
    thread = threading.Thread(target=server.run, args=([sock],))
    thread.start()
    yield
    server.should_exit = True
    thread.join(10)


@contextmanager
def by_hypercorn(sock):
    config = hypercorn.config.Config()
    config.bind, config.loglevel = [f"fd://{os.dup(sock.fileno())}"], "ERROR"
    loop, over = asyncio.new_event_loop(), asyncio.Event()
    serve = hypercorn.asyncio.serve(app, config, shutdown_trigger=over.wait)
    thread = threading.Thread(target=lambda: loop.run_until_complete(serve))
    thread.start()
    yield
    loop.call_soon_threadsafe(over.set)
    thread.join(10)
    loop.close()


OTHERS = {
    "uvicorn with h11": lambda sock: by_uvicorn(sock, "h11"),
    "uvicorn with httptools": lambda sock: by_uvicorn(sock, "httptools"),
    "hypercorn": by_hypercorn,
}


@pytest.mark.parametrize("name", OTHERS)
async def test_servers_that_others_wrote_are_understood(name):
    sock = socket.create_server(("127.0.0.1", 0))
    url, body = f"http://127.0.0.1:{sock.getsockname()[1]}", os.urandom(100_000)
    with sock, OTHERS[name](sock), anyio.fail_after(20):
        endpoint = Endpoint(url, provider="p", model="m", headers={})
        async with endpoint:
            for path in ("/chunks", "/whole", "/close", "/chunks", "/whole"):
                for sent_body in (body, b"{}"):
                    async with endpoint.post(path, sent_body, stream=False) as reply:
                        assert await reply.read() == sent_body
            async with endpoint.post("/empty", b"{}", stream=False) as reply:
                assert (reply.status, await reply.read()) == (204, b"")
            with pytest.raises(ProviderError) as caught:
                async with endpoint.post("/error", b"no", stream=False):
                    pass
            assert caught.value.status == 500
            async with anyio.create_task_group() as tasks:
                for _ in range(50):
                    tasks.start_soon(_echoed, endpoint, body[:5000])


async def _echoed(endpoint, body):
    async with endpoint.post("/chunks", body, stream=True) as reply:
        assert await reply.read() == body


async def test_what_a_server_of_ones_own_says_is_the_same_by_httpx():
    sock = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{sock.getsockname()[1]}"
    with sock, by_uvicorn(sock, "h11"), anyio.fail_after(20):
        async with httpx.AsyncClient() as client:
            heard = []
            for own in (None, client):
                endpoint = Endpoint(url, provider="p", model="m", headers={"x-a": "1"}, client=own)
                async with endpoint.post("/whole", b"hello", stream=False) as reply:
                    headers = {name: value for name, value in reply.headers.items() if name != "date"}
                    heard.append(SimpleNamespace(status=reply.status, headers=headers, body=await reply.read()))

    assert heard[0] == heard[1]


# --- Left behind -----------------------------------------------------------------------------------------------------

SLOWLY = """
import asyncio, ssl, sys

PARTS = [
    b"HTTP/1.1 100 Continue\\r\\n\\r\\n",
    b"HTTP/1.1 200 OK\\r\\ntransfer-",
    b"encoding: chunked\\r\\n\\r\\n",
    b"2\\r\\nh",
    b"i\\r\\n2\\r\\nhi\\r\\n",
    b"0\\r\\n",
    b"x-trailer: 1\\r\\n\\r\\n",
]

async def slowly(reader, writer):
    try:
        while True:
            head = await reader.readuntil(b"\\r\\n\\r\\n")
            await reader.readexactly(int(head.rpartition(b"content-length: ")[2]))
            for part in PARTS:
                writer.write(part)
                await asyncio.sleep(0.002)
    except (asyncio.IncompleteReadError, OSError):
        pass
    finally:
        writer.transport.abort()

async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) if sys.argv[1:] else None
    if context:
        context.load_cert_chain(*sys.argv[1:])
    server = await asyncio.start_server(slowly, "127.0.0.1", 0, ssl=context)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)

asyncio.run(main())
"""


@pytest.mark.parametrize("secure", [False, True])
def test_p4_wherever_a_request_is_cancelled_nothing_is_left_and_what_is_kept_can_be_used(
    secure, authority, trusted, tmp_path
):
    files = [str(tmp_path / "chain.pem"), str(tmp_path / "key.pem")] if secure else []
    if secure:
        certificate = authority.issue_cert("127.0.0.1")
        for part in certificate.cert_chain_pems:
            part.write_to_path(files[0], append=True)
        certificate.private_key_pem.write_to_path(files[1])
    heard = []
    command = [sys.executable, "-c", SLOWLY, *files]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        server = Server("127.0.0.1", int(process.stdout.readline()), secure)

        async def scenario(probe):
            async with pooling() as connections:
                try:
                    heard.append(await asked(connections, server))
                    heard.append(await asked(connections, server))
                finally:
                    with anyio.CancelScope(shield=True):
                        heard.append(await asked(connections, server))

        try:
            assert sweep(scenario, sides=("task", "scope")) > 20
        finally:
            process.stdin.close()
    assert set(heard) == {b"hihi"}
