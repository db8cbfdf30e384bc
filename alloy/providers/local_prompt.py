"""How to talk to SmolLM2-135M: prompts that such a small model follows, and its answers as text and calls; pure.

Left to itself it calls tools at random and in no certain form. So it writes JSON that a grammar holds to one of the tools, or
to a reply, after a few examples. Given a result it does best when it is asked the question again, and then writes plain text.
"""

from __future__ import annotations

import dataclasses
import json
import re
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from alloy.errors import ProviderError
from alloy.history import unique_id
from alloy.messages import Message, TextBlock, ToolResultBlock, ToolUseBlock
from alloy.providers.base import Completion, TextDelta, ToolCallDelta
from alloy.providers.options import lesser

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from alloy.messages import Block
    from alloy.providers.base import Delta, Request, ToolSpec
    from alloy.providers.chat_decode import ChatDecoder
    from alloy.providers.sse import ServerEvent

__all__ = ["CallDecoder", "chooses", "encode", "reply_name"]

_SYSTEM = "You are a helpful assistant."
_CHOICE = """You may call one of these functions:
{functions}

Write {{"name": <function-name>, "arguments": <args-json-object>}} to call one."""
_QUESTION = """Here is the result:

{result}

Question: {question}
Answer from the result in one short sentence."""

_CALLS: Sequence[tuple[str, str, Mapping[str, Any]]] = (
    ("What is the time in Rome?", "get_time", {"city": "Rome"}),
    ("Read the file docs/ideas.md. Who wrote it?", "read_file", {"path": "docs/ideas.md"}),
    ("What is 4 times 12?", "multiply", {"x": 4, "y": 12}),
)
_GREETING = ("Hello!", "Hello! How can I help you?")
_ANSWERS: Sequence[tuple[str, str, Mapping[str, Any], str, str]] = (
    ("What is the time in Rome?", "get_time", {"city": "Rome"}, "14:05", "It is 14:05 in Rome."),
    (
        "Who wrote the file todo.txt?",
        "read_file",
        {"path": "todo.txt"},
        "Author: Ben\nTask: buy milk",
        "The file todo.txt was written by Ben.",
    ),
    (
        "Read docs/ideas.md. What is the first idea?",
        "read_file",
        {"path": "docs/ideas.md"},
        "Idea one is a boat.\nIdea two is a train.",
        "The first idea is a boat.",
    ),
)

_FIRST_SENTENCE = re.compile(r".*?[.!?](?=\s|$)|.*")
_LINE_NUMBER = re.compile(r"^ *\d+\t", re.MULTILINE)
_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*"(?:[^"\\]|\\.)*"\s*,\s*"arguments"\s*:')


def chooses(request: Request) -> bool:
    """Whether the model may call a tool: not when its turn is to tell what the last one gave."""
    last = request.messages[-1].content if request.messages else ()
    return bool(request.tools) and any(not isinstance(block, ToolResultBlock) for block in last)


def reply_name(request: Request) -> str:
    """What an answer in words goes by beside the tools, whatever they are called."""
    return unique_id("reply", {tool.name for tool in request.tools})


def encode(request: Request, settings: Mapping[str, Any]) -> bytes:
    """The body to send.

    Args:
        request: what is asked.
        settings: fields of every request, such as the model.

    Raises:
        ProviderError: it holds something else than text (kind ``invalid_request``).
    """
    fields = dict(settings)
    if request.max_tokens is not None:
        fields["max_tokens"] = lesser(fields.get("max_tokens"), request.max_tokens)
    if request.stream:
        fields |= {"stream": True, "stream_options": {"include_usage": True}}
    reply = reply_name(request) if chooses(request) else None
    system = request.system if request.system and request.system.strip() else _SYSTEM
    examples: Iterable[Mapping[str, str]] = ()
    if reply:
        functions = [*map(_signature, request.tools), f"{reply}(text): Answers in words."]
        system += "\n\n" + _CHOICE.format(functions="\n".join(functions))
        examples = _choice_examples(reply)
        fields["response_format"] = _held_to("call", _schema(request, reply))
    elif request.response_schema is not None:
        fields["response_format"] = _held_to("answer", request.response_schema)
    elif request.messages and request.messages[-1].tool_results:
        examples = _answer_examples()
    fields["messages"] = [_said("system", system), *examples, *_history(request, reply)]
    return to_json(fields)


# --- What it is told -------------------------------------------------------------------------------------------------


def _signature(tool: ToolSpec) -> str:
    required = tool.input_schema.get("required", ())
    names = [name if name in required else f"{name}?" for name in tool.input_schema.get("properties", {})]
    purpose = _FIRST_SENTENCE.match(tool.description.strip())
    return f"{tool.name}({', '.join(names)}): {purpose[0] if purpose else ''}"


def _choice_examples(reply: str) -> Iterator[Mapping[str, str]]:
    for question, name, arguments in _CALLS:
        yield _said("user", question)
        yield _said("assistant", _call(name, arguments))
    yield _said("user", _GREETING[0])
    yield _said("assistant", _call(reply, {"text": _GREETING[1]}))


def _answer_examples() -> Iterator[Mapping[str, str]]:
    for question, name, arguments, result, answer in _ANSWERS:
        yield _said("user", question)
        yield _said("assistant", _call(name, arguments))
        yield _said("user", _QUESTION.format(result=result, question=question))
        yield _said("assistant", answer)


def _history(request: Request, reply: str | None) -> Iterator[Mapping[str, str]]:
    """The history as the model has learnt to read it: calls as JSON, results as the user's words."""
    question = ""
    for message in request.messages:
        text = "\n\n".join(_texts(message))
        if message.role == "assistant":
            calls = [_call(call.name, call.input) for call in message.tool_uses]
            value = _object(text) if request.response_schema is not None else None
            own = _call(reply, value or {"text": text}) if reply and text and not calls else text
            yield _said("assistant", "\n".join(filter(None, [own, *calls])))
            continue
        question = text or question
        if message.tool_results:
            result = "\n\n".join(map(_result, message.tool_results))
            yield _said("user", _QUESTION.format(result=result, question=question).strip())
        else:
            yield _said("user", text)


def _texts(message: Message) -> Iterator[str]:
    for block in message.content:
        match block:
            case TextBlock(text=text):
                yield text
            case ToolUseBlock() | ToolResultBlock():
                pass
            case _ if message.role == "user":
                raise _text_only(block)
            case _:
                pass  # what another model thought, or its vendor's own items


def _result(result: ToolResultBlock) -> str:
    for block in result.content:
        if not isinstance(block, TextBlock):
            raise _text_only(block)
    text = _LINE_NUMBER.sub("", result.text)  # they distract it
    return f"Error: {text}" if result.is_error else text


def _text_only(block: Block) -> ProviderError:
    return ProviderError(f"the embedded model reads text only, not a {type(block).__name__}", kind="invalid_request")


def _said(role: str, content: str) -> Mapping[str, str]:
    return {"role": role, "content": content}


def _call(name: str, arguments: Mapping[str, Any]) -> str:
    return json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False, default=str)


def _held_to(name: str, schema: Mapping[str, Any]) -> Mapping[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}


def _schema(request: Request, reply: str) -> Mapping[str, Any]:
    """What it may write: a call of one of the tools, or a reply, which is a text or by a schema."""
    text: Mapping[str, Any] = {
        "type": "object",
        "properties": {"text": {"type": "string"}},
        "required": ["text"],
        "additionalProperties": False,
    }
    branches = {tool.name: _moved(tool.input_schema, f"#/$defs/{tool.name}") for tool in request.tools}
    branches[reply] = _moved(request.response_schema or text, f"#/$defs/{reply}")
    return {"anyOf": [_branch(name) for name in branches], "$defs": branches}


def _branch(name: str) -> Mapping[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{name}"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, to: str) -> Any:
    """A schema whose references to itself hold at another place."""
    match schema:
        case {"$ref": str(ref), **rest} if ref.startswith("#"):
            return {"$ref": to + ref[1:]} | {name: _moved(value, to) for name, value in rest.items()}
        case dict():
            return {name: _moved(value, to) for name, value in schema.items()}
        case [*items]:
            return [_moved(item, to) for item in items]
        case _:
            return schema


# --- What it says ----------------------------------------------------------------------------------------------------


class CallDecoder:
    """Makes text and calls of an answer that is JSON; see `alloy.providers.http.Decoder`.

    Args:
        chat: decodes the answer so far as it is Chat Completions.
        reply: the name of an answer in words.
        taken: the call ids that the history has already.
        by_schema: whether an answer is an object by a schema, and its text JSON.
    """

    def __init__(self, chat: ChatDecoder, *, reply: str, taken: Iterable[str], by_schema: bool = False) -> None:
        self._chat = chat
        self._reply = reply
        self._by_schema = by_schema
        self._id = unique_id("", set(taken))
        self._json = ""
        self._head: int | None = None
        self._name = ""
        self._text = ""
        self._told = 0

    @property
    def done(self) -> bool:
        """Whether the terminal event has come."""
        return self._chat.done

    def feed(self, event: ServerEvent) -> Iterator[Delta]:
        """Takes the stream's next event."""
        for delta in self._chat.feed(event):
            if isinstance(delta, TextDelta):
                self._json += delta.text
                yield from self._news(end=False)
        if self._chat.done:
            yield from self._news(end=True)

    def end(self) -> Completion:
        """Takes the stream's end."""
        return self._completion(self._chat.end())

    def whole(self, document: Any) -> Completion:
        """Takes an answer that came as one JSON document."""
        completion = self._chat.whole(document)
        self._json = completion.message.text
        for _ in self._news(end=True):
            pass  # nobody watches
        return self._completion(completion)

    def _news(self, *, end: bool) -> Iterator[Delta]:
        """What the text so far says that wasn't told yet."""
        if self._head is None:
            head = _HEAD.match(self._json)
            if head is None:
                return
            self._head = head.end()
            self._name = str(_partial(self._json).get("name", ""))
        if self._name == self._reply:
            written = (_partial(self._json).get("arguments") or {}).get("text", "")
            text = self._arguments(end=end) if self._by_schema else str(written)
            if len(text) > len(self._text):
                yield TextDelta(text[len(self._text) :])
                self._text = text
            return
        arguments = self._arguments(end=end)
        if len(arguments) > self._told:
            yield ToolCallDelta(0, self._id, self._name, arguments[self._told :])
            self._told = len(arguments)

    def _arguments(self, *, end: bool) -> str:
        """The arguments' text so far, without what may belong to the object around them."""
        text = self._json[self._head :].strip()
        if not end:
            return text.rstrip("} \n\t")
        return text[:-1].rstrip() if _object(self._json) is not None else text

    def _completion(self, completion: Completion) -> Completion:
        block: Block | None = None
        stop_reason = completion.stop_reason
        if self._head is not None and self._name != self._reply:
            written = self._arguments(end=True)
            arguments = _object(written)
            block = ToolUseBlock(self._id, self._name, arguments or {}, invalid=written if arguments is None else None)
            stop_reason = "tool_use" if stop_reason == "end_turn" else stop_reason
        elif self._text.strip():
            block = TextBlock(self._text)
        message = dataclasses.replace(completion.message, content=(block,) if block else ())
        return dataclasses.replace(completion, message=message, stop_reason=stop_reason)


def _object(text: str) -> dict[str, Any] | None:
    """A JSON object, if it is one."""
    try:
        value = from_json(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _partial(text: str) -> dict[str, Any]:
    """The beginning of a JSON object."""
    try:
        value = from_json(text, allow_partial="trailing-strings")
    except ValueError:
        return {}  # half a character, such as a lone surrogate
    return value if isinstance(value, dict) else {}
