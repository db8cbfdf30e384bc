"""HTTP/1.1 without a connection: what is sent, what is understood, and what is refused."""

from __future__ import annotations

import contextlib

import h11
import httptools
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy.errors import ProviderError
from alloy.providers.http import _PLAIN_URL
from alloy.providers.http1 import MAX_HEAD, ResponseParser, request_head

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


def parsed(*parts, end=False):
    parser = ResponseParser()
    body = b""
    for part in parts:
        parser.feed(part)
        body += parser.take()
    if end:
        parser.end()
    return parser, body


def refused(*parts, end=False):
    with pytest.raises(ProviderError) as caught:
        parsed(*parts, end=end)
    return caught.value


# --- Requests --------------------------------------------------------------------------------------------------------


def test_a_request_is_what_others_read():
    head = request_head("a.test:81", "/v1/x?y=1", {"accept": "text/event-stream", "x-odd": "caf\xe9 \t1"})
    server = h11.Connection(h11.SERVER)
    server.receive_data(head + b"5\r\n\r\nhello")
    request, data, end = (server.next_event() for _ in range(3))

    assert (request.method, request.target) == (b"POST", b"/v1/x?y=1")
    assert list(request.headers) == [
        (b"host", b"a.test:81"),
        (b"accept", b"text/event-stream"),
        (b"x-odd", b"caf\xe9 \t1"),
        (b"content-length", b"5"),
    ]
    assert data.data == b"hello"
    assert isinstance(end, h11.EndOfMessage)


def test_who_names_a_host_means_it():
    assert request_head("a.test", "/", {"host": "b.test"}).count(b"host") == 1


@pytest.mark.parametrize("name", ["x\r\ny", "x y", "x:", "", "\xe9", "x\x00"])
def test_what_is_no_name_of_a_header_is_not_sent(name):
    with pytest.raises(ProviderError, match="no header is called"):
        request_head("a.test", "/", {name: "1"})


@pytest.mark.parametrize(
    "value", ["a\r\nx-evil: 1", "a\nb", "a\rb", "a\x00b", "a\x7f", " a", "a ", "\u20ac", "sk-1\x1b"]
)
def test_what_no_header_can_say_is_not_sent_and_not_shown(value):
    with pytest.raises(ProviderError, match="no header can say") as caught:
        request_head("a.test", "/", {"authorization": value})

    assert caught.value.kind == "invalid_request"
    assert value not in str(caught.value)


@pytest.mark.parametrize("name", ["content-length", "transfer-encoding"])
def test_nobody_else_says_how_long_a_request_is(name):
    with pytest.raises(ProviderError, match="follows from the request"):
        request_head("a.test", "/", {name: "1"})


# --- Responses -------------------------------------------------------------------------------------------------------

HONEST = {
    "a length": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", True),
    "a length of nothing": (b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", 200, b"", True),
    "one length twice": (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nContent-Length: 5\r\n\r\nhello", 200, b"hello", True),
    "chunks": (CHUNKED + b"5\r\nhello\r\n6;a=b\r\n there\r\n0\r\n\r\n", 200, b"hello there", True),
    "chunks of odd lengths": (CHUNKED + b"00000005 \r\nhello\r\n0A\r\n0123456789\r\n000\r\n\r\n", 200, b"hello0123456789", True),
    "trailers": (CHUNKED + b"5\r\nhello\r\n0\r\nx-a: 1\r\nx-b: 2\r\n\r\n", 200, b"hello", True),
    "a close": (b"HTTP/1.1 200 OK\r\nconnection: Keep-Alive, Close\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", False),
    "what HTTP was in 1996": (b"HTTP/1.0 200 OK\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", False),
    "no reason": (b"HTTP/1.1 200\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", True),
    "an empty reason": (b"HTTP/1.1 200 \r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", True),
    "no content": (b"HTTP/1.1 204 No Content\r\n\r\n", 204, b"", True),
    "nothing new": (b"HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n", 304, b"", True),
    "information before": (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", 200, b"hi", True),
    "newlines only": (b"HTTP/1.1 200 OK\ncontent-length: 5\n\nhello", 200, b"hello", True),
    "blanks around values": (b"HTTP/1.1 200 OK\r\ncontent-length: \t 5 \t\r\nx-a:\r\nx-b: \r\n\r\nhello", 200, b"hello", True),
    "a folded line": (b"HTTP/1.1 200 OK\r\nx-a: 1\r\n  2\r\ncontent-length: 5\r\n\r\nhello", 200, b"hello", True),
}  # fmt: skip


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_answer_is_understood_wherever_it_is_cut(name):
    data, status, body, reusable = HONEST[name]
    for step in (1, 2, 3, 7, len(data)):
        parser, got = parsed(*[data[at : at + step] for at in range(0, len(data), step)])
        assert (parser.status, got, parser.complete, parser.reusable) == (status, body, True, reusable)


@pytest.mark.parametrize("name", HONEST)
def test_what_was_cut_off_is_no_answer(name):
    data = HONEST[name][0]
    for cut in range(len(data)):
        parser, _ = parsed(data[:cut])
        assert not parser.complete
        assert refused(data[:cut], end=True).kind == "network"


def test_headers_of_one_name_are_one_and_letters_are_small():
    parser, _ = parsed(b"HTTP/1.1 200 OK\r\nX-A: 1\r\nx-b: \xe9\r\nx-a: 2\r\ncontent-length: 0\r\n\r\n")

    assert parser.headers == {"x-a": "1, 2", "x-b": "\xe9", "content-length": "0"}


def test_a_body_without_a_length_ends_with_the_connection_and_is_not_reused():
    parser, body = parsed(b"HTTP/1.1 200 OK\r\n\r\nhel", b"lo", end=True)

    assert (body, parser.complete, parser.reusable) == (b"hello", True, False)


def test_chunks_and_a_length_are_chunks_and_the_end_of_the_connection():
    parser, body = parsed(CHUNKED[:-2] + b"content-length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n")

    assert (body, parser.complete, parser.reusable) == (b"hello", True, False)


@pytest.mark.parametrize("more", [b"x", b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil"])
@pytest.mark.parametrize("name", ["a length", "chunks", "no content", "nothing new"])
@pytest.mark.parametrize("together", [True, False])
def test_what_comes_behind_an_answer_is_dropped_with_its_connection(name, more, together):
    data, status, body, _ = HONEST[name]
    parser, got = parsed(data + more) if together else parsed(data, more)

    assert (parser.status, got, parser.complete, parser.reusable) == (status, body, True, False)


REFUSED = {
    "another protocol": b"SSH-2.0-x",
    "the newest HTTP": b"HTTP/2 200 OK\r\n\r\n",
    "a blank too many": b"HTTP/1.1  200 OK\r\n\r\n",
    "a status of two digits": b"HTTP/1.1 20 OK\r\n\r\n",
    "a blank line before": b"\r\nHTTP/1.1 200 OK\r\n\r\n",
    "another protocol from now on": b"HTTP/1.1 101 Switching\r\n\r\n",
    "a blank before the colon": b"HTTP/1.1 200 OK\r\ncontent-length : 5\r\n\r\n",
    "a name of nothing": b"HTTP/1.1 200 OK\r\n: 5\r\n\r\n",
    "a line without a colon": b"HTTP/1.1 200 OK\r\nx\r\n\r\n",
    "a fold of nothing": b"HTTP/1.1 200 OK\r\n x-a: 5\r\n\r\n",
    "a return in a value": b"HTTP/1.1 200 OK\r\nx-a: 1\r2\r\n\r\n",
    "a zero in a value": b"HTTP/1.1 200 OK\r\nx-a: 1\x002\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
    "two lengths in one": b"HTTP/1.1 200 OK\r\ncontent-length: 5, 6\r\n\r\n",
    "a length of nothing at all": b"HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
    "a negative length": b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
    "a length with a sign": b"HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
    "a length with a line": b"HTTP/1.1 200 OK\r\ncontent-length: 1_0\r\n\r\n",
    "a length in odd digits": "HTTP/1.1 200 OK\r\ncontent-length: \u00b2\r\n\r\n".encode("latin-1"),
    "a length of a thousand digits": b"HTTP/1.1 200 OK\r\ncontent-length: " + b"1" * 1000 + b"\r\n\r\n",
    "another coding": b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
    "a coding that looks like one": b"HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n",
    "two codings": b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: identity\r\n\r\n",
    "chunks in 1996": b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
    "a chunk of a negative length": CHUNKED + b"-5\r\nhello\r\n",
    "a chunk of a length with a prefix": CHUNKED + b"0x5\r\nhello\r\n",
    "a chunk without a length": CHUNKED + b"\r\nhello\r\n",
    "a chunk whose line ends too early": CHUNKED + b"5\nhello\r\n",
    "a chunk that is longer": CHUNKED + b"5\r\nhello!\r\n0\r\n\r\n",
    "a chunk that ends otherwise": CHUNKED + b"5\r\nhelloxx0\r\n\r\n",
    "a chunk beyond all numbers": CHUNKED + b"1" * 17 + b"\r\n",
    "a chunk of many words": CHUNKED + b"5;" + b"a" * 5000,
    "trailers that are none": CHUNKED + b"0\r\nno trailer\r\n\r\n",
    "a head without end": b"HTTP/1.1 200 OK\r\n" + b"x-a: b\r\n" * (MAX_HEAD // 8),
    "trailers without end": CHUNKED + b"0\r\n" + b"x-a: b\r\n" * (MAX_HEAD // 8 + 1),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_be_taken_for_something_else_is_refused(name):
    data = REFUSED[name]

    assert refused(data).kind == "network"
    assert refused(*[data[at : at + 5] for at in range(0, len(data), 5)]).kind == "network"


# --- Others' opinions ------------------------------------------------------------------------------------------------


def by_h11(data):
    """What h11 makes of an answer: its status, its body, whether the connection can be used again; None for none."""
    client = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD)
    client.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    client.send(h11.EndOfMessage())
    client.receive_data(data)
    client.receive_data(b"")
    status, body = 0, b""
    try:
        while not isinstance(event := client.next_event(), h11.EndOfMessage):
            if isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
    except h11.RemoteProtocolError:
        return None
    return status, body


def by_httptools(data):
    """What httptools makes of an answer that has a length or chunks: its status, its body; None for none."""

    class Heard:
        done = False
        body = b""

        def on_body(self, body):
            if not self.done:
                self.body += body

        def on_message_complete(self):
            self.done = True

    heard = Heard()
    parser = httptools.HttpResponseParser(heard)
    try:
        parser.feed_data(data)
    except httptools.HttpParserError:
        if not heard.done:
            return None
    return heard.body if heard.done else None


def by_us(data):
    try:
        parser, body = parsed(data, end=True)
    except ProviderError:
        return None
    return parser.status, body


LINES = st.sampled_from(
    [b"content-length: 5", b"content-length: 0", b"transfer-encoding: chunked", b"connection: close", b"x-a: b", b"x-a:", b" folded", b"content-length: 5, 5", b"bad line", b"x-\xe9: 1", b"x-a: \xe9"]
)  # fmt: skip
BODIES = st.lists(st.sampled_from([b"5\r\nhello\r\n", b"a;x=y\r\n0123456789\r\n", b"0\r\n", b"x-t: 1\r\n", b"\r\n", b"hello", b"5\r\nhel", b"\n", b"-1\r\n", b"F\r\n"]), max_size=6)  # fmt: skip
ENDS = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"])


@st.composite
def answers(draw):
    end = draw(ENDS)
    head = end.join([b"HTTP/1.1 200 OK", *draw(st.lists(LINES, max_size=4)), b"", b""])
    return head + b"".join(draw(BODIES))


@given(answers(), st.integers(1, 40))
def test_what_we_take_for_an_answer_h11_takes_for_the_same(data, step):
    ours = by_us(data)

    assert ours is None or ours == by_h11(data)
    try:
        parser, body = parsed(*[data[at : at + step] for at in range(0, len(data), step)], end=True)
    except ProviderError:
        assert ours is None
    else:
        assert (parser.status, body) == ours


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=20), st.integers(1, 400), st.booleans())
def test_an_honest_body_in_chunks_is_taken_as_everybody_does(pieces, step, trailers):
    data = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    data += b"0\r\nx-trailer: 1\r\n\r\n" if trailers else b"0\r\n\r\n"
    parser, body = parsed(*[data[at : at + step] for at in range(0, len(data), step)])

    assert (parser.complete, parser.reusable, body) == (True, True, b"".join(pieces))
    assert by_h11(data) == (200, body)
    assert by_httptools(data) == body


@given(st.binary(max_size=400), st.integers(1, 50))
def test_noise_is_refused_or_an_answer_but_never_anything_else(noise, step):
    for data in (noise, b"HTTP/1.1 200 OK\r\n" + noise, CHUNKED + noise):
        parser = ResponseParser()
        with contextlib.suppress(ProviderError):
            for at in range(0, len(data), step):
                parser.feed(data[at : at + step])
            parser.end()


@pytest.mark.parametrize("part", ["?", "/", "?a=", "/a/", "."])
def test_p7_a_long_address_is_looked_at_in_one_pass(part):
    """Nothing here may take exponentially long, or the test's own time is up."""
    assert _PLAIN_URL.fullmatch(f"http://host{part}{'a' * 20_000} ") is None
    assert _PLAIN_URL.fullmatch(f"http://host/?{part * 5_000} ") is None
