"""Middleware: typed hooks into a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from alloy.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from alloy.errors import ProviderError
    from alloy.loop.config import Config
    from alloy.loop.desk import Ask
    from alloy.messages import Message, ToolUseBlock
    from alloy.models import ModelInfo
    from alloy.models.lookup import Lookup
    from alloy.providers.base import Completion, Provider, Request
    from alloy.providers.budget import Budget
    from alloy.result import Result
    from alloy.tools.base import Tool, ToolOutput
    from alloy.tools.decision import Decision
    from alloy.usage import Usage

__all__ = ["Blocked", "Hooks", "Middleware", "RunContext"]


@dataclass(frozen=True, slots=True)
class Blocked:
    """Return it from `Middleware.before_tool_call`: this call isn't executed.

    Attributes:
        reason: why; the model reads it.
    """

    reason: str


class RunContext:
    """What middleware may know about the run that it hooks into; always as of now.

    Attributes:
        request_id: the run's id.
        context: what the application passed as `context`.
        working_directory: the folder that file tools stay in, absolute.
    """

    __slots__ = ("_config", "_lookup", "_loop", "_provider", "context", "request_id", "working_directory")

    def __init__(self, loop: Any, config: Config, provider: Provider, *, request_id: str) -> None:
        self._loop = loop
        self._config = config
        self._provider = provider
        self._lookup: Lookup | None = None
        self.request_id = request_id
        self.context: Mapping[str, Any] = config.context
        self.working_directory: Path = config.working_directory

    @property
    def turn(self) -> int:
        """In which turn it is, from 1; 0 before the first."""
        return self._loop.events.turn  # type: ignore[no-any-return]  # an int

    @property
    def messages(self) -> Sequence[Message]:
        """The history so far; a copy."""
        return tuple(self._loop.history.messages)

    @property
    def usage(self) -> Usage:
        """Tokens so far."""
        return self._loop.usage  # type: ignore[no-any-return]  # a Usage

    async def model_info(self, provider: Provider | None = None) -> ModelInfo:
        """What is known about the run's model: its `window`, its longest answer, its price.

        `model_metadata_overrides` go before `model_catalogue`. The catalogue is asked once per run, in a thread. With
        `fallback_providers` it is the first one's model.

        Args:
            provider: whose model, if not the run's.

        Raises:
            Exception: whatever a catalogue of your own raises.
        """
        if self._lookup is None:
            from alloy.models.lookup import Lookup  # noqa: PLC0415  only who asks pays for it

            self._lookup = Lookup(self._config.model_catalogue, self._config.model_metadata_overrides)
        asked = provider or self._provider
        return await self._lookup.find(asked.name, asked.model)

    async def complete(self, request: Request, provider: Provider | None = None) -> Completion:
        """Asks a model something besides the conversation. Nothing of it is shown or kept; what it takes counts to the run.

        Args:
            request: what to ask.
            provider: whom, if not the run's own provider.

        Raises:
            ProviderError: there was no answer.
        """
        return await self._loop.ask_aside(provider or self._provider, request)  # type: ignore[no-any-return]  # a Completion

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """What the run's requests are paid from: its own budget first, then those of the runs that it is inside of."""
        return self._loop.budgets  # type: ignore[no-any-return]  # a tuple of Budgets

    @property
    def tools(self) -> tuple[Tool, ...]:
        """What the model can call."""
        return self._config.tools

    async def ask(self, call: ToolUseBlock, reason: str) -> Decision:
        """Asks a person whether a call may be executed, and waits for the answer; for `Middleware.before_tool_call`.

        It is an ``approval_requested`` envelope, and answered as `alloy.Approval` says. What comes of it is yours: return a
        `Blocked` if the decision is false, and an edited call if it has arguments.

        Args:
            call: which one.
            reason: why it needs approval.
        """
        decision: Decision = await self._loop.desk.ask(call, reason)
        return decision

    def answer_approvals(self, ask: Ask | None, timeout: float | None) -> None:
        """Has the run's approvals answered by a function, and denied after a time; a None leaves what was said before.

        Args:
            ask: gets an `ApprovalRequest` and returns a `Decision`.
            timeout: how long an answer may take, in seconds.
        """
        self._loop.desk.use(ask, timeout)

    def emit(self, kind: str, **data: Any) -> None:
        """Sends a ``runtime_event`` envelope.

        Args:
            kind: what happened, in a word of yours.
            data: what belongs to it, JSON-ready.
        """
        self._loop.events.emit("runtime_event", kind=kind, **data)


class Middleware:
    """Hooks into a run; override the ones you want.

    Hooks that take a value may return another in its place, or None to leave it; with several middlewares each gets what the
    one before it returned. Raise `alloy.Halt` in any hook but `on_error` and `session_end` to stop the run; any other
    exception makes it fail with that cause. Either way what was done is kept.
    """

    async def session_start(self, run: RunContext) -> None:
        """The run begins; nothing was sent yet."""

    async def compact(self, messages: Sequence[Message], run: RunContext) -> Sequence[Message] | None:
        """A request is about to be made of this history, which ends with the user's turn.

        Return a shorter history to go on with that one from here on; None to leave it. With several middlewares, the first
        that returns one decides; Alloy's own comes last.
        """

    async def before_completion(self, request: Request, run: RunContext) -> Request | None:
        """A request is about to be sent. What is returned is sent in its place; the history stays as it is."""

    async def after_completion(self, completion: Completion, run: RunContext) -> Completion | None:
        """An answer arrived, whole. What is returned goes into the history in its place."""

    async def after_tool_request(self, calls: Sequence[ToolUseBlock], run: RunContext) -> None:
        """The model wants these tools called; none has been yet."""

    async def before_tool_call(self, call: ToolUseBlock, run: RunContext) -> ToolUseBlock | Blocked | None:
        """A tool is about to be called. Return an edited call, or a `Blocked` with the reason why it isn't."""

    async def after_tool_execution(self, call: ToolUseBlock, output: ToolOutput, run: RunContext) -> ToolOutput | None:
        """A tool was called. What is returned goes to the model in the output's place."""

    async def on_context_overflow(
        self, error: ProviderError, messages: Sequence[Message], run: RunContext
    ) -> Sequence[Message] | None:
        """The provider says that the request is too long.

        Return a shorter history to go on with that one, once; None if you can't help. With several middlewares, the first
        that returns one decides.
        """

    async def after_compaction(self, before: Sequence[Message], after: Sequence[Message], run: RunContext) -> None:
        """The history was replaced by a shorter one."""

    async def on_error(self, error: BaseException, run: RunContext) -> None:
        """The run is about to fail with this error."""

    async def session_end(self, result: Result, run: RunContext) -> None:
        """The run ended in any of its ways, also by cancellation; there are a few seconds for it."""


class Hooks:
    """The hooks of several middlewares as one; hooks that nobody overrides cost nothing."""

    def __init__(self, middleware: Sequence[Middleware]) -> None:
        self._hooks: dict[str, list[Any]] = {}
        for one in middleware:
            kind = type(one)
            for name, default in _HOOKS:
                if getattr(kind, name) is not default:
                    self._hooks.setdefault(name, []).append(getattr(one, name))

    def has(self, name: str) -> bool:
        """Whether anybody overrides this hook."""
        return name in self._hooks

    async def tell(self, name: str, *args: Any) -> None:
        """Calls a hook that returns nothing."""
        for hook in self._hooks.get(name, ()):
            await hook(*args)

    async def thread(self, name: str, value: Any, kinds: type | tuple[type, ...], *args: Any) -> Any:
        """Threads a value through a hook, first to last."""
        for hook in self._hooks.get(name, ()):
            returned = await hook(value, *args)
            if returned is None:
                continue
            _check_returned(name, returned, kinds)
            if isinstance(returned, Blocked):
                return returned
            value = returned
        return value

    async def thread_output(self, call: ToolUseBlock, output: ToolOutput, run: RunContext) -> ToolOutput:
        """Threads a tool's output through `after_tool_execution`."""
        for hook in self._hooks.get("after_tool_execution", ()):
            returned = await hook(call, output, run)
            if returned is not None:
                _check_returned("after_tool_execution", returned, type(output))
                output = returned
        return output

    async def first(self, name: str, *args: Any) -> Any:
        """What the first hook returns that returns anything."""
        for hook in self._hooks.get(name, ()):
            if (returned := await hook(*args)) is not None:
                return returned
        return None


_HOOKS = tuple((name, hook) for name, hook in vars(Middleware).items() if not name.startswith("_"))


def _check_returned(name: str, returned: object, kinds: type | tuple[type, ...]) -> None:
    if not isinstance(returned, kinds):
        wanted = " or ".join(kind.__name__ for kind in (kinds if isinstance(kinds, tuple) else (kinds,)))
        raise InvalidOptionError(f"middleware.{name}", f"a hook that returns a {wanted} or None", returned)
