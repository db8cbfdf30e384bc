"""The loop: one conversation, turn by turn, until the model is done.

Each rung of the ladder has one concern: `execute` ends the run exactly once, `_guarded` keeps what surrounds it, `_converse` takes
turns, `_turn` takes one, `_complete` gets one answer. What a turn did goes into the history in one step,
without an await and whatever happened, so that the history can be sent at every await.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, assert_never

import anyio
from anyio.lowlevel import checkpoint_if_cancelled

from alloy._tasks import last_words, was_cancelled
from alloy.errors import DeadlineExceededError, Halt, InvalidOptionError, ProviderError
from alloy.history import check_history
from alloy.loop.compactor import compactor_for, details_of
from alloy.loop.desk import Desk
from alloy.loop.goal import CUT_OFF, goal_of
from alloy.loop.listening import NO_ANSWER, Listener, provider_error
from alloy.loop.middleware import Hooks, RunContext
from alloy.loop.prefix import Prefix
from alloy.loop.step import Step
from alloy.loop.toolrun import TRUNCATED, ToolRunner, results_of
from alloy.loop.turn import Turn, announce, since
from alloy.messages import Message, TextBlock
from alloy.providers.base import Completion, Request, ToolSpec, held
from alloy.result import Result
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.events import Emitter
    from alloy.loop.channel import Gate
    from alloy.loop.compactor import Trail
    from alloy.loop.config import Config
    from alloy.loop.conversation import History
    from alloy.loop.toolrun import ToolBatch
    from alloy.providers.base import Provider
    from alloy.providers.budget import Budget
    from alloy.result import Status, StopReason, ToolCall

__all__ = ["Loop"]

LAST_WORDS = 5.0  # seconds that middleware has for its session_end

_log = logging.getLogger("alloy")


def _text(message: Message | None) -> str:
    return message.text if message is not None else ""


@dataclass(frozen=True, slots=True)
class _End:
    """Why the loop ends."""

    status: Status
    error: BaseException | None = None


class Loop:
    """One run.

    Args:
        config: how.
        provider: who answers.
        history: what was said so far, and the prompt that waits for an answer; the run goes on with it.
        events: where to tell what happens.
        gate: holds the run up while its reader is behind.
        budgets: what pays for its requests, its own first.

    Attributes:
        budgets: what pays for its requests, and for those of runs inside of its calls.
        desk: its approvals.
        prefix: what its requests begin with.
        ending: whether it has come to its end, so that nothing can cancel it any more.
        result: how it ended, once it has.
    """

    def __init__(
        self,
        config: Config,
        provider: Provider,
        history: History,
        events: Emitter,
        gate: Gate | None = None,
        budgets: Sequence[Budget] = (),
    ) -> None:
        self.config = config
        self.events = events
        self.history = history
        self.result: Result | None = None
        self.budgets = tuple(budgets)
        self._provider = self._paid(provider)
        self._gate = gate
        self._goal = goal_of(config, provider)
        self._specs = self._goal.tools(
            ToolSpec(tool.name, tool.description, tool.input_schema, tool.options) for tool in config.tools
        )
        self._system = self._goal.system(config.system_prompt)
        self._compactor = compactor_for(config, provider, self._specs, self._system)
        self._hooks = Hooks(config.middleware)
        self._context = RunContext(self, config, self._provider, request_id=events.correlation_id)
        self.desk = Desk(events)
        tools = {tool.name: tool for tool in config.tools}
        self._runner = ToolRunner(config, tools, self._hooks, self._context, events, self.desk, gate, self._spend)
        self.prefix = Prefix()
        self._listener = Listener(self._provider, events, gate, self._spend)
        self._usage = Usage()
        self._uncounted: list[Usage] = []
        self._caller = events.agent_id or events.correlation_id
        self._stop_reason: StopReason | None = None
        self._calls: list[ToolCall] = []
        self._answers = 0
        self._paused: Message | None = None
        self._turn_now: Turn | None = None
        self._step: Step | None = None
        self._last: Message | None = None
        self._started = (0, 0.0)
        self.ending = False

    # --- the run -----------------------------------------------------------------------------------------------------

    async def execute(self) -> Result:
        """Runs to the end, and tells of it exactly once.

        Returns:
            The result, whatever its status but ``cancelled``.

        Raises:
            BaseException: the cancellation of whoever awaits it, once the result stands in `result`.
        """
        self._started = (
            self.events.emit(
                "run_start",
                provider=self._provider.name,
                model=self._provider.model,
                tools=[spec.name for spec in self._specs],
            ),
            time.perf_counter(),
        )
        try:
            end = await self._within_deadline()
            # a cancellation that was told of counts, also if nothing was waited for since
            await checkpoint_if_cancelled()
        except BaseException as error:
            await self._settle(_End("cancelled" if was_cancelled(error) else "failed", error))
            raise
        return await self._settle(end)

    async def _settle(self, end: _End) -> Result:
        """Makes the result and broadcasts it, after the middleware's last words."""
        self.ending = True
        self._keep_paused()
        error = None if end.status == "cancelled" else end.error
        result = Result(
            status=end.status,
            output=self._goal.output if end.status == "completed" else None,
            text=_text(self._last) if end.status in ("completed", "max_turns") else "",
            messages=tuple(self.history.messages),
            usage=self.usage,
            tool_calls=tuple(self._calls),
            stop_reason=self._stop_reason,
            turns=self._answers,
            error=error,
            request_id=self.events.correlation_id,
        )
        try:
            if self._hooks.has("session_end"):
                await last_words(lambda: self._say_goodbye(result), within=LAST_WORDS)
        finally:
            self.result = result
            self._tell_budget()
            announce(self.events, result, *self._started)
        return result

    def _tell_budget(self) -> None:
        if self.budgets:
            spent, left = self.budgets[0].spent, self.budgets[0].left
            self.events.emit("runtime_event", kind="budget", spent=spent.as_dict(), left=left.as_dict())

    async def _say_goodbye(self, result: Result) -> None:
        try:
            await self._hooks.tell("session_end", result, self._context)
        except Exception as error:  # noqa: BLE001  the outcome stands, and this is logged
            _log.exception("middleware failed in session_end")
            self.events.emit("runtime_event", kind="middleware_error", hook="session_end", error=type(error).__name__)

    async def _within_deadline(self) -> _End:
        timeout = self.config.timeout
        if timeout is None:
            return await self._guarded()
        with anyio.move_on_after(timeout):
            return await self._guarded()
        return await self._failed(DeadlineExceededError(timeout))

    async def _guarded(self) -> _End:
        """Holds the provider, and makes an end of whatever is raised."""
        try:
            async with held(self._provider):
                await self._hooks.tell("session_start", self._context)
                return await self._converse()
        except Halt as halt:
            return _End("halted", halt)
        except (Exception, anyio.get_cancelled_exc_class()) as error:
            if was_cancelled(error):
                raise
            return await self._failed(error)

    async def _failed(self, error: BaseException) -> _End:
        try:
            with anyio.move_on_after(LAST_WORDS):
                await self._hooks.tell("on_error", error, self._context)
        except Exception as second:  # noqa: BLE001  the first error counts, and this is logged
            _log.exception("middleware failed in on_error")
            self.events.emit("runtime_event", kind="middleware_error", hook="on_error", error=type(second).__name__)
        return _End("failed", error)

    async def _converse(self) -> _End:
        while self._step is not None or self.events.turn < self.config.max_turns:
            end = await self._turn()
            if self.desk.keeper is not None and self.desk.keeper.active:
                await self.desk.keeper.done()
            if end is not None:
                return end
        return _End("max_turns")

    def go_on_after(self, trail: Trail | None) -> Trail:
        """Takes over what an earlier run of the same conversation has left, and gives what to hand on to the next."""
        if trail is not None:
            self.prefix, before = trail
            if before is not None and self._compactor is not None:
                self._compactor.go_on_after(before)
        return self.prefix, self._compactor

    def resume(self, step: Step) -> None:
        """Begins with the calls of an answer that is there already, and the results that are there."""
        self._step = step
        self._usage = step.usage
        self.history.prompt = step.prompt
        self._calls = list(step.calls)
        self._answers = step.turns
        self._stop_reason = step.stop_reason
        self.events.turn = step.turn - 1

    def step(self, request: Message) -> Step | None:
        """Where it is, if that is between an answer with calls and their results.

        Args:
            request: the user's words that it is about.
        """
        turn = self._turn_now
        if turn is None or turn.batch is None or turn.message is None:
            return None
        records, begun = turn.batch.progress
        return Step(
            request_id=self.events.correlation_id,
            request=request,
            prompt=self.history.prompt,
            message=turn.message,
            records=records,
            begun=begun,
            calls=tuple(self._calls),
            turn=self.events.turn,
            turns=self._answers + (turn.completion is not None),
            stop_reason=self._stop_reason if turn.completion is None else turn.completion.stop_reason,
            usage=self.usage,
        )

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        self._usage, self._uncounted = self._usage.plus(self._uncounted), []
        return self._usage

    # --- a turn ------------------------------------------------------------------------------------------------------

    async def _turn(self) -> _End | None:
        self.events.turn += 1
        turn = self._turn_now = Turn(self.events.emit("turn_start"))
        try:
            if self._step is not None:
                return await self._go_on(turn, self._step)
            completion = await self._complete(turn)
            return await self._act(turn, completion)
        except BaseException as error:
            turn.error = "cancelled" if was_cancelled(error) else type(error).__name__
            if turn.message is None:
                self._keep_heard(turn)
            raise
        finally:
            self._turn_now = None
            self._end_turn(turn)

    async def _go_on(self, turn: Turn, step: Step) -> _End | None:
        """Acts on the calls of an answer that was heard before, in another process as may be."""
        self._step = None
        turn.take(step.message, self._runner)
        if turn.batch is None:
            return None
        turn.batch.go_on_from(step.records, step.begun)
        return await self._execute(turn.batch)

    def _end_turn(self, turn: Turn) -> None:
        """Puts the whole step into the history and tells of it."""
        self._last = turn.message
        if turn.completion is not None:
            self._answers += 1
            self._stop_reason = turn.completion.stop_reason
        if turn.batch is not None and turn.message is not None:
            records = turn.batch.records
            self.history.commit(turn.message, Message("user", results_of(records)))
            self._calls.extend(records)
        elif turn.message is not None:
            self.history.commit(turn.message)
        if turn.next_prompt is not None:
            self.history.say(turn.next_prompt)
        if not self.events.watched:
            return
        self.events.emit(
            "turn_end",
            stop_reason=turn.completion and turn.completion.stop_reason,
            text=_text(turn.message),
            usage=turn.usage.as_dict(),
            start_event_seq=turn.seq,
            duration_ms=since(turn.at),
            error=turn.error,
        )

    async def _act(self, turn: Turn, completion: Completion) -> _End | None:
        """Does what the answer asks for; None to take another turn."""
        self._refuse(completion)
        turn.take(self._accepted(completion), self._runner)
        if self._hooks.has("after_completion"):
            heard = completion
            completion = await self._hooks.thread("after_completion", heard, Completion, self._context)
            if completion is not heard:
                self._refuse(completion)
                turn.take(self._accepted(completion), self._runner)
        if self._compactor is not None:
            self._compactor.learn(completion, self._context)
        if turn.batch is not None:
            self._paused = None
            return await self._act_on_calls(turn.batch, completion.stop_reason)
        if completion.stop_reason in ("pause_turn", "tool_use"):  # without a call of ours: the vendor's is pending
            self._paused, turn.message = turn.message, None
            return None
        self._paused = None
        turn.next_prompt = self._goal.missing_from(turn.message or completion.message, completion.stop_reason)
        return _End("completed") if turn.next_prompt is None else None

    async def _act_on_calls(self, batch: ToolBatch, stop_reason: StopReason) -> _End | None:
        if stop_reason in CUT_OFF:
            batch.refuse(TRUNCATED)
            self._goal.reached_by_calls(batch)  # not by these, but what was tried is counted
            return None
        if self._hooks.has("after_tool_request"):
            await self._hooks.tell("after_tool_request", batch.calls, self._context)
        return await self._execute(batch)

    async def _execute(self, batch: ToolBatch) -> _End | None:
        self._goal.answer(batch)
        await batch.execute()
        return _End("completed") if self._goal.reached_by_calls(batch) else None

    def _refuse(self, completion: Completion) -> None:
        """Raises where the answer is none: a refusal, whose partial answer is discarded, or an end that nobody knows."""
        match completion.stop_reason:
            case "refusal":
                said = f": {completion.detail}" if completion.detail else ""
                raise provider_error(
                    self._provider, f"the model refused to answer{said}", "refused", completion.raw_stop_reason
                )
            case "unknown":
                reason = completion.raw_stop_reason
                said = f"the model stopped for an unknown reason, {reason!r}"
                raise provider_error(self._provider, said, "unknown", reason)
            case "end_turn" | "tool_use" | "max_tokens" | "stop_sequence" | "pause_turn" | "context_window":
                return
            case _:
                assert_never(completion.stop_reason)

    def _accepted(self, completion: Completion) -> Message:
        """The answer as the history takes it, with what was said before a pause."""
        said = completion.message
        if self._paused is None and said.usage is completion.usage:
            return self.history.answer(said)
        before = () if self._paused is None else self._paused.content
        message = Message(
            said.role, before + said.content, said.provider, said.model, said.origin, completion.usage, said.interrupted
        )
        return self.history.answer(message)

    def _keep_paused(self) -> None:
        """What was said before a pause that nothing followed stays, as a message of its own."""
        if self._paused is not None:
            self.history.commit(self._paused)
            self._paused = None

    # --- an answer ---------------------------------------------------------------------------------------------------

    async def _complete(self, turn: Turn) -> Completion:
        """One answer; a history that is too long is made shorter before, or once more when the provider says so."""
        if self._paused is None:
            await self._compact()
        try:
            return await self._listener.listen(turn, await self._request())
        except ProviderError as error:
            if error.kind != "context_overflow" or turn.emitted or not await self._shortened(error):
                raise
        return await self._listener.listen(turn, await self._request())

    async def _compact(self) -> None:
        """Makes the history shorter, if somebody thinks that it must be: middleware first."""
        before, compactor = self.history.upcoming, self._compactor
        after = await self._hooks.first("compact", before, self._context) if self._hooks.has("compact") else None
        if after is None and compactor is not None and compactor.worth_counting(before):
            after = await compactor.compact(before, self._context)
        if after is not None:
            await self._replace(before, after, "compact")

    async def ask_aside(self, provider: Provider, request: Request) -> Completion:
        """Asks something besides the conversation; see `RunContext.complete`."""
        request = dataclasses.replace(request, stream=False, caller=self._caller, priority=self.config.priority)
        return await self._listener.ask_aside(self._paid(provider), request)

    def _paid(self, provider: Provider) -> Provider:
        """The provider, whose requests are paid for if the run has a budget."""
        if not self.budgets:
            return provider
        from alloy.providers.budgeted import budgeted  # noqa: PLC0415  only who has a budget pays for it

        return budgeted(provider, self.budgets, lambda asked: self._context.model_info(asked))  # noqa: PLW0108  there is no context yet

    async def _request(self) -> Request:
        messages = self.history.upcoming
        if self._paused is not None:
            messages = [*messages, self._paused]
        request = Request(
            messages=messages,
            system=self._system,
            tools=self._specs,
            stream=self.events.watched,
            caller=self._caller,
            priority=self.config.priority,
            response_schema=self._goal.schema,
        )
        if self._hooks.has("before_completion"):
            messages = tuple(messages)  # the list itself is nobody's to change
            request = dataclasses.replace(request, messages=messages)
            request = await self._hooks.thread("before_completion", request, Request, self._context)
        broken = self.prefix.follow(request, self._provider, edited=request.messages is not messages)
        if broken is not None:
            self.events.emit("runtime_event", kind="prefix_changed", **broken)
        return request

    async def _shortened(self, error: ProviderError) -> bool:
        before = tuple(self.history.upcoming)
        after = await self._hooks.first("on_context_overflow", error, before, self._context)
        if after is None and self._compactor is not None:
            after = await self._compactor.after_overflow(error, before, self._context)
        return await self._replace(before, after, "on_context_overflow")

    async def _replace(self, before: Sequence[Message], after: Sequence[Message] | None, hook: str) -> bool:
        """Goes on with a shorter history, if it is another one."""
        if after is None or tuple(after) == tuple(before):
            return False
        check_history(after)
        if not after or after[-1].role != "user":
            raise InvalidOptionError(f"middleware.{hook}", "a history that ends with the user's turn", after)
        details = details_of(self._compactor, after)
        before, after = tuple(before), tuple(after)
        self.history.replace(after)
        self.events.emit("compaction", before_messages=len(before), after_messages=len(after), **details)
        await self._hooks.tell("after_compaction", before, after, self._context)
        return True

    def _spend(self, usage: Usage) -> None:
        self._uncounted.append(usage)  # added up when somebody asks

    def _keep_heard(self, turn: Turn) -> None:
        """Takes what there is of an answer that broke off: all of it, or else the text that somebody saw."""
        if turn.completion is not None:
            if turn.completion.stop_reason not in NO_ANSWER:
                turn.take(self._accepted(turn.completion), self._runner)
                self._paused = None
            return
        text = "".join(turn.shown)
        if text.strip():
            before = self._paused.content if self._paused else ()
            turn.message = Message(
                "assistant",
                (*before, TextBlock(text)),
                provider=self._provider.name,
                model=self._provider.model,
                interrupted=True,
            )
            self._paused = None
