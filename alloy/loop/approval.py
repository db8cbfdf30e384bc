"""`Approval`: rules that say which tool calls are allowed, denied, or wait for a person."""

from __future__ import annotations

import dataclasses
import inspect
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, get_args

from alloy._tasks import run_in_thread
from alloy.errors import InvalidOptionError
from alloy.loop.middleware import Blocked, Middleware
from alloy.loop.rules import Action, Rule, rules_from_json, rules_to_json
from alloy.tools.decision import ApprovalRequest, Decision

if TYPE_CHECKING:
    from pathlib import Path

    from alloy.loop.desk import Ask
    from alloy.loop.middleware import RunContext
    from alloy.messages import ToolUseBlock

__all__ = ["Action", "Approval", "ApprovalRequest", "Decision", "Rule", "rules_from_json", "rules_to_json"]

DENIED = "somebody has denied it"
FORBIDDEN = "this call isn't allowed here"


class Approval(Middleware):
    """Checks each tool call against rules; the first that matches says what is done.

    Where a rule says ``ask``, the call waits until it is answered: by `ask`, by `approve` or `deny` of the agent or the stream that
    runs it, or by the time. Where nobody could answer, it is denied at once. It is the same for tools that ask by themselves
    (`ToolContext.ask`): they are answered by the same function, within the same time.

    Args:
        rules: first to last.
        otherwise: what is done about calls that no rule is about.
        timeout: how long a call waits for an answer, in seconds; it is denied then. None for as long as the run may take.
        ask: an async function that is given an `ApprovalRequest` and returns a `Decision`. What it raises ends the run.

    Raises:
        InvalidOptionError: an argument can't be.
    """

    def __init__(
        self,
        rules: Sequence[Rule] = (),
        *,
        otherwise: Action = "ask",
        timeout: float | None = None,
        ask: Ask | None = None,
    ) -> None:
        given: Any = rules
        if isinstance(given, str | bytes) or not isinstance(given, Sequence):
            raise InvalidOptionError("rules", "a list of rules", given)
        for rule in rules:
            if not isinstance(rule, Rule):
                raise InvalidOptionError("rules", "a list of rules: Rule('ask', tool='bash')", rule)
        if otherwise not in get_args(Action):
            raise InvalidOptionError("otherwise", "'allow', 'ask' or 'deny'", otherwise)
        if timeout is not None and not _is_time(timeout):
            raise InvalidOptionError("timeout", "a number of seconds above 0, or None", timeout)
        if ask is not None and not _is_async(ask):
            raise InvalidOptionError("ask", "an async function of one ApprovalRequest", ask)
        self._rules = tuple(rules)
        self._otherwise: Action = otherwise
        self._timeout = timeout
        self._ask = ask

    async def session_start(self, run: RunContext) -> None:
        """Has all approvals of the run answered in its way."""
        run.answer_approvals(self._ask, self._timeout)

    async def before_tool_call(self, call: ToolUseBlock, run: RunContext) -> ToolUseBlock | Blocked | None:
        """Allows, denies or asks; a call that couldn't be executed anyway is let through to its error."""
        action, reason = await self._action(call, run)
        if action == "allow":
            return None
        if action == "deny":
            return Blocked(reason)
        decision = await run.ask(call, reason)
        if not decision:
            return Blocked(decision.reason or DENIED)
        return call if decision.arguments is None else dataclasses.replace(call, input=dict(decision.arguments))

    async def would_ask(self, call: ToolUseBlock, run: RunContext) -> str | None:
        """Why a call will be asked about, so that all calls of one answer are asked about at once; see `before_tool_call`."""
        action, reason = await self._action(call, run)
        return reason if action == "ask" else None

    async def _action(self, call: ToolUseBlock, run: RunContext) -> tuple[Action, str]:
        """What is done about a call, and why."""
        if call.invalid is not None or all(tool.name != call.name for tool in run.tools):
            return "allow", ""
        rule = await self._rule(call, run.working_directory)
        action, reason = (self._otherwise, "") if rule is None else (rule.action, rule.reason)
        return action, reason or (FORBIDDEN if action == "deny" else f"{call.name} needs approval")

    async def _rule(self, call: ToolUseBlock, working_directory: Path) -> Rule | None:
        if any(rule.looks_up(call) for rule in self._rules):
            return await run_in_thread(self._first, call, working_directory, name="alloy approval")
        return self._first(call, working_directory)

    def _first(self, call: ToolUseBlock, working_directory: Path) -> Rule | None:
        return next((rule for rule in self._rules if rule.matches(call, working_directory)), None)


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004  its code is wanted
