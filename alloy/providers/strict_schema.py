"""JSON schemas as vendors hold a model to them; pure.

A vendor that makes a model keep to a schema takes a part of JSON Schema only. What can be said in that part otherwise is: optional
properties are required, ``oneOf`` becomes ``anyOf``, what stands beside a reference goes around it. Bounds and formats that can't
be said are left out; whoever validates still sees. Whatever matches the structure is what the given schema allows.

Source: OpenAI's guide "Structured model outputs", Anthropic's guide "Structured outputs".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ANTHROPIC", "OPENAI", "StrictRules", "answer_format", "optional_properties", "strict_schema"]


@dataclass(frozen=True, slots=True)
class StrictRules:
    """What a vendor takes.

    Attributes:
        keywords: those that hold no schemas.
        formats: the values of ``format``.
        all_required: whether no property may be optional.
        recursive: whether a schema may hold itself.
    """

    keywords: frozenset[str]
    formats: frozenset[str]
    all_required: bool
    recursive: bool


_PLAIN = frozenset({"type", "enum", "const", "title", "description"})
_BOUNDS = frozenset(
    {"pattern", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf", "minItems", "maxItems"}
)
_FORMATS = frozenset({"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})

OPENAI = StrictRules(_PLAIN | _BOUNDS, _FORMATS, all_required=True, recursive=True)
ANTHROPIC = StrictRules(_PLAIN, _FORMATS | {"uri"}, all_required=False, recursive=False)

_BESIDE = frozenset({"$ref", "title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"})
_NEVER = frozenset(
    {
        "$dynamicRef", "allOf", "contains", "dependencies", "dependentRequired", "dependentSchemas", "else", "if", "not",
        "patternProperties", "prefixItems", "propertyNames", "then", "unevaluatedItems", "unevaluatedProperties",
    }
)  # fmt: skip
_DEFINITIONS = ("$defs", "definitions")
_TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}


def strict_schema(schema: Mapping[str, Any], rules: StrictRules) -> dict[str, Any] | None:
    """The schema as a vendor can enforce it; the given one isn't changed.

    Args:
        schema: a JSON schema of an object, with all that it refers to inside.
        rules: what the vendor takes.

    Returns:
        A schema that allows nothing that the given one doesn't, but for bounds and formats; None where the vendor can't
        enforce it, as with dictionaries, tuples and anything goes.
    """
    try:
        return _Strict(schema, rules).whole()
    except _NeverError:
        return None


def answer_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What OpenAI's APIs call a format: the schema, its name, and whether it is enforced."""
    name = re.sub("[^A-Za-z0-9_-]", "_", str(schema.get("title") or ""))[:64] or "answer"
    strict = strict_schema(schema, OPENAI)
    return {"name": name, "schema": schema if strict is None else strict, "strict": strict is not None}


def optional_properties(schema: Any) -> int:
    """How many properties a strict schema has, all in all, that needn't be there."""
    match schema:
        case {"properties": Mapping() as properties}:
            own = len(properties.keys() - set(schema.get("required", ())))
            return own + sum(optional_properties(value) for value in (*properties.values(), schema.get("$defs")))
        case Mapping():
            return sum(optional_properties(value) for value in schema.values())
        case list():
            return sum(map(optional_properties, schema))
        case _:
            return 0


class _NeverError(Exception):
    """The schema can't be enforced."""


class _Strict:
    """One schema on its way."""

    def __init__(self, root: Mapping[str, Any], rules: StrictRules) -> None:
        self._root = root
        self._rules = rules
        self._definitions = {
            f"#/{place}/{name.replace('~', '~0').replace('/', '~1')}": definition
            for place in _DEFINITIONS
            for name, definition in root.get(place, {}).items()
        }

    def whole(self) -> dict[str, Any]:
        if not self._rules.recursive and self._recursive():
            raise _NeverError
        root = self._root
        if "$ref" in root:  # it must be an object itself
            root = {**self._target(root["$ref"]), **{name: root[name] for name in root if name != "$ref"}}
        out = self._schema(root)
        if out.get("type") != "object" or "anyOf" in out:
            raise _NeverError
        for place in _DEFINITIONS:
            if place in self._root:
                out[place] = {name: self._schema(one) for name, one in self._root[place].items()}
        return out

    def _schema(self, schema: Any) -> dict[str, Any]:
        schema = _single(schema)
        if "$ref" in schema:
            return self._reference(schema)
        if schema.keys() & _NEVER or {"anyOf", "oneOf"} <= schema.keys():
            raise _NeverError
        out = {name: value for name, value in schema.items() if name in self._rules.keywords}
        if str(schema.get("format")) in self._rules.formats:
            out["format"] = schema["format"]
        if choices := schema.get("anyOf") or schema.get("oneOf"):
            out["anyOf"] = [self._schema(choice) for choice in choices]
        elif "type" not in out:
            out["type"] = _type_of(schema)
        types = out.get("type", ())
        if "array" in types:
            out["items"] = self._schema(schema.get("items"))
        if "object" in types:
            out |= self._object(schema)
        return out

    def _reference(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        """A reference; nothing may stand beside it, so that goes around it."""
        self._target(schema["$ref"])
        if schema.keys() - _BESIDE:
            raise _NeverError
        described = {name: schema[name] for name in ("title", "description") if name in schema}
        reference = {"$ref": schema["$ref"]}
        return {"anyOf": [reference]} | described if described else reference

    def _object(self, schema: Mapping[str, Any]) -> dict[str, Any]:
        properties = schema.get("properties") or {}
        if schema.get("additionalProperties", not properties) is not False:
            raise _NeverError
        given = [name for name in schema.get("required", ()) if name in properties]
        others = [name for name in properties if name not in given] if self._rules.all_required else []
        return {
            "properties": {name: self._schema(one) for name, one in properties.items()},
            "required": given + others,
            "additionalProperties": False,
        }

    def _target(self, reference: str) -> Mapping[str, Any]:
        target = self._root if reference == "#" else self._definitions.get(reference)
        if target is None:
            raise _NeverError
        return target

    def _recursive(self) -> bool:
        left = {reference: set(_references(definition)) for reference, definition in self._definitions.items()}
        while free := [reference for reference, needs in left.items() if not needs & left.keys()]:
            for reference in free:
                del left[reference]
        return bool(left) or "#" in _references(self._root)


def _single(schema: Any) -> Mapping[str, Any]:
    """The schema, also where it is only there to describe the one in its ``allOf``."""
    if not isinstance(schema, Mapping):
        raise _NeverError
    match schema.get("allOf"):
        case [Mapping() as only] if not schema.keys() - _BESIDE - {"allOf"}:
            return {**only, **{name: value for name, value in schema.items() if name != "allOf"}}
        case _:
            return schema


def _references(schema: Any) -> Iterator[str]:
    if isinstance(schema, Mapping):
        for name, value in schema.items():
            if name == "$ref" and isinstance(value, str):
                yield value
            else:
                yield from _references(value)
    elif isinstance(schema, list):
        for value in schema:
            yield from _references(value)


def _type_of(schema: Mapping[str, Any]) -> Any:
    """The type of a schema that only lists its values, which a vendor wants to be told."""
    if "properties" in schema:
        return "object"
    values = schema.get("enum") or ([schema["const"]] if "const" in schema else [])
    types = list(dict.fromkeys(_TYPES.get(type(value)) for value in values))
    if not types or None in types:
        raise _NeverError
    return types[0] if len(types) == 1 else types
