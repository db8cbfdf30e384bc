"""Whatever a vendor may have cached of a request stands at the beginning of the next one, byte for byte.

Vendors cache what a request says to the model: tools, system prompt and messages, in that order. How long the answer may be and whether
it is streamed isn't among it. Breakpoints, which move, aren't either, so they are taken out before anything is compared.
"""

from __future__ import annotations

import itertools
import json

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

import alloy
from alloy.errors import InvalidOptionError
from alloy.messages import (
    ImageBlock,
    Message,
    TextBlock,
    ToolResultBlock,
    ToolUseBlock,
    as_user_message,
    messages_from_json,
    messages_to_json,
)
from alloy.providers import XAI, Anthropic, ChatCompletions, Gemini, OpenAI
from alloy.providers.base import Request, ToolSpec
from alloy.providers.compat import HOSTS, UNKNOWN_HOST
from tests.providers.conversations import SPEAKERS, conversation
from tests.providers.histories import histories

KEY = "key-0123456789"
ADAPTERS = {
    "anthropic": lambda **settings: Anthropic("claude-sonnet-5-5", KEY, **settings),
    "openai": lambda **settings: OpenAI("gpt-6.1-sol", KEY, **settings),
    "xai": lambda **settings: XAI("grok-4.7", KEY, **settings),
    "gemini": lambda **settings: Gemini("gemini-3.8-flash", KEY, **settings),
} | {
    f"chat at {name}": lambda name=name, **settings: ChatCompletions(
        "anthropic/claude-sonnet-5-5" if name == "openrouter" else "a-model",
        KEY,
        HOSTS[name].base_url or "https://mine.openai.azure.com/openai/v1",
        compat=name,
        **settings,
    )
    for name in HOSTS
}
every_adapter = pytest.mark.parametrize("name", ADAPTERS)
HI = as_user_message("Hi")
SCHEMA = {"type": "object", "properties": {"zone": {"type": "string"}, "at": {"type": "string"}}}
TOOLS = tuple(ToolSpec(name, f"Tool {name}.", SCHEMA) for name in ("look", "go", "add"))
MARK = b',"cache_control":{"type":"ephemeral"}'


def parts(body):
    """What stands before the end of the messages, and what stands behind them."""
    text = body.replace(MARK, b"").decode()
    if not text.startswith('{"contents":'):
        return text[:-2], text[-2:]
    _, end = json.JSONDecoder().raw_decode(text, len('{"contents":'))
    return text[: end - 1], text[end - 1 :]


def goes_on(before, after):
    """Whether a request begins with all of what the one before said."""
    (said, rest), (said_then, rest_then) = parts(before), parts(after)
    return said_then.startswith(said + ",") and rest_then == rest


def restarted(messages):
    return messages_from_json(messages_to_json(messages))


def asked(messages):
    """The histories that were sent on the way to this one: all before an answer that says something, and the last."""
    said = (TextBlock, ToolUseBlock)
    ends = [
        end
        for end, message in enumerate(messages)
        if message.role == "assistant" and any(isinstance(block, said) for block in message.content)
    ]
    return [messages[:end] for end in [*ends, len(messages)]]


# --- Bytes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SPEAKERS)
def test_recorded_answers_and_what_follows_go_on_from_the_bytes_that_were_sent(name):
    speaker = SPEAKERS[name]
    provider = speaker.provider()
    history = conversation(speaker, provider, conversation(speaker, provider))
    bodies = [provider.encode(Request(messages=one, system="Be brief.", tools=TOOLS)) for one in asked(history)]

    assert len(bodies) == 5
    assert all(itertools.starmap(goes_on, itertools.pairwise(bodies)))
    again = speaker.provider()
    restored = [restarted(one) for one in asked(history)]
    assert [again.encode(Request(messages=one, system="Be brief.", tools=TOOLS)) for one in restored] == bodies


@pytest.mark.parametrize(
    "name", ["anthropic", "openai", "gemini", "chat at openai", "chat at deepseek", "chat at mistral"]
)
@given(data=st.data())
def test_any_conversation_goes_on_from_the_bytes_that_were_sent_also_after_a_restart(name, data):
    provider, again = ADAPTERS[name](), ADAPTERS[name]()
    history = data.draw(histories(provider.origin))
    if name == "chat at deepseek":
        history = tuple(map(without_media, history))
    bodies = [provider.encode(Request(messages=one, system="Be brief.", tools=TOOLS)) for one in asked(history)]

    assert all(itertools.starmap(goes_on, itertools.pairwise(bodies)))
    for one, body in zip(asked(history), bodies, strict=True):
        assert again.encode(Request(messages=restarted(one), system="Be brief.", tools=TOOLS)) == body


def without_media(message):
    """The message as a host that takes nothing but text could be sent it."""
    kept = (*(block for block in message.content if block.type not in ("image", "document")), TextBlock("So."))
    return Message(message.role, kept, origin=message.origin, interrupted=message.interrupted)


@every_adapter
def test_tools_go_in_the_order_in_which_they_are_given_with_their_schemas_as_they_are(name):
    body = ADAPTERS[name]().encode(Request(messages=[HI], tools=TOOLS)).decode()

    found = [body.index(f'"{word}","description"') for word in ("look", "go", "add")]
    assert found == sorted(found)
    assert body.index('"zone"') < body.index('"at"')


LIMITS = {"stream", "stream_options", "max_tokens", "max_output_tokens", "max_completion_tokens"}


@every_adapter
def test_how_long_an_answer_may_be_and_who_watches_changes_nothing_that_is_cached(name):
    def cached(**how):
        body = json.loads(provider.encode(Request(messages=[HI], system="Be brief.", tools=TOOLS, **how)))
        body.get("generationConfig", {}).pop("maxOutputTokens", None)
        return {field: value for field, value in body.items() if field not in LIMITS and value}

    provider = ADAPTERS[name]()

    assert cached(stream=False, caller="a") == cached(stream=True, max_tokens=2000, caller="b", priority="batch")


# --- Runs ------------------------------------------------------------------------------------------------------------

CALLS = {
    "anthropic": lambda n: {
        "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": f"s{n}"},
            *({"type": "tool_use", "id": f"t{n}{k}", "name": "look", "input": {"at": f"é{k}"}} for k in "ab"),
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 7, "output_tokens": 5},
    },
    "responses": lambda n: {
        "status": "completed",
        "output": [
            {"type": "reasoning", "id": f"rs_{n}", "summary": [], "encrypted_content": "e"},
            *(
                {"type": "function_call", "id": f"fc_{n}{k}", "call_id": f"c{n}{k}", "name": "look", "arguments": '{"at": "é"}'}
                for k in "ab"
            ),
        ],
        "usage": {"input_tokens": 7, "output_tokens": 5},
    },
    "gemini": lambda n: {
        "candidates": [
            {
                "content": {"parts": [{"functionCall": {"name": "look", "args": {"at": f"{n}{k}"}}} for k in "ab"]},
                "finishReason": "STOP",
            }
        ],
        "usageMetadata": {"promptTokenCount": 7, "candidatesTokenCount": 5},
    },
    "chat": lambda n: {
        "choices": [
            {
                "message": {
                    "reasoning_content": "Hm.",
                    "tool_calls": [
                        {"id": f"c{n}{k}", "function": {"name": "look", "arguments": '{"at": "é"}'}} for k in "ab"
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 7, "completion_tokens": 5},
    },
}  # fmt: skip
TEXT = {
    "anthropic": {"content": [{"type": "text", "text": "Done."}], "stop_reason": "end_turn", "usage": {"input_tokens": 7}},
    "responses": {
        "status": "completed",
        "output": [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Done."}]}],
        "usage": {"input_tokens": 7},
    },
    "gemini": {"candidates": [{"content": {"parts": [{"text": "Done."}]}, "finishReason": "STOP"}], "usageMetadata": {"promptTokenCount": 7}},
    "chat": {"choices": [{"message": {"content": "Done."}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 7}},
}  # fmt: skip


@alloy.tool
async def look(at: str) -> str:
    """Looks."""
    return f"Nothing at {at}."


async def bodies_of(name, *, prompts=3, rounds=3):
    """What is sent by several runs of one conversation, each with tool rounds, and saved in between."""
    wire = {"openai": "responses", "xai": "responses"}.get(name, name if name in CALLS else "chat")
    bodies = []

    def respond(request):
        bodies.append(request.content)
        done = len(bodies) % (rounds + 1) == 0
        return httpx.Response(200, json=TEXT[wire] if done else CALLS[wire](len(bodies)))

    messages = ()
    async with httpx.AsyncClient(transport=httpx.MockTransport(respond)) as client:
        for prompt in range(prompts):
            provider = ADAPTERS[name](client=client)
            with anyio.fail_after(10):
                result = await alloy.run(
                    f"Prompt {prompt}", provider=provider, system_prompt="Be brief.", tools=[look], messages=messages
                )
            messages = restarted(result.messages)
    assert len(bodies) == prompts * (rounds + 1)
    return bodies


@pytest.mark.anyio
@every_adapter
async def test_every_request_of_a_conversation_begins_with_the_one_before(name):
    bodies = await bodies_of(name)

    assert all(itertools.starmap(goes_on, itertools.pairwise(bodies)))


@pytest.mark.anyio
@every_adapter
async def test_nothing_that_is_sent_depends_on_when_or_by_whom(name):
    assert await bodies_of(name) == await bodies_of(name)


# --- Breakpoints -----------------------------------------------------------------------------------------------------


class Cache:
    """Anthropic's: an entry for each breakpoint of a request, found by a later one's at most 20 blocks before it."""

    LOOKBACK = 20

    def __init__(self):
        self.entries = set()

    def read(self, body):
        """How many blocks a request reads, and how many it has."""
        turns = [[turn["role"], block] for turn in body["messages"] for block in turn["content"]]
        blocks = [["tool", tool] for tool in body.get("tools", [])] + [
            ["system", one] for one in body.get("system", [])
        ]
        marks, beginnings, beginning = [], [], ""
        for number, (role, block) in enumerate([*blocks, *turns]):
            if block.pop("cache_control", None):
                marks.append(number)
            beginning += json.dumps([role, block])
            beginnings.append(beginning)
        looked = {number for mark in marks for number in range(max(0, mark - self.LOOKBACK + 1), mark + 1)}
        read = max((number + 1 for number in looked if beginnings[number] in self.entries), default=0)
        self.entries |= {beginnings[mark] for mark in marks}
        return read, len(beginnings)


@pytest.mark.parametrize("calls", [1, 15, 60])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_claude_reads_all_of_the_request_before_however_many_calls_an_answer_makes(calls, system):
    cache, provider, history, before = Cache(), ADAPTERS["anthropic"](), [HI], 0
    for turn in range(5):
        request = Request(messages=history, system=system, tools=TOOLS)
        read, blocks = cache.read(json.loads(provider.encode(request)))
        assert read == before
        before = blocks
        made = [ToolUseBlock(f"c{turn}_{number}", "look", {"at": "x"}) for number in range(calls)]
        results = [ToolResultBlock(call.id, (TextBlock("Nothing."),), name="look") for call in made]
        answer = Message("assistant", tuple(made), origin=provider.origin)
        history = [*history, answer, Message("user", tuple(results))]


@given(history=histories(ADAPTERS["anthropic"]().origin))
def test_claude_reads_all_of_the_request_before_in_any_conversation(history):
    cache, provider, before = Cache(), ADAPTERS["anthropic"](), 0
    for messages in asked(history):
        read, blocks = cache.read(json.loads(provider.encode(Request(messages=messages, system="S", tools=TOOLS))))
        assert read == before
        before = blocks


def test_claude_reads_the_tools_and_the_system_prompt_in_another_conversation_and_the_tools_under_another_prompt():
    cache, provider = Cache(), ADAPTERS["anthropic"]()

    def read(text, system):
        messages = [as_user_message(text)]
        return cache.read(json.loads(provider.encode(Request(messages=messages, system=system, tools=TOOLS))))[0]

    assert (read("Hi", "S"), read("Hello", "S"), read("Hi", "T")) == (0, 4, 3)


@pytest.mark.parametrize(
    ("model", "settings", "asked_for"),
    [
        ("anthropic/claude-sonnet-5-5", {}, {"type": "ephemeral"}),
        ("anthropic/claude-sonnet-5-5", {"cache": "1h"}, {"type": "ephemeral", "ttl": "1h"}),
        ("anthropic/claude-sonnet-5-5", {"cache": None}, None),
        ("openai/gpt-6.1-sol", {}, None),
    ],
)
def test_openrouter_is_asked_to_cache_what_claude_is_sent(model, settings, asked_for):
    provider = ChatCompletions(model, KEY, compat="openrouter", **settings)

    assert json.loads(provider.encode(Request(messages=[HI]))).get("cache_control") == asked_for


def test_who_caches_by_itself_cannot_be_asked_to():
    with pytest.raises(InvalidOptionError, match="cache"):
        ChatCompletions("a-model", KEY, compat="deepseek", cache="5m")
    with pytest.raises(InvalidOptionError, match="cache"):
        ChatCompletions("openai/gpt-6.1-sol", KEY, compat="openrouter", cache="1h")
    with pytest.raises(InvalidOptionError, match="cache"):
        ChatCompletions("anthropic/claude-sonnet-5-5", KEY, compat="openrouter", cache="2h")


# --- Keys ------------------------------------------------------------------------------------------------------------

KEYED = ["openai", "xai", "chat at openai", "chat at mistral"]


def key_of(provider, messages, system="Be brief.", **request):
    return json.loads(provider.encode(Request(messages=messages, system=system, **request))).get("prompt_cache_key")


@pytest.mark.parametrize("name", KEYED)
def test_a_conversation_has_a_key_of_its_own_from_its_first_request_on(name):
    provider = ADAPTERS[name]()
    later = [HI, Message("assistant", (TextBlock("Hello."),)), as_user_message("And now?")]
    shortened = [Message("user", (*HI.content, TextBlock("<conversation_summary>Hello.</conversation_summary>")))]
    key = key_of(provider, [HI])

    assert len(key) == 32
    assert {key_of(provider, later), key_of(ADAPTERS[name](), restarted(later)), key_of(provider, shortened)} == {key}
    assert key_of(provider, later, tools=TOOLS, caller="desk", max_tokens=5) == key
    others = [
        key_of(provider, [as_user_message("Hello")]),
        key_of(provider, [HI], "Be long."),
        key_of(provider, [HI], None),
    ]
    pictures = [key_of(provider, [Message("user", (ImageBlock("image/png", data),))]) for data in (b"a", b"b")]
    assert len({key, *others, *pictures}) == 6


@pytest.mark.parametrize("name", KEYED)
def test_a_key_can_be_chosen_and_left_out(name):
    assert key_of(ADAPTERS[name](prompt_cache_key="mine"), [HI]) == "mine"
    assert key_of(ADAPTERS[name](extra_body={"prompt_cache_key": "mine"}), [HI]) == "mine"
    assert b"prompt_cache_key" not in ADAPTERS[name](prompt_cache_key=None).encode(Request(messages=[HI]))


@pytest.mark.parametrize("name", sorted(ADAPTERS.keys() - set(KEYED)))
def test_who_is_not_known_to_take_a_key_gets_none(name):
    assert key_of(ADAPTERS[name](), [HI]) is None


def test_another_host_gets_a_key_only_if_one_is_given(monkeypatch):
    elsewhere = "http://somewhere.test/v1"

    assert key_of(OpenAI("m", KEY, elsewhere), [HI]) is None
    assert key_of(OpenAI("m", KEY, elsewhere, prompt_cache_key="mine"), [HI]) == "mine"
    assert key_of(ChatCompletions("m", KEY, elsewhere), [HI]) is None
    assert key_of(ChatCompletions("m", KEY, elsewhere, compat="openai"), [HI]) is not None
    monkeypatch.setenv("OPENAI_BASE_URL", elsewhere)
    assert key_of(OpenAI("m", KEY), [HI]) is None
    assert key_of(ChatCompletions("m", KEY), [HI]) is None
    assert key_of(ChatCompletions("m", KEY, compat="openai"), [HI]) is None
    assert UNKNOWN_HOST.cache_key is False


def test_a_conversation_that_does_not_begin_with_words_has_a_key_too():
    result = Message("user", (ToolResultBlock("c1", (TextBlock("x"),)),))

    assert len(key_of(ADAPTERS["openai"](), [result])) == 32
