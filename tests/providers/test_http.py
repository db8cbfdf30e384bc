"""The wire itself: a real server on loopback, and everything that can go wrong with one."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
import httpx
import pytest
from anyio.abc import SocketAttribute

from alloy.errors import InvalidOptionError, ProviderError
from alloy.messages import as_user_message
from alloy.providers import Anthropic, Gemini, OpenAI, http
from alloy.providers.base import Completion, Request, TextDelta
from alloy.providers.chat import ChatCompletions
from alloy.providers.http import Endpoint, Secret, lease_client, origin, scrub
from alloy.providers.retry import Retrying

pytestmark = pytest.mark.anyio

KEY = "sk-a-very-secret-key-0123456789"
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
HELLO = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": None}]}
STOP = {
    "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}
WHOLE = {
    "model": "m-1",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}


@dataclass
class Server:
    """What a server saw."""

    url: str = ""
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    open: int = 0
    hung_up: anyio.Event = field(default_factory=anyio.Event)

    def provider(self, **options):
        return ChatCompletions("m", KEY, self.url, **options)


@asynccontextmanager
async def serving(answer):
    """Serves HTTP on loopback; `answer` is called with each request's connection."""
    server = Server()

    async def serve(connection):
        server.connections += 1
        server.open += 1
        async with connection:
            try:
                while True:
                    server.requests.append(await _request(connection))
                    await answer(connection)
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                server.hung_up.set()
            finally:
                server.open -= 1

    with anyio.fail_after(10):
        listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
        server.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/v1"
        async with listener, anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, serve)
            yield server
            tasks.cancel_scope.cancel()


async def _request(connection):
    data = b""
    while b"\r\n\r\n" not in data:
        data += await connection.receive()
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += await connection.receive()
    return (head + b"\r\n\r\n" + body).decode()


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(document):
    return chunk(b"data: " + json.dumps(document).encode() + b"\n\n")


def reply(body, *, status="200 OK", content_type="application/json", headers=""):
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    return (
        f"HTTP/1.1 {status}\r\ncontent-type: {content_type}\r\n{headers}content-length: {len(body)}\r\n\r\n".encode()
        + body
    )


def sending(*parts):
    async def answer(connection):
        for part in parts:
            await connection.send(part)

    return answer


STREAM = (HEAD, event(HELLO), event(STOP), chunk(b"data: [DONE]\n\n"), b"0\r\n\r\n")


async def ask(provider, *, stream=True):
    async with provider.stream(Request(messages=[as_user_message("Hi")], stream=stream)) as items:
        return [item async for item in items]


async def failure(answer, *, stream=True, **options):
    async with serving(answer) as server:
        with pytest.raises(ProviderError) as caught:
            await ask(server.provider(**options), stream=stream)
    return caught.value


async def test_a_streamed_answer_arrives():
    async with serving(sending(*STREAM)) as server:
        *deltas, completion = await ask(server.provider())

    assert deltas == [TextDelta("Hello")]
    assert completion.message.text == "Hello"
    assert completion.usage.total_tokens == 4
    assert f"authorization: bearer {KEY}" in server.requests[0].lower()
    assert "POST /v1/chat/completions " in server.requests[0]


async def test_a_provider_that_is_entered_keeps_its_connection():
    async with serving(sending(*STREAM)) as server:
        async with server.provider() as provider, provider:
            await ask(provider)
            await ask(provider)
        assert server.connections == 1
        await ask(provider)
        assert server.connections == 2


async def test_nothing_is_left_open_after_the_last_request():
    async with serving(sending(*STREAM)) as server:
        await ask(server.provider())
        await server.hung_up.wait()

    assert server.open == 0
    assert http._shared.get().holders == 0
    assert http._shared.get().client is None


async def test_everybody_shares_one_client_and_the_last_one_closes_it():
    clients = []
    async with lease_client() as first:
        async with lease_client() as second:
            clients += [first, second]
        assert not first.is_closed

    assert clients[0] is clients[1]
    assert clients[0].is_closed


async def test_many_who_come_at_once_get_the_same_client():
    clients = []
    leave = anyio.Event()

    async def lease():
        async with lease_client() as client:
            clients.append(client)
            await leave.wait()

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(lease)
            while len(clients) < 20:
                await anyio.lowlevel.checkpoint()
            leave.set()

    assert len(set(map(id, clients))) == 1
    assert clients[0].is_closed


async def test_who_is_cancelled_while_the_client_is_made_holds_nothing():
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with lease_client():
            pass

    assert http._shared.get().holders == 0


async def test_a_cut_connection_is_no_answer():
    async def cut(connection):
        await connection.send(HEAD + event(HELLO))
        await connection.aclose()

    error = await failure(cut)

    assert (error.kind, error.retryable) == ("network", True)


async def test_a_stream_that_ends_too_early_is_no_answer():
    error = await failure(sending(HEAD, event(HELLO), b"0\r\n\r\n"))

    assert error.kind == "network"


@pytest.mark.parametrize(
    ("broken", "kind"),
    [
        (b"data: {\n\n", "network"),
        (b'data: {"choices": 1, "usage": {"prompt_tokens": NaN}}\n\ndata: [DONE]\n\n', "server_error"),
        (b"", "network"),
    ],
)
async def test_what_came_together_with_an_error_comes_before_it(broken, kind):
    items = []
    body = b"data: " + json.dumps(HELLO).encode() + b"\n\n" + broken
    async with serving(sending(HEAD, b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))) as server:
        with anyio.fail_after(5), pytest.raises(ProviderError) as caught:
            async with Retrying(server.provider()).stream(Request(messages=[as_user_message("Hi")])) as answer:
                async for item in answer:
                    items.append(item)  # noqa: PERF401  what came before the error counts

    assert items == [TextDelta("Hello")]
    assert caught.value.kind == kind
    assert len(server.requests) == 1


async def test_a_stream_is_complete_though_the_server_never_closes_it():
    async with serving(sending(*STREAM[:-1])) as server:
        items = await ask(server.provider())

    assert isinstance(items[-1], Completion)


async def test_a_silent_server_is_a_timeout():
    error = await failure(sending(), timeout=0.05)

    assert (error.kind, error.provider, error.model) == ("timeout", "chat_completions", "m")


async def test_a_stream_that_falls_silent_is_a_timeout():
    error = await failure(sending(HEAD, event(HELLO)), timeout=0.05)

    assert error.kind == "timeout"


async def test_nobody_there_is_a_network_error():
    async with serving(sending()) as server:
        url = server.url
    with pytest.raises(ProviderError) as caught:
        await ask(ChatCompletions("m", KEY, url))

    assert caught.value.kind == "network"


async def test_an_error_status_is_classified_and_its_key_is_taken_out():
    body = {"error": {"message": f"Incorrect API key provided: {KEY}.", "code": "invalid_api_key"}}
    error = await failure(sending(reply(body, status="401 Unauthorized", headers="x-request-id: req_1\r\n")))

    assert (error.kind, error.status, error.code, error.request_id) == ("auth", 401, "invalid_api_key", "req_1")
    assert KEY not in str(error) + repr(error) + error.message
    assert "[key]" in error.message


async def test_an_error_inside_a_stream_has_its_key_taken_out():
    error = await failure(sending(HEAD, event({"error": {"message": f"bad key {KEY}", "code": 401}}), b"0\r\n\r\n"))

    assert error.kind == "auth"
    assert KEY not in str(error) + repr(error)


async def test_retry_after_is_read_from_the_headers():
    body = {"error": {"message": "Slow down"}}
    error = await failure(sending(reply(body, status="429 Too Many Requests", headers="retry-after: 7\r\n")))

    assert (error.kind, error.retry_after) == ("rate_limited", 7.0)


async def test_a_redirect_is_not_followed():
    async with serving(sending(*STREAM)) as other:
        error = await failure(sending(reply(b"", status="307 Go", headers=f"location: {other.url}/chat?x=1\r\n")))

    assert (error.kind, error.status) == ("invalid_request", 307)
    assert f"{other.url}/chat" in error.message
    assert other.requests == []


@pytest.mark.parametrize("stream", [True, False])
async def test_a_login_page_is_no_answer(stream):
    page = reply(b"<html>Log in</html>", content_type="text/html; charset=utf-8")
    error = await failure(sending(page), stream=stream)

    assert error.kind == "invalid_request"
    assert "base_url" in error.message


async def test_an_answer_that_is_no_json_is_no_answer():
    error = await failure(sending(reply(b'{"choices": [')), stream=False)

    assert error.kind == "network"


async def test_a_whole_answer_to_a_request_for_a_stream_is_understood():
    async with serving(sending(reply(WHOLE))) as server:
        items = await ask(server.provider())

    assert items[0] == TextDelta("Hello")
    assert items[1].message.text == "Hello"


async def test_a_stream_instead_of_a_whole_answer_is_understood():
    async with serving(sending(*STREAM)) as server:
        items = await ask(server.provider(), stream=False)

    assert items[-1].message.text == "Hello"


async def test_a_whole_answer_is_fetched_if_nobody_watches():
    async with serving(sending(reply(WHOLE))) as server:
        items = await ask(server.provider(max_tokens=500), stream=False)

    assert [type(item) for item in items] == [Completion]
    assert '"stream"' not in server.requests[0]


async def test_cancelling_in_the_middle_of_a_stream_hangs_up():
    async def one_word(connection):
        await connection.send(HEAD + event(HELLO))
        await connection.receive()

    async with serving(one_word) as server:
        with anyio.CancelScope() as scope:
            async with server.provider().stream(Request(messages=[as_user_message("Hi")])) as items:
                async for _ in items:
                    scope.cancel()
        assert scope.cancelled_caught
        await server.hung_up.wait()

    assert server.open == 0
    assert http._shared.get().holders == 0


async def test_leaving_a_stream_early_hangs_up():
    async def one_word(connection):
        await connection.send(HEAD + event(HELLO))
        await connection.receive()

    async with serving(one_word) as server:
        async with server.provider().stream(Request(messages=[as_user_message("Hi")])) as items:
            assert await anext(items) == TextDelta("Hello")
        await server.hung_up.wait()

    assert server.open == 0


async def test_leaving_without_listening_hangs_up_though_the_client_stays():
    async def one_word(connection):
        await connection.send(HEAD + event(HELLO))
        await connection.receive()

    async with serving(one_word) as server, server.provider() as provider:
        async with provider.stream(Request(messages=[as_user_message("Hi")])):
            pass
        await server.hung_up.wait()


async def test_what_the_listener_raises_comes_out_as_it_is():
    mine = httpx.ReadError("mine")
    async with serving(sending(*STREAM)) as server:
        with pytest.raises(httpx.ReadError) as caught:
            async with server.provider().stream(Request(messages=[as_user_message("Hi")])):
                raise mine

    assert caught.value is mine


async def test_a_client_of_ones_own_is_used_and_left_open():
    async with serving(sending(*STREAM)) as server, httpx.AsyncClient(headers={"x-mine": "1"}) as client:
        async with server.provider(client=client) as provider:
            await ask(provider)
        assert not client.is_closed

    assert "x-mine: 1" in server.requests[0].lower()


async def test_no_cookie_is_kept():
    answer = reply(WHOLE, headers="set-cookie: who=me; Path=/\r\n")
    async with serving(sending(answer)) as server, server.provider() as provider:
        await ask(provider, stream=False)
        await ask(provider, stream=False)

    assert "cookie" not in server.requests[1].lower()


async def test_this_machine_is_reached_without_the_proxy(monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    async with serving(sending(reply(WHOLE))) as server:
        items = await ask(server.provider(), stream=False)

    assert items[-1].message.text == "Hello"


async def test_an_answer_without_end_is_given_up():
    async with serving(sending(reply(b"x" * 1000))) as server:
        endpoint = Endpoint(server.url, provider="p", model="m", headers={})
        async with endpoint.post("/x", b"{}", stream=False) as got:
            with pytest.raises(ProviderError, match="longer than 100 bytes"):
                await got.read(limit=100)


@pytest.mark.parametrize("url", ["", "somewhere.test/v1", "ftp://somewhere.test", "http://"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InvalidOptionError, match="base_url"):
        Endpoint(url, provider="p", model="m", headers={})


@pytest.mark.parametrize("provider", [Anthropic, ChatCompletions, Gemini, OpenAI])
@pytest.mark.parametrize("url", ["http://[::g]/v1", "http://[1.2.3.4]/v1", "http://127.0.0.1:99999/v1", "http://a:0"])
def test_every_adapter_refuses_what_is_no_address(provider, url):
    with pytest.raises(InvalidOptionError, match="base_url"):
        provider("m", KEY, url)
    with pytest.raises(InvalidOptionError, match="base_url"):
        provider("m", None, url)


def test_a_password_in_the_address_is_refused_and_not_shown():
    with pytest.raises(InvalidOptionError) as caught:
        Endpoint(f"https://me:{KEY}@somewhere.test/v1", provider="p", model="m", headers={})

    assert KEY not in str(caught.value)


def test_a_key_shows_itself_nowhere():
    provider = ChatCompletions("m", KEY, "http://somewhere.test", extra_headers={"X-Api-Key": "another-secret-1"})
    shown = repr(provider) + repr(vars(provider)) + repr(vars(provider._endpoint)) + provider.origin

    assert KEY not in shown
    assert "another-secret-1" not in shown


def test_a_key_that_no_header_can_carry_is_refused_and_not_shown():
    with pytest.raises(InvalidOptionError) as caught:
        Secret("sk-line\none")

    assert "sk-line" not in str(caught.value)
    assert Secret(" sk-1234\n").reveal() == "sk-1234"


def test_origins_tell_adapters_addresses_and_keys_apart():
    key, other = Secret("key-one-1"), Secret("key-two-2")
    origins = [origin("a", "http://x", key), origin("b", "http://x", key), origin("a", "http://y", key)]
    origins += [origin("a", "http://x", other), origin("a", "http://x", None)]

    assert len(set(origins)) == 5
    assert origin("a", "http://x/", key) == origins[0]


def test_a_placeholder_is_no_secret():
    assert scrub("none of it", [Secret("none")]) == "none of it"
