"""Every exception that Alloy raises.

AlloyError
├── ConfigurationError (ValueError)      something asked for that can't be, found before any request is sent
│   ├── UnknownOptionError (TypeError)   an option that nobody knows
│   ├── InvalidOptionError               an option with a wrong value
│   ├── UnknownProviderError             a provider string that names nobody
│   ├── MissingKeyError                  no API key
│   ├── MissingExtraError (ImportError)  an optional dependency that isn't installed
│   ├── ToolDefinitionError              a tool that no model can be given
│   ├── UnknownPriceError                a budget in money, and a model whose price nobody knows
│   └── EmptyPromptError                 nothing to say
├── HistoryError (ValueError)            messages that no API accepts
├── ProviderError                        the model's side failed: what kind, and whether to try again
├── ToolError                            raised by a tool: its text goes to the model
│   └── AgentDepthError                  agents that are tools call each other too deeply
├── Halt                                 raised by middleware: stop here, keep what was done
│   └── BudgetExceededError              what is left of a budget doesn't pay for the next request
├── MCPServerError                       an MCP server that can't be started or reached
├── DeadlineExceededError (TimeoutError) the run's `timeout` passed
├── OutputError                          the model gave no valid result of the `output_type`
├── RunError                             a run failed or was halted; carries the Result and the cause
├── RequestCancelledError                the request whose result is awaited was cancelled
├── ApprovalError                        an approval can't be answered
│   ├── UnknownApprovalError (LookupError)  none has the id
│   └── ApprovalSettledError             it was answered already, or its call is over
├── SessionError                         a saved conversation that can't be read or written
│   └── SessionConflictError             somebody else has saved it in the meantime
└── AgentError                           an agent can't do what was asked of it
    ├── AgentBusyError                   it is busy and queues nothing
    ├── QueueFullError                   its queue is full
    ├── AgentClosedError                 it takes no more requests
    │   └── AgentQuarantinedError        it, or the request, broke down too often and isn't tried again
    ├── AgentCrashedError                it broke down while it ran the request
    ├── AgentExistsError                 another agent has the name
    ├── UnknownAgentError (LookupError)  no agent has the name
    ├── UnknownRequestError (LookupError)  no request has the id, or none is remembered
    ├── RequestConflictError             another message has the request id
    ├── RequestSettledError              the request has ended already
    ├── AgentDeadlockError               it would wait for itself
    ├── WrongEventLoopError (RuntimeError)  it lives on another event loop
    └── CursorError (LookupError)        envelopes after the cursor aren't kept any more
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from alloy.providers.budget import Amount, Budget
    from alloy.result import Result
    from alloy.usage import Usage

__all__ = [
    "AgentBusyError",
    "AgentClosedError",
    "AgentCrashedError",
    "AgentDeadlockError",
    "AgentDepthError",
    "AgentError",
    "AgentExistsError",
    "AgentQuarantinedError",
    "AlloyError",
    "ApprovalError",
    "ApprovalSettledError",
    "BudgetExceededError",
    "ConfigurationError",
    "CursorError",
    "DeadlineExceededError",
    "EmptyPromptError",
    "ErrorKind",
    "Halt",
    "HistoryError",
    "HistoryProblem",
    "InvalidOptionError",
    "MCPServerError",
    "MissingExtraError",
    "MissingKeyError",
    "OutputError",
    "ProviderError",
    "QueueFullError",
    "RequestCancelledError",
    "RequestConflictError",
    "RequestSettledError",
    "RunError",
    "SessionConflictError",
    "SessionError",
    "ToolDefinitionError",
    "ToolError",
    "UnknownAgentError",
    "UnknownApprovalError",
    "UnknownOptionError",
    "UnknownPriceError",
    "UnknownProviderError",
    "UnknownRequestError",
    "WrongEventLoopError",
]

ErrorKind = Literal[
    "rate_limited",
    "overloaded",
    "server_error",
    "timeout",
    "network",
    "context_overflow",
    "quota",
    "auth",
    "invalid_request",
    "refused",
    "unknown",
]
"""What went wrong at the provider, in one word."""

_RETRYABLE: frozenset[str] = frozenset({"rate_limited", "overloaded", "server_error", "timeout", "network"})


class AlloyError(Exception):
    """The root of everything that Alloy raises on purpose."""


class ConfigurationError(AlloyError, ValueError):
    """Something was asked for that can't be; raised before any request is sent."""


class UnknownOptionError(ConfigurationError, TypeError):
    """An option that nobody knows.

    Attributes:
        option: the name that was given.
        known: every name that would do.
    """

    def __init__(self, option: str, known: Iterable[str]) -> None:
        self.option = option
        self.known = tuple(sorted(known))
        near = difflib.get_close_matches(option, self.known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else f"; the options are {', '.join(self.known)}"
        super().__init__(f"unknown option {option!r}{hint}")


class InvalidOptionError(ConfigurationError):
    """An option with a wrong value.

    Attributes:
        option: its name.
        expected: what it takes.
        value: what was given.
    """

    def __init__(self, option: str, expected: str, value: object) -> None:
        self.option = option
        self.expected = expected
        self.value = value
        super().__init__(f"option {option!r} takes {expected}, not {_shown(value)}")


class UnknownProviderError(ConfigurationError):
    """A provider string that names nobody.

    Attributes:
        provider: the string that was given.
        known: every vendor that would do.
    """

    def __init__(self, provider: str, known: Iterable[str]) -> None:
        self.provider = provider
        self.known = tuple(sorted(known))
        vendor = provider.partition(":")[0]
        near = difflib.get_close_matches(vendor, self.known, n=1)
        hint = f", did you mean {near[0]!r}?" if near else "."
        super().__init__(
            f"no provider is called {vendor!r}{hint} Write 'vendor:model' with one of {', '.join(self.known)}; "
            "for any other host pass an object, such as alloy.providers.ChatCompletions(model, base_url=...)"
        )


class MissingKeyError(ConfigurationError):
    """No API key was given, and none stands in the environment.

    Attributes:
        provider: whose key is missing.
        variables: the environment variables that were looked at.
    """

    def __init__(self, provider: str, variables: Sequence[str]) -> None:
        self.provider = provider
        self.variables = tuple(variables)
        super().__init__(f"no API key for {provider!r}: set {' or '.join(self.variables)}, or pass api_key=...")


class MissingExtraError(ConfigurationError, ImportError):
    """An optional dependency isn't installed.

    Attributes:
        extra: the extra that brings it.
        command: what to type to have it.
    """

    def __init__(self, extra: str, command: str, *, why: str) -> None:
        self.extra = extra
        self.command = command
        super().__init__(f"{why}; install it with: {command}")


class ToolDefinitionError(ConfigurationError):
    """A tool that no model can be given.

    Attributes:
        tool: its name.
        problem: what is wrong with it, and what to do.
    """

    def __init__(self, tool: str, problem: str) -> None:
        self.tool = tool
        self.problem = problem
        super().__init__(f"tool {tool!r}: {problem}")


class UnknownPriceError(ConfigurationError):
    """A budget is in money, and nobody knows what the model costs.

    Attributes:
        provider: who serves it.
        model: which model.
    """

    def __init__(self, provider: str, model: str) -> None:
        self.provider = provider
        self.model = model
        super().__init__(
            f"nobody knows what {provider}:{model} costs, so no budget in money can be kept; say it with "
            f"model_metadata_overrides={{'{provider}:{model}': {{'price': ...}}}} or model_catalogue, or limit "
            "tokens with alloy.providers.Budget(tokens=...)"
        )


class EmptyPromptError(ConfigurationError):
    """There is nothing to say: no prompt, or a blank one, and no messages that wait for an answer."""

    def __init__(self) -> None:
        super().__init__("nothing to send: give a prompt that isn't blank, or messages that end with the user's turn")


@dataclass(frozen=True, slots=True)
class HistoryProblem:
    """One reason why an API would refuse a history.

    Attributes:
        index: which message, from 0.
        rule: the rule's short name, such as ``unanswered_call``.
        detail: what is wrong there.
    """

    index: int
    rule: str
    detail: str

    def __str__(self) -> str:
        return f"message {self.index}: {self.detail} ({self.rule})"


class HistoryError(AlloyError, ValueError):
    """Messages that no API accepts.

    Attributes:
        problems: everything that is wrong, first message first.
    """

    def __init__(
        self, problems: Sequence[HistoryProblem], *, cure: str = "alloy.repair_history() makes it sendable"
    ) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(map(str, self.problems)) + "; " + cure)


class ProviderError(AlloyError):
    """The model's side failed.

    Attributes:
        message: what the provider said, with keys taken out.
        kind: what it means, in one word; see `ErrorKind`.
        status: the HTTP status, if there was one.
        code: the provider's own code, if it sent one.
        retry_after: how long the provider asks to wait, in seconds.
        provider: which provider.
        model: which model.
        request_id: the provider's id of the request, for its support.
        usage: what the request took, where it was paid for all the same, as for an answer that was blocked.
        governed: whether whoever asks again is made to wait until the provider takes requests, without waiting for it himself.
    """

    def __init__(  # noqa: PLR0913  facts about one error, by name
        self,
        message: str,
        *,
        kind: ErrorKind = "unknown",
        status: int | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        provider: str | None = None,
        model: str | None = None,
        request_id: str | None = None,
        usage: Usage | None = None,
    ) -> None:
        if kind not in get_args(ErrorKind):
            raise InvalidOptionError("kind", f"one of {', '.join(get_args(ErrorKind))}", kind)
        self.message = message
        self.kind: ErrorKind = kind
        self.status = status
        self.code = code
        self.retry_after = retry_after
        self.provider = provider
        self.model = model
        self.request_id = request_id
        self.usage = usage
        self.governed = False
        super().__init__(message)

    @property
    def retryable(self) -> bool:
        """Whether the same request may succeed later."""
        return self.kind in _RETRYABLE

    def __str__(self) -> str:
        where = ":".join(part for part in (self.provider, self.model) if part)
        facts: list[str] = [self.kind]
        if self.status is not None:
            facts.append(f"HTTP {self.status}")
        if self.code and self.code not in (self.kind, str(self.status)):
            facts.append(self.code)
        if self.retry_after is not None:
            facts.append(f"retry after {self.retry_after:g} s")
        return f"{where + ': ' if where else ''}{self.message} [{', '.join(facts)}]"


class ToolError(AlloyError):
    """Raise it in a tool to tell the model, in its words, what went wrong; the run goes on."""


class AgentDepthError(ToolError):
    """Agents that are tools call each other too deeply; the model that called the last one reads it.

    Attributes:
        tool: the agent that wasn't run.
        max_depth: inside of how many agents it may be called, itself included.
    """

    def __init__(self, tool: str, max_depth: int) -> None:
        self.tool = tool
        self.max_depth = max_depth
        super().__init__(f"agent {tool!r} isn't run: agents are nested {max_depth} deep already; do the task yourself")


class Halt(AlloyError):  # noqa: N818  it reads as what it does: raise Halt("over budget")
    """Raise it in middleware to stop the run here; work done so far is kept.

    Attributes:
        reason: why, for whoever awaits the run.
    """

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class BudgetExceededError(Halt):
    """What is left of a budget doesn't pay for the next request, which wasn't sent; the run is halted.

    Attributes:
        budget: the one that has too little left.
        spent: what of it was spent then.
        needed: what the request needed at most, with a short answer.
        provider: who was to be asked.
        model: which model.
    """

    def __init__(self, budget: Budget, *, spent: Amount, needed: Amount, provider: str, model: str) -> None:
        self.budget = budget
        self.spent = spent
        self.needed = needed
        self.provider = provider
        self.model = model
        limit = budget.limit
        super().__init__(
            f"the budget doesn't pay for another request: {spent.of_limit(limit)} of {limit} are spent, and the next one to "
            f"{provider}:{model} needs {needed.of_limit(limit)}; go on from the result's messages with a larger max_budget or a cheaper model"
        )


class MCPServerError(AlloyError):
    """An MCP server that can't be started or reached.

    Attributes:
        server: its name.
        reason: what went wrong.
        stderr: the last that a server that we started wrote to its standard error.
    """

    def __init__(self, server: str, reason: str, *, stderr: str = "") -> None:
        self.server = server
        self.reason = reason
        self.stderr = stderr
        super().__init__(f"MCP server {server!r}: {reason}" + (f"; it wrote: {stderr}" if stderr else ""))


class DeadlineExceededError(AlloyError, TimeoutError):
    """The run's `timeout` passed.

    Attributes:
        timeout: the limit, in seconds.
    """

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout
        super().__init__(f"the run took longer than its timeout of {timeout:g} seconds")


class OutputError(AlloyError):
    """The model gave no valid result of the `output_type`, however often it was told what is wrong.

    Attributes:
        text: what it gave last.
        problems: what is wrong with that, each with where it is.
        attempts: how many times it tried.
    """

    def __init__(self, text: str, problems: Sequence[str], attempts: int) -> None:
        self.text = text
        self.problems = tuple(problems)
        self.attempts = attempts
        tried = "1 attempt" if attempts == 1 else f"{attempts} attempts"
        super().__init__(
            f"no valid result in {tried}; the last one: {'; '.join(self.problems)}. "
            "Make the output_type easier, describe its fields, or raise output_retries"
        )


class RunError(AlloyError):
    """A run failed or was halted.

    Attributes:
        result: what was done all the same: history, usage, tool calls. `result.messages` can be continued from.
        cause: the error that ended it; also the `__cause__`.
    """

    def __init__(self, result: Result, cause: BaseException) -> None:
        self.result = result
        self.cause = cause
        super().__init__(f"the run {result.status}: {str(cause) or type(cause).__name__}")
        self.__cause__ = cause


class RequestCancelledError(AlloyError):
    """The request whose result is awaited was cancelled.

    Attributes:
        request_id: which one.
        result: what was done until then, if it had begun.
    """

    def __init__(self, request_id: str, result: Result | None = None) -> None:
        self.request_id = request_id
        self.result = result
        super().__init__(f"request {request_id!r} was cancelled")


class ApprovalError(AlloyError):
    """An approval can't be answered.

    Attributes:
        approval_id: its id.
    """

    def __init__(self, approval_id: str, message: str) -> None:
        self.approval_id = approval_id
        super().__init__(f"approval {_named(approval_id)} {message}")


class UnknownApprovalError(ApprovalError, LookupError):
    """No approval has the id: there was none, or it was settled so long ago that it isn't remembered."""

    def __init__(self, approval_id: str) -> None:
        super().__init__(approval_id, "isn't known; approvals() says which ones wait")


class ApprovalSettledError(ApprovalError):
    """The approval was answered already, has expired, or its call was cancelled; this answer came too late.

    Attributes:
        decision: what it came to: ``allow``, ``deny``, ``expired`` or ``cancelled``.
    """

    def __init__(self, approval_id: str, decision: str) -> None:
        self.decision = decision
        super().__init__(approval_id, f"is settled already ({decision}); an answer changes nothing any more")


class SessionError(AlloyError):
    """A saved conversation that can't be read or written; what is there is left as it is.

    Attributes:
        session_id: which one.
        reason: what is wrong.
    """

    def __init__(self, session_id: str, reason: str) -> None:
        self.session_id = session_id
        self.reason = reason
        super().__init__(f"session {_named(session_id)}: {reason}")


class SessionConflictError(SessionError):
    """Somebody else has saved the session since it was loaded; nothing was overwritten."""


class AgentError(AlloyError):
    """An agent can't do what was asked of it.

    Attributes:
        agent: its name.
    """

    def __init__(self, agent: str, message: str) -> None:
        self.agent = agent
        super().__init__(f"agent {_named(agent)} {message}")


class AgentBusyError(AgentError):
    """The agent is busy and queues nothing (`max_pending=0`)."""

    def __init__(self, agent: str) -> None:
        super().__init__(agent, "is busy; wait for it, or let it queue requests with max_pending")


class QueueFullError(AgentError):
    """The agent's queue is full.

    Attributes:
        max_pending: how many requests it queues.
    """

    def __init__(self, agent: str, max_pending: int) -> None:
        self.max_pending = max_pending
        super().__init__(agent, f"has {max_pending} requests waiting already; try again later")


class AgentClosedError(AgentError):
    """The agent takes no more requests."""

    def __init__(self, agent: str, why: str = "is closed; start a new one") -> None:
        super().__init__(agent, why)


class AgentCrashedError(AgentError):
    """The agent broke down while it ran the request; work done until then is in its history.

    Attributes:
        cause: what it broke down of; also the `__cause__`.
    """

    def __init__(self, agent: str, cause: BaseException) -> None:
        self.cause = cause
        super().__init__(agent, f"crashed: {type(cause).__name__}: {cause}")
        self.__cause__ = cause


class AgentQuarantinedError(AgentClosedError):
    """The agent, or one request of its, broke down too often and isn't tried again.

    Attributes:
        cause: what it broke down of the last time; also the `__cause__`.
    """

    def __init__(self, agent: str, cause: BaseException, why: str) -> None:
        self.cause = cause
        super().__init__(agent, f"{why}: {type(cause).__name__}: {cause}")
        self.__cause__ = cause


class AgentExistsError(AgentError):
    """Another agent that is running has the name."""

    def __init__(self, agent: str) -> None:
        super().__init__(agent, "is running already; choose another name, or stop that one first")


class UnknownAgentError(AgentError, LookupError):
    """No agent has the name.

    Attributes:
        known: some names that would do.
    """

    def __init__(self, agent: str, known: Iterable[str] = ()) -> None:
        self.known = tuple(known)
        near = difflib.get_close_matches(agent, self.known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "start it first, with a Supervisor or as Agent(..., name=...)"
        super().__init__(agent, f"isn't known on this event loop; {hint}")


class UnknownRequestError(AgentError, LookupError):
    """The agent knows no request of this id: there was none, or it ended so long ago that it isn't remembered.

    Attributes:
        request_id: the id.
    """

    def __init__(self, agent: str, request_id: str) -> None:
        self.request_id = request_id
        super().__init__(agent, f"knows no request {_named(request_id)}; it never got it, or remembers it no more")


class RequestConflictError(AgentError):
    """The request id belongs to another message already.

    Attributes:
        request_id: the id.
    """

    def __init__(self, agent: str, request_id: str) -> None:
        self.request_id = request_id
        super().__init__(
            agent, f"has another message with the request id {_named(request_id)}; use a new id for a new one"
        )


class RequestSettledError(AgentError):
    """The request has ended, so it can't be cancelled; its result says how.

    Attributes:
        request_id: its id.
        status: how it ended.
    """

    def __init__(self, agent: str, request_id: str, status: str) -> None:
        self.request_id = request_id
        self.status = status
        super().__init__(agent, f"has ended request {_named(request_id)} already ({status}); ask for its result")


class AgentDeadlockError(AgentError):
    """What was asked for would wait for itself: it comes from inside a request that the agent runs."""

    def __init__(self, agent: str) -> None:
        super().__init__(agent, "is asked from inside its own request, and would wait for itself; use send_message")


class WrongEventLoopError(AgentError, RuntimeError):
    """The agent lives on another event loop, or in another thread."""

    def __init__(self, agent: str) -> None:
        super().__init__(
            agent, "lives on another event loop; call it there, with asyncio.run_coroutine_threadsafe(..., its_loop)"
        )


class CursorError(AgentError, LookupError):
    """Envelopes after the cursor aren't kept any more, so nobody can resume from there without a gap.

    Attributes:
        after: the cursor that was asked for.
        oldest: the oldest cursor that would do.
    """

    def __init__(self, agent: str, after: int, oldest: int) -> None:
        self.after = after
        self.oldest = oldest
        super().__init__(agent, f"can't resume after {after}; begin anew, or with after={oldest} at the earliest")


def _shown(value: Any) -> str:
    text = f"{type(value).__name__} {value!r}" if isinstance(value, str | int | float | bool) else type(value).__name__
    return text if len(text) <= 120 else text[:117] + "..."


def _named(name: object) -> str:
    text = repr(name)
    return text if len(text) <= 120 else text[:117] + "..."
