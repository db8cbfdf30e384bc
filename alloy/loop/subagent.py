"""Agents as tools: a model gives a task to another run, and gets its answer."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Unpack

from alloy._ids import new_id
from alloy.errors import AgentDepthError, InvalidOptionError, ToolError
from alloy.events import Emitter
from alloy.loop.asking import budgets_of, build_provider
from alloy.loop.conversation import History, checked_prompt
from alloy.loop.run import both, configured, guarded_sink
from alloy.loop.seat import CallSeat
from alloy.loop.turns import Loop
from alloy.tools.base import Tool, ToolOutput
from alloy.tools.compact import json_text

if TYPE_CHECKING:
    from collections.abc import Mapping

    from alloy.events import Envelope, Sink
    from alloy.loop.config import Config, Options
    from alloy.providers.base import Provider
    from alloy.result import Result
    from alloy.tools.base import ToolContext

__all__ = ["AgentTool", "agent_tool"]

GRACE = 10.0  # seconds that a run whose time is up has to end by itself
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "task": {"type": "string", "description": "What to do, with everything that has to be known for it."}
    },
    "required": ["task"],
    "additionalProperties": False,
}

_depth: ContextVar[int] = ContextVar("alloy_agent_depth", default=0)
"""How many agents the current task is inside of."""


def agent_tool(
    config: Config | None = None,
    *,
    name: str,
    description: str,
    concurrency_safe: bool = True,
    max_concurrency: int | None = None,
    max_depth: int = 3,
    **options: Unpack[Options],
) -> AgentTool:
    """Makes a tool of an agent: each call is a run of its own, with a history of its own, that ends with the call.

    The model gives it a task as text and gets the last words of its run, or what it failed of. With an `output_type` it gets the
    run's result as JSON, which is also in the `data` of the call, under ``output``. Whoever watches the run that calls
    it gets its envelopes inside of ``tool_progress``; its usage is counted with that run's; its approvals are asked there. A
    call may take the `timeout` of its options, or else what any tool may.

    Args:
        config: how the agent's runs are made; options by name go before it. The caller's `context` comes along, below its own.
        name: what the model calls it.
        description: what it can do and when to use it, for the model.
        concurrency_safe: whether it may run beside other calls of the same answer.
        max_concurrency: how many calls of it may run at once.
        max_depth: inside of how many agents it may be called, itself included.
        options: see `Config`.

    Raises:
        ConfigurationError: an option can't be, or there is no provider.
        ToolDefinitionError: no model can be given such a tool.
    """
    depth: Any = max_depth
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise InvalidOptionError("max_depth", "a whole number of at least 1", depth)
    config = configured(config, options)
    if config.provider is None:
        raise InvalidOptionError("provider", "'vendor:model' or a provider object", None)
    return AgentTool(
        config,
        max_depth,
        name=name,
        description=description,
        concurrency_safe=concurrency_safe,
        max_concurrency=max_concurrency,
        input_schema=_SCHEMA,
        timeout=config.timeout,
    )


class AgentTool(Tool):
    """An agent as a tool, made by `agent_tool`."""

    def __init__(self, config: Config, max_depth: int, **options: Any) -> None:
        self._config = config
        self._max_depth = max_depth
        self._provider: Provider | None = None
        super().__init__(**options)
        self.grace = 0.0 if config.timeout is None else GRACE

    async def execute(self, arguments: Mapping[str, Any], context: ToolContext) -> ToolOutput:
        """Runs the agent until it is done with the task.

        Raises:
            AgentDepthError: it is inside of too many agents.
            ToolError: there is no task.
        """
        task = arguments.get("task")
        if not isinstance(task, str) or not task.strip():
            raise ToolError("invalid arguments: task: a text that says what to do is required")
        depth = _depth.get() + 1
        if depth > self._max_depth:
            raise AgentDepthError(self.name, self._max_depth)
        seat = context.seat if isinstance(context.seat, CallSeat) else None
        before = _depth.set(depth)
        try:
            return _output(await self._run(task, context, seat), self._config.output_type)
        finally:
            _depth.reset(before)

    async def _run(self, task: str, context: ToolContext, seat: CallSeat | None) -> Result:
        config = self._config
        if context.context:
            config = config.with_options(context={**context.context, **config.context})
        self._provider = self._provider or build_provider(config)
        events = Emitter(new_id(), _sink(config, seat), agent_id=self.name)
        gate = seat.runner.gate if seat is not None else None
        budgets = budgets_of(config) + (seat.runner.context.budgets if seat is not None else ())
        run = Loop(config, self._provider, History(config.messages, checked_prompt(task)), events, gate, budgets)
        if seat is not None:
            run.desk.use(seat.pass_on, None)
        try:
            return await run.execute()
        finally:
            if seat is not None:
                seat.count(run.usage)


def _sink(config: Config, seat: CallSeat | None) -> Sink | None:
    """Where the envelopes of a run go: to its own `on_event`, and into those of the run that it is inside of."""
    own = guarded_sink(config.on_event)
    if seat is None or not seat.runner.events.watched:
        return own

    def pass_on(envelope: Envelope) -> None:
        seat.tell(
            {
                "v": envelope.v,
                "seq": envelope.seq,
                "correlation_id": envelope.correlation_id,
                "turn": envelope.turn,
                "ts_ms": envelope.ts_ms,
                "event": envelope.event,
                "payload": envelope.payload,
                "agent_id": envelope.agent_id,
            }
        )

    return pass_on if own is None else both(own, pass_on)


def _output(result: Result, kind: Any) -> ToolOutput:
    data: dict[str, Any] = {
        "status": result.status,
        "request_id": result.request_id,
        "turns": result.turns,
        "tool_calls": len(result.tool_calls),
        "usage": result.usage.as_dict(),
    }
    match result.status:
        case "completed":
            if kind is None or kind is str:
                return ToolOutput(result.text, data=data)
            from alloy.loop.output import output_type  # noqa: PLC0415  pydantic, which only who wants a type pays for

            output = output_type(kind).to_json(result.output)
            return ToolOutput(json_text(output), data={**data, "output": output})
        case "max_turns":
            said = f"; its last words were: {result.text}" if result.text.strip() else ""
            text = f"The agent wasn't done after {result.turns} turns{said}"
        case "halted" | "failed" | "cancelled":
            error = result.error or RuntimeError("no cause is known")
            text = f"The agent's run {result.status}: {type(error).__name__}: {error}"
    return ToolOutput(text, data=data, is_error=True)
