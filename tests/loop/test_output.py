"""Structured results: `output_type` makes of a run's last words, or of its last call, a value; or says why not."""

from __future__ import annotations

import dataclasses
import enum
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, Field, field_validator
from typing_extensions import TypedDict

import alloy
from alloy.errors import InvalidOptionError, OutputError
from alloy.history import check_history
from alloy.loop.output import OutputType, UnfitError
from alloy.messages import ToolUseBlock
from alloy.testing import Recorder, Reply, Scripted, calls, run_script, together

pytestmark = pytest.mark.anyio


class Item(BaseModel):
    """Something that was sold."""

    name: str
    price: float = 0.0


class Invoice(BaseModel):
    """An invoice."""

    sender: str
    items: list[Item] = []


@dataclass
class Point:
    """A point."""

    x: int
    y: int
    tags: list[str] = field(default_factory=list)


class Place(TypedDict):
    """A place."""

    name: str
    since: date


class Colour(enum.Enum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Node(BaseModel):
    """A node of a tree."""

    name: str
    children: list[Node] = []


class Even(BaseModel):
    """An even number."""

    n: int

    @field_validator("n")
    @classmethod
    def is_even(cls, n: int) -> int:
        """Refuses odd ones."""
        if n % 2:
            raise ValueError("it has to be even")
        return n


@alloy.tool
async def look_up(word: str) -> str:
    """Looks a word up."""
    if word == "nothing":
        raise alloy.ToolError("there is nothing")
    return f"{word}: 12"


def texts(messages: Any) -> list[str]:
    return [message.text for message in messages]


def cause(error: alloy.RunError) -> OutputError:
    assert isinstance(error.cause, OutputError)
    return error.cause


# --- Types -----------------------------------------------------------------------------------------------------------

VALUES = [
    (Invoice, '{"sender": "Ada"}', Invoice(sender="Ada")),
    (Point, '{"x": 1, "y": 2}', Point(1, 2)),
    (Place, '{"name": "Rome", "since": "2020-01-02"}', {"name": "Rome", "since": date(2020, 1, 2)}),
    (dict[str, int], '{"a": 1}', {"a": 1}),
    (Node, '{"name": "a", "children": [{"name": "b"}]}', Node(name="a", children=[Node(name="b")])),
    (Invoice | Point, '{"result": {"x": 1, "y": 2}}', Point(1, 2)),
    (list[int], '{"result": [1, 2]}', [1, 2]),
    (tuple[int, str], '{"result": [1, "a"]}', (1, "a")),
    (int, '{"result": 3}', 3),
    (bool, '{"result": false}', False),
    (date, '{"result": "2020-01-02"}', date(2020, 1, 2)),
    (int | None, '{"result": null}', None),
    (Literal["yes", "no"], '{"result": "no"}', "no"),
    (Colour, '{"result": "red"}', Colour.RED),
    (Annotated[int, Field(ge=1)], '{"result": 1}', 1),
    (Annotated[str, Field(min_length=2)], '{"result": "ab"}', "ab"),
]


@pytest.mark.parametrize("way", ["native", "tool", "prompt"])
@pytest.mark.parametrize(("kind", "text", "value"), VALUES, ids=[str(each[0]) for each in VALUES])
async def test_every_type_that_pydantic_knows_can_be_a_result(kind, text, value, way):
    reply = calls("final_result", **json.loads(text)) if way == "tool" else text

    result = await alloy.run("Go.", provider=Scripted([reply], structured_output=way), output_type=kind)

    assert (result.status, result.output) == ("completed", value)
    assert type(result.output) is type(value)
    check_history(result.messages)


async def test_a_string_is_what_the_model_says_without_any_schema():
    provider = Scripted([Reply(text="Hello {", stop_reason="max_tokens")])

    result = await alloy.run("Go.", provider=provider, output_type=str)

    assert result.output == result.text == "Hello {"
    assert provider.requests[0].response_schema is None
    assert provider.requests[0].tools == ()


async def test_a_run_without_a_type_has_no_output():
    assert (await run_script(["Hello."])).output is None


async def test_a_run_that_does_not_complete_has_no_output():
    result = await run_script([calls("look_up", word="a")], tools=[look_up], output_type=int, max_turns=1)

    assert (result.status, result.output) == ("max_turns", None)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (print, "it's a function"),
        (lambda: 3, "it's a function"),
        (Callable[[], int], "JsonSchema"),
        (Scripted, "Unable to generate"),
        (Invoice(sender="Ada"), "Unable to generate"),
        (3, "Unable to generate"),
        ("Invoice", "not fully defined"),
    ],
)
def test_a_type_without_a_schema_is_an_error_before_anything_is_sent(kind, said):
    with pytest.raises(InvalidOptionError, match="a pydantic model, a dataclass") as caught:
        alloy.Config(output_type=kind)

    assert caught.value.option == "output_type"
    assert said in caught.value.expected


def test_a_type_and_a_tool_can_not_both_end_a_run():
    with pytest.raises(InvalidOptionError, match="nothing beside output_type"):
        alloy.Config(output_type=int, tools=[look_up], until_tool="look_up")


def test_a_schema_says_nothing_twice_and_names_its_type():
    assert OutputType(Invoice).schema == {
        "title": "Invoice",
        "description": "An invoice.",
        "type": "object",
        "properties": {
            "sender": {"type": "string"},
            "items": {"default": [], "type": "array", "items": {"$ref": "#/$defs/Item"}},
        },
        "required": ["sender"],
        "$defs": {
            "Item": {
                "description": "Something that was sold.",
                "type": "object",
                "properties": {"name": {"type": "string"}, "price": {"default": 0.0, "type": "number"}},
                "required": ["name"],
            }
        },
    }


# --- What the model is told ------------------------------------------------------------------------------------------


async def test_a_native_schema_goes_with_every_request_and_nothing_else_does():
    provider = Scripted([calls("look_up", word="a"), '{"result": 12}'])

    result = await alloy.run("Go.", provider=provider, tools=[look_up], output_type=int, system_prompt="Hi.")

    assert result.output == 12
    assert [request.response_schema for request in provider.requests] == [OutputType(int).schema] * 2
    assert [[tool.name for tool in request.tools] for request in provider.requests] == [["look_up"]] * 2
    assert {request.system for request in provider.requests} == {"Hi."}


async def test_a_final_tool_takes_the_result_where_the_api_has_no_schemas():
    provider = Scripted([calls("look_up", word="a"), calls("final_result", result=12)], structured_output="tool")

    result = await alloy.run("Go.", provider=provider, tools=[look_up], output_type=int)

    assert result.output == 12
    assert provider.requests[0].response_schema is None
    assert provider.requests[0].tools[-1].input_schema == OutputType(int).schema
    assert [(call.name, call.is_error) for call in result.tool_calls] == [("look_up", False), ("final_result", False)]
    assert result.messages[-1].tool_results[0].text == "This is the result."


async def test_the_final_tool_makes_way_for_one_of_yours():
    @alloy.tool
    async def final_result(text: str) -> str:
        """Not what it sounds like."""
        return text

    provider = Scripted([calls("final_result", text="a"), calls("final_result_2", result=3)], structured_output="tool")

    result = await alloy.run("Go.", provider=provider, tools=[final_result], output_type=int)

    assert result.output == 3
    assert result.tool_calls[0].content[0].text == "a"


@pytest.mark.parametrize("system", [None, " ", "Be brief."])
async def test_a_prompt_says_the_schema_where_there_is_nothing_better(system):
    provider = Scripted(['{"result": 3}'], structured_output="prompt")

    await alloy.run("Go.", provider=provider, output_type=int, system_prompt=system)

    said = provider.requests[0].system
    assert said.startswith("Be brief.\n\nWhen you" if system == "Be brief." else "When you")
    assert said.endswith(json.dumps(OutputType(int).schema, separators=(",", ":")))


async def test_a_provider_that_does_not_say_how_is_given_a_tool():
    class Plain(Scripted):
        structured_output = None

        def __getattribute__(self, name):
            if name == "structured_output":
                raise AttributeError(name)
            return super().__getattribute__(name)

    assert (await alloy.run("Go.", provider=Plain([calls("final_result", result=1)]), output_type=int)).output == 1


async def test_fallbacks_are_asked_as_the_one_of_them_that_can_do_least():
    down = alloy.ProviderError("down", kind="overloaded")
    first = Scripted([down], structured_output="native")
    second = Scripted([calls("final_result", result=3)], structured_output="tool")

    result = await alloy.run("Go.", provider=first, fallback_providers=[second], max_retries=0, output_type=int)

    assert result.output == 3
    assert first.requests[0].response_schema is None
    assert [tool.name for tool in first.requests[0].tools] == ["final_result"]


# --- What the model writes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        ' {"sender": "Ada"}\n',
        'Here you are:\n```json\n{"sender": "Ada"}\n```\nAnything else?',
        'First ```\n{"sender": "Bob"}\n``` and then\n```\n{"sender": "Ada"}\n```',
        'The result is {"sender": "Ada"}.',
        'Not {"sender": "Bob"} but {"sender": "Ada"}, I think.',
        'It is {"sender": "Ada"} and not {"sender": 3}.',
    ],
)
def test_json_is_found_in_a_text_the_last_that_fits(text):
    assert OutputType(Invoice).from_text(text) == Invoice(sender="Ada")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "there is no JSON object in it"),
        ("I don't know.", "there is no JSON object in it"),
        ('[{"sender": "Ada"}]', "all of it: input should be an object"),
        ('{"sender": "Ada", "items": [{"name": 3}]}', "items.0.name: input should be a valid string"),
        ('{"items": [{}]}', "sender: field required; items.0.name: field required"),
        ('{"sender": "A', "all of it: invalid JSON: EOF while parsing a string"),
        ('Well, {"items": [{"sender": "inside of what is broken"}, }', "all of it: invalid JSON"),
        ('{"sender": "\ud800"}', "all of it: input should be a valid string"),
    ],
)
def test_what_is_wrong_is_said_with_where_it_is(text, problem):
    with pytest.raises(UnfitError) as caught:
        OutputType(Invoice).from_text(text)

    assert str(caught.value).startswith(problem)


def test_a_value_in_an_object_is_also_taken_without_it_and_its_problems_say_where():
    assert OutputType(list[int]).from_text("[1]") == [1]
    with pytest.raises(UnfitError, match=r"^result.1: input should be a valid integer"):
        OutputType(list[int]).from_text('{"result": [1, "a"]}')


def test_of_many_problems_the_first_are_told():
    with pytest.raises(UnfitError) as caught:
        OutputType(list[int]).from_arguments({"result": ["a"] * 20})

    assert caught.value.problems[-1] == "and 12 more"


@pytest.mark.parametrize("way", ["native", "prompt"])
async def test_a_wrong_result_is_sent_back_with_what_is_wrong(way):
    provider = Scripted(['{"n": 3}', '{"n": "x"}', '{"n": 4}'], structured_output=way)

    result = await alloy.run("Go.", provider=provider, output_type=Even)

    assert (result.output, result.turns) == (Even(n=4), 3)
    told = texts(result.messages)[2::2]
    assert told[0].startswith(
        "This isn't the result that was asked for: n: value error, it has to be even. Answer again"
    )
    assert "n: input should be a valid integer" in told[1]
    check_history(result.messages)


async def test_a_wrong_call_of_the_final_tool_is_answered_with_what_is_wrong():
    wrong = Reply(tool_calls=(ToolUseBlock("", "final_result", {}, invalid="{'n"),))
    provider = Scripted([calls("final_result", n=3), wrong, calls("final_result", n=4)], structured_output="tool")

    result = await alloy.run("Go.", provider=provider, output_type=Even)

    assert result.output == Even(n=4)
    told = [message.tool_results[0] for message in result.messages if message.tool_results]
    assert [each.is_error for each in told] == [True, True, False]
    assert (
        told[0].text
        == "Not taken: n: value error, it has to be even. Call 'final_result' again, with the whole result."
    )
    assert told[1].text.startswith("Not taken: the arguments aren't a JSON object.")


async def test_words_in_place_of_the_final_tool_are_tried_as_json_and_else_nudged():
    script = ["It is 4.", '{"n": 3}', 'Then {"n": 4}']

    result = await alloy.run("Go.", provider=Scripted(script, structured_output="tool"), output_type=Even)

    assert result.output == Even(n=4)
    told = texts(result.messages)[2::2]
    assert told[0] == "You haven't given the result yet. Call the tool 'final_result' with it now."
    assert told[1].startswith("Not taken: n: value error")


async def test_a_host_that_ignores_the_schema_is_told_it_when_no_json_comes():
    result = await run_script(["Four.", '{"n": 4}'], output_type=Even)

    assert texts(result.messages)[2].endswith(json.dumps(OutputType(Even).schema, separators=(",", ":")))


async def test_an_answer_that_was_cut_off_is_no_result_even_if_it_looks_like_one():
    script = [Reply(text='{"n": 4}', stop_reason="max_tokens"), '{"n": 6}']

    result = await run_script(script, output_type=Even)

    assert result.output == Even(n=6)
    assert "cut off at the output limit" in texts(result.messages)[2]


@pytest.mark.parametrize("way", ["native", "tool", "prompt"])
@pytest.mark.parametrize("retries", [0, 2])
async def test_p1_a_run_without_a_valid_result_fails_with_all_that_was_said(way, retries):
    replies = [calls("final_result", n=3) if way == "tool" else '{"n": 3}'] * (retries + 1)
    provider = Scripted(replies, structured_output=way)

    with pytest.raises(alloy.RunError) as caught:
        await alloy.run("Go.", provider=provider, output_type=Even, output_retries=retries)

    error, result = cause(caught.value), caught.value.result
    assert (error.attempts, error.problems) == (retries + 1, ("n: value error, it has to be even",))
    assert json.loads(error.text) == {"n": 3}
    assert (result.status, result.output, result.turns) == ("failed", None, retries + 1)
    assert sum(message.role == "assistant" for message in result.messages) == retries + 1
    check_history(result.messages)
    follow_up = await alloy.run("And?", provider=Scripted(["Sorry."]), messages=result.messages)
    assert follow_up.text == "Sorry."


async def test_calls_of_the_final_tool_that_are_cut_off_again_and_again_end_the_run():
    cut = dataclasses.replace(calls("final_result", n=4), stop_reason="max_tokens")

    with pytest.raises(alloy.RunError) as caught:
        await alloy.run("Go.", provider=Scripted([cut] * 3, structured_output="tool"), output_type=Even)

    assert "cut off" in cause(caught.value).problems[0]
    check_history(caught.value.result.messages)


async def test_a_refusal_stays_a_refusal():
    with pytest.raises(alloy.RunError) as caught:
        await run_script([Reply(text='{"n": 4}', stop_reason="refusal")], output_type=Even)

    assert caught.value.cause.kind == "refused"


async def test_what_a_validator_of_yours_raises_besides_value_errors_ends_the_run():
    class Broken(BaseModel):
        n: int

        @field_validator("n")
        @classmethod
        def breaks(cls, n: int) -> int:
            raise KeyError(n)

    for script, way in (['{"n": 4}'], "native"), ([calls("final_result", n=4)], "tool"):
        with pytest.raises(alloy.RunError) as caught:
            await alloy.run("Go.", provider=Scripted(script, structured_output=way), output_type=Broken)
        assert isinstance(caught.value.cause, KeyError)
        check_history(caught.value.result.messages)


# --- Other calls beside the final tool -------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["tea", "nothing"])
async def test_calls_beside_the_final_tool_are_executed_and_the_result_counts(word):
    reply = together(calls("final_result", n=4), calls("look_up", word=word), calls("final_result", n=6))

    result = await alloy.run(
        "Go.", provider=Scripted([reply], structured_output="tool"), tools=[look_up], output_type=Even
    )

    assert result.output == Even(n=4)
    assert [call.is_error for call in result.tool_calls] == [False, word == "nothing", True]
    assert result.tool_calls[2].content[0].text == "Not taken: you gave the result already."
    check_history(result.messages)


async def test_calls_beside_a_wrong_result_are_executed_and_the_run_goes_on():
    first = together(calls("final_result", n=3), calls("look_up", word="tea"))
    provider = Scripted([first, calls("final_result", n=4)], structured_output="tool")

    result = await alloy.run("Go.", provider=provider, tools=[look_up], output_type=Even)

    assert (result.output, result.turns) == (Even(n=4), 2)
    assert [call.is_error for call in result.tool_calls] == [True, False, False]


async def test_middleware_is_not_asked_whether_the_final_tool_may_be_called():
    forbidding = alloy.Approval([], otherwise="deny")
    provider = Scripted([together(calls("look_up", word="tea"), calls("final_result", n=4))], structured_output="tool")

    result = await alloy.run("Go.", provider=provider, tools=[look_up], output_type=Even, middleware=[forbidding])

    assert result.output == Even(n=4)
    assert [call.is_error for call in result.tool_calls] == [True, False]


async def test_a_result_of_a_run_that_was_stopped_beside_it_does_not_count():
    class Stopping(alloy.Middleware):
        """Stops at the first call."""

        async def before_tool_call(self, call, run):
            raise alloy.Halt("enough")

    reply = together(calls("final_result", n=4), calls("look_up", word="tea"))
    provider = Scripted([reply], structured_output="tool")

    with pytest.raises(alloy.RunError) as caught:
        await alloy.run("Go.", provider=provider, tools=[look_up], output_type=Even, middleware=[Stopping()])

    assert (caught.value.result.status, caught.value.result.output) == ("halted", None)
    check_history(caught.value.result.messages)


# --- While it is being written ---------------------------------------------------------------------------------------

WRITTEN = '{"sender": "Ada Byron", "items": [{"name": "tea", "price": 12.5}, {"name": "milk", "price": 1}]}'


def script_for(way: str) -> list[Any]:
    match way:
        case "tool":
            return [calls("final_result", **json.loads(WRITTEN))]
        case "prompt":
            return [f"Here you are:\n```json\n{WRITTEN}\n```\nBye."]
        case _:
            return [WRITTEN]


@pytest.mark.parametrize("way", ["native", "tool", "prompt"])
async def test_partial_outputs_are_values_that_grow_to_the_whole(way):
    provider = Scripted(["Hm. ", *script_for(way)], structured_output=way)

    async with alloy.stream("Go.", provider=provider, output_type=Invoice) as run:
        values = [value async for value in run.partial_outputs()]

    assert all(isinstance(value, Invoice) for value in values)
    assert len(values) >= 2
    assert values[-1] == run.result.output == Invoice.model_validate_json(WRITTEN)
    assert all(before != after for before, after in pairwise(values))
    sizes = [(len(value.items), len(value.sender)) for value in values]
    assert sizes == sorted(sizes)


async def test_what_is_not_whole_or_not_valid_yet_is_left_out_of_a_partial_output():
    kind = OutputType(Invoice)

    assert kind.partial('{"sender": "A') == Invoice(sender="A")
    assert kind.partial('{"sender": "A", "items": [{"pri') == Invoice(sender="A", items=[])
    assert kind.partial('{"sender": "A", "items": [{"name": "tea", "price": 1') == Invoice(
        sender="A", items=[Item(name="tea")]
    )
    assert OutputType(list[Literal["yes", "no"]]).partial('{"result": ["yes", "n') == ["yes"]
    for text in ("{", '{"sen', '{"items": ["a'):
        with pytest.raises(UnfitError):
            kind.partial(text)


async def test_partial_outputs_begin_anew_when_the_model_has_to():
    async with alloy.stream("Go.", provider=Scripted(['{"n": 2, "m": 1']), output_type=Even, output_retries=0) as run:
        with pytest.raises(alloy.RunError):
            assert [value async for value in run.partial_outputs()] == [Even(n=2)]

    async with alloy.stream("Go.", provider=Scripted(['{"n": 2, "m": ]', '{"n": 6}']), output_type=Even) as run:
        assert [value async for value in run.partial_outputs()] == [Even(n=2), Even(n=6)]


async def test_what_an_earlier_turn_said_is_no_part_of_a_partial_output():
    script = ["Sets are written {1, 2}.", '{"sender": "Ada Byron"}']

    async with alloy.stream("Go.", provider=Scripted(script), output_type=Invoice) as run:
        assert [value.sender async for value in run.partial_outputs()] == ["Ada ", "Ada Byron"]


async def test_partial_outputs_of_a_string_are_its_beginnings():
    async with alloy.stream("Go.", provider=Scripted(["one two three"]), output_type=str) as run:
        assert [value async for value in run.partial_outputs()] == ["one ", "one two ", "one two three"]


async def test_partial_outputs_need_a_type():
    async with alloy.stream("Go.", provider=Scripted(["Hi."])) as run:
        with pytest.raises(InvalidOptionError, match="output_type"):
            await anext(run.partial_outputs())


async def test_a_long_answer_is_not_read_again_for_each_piece(monkeypatch):
    read = 0
    partial = OutputType.partial

    def count(self, text):
        nonlocal read
        read += len(text)
        return partial(self, text)

    monkeypatch.setattr(OutputType, "partial", count)
    text = json.dumps({"sender": "word " * 20_000})
    async with alloy.stream("Go.", provider=Scripted([text]), output_type=Invoice) as run:
        values = [value async for value in run.partial_outputs()]

    assert len(values) > 20
    assert read < 40 * len(text)


# --- Agents ----------------------------------------------------------------------------------------------------------


async def test_an_agent_gives_results_of_the_type_for_each_request():
    config = alloy.Config(provider=Scripted(['{"n": 3}', '{"n": 4}', '{"n": 6}']), output_type=Even, max_pending=2)

    async with alloy.Agent(config) as agent:
        assert (await agent.chat("Go.")).output == Even(n=4)
        async with agent.stream_chat("And now?") as run:
            assert [value async for value in run.partial_outputs()] == [Even(n=6)]


async def test_an_agent_that_is_a_tool_gives_its_result_as_json():
    inner = alloy.agent_tool(
        name="sum", description="Sums up.", provider=Scripted(['{"x": 1, "y": 2}']), output_type=Point
    )

    result = await run_script([calls("sum", task="Sum up."), "Done."], tools=[inner])

    call = result.tool_calls[0]
    assert json.loads(call.content[0].text) == call.data["output"] == {"x": 1, "y": 2, "tags": []}
    assert call.data["status"] == "completed"


# --- What it costs ---------------------------------------------------------------------------------------------------


async def test_the_tools_of_a_run_are_told_to_watchers():
    recorder = Recorder()
    await alloy.run(
        "Go.",
        provider=Scripted([calls("final_result", n=4)], structured_output="tool"),
        output_type=Even,
        on_event=recorder,
    )

    assert recorder.envelopes[0].payload["tools"] == ["final_result"]


def test_who_wants_no_type_does_not_load_what_reads_them():
    code = (
        "import asyncio, sys, alloy\n"
        "from alloy.providers import Scripted\n"
        "asyncio.run(alloy.run('Hi.', provider=Scripted(['Hi.'])))\n"
        "print(sorted({'pydantic', 'alloy.loop.output'} & set(sys.modules)))"
    )

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"
