"""A function's signature as JSON schema, and as validator of what a model calls it with."""

from __future__ import annotations

import difflib
import functools
import inspect
import types
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import Field, PydanticUserError, TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError, to_json

from alloy.errors import ToolDefinitionError, ToolError
from alloy.tools import docstring
from alloy.tools.base import Tool, ToolContext
from alloy.tools.functions import innermost

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pydantic.json_schema import JsonSchemaMode, JsonSchemaValue, JsonSchemaWarningKind
    from pydantic_core import core_schema

__all__ = ["Signature", "Untitled"]

_UNREADABLE = (NameError, TypeError, SyntaxError, AttributeError, ValueError)
_SHOWN = 8


@dataclass(frozen=True, slots=True)
class Signature:
    """How a function is called with a model's arguments.

    Attributes:
        schema: JSON schema of the arguments, an object that allows nothing else.
    """

    schema: Mapping[str, Any]
    _validator: TypeAdapter[dict[str, Any]]
    _contexts: frozenset[str]
    _positional: tuple[str, ...]

    @classmethod
    def of(cls, function: Callable[..., Any], *, tool: str) -> Signature:
        """Reads a function's signature.

        Args:
            function: the function; parameters annotated with `ToolContext` are no arguments.
            tool: its name as a tool, for errors.

        Raises:
            ToolDefinitionError: a parameter that no model can be told of; the message says which, and what to do.
        """
        try:
            asked = _asked(function)
            hints = _hints(function, asked)
            contexts = frozenset(name for name, hint in hints.items() if _is_context(hint))
            arguments = {name: each for name, each in asked.items() if name not in contexts}
            validator = _validator(arguments, hints, docstring.parameters(function))
            schema = validator.json_schema(schema_generator=Untitled)
        except _ProblemError as error:
            raise ToolDefinitionError(tool, str(error)) from error.__cause__
        positional = tuple(name for name, each in asked.items() if each.kind is each.POSITIONAL_ONLY)
        return cls(schema, validator, contexts, positional)

    def bind(self, arguments: Mapping[str, Any], context: ToolContext) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """What to call the function with.

        Args:
            arguments: what the model wrote, JSON; values are coerced where that loses nothing, such as "3" to 3.
            context: for the parameters that take it.

        Returns:
            Positional and keyword arguments.

        Raises:
            ToolError: the arguments don't fit; one line that says how.
        """
        try:
            named = self._validator.validator.validate_json(
                to_json(arguments if type(arguments) is dict else dict(arguments))
            )
        except ValidationError as error:
            raise ToolError(f"invalid arguments: {self._complaint(error)}") from None
        except PydanticSerializationError:
            raise ToolError("invalid arguments: they hold something that isn't valid JSON text") from None
        for name in self._contexts:
            named[name] = context
        return tuple([named.pop(name) for name in self._positional]), named

    def _complaint(self, error: ValidationError) -> str:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        lines = [f"{'.'.join(map(str, each['loc'])) or 'arguments'}: {self._words(each)}" for each in found[:_SHOWN]]
        if len(found) > _SHOWN:
            lines.append(f"and {len(found) - _SHOWN} more")
        return " ".join("; ".join(lines).split())

    def _words(self, error: Mapping[str, Any]) -> str:
        if error["type"] == "missing_keyword_only_argument":
            return "field required"
        if error["type"] == "unexpected_keyword_argument":
            known = list(self.schema["properties"])
            near = difflib.get_close_matches(str(error["loc"][0]), known, n=1)
            others = f"the parameters are {', '.join(known)}" if known else "there are no parameters"
            return f"no such parameter; {f'did you mean {near[0]}?' if near else others}"
        message = str(error["msg"])
        return message[:1].lower() + message[1:]


class _ProblemError(Exception):
    """What is wrong with a function."""


def _asked(function: Any) -> dict[str, inspect.Parameter]:
    """The parameters that aren't bound already."""
    if isinstance(function, Tool):
        raise _ProblemError("it's a tool already; pass it as it is")
    if not callable(function) or inspect.isclass(function):
        raise _ProblemError("it's no function; make tools of functions, or of a Tool subclass by calling it")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        raise _ProblemError("its signature can't be read; wrap it in a function with annotated parameters") from None
    bound = function.keywords if isinstance(function, functools.partial) else {}
    for each in signature.parameters.values():
        if each.kind in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
            raise _ProblemError(
                f"a model can't be told what {each} takes; name each parameter, or take one list or dict "
                "(a decorator in between keeps the parameters with functools.wraps)"
            )
        if each.annotation is each.empty and each.name not in bound:
            cure = (
                "decorate the bound method instead: alloy.tool(obj.method)"
                if each.name in ("self", "cls")
                else (f"write '{each.name}: str', or '{each.name}: alloy.ToolContext' for the call's context")
            )
            raise _ProblemError(f"parameter {each.name!r} has no annotation; {cure}")
    return {name: each for name, each in signature.parameters.items() if name not in bound}


def _hints(function: Callable[..., Any], asked: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """The parameters' types, with names resolved where the function was written."""
    plain = innermost(function)
    spaces = getattr(plain, "__globals__", {}), _local_names(plain)
    hints: dict[str, Any] = {}
    for name, each in asked.items():
        holder = types.SimpleNamespace(__annotations__={name: each.annotation})
        try:
            hints |= get_type_hints(holder, *spaces, include_extras=True)
        except _UNREADABLE as error:
            raise _ProblemError(
                f"the annotation of parameter {name!r} can't be resolved ({error}); define what it names at the top of "
                "the module or before the tool, and import it outside of 'if TYPE_CHECKING'"
            ) from error
    return hints


def _local_names(function: Any) -> dict[str, Any]:
    """What the function's annotations can name besides globals: its closure, and the locals of calls it is defined in."""
    names: dict[str, Any] = {}
    where = getattr(function, "__qualname__", "")
    frame = inspect.currentframe()
    while frame is not None:
        if where.startswith(f"{frame.f_code.co_qualname}.") and frame.f_globals is getattr(
            function, "__globals__", None
        ):
            names = {**frame.f_locals, **names}
        frame = frame.f_back
    code = getattr(function, "__code__", None)
    for name, cell in zip(code.co_freevars if code else (), getattr(function, "__closure__", None) or (), strict=False):
        with suppress(ValueError):  # not assigned yet
            names[name] = cell.cell_contents
    return names


def _is_context(hint: Any) -> bool:
    if get_origin(hint) is Annotated:
        return _is_context(get_args(hint)[0])
    if get_origin(hint) in (Union, types.UnionType):
        return set(get_args(hint)) == {ToolContext, types.NoneType}
    return hint is ToolContext


def _validator(
    arguments: Mapping[str, inspect.Parameter], hints: Mapping[str, Any], described: Mapping[str, str]
) -> TypeAdapter[dict[str, Any]]:
    """A pydantic adapter of a function with these parameters, all by keyword, that returns what it is called with."""

    def capture(**captured: Any) -> dict[str, Any]:
        return captured

    typed = {name: _described(hints[name], described.get(name)) for name in arguments}
    capture.__annotations__ = typed
    capture.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # what inspect.signature() looks for
        [each.replace(kind=each.KEYWORD_ONLY, annotation=typed[name]) for name, each in arguments.items()]
    )
    try:
        validator = TypeAdapter[dict[str, Any]](capture)  # type: ignore[arg-type]  # typed by what validation returns
        validator.json_schema(schema_generator=Untitled)
    except (PydanticUserError, *_UNREADABLE) as error:
        raise _ProblemError(_culprit(typed, error)) from error
    return validator


def _described(hint: Any, description: str | None) -> Any:
    """The type with a description, unless it has one of its own."""
    if description is None:
        return hint
    inner, *own = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    return Annotated[(inner, Field(description=description), *own)]  # of two descriptions pydantic takes the later


def _culprit(typed: Mapping[str, Any], error: Exception) -> str:
    """Which parameter it is that pydantic can't read, and why."""
    for name, hint in typed.items():
        try:
            TypeAdapter(hint).json_schema()
        except (PydanticUserError, *_UNREADABLE) as own:
            return f"the type of parameter {name!r} has no JSON schema ({_first(own)}); use types that pydantic reads from JSON"
    return f"its parameters have no JSON schema ({_first(error)}); use types that pydantic reads from JSON"


def _first(error: Exception) -> str:
    return str(error).partition("\n")[0].partition(". ")[0].rstrip(".")


class Untitled(GenerateJsonSchema):
    """JSON schema without the titles that pydantic makes of names: they say nothing new and cost tokens."""

    ignored_warning_kinds: set[JsonSchemaWarningKind] = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012  so in pydantic

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002  pydantic's signature
        return False

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        return _untitled(super().model_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        return _untitled(super().dataclass_schema(schema), schema["cls"])

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        return _untitled(super().typed_dict_schema(schema), schema.get("cls"))

    def generate(self, schema: core_schema.CoreSchema, mode: JsonSchemaMode = "validation") -> JsonSchemaValue:
        whole = super().generate(schema, mode)
        for definition in whole.get("$defs", {}).values():
            if "enum" in definition or "const" in definition:  # pydantic titles enums after everything else
                definition.pop("title", None)
        return whole


def _untitled(schema: JsonSchemaValue, cls: Any) -> JsonSchemaValue:
    if schema.get("title") == getattr(cls, "__name__", None):
        schema.pop("title", None)
    return schema
