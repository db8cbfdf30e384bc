"""The Responses API: what is sent, and what no recording holds."""

from __future__ import annotations

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy.errors import InvalidOptionError, MissingKeyError, ProviderError, UnknownOptionError
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    Message,
    RawBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
    as_user_message,
)
from alloy.providers import ChatCompletions, from_string
from alloy.providers.base import Provider, Request, TextDelta, ThinkingDelta, ToolCallDelta, ToolSpec
from alloy.providers.errors import error_from_response
from alloy.providers.openai import ENCRYPTED, OpenAI
from alloy.providers.sse import ServerEvent
from alloy.providers.xai import XAI
from tests.providers import rules_openai
from tests.providers.histories import TEXTS, requests

URL = "http://somewhere.test/v1"
HI = as_user_message("Hi")
LOOK = ToolSpec("look", "Looks.", {"type": "object", "properties": {"at": {"type": "string"}}})


def provider(model="gpt-6.1-sol", **settings):
    return OpenAI(model, "sk-0123456789", URL, **settings)


def sent(messages=(HI,), *, to=None, **request):
    return json.loads((to or provider()).encode(Request(messages=messages, **request)))


def items(*messages, **options):
    return sent(messages, **options)["input"]


def result(call_id, *content, **options):
    return ToolResultBlock(call_id, tuple(TextBlock(c) if isinstance(c, str) else c for c in content), **options)


def said(text, **more):
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text} | more]}


def reasoning(number=1, **more):
    return {"type": "reasoning", "id": f"rs_{number}", "summary": [], "encrypted_content": "sealed"} | more


def call(call_id="c1", name="look", arguments="{}", **more):
    return {"type": "function_call", "id": "fc_1", "call_id": call_id, "name": name, "arguments": arguments} | more


def whole(*output, to=None, tools=(), **response):
    """The completion that a response object becomes."""
    decoder = (to or provider()).decoder(Request(messages=[HI], tools=tools))
    return decoder.whole({"object": "response", "status": "completed", "output": list(output)} | response)


def streamed(*events, to=None, tools=(), history=(HI,)):
    """The deltas and the completion of a stream of these events."""
    decoder = (to or provider()).decoder(Request(messages=history, tools=tools))
    deltas = [delta for event in events for delta in decoder.feed(ServerEvent(json.dumps(event)))]
    return deltas, decoder.end()


def added(index, item):
    return {"type": "response.output_item.added", "output_index": index, "item": item}


def done(index, item):
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def delta(kind, index, text, **more):
    return {"type": f"response.{kind}.delta", "output_index": index, "delta": text} | more


def end(kind="completed", **response):
    return {"type": f"response.{kind}", "response": {"status": kind, "output": []} | response}


# --- What is sent ----------------------------------------------------------------------------------------------------


def test_a_request_holds_the_whole_history_and_nothing_is_stored():
    history = [
        HI,
        Message("assistant", (TextBlock("Looking."), ToolUseBlock("c1", "look", {"at": "é"}))),
        Message("user", (result("c1", "a"), TextBlock("And?"))),
    ]

    assert sent(history, system="Be brief.", stream=True) == {
        "model": "gpt-6.1-sol",
        "store": False,
        "stream": True,
        "include": [ENCRYPTED],
        "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "Looking.", "annotations": []}],
            },
            {"type": "function_call", "call_id": "c1", "name": "look", "arguments": '{"at":"é"}'},
            {"type": "function_call_output", "call_id": "c1", "output": "a"},
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "And?"}]},
        ],
    }


def test_settings_are_fields_of_the_request():
    settings = {
        "max_output_tokens": 9,
        "reasoning": {"effort": "high", "summary": "auto", "mode": "pro", "context": "all_turns"},
        "text": {"format": {"type": "json_schema", "name": "a", "schema": {}, "strict": True}, "verbosity": "low"},
        "prompt_cache_key": "k",
        "prompt_cache_options": {"mode": "explicit", "ttl": "30m"},
        "service_tier": "flex",
        "metadata": {"a": "b"},
        "temperature": 0.5,
        "top_p": 0.9,
    }
    body = sent(to=provider(**settings, extra_body={"temperature": 1, "truncation": "auto"}))

    assert body.items() >= (settings | {"temperature": 1, "truncation": "auto"}).items()
    assert "max_output_tokens" not in sent()


@pytest.mark.parametrize(
    ("model", "settings", "included"),
    [
        ("gpt-6.1-sol", {}, [ENCRYPTED]),
        ("o4-mini", {"include": ["web_search_call.action.sources"]}, ["web_search_call.action.sources", ENCRYPTED]),
        ("gpt-6.1-sol", {"store": True}, None),
        ("gpt-4.1-mini", {}, None),
        ("openai/gpt-4o", {}, None),
        ("ft:gpt-4o:mine", {}, None),
        ("gpt-5.2-chat-latest", {}, None),
        ("grok-4-1-fast-non-reasoning", {}, None),
        ("gpt-6.1-sol", {"extra_body": {"include": []}}, []),
    ],
)
def test_encrypted_reasoning_is_asked_for_where_it_is_needed_and_taken(model, settings, included):
    assert sent(to=provider(model, **settings)).get("include") == included


@pytest.mark.parametrize("field", ["previous_response_id", "conversation"])
def test_the_whole_history_goes_with_no_reference_to_a_stored_one(field):
    with pytest.raises(InvalidOptionError, match=field):
        provider(extra_body={field: "resp_1"})


def test_tools_say_whether_they_are_strict_and_may_be_of_the_vendors_types():
    tools = (
        LOOK,
        ToolSpec("strictly", "", LOOK.input_schema, {"strict": True, "xai": {"strict": False}}),
        ToolSpec("sql", "Runs it.", {"properties": {"query": {}}}, {"type": "custom", "format": {"type": "text"}}),
        ToolSpec("shell", "", {}, {"openai": {"type": "shell"}}),
    )
    search = {"type": "web_search", "search_context_size": "low"}
    body = sent(to=provider(server_tools=[search], tool_choice="required"), tools=tools)

    function = {"type": "function", "name": "look", "description": "Looks.", "parameters": LOOK.input_schema}
    assert body["tools"] == [
        function | {"strict": False},
        function | {"name": "strictly", "description": "", "strict": True},
        {"type": "custom", "name": "sql", "description": "Runs it.", "format": {"type": "text"}},
        {"type": "shell"},
        search,
    ]
    assert body["tool_choice"] == "required"
    assert (
        sent(to=provider(tool_choice="required", parallel_tool_calls=False))
        .keys()
        .isdisjoint({"tools", "tool_choice", "parallel_tool_calls"})
    )


def test_media_are_sent_as_the_api_takes_them():
    data = b"\x89PNG"
    encoded = base64.b64encode(data).decode()
    blocks = (
        ImageBlock("image/png", data),
        ImageBlock("image/png", url="https://x.test/a.png"),
        AudioBlock("audio/mpeg", data),
        DocumentBlock("application/pdf", data, name="a.pdf"),
        DocumentBlock("application/pdf", url="https://x.test/a.pdf"),
        DocumentBlock("text/plain", b"words", name="a.txt"),
    )

    assert items(Message("user", blocks))[0]["content"] == [
        {"type": "input_image", "image_url": f"data:image/png;base64,{encoded}"},
        {"type": "input_image", "image_url": "https://x.test/a.png"},
        {"type": "input_audio", "input_audio": {"data": encoded, "format": "mp3"}},
        {"type": "input_file", "filename": "a.pdf", "file_data": f"data:application/pdf;base64,{encoded}"},
        {"type": "input_file", "file_url": "https://x.test/a.pdf"},
        {"type": "input_text", "text": "a.txt:\n\nwords"},
    ]


@pytest.mark.parametrize("block", [VideoBlock("video/mp4", b"x"), AudioBlock("audio/wav", url="https://x.test/a.wav")])
def test_media_that_the_api_cannot_take_are_refused_before_sending(block):
    with pytest.raises(ProviderError) as caught:
        sent([Message("user", (block,))])

    assert caught.value.kind == "invalid_request"


@pytest.mark.parametrize(
    ("block", "output"),
    [
        (result("c", "a", "b"), "a\n\nb"),
        (result("c", "gone", is_error=True), "Error: gone"),
        (result("c", "Error: gone", is_error=True), "Error: gone"),
        (result("c", AudioBlock("audio/wav", b"x")), "(audio of type audio/wav, which can't be shown here)"),
        (
            result("c", "a", ImageBlock("image/png", b"x"), is_error=True),
            [
                {"type": "input_text", "text": "Error:"},
                {"type": "input_text", "text": "a"},
                {"type": "input_image", "image_url": "data:image/png;base64,eA=="},
            ],
        ),
        (
            result("c", DocumentBlock("application/pdf", b"x", name="a.pdf")),
            [{"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,eA=="}],
        ),
    ],
)
def test_results_of_tools_hold_text_images_and_files(block, output):
    assert items(HI, Message("assistant", (ToolUseBlock("c", "look"),)), Message("user", (block,)))[-1] == {
        "type": "function_call_output",
        "call_id": "c",
        "output": output,
    }


def test_of_an_answer_of_another_provider_text_and_calls_are_sent():
    blocks = (
        ThinkingBlock("Hm.", "signed", extra={"item": reasoning()}),
        TextBlock("Look", extra={"item": {"type": "message", "id": "msg_1"}, "part": {"type": "refusal"}}),
        ImageBlock("image/png", b"x"),
        ServerToolUseBlock("s", "search", {}, {"type": "web_search_call"}),
        RawBlock("compaction", {"type": "compaction"}),
        ToolUseBlock("functions.look:0", "files.look", extra={"item": {"id": "fc_1"}}),
    )
    answer = Message("assistant", blocks, origin="elsewhere")
    text, image, function, output = items(HI, answer, Message("user", (result("functions.look:0", "x"),)))[1:]

    assert text["content"][0]["text"] == "Look"
    assert image["content"][0]["text"] == "(image of type image/png, made by another model)"
    assert function == {
        "type": "function_call",
        "call_id": output["call_id"],
        "name": "files_look",
        "arguments": "{}",
    }
    assert len(output["call_id"]) == 24


def test_what_was_seen_of_a_broken_off_answer_is_sent_as_text():
    own = provider()
    cut = Message("assistant", (TextBlock("So f"),), origin=own.origin, interrupted=True)

    assert items(HI, cut, HI, to=own)[1]["content"] == [{"type": "output_text", "text": "So f", "annotations": []}]


def own_blocks():
    """Blocks of answers of its own, as its decoder makes them, and some that a session may have lost parts of."""
    item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "phase": "commentary"}
    text = {"type": "output_text", "annotations": [], "logprobs": []}
    made = [
        *whole(reasoning(2), said("Hm.") | {"phase": "final_answer"}).message.content,
        *whole({"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {}}).message.content,
        *whole(reasoning(4), said("")).message.content,
        ThinkingBlock("Hm.", "sealed", extra={"item": {"type": "reasoning", "id": "rs_1", "summary": []}}),
        ThinkingBlock("Hm.", extra={"item": {"type": "reasoning", "id": "rs_3", "summary": []}}),
        ThinkingBlock("Hm.", "sealed"),
        ThinkingBlock("Hm."),
        TextBlock("One.", extra={"item": item, "part": text}),
        TextBlock("Two.", extra={"part": text}),
        TextBlock("No.", extra={"part": {"type": "refusal"}}),
        RawBlock("compaction", {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}),
    ]
    return TEXTS | st.sampled_from(made)


@pytest.mark.parametrize("model", ["gpt-6.1-sol", "gpt-4.1"])
def test_whatever_is_sent_keeps_the_rules(model):
    asked = provider(model)

    @given(requests(asked.origin, own=own_blocks(), own_call_id="call_{}"))
    def keeps(request):
        body = json.loads(asked.encode(request))
        rules_openai.check(body)
        if model == "gpt-4.1":
            assert all(item["type"] != "reasoning" for item in body["input"])

    keeps()


def test_the_checker_sees_what_the_api_would_refuse():
    good = sent([HI, Message("assistant", (ToolUseBlock("c", "look"),)), Message("user", (result("c", "x"),))])
    rules_openai.check(good)
    user, function, output = good["input"]
    for wrong in (
        [user, function],
        [user, output],
        [user, function, output, output],
        [user, function | {"arguments": "["}, output],
        [user, function | {"call_id": "x" * 65}, output | {"call_id": "x" * 65}],
        [user, reasoning()],
        [user, reasoning(), user],
        [user, {"type": "reasoning", "summary": []}, said("Hm.")],
        [user | {"content": []}],
    ):
        with pytest.raises(AssertionError):
            rules_openai.check(good | {"input": wrong})


# --- What goes back --------------------------------------------------------------------------------------------------


def back(*output, to=None, tools=(), results=(), **response):
    """The items that an answer becomes in the next request, without the turns around it."""
    asked = to or provider()
    message = whole(*output, to=asked, tools=tools, **response).message
    history = [HI, message, *([Message("user", tuple(results))] if results else []), HI]
    return items(*history, to=asked, tools=tools)[1:-1]


def test_reasoning_goes_back_only_where_it_can_be_read():
    plain = reasoning(content=[{"type": "reasoning_text", "text": "Hm."}], encrypted_content=None)
    bare = {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]}

    assert back(reasoning(), said("a")) == [reasoning(), said("a")]
    assert back(plain, said("a")) == [plain, said("a")]
    assert back(bare, said("a")) == [said("a")]
    assert back(bare, said("a"), to=provider(store=True)) == [bare, said("a")]
    assert back(reasoning(), said("a") | {"id": "msg_1"}, to=provider("gpt-4.1")) == [said("a", annotations=[])]


def test_reasoning_that_led_to_nothing_stays_behind():
    assert back(reasoning(), status="incomplete", incomplete_details={"reason": "max_output_tokens"}) == []
    assert back(reasoning(1), said("a"), reasoning(2)) == [reasoning(1), said("a")]


def test_what_reasoning_led_to_goes_back_even_if_it_is_blank():
    assert back(reasoning(), said("")) == [reasoning(), said("")]


def test_a_message_of_several_parts_stays_one_message():
    parts = [{"type": "output_text", "text": "a"}, {"type": "refusal", "refusal": "b"}]
    message = {"type": "message", "id": "msg_1", "role": "assistant", "phase": "commentary", "content": parts}

    assert back(message, said("c")) == [message, said("c")]


def test_arguments_go_back_as_the_model_wrote_them():
    assert back(call(arguments='{ "at": 1 }'), results=[result("c1", "x")])[0]["arguments"] == '{ "at": 1 }'
    assert back(call(arguments=""), results=[result("c1", "x")])[0]["arguments"] == "{}"
    assert back(call(arguments='{"at'), results=[result("c1", "x")])[0]["arguments"] == "{}"


def test_a_custom_tool_is_called_with_a_text_and_answered_in_kind():
    sql = ToolSpec(
        "sql", "Runs it.", {"type": "object", "properties": {"query": {"type": "string"}}}, {"type": "custom"}
    )
    item = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "sql", "input": "SELECT 1"}
    deltas, completion = streamed(
        added(0, item | {"input": ""}),
        delta("custom_tool_call_input", 0, "SELECT 1"),
        done(0, item),
        end(),
        tools=(sql,),
    )
    (made,) = completion.message.tool_uses

    assert (made.name, dict(made.input), completion.stop_reason) == ("sql", {"query": "SELECT 1"}, "tool_use")
    assert deltas == [ToolCallDelta(0, "c1", "sql", '{"query":"SELECT 1"}')]
    assert back(item, tools=(sql,), results=[result("c1", "1")]) == [
        item,
        {"type": "custom_tool_call_output", "call_id": "c1", "output": "1"},
    ]


def test_a_custom_call_that_is_nobodys_here_is_the_vendors():
    item = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "c1", "name": "x_search", "input": "{}"}
    completion = whole(item, said("Found."))

    assert completion.stop_reason == "end_turn"
    assert not completion.message.tool_uses
    assert back(item, said("Found.")) == [item, said("Found.")]


@pytest.mark.parametrize(
    ("item", "name", "arguments", "output"),
    [
        (
            {"type": "apply_patch_call", "operation": {"type": "delete_file", "path": "a"}},
            "apply_patch",
            {"type": "delete_file", "path": "a"},
            {"status": "failed", "output": "gone"},
        ),
        (
            {"type": "local_shell_call", "action": {"command": ["ls"]}},
            "local_shell",
            {"command": ["ls"]},
            {"output": "gone"},
        ),
        (
            {"type": "shell_call", "action": {"commands": ["ls"]}, "environment": {"type": "local"}},
            "shell",
            {"commands": ["ls"]},
            {"output": [{"stdout": "", "stderr": "gone", "outcome": {"type": "exit", "exit_code": 1}}]},
        ),
    ],
)
def test_native_tools_that_the_application_runs_are_calls(item, name, arguments, output):
    item = item | {"id": "x_1", "call_id": "c1", "status": "completed"}
    completion = whole(item)
    (made,) = completion.message.tool_uses

    assert (made.id, made.name, dict(made.input), completion.stop_reason) == ("c1", name, arguments, "tool_use")
    assert back(item, results=[result("c1", "gone", is_error=True)]) == [
        item,
        {"type": f"{item['type']}_output", "call_id": "c1"} | output,
    ]


@pytest.mark.parametrize(
    "output",
    [
        [{"type": "shell_call", "call_id": "c1", "action": {}, "environment": {"type": "container_auto"}}],
        [{"type": "shell_call", "call_id": "c1", "action": {}}, {"type": "shell_call_output", "call_id": "c1"}],
    ],
    ids=["in a container", "answered"],
)
def test_a_shell_of_the_vendors_is_not_ours_to_answer(output):
    completion = whole(*output)

    assert completion.stop_reason == "end_turn"
    assert not completion.message.tool_uses
    assert back(*output) == output


def test_the_result_of_a_call_that_a_program_made_names_its_caller():
    caller = {"type": "program", "caller_id": "p1"}

    assert back(call(caller=caller), results=[result("c1", "x")])[1] == {
        "type": "function_call_output",
        "call_id": "c1",
        "output": "x",
        "caller": caller,
    }


def test_the_second_call_of_one_id_gets_an_id_of_its_own_that_its_result_has_too():
    asked = provider()
    first = whole(call(), to=asked).message
    decoder = asked.decoder(Request(messages=[HI, first]))
    second = decoder.whole({"status": "completed", "output": [call()]}).message
    (again,) = second.tool_uses
    sent_items = items(
        HI, first, Message("user", (result("c1", "x"),)), second, Message("user", (result(again.id, "y"),)), to=asked
    )

    assert [item["call_id"] for item in sent_items[1:]] == ["c1", "c1", again.id, again.id]
    assert again.id != "c1"


def test_an_image_that_was_made_can_be_seen_and_goes_back_once():
    item = {
        "type": "image_generation_call",
        "id": "ig_1",
        "result": "eA==",
        "output_format": "webp",
        "status": "completed",
    }
    _, image = whole(item).message.content

    assert image == ImageBlock("image/webp", b"x")
    assert back(item) == [item]


# --- Streams ---------------------------------------------------------------------------------------------------------


def test_items_that_end_out_of_order_stay_in_their_places():
    a, b = call("c1", arguments='{"at":1}', id="fc_1"), call("c2", arguments='{"at":2}', id="fc_2")
    deltas, completion = streamed(
        added(0, a | {"arguments": ""}),
        added(1, b | {"arguments": ""}),
        delta("function_call_arguments", 1, '{"at"'),
        delta("function_call_arguments", 0, '{"at":1}'),
        delta("function_call_arguments", 1, ":2}"),
        done(1, b),
        done(0, a),
        end(),
    )

    assert [(c.id, c.input["at"]) for c in completion.message.tool_uses] == [("c1", 1), ("c2", 2)]
    assert [(d.index, d.id, d.arguments) for d in deltas] == [
        (0, "c1", ""),
        (1, "c2", ""),
        (1, "c2", '{"at"'),
        (0, "c1", '{"at":1}'),
        (1, "c2", ":2}"),
    ]


def test_items_that_come_out_of_order_stand_in_theirs():
    _, completion = streamed(done(1, said("b")), done(0, reasoning()), end())

    assert [type(block) for block in completion.message.content] == [ThinkingBlock, TextBlock]


def test_encrypted_reasoning_is_taken_from_the_item_that_is_done():
    _, completion = streamed(
        added(0, reasoning(encrypted_content="begun")), done(0, reasoning()), done(1, said("a")), end()
    )

    assert completion.message.content[0].signature == "sealed"


@pytest.mark.parametrize("output", [[], [reasoning(), said("Yes.")]], ids=["empty", "whole"])
def test_the_items_of_the_stream_and_of_its_end_are_the_same(output):
    deltas, completion = streamed(
        added(0, reasoning()), done(0, reasoning()), added(1, said("")), done(1, said("Yes.")), end(output=output)
    )

    assert [type(block) for block in completion.message.content] == [ThinkingBlock, TextBlock]
    assert deltas == [TextDelta("Yes.")]


def test_a_stream_that_holds_nothing_but_its_end_is_an_answer():
    deltas, completion = streamed(end(output=[reasoning(summary=[{"text": "Hm."}]), said("Yes."), call()]))

    assert deltas == [
        ThinkingDelta("Hm."),
        TextDelta("Yes."),
        ToolCallDelta(0, "c1", "look", ""),
        ToolCallDelta(0, "c1", "look", "{}"),
    ]
    assert completion.message.text == "Yes."


def test_an_item_whose_end_was_never_told_is_what_was_streamed_of_it():
    _, completion = streamed(
        added(0, said("") | {"content": []}),
        delta("output_text", 0, "So f"),
        added(1, call(arguments="")),
        delta("function_call_arguments", 1, '{"at":1}'),
        end("incomplete", incomplete_details={"reason": "max_output_tokens"}),
    )

    assert completion.message.text == "So f"
    assert dict(completion.message.tool_uses[0].input) == {"at": 1}
    assert completion.stop_reason == "max_tokens"


def test_events_without_places_belong_to_their_items():
    def bare(event):
        return {name: value for name, value in event.items() if name != "output_index"}

    a, b = said("a") | {"id": "m1"}, said("b") | {"id": "m2"}
    deltas, completion = streamed(
        bare(added(0, a | {"content": []})),
        bare(delta("output_text", 0, "a", item_id="m1")),
        bare(done(0, a)),
        bare(added(1, b | {"content": []})),
        bare(delta("output_text", 1, "b", item_id="m2")),
        bare(done(1, b)),
        end(output=[a, b]),
    )

    assert completion.message.text == "ab"
    assert deltas == [TextDelta("a"), TextDelta("b")]


def test_parts_of_a_summary_are_told_apart():
    parts = [{"type": "summary_text", "text": text} for text in ("One.", "Two.")]
    deltas, completion = streamed(
        added(0, reasoning()),
        delta("reasoning_summary_text", 0, "One.", summary_index=0),
        delta("reasoning_summary_text", 0, "Two", summary_index=1),
        delta("reasoning_summary_text", 0, ".", summary_index=1),
        done(0, reasoning(summary=parts)),
        done(1, said("a")),
        end(),
    )

    assert completion.message.content[0].text == "One.\n\nTwo."
    assert "".join(d.text for d in deltas if isinstance(d, ThinkingDelta)) == "One.\n\nTwo."


def test_blanks_are_shown_when_something_follows_them():
    deltas, completion = streamed(
        added(0, said("") | {"content": []}),
        delta("output_text", 0, "\n"),
        delta("output_text", 0, " a"),
        done(0, said("\n a")),
        end(),
    )

    assert deltas == [TextDelta("\n a")]
    assert completion.message.text == "\n a"


@pytest.mark.parametrize(
    "data", ["", "[DONE]", '{"type": "keepalive"}', '{"type": "response.new.thing", "delta": "x"}']
)
def test_events_that_end_nothing_are_no_end(data):
    decoder = provider().decoder(Request(messages=[HI]))
    list(decoder.feed(ServerEvent(json.dumps(done(0, said("a"))))))

    assert list(decoder.feed(ServerEvent(data))) == []
    with pytest.raises(ProviderError, match="middle") as caught:
        decoder.end()
    assert caught.value.kind == "network"


# --- How answers end -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reason", "stop"),
    [
        ("max_output_tokens", "max_tokens"),
        ("max_messages", "max_tokens"),
        ("content_filter", "refusal"),
        ("steered", "pause_turn"),
        ("something_new", "unknown"),
    ],
)
def test_an_incomplete_answer_says_why(reason, stop):
    completion = whole(said("a"), status="incomplete", incomplete_details={"reason": reason})

    assert (completion.stop_reason, completion.raw_stop_reason) == (stop, reason)


def test_a_refusal_says_what_it_says():
    completion = whole(said("") | {"content": [{"type": "refusal", "refusal": "I won't."}]})

    assert (completion.stop_reason, completion.detail, completion.message.text) == ("refusal", "I won't.", "I won't.")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": "server_error", "message": "Sorry."}, "server_error"),
        ({"code": "rate_limit_exceeded", "message": "Limit."}, "rate_limited"),
        ({"code": "insufficient_quota", "message": "You exceeded your current quota."}, "quota"),
        ({"code": "invalid_prompt", "message": "Flagged as violating our usage policy."}, "refused"),
        ({"code": "bio_policy", "message": "No."}, "refused"),
        ({"code": "misalignment_policy_violation", "message": "No."}, "refused"),
        ({"code": "failed_to_download_image", "message": "No."}, "invalid_request"),
        ({"code": "context_length_exceeded", "message": "Too long."}, "context_overflow"),
        ({"code": "server_is_overloaded", "message": "Busy."}, "overloaded"),
        ({"message": "Sorry."}, "server_error"),
    ],
)
def test_an_error_in_an_answer_has_a_kind(error, kind):
    for fails in (
        lambda: whole(status="failed", error=error),
        lambda: streamed(end("failed", error=error)),
        lambda: streamed({"type": "error", "sequence_number": 1} | error),
        lambda: streamed({"type": "error", "error": error}),
        lambda: streamed({"error": error}),
    ):
        with pytest.raises(ProviderError) as caught:
            fails()
        assert (caught.value.kind, caught.value.code) == (kind, error.get("code"))


@pytest.mark.parametrize("response", [{"status": "failed"}, {"status": "cancelled"}, {"status": "expired"}])
def test_an_answer_that_came_to_nothing_is_an_error(response):
    with pytest.raises(ProviderError):
        whole(**response)
    with pytest.raises(ProviderError):
        streamed(end(response["status"], **response))


@pytest.mark.parametrize("document", [[], "text", {}, {"detail": "No."}, {"error": "No."}])
def test_a_document_that_is_no_answer_is_an_error(document):
    with pytest.raises(ProviderError):
        provider().decoder(Request(messages=[HI])).whole(document)


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, {"code": "invalid-argument", "error": "This model's maximum prompt length is 9."}, "context_overflow"),
        (429, {"error": {"code": "insufficient_quota", "message": "Quota."}}, "quota"),
        (429, {"error": {"code": "rate_limit_exceeded", "message": "Slow down."}}, "rate_limited"),
        (503, {"error": {"code": "server_is_overloaded", "message": "Busy."}}, "overloaded"),
    ],
)
def test_a_refused_request_has_a_kind(status, body, kind):
    assert error_from_response(status, {}, json.dumps(body).encode()).kind == kind


def test_usage_has_the_cache_apart():
    usage = {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 30},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 15},
    }
    counted = whole(said("a"), {"type": "web_search_call", "id": "w"}, usage=usage).usage

    assert (counted.input_tokens, counted.cache_read_tokens, counted.cache_write_tokens) == (10, 60, 30)
    assert (counted.output_tokens, counted.reasoning_tokens, counted.server_tool_calls) == (20, 15, 1)
    assert whole(said("a"), usage={"num_server_side_tools_used": 3}).usage.server_tool_calls == 3
    assert whole(said("a"), usage=None).usage.requests == 1


# --- Who is asked ----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_keys(monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "XAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def test_a_string_names_the_vendors_own_api(no_keys):
    no_keys.setenv("OPENAI_API_KEY", "sk-1")
    no_keys.setenv("XAI_API_KEY", "xai-1")
    openai, xai, chat = from_string("openai:gpt-6.1-sol"), from_string("xai:grok-4.7"), from_string("openai-chat:gpt")

    assert isinstance(openai, Provider)
    assert (type(openai), openai.name, openai.model) == (OpenAI, "openai", "gpt-6.1-sol")
    assert (type(xai), xai.name, xai.model) == (XAI, "xai", "grok-4.7")
    assert (type(chat), chat.name) == (ChatCompletions, "openai")
    assert repr(xai) == "XAI('grok-4.7', base_url='https://api.x.ai/v1')"


def test_the_address_may_stand_in_the_environment(no_keys):
    no_keys.setenv("OPENAI_API_KEY", "sk-1")
    no_keys.setenv("OPENAI_BASE_URL", URL)

    assert URL in repr(OpenAI("m"))
    assert "api.openai.com" in repr(OpenAI("m", base_url="https://api.openai.com/v1"))


def test_a_vendors_key_is_sent_to_nobody_else(no_keys):
    no_keys.setenv("OPENAI_API_KEY", "sk-of-openai-1")
    no_keys.setenv("XAI_API_KEY", "xai-of-xai-1")

    assert "authorization" not in OpenAI("m", base_url=URL)._endpoint._headers
    assert "authorization" not in XAI("m", base_url=URL)._endpoint._headers
    assert XAI("m", base_url=URL).name == "xai"


def test_the_address_of_a_known_host_says_who_it_is():
    azure = OpenAI("mine", "key-0123456789", "https://me.openai.azure.com/openai/v1")

    assert azure.name == "azure"
    assert "api-key" in azure._endpoint._headers


def test_two_accounts_do_not_read_each_others_reasoning(no_keys):
    origins = {OpenAI("m", key, url).origin for key in ("key-one-1", "key-two-2") for url in (URL, "http://other.test")}

    assert len(origins) == 4
    assert OpenAI("m", "key-one-1", URL).origin == OpenAI("other", "key-one-1", URL).origin


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: OpenAI("gpt"), MissingKeyError),
        (lambda: XAI("grok"), MissingKeyError),
        (lambda: OpenAI(" "), InvalidOptionError),
        (lambda: OpenAI("m", "k", URL, temprature=1), UnknownOptionError),
        (lambda: OpenAI("m", "k", "ftp://x"), InvalidOptionError),
    ],
)
def test_what_cannot_be_is_said_before_anything_is_sent(no_keys, make, error):
    with pytest.raises(error):
        make()
