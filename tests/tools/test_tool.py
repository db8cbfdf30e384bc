"""Tools as functions, as data and as classes."""

import functools
import threading
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import anyio
import pytest

from alloy.errors import ConfigurationError, ToolDefinitionError, ToolError, UnknownOptionError
from alloy.tools import Tool, ToolContext, tool

pytestmark = pytest.mark.anyio

CONTEXT = ToolContext(
    call_id="call",
    tool_name="tool",
    correlation_id="run",
    turn=1,
    working_directory=Path.cwd(),
    context={"key": "a secret"},
    report=print,
)


async def search(arguments: Mapping[str, Any], context: ToolContext) -> str:
    return f"{arguments['query']} in turn {context.turn}"


def as_data(**changes: Any) -> Tool:
    given: dict[str, Any] = {
        "name": "search",
        "description": "Searches.",
        "input_schema": {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]},
        "function": search,
    }
    return Tool(**{**given, **changes})


class Search(Tool):
    name = "search"
    description = "Searches."
    input_schema = {"type": "object", "properties": {"query": {"type": "string"}}}  # noqa: RUF012  how users write it
    timeout = 3

    def __init__(self, index: str) -> None:
        super().__init__()
        self.index = index

    async def execute(self, arguments: Mapping[str, Any], context: ToolContext) -> Any:
        return f"{arguments['query']} in {self.index}"


# --- Functions -------------------------------------------------------------------------------------------------------


async def test_a_decorated_function_is_still_the_function():
    @tool
    async def add(a: int, b: int = 1) -> int:
        """Adds."""
        return a + b

    assert await add(1, b=2) == 3
    assert add.__name__ == "add"
    assert add.__doc__ == "Adds."
    assert repr(add) == "<FunctionTool 'add'>"


def test_a_function_gives_its_name_and_docstring():
    @tool
    def add(a: int) -> int:
        """Adds.

        Carefully.
        """
        return a

    assert (add.name, add.description) == ("add", "Adds.\n\nCarefully.")
    assert (add.timeout, add.concurrency_safe, add.max_result_bytes, add.options) == (None, True, None, {})


def test_the_decorator_takes_every_option():
    @tool(
        name="plus",
        description="Adds two.",
        timeout=2.5,
        concurrency_safe=False,
        max_result_bytes=100,
        options={"strict": True},
    )
    def add(a: int) -> int:
        return a

    assert (add.name, add.description, add.timeout) == ("plus", "Adds two.", 2.5)
    assert (add.concurrency_safe, add.max_result_bytes, add.options) == (False, 100, {"strict": True})
    assert add(1) == 1


async def test_a_blocking_function_runs_in_a_thread_and_leaves_the_loop_free():
    begun, release = anyio.Event(), threading.Event()
    token = anyio.lowlevel.current_token()
    got: list[Any] = []

    @tool
    def wait() -> str:
        """Waits."""
        anyio.from_thread.run_sync(begun.set, token=token)
        assert release.wait(10)
        return threading.current_thread().name

    async def run() -> None:
        got.append(await wait.execute({}, CONTEXT))

    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(run)
            await begun.wait()  # the loop goes on while the tool blocks
            release.set()
    assert got == ["alloy tool wait"]


async def test_a_blocking_function_that_hands_out_a_coroutine_has_it_awaited():
    async def later() -> str:
        return "done"

    assert await tool(lambda: later(), name="go", description="Goes.").execute({}, CONTEXT) == "done"  # noqa: PLW0108  sync by purpose


async def test_what_a_function_raises_is_raised():
    @tool
    def fail() -> None:
        """Fails."""
        raise KeyError("x")

    with pytest.raises(KeyError):
        await fail.execute({}, CONTEXT)


def test_a_function_without_a_docstring_needs_a_description():
    def bare(a: int) -> int:
        return a

    with pytest.raises(ToolDefinitionError, match=r"tool 'bare': .*write a docstring, or pass description="):
        tool(bare)
    with pytest.raises(ToolDefinitionError, match="no description"):
        tool(bare, description="  ")


def test_a_lambda_needs_a_name():
    with pytest.raises(ToolDefinitionError, match="pass name="):
        tool(lambda: 1, description="One.")


def test_an_unknown_option_is_named_with_the_one_that_was_meant():
    with pytest.raises(UnknownOptionError, match="did you mean 'timeout'"):
        tool(search, timeot=3)
    with pytest.raises(UnknownOptionError, match="did you mean 'input_schema'"):
        as_data(input_shema={})
    with pytest.raises(UnknownOptionError, match="unknown option 'input_schema'"):
        tool(search, input_schema={})


# --- Data ------------------------------------------------------------------------------------------------------------


async def test_a_tool_as_data_calls_its_function_with_the_arguments():
    assert await as_data().execute({"query": "x"}, CONTEXT) == "x in turn 1"
    assert repr(as_data()) == "<Tool 'search'>"


async def test_a_blocking_function_of_a_tool_as_data_runs_in_a_thread():
    made = as_data(function=lambda arguments, context: threading.current_thread().name)
    assert await made.execute({"query": "x"}, CONTEXT) == "alloy tool search"


async def test_missing_arguments_of_a_tool_as_data_are_told_in_one_line():
    with pytest.raises(ToolError, match=r"^invalid arguments: query: field required$"):
        await as_data().execute({}, CONTEXT)


def test_changing_the_dict_later_does_not_change_the_tool():
    schema: dict[str, Any] = {"type": "object", "properties": {}}
    options = {"strict": True}
    made = as_data(input_schema=schema, options=options)
    schema["properties"]["x"] = {"type": "string"}
    options["strict"] = False

    assert made.input_schema == {"type": "object", "properties": {}}
    assert made.options == {"strict": True}


@pytest.mark.parametrize("name", ["a", "_", "get_weather-2", "A" * 64])
def test_names_that_every_provider_takes_are_taken(name):
    assert as_data(name=name).name == name


@pytest.mark.parametrize("name", ["", "1st", "-x", "a b", "a.b", "naïve", "A" * 65, "a\n", None, 3, b"x"])
def test_other_names_are_refused(name):
    with pytest.raises(ToolDefinitionError, match="no name that every provider takes"):
        as_data(name=name)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"description": "\n"}, "no description"),
        ({"description": None}, "no description"),
        ({"input_schema": None}, "must be a dict"),
        ({"input_schema": {}}, "must describe an object"),
        ({"input_schema": {"type": "string"}}, "must describe an object"),
        ({"input_schema": {"type": "object", "properties": []}}, "must be a dict of schemas"),
        ({"input_schema": {"type": "object", "properties": {"a": "string"}}}, "must be a dict of schemas"),
        ({"input_schema": {"type": "object", "required": "a"}}, "must be a list of names"),
        ({"input_schema": {"type": "object", "default": {1, 2}}}, "can't be written as JSON"),
        ({"input_schema": {"type": "object", "maximum": float("nan")}}, "can't be written as JSON"),
        ({"timeout": 0}, "timeout must be"),
        ({"timeout": -1}, "timeout must be"),
        ({"timeout": float("nan")}, "timeout must be"),
        ({"timeout": float("inf")}, "timeout must be"),
        ({"timeout": "3"}, "timeout must be"),
        ({"timeout": True}, "timeout must be"),
        ({"max_result_bytes": 0}, "max_result_bytes must be"),
        ({"max_result_bytes": True}, "max_result_bytes must be"),
        ({"max_result_bytes": 1.5}, "max_result_bytes must be"),
        ({"concurrency_safe": "yes"}, "concurrency_safe must be"),
        ({"options": ["strict"]}, "options must be"),
        ({"options": {"a": object()}}, "options must be"),
        ({"function": None}, "nothing to run"),
        ({"function": "search"}, "must be callable"),
        ({"function": lambda query: query}, r"must take \(arguments, context\)"),
    ],
)
def test_every_other_mistake_is_named_with_its_cure(changes, problem):
    with pytest.raises(ToolDefinitionError, match=problem) as caught:
        as_data(**changes)
    assert caught.value.tool == "search"
    assert isinstance(caught.value, ConfigurationError)


def test_a_function_of_a_tool_as_data_must_not_yield():
    async def some(arguments, context):
        yield 1

    with pytest.raises(ToolDefinitionError, match="it yields"):
        as_data(function=some)


def test_a_schema_may_be_any_mapping():
    assert as_data(input_schema=MappingProxyType({"type": "object"})).input_schema == {"type": "object"}


# --- Classes ---------------------------------------------------------------------------------------------------------


async def test_a_class_says_what_it_is_and_overrides_execute():
    made = Search("the attic")
    assert (made.name, made.timeout) == ("search", 3)
    assert await made.execute({"query": "x"}, CONTEXT) == "x in the attic"
    assert repr(made) == "<Search 'search'>"


def test_a_class_is_checked_when_one_is_made():
    class Nameless(Search):
        name = "not a name"

    class Idle(Tool):
        name = "idle"
        description = "Does nothing."

    class Blocking(Idle):
        def execute(self, arguments, context):  # type: ignore[override]  # the point
            return "x"

    with pytest.raises(ToolDefinitionError, match="no name"):
        Nameless("x")
    with pytest.raises(ToolDefinitionError, match="override execute"):
        Idle()
    with pytest.raises(ToolDefinitionError, match="write 'async def execute"):
        Blocking()


def test_a_class_may_compute_what_it_says():
    class Dynamic(Search):
        @property
        def description(self) -> str:
            return "Searches now."

    assert Dynamic("x").description == "Searches now."


def test_an_instance_may_differ_from_its_class():
    class Plain(Tool):
        name = "plain"
        description = "Plain."

        async def execute(self, arguments, context):
            return ""

    assert Plain(name="other", timeout=1).name == "other"
    assert Plain().name == "plain"


# --- The context -----------------------------------------------------------------------------------------------------


def test_a_context_does_not_change():
    with pytest.raises(AttributeError):
        CONTEXT.turn = 2  # type: ignore[misc]  # the point


def test_a_context_is_made_by_name_alone():
    with pytest.raises(TypeError):
        ToolContext("call", "tool")  # type: ignore[misc]  # the point


def test_importing_tools_loads_neither_pydantic_nor_httpx_nor_tiktoken():
    import subprocess  # noqa: PLC0415  this test alone
    import sys  # noqa: PLC0415  this test alone

    code = "import sys, alloy.tools; print({'pydantic', 'pydantic_core', 'httpx', 'tiktoken'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_partial_of_a_data_function_will_do():
    def find(index, arguments, context):
        return index

    assert as_data(function=functools.partial(find, "x")).name == "search"
