"""Replies from a script: a provider for tests, examples and demonstrations."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self, TypeAlias, get_args

import anyio

from alloy._quick import quick
from alloy.errors import InvalidOptionError, ProviderError
from alloy.messages import Block, Message, TextBlock, ThinkingBlock, ToolUseBlock
from alloy.providers.base import (
    Completion,
    Delta,
    ProviderItem,
    Request,
    StructuredOutput,
    TextDelta,
    ThinkingDelta,
    ToolCallDelta,
)
from alloy.providers.batches import Batches
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence

    from alloy.result import StopReason

__all__ = ["Reply", "ScriptLine", "Scripted"]


@quick
@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer of a script.

    Attributes:
        text: what the model says; streamed word by word.
        thinking: what it thinks before.
        tool_calls: the tools it calls after; a call without an id gets one.
        blocks: anything else in its message, put first.
        stop_reason: why it stops; by default ``tool_use`` with tool calls and ``end_turn`` without.
        usage: what it takes, in tokens.
        detail: what is said of a refusal.
        error: raised in place of the answer's end.
        hangs: whether it never ends, after having said what it says.
    """

    text: str = ""
    thinking: str = ""
    tool_calls: tuple[ToolUseBlock, ...] = ()
    blocks: tuple[Block, ...] = ()
    stop_reason: StopReason | None = None
    usage: Usage = Usage(input_tokens=10, output_tokens=5, requests=1)  # noqa: RUF009  frozen
    detail: str | None = None
    error: Exception | None = None
    hangs: bool = False


ScriptLine: TypeAlias = "Reply | str | Exception | Callable[[Request], Reply | str | Exception]"
"""A reply, its text, an error to raise, or a function that makes one of these out of the request."""


class Scripted:
    """A provider that answers from a script, one line a request.

    Args:
        script: the replies, in order.
        name: whose name it goes by.
        model: which model it says it is.
        structured_output: how it is made to answer by a schema, which is for the script to do.

    """

    def __init__(
        self,
        script: Sequence[ScriptLine],
        *,
        name: str = "scripted",
        model: str = "script",
        structured_output: StructuredOutput = "native",
    ) -> None:
        if isinstance(script, str | bytes):
            raise InvalidOptionError("script", "a list of replies", script)
        self._lines = list(script)
        for line in self._lines:
            if not isinstance(line, Reply | str | Exception) and not callable(line):
                raise InvalidOptionError("script", "text, Reply objects, exceptions or functions of a Request", line)
        if structured_output not in get_args(StructuredOutput):
            expected = f"one of {', '.join(get_args(StructuredOutput))}"
            raise InvalidOptionError("structured_output", expected, structured_output)
        self._name = name
        self._model = model
        self._structured_output = structured_output
        self._calls = 0
        self._asked: list[tuple[Request, tuple[Message, ...]]] = []
        self._requests: list[Request] = []

    @property
    def name(self) -> str:
        """Whose name it goes by."""
        return self._name

    @property
    def model(self) -> str:
        """Which model it says it is."""
        return self._model

    @property
    def requests(self) -> list[Request]:
        """Every request so far, with the messages as they were."""
        for request, messages in self._asked[len(self._requests) :]:
            self._requests.append(dataclasses.replace(request, messages=messages))
        return self._requests

    def structured_output(self, schema: Mapping[str, Any], *, tools: bool) -> StructuredOutput:  # noqa: ARG002  a script decides for itself
        """As it was said."""
        return self._structured_output

    def __repr__(self) -> str:
        return f"Scripted({len(self._asked)} of {len(self._lines)} replies given)"

    def stream(self, request: Request) -> AbstractAsyncContextManager[AsyncIterator[ProviderItem]]:
        """Gives the next reply of the script.

        Raises:
            ProviderError: the script is at its end.
            Exception: what the script says.
        """
        return _Answer(self, request)

    def answer(self, request: Request) -> tuple[Sequence[Delta], Reply, Completion]:
        """The next reply: its pieces, itself, and its end.

        Raises:
            ProviderError: the script is at its end.
            Exception: what the script says.
        """
        reply = self._next(request)
        calls = tuple(map(self._with_id, reply.tool_calls))
        completion = Completion(
            message=self._message(reply, calls),
            stop_reason=reply.stop_reason or ("tool_use" if calls else "end_turn"),
            usage=reply.usage,
            raw_stop_reason=reply.stop_reason,
            detail=reply.detail,
        )
        return tuple(_deltas(reply, calls)) if request.stream else (), reply, completion

    def _next(self, request: Request) -> Reply:
        number = len(self._asked)
        self._asked.append((request, tuple(request.messages)))
        if number >= len(self._lines):
            raise ProviderError(
                f"the script has {len(self._lines)} replies, and this is request {number + 1}",
                kind="invalid_request",
                provider=self._name,
                model=self._model,
            )
        line = self._lines[number]
        if not isinstance(line, Reply | str | Exception):
            line = line(request)
        if isinstance(line, Exception):
            raise line
        return Reply(text=line) if isinstance(line, str) else line

    def _with_id(self, call: ToolUseBlock) -> ToolUseBlock:
        if call.id:
            return call
        self._calls += 1
        return ToolUseBlock(f"call_{self._calls}", call.name, call.input, call.invalid, call.extra)

    def _message(self, reply: Reply, calls: tuple[ToolUseBlock, ...]) -> Message:
        content: list[Block] = [*reply.blocks]
        if reply.thinking:
            content.append(ThinkingBlock(reply.thinking))
        if reply.text:
            content.append(TextBlock(reply.text))
        return Message("assistant", (*content, *calls), self._name, self._model, self._name, reply.usage)


class _Answer(AbstractAsyncContextManager[Any]):
    """One answer, piece by piece."""

    __slots__ = ("_answer", "_at", "_provider", "_request")

    def __init__(self, provider: Scripted, request: Request) -> None:
        self._provider = provider
        self._request = request
        self._answer: tuple[Sequence[Delta], Reply, Completion]
        self._at = 0

    async def __aenter__(self) -> AsyncIterator[ProviderItem]:
        await asyncio.sleep(0)
        self._answer = self._provider.answer(self._request)
        return Batches(self)

    async def __aexit__(self, *error: object) -> None:
        self._at = -1

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Sequence[ProviderItem]:
        deltas, reply, completion = self._answer
        self._at += 1
        if 0 < self._at <= len(deltas):
            await asyncio.sleep(0)
            return (deltas[self._at - 1],)
        if self._at != len(deltas) + 1:
            raise StopAsyncIteration
        if reply.error is not None:
            raise reply.error
        if reply.hangs:
            await anyio.sleep_forever()
        if self._request.stream:
            await asyncio.sleep(0)
        return (completion,)


def _deltas(reply: Reply, calls: tuple[ToolUseBlock, ...]) -> Iterator[Delta]:
    from pydantic_core import to_json  # noqa: PLC0415  only who streams a script needs it

    for word in _words(reply.thinking):
        yield ThinkingDelta(word)
    for word in _words(reply.text):
        yield TextDelta(word)
    for index, call in enumerate(calls):
        arguments = call.invalid if call.invalid is not None else to_json(call.input).decode()
        half = len(arguments) // 2
        yield ToolCallDelta(index, call.id, call.name, arguments[:half])
        yield ToolCallDelta(index, call.id, call.name, arguments[half:])


def _words(text: str) -> Iterator[str]:
    """The text in pieces that end after a space."""
    rest = text
    while rest:
        word, space, rest = rest.partition(" ")
        yield word + space
