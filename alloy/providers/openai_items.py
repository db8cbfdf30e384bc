"""Output items of OpenAI's Responses API as blocks; pure.

From every block `alloy.providers.openai_encode` makes the same item again: what a block has no field for stands in its `extra`,
under ``item`` (and ``part`` for texts), and an item that is no text, thinking or call of ours is kept whole.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from alloy.errors import ProviderError
from alloy.messages import (
    ImageBlock,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolUseBlock,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from alloy.messages import Block

__all__ = [
    "CLIENT_CALLS",
    "arguments_text",
    "as_dict",
    "client_call",
    "custom_call",
    "dicts",
    "function_call",
    "is_hosted",
    "linked",
    "texts",
    "thinking",
    "vendors_item",
]

CLIENT_CALLS: Mapping[str, str] = {
    "apply_patch_call": "operation",
    "local_shell_call": "action",
    "shell_call": "action",
}
"""Native calls that the application runs, and the field that holds their arguments."""

_CALL_FIELDS = frozenset({"type", "call_id", "name", "arguments"})


def vendors_item(fields: Mapping[str, Any], kind: str) -> Iterator[Block]:
    """An item that is the vendor's own business."""
    item_id = str(fields.get("call_id") or fields.get("id") or "")
    if kind.endswith("_call") or kind == "program":
        name = str(fields.get("name") or kind.removesuffix("_call"))
        yield ServerToolUseBlock(item_id, name, _server_input(fields), raw=fields)
        if kind == "image_generation_call" and isinstance(result := fields.get("result"), str) and result:
            yield ImageBlock(f"image/{fields.get('output_format') or 'png'}", _decoded(result))
    elif kind.endswith("_output"):
        name = kind.removesuffix("_output").removesuffix("_call")
        failed = fields.get("status") in ("failed", "incomplete")
        yield ServerToolResultBlock(str(fields.get("call_id") or ""), name, raw=fields, is_error=failed)
    else:
        yield RawBlock(kind, fields)


def linked(blocks: Iterable[Block]) -> Iterator[Block]:
    """The blocks, with results that don't say which call they answer given to the call before them."""
    last = ""
    for block in blocks:
        if isinstance(block, ServerToolUseBlock):
            last = block.id
        if isinstance(block, ServerToolResultBlock) and not block.tool_use_id:
            yield ServerToolResultBlock(last, block.name, block.raw, block.is_error)
        else:
            yield block


def texts(fields: Mapping[str, Any]) -> Iterator[Block]:
    """A message's texts: the first has the message's own fields, each those of its part."""
    rest: Mapping[str, Any] | None = without(fields, {"content"})
    for part in dicts(fields.get("content")):
        name = "refusal" if part.get("type") == "refusal" else "text"
        text = str(part.get(name) or "")
        if text.strip():
            own = {"part": without(part, {name})}
            yield TextBlock(text, extra=own if rest is None else {"item": rest} | own)
            rest = None
    if rest is not None:
        yield RawBlock("message", fields)  # blank, but what stands before it needs it


def thinking(fields: Mapping[str, Any]) -> ThinkingBlock:
    """A reasoning item; its signature is the encrypted content."""
    shown = [*dicts(fields.get("summary")), *dicts(fields.get("content"))]
    text = "\n\n".join(text for part in shown if (text := str(part.get("text") or "")))
    signature = fields.get("encrypted_content")
    if not isinstance(signature, str):
        return ThinkingBlock(text, extra={"item": fields})
    return ThinkingBlock(text, signature, extra={"item": without(fields, {"encrypted_content"})})


def custom_call(fields: Mapping[str, Any], call_id: str, argument: str) -> ToolUseBlock:
    """A call of a custom tool of ours, whose one argument is a text."""
    rest = without(fields, {"call_id", "name", "input"})
    return ToolUseBlock(call_id, str(fields["name"]), {argument: str(fields.get("input") or "")}, extra={"item": rest})


def client_call(fields: Mapping[str, Any], call_id: str) -> ToolUseBlock:
    """A call of a native tool that the application runs."""
    kind = str(fields["type"])
    arguments = CLIENT_CALLS[kind]
    rest = without(fields, {"call_id", arguments})
    return ToolUseBlock(call_id, kind.removesuffix("_call"), as_dict(fields.get(arguments)), extra={"item": rest})


def function_call(fields: Mapping[str, Any], call_id: str) -> ToolUseBlock:
    """A call of a function of ours."""
    text = arguments_text(fields)
    arguments = _object(text)
    rest = without(fields, _CALL_FIELDS)
    if arguments is not None and text != to_json(arguments).decode():
        rest["arguments"] = text  # the same JSON, written otherwise
    invalid = text if arguments is None else None
    name = str(fields.get("name") or "unnamed")
    return ToolUseBlock(call_id, name, arguments or {}, invalid, extra={"item": rest} if rest else None)


def arguments_text(fields: Mapping[str, Any]) -> str:
    """The JSON text of a call's arguments; some hosts send the object itself."""
    arguments = fields.get("arguments")
    return to_json(arguments).decode() if isinstance(arguments, dict) else str(arguments or "")


def is_hosted(fields: Mapping[str, Any]) -> bool:
    """Whether a shell is the vendor's, not ours."""
    return str(as_dict(fields.get("environment")).get("type") or "").startswith("container")


def _server_input(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    for name in ("arguments", "action", "input"):
        value = fields.get(name)
        found = _object(value) if isinstance(value, str) else as_dict(value)
        if found:
            return found
    return {name: fields[name] for name in ("code", "queries", "prompt", "revised_prompt") if fields.get(name)}


def without(fields: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """The fields but for some."""
    return {name: value for name, value in fields.items() if name not in names}


def as_dict(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return value if isinstance(value, dict) else {}


def dicts(value: Any) -> Iterator[dict[str, Any]]:
    """The objects of a list, if it is one."""
    return (item for item in value if isinstance(item, dict)) if isinstance(value, list) else iter(())


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is, if it is one; no text at all is an empty object."""
    if not text.strip():
        return {}
    try:
        value = from_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _decoded(data: str) -> bytes:
    try:
        return base64.b64decode(data, validate=True)
    except binascii.Error:
        raise ProviderError("the answer holds an image that is no base64", kind="server_error") from None
