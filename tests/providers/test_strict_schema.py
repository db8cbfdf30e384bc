"""JSON schemas that a vendor can enforce."""

from __future__ import annotations

from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, Field

from alloy.providers.strict_schema import ANTHROPIC, OPENAI, answer_format, strict_schema

TEXT = {"type": "string"}


def asked(properties, **more):
    return {"type": "object", "properties": properties} | more


def strict(properties, required=None, **more):
    """The strict form of `asked`."""
    required = list(properties) if required is None else required
    return asked(properties, required=required, additionalProperties=False, **more)


def property_of(schema, rules=OPENAI, **more):
    """What a property of this schema becomes; None if that can't be enforced."""
    found = strict_schema(asked({"it": schema}, required=["it"], **more), rules)
    return found and found["properties"]["it"]


@pytest.mark.parametrize(
    ("given", "made"),
    [
        (TEXT | {"default": "x", "examples": ["y"], "minLength": 3}, TEXT),
        (TEXT | {"format": "date"}, TEXT | {"format": "date"}),
        (TEXT | {"format": "uri-template"}, TEXT),
        ({"type": ["string", "null"]}, {"type": ["string", "null"]}),
        ({"enum": ["a", "b"]}, {"enum": ["a", "b"], "type": "string"}),
        ({"enum": ["a", 1, None]}, {"enum": ["a", 1, None], "type": ["string", "integer", "null"]}),
        ({"const": True}, {"const": True, "type": "boolean"}),
        ({"oneOf": [TEXT, {"type": "null"}], "discriminator": {}}, {"anyOf": [TEXT, {"type": "null"}]}),
        ({"type": "array", "items": asked({"a": TEXT})}, {"type": "array", "items": strict({"a": TEXT})}),
        (asked({}, additionalProperties=False), strict({})),
    ],
)
def test_what_can_be_said_otherwise_is(given, made):
    assert property_of(given) == made


@pytest.mark.parametrize(
    "given",
    [
        {},
        True,
        {"description": "Anything."},
        {"type": "object"},
        {"type": "object", "additionalProperties": TEXT},
        asked({"a": TEXT}, additionalProperties=True),
        {"type": "array"},
        {"type": "array", "prefixItems": [TEXT, TEXT]},
        {"allOf": [TEXT, {"minLength": 1}]},
        {"not": TEXT},
        {"enum": [{}]},
        {"$ref": "#/properties/other"},
        {"$ref": "https://elsewhere.test/schema"},
    ],
)
@pytest.mark.parametrize("rules", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def test_what_cannot_be_enforced_is_not(given, rules):
    assert property_of(given, rules) is None


@pytest.mark.parametrize(
    "root", [{"type": "array", "items": TEXT}, TEXT, {"anyOf": [asked({"a": TEXT})]}, {"$ref": "#/$defs/No"}]
)
def test_only_an_object_can_be_enforced(root):
    assert strict_schema(root, OPENAI) is None


def test_bounds_are_kept_where_the_vendor_takes_them():
    bounded = {"type": "integer", "minimum": 1, "maximum": 9}

    assert property_of(bounded) == bounded
    assert property_of(bounded, ANTHROPIC) == {"type": "integer"}


def test_optional_properties_are_required_where_the_vendor_wants_that():
    schema = asked({"a": TEXT, "b": TEXT}, required=["b", "gone"])

    assert strict_schema(schema, OPENAI)["required"] == ["b", "a"]
    assert strict_schema(schema, ANTHROPIC)["required"] == ["b"]


def test_what_stands_beside_a_reference_goes_around_it():
    definitions = {"$defs": {"a/b": asked({"x": TEXT})}}
    reference = {"$ref": "#/$defs/a~1b"}

    assert property_of(reference | {"default": None}, **definitions) == reference
    assert property_of(reference | {"description": "It."}, **definitions) == {
        "anyOf": [reference],
        "description": "It.",
    }
    assert property_of({"allOf": [reference], "title": "It"}, **definitions) == {"anyOf": [reference], "title": "It"}
    assert property_of(reference | {"minLength": 3}, **definitions) is None


class Node(BaseModel):
    name: str
    children: list[Node] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(9, ge=1, description="How many.")


class Dog(BaseModel):
    kind: Literal["dog"]


class Home(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    guest: Cat | None = Field(None, description="Who visits.")


def test_a_schema_that_holds_itself_is_enforced_where_it_can_be():
    made = strict_schema(Node.model_json_schema(), OPENAI)

    assert made["properties"]["children"] == {
        "title": "Children",
        "type": "array",
        "items": {"$ref": "#/$defs/Node"},
    }
    assert made["$defs"]["Node"]["required"] == ["name", "children"]
    assert strict_schema(Node.model_json_schema(), ANTHROPIC) is None
    assert strict_schema(asked({"me": {"$ref": "#"}}), OPENAI)["properties"] == {"me": {"$ref": "#"}}


@pytest.mark.parametrize("rules", [OPENAI, ANTHROPIC], ids=["openai", "anthropic"])
def test_a_model_of_pydantics_can_be_enforced(rules):
    made = strict_schema(Home.model_json_schema(), rules)

    assert made["properties"]["pet"]["anyOf"] == [{"$ref": "#/$defs/Cat"}, {"$ref": "#/$defs/Dog"}]
    assert made["properties"]["guest"]["anyOf"] == [{"$ref": "#/$defs/Cat"}, {"type": "null"}]
    assert made["$defs"]["Cat"]["properties"]["lives"]["description"] == "How many."


def test_the_given_schema_is_not_changed():
    schema = Home.model_json_schema()
    strict_schema(schema, OPENAI)

    assert schema == Home.model_json_schema()


@pytest.mark.parametrize(("title", "name"), [("My Book!", "My_Book_"), ("", "answer"), ("é" * 70, "_" * 64)])
def test_a_format_is_named_after_the_schema(title, name):
    assert answer_format(asked({"a": TEXT}, title=title))["name"] == name
