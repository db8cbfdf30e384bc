"""A conversation changes its provider: whoever comes next understands it, and whoever comes back finds what was its own."""

from __future__ import annotations

import base64
import json
from contextlib import asynccontextmanager
from itertools import permutations

import anyio
import pytest
from anyio.abc import SocketAttribute

import alloy
from alloy.errors import ProviderError, RunError
from alloy.history import check_history
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
    messages_from_json,
    messages_to_json,
)
from alloy.providers import Anthropic, Request
from alloy.testing import Recorder
from tests.providers.conversations import (
    GO_ON,
    HI,
    SPEAKERS,
    conversation,
    decoded,
    nobody_elses,
    recorded,
    recorded_signatures,
    sent,
    strings,
)

everybody = pytest.mark.parametrize("name", SPEAKERS)
PAIRS = list(permutations(SPEAKERS, 2))
NEIGHBOURS = list(zip(SPEAKERS, [*list(SPEAKERS)[1:], "anthropic"], strict=True))
PNG = ImageBlock("image/png", b"\x89PNG")
MEDIA = {
    "image": PNG,
    "image by URL": ImageBlock("image/png", url="https://example.test/a.png"),
    "audio": AudioBlock("audio/wav", b"RIFF"),
    "audio by URL": AudioBlock("audio/wav", url="https://example.test/a.wav"),
    "video": VideoBlock("video/mp4", url="https://example.test/a.mp4"),
    "document": DocumentBlock("application/pdf", b"%PDF-1.4", name="a.pdf"),
    "document by URL": DocumentBlock("application/pdf", url="https://example.test/a.pdf"),
}


# --- What is encoded -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=[f"{first} to {second}" for first, second in PAIRS])
def test_a_conversation_moves_to_another_vendor_and_back(first, second):
    one, other = SPEAKERS[first], SPEAKERS[second]
    at_one, at_other = one.provider(), other.provider()
    history = messages_from_json(messages_to_json(conversation(one, at_one)))
    before = one.turns(sent(one, at_one, history))
    sent(other, at_other, history)

    longer = conversation(other, at_other, history)
    check_history(longer)
    sent(other, at_other, longer)
    after = sent(one, at_one, longer)

    assert one.turns(after)[: len(before)] == before
    assert recorded_signatures(one.calling) | recorded_signatures(one.saying) <= set(strings(after))
    for thought in (b for m in history for b in m.content if isinstance(b, ThinkingBlock)):
        assert all(any(part in text for text in strings(after)) for part in thought.text.split("\n\n"))


@everybody
@pytest.mark.parametrize(
    "other", [{"key": "key-of-others"}, {"base_url": "https://proxy.test/v1"}], ids=["key", "host"]
)
def test_another_account_at_the_same_vendor_gets_nothing_that_was_signed(name, other):
    speaker = SPEAKERS[name]
    history = conversation(speaker, speaker.provider())
    elsewhere = speaker.provider(**other)

    assert elsewhere.origin != history[1].origin
    assert nobody_elses(history) or name == "openai-chat"
    sent(speaker, elsewhere, history)


@everybody
def test_of_a_broken_off_answer_everybody_gets_the_text_also_who_gave_it(name):
    speaker = SPEAKERS[name]
    provider = speaker.provider()
    whole = decoded(provider, speaker.saying, [HI])
    broken = Message("assistant", whole.content, origin=provider.origin, interrupted=True)
    for other in SPEAKERS.values():
        sent(other, other.provider(), [HI, broken, GO_ON])


@everybody
def test_parallel_calls_of_another_model_are_answered_in_their_order(name):
    calls = tuple(ToolUseBlock(f"functions.look:{n}", "look", {"at": n}) for n in range(4))
    results = tuple(ToolResultBlock(call.id, (TextBlock(f"seen {call.input['at']}"),)) for call in calls)
    speaker = SPEAKERS[name]

    sent(speaker, speaker.provider(), [HI, Message("assistant", calls, origin="elsewhere"), Message("user", results)])


@pytest.mark.parametrize("name", [name for name in SPEAKERS if name != "anthropic"])
def test_claude_goes_on_in_the_middle_of_a_step_that_another_model_began(name):
    claude = Anthropic("claude-sonnet-4-5", "key", thinking={"type": "enabled", "budget_tokens": 1024})
    begun = conversation(SPEAKERS[name], SPEAKERS[name].provider())[:3]

    assert "thinking" not in sent(SPEAKERS["anthropic"], claude, begun)
    assert "thinking" not in sent(SPEAKERS["anthropic"], claude, [*begun, GO_ON])
    assert "thinking" in sent(
        SPEAKERS["anthropic"], claude, [*begun, Message("assistant", (TextBlock("Done."),)), GO_ON]
    )


def test_claude_thinks_on_in_a_step_of_its_own():
    claude = Anthropic("claude-sonnet-4-5", "key", thinking={"type": "enabled", "budget_tokens": 1024})

    assert "thinking" in sent(SPEAKERS["anthropic"], claude, conversation(SPEAKERS["anthropic"], claude)[:3])


@everybody
def test_ids_that_a_vendor_does_not_take_are_replaced_in_pairs(name):
    ids = ["x" * 41, "y" * 80, "über/1", "a b", "c|d\n"]
    calls = tuple(ToolUseBlock(call_id, "look", {}) for call_id in ids)
    results = tuple(ToolResultBlock(call_id, (TextBlock("Seen."),)) for call_id in ids)
    speaker = SPEAKERS[name]

    sent(speaker, speaker.provider(), [HI, Message("assistant", calls, origin="elsewhere"), Message("user", results)])


@everybody
def test_a_tool_that_another_model_made_up_has_a_name_that_the_vendor_takes(name):
    call = ToolUseBlock("c1", "functions.look", {})
    result = ToolResultBlock("c1", (TextBlock("There is no such tool."),), is_error=True)
    speaker = SPEAKERS[name]
    history = [HI, Message("assistant", (call,), origin="elsewhere"), Message("user", (result,))]
    body = json.loads(speaker.provider().encode(Request(messages=history)))

    speaker.check(body, set())


@everybody
def test_an_image_stays_where_the_next_vendor_can_see_it_and_is_refused_where_not(name):
    speaker = SPEAKERS[name]
    history = [Message("user", (TextBlock("What is it?"), PNG)), Message("assistant", (TextBlock("A cat."),)), GO_ON]
    if name == "deepseek":
        with pytest.raises(ProviderError, match="this image: deepseek takes nothing but text") as caught:
            speaker.provider().encode(Request(messages=history))
        assert caught.value.kind == "invalid_request"
    else:
        assert any(
            base64.b64encode(PNG.data).decode() in text for text in strings(sent(speaker, speaker.provider(), history))
        )


@everybody
@pytest.mark.parametrize("block", MEDIA.values(), ids=MEDIA)
def test_what_a_tool_brought_never_stops_the_next_vendor(name, block):
    call = ToolUseBlock("call_1", "look", {})
    result = ToolResultBlock("call_1", (TextBlock("Here:"), block), name="look")
    history = [HI, Message("assistant", (call,), origin="elsewhere"), Message("user", (result,))]
    speaker = SPEAKERS[name]
    body = json.loads(speaker.provider().encode(Request(messages=history)))

    speaker.check(body, set())
    assert any("Here:" in text for text in strings(body))
    told = block.url or base64.b64encode(block.data).decode()
    assert any(told in text or block.media_type in text for text in strings(body))


@everybody
def test_what_another_model_painted_is_shown_or_at_least_mentioned(name):
    speaker = SPEAKERS[name]
    history = [HI, Message("assistant", (TextBlock("Look:"), PNG), origin="elsewhere"), GO_ON]

    assert any("image/png" in text for text in strings(sent(speaker, speaker.provider(), history)))


# --- Through the loop ------------------------------------------------------------------------------------------------


class Server:
    """Answers each request with the next recording, and keeps what it was asked."""

    def __init__(self):
        self.url = ""
        self.answers = []
        self.bodies = []

    def provider(self, name):
        """The adapter, which speaks to this server; each has an address of its own."""
        return SPEAKERS[name].provider(base_url=f"{self.url}/{name}")

    async def serve(self, connection):
        async with connection:
            while head := await self._head(connection):
                body = head[1]
                while len(body) < int(head[0]["content-length"]):
                    body += await connection.receive()
                self.bodies.append(json.loads(body))
                answer, media_type = self.answers.pop(0)
                await connection.send(
                    f"HTTP/1.1 200 OK\r\ncontent-type: {media_type}\r\ncontent-length: {len(answer)}\r\n\r\n".encode()
                    + answer
                )

    @staticmethod
    async def _head(connection):
        data = b""
        while b"\r\n\r\n" not in data:
            try:
                data += await connection.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return None
        head, _, body = data.partition(b"\r\n\r\n")
        lines = [line.partition(":") for line in head.decode().splitlines()[1:]]
        return {name.lower(): value.strip() for name, _, value in lines}, body


@asynccontextmanager
async def serving():
    server = Server()
    with anyio.fail_after(10):
        async with (
            await anyio.create_tcp_listener(local_host="127.0.0.1") as listener,
            anyio.create_task_group() as tasks,
        ):
            server.url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}"
            tasks.start_soon(listener.serve, server.serve)
            yield server
            tasks.cancel_scope.cancel()


def tools_of(*speakers):
    """Tools of the names that are called in recordings."""
    calls = [call for one in speakers for call in decoded(one.provider(), one.calling, []).tool_uses]
    return [
        alloy.Tool(name=name, description="A tool.", function=lambda arguments, context: "Done.")
        for name in sorted({call.name for call in calls})
    ]


@pytest.mark.anyio
@pytest.mark.parametrize(("first", "second"), NEIGHBOURS)
async def test_a_run_goes_on_with_another_provider_and_back_with_the_first(first, second):
    one, other = SPEAKERS[first], SPEAKERS[second]
    config = alloy.Config(tools=tools_of(one, other), on_event=Recorder())
    async with serving() as server:
        runs, messages = [], ()
        for speaker in (one, other, one):
            server.answers = [recorded(speaker.calling), recorded(speaker.saying)]
            provider = server.provider(speaker.name)
            result = await alloy.run("Go on.", config, provider=provider, messages=messages)
            runs.append((provider, server.bodies[-2:], messages))
            messages = result.messages
            assert result.text == result.messages[-1].text
            assert result.status == "completed"

    (at_one, (_, second_body), _), (_, (switched, _), so_far), (_, (back, _), all_of_it) = runs
    first_answers = [message for message in so_far if message.role == "assistant"]
    assert {message.origin for message in first_answers} == {at_one.origin}
    other.check(switched, set())
    assert not {text for text in nobody_elses(first_answers) if any(text in said for said in strings(switched))}
    assert one.turns(back)[: len(one.turns(second_body))] == one.turns(second_body)
    assert recorded_signatures(one.calling) <= set(strings(back))
    check_history(all_of_it)


@pytest.mark.anyio
@pytest.mark.parametrize("name", ["anthropic", "openai", "gemini", "deepseek"])
async def test_a_run_that_broke_off_goes_on_elsewhere_with_what_was_seen(name):
    speaker = SPEAKERS["anthropic"]
    stream, media_type = recorded(speaker.calling)
    async with serving() as server:
        server.answers = [(stream[: stream.index(b'"tool_use"')], media_type), recorded(SPEAKERS[name].saying)]
        with pytest.raises(RunError) as caught:
            await alloy.run("Hello", provider=server.provider("anthropic"), on_event=Recorder(), max_retries=0)
        seen = caught.value.result.messages
        result = await alloy.run("Go on.", provider=server.provider(name), on_event=Recorder(), messages=seen)

    assert seen[-1].interrupted
    assert seen[-1].text in strings(server.bodies[-1])
    SPEAKERS[name].check(server.bodies[-1], set())
    assert result.status == "completed"


@pytest.mark.anyio
async def test_what_the_next_vendor_cannot_take_fails_before_anything_is_sent():
    history = [Message("user", (MEDIA["audio"],)), Message("assistant", (TextBlock("A dog barks."),))]
    async with serving() as server:
        with pytest.raises(RunError) as caught:
            await alloy.run("How loud?", provider=server.provider("anthropic"), messages=history)

    assert (caught.value.__cause__.kind, server.bodies) == ("invalid_request", [])
    assert "audio" in str(caught.value)
