"""`run` and `stream`: one conversation, awaited or watched."""

from __future__ import annotations

import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar, Unpack, overload

import anyio
from anyio.lowlevel import checkpoint

from alloy._ids import new_id
from alloy._tasks import background
from alloy.errors import EmptyPromptError, InvalidOptionError, RunError
from alloy.events import Emitter, Envelope
from alloy.loop.answering import Answering
from alloy.loop.asking import budgets_of, build_provider
from alloy.loop.channel import Channel, Gate
from alloy.loop.config import Config, Options
from alloy.loop.conversation import History, checked_prompt
from alloy.loop.turns import Loop
from alloy.result import Output_co, Result

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from contextlib import AbstractAsyncContextManager

    from alloy.events import Sink
    from alloy.loop.answering import Answers
    from alloy.loop.config import PlainOptions
    from alloy.messages import Block, Message

__all__ = ["RunStream", "both", "configured", "guarded_sink", "outcome", "run", "stream"]

T = TypeVar("T")
BUFFER = 1024  # envelopes that a reader may be behind before the model waits for it

_log = logging.getLogger("alloy")


@overload
async def run(
    prompt: str | Block | Sequence[Block] | Message | None = None,
    config: Config | None = None,
    *,
    output_type: type[T],
    **options: Unpack[PlainOptions],
) -> Result[T]: ...


@overload
async def run(
    prompt: str | Block | Sequence[Block] | Message | None = None,
    config: Config | None = None,
    **options: Unpack[Options],
) -> Result: ...


async def run(
    prompt: str | Block | Sequence[Block] | Message | None = None,
    config: Config | None = None,
    **options: Unpack[Options],
) -> Result:
    """Runs one conversation until the model is done: asks the model, executes its tool calls, and repeats.

    Args:
        prompt: the user's words; may be left out where `messages` end with the user's turn.
        config: the options, ready made.
        options: options by name, which go before those of `config`; `Config` describes them.

    Returns:
        The result, with status ``completed`` or ``max_turns``.

    Raises:
        ConfigurationError: an option can't be, or there is nothing to say; before any request is sent.
        HistoryError: `messages` or the prompt would be refused by every API; before any request is sent.
        RunError: the run failed or was halted; it carries the result all the same, and the cause.
    """
    config = configured(config, options)
    loop = _loop(prompt, config, guarded_sink(config.on_event))
    return outcome(await loop.execute())


@overload
def stream(
    prompt: str | Block | Sequence[Block] | Message | None = None,
    config: Config | None = None,
    *,
    output_type: type[T],
    **options: Unpack[PlainOptions],
) -> AbstractAsyncContextManager[RunStream[T]]: ...


@overload
def stream(
    prompt: str | Block | Sequence[Block] | Message | None = None,
    config: Config | None = None,
    **options: Unpack[Options],
) -> AbstractAsyncContextManager[RunStream]: ...


@asynccontextmanager
async def stream(
    prompt: str | Block | Sequence[Block] | Message | None = None,
    config: Config | None = None,
    **options: Unpack[Options],
) -> AsyncIterator[RunStream]:
    """Runs one conversation and lets you watch it.

    Takes what `run` takes. Leaving the block before the end cancels the run; `RunStream.result` then says what was done.

    Returns:
        A context manager that gives a `RunStream`: iterate it for envelopes, or its `text_deltas()` for the text alone. A reader
        that falls far behind holds the model up, so memory stays bounded.

    Raises:
        ConfigurationError: on entering, as from `run`.
        HistoryError: on entering, as from `run`.
        RunError: from iterating, at the end of a run that failed or was halted.
    """
    config = configured(config, options)
    channel = Channel(BUFFER)
    observer = guarded_sink(config.on_event)
    loop = _loop(prompt, config, channel.push if observer is None else both(observer, channel.push), channel)

    loop.desk.answerable = True
    scope = anyio.CancelScope()

    async def work() -> None:
        try:
            with scope:
                await loop.execute()
        finally:
            channel.close()

    async with background(work):
        yield RunStream(loop, channel, scope.cancel, loop.desk, config)


class _Watched(Protocol):
    """What has a result at its end."""

    @property
    def result(self) -> Result | None: ...


class _Source(Protocol):
    """Where envelopes come from; None is the end."""

    async def pull(self) -> Envelope | None: ...


class RunStream(Answering, Generic[Output_co]):
    """A run that is being watched; every envelope is given out once, to whoever asks first."""

    def __init__(
        self, run: _Watched, source: _Source, cancel: Callable[[], None], answers: Answers, config: Config
    ) -> None:
        self._run = run
        self._source = source
        self._cancel = cancel
        self._desk = answers
        self._config = config

    def _answers(self) -> Answers:
        return self._desk

    def __aiter__(self) -> AsyncIterator[Envelope]:
        return self

    async def __anext__(self) -> Envelope:
        envelope = await self._source.pull()
        if envelope is None:
            await self._end()
            raise StopAsyncIteration
        return envelope

    async def text_deltas(self) -> AsyncIterator[str]:
        """The answer's text, piece by piece, of all turns.

        Raises:
            RunError: at the end of a run that failed or was halted.
        """
        pull = self._source.pull
        while (envelope := await pull()) is not None:
            if envelope.event == "text_delta":
                yield envelope.payload["text"]
        await self._end()

    async def partial_outputs(self) -> AsyncIterator[Output_co]:
        """The result while it is being written: values of the `output_type` made of what is there so far, the whole one last.

        What isn't written yet, or isn't valid yet, is left out. So the first value comes when all that has no default is there.
        A value is given when it differs from the one before; one may be much shorter, when the model has to begin anew.

        Raises:
            InvalidOptionError: the run has no `output_type`.
            RunError: at the end of a run that failed or was halted.
        """
        from alloy.loop.partial import PartialOutput  # noqa: PLC0415  only who asks for it pays for it

        partial = PartialOutput(self._config)
        pull = self._source.pull
        while (envelope := await pull()) is not None:
            if partial.changed_by(envelope):
                yield partial.value
        await self._end()
        result = self._run.result
        if result is not None and result.status == "completed" and partial.changed_to(result.output):
            yield result.output

    async def _end(self) -> None:
        await checkpoint()  # whoever was cancelled along with the run must not take this for its ordinary end
        if self._run.result is not None:
            outcome(self._run.result)

    async def wait(self) -> Result[Output_co]:
        """Waits for the end, passing over the envelopes until then.

        Raises:
            RunError: the run failed or was halted.
        """
        async for _ in self:
            pass
        return self.result

    def cancel(self) -> None:
        """Cancels the run; iterating goes on to its last envelope, and `wait` returns the result with status ``cancelled``."""
        self._cancel()

    @property
    def result(self) -> Result[Output_co]:
        """The result, whatever its status.

        Raises:
            RuntimeError: the run hasn't ended.
        """
        if self._run.result is None:
            raise RuntimeError("the run hasn't ended; iterate to its end, await wait(), or leave the block first")
        return self._run.result


def configured(config: Config | None, options: Options) -> Config:
    """A `Config` and options by name as one; the options go first.

    Raises:
        ConfigurationError: an option can't be.
    """
    if config is None:
        return Config(**options)
    if not isinstance(config, Config):
        raise InvalidOptionError("config", "an alloy.Config", config)
    return config.with_options(**options)


def _loop(
    prompt: str | Block | Sequence[Block] | Message | None, config: Config, sink: Sink | None, gate: Gate | None = None
) -> Loop:
    if prompt is None and (not config.messages or config.messages[-1].role == "assistant"):
        raise EmptyPromptError
    history = History(config.messages, None if prompt is None else checked_prompt(prompt))
    events = Emitter(new_id(), sink)
    return Loop(config, build_provider(config), history, events, gate, budgets_of(config))


def outcome(result: Result[T]) -> Result[T]:
    """The result of a run that has ended.

    Raises:
        RunError: it failed or was halted.
    """
    if result.status in ("failed", "halted"):
        raise RunError(result, result.error or RuntimeError("no cause is known"))
    return result


def guarded_sink(function: Sink | None) -> Sink | None:
    """The user's function, which can't hurt the run: when it raises, that is logged and it is called no more."""
    if function is None:
        return None
    failed = False

    def call(envelope: Envelope) -> None:
        nonlocal failed
        if failed:
            return
        try:
            function(envelope)
        except Exception:  # noqa: BLE001  whatever it is, it is the watcher's, and logged
            failed = True
            _log.exception("on_event raised; it gets no more envelopes of run %s", envelope.correlation_id)

    return call


def both(first: Sink, second: Sink) -> Sink:
    """A sink that hands everything to two."""

    def call(envelope: Envelope) -> None:
        first(envelope)
        second(envelope)

    return call
