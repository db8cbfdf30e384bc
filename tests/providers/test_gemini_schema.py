"""Schemas as Gemini takes them."""

from __future__ import annotations

import copy

import pytest
from pydantic import BaseModel, Field

from alloy.providers.gemini_schema import gemini_schema
from tests.providers.rules_gemini import _check_schema

TEXT = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "taken"),
    [
        ({"$schema": "x", "type": "object", "properties": {"pattern": TEXT | {"pattern": "a"}}}, {"type": "object", "properties": {"pattern": TEXT}}),
        ({"allOf": [{"properties": {"a": TEXT}, "required": ["a"]}, {"properties": {"b": TEXT}, "required": ["b"]}]}, {"properties": {"a": TEXT, "b": TEXT}, "required": ["a", "b"]}),
        ({"allOf": [{"properties": {"a": TEXT}, "additionalProperties": False}, {"properties": {"b": TEXT}, "additionalProperties": False}]}, {"properties": {"a": TEXT, "b": TEXT}}),
        ({"allOf": [{"minimum": 1, "maximum": 9}, {"minimum": 3, "maximum": 5}]}, {"minimum": 3, "maximum": 5}),
        ({"allOf": [{"enum": ["a", "b"]}, {"enum": ["b", "c"]}]}, {"enum": ["b"]}),
        ({"description": "Mine.", "allOf": [{"description": "Theirs.", "type": "string"}]}, {"description": "Mine.", "type": "string"}),
        ({"const": "a"}, {"enum": ["a"], "type": "string"}),
        ({"const": 1, "type": "integer"}, {"enum": [1], "type": "integer"}),
        ({"const": True}, {"type": "boolean"}),
        ({"const": None}, {"type": "null"}),
        ({"enum": ["a", None]}, {"enum": ["a"]}),
        ({"oneOf": [TEXT, {"type": "null"}]}, {"anyOf": [TEXT, {"type": "null"}]}),
        ({"type": "integer", "exclusiveMinimum": 0, "exclusiveMaximum": 9}, {"type": "integer", "minimum": 1, "maximum": 8}),
        ({"type": "number", "exclusiveMinimum": 0}, {"type": "number", "minimum": 0}),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "array", "items": {"not": {}}, "prefixItems": [TEXT, True]}, {"type": "array", "items": {}, "prefixItems": [TEXT, {}]}),
        ({"additionalProperties": TEXT | {"minLength": 1}}, {"additionalProperties": TEXT}),
        ({"properties": {"a": {"$ref": "#/$defs/T", "description": "Mine."}}, "$defs": {"T": TEXT | {"description": "Theirs."}}}, {"properties": {"a": TEXT | {"description": "Mine."}}}),
        ({"properties": {"a": {"$ref": "#/definitions/x~1y"}}, "definitions": {"x/y": TEXT}}, {"properties": {"a": TEXT}}),
        ({"properties": {"a": {"$ref": "#/$defs/missing"}, "b": {"$ref": "https://x.test"}}}, {"properties": {"a": {}, "b": {}}}),
    ],
)  # fmt: skip
def test_a_schema_is_said_in_what_gemini_takes(schema, taken):
    before = copy.deepcopy(schema)

    assert gemini_schema(schema) == taken
    assert schema == before


class Node(BaseModel):
    """Refers to itself, and to another that refers back."""

    name: str
    children: list[Node] = Field(default_factory=list)
    owner: Owner | None = None


class Owner(BaseModel):
    """Refers back."""

    nodes: dict[str, Node]


def test_a_schema_within_itself_stays_a_reference():
    taken = gemini_schema(Node.model_json_schema())

    _check_schema(taken)
    assert taken["type"] == "object"
    assert set(taken["$defs"]) <= {"Node", "Owner"}
    assert references(taken) == {f"#/$defs/{name}" for name in taken["$defs"]}


def test_a_schema_that_is_the_root_again_stays_a_reference():
    taken = gemini_schema({"type": "object", "properties": {"child": {"$ref": "#"}}})

    assert taken["properties"] == {"child": {"$ref": "#/$defs/Root"}}
    assert taken["$defs"]["Root"]["properties"] == {"child": {"$ref": "#/$defs/Root"}}


def test_references_that_would_grow_without_bounds_stay():
    levels = 40
    schema = {"$ref": "#/$defs/D0", "$defs": {f"D{levels}": TEXT}}
    for level in range(levels):
        both = {"$ref": f"#/$defs/D{level + 1}"}
        schema["$defs"][f"D{level}"] = {"type": "object", "properties": {"a": both, "b": both}}
    taken = gemini_schema(schema)

    _check_schema(taken)
    assert references(taken) == {f"#/$defs/{name}" for name in taken["$defs"]}
    assert len(str(taken)) < 200_000


def references(schema):
    if isinstance(schema, dict):
        found = {schema["$ref"]} if isinstance(schema.get("$ref"), str) else set()
        return found.union(*map(references, schema.values()))
    return set().union(*map(references, schema)) if isinstance(schema, list) else set()
