"""Types of results: what a model is told of one, and what it wrote as a value of it, or what is wrong with that."""

from __future__ import annotations

import inspect
import json
import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pydantic import PydanticUserError, TypeAdapter, ValidationError
from pydantic_core import PydanticSerializationError, from_json, to_json

from alloy.errors import InvalidOptionError
from alloy.tools.schema import Untitled

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["OutputType", "UnfitError", "output_type"]

INSIDE = "result"
"""The property that a value is in which is no object itself: APIs want an object."""

_UNREADABLE = (NameError, TypeError, SyntaxError, AttributeError, ValueError, RecursionError)
_FENCE = re.compile(r"```[\w-]*\s*\n(.*?)```", re.DOTALL)
_NUMBER = re.compile(r"[:,\[\s][-+.\deE]{1,64}$")
_SHOWN = 8
_LONGEST = 300  # characters of one problem
_DEPTH = 16


class UnfitError(ValueError):
    """What a model wrote is no value of the type.

    Attributes:
        problems: what is wrong, each with where it is.
        json: whether it is JSON, at least.
    """

    def __init__(self, problems: Sequence[str], *, json: bool = True) -> None:
        self.problems = tuple(problems)
        self.json = json
        super().__init__("; ".join(self.problems))


class OutputType:
    """A type that a run's result has.

    Args:
        kind: the type.

    Attributes:
        schema: its JSON schema, of an object.

    Raises:
        InvalidOptionError: it has none.
    """

    def __init__(self, kind: Any) -> None:
        if inspect.isroutine(kind):
            raise _unusable(kind, "it's a function")
        try:
            self._adapter: TypeAdapter[Any] = TypeAdapter(kind)
            schema = self._adapter.json_schema(schema_generator=Untitled)
        except (PydanticUserError, *_UNREADABLE) as error:
            raise _unusable(kind, str(error).partition("\n")[0].partition(". ")[0].rstrip(".")) from error
        root = _root(schema)
        self._inside = root.get("type") != "object"
        self.schema: Mapping[str, Any] = _in_object(schema) if self._inside else _titled(root, kind)

    def from_text(self, text: str) -> Any:
        """The value in a model's words: the JSON that they are, or else the last in them that is one.

        Raises:
            UnfitError: there is none.
        """
        try:
            return self._from_json(text.strip())
        except UnfitError as error:
            if error.json:
                raise
            wrong = error
        for candidate in _candidates(text):
            try:
                return self._from_json(candidate)
            except UnfitError as error:
                if not wrong.json:
                    wrong = error
        if not wrong.json and "{" not in text:
            wrong = UnfitError(["there is no JSON object in it"], json=False)
        raise wrong

    def from_arguments(self, arguments: Mapping[str, Any]) -> Any:
        """The value that a tool was called with.

        Raises:
            UnfitError: it is none.
        """
        return self._from_python(dict(arguments))

    def partial(self, text: str) -> Any:
        """The value that the beginning of its JSON text is already, without what isn't whole yet.

        Raises:
            UnfitError: it is none yet.
        """
        try:
            number = _NUMBER.search(text, max(0, len(text) - 66))  # 12 may become 123
            value = from_json(text[: number.start() + 1] if number else text, allow_partial="trailing-strings")
        except ValueError as error:
            raise UnfitError([str(error)], json=False) from None
        return self._trimmed(value)

    def to_json(self, value: Any) -> Any:
        """A value as JSON data."""
        return self._adapter.dump_python(value, mode="json")

    def _from_json(self, text: str) -> Any:
        try:
            return self._adapter.validate_json(text) if not self._inside else self._from_python(from_json(text))
        except ValidationError as error:
            raise _unfit(error) from None
        except UnfitError:
            raise
        except ValueError as error:
            raise UnfitError([f"invalid JSON: {error}"], json=False) from None

    def _from_python(self, value: Any) -> Any:
        inside = self._inside and isinstance(value, dict) and value.keys() == {INSIDE}
        try:
            return self._adapter.validate_json(to_json(value[INSIDE] if inside else value))
        except ValidationError as error:
            raise _unfit(error, (INSIDE,) if inside else ()) from None
        except (PydanticSerializationError, UnicodeError):
            raise UnfitError(["it holds something that isn't valid JSON text"]) from None

    def _trimmed(self, value: Any) -> Any:
        """The value without as much of its end as is wrong; what has just begun, and all that is around it, may be."""
        if self._inside and (not isinstance(value, dict) or INSIDE not in value):
            raise UnfitError(["it isn't there yet"])
        edge = list(_edge(value))[self._inside :]
        while True:
            try:
                return self._from_python(value)
            except UnfitError:
                if not edge:
                    raise
                container, key = edge.pop()
                del container[key]


@lru_cache(maxsize=128)
def _known(kind: Any) -> OutputType:
    return OutputType(kind)


def output_type(kind: Any) -> OutputType:
    """What there is to know about a type, worked out once if it can be.

    Raises:
        InvalidOptionError: no model can be told of it.
    """
    try:
        hash(kind)
    except TypeError:
        return OutputType(kind)  # it is annotated with something that has no hash
    return _known(kind)


def _unusable(kind: Any, why: str) -> InvalidOptionError:
    return InvalidOptionError(
        "output_type",
        f"a type with a JSON schema: a pydantic model, a dataclass, a TypedDict, list[int], Literal['a', 'b'] and the like ({why})",
        kind,
    )


# --- The schema ------------------------------------------------------------------------------------------------------


def _root(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema, with what it refers to in its place; what that refers to is still beside it."""
    root = schema
    for _ in range(_DEPTH):
        if not isinstance(ref := root.get("$ref"), str) or not ref.startswith("#/$defs/"):
            break
        name = ref.removeprefix("#/$defs/").replace("~1", "/").replace("~0", "~")
        root = {**schema["$defs"][name], "$defs": schema["$defs"]}
    return root


def _in_object(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """A schema of an object with the value in it."""
    inner = {name: value for name, value in schema.items() if name != "$defs"}
    whole = {"type": "object", "properties": {INSIDE: inner}, "required": [INSIDE], "additionalProperties": False}
    return whole | ({"$defs": schema["$defs"]} if "$defs" in schema else {})


def _titled(schema: Mapping[str, Any], kind: Any) -> Mapping[str, Any]:
    """A schema with a title, by which APIs that want a name call it."""
    return {"title": kind.__name__, **schema} if inspect.isclass(kind) else schema


# --- What was written ------------------------------------------------------------------------------------------------


def _candidates(text: str) -> Iterator[str]:
    """What may be the JSON in a text: what is fenced, or else objects; the last one first."""
    fenced = [block.strip() for block in _FENCE.findall(text)]
    yield from reversed(fenced)
    if not fenced:
        yield from reversed([*_objects(text)])


def _objects(text: str) -> Iterator[str]:
    """The JSON objects in a text, up to the first brace that begins none: what is inside a broken one isn't meant."""
    decoder = json.JSONDecoder()
    at = text.find("{")
    while at >= 0:
        try:
            _, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            yield text[at:]
            return
        yield text[at:end]
        at = text.find("{", end)


def _edge(value: Any) -> Iterator[tuple[Any, Any]]:
    """The way to what was written last, as pairs of a container and where in it."""
    for _ in range(_DEPTH):
        if not isinstance(value, dict | list) or not value:
            return
        key = len(value) - 1 if isinstance(value, list) else next(reversed(value))
        yield value, key
        value = value[key]


def _unfit(error: ValidationError, within: tuple[str, ...] = ()) -> UnfitError:
    found = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [
        f"{'.'.join(map(str, (*within, *each['loc']))) or 'all of it'}: {_words(each['msg'])}"
        for each in found[:_SHOWN]
    ]
    if len(found) > _SHOWN:
        lines.append(f"and {len(found) - _SHOWN} more")
    return UnfitError(lines, json=all(each["type"] != "json_invalid" for each in found))


def _words(message: str) -> str:
    said = " ".join(message.split())[:_LONGEST]
    return said[:1].lower() + said[1:]
