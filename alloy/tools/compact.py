"""Values as compact JSON text that every API takes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from alloy.errors import ToolError

__all__ = ["encodable", "json_text"]


def json_text(value: Any) -> str:
    """What a tool returned, as JSON: no blanks, no NaN, no text that UTF-8 doesn't know.

    Raises:
        ToolError: it holds something that JSON can't.
    """
    from pydantic_core import to_json  # noqa: PLC0415  a tool that returns text doesn't pay for it

    strangers: list[str] = []

    def refuse(part: Any) -> Any:
        strangers.append(type(part).__name__)
        raise TypeError

    try:
        if isinstance(value, Iterator):  # it could go on for ever
            refuse(value)
        try:
            return to_json(value, inf_nan_mode="strings", fallback=refuse).decode()
        except ValueError:  # perhaps just text or bytes that UTF-8 doesn't know
            if strangers:
                raise
            return json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError):
        inner = f" (it holds a {strangers[0]})" if strangers and strangers[0] != type(value).__name__ else ""
        raise ToolError(
            f"the tool returned a {type(value).__name__}, which isn't serialisable{inner}; "
            "return text, a ToolOutput, or plain data: dicts, lists, numbers, dataclasses, pydantic models"
        ) from None


def encodable(text: str) -> str:
    """The text as it is, or with U+FFFD for surrogates that have no partner: no API takes those."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def _plain(part: Any) -> Any:
    """The same in dicts, lists, numbers and safe text; bytes as base64."""
    if part is None or isinstance(part, int):
        return part
    if isinstance(part, str):
        return encodable(part)
    if isinstance(part, dict):
        return {key: _plain(of) for each, of in part.items() for key in _jsonable({_plain(each): None})}
    if isinstance(part, list | tuple):
        return [_plain(each) for each in part]
    made = _jsonable(part)
    return made if isinstance(made, float) else _plain(made)


def _jsonable(part: Any) -> Any:
    from pydantic_core import to_jsonable_python  # noqa: PLC0415  as above

    return to_jsonable_python(part, inf_nan_mode="strings", bytes_mode="base64")
