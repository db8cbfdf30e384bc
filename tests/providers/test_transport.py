"""Many requests over few connections: each gets its own answer, whatever was cancelled, and whatever a server says unasked."""

from __future__ import annotations

import gzip
import json
import random
import socket
import ssl
import threading
from contextlib import contextmanager

import anyio
import pytest
import uvicorn

from alloy.errors import InvalidOptionError, ProviderError
from alloy.providers.http import Endpoint
from tests.providers.hostile_server import Server, head, plain, tls, whole

pytestmark = pytest.mark.anyio


async def ask(endpoint: Endpoint, path: str = "/", body: bytes = b"{}") -> bytes:
    with anyio.fail_after(20):
        async with endpoint.post(path, body, stream=False) as reply:
            return await reply.read()


def at(url: str, **options: object) -> Endpoint:
    return Endpoint(url, provider="p", model="m", headers={"authorization": "Bearer sk-0123456789"}, **options)


async def failure(endpoint: Endpoint, path: str = "/") -> ProviderError:
    with pytest.raises(ProviderError) as caught:
        await ask(endpoint, path)
    return caught.value


# --- A server that others wrote --------------------------------------------------------------------------------------


async def application(scope, receive, send):
    """Answers as its path says, with what it was asked and by whom."""
    body = b""
    while (message := await receive())["type"] == "http.request":
        body += message["body"]
        if not message["more_body"]:
            break
    answer = json.dumps({"said": body.decode(), "port": scope["client"][1]}).encode()
    headers = [(b"content-type", b"application/json")]
    match scope["path"]:
        case "/whole" | "/":
            pieces, headers = [answer], [*headers, (b"content-length", str(len(answer)).encode())]
        case "/chunks":
            size = max(7, len(answer) // 1000)
            pieces = [answer[at : at + size] for at in range(0, len(answer), size)]
        case "/gzip":
            pieces, headers = [gzip.compress(answer)], [*headers, (b"content-encoding", b"gzip")]
        case "/close":
            pieces, headers = [answer], [*headers, (b"connection", b"close")]
        case "/large":
            pieces = [b" " * 65536] * 100 + [answer]
        case _:
            raise AssertionError(scope["path"])
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    for piece in pieces:
        await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body"})


@contextmanager
def uvicorn_serving(sock: socket.socket, **options: object):
    config = uvicorn.Config(application, log_level="critical", lifespan="off", ws="none", **options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(10)
        sock.close()


def listening(family: socket.AddressFamily = socket.AF_INET) -> tuple[socket.socket, int]:
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    sock = socket.create_server((host, 0), family=family, backlog=2048)
    return sock, sock.getsockname()[1]


@pytest.fixture(params=["h11", "httptools"])
def url(request):
    sock, port = listening()
    with uvicorn_serving(sock, http=request.param):
        yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("path", ["/whole", "/chunks", "/gzip", "/close", "/large"])
async def test_an_answer_arrives_whole_however_it_is_framed(url, path):
    for size in (0, 1, 100_000, 1_000_000):
        said = json.loads(await ask(at(url), path, b"a" * size))["said"]
        assert said == "a" * size


async def test_requests_in_a_row_share_a_connection_whatever_their_framing(url):
    async with at(url) as endpoint:
        ports = {json.loads(await ask(endpoint, path))["port"] for path in ("/whole", "/chunks", "/gzip", "/large") * 3}

    assert len(ports) == 1


async def test_of_hundreds_at_once_each_gets_its_own_answer(url):
    answers: dict[int, str] = {}

    async def one(endpoint: Endpoint, number: int) -> None:
        for path in ("/whole", "/chunks"):
            answers[number] = json.loads(await ask(endpoint, path, f"{number}{path}".encode()))["said"]

    async with at(url) as endpoint, anyio.create_task_group() as group:
        for number in range(300):
            group.start_soon(one, endpoint, number)

    assert answers == {number: f"{number}/chunks" for number in range(300)}


async def test_what_is_cancelled_at_any_moment_never_becomes_the_answer_of_another(url):
    rng = random.Random(1)

    async def cancelled(endpoint: Endpoint, number: int) -> None:
        steps = rng.randrange(60)
        async with anyio.create_task_group() as group:
            group.start_soon(ask, endpoint, rng.choice(["/whole", "/chunks", "/large"]), f"no {number}".encode())
            for _ in range(steps):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()

    async with at(url) as endpoint:
        for around in range(10):
            async with anyio.create_task_group() as group:
                for number in range(30):
                    group.start_soon(cancelled, endpoint, number)
            for number in range(10):
                said = f"{around} {number}"
                assert json.loads(await ask(endpoint, "/chunks", said.encode()))["said"] == said


# --- Addresses and TLS -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["127.0.0.1:99999", "127.0.0.1:x", "127.0.0.1:0", "[::1", "[no-address]"])
async def test_a_place_that_is_none_is_refused(place):
    with pytest.raises(InvalidOptionError, match="base_url"):
        at(f"http://{place}/v1")


async def test_large_bodies_go_both_ways_through_tls_on_one_connection(monkeypatch):
    monkeypatch.setattr("alloy.providers.pool._tls", tls(ssl.PROTOCOL_TLS_CLIENT))
    answer = {"said": "b" * 3_000_000}
    seen = []

    def script(connection):
        connection.send(whole(answer))
        for _ in range(2):
            seen.append(len(connection.request()))
            connection.send(whole(answer))

    with Server(script, tls=tls(ssl.PROTOCOL_TLS_SERVER)) as server:
        async with at(server.url) as endpoint:
            for _ in range(3):
                assert json.loads(await ask(endpoint, "/", b"a" * 3_000_000)) == answer

    assert min(seen) > 3_000_000


async def test_who_is_cancelled_while_it_greets_hangs_up():
    with Server(lambda connection: connection.hang(), early=True) as server:
        with anyio.move_on_after(0.05) as scope:
            await ask(at(server.url.replace("http:", "https:")))

    assert scope.cancelled_caught


# --- A server that means ill -----------------------------------------------------------------------------------------


CHUNKED = "transfer-encoding: chunked"
OK = whole({"said": "right"})
POISON = whole({"said": "wrong"})
BEHIND = {
    "another answer": OK + POISON,
    "bytes": OK + b"x",
    "an answer behind chunks": head("application/json", CHUNKED) + b'10\r\n{"said":"right"}\r\n0\r\n\r\n' + POISON,
    "an answer behind both framings": head("application/json", CHUNKED, "content-length: 5") + b'10\r\n{"said":"right"}\r\n0\r\n\r\n' + POISON,
    "an answer behind no body": b"HTTP/1.1 204 No Content\r\ncontent-length: 5\r\n\r\n" + POISON,
}  # fmt: skip


@pytest.mark.parametrize("name", BEHIND)
@pytest.mark.parametrize("later", [False, True])
async def test_what_comes_behind_an_answer_is_never_the_answer_to_the_next(name, later):
    begun, asked, sent = threading.Event(), threading.Event(), threading.Event()
    behind = BEHIND[name].rfind(b"HTTP/1.1 200 OK\r\n") or -1

    def script(connection):
        if begun.is_set():
            connection.send(OK)
            return
        begun.set()
        try:
            connection.send(BEHIND[name][:behind] if later else BEHIND[name])
            if later:
                asked.wait(5)
                connection.send(BEHIND[name][behind:])
        finally:
            sent.set()
        connection.hang()

    with Server(script) as server:
        async with at(server.url) as endpoint:
            try:
                await ask(endpoint)
            except ProviderError:
                assert "both framings" in name
            asked.set()
            while not sent.is_set():
                await anyio.lowlevel.checkpoint()
            assert json.loads(await ask(endpoint)) == {"said": "right"}

    assert len(server.requests) == 2


@pytest.mark.parametrize("path", ["/a b", "/a\r\nx-evil: 1\r\n\r\n", "/\u65e5", "/a#b", "/../c"])
async def test_an_odd_path_breaks_no_request(path):
    with Server(plain(OK)) as server:
        try:
            await ask(at(server.url), path)
        except ProviderError as error:
            assert error.kind == "invalid_request"  # noqa: PT017  either way will do
        else:
            line, *lines = server.requests[0].split(b"\r\n\r\n")[0].split(b"\r\n")
            assert len(line.split(b" ")) == 3
            assert not [line for line in lines if line.startswith(b"x-evil")]
