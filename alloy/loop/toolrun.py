"""One batch of tool calls: order, concurrency, limits, and a result for every call whatever happens."""

from __future__ import annotations

import asyncio
import dataclasses
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio

from alloy._secrets import without_keys
from alloy._tasks import deadline_scope, ending_alone, task_group, was_cancelled
from alloy.errors import ToolError
from alloy.history import UNKNOWN_OUTCOME
from alloy.loop.desk import Foresees
from alloy.loop.middleware import Blocked
from alloy.loop.seat import CallSeat
from alloy.messages import TextBlock, ToolResultBlock, ToolUseBlock
from alloy.result import ToolCall
from alloy.tools.base import Tool, ToolContext, ToolOutput
from alloy.tools.compact import json_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from alloy.events import Emitter
    from alloy.loop.channel import Gate
    from alloy.loop.config import Config
    from alloy.loop.desk import Desk, Keeper
    from alloy.loop.middleware import Hooks, RunContext
    from alloy.usage import Usage

__all__ = ["ToolBatch", "ToolRunner", "results_of"]

NOT_EXECUTED = "Not executed: the run ended before this call was begun."
TRUNCATED = (
    "Not executed: your answer was cut off at the output limit, so this call may be incomplete. "
    "Call again, with shorter arguments or fewer calls at once."
)
NOT_SAVED = "Not executed: the session can't be saved, and without that this call might be executed twice."
CHANGED = "[The arguments of this call were changed before it was executed; they were {arguments}]"
NO_OUTPUT = "(no output)"


@dataclass(frozen=True, slots=True)
class ToolRunner:
    """What all the batches of one run share."""

    config: Config
    tools: Mapping[str, Tool]
    hooks: Hooks
    context: RunContext
    events: Emitter
    desk: Desk
    gate: Gate | None
    count: Callable[[Usage], None]


class ToolBatch:
    """The calls of one answer, in order.

    `results` and `records` have one entry a call at any time, so that whoever is interrupted while the batch runs can put a
    complete step into the history.
    """

    def __init__(self, runner: ToolRunner, calls: Sequence[ToolUseBlock]) -> None:
        self.calls = tuple(calls)
        self._runner = runner
        self._records: list[ToolCall | None] = [None] * len(self.calls)
        self._begun = [False] * len(self.calls)
        self._limits: Mapping[str, anyio.Semaphore] = {}
        self._failure: BaseException | None = None

    @property
    def records(self) -> tuple[ToolCall, ...]:
        """Each call with its outcome; of those without one, that it wasn't executed or that nobody knows."""
        return tuple(
            [
                record or self._record(call, ToolOutput(UNKNOWN_OUTCOME if begun else NOT_EXECUTED, is_error=True))
                for call, record, begun in zip(self.calls, self._records, self._begun, strict=True)
            ]
        )

    @property
    def results(self) -> tuple[ToolResultBlock, ...]:
        """What goes to the model, in the order of the calls."""
        return results_of(self.records)

    @property
    def progress(self) -> tuple[tuple[ToolCall | None, ...], tuple[bool, ...]]:
        """For each call its outcome, if it has one yet, and whether it was begun."""
        return tuple(self._records), tuple(self._begun)

    def go_on_from(self, records: Sequence[ToolCall | None], begun: Sequence[bool]) -> None:
        """Takes over what was done before; what was begun then, and has no outcome, isn't executed again."""
        self._records, self._begun = list(records), list(begun)
        for index in range(len(self.calls)):
            if self._begun[index] and self._records[index] is None:
                self.answer(index, ToolOutput(UNKNOWN_OUTCOME, is_error=True))

    def succeeded(self, name: str) -> bool:
        """Whether a call of this tool was executed without an error."""
        return any(record is not None and record.name == name and not record.is_error for record in self._records)

    def open_calls(self, name: str) -> list[int]:
        """Which calls of a tool have no outcome yet."""
        return [index for index, call in enumerate(self.calls) if call.name == name and self._records[index] is None]

    def answer(self, index: int, output: ToolOutput) -> None:
        """Gives a call its outcome; it isn't executed."""
        self._finish(index, output, CallSeat(self._runner, self.calls[index]))

    def refuse(self, reason: str) -> None:
        """Answers every call with an error, and executes none."""
        for index in range(len(self.calls)):
            self.answer(index, ToolOutput(reason, is_error=True))

    async def execute(self) -> None:
        """Executes the calls: neighbours that are safe to run together at once, all others one at a time, in order.

        Raises:
            Exception: what a hook raised, after the calls that ran beside it have ended.
        """
        if len(self.calls) == 1:
            if self._records[0] is None:
                await self._call(0)
            return
        self._limits = self._room()
        groups = [*self._groups()]
        try:
            if len(groups) > 1 and self._runner.desk.answerable:
                await self._ask_ahead([self.calls[index] for group in groups for index in group])
            for group in groups:
                await self._execute_group(group)
        finally:
            self._runner.desk.withdraw(self.calls)

    async def _ask_ahead(self, calls: Sequence[ToolUseBlock]) -> None:
        """Has people asked about all calls at once, also about those whose turn comes later."""
        foreseeing = [one for one in self._runner.config.middleware if isinstance(one, Foresees)]
        expected: list[tuple[ToolUseBlock, str]] = []
        for call in calls:
            for one in foreseeing:
                if (reason := await one.would_ask(call, self._runner.context)) is not None:
                    expected.append((call, reason))
                    break
        await self._runner.desk.ask_ahead(expected)

    async def _execute_group(self, group: Sequence[int]) -> None:
        if len(group) == 1:
            await self._call(group[0])
            return
        async with task_group() as tasks:
            for index in group:
                tasks.start_soon(self._call_beside, index)
        if self._failure is not None:
            raise self._failure

    def _groups(self) -> Iterator[list[int]]:
        group: list[int] = []
        for index, call in enumerate(self.calls):
            if self._records[index] is not None:
                continue
            tool = self._runner.tools.get(call.name)
            if tool is not None and not tool.concurrency_safe:
                if group:
                    yield group
                yield [index]
                group = []
            else:
                group.append(index)
        if group:
            yield group

    def _room(self) -> dict[str, anyio.Semaphore]:
        """For each tool that has a limit of its own how many calls may run at once, and under "" for all of them."""
        own = {name: tool.max_concurrency for name, tool in self._runner.tools.items() if tool.max_concurrency}
        limits = {"": self._runner.config.max_concurrent_tools, **own}
        return {name: anyio.Semaphore(limit, fast_acquire=True) for name, limit in limits.items()}

    async def _call_beside(self, index: int) -> None:
        """One call among others, which go on when a hook raises; that is kept until they have ended."""
        try:
            with ending_alone:
                await self._call(index)
        except Exception as error:  # noqa: BLE001  raised by execute() when the neighbours have ended
            self._failure = self._failure or error

    async def _call(self, index: int) -> None:
        """One call from its hooks to its record."""
        hooks, desk = self._runner.hooks, self._runner.desk
        call: ToolUseBlock | Blocked = self.calls[index]
        if hooks.has("before_tool_call"):
            call = await hooks.thread("before_tool_call", call, (ToolUseBlock, Blocked), self._runner.context)
        if isinstance(call, Blocked):
            await self._execute(index, self.calls[index], f"Not executed: {call.reason}")
        elif self._limits:
            async with self._limits.get(call.name, _ROOM), self._limits[""]:  # beside others of its tool, then all
                await self._execute(index, call, self._refusal(call))
        else:
            await self._execute(index, call, self._refusal(call))
        desk.withdraw([self.calls[index]])
        if desk.keeper is not None and desk.keeper.active and desk.waiting():
            await desk.keeper.keep()

    async def _begin(self, index: int, keeper: Keeper) -> bool:
        """Saves that a call is begun; False if that can't be."""
        self._begun[index] = True
        kept = False
        try:
            kept = await keeper.keep()
        finally:
            self._begun[index] = kept
        return kept

    def _refusal(self, call: ToolUseBlock) -> str | None:
        if call.invalid is not None:
            return f"Not executed: the arguments aren't a JSON object: {call.invalid[:200]}"
        if call.name not in self._runner.tools:
            known = ", ".join(self._runner.tools) or "none"
            return f"Not executed: there is no tool called {call.name!r}; the tools are: {known}"
        return None

    async def _execute(self, index: int, call: ToolUseBlock, refusal: str | None) -> None:
        runner = self._runner
        seat = CallSeat(runner, call)
        output: ToolOutput | None = None
        try:
            if refusal is None and (keeper := runner.desk.keeper) is not None and keeper.active:
                refusal = None if await self._begin(index, keeper) else NOT_SAVED
            if refusal is not None:
                output = ToolOutput(refusal, is_error=True)
            else:
                self._begun[index] = True
                output = await self._attempt(seat)
                if runner.hooks.has("after_tool_execution"):
                    output = await runner.hooks.thread_output(call, output, runner.context)
                if call.input != self.calls[index].input and call.input == runner.desk.changed.get(call.id):
                    said = CHANGED.format(arguments=json_text(call.input))
                    output = dataclasses.replace(output, text=f"{said}\n{output.text}")
        finally:
            if output is None:
                seat.end("", is_error=True, error="cancelled")
            else:
                self._finish(index, output, seat)

    async def _attempt(self, seat: CallSeat) -> ToolOutput:
        tool = self._runner.tools[seat.call.name]
        limit = tool.timeout or self._runner.config.tool_timeout
        try:
            deadline = asyncio.get_running_loop().time() + limit + tool.grace  # anyio would look for the loop twice
            with deadline_scope(deadline) as scope:
                seat.scope = scope
                output = ToolOutput.of(await tool.execute(seat.call.input, self._context(seat, limit)))
            if scope.cancelled_caught:
                output = ToolOutput(
                    f"Timed out after {limit:g} seconds. It may or may not have taken effect.", is_error=True
                )
        except ToolError as error:
            output = ToolOutput(str(error), is_error=True)
        except (Exception, SystemExit, anyio.get_cancelled_exc_class()) as error:
            if was_cancelled(error):
                raise
            output = ToolOutput(_failure_text(error), is_error=True)
        finally:
            seat.over = True
        return output

    def _context(self, seat: CallSeat, limit: float) -> ToolContext:
        config, events = self._runner.config, self._runner.events
        return ToolContext(
            call_id=seat.call.id,
            tool_name=seat.call.name,
            correlation_id=events.correlation_id,
            turn=events.turn,
            working_directory=config.working_directory,
            context=config.context,
            report=seat.report,
            allowed_paths=config.allowed_paths,
            timeout=limit,
            seat=seat,
        )

    def _finish(self, index: int, output: ToolOutput, seat: CallSeat) -> None:
        record = self._record(seat.call, output, seat.elapsed_ms())
        self._records[index] = record
        if not self._runner.events.watched:
            return
        text = "".join(block.text for block in record.content if isinstance(block, TextBlock))
        seat.end(text, is_error=record.is_error, error="error" if record.is_error else None)

    def _record(self, call: ToolUseBlock, output: ToolOutput, duration_ms: int = 0) -> ToolCall:
        tool = self._runner.tools.get(call.name)
        limit = (tool and tool.max_result_bytes) or self._runner.config.max_result_bytes
        text = head_and_tail(without_keys(output.text), limit)
        blocks = (TextBlock(text),) if text.strip() else () if output.media else (TextBlock(NO_OUTPUT),)
        return ToolCall(
            id=call.id,
            name=call.name,
            arguments=call.input,
            content=blocks + output.media,
            is_error=output.is_error,
            data=output.data,
            turn=self._runner.events.turn,
            duration_ms=duration_ms,
        )


_ROOM: nullcontext[None] = nullcontext()


def results_of(records: Sequence[ToolCall]) -> tuple[ToolResultBlock, ...]:
    """What of some calls goes to the model."""
    return tuple([ToolResultBlock(record.id, record.content, record.is_error, record.name) for record in records])


def head_and_tail(text: str, limit: int) -> str:
    """The beginning and the end of a text that is longer than `limit` bytes of UTF-8, never cutting a character."""
    if len(text) * 4 <= limit:
        return text
    data = text.encode("utf-8", "replace")
    if len(data) <= limit:
        return text
    half = limit // 2
    head = data[: limit - half].decode("utf-8", "ignore")
    tail = data[len(data) - half :].decode("utf-8", "ignore")
    return f"{head}\n[... {len(data) - limit} bytes left out ...]\n{tail}"


def _failure_text(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f"The tool called sys.exit({error.code!r}), which doesn't end the run."
    text = str(error)
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
