"""JSON schemas in the subset that Gemini takes; pure.

The subset is the one that Google's reference lists for ``parametersJsonSchema`` and ``responseJsonSchema``. What can be said in
it otherwise is: ``allOf`` is merged, references are put in place, ``const`` becomes ``enum``, ``oneOf`` becomes ``anyOf``. What
can't, such as patterns, is left out: the schema then allows more than it should, and who validates the arguments still sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["gemini_schema"]

_PLAIN = (
    "type", "format", "title", "description", "enum", "minItems", "maxItems", "minimum", "maximum", "required",
    "propertyOrdering",
)  # fmt: skip
_LARGEST = 1000
"""How many schemas to put in place of references, before the rest stay references."""


def gemini_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The schema as Gemini takes it; the given one isn't changed.

    Args:
        schema: a JSON schema with all that it refers to inside, such as pydantic makes them.
    """
    return _Translation(schema).whole()


class _Translation:
    """One schema on its way; references that stay, as those to a schema within itself, are collected."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self._left = _LARGEST
        self._names: dict[str, str] = {}

    def whole(self) -> dict[str, Any]:
        out = self._schema(self._root, ("#",))
        definitions: dict[str, Any] = {}
        while missing := [ref for ref, name in self._names.items() if name not in definitions]:
            for ref in missing:
                self._left = 0
                definitions[self._names[ref]] = self._schema(self._target(ref), (ref,))
        return out | {"$defs": definitions} if definitions else out

    def _schema(self, schema: Any, within: tuple[str, ...]) -> dict[str, Any]:
        """One schema; `within` are the references that led here."""
        if not isinstance(schema, Mapping):
            return {}
        self._left -= 1
        out: dict[str, Any] = {}
        if isinstance(ref := schema.get("$ref"), str):
            if ref in within or self._left < 0:
                return {"$ref": f"#/$defs/{self._name(ref)}"}  # the API allows nothing beside it
            out = self._schema(self._target(ref), (*within, ref))
        out = _merged(_plain(schema) | self._nested(schema, within), out)
        for part in schema.get("allOf") or ():
            out = _merged(out, self._schema(part, within))
        return out

    def _nested(self, schema: Mapping[str, Any], within: tuple[str, ...]) -> dict[str, Any]:
        out: dict[str, Any] = {}
        if isinstance(properties := schema.get("properties"), Mapping):
            out["properties"] = {name: self._schema(value, within) for name, value in properties.items()}
        if isinstance(items := schema.get("items"), Mapping):
            out["items"] = self._schema(items, within)
        if isinstance(first := schema.get("prefixItems"), list):
            out["prefixItems"] = [self._schema(item, within) for item in first]
        if isinstance(choices := schema.get("anyOf") or schema.get("oneOf"), list):
            out["anyOf"] = [self._schema(choice, within) for choice in choices]
        match schema.get("additionalProperties"):
            case bool() as allowed:
                out["additionalProperties"] = allowed
            case Mapping() as others:
                out["additionalProperties"] = self._schema(others, within)
            case _:
                pass
        return out

    def _name(self, ref: str) -> str:
        """What a reference that stays is called; unique."""
        if ref not in self._names:
            name = ref.rpartition("/")[2].strip("#") or "Root"
            taken = set(self._names.values())
            self._names[ref] = name if name not in taken else f"{name}_{len(taken)}"
        return self._names[ref]

    def _target(self, ref: str) -> Any:
        """What a JSON pointer (RFC 6901) points to; anything goes where it points nowhere."""
        found: Any = self._root
        for step in ref.removeprefix("#").split("/")[1:]:
            key = step.replace("~1", "/").replace("~0", "~")
            match found:
                case Mapping():
                    found = found.get(key)
                case list() if key.isdigit() and int(key) < len(found):
                    found = found[int(key)]
                case _:
                    return None
        return found if ref.startswith("#") else None


def _plain(schema: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that hold no schemas."""
    out = {name: schema[name] for name in _PLAIN if name in schema}
    match schema.get("const", ...):
        case bool():
            out["type"] = "boolean"
        case None:
            out["type"] = "null"
        case str() | int() | float() as only:
            out["enum"] = [only]
            out.setdefault("type", "string" if isinstance(only, str) else "number")
        case _:
            pass
    if "enum" in out and not all(isinstance(value, str | int | float) for value in out["enum"]):
        out["enum"] = [value for value in out["enum"] if isinstance(value, str | int | float)]
    step = 1 if out.get("type") == "integer" else 0
    for name, bound, by in (("exclusiveMinimum", "minimum", step), ("exclusiveMaximum", "maximum", -step)):
        if isinstance(limit := schema.get(name), int | float) and not isinstance(limit, bool):
            out.setdefault(bound, limit + by)
    if schema.get("nullable") is True and isinstance(out.get("type"), str):
        out["type"] = [out["type"], "null"]
    return out


def _merged(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    """What both schemas allow, as far as that can be said; where it can't, what the first allows."""
    out = dict(first)
    for name, value in second.items():
        if name not in out:
            out[name] = value
            continue
        mine = out[name]
        match name:
            case "properties":
                out[name] = mine | {k: _merged(mine.get(k, {}), v) for k, v in value.items()}
            case "items":
                out[name] = _merged(mine, value)
            case "required":
                out[name] = list(dict.fromkeys([*mine, *value]))
            case "enum":
                out[name] = [item for item in mine if item in value] or mine
            case "minimum" | "minItems":
                out[name] = max(mine, value)
            case "maximum" | "maxItems":
                out[name] = min(mine, value)
            case "additionalProperties" if mine is False and first.keys() & second.keys() >= {"properties"}:
                del out[name]  # each knows its own properties only
            case _:
                pass
    return out
