"""A request in the words of Anthropic's Messages API; pure but for the clock.

Source: Anthropic's API reference, "Messages", and its guides on extended thinking, prompt caching and tool use.
"""

from __future__ import annotations

import base64
import re
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple, assert_never

from pydantic_core import to_json

from alloy._memo import Growing, Memo
from alloy.errors import ProviderError
from alloy.messages import (
    AudioBlock,
    DocumentBlock,
    ImageBlock,
    RawBlock,
    ServerToolResultBlock,
    ServerToolUseBlock,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    VideoBlock,
)
from alloy.providers.options import SchemaMemo, ToolMemo, lesser, tool_options
from alloy.providers.strict_schema import ANTHROPIC, strict_schema
from alloy.providers.transcript import CallIds, for_origin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from alloy.messages import Block, MediaBlock, Message, ResultContent
    from alloy.providers.base import Request, ToolSpec
    from alloy.providers.transcript import Role

__all__ = ["CONTAINER", "Encoder", "answer_format"]

CONTAINER = "container"
"""The kind of the `RawBlock` that says in which container an answer's code ran; it isn't sent as a block."""

_CALL_IDS = CallIds("[A-Za-z0-9_-]{1,64}")
_LEAST_THINKING = 1024  # tokens; the API takes no smaller budget
_BREAKPOINTS = 4  # that a request may have
_CACHED_TURNS = 2  # the newest, which the next request reads, and the one before, which this one does


class _Sent(NamedTuple):
    """One message as it is sent.

    Attributes:
        role: whose it is.
        parts: its blocks, each as JSON.
        settled: its blocks for when something follows that doesn't answer the vendor's own calls.
        container: where its code ran.
    """

    role: Role
    parts: tuple[bytes, ...]
    settled: tuple[bytes, ...]
    container: Mapping[str, Any] | None = None


class _Turns:
    """Turns as they are sent, each followed by a comma, and the newest, of which some get a breakpoint of the cache."""

    __slots__ = ("done", "newest")

    def __init__(self) -> None:
        self.done = bytearray()
        self.newest: list[tuple[Role, list[bytes]]] = []

    def add(self, role: Role, parts: Sequence[bytes]) -> None:
        """Adds a message: nothing if it has no parts, and neighbours of one role become one."""
        if not parts:
            return
        if self.newest and self.newest[-1][0] == role:
            self.newest[-1][1].extend(parts)
            return
        self.newest.append((role, [*parts]))
        if len(self.newest) > 2 * _CACHED_TURNS:
            self.done += _turn(*self.newest.pop(0)) + b","


class Encoder:
    """Makes request bodies for one provider.

    Args:
        origin: the provider's own; a message of another origin loses what only its own can read.
        settings: fields of every request, such as the model.
        server_tools: tools that the vendor runs, as the API has them.
        cache: how long prompts are cached, ``5m`` or ``1h``; None for not at all.
        citations: whether documents can be cited.
        now: the time, in seconds since the epoch.
    """

    def __init__(
        self,
        origin: str,
        settings: Mapping[str, Any],
        *,
        server_tools: Sequence[Mapping[str, Any]] = (),
        cache: str | None = None,
        citations: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._origin = origin
        self._settings = settings
        self._tools = ToolMemo(_tool)
        self._format = SchemaMemo(answer_format)
        self._server_tools = [dict(tool) for tool in server_tools]
        ttl = {} if cache == "5m" else {"ttl": cache}
        self._cache: dict[str, Any] | None = {"type": "ephemeral"} | ttl if cache else None
        self._citations = citations
        self._now = now
        self._memo: Memo[_Sent] = Memo(self._message, size=lambda sent: sum(map(len, sent.parts)))
        self._turns = Growing(_Turns, self._add, size=lambda turns: len(turns.done))

    def encode(self, request: Request) -> bytes:
        """The body to send.

        Raises:
            ProviderError: something in it that the API can't take (kind ``invalid_request``).
        """
        fields: dict[str, Any] = dict(self._settings)
        if request.max_tokens is not None:
            _shorten(fields, request.max_tokens)
        tools = self._tools(request.tools) + self._server_tools
        system = request.system if request.system and request.system.strip() else None
        free = _BREAKPOINTS - sum("cache_control" in one for one in (fields, *tools)) if self._cache else 0
        if tools:
            fields["tools"] = self._cached_tools(tools) if free > _CACHED_TURNS + bool(system) else tools
        else:
            fields.pop("tool_choice", None)
        if (fields.get("thinking") or {}).get("type") == "enabled" and self._began_unthinking(request.messages):
            del fields["thinking"]  # the API refuses to begin it in the middle of a step
        if system:
            cached = self._breakpoint if free > _CACHED_TURNS else {}
            fields["system"] = [{"type": "text", "text": system} | cached]
        if self._server_tools and CONTAINER not in fields and (container := self._container(request.messages)):
            fields["container"] = container
        if request.response_schema is not None:
            fields["output_config"] = {
                **fields.get("output_config", {}),
                "format": self._format(request.response_schema),
            }
        if request.stream:
            fields["stream"] = True
        settled = self._turns(request.messages, without=1)
        newest = b",".join(self._newest(settled, request.messages[-1:], min(free, _CACHED_TURNS)))
        return b"".join((to_json(fields)[:-1], b',"messages":[', settled.done, newest, b"]}"))

    def _add(self, turns: _Turns, message: Message) -> None:
        """Adds a message that another follows."""
        sent = self._memo(message)
        turns.add(sent.role, sent.settled)

    def _newest(self, settled: _Turns, last: Sequence[Message], marked: int) -> Iterator[bytes]:
        """The newest turns, with the last message, and breakpoints behind so many of the user's.

        A breakpoint finds what an earlier request wrote at most 20 blocks before it, and one answer may make more calls than
        that. So there is one where the request before had its last, too.
        https://platform.claude.com/docs/en/build-with-claude/prompt-caching
        """
        newest = _Turns()
        newest.newest = [(role, [*parts]) for role, parts in settled.newest]
        for message in last:
            newest.add(self._memo(message).role, self._memo(message).parts)
        if newest.done:
            yield bytes(newest.done[:-1])
        mark = b',"cache_control":' + to_json(self._cache) + b"}"
        users = [parts for role, parts in newest.newest if role == "user"]
        for parts in users[::-1][: max(0, marked)]:
            parts[-1] = parts[-1][:-1] + mark
        for role, parts in newest.newest:
            yield _turn(role, parts)

    @property
    def _breakpoint(self) -> dict[str, Any]:
        return {"cache_control": self._cache} if self._cache else {}

    def _cached_tools(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The tools with a breakpoint behind the last one that the prompt begins with: deferred ones aren't part of it."""
        last = next((index for index in reversed(range(len(tools))) if not tools[index].get("defer_loading")), None)
        return [self._marked(tool) if index == last else tool for index, tool in enumerate(tools)]

    def _marked(self, tool: dict[str, Any]) -> dict[str, Any]:
        return tool if "cache_control" in tool else tool | self._breakpoint

    def _began_unthinking(self, messages: Sequence[Message]) -> bool:
        """Whether results answer calls that no thinking of ours led to, as when another provider made them."""
        last = next((at for at in reversed(range(len(messages))) if messages[at].role == "assistant"), len(messages))
        if not any(message.tool_results for message in messages[last + 1 :]):
            return False
        first = for_origin(messages[last], self._origin).content[0]
        signed = isinstance(first, ThinkingBlock) and first.signature
        return not signed and not (isinstance(first, RawBlock) and first.kind == "redacted_thinking")

    def _container(self, messages: Sequence[Message]) -> str | None:
        """The container that the latest answer used, unless it has expired."""
        containers = (self._memo(message).container for message in reversed(messages))
        latest = next(filter(None, containers), None)
        return None if latest is None or _expired(latest, self._now()) else str(latest["id"])

    # --- messages ----------------------------------------------------------------------------------------------------

    def _message(self, message: Message) -> _Sent:
        message = for_origin(message, self._origin, _CALL_IDS)
        if message.role == "user":
            parts = tuple(_json(part) for part in self._user(message))
            return _Sent("user", parts, parts)
        parts = tuple(_parts(message.content))
        settled = parts if (content := _settled(message.content)) == message.content else tuple(_parts(content))
        return _Sent("assistant", parts, settled, _container_of(message))

    def _user(self, message: Message) -> Iterator[dict[str, Any]]:
        after: list[dict[str, Any]] = []
        for block in message.content:
            match block:
                case ToolResultBlock():
                    result, media = self._result(block)
                    yield result
                    after += media
                case TextBlock(text=text):
                    if text.strip():
                        after.append({"type": "text", "text": text})
                case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
                    after.append(self._media(block))
                case _:
                    raise _refused(f"a {type(block).__name__} in a user's message")
        yield from after

    def _result(self, block: ToolResultBlock) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """A tool's result, and what of it must stand behind all results: the API takes no media in one of an error."""
        parts = [self._result_part(part) for part in block.content]
        media = [part for part in parts if part["type"] != "text"] if block.is_error else []
        inside = [part for part in parts if part not in media]
        if not inside:
            inside = [{"type": "text", "text": "(see the attached media)" if media else "(no output)"}]
        result: dict[str, Any] = {"type": "tool_result", "tool_use_id": block.tool_use_id, "content": inside}
        return result | ({"is_error": True} if block.is_error else {}), media

    def _result_part(self, part: ResultContent) -> dict[str, Any]:
        match part:
            case TextBlock(text=text):
                return {"type": "text", "text": text if text.strip() else "(blank)"}
            case ImageBlock() | DocumentBlock():
                return self._media(part)
            case AudioBlock() | VideoBlock():
                return {"type": "text", "text": f"({part.type} of type {part.media_type}, which can't be shown here)"}
            case _:
                assert_never(part)

    def _media(self, block: MediaBlock) -> dict[str, Any]:
        match block:
            case ImageBlock():
                return {"type": "image", "source": _source(block)}
            case DocumentBlock():
                title = {"title": block.name} if block.name else {}
                citations = {"citations": {"enabled": True}} if self._citations else {}
                return {"type": "document", "source": _source(block)} | title | citations
            case AudioBlock() | VideoBlock():
                raise _refused(f"{block.type}; give the model a transcript or pictures")
            case _:
                assert_never(block)


def _shorten(fields: dict[str, Any], limit: int) -> None:
    """Limits the answer; the thinking has to be less, or it can't be."""
    fields["max_tokens"] = limit = lesser(fields.get("max_tokens"), limit)
    thinking = fields.get("thinking") or {}
    if thinking.get("type") == "enabled" and thinking.get("budget_tokens", 0) >= limit:
        if limit <= _LEAST_THINKING:
            del fields["thinking"]
        else:
            fields["thinking"] = thinking | {"budget_tokens": max(_LEAST_THINKING, limit // 2)}


def _json(part: Mapping[str, Any]) -> bytes:
    return to_json(part, inf_nan_mode="null")  # JSON has no NaN, but answers may


def _parts(blocks: Iterable[Block]) -> Iterator[bytes]:
    return (_json(part) for block in blocks if (part := _assistant_part(block)) is not None)


def _assistant_part(block: Block) -> dict[str, Any] | None:
    match block:
        case TextBlock(text=text, extra=extra):
            return dict(extra or {}) | {"type": "text", "text": text} if text.strip() else None
        case ThinkingBlock(text=text, signature=signature, extra=extra):
            # Without a signature, as where it was cut off, the API refuses it.
            return (
                dict(extra or {}) | {"type": "thinking", "thinking": text, "signature": signature}
                if signature
                else None
            )
        case ToolUseBlock(id=call_id, name=name, input=arguments, extra=extra):
            call = {"type": "tool_use", "id": call_id, "name": _tool_name(name), "input": arguments}
            return dict(extra or {}) | call
        case ServerToolUseBlock(raw=raw) | ServerToolResultBlock(raw=raw):
            return dict(raw)
        case RawBlock(kind=kind, data=data):
            return None if kind == CONTAINER else dict(data)
        case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
            return {"type": "text", "text": f"({block.type} of type {block.media_type}, made by another model)"}
        case ToolResultBlock():
            raise _refused("a tool result in an assistant's message")
        case _:
            assert_never(block)


def _turn(role: Role, parts: Iterable[bytes]) -> bytes:
    return b'{"role":"%s","content":[%s]}' % (role.encode(), b",".join(parts))


def _settled(content: tuple[Block, ...]) -> tuple[Block, ...]:
    """An answer without what only a continuation of it may have: the vendor's calls without a result, thinking at its end.

    An unanswered call of ours keeps the vendor's open, since the vendor's code may be what made it.
    """
    if not any(isinstance(block, ToolUseBlock) for block in content):
        content = tuple(_answered(content))
    end = len(content)
    while end and _is_aside(content[end - 1]):
        end -= 1
    return content[:end]


def _answered(content: Iterable[Block]) -> Iterator[Block]:
    """The blocks but for the vendor's calls without a result, and what code made that one of these ran."""
    content = list(content)
    done = {block.tool_use_id for block in content if isinstance(block, ServerToolResultBlock)}
    gone = {block.id for block in content if isinstance(block, ServerToolUseBlock) and block.id not in done}
    for block in content:
        match block:
            case ServerToolUseBlock(id=call_id, raw=raw) | ServerToolResultBlock(tool_use_id=call_id, raw=raw):
                if call_id in gone or _caller(raw) in gone:
                    gone.add(call_id)
                else:
                    yield block
            case _:
                yield block


def _caller(raw: Mapping[str, Any]) -> str | None:
    """The call of the vendor's whose code made this one."""
    caller = raw.get("caller")
    return caller.get("tool_id") if isinstance(caller, dict) else None


def _is_aside(block: Block) -> bool:
    return isinstance(block, ThinkingBlock) or (
        isinstance(block, RawBlock) and block.kind in ("redacted_thinking", CONTAINER)
    )


def _container_of(message: Message) -> Mapping[str, Any] | None:
    found = [b.data for b in message.content if isinstance(b, RawBlock) and b.kind == CONTAINER and b.data.get("id")]
    return found[-1] if found else None


def _expired(container: Mapping[str, Any], now: float) -> bool:
    try:
        return datetime.fromisoformat(container["expires_at"]).timestamp() <= now
    except (KeyError, TypeError, ValueError):
        return False  # it doesn't say


def _tool(tool: ToolSpec) -> dict[str, Any]:
    """A tool; one of a type of the vendor's has its description and schema there."""
    options = tool_options(tool, "anthropic")
    if options.get("type", "custom") != "custom":
        return {"name": tool.name} | options
    schema: Mapping[str, Any] | None = tool.input_schema
    if options.get("strict") and (schema := strict_schema(tool.input_schema, ANTHROPIC)) is None:
        schema = tool.input_schema
        del options["strict"]  # it can't be
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name} | described | {"input_schema": schema} | options


def answer_format(schema: Mapping[str, Any]) -> dict[str, Any]:
    """What the API calls a format: the schema, as far as it can be enforced."""
    return {"type": "json_schema", "schema": strict_schema(schema, ANTHROPIC) or schema}


def _tool_name(name: str) -> str:
    """A name that the API takes, for calls of tools that another model made up."""
    return re.sub("[^A-Za-z0-9_-]", "_", name)[:64] or "unnamed"


def _source(block: ImageBlock | DocumentBlock) -> dict[str, Any]:
    if block.data is None:
        return {"type": "url", "url": block.url}
    if block.media_type.startswith("text/"):
        return {"type": "text", "media_type": "text/plain", "data": block.data.decode(errors="replace")}
    return {"type": "base64", "media_type": block.media_type, "data": base64.b64encode(block.data).decode()}


def _refused(what: str) -> ProviderError:
    return ProviderError(f"Anthropic can't be sent {what}", kind="invalid_request")
