"""What a model is told of a function, and what happens to what it answers."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import enum
import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from alloy.errors import ToolDefinitionError, ToolError
from alloy.tools import ToolContext, tool

if TYPE_CHECKING:
    from decimal import Decimal

pytestmark = pytest.mark.anyio


class Unit(enum.Enum):
    C = "c"
    F = "f"


class Place(BaseModel):
    """Where."""

    title: str
    country: str = "IT"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, title="A title of its own")
    on: dt.date


class Span(TypedDict):
    start: int


@dataclasses.dataclass
class Pair:
    a: int
    b: Unit = Unit.C


def context(**changes: Any) -> ToolContext:
    given: dict[str, Any] = {
        "call_id": "call",
        "tool_name": "tool",
        "correlation_id": "run",
        "turn": 1,
        "working_directory": Path.cwd(),
        "context": {},
        "report": lambda _: None,
    }
    return ToolContext(**{**given, **changes})


async def complaint(made, arguments) -> str:
    with pytest.raises(ToolError) as caught:
        await made.execute(arguments, context())
    assert "\n" not in str(caught.value)
    return str(caught.value)


def problem(function, **options) -> str:
    with pytest.raises(ToolDefinitionError) as caught:
        tool(function, **{"description": "Does.", **options})
    return caught.value.problem


# --- The schema ------------------------------------------------------------------------------------------------------


def test_the_schema_is_one_object_without_titles():
    @tool
    async def weather(city: str, unit: Literal["c", "f"] = "c") -> str:
        """Current weather."""

    assert weather.input_schema == {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"], "default": "c"}},
        "required": ["city"],
        "additionalProperties": False,
    }


def test_nothing_but_a_title_of_ones_own_is_called_title():
    @tool
    def find(
        place: Place,
        pair: Pair,
        span: Span,
        unit: Unit,
        strict: Strict,
        title: str,
        n: Annotated[int, Field(title="N")],
    ):
        """Finds."""

    schema = find.input_schema
    assert schema["properties"]["title"] == {"type": "string"}
    assert schema["properties"]["n"] == {"type": "integer", "title": "N"}
    assert schema["$defs"]["Place"] == {
        "type": "object",
        "description": "Where.",
        "properties": {"title": {"type": "string"}, "country": {"type": "string", "default": "IT"}},
        "required": ["title"],
    }
    assert [name for name, of in schema["$defs"].items() if "title" in of] == ["Strict"]


def test_a_function_without_parameters_has_an_empty_object():
    @tool
    def now() -> str:
        """The time."""

    assert now.input_schema == {"type": "object", "properties": {}, "additionalProperties": False}


def test_the_schema_is_the_same_to_the_byte_each_time():
    def make():
        def find(place: Place, pair: Pair, unit: Unit = Unit.F, *, tags: list[str] | None = None):
            """Finds."""

        return json.dumps(tool(find).input_schema)

    assert make() == make()
    assert list(json.loads(make())["properties"]) == ["place", "pair", "unit", "tags"]


@pytest.mark.parametrize(
    "docstring",
    [
        "Looks.\n\nAlways.\n\nArgs:\n    city (str, optional): The city,\n        by name.\n    unit: Which: c or f.\n\nReturns:\n    str: It.\n\nRaises:\n    ValueError: never\n",
        "Looks.\n\nAlways.\n\nParameters\n----------\ncity : str\n    The city,\n    by name.\nunit : {'c', 'f'}\n    Which: c or f.\n\nReturns\n-------\nstr\n    It.\n",
        "Looks.\n\nAlways.\n\n:param str city: The city,\n    by name.\n:param unit: Which: c or f.\n:type unit: str\n:returns: It.\n:raises ValueError: never\n",
    ],
    ids=["google", "numpy", "sphinx"],
)
def test_descriptions_come_from_the_docstring_in_each_usual_style(docstring):
    def look(city: str, unit: str = "c"):
        pass

    look.__doc__ = docstring
    made = tool(look)

    assert made.description == "Looks.\n\nAlways."
    assert made.input_schema["properties"]["city"]["description"] == "The city, by name."
    assert made.input_schema["properties"]["unit"]["description"] == "Which: c or f."


def test_what_follows_a_section_stays_in_the_description():
    def look(city: str):
        """Looks.

        Args:
            city: A city.

        Note: it is slow.
        """

    assert tool(look).description == "Looks.\n\nNote: it is slow."


def test_a_description_in_the_annotation_wins_over_the_docstring():
    def look(city: Annotated[str, Field(description="mine")], unit: str = Field("c", description="my unit")):
        """Looks.

        Args:
            city: theirs
            unit: theirs
        """

    properties = tool(look).input_schema["properties"]
    assert [properties["city"]["description"], properties["unit"]["description"]] == ["mine", "my unit"]


def test_a_model_as_a_parameter_is_described_by_the_docstring():
    def look(place: Place):
        """Looks.

        Args:
            place: there
        """

    assert tool(look).input_schema["properties"]["place"] == {"$ref": "#/$defs/Place", "description": "there"}


def test_a_default_that_json_cannot_write_stays_a_default():
    marker = object()

    @tool
    def look(city: Annotated[str, BeforeValidator(str)] = marker):  # type: ignore[assignment]  # the point
        """Looks."""
        return city is marker

    assert look.input_schema["properties"]["city"] == {"type": "string"}


# --- Arguments -------------------------------------------------------------------------------------------------------


async def test_arguments_become_what_the_annotations_say():
    @tool
    async def book(
        *,
        place: Place,
        pair: Pair,
        span: Span,
        unit: Unit,
        on: dt.datetime,
        strict: Strict,
        seats: Annotated[int, Field(ge=1)],
        tags: set[str],
        either: int | str | None = None,
    ):
        """Books."""
        return place, pair, span, unit, on, strict, seats, tags, either

    got = await book.execute(
        {
            "place": {"title": "Rome"},
            "pair": {"a": "1", "b": "f"},
            "span": {"start": 2},
            "unit": "c",
            "on": "2026-01-02T03:04:05Z",
            "strict": {"on": "2026-01-02"},
            "seats": "3",
            "tags": ["x", "x"],
            "either": "four",
        },
        context(),
    )
    assert got == (
        Place(title="Rome"),
        Pair(1, Unit.F),
        {"start": 2},
        Unit.C,
        dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC),
        Strict(on=dt.date(2026, 1, 2)),
        3,
        {"x"},
        "four",
    )


async def test_names_that_mean_something_elsewhere_are_names_here():
    @tool
    def odd(schema: int, self: int, model_config: int, _x: int, cls: int, captured: int, args: int, kwargs: int):
        """Odd."""
        return [schema, self, model_config, _x, cls, captured, args, kwargs]

    names = list(odd.input_schema["properties"])
    assert names == ["schema", "self", "model_config", "_x", "cls", "captured", "args", "kwargs"]
    assert await odd.execute({name: n for n, name in enumerate(names)}, context()) == list(range(8))


async def test_each_call_gets_a_default_of_its_own():
    @tool
    def add(item: str, items: list[str] = []):  # noqa: B006  the point
        """Adds."""
        items.append(item)
        return items

    assert [await add.execute({"item": "a"}, context()) for _ in range(2)] == [["a"], ["a"]]


async def test_positional_only_parameters_are_passed_by_position():
    @tool
    def less(a: int, context: ToolContext, b: int = 1, /, *, c: int = 0):
        """Less."""
        return a - b - c - context.turn

    assert await less.execute({"a": 10, "c": 2}, context(turn=3)) == 4


async def test_a_name_by_alias_is_what_the_model_sees():
    @tool
    def get(from_: Annotated[str, Field(alias="from")]):
        """Gets.

        Args:
            from_: Where.
        """
        return from_

    assert get.input_schema["properties"] == {"from": {"type": "string", "description": "Where."}}
    assert await get.execute({"from": "x"}, context()) == "x"


async def test_bad_arguments_are_told_in_one_line():
    @tool
    def weather(city: str, unit: Literal["c", "f"] = "c", days: list[int] = [], place: Place | None = None):  # noqa: B006  unchanged
        """Weather."""

    assert (
        await complaint(weather, {"unit": "k"})
        == "invalid arguments: city: field required; unit: input should be 'c' or 'f'"
    )
    assert "days.1: input should be a valid integer" in await complaint(weather, {"city": "a", "days": [1, "x"]})
    assert "place.title: field required" in await complaint(weather, {"city": "a", "place": {}})


async def test_an_unknown_argument_is_refused_with_the_name_that_was_meant():
    @tool
    def weather(city: str):
        """Weather."""

    assert "cty: no such parameter; did you mean city?" in await complaint(weather, {"city": "a", "cty": "b"})
    assert "zzz: no such parameter; the parameters are city" in await complaint(weather, {"city": "a", "zzz": "b"})
    assert "there are no parameters" in await complaint(tool(lambda: 1, name="f", description="."), {"a": 1})


async def test_a_hundred_mistakes_make_a_short_line():
    @tool
    def add(numbers: list[int]):
        """Adds."""

    line = await complaint(add, {"numbers": ["x"] * 100})
    assert line.endswith("; and 92 more")
    assert len(line) < 1500


async def test_text_that_is_no_unicode_is_told_and_not_a_crash():
    @tool
    def say(text: str):
        """Says."""

    assert (await complaint(say, {"text": "a\ud800"})).startswith("invalid arguments: ")
    assert (await complaint(say, {"a\ud800": "b"})).startswith("invalid arguments: ")


async def test_a_validation_error_of_the_body_is_not_about_the_arguments():
    @tool
    def parse(text: str):
        """Parses."""
        return Place.model_validate_json(text)

    with pytest.raises(ValidationError):
        await parse.execute({"text": "{}"}, context())


async def test_what_a_validator_says_reaches_the_model():
    def even(number: int) -> int:
        if number % 2:
            raise ValueError("not even\nat all")
        return number

    @tool
    def half(number: Annotated[int, BeforeValidator(even)]):
        """Halves."""

    assert await complaint(half, {"number": 3}) == "invalid arguments: number: value error, not even at all"


class Everything(BaseModel):
    whole: int
    real: float = Field(allow_inf_nan=False)
    words: list[str]
    unit: Unit
    day: dt.date
    pair: tuple[int, bool] | None
    table: dict[str, Literal["a", "b"]]


@tool
def echo(value: Everything, *, also: Everything | None = None):
    """Echoes."""
    return value, also


everythings = st.builds(Everything, real=st.floats(allow_nan=False, allow_infinity=False))


@given(everythings, st.none() | everythings)
async def test_whatever_fits_the_types_survives_the_way_through_json(value, also):
    arguments = {"value": value.model_dump(mode="json"), "also": also and also.model_dump(mode="json")}
    assert await echo.execute(json.loads(json.dumps(arguments)), context()) == (value, also)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.sampled_from(["value", "also", "x"]) | st.text(), json_values, max_size=4))
async def test_whatever_else_a_model_writes_is_a_tool_error(arguments):
    with contextlib.suppress(ToolError):
        await echo.execute(arguments, context())


# --- The context -----------------------------------------------------------------------------------------------------


async def test_the_context_is_given_by_annotation_and_not_shown_to_the_model():
    @tool
    async def who(
        ctx: ToolContext, also: ToolContext | None, last: Annotated[ToolContext | None, "doc"] = None, n: int = 1
    ):
        """Who."""
        return ctx is also is last, ctx.context["user"], n

    assert list(who.input_schema["properties"]) == ["n"]
    assert await who.execute({}, context(context={"user": "ada"})) == (True, "ada", 1)


async def test_a_model_cannot_pass_a_context_itself():
    @tool
    def who(ctx: ToolContext):
        """Who."""

    assert "ctx: no such parameter" in await complaint(who, {"ctx": {}})


def test_two_annotations_of_local_classes_are_found_where_they_were_written():
    class Local(BaseModel):
        x: int

    class Inner:
        @staticmethod
        def look(a: Local, b: list[Local] | None = None):
            """Looks."""

    assert "Local" in tool(Inner.look).input_schema["$defs"]

    def register(function):
        return tool(function)

    def see(a: Local):
        """Sees."""

    assert "Local" in register(see).input_schema["$defs"]


def test_a_local_class_that_is_out_of_reach_is_an_error_that_says_what_to_do():
    def make():
        class Local(BaseModel):
            x: int

        def look(a: Local):
            """Looks."""

        return look

    assert "the annotation of parameter 'a' can't be resolved (name 'Local' is not defined)" in problem(make())
    assert "top of the module" in problem(make())


def test_a_name_imported_for_type_checkers_alone_is_an_error():
    def pay(amount: Decimal):
        pass

    assert "TYPE_CHECKING" in problem(pay)


def test_a_return_annotation_is_nobodys_business():
    def look() -> Nowhere:  # noqa: F821  the point
        """Looks."""

    assert tool(look).name == "look"


# --- What can't be a tool --------------------------------------------------------------------------------------------


def test_parameters_that_a_model_cannot_be_told_of_are_errors_with_a_cure():
    def bare(a):
        pass

    def many(*args: int):
        pass

    def any_name(**kwargs: int):
        pass

    def method(self, a: int):
        pass

    def socket(a: int, b: contextlib.ExitStack):
        pass

    def caller(a: int, b: type(print)):
        pass

    assert "'a' has no annotation; write 'a: str'" in problem(bare)
    assert "name each parameter" in problem(many)
    assert "name each parameter" in problem(any_name)
    assert "bound method" in problem(method)
    assert "parameter 'b' has no JSON schema" in problem(socket)
    assert "parameter 'b'" in problem(caller)


def test_things_that_are_no_functions_are_errors_with_a_cure():
    assert "no function" in problem(42, name="x")
    assert "no function" in problem(Place)
    assert "already" in problem(echo)
    assert "signature" in problem(functools.partial(max), name="x") or "annotated" in problem(
        functools.partial(max), name="x"
    )


def test_functions_that_yield_are_errors():
    async def some():
        yield 1

    def more():
        yield 1

    assert "it yields" in problem(some)
    assert "it yields" in problem(more)
    assert "it yields" in problem(functools.partial(more))


# --- What else can be one --------------------------------------------------------------------------------------------


class Desk:
    """A desk."""

    def __init__(self, owner: str) -> None:
        self.owner = owner

    async def ask(self, what: str, ctx: ToolContext) -> str:
        """Asks.

        Args:
            what: The question.
        """
        return f"{self.owner}: {what} {ctx.turn}"

    async def __call__(self, what: str) -> str:
        return f"{self.owner}! {what}"

    @tool
    @staticmethod
    def still(what: str) -> str:
        """Still."""
        return what


async def test_bound_methods_are_tools():
    made = tool(Desk("ada").ask)
    assert (made.name, made.description) == ("ask", "Asks.")
    assert made.input_schema["properties"] == {"what": {"type": "string", "description": "The question."}}
    assert await made.execute({"what": "why"}, context()) == "ada: why 1"


async def test_objects_that_can_be_called_are_tools():
    made = tool(Desk("ada"), name="desk")
    assert made.description == "A desk."
    assert await made.execute({"what": "why"}, context()) == "ada! why"


async def test_static_methods_are_tools():
    assert await Desk.still.execute({"what": "why"}, context()) == "why"
    assert Desk.still("so") == "so"


async def test_partials_are_tools_without_what_they_hold():
    def power(base: int, exponent: int, ctx: ToolContext) -> int:
        """Raises."""
        return base**exponent

    made = tool(functools.partial(power, exponent=2), name="square")
    assert list(made.input_schema["properties"]) == ["base"]
    assert await made.execute({"base": 3}, context()) == 9
    assert tool(functools.partial(power, 2)).name == "power"


async def test_decorators_that_keep_the_signature_are_looked_through():
    def loud(function):
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            return function(*args, **kwargs).upper()

        return wrapper

    @tool
    @loud
    def say(text: str, ctx: ToolContext) -> str:
        """Says."""
        return text

    assert await say.execute({"text": "hi"}, context()) == "HI"
