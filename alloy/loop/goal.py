"""What has to be there before a run is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from alloy.errors import OutputError
from alloy.history import unique_id
from alloy.messages import Message, TextBlock
from alloy.providers.base import ToolSpec, structured_output
from alloy.tools.base import ToolOutput
from alloy.tools.compact import json_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from alloy.loop.config import Config
    from alloy.loop.output import OutputType
    from alloy.loop.toolrun import ToolBatch
    from alloy.messages import ToolUseBlock
    from alloy.providers.base import Provider, StructuredOutput
    from alloy.result import StopReason
    from alloy.tools.base import Tool

__all__ = ["CUT_OFF", "Goal", "final_tool_name", "goal_of"]

CUT_OFF: tuple[StopReason, ...] = ("max_tokens", "context_window")
"""Why a model stopped that wasn't done."""

NUDGE = "You haven't called the tool {tool!r} successfully yet. Call it now; the task isn't finished before that."
FINAL_TOOL = "Takes your final result. Call it once, when everything else is done; nothing you do after that counts."
ASK = (
    "When you are done, your last message must be the result and nothing else: one JSON object that matches this JSON schema.\n\n"
    "{schema}"
)
ACCEPTED = "This is the result."
TOO_MANY = "Not taken: you gave the result already."
AGAIN = "This isn't the result that was asked for: {problems}. Answer again, with the whole result and nothing else."
AGAIN_BY_TOOL = "Not taken: {problems}. Call {tool!r} again, with the whole result."
NO_CALL = "You haven't given the result yet. Call the tool {tool!r} with it now."
TOO_LONG = "it was cut off at the output limit, so it has to be shorter"
MATCHING = "{again} It must be one JSON object that matches this JSON schema: {schema}"


class Goal:
    """The plain one: the run is complete when the model has nothing more to say.

    Attributes:
        schema: what an answer's text must match, for providers that see to that.
        output: the run's result, once it is there.
    """

    schema: Mapping[str, Any] | None = None
    output: Any = None

    def tools(self, specs: Iterable[ToolSpec]) -> tuple[ToolSpec, ...]:
        """The tools that the model is given, with one of this goal's own, if it has one."""
        return tuple(specs)

    def system(self, prompt: str | None) -> str | None:
        """The system prompt, with what the model has to be told."""
        return prompt

    def answer(self, batch: ToolBatch) -> None:
        """Answers the calls of the goal's own tool, which nobody executes."""

    def reached_by_calls(self, batch: ToolBatch) -> bool:  # noqa: ARG002  the plain one doesn't care
        """Whether the run is complete with these calls, which have their results.

        Raises:
            OutputError: it never will be.
        """
        return False

    def missing_from(self, answer: Message, stop_reason: StopReason) -> Message | None:  # noqa: ARG002  likewise
        """What to tell the model when its answer asks for no tool; None if the run is complete with it.

        Raises:
            OutputError: it never will be.
        """
        return None


class _UntilTool(Goal):
    """A tool has to have been called successfully."""

    def __init__(self, tool: str) -> None:
        self._tool = tool

    def reached_by_calls(self, batch: ToolBatch) -> bool:
        return batch.succeeded(self._tool)

    def missing_from(self, answer: Message, stop_reason: StopReason) -> Message | None:  # noqa: ARG002  only a call counts
        return _said(NUDGE.format(tool=self._tool))


class _Words(Goal):
    """The result is what the model says last."""

    def missing_from(self, answer: Message, stop_reason: StopReason) -> Message | None:  # noqa: ARG002  also if it was cut off
        self.output = answer.text
        return None


class _Value(Goal):
    """The result is a value of a type.

    Args:
        kind: the type.
        way: how the model is made to give one.
        tool: the name of the tool that takes it.
        retries: how many times the model is told what is wrong.
    """

    def __init__(self, kind: OutputType, way: StructuredOutput, tool: str, retries: int) -> None:
        self._kind = kind
        self._way = way
        self._retries = retries
        self._attempts = 0
        self._given = False
        self._wrong: Sequence[str] = ()
        if way == "native":
            self.schema = kind.schema
        self._tool = tool if way == "tool" else None

    def tools(self, specs: Iterable[ToolSpec]) -> tuple[ToolSpec, ...]:
        own = () if self._tool is None else (ToolSpec(self._tool, FINAL_TOOL, self._kind.schema),)
        return (*specs, *own)

    def system(self, prompt: str | None) -> str | None:
        if self._way != "prompt":
            return prompt
        asked = ASK.format(schema=json_text(self._kind.schema))
        return f"{prompt}\n\n{asked}" if prompt and prompt.strip() else asked

    def answer(self, batch: ToolBatch) -> None:
        if self._tool is None:
            return
        self._wrong = ()
        for index in batch.open_calls(self._tool):
            batch.answer(index, self._answer(batch.calls[index]))

    def _answer(self, call: ToolUseBlock) -> ToolOutput:
        from alloy.loop.output import UnfitError  # noqa: PLC0415  loaded already: there is a type

        if self._given:
            return ToolOutput(TOO_MANY, is_error=True)
        try:
            if call.invalid is not None:
                raise UnfitError(["the arguments aren't a JSON object"])
            self._give(self._kind.from_arguments(call.input))
        except UnfitError as unfit:
            self._wrong = unfit.problems
            return ToolOutput(AGAIN_BY_TOOL.format(problems=unfit, tool=call.name), is_error=True)
        return ToolOutput(ACCEPTED)

    def reached_by_calls(self, batch: ToolBatch) -> bool:
        if self._given or self._tool is None:
            return self._given
        own = [record for record in batch.records if record.name == self._tool]
        for record in own:
            if not record.is_error:  # accepted in another process
                self._give(self._kind.from_arguments(record.arguments))
                return True
        if own:
            said = "".join(block.text for block in own[-1].content if isinstance(block, TextBlock))
            self._count(json_text(own[-1].arguments), self._wrong or [said])
        return False

    def missing_from(self, answer: Message, stop_reason: StopReason) -> Message | None:
        from alloy.loop.output import UnfitError  # noqa: PLC0415  loaded already: there is a type

        try:
            if stop_reason in CUT_OFF:
                raise UnfitError([TOO_LONG])
            self._give(self._kind.from_text(answer.text))
        except UnfitError as unfit:
            self._count(answer.text, unfit.problems)
            return _said(self._complaint(unfit.problems, json=unfit.json))
        return None

    def _give(self, value: Any) -> None:
        self.output = value
        self._given = True

    def _count(self, text: str, problems: Sequence[str]) -> None:
        self._attempts += 1
        if self._attempts > self._retries:
            raise OutputError(text, problems, self._attempts)

    def _complaint(self, problems: Sequence[str], *, json: bool) -> str:
        if self._tool is not None:
            called = AGAIN_BY_TOOL.format(problems="; ".join(problems), tool=self._tool)
            return called if json else NO_CALL.format(tool=self._tool)
        again = AGAIN.format(problems="; ".join(problems))
        if json or self._way == "prompt":
            return again
        return MATCHING.format(again=again, schema=json_text(self._kind.schema))  # some hosts ignore what they can't do


def goal_of(config: Config, provider: Provider) -> Goal:
    """What a run of these options has to come to.

    Args:
        config: the options.
        provider: who answers.
    """
    if config.until_tool is not None:
        return _UntilTool(config.until_tool)
    if config.output_type is None:
        return Goal()
    if config.output_type is str:
        return _Words()
    from alloy.loop.output import output_type  # noqa: PLC0415  pydantic, which only who wants a type pays for

    kind = output_type(config.output_type)
    way = structured_output(provider, kind.schema, tools=bool(config.tools))
    return _Value(kind, way, final_tool_name(config.tools), config.output_retries)


def final_tool_name(tools: Iterable[Tool]) -> str:
    """What the tool that takes the result is called beside others."""
    return unique_id("final_result", {tool.name for tool in tools})


def _said(text: str) -> Message:
    return Message("user", (TextBlock(text),))
