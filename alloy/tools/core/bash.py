"""The core tool `bash`: a command, its output and its exit code."""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Unpack

import anyio

from alloy._tasks import background, run_in_thread
from alloy.errors import InvalidOptionError, ToolError
from alloy.tools.base import CoreTool, Tool, ToolContext, ToolOptions, ToolOutput
from alloy.tools.environment import clean_environment
from alloy.tools.executor import Command, Executor, Exit, LocalExecutor
from alloy.tools.paths import roots
from alloy.tools.restrict import refused

__all__ = ["Bash", "CommandResult", "bash"]

OUTPUT_BYTES = 30_000
"""How much of a command's output is kept, head and tail, in bytes."""

_REPORTS = 0.1  # seconds between two reports of progress
_REPORTED = 4_000  # bytes that one report shows at most
_MARGIN = 1_000  # bytes for what is said besides the output
_RESTRICTED = " Paths must stay inside the working directory: absolute paths elsewhere, .., ~, and programs such as sudo are refused."


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended; the `data` of its call.

    Attributes:
        exit_code: its exit code, 128 and more for signals; None if it was timed out.
        signal: the name of the signal that it died of, if it did.
        timed_out: whether it took too long, and was ended.
        ended: how many processes it left running, which were ended.
        output_bytes: how much it wrote.
    """

    exit_code: int | None
    signal: str | None = None
    timed_out: bool = False
    ended: int = 0
    output_bytes: int = 0


class Bash(CoreTool[..., Any]):
    """The tool `bash`, with settings of your own.

    Args:
        restricted: whether to refuse commands that plainly leave the working directory or ask for other rights. This guards
            against accidents and is no sandbox.
        executor: where commands run; by default on this machine.
        env: variables that commands get, whatever they look like.
        pass_env: names of variables to pass on, even if they look secret.
        max_output_bytes: how much of a command's output is kept, head and tail, in bytes.
        options: as of `alloy.Tool`; its `timeout` is the longest that the model can ask for.

    Raises:
        UnknownOptionError: an option that isn't among these.
        InvalidOptionError: an option has a wrong value.
        ToolDefinitionError: no model can be given such a tool.
    """

    grace = 10.0  # to end what was begun, and to tell what it wrote

    def __init__(
        self,
        *,
        restricted: bool = True,
        executor: Executor | None = None,
        env: Mapping[str, str] | None = None,
        pass_env: Collection[str] = (),
        max_output_bytes: int = OUTPUT_BYTES,
        **options: Unpack[ToolOptions],
    ) -> None:
        _check(executor, env, pass_env, max_output_bytes)
        self.restricted = restricted
        self._executor = executor or LocalExecutor()
        self._env = dict(env or {})
        self._pass_env = frozenset(pass_env)
        self._max_output_bytes = max_output_bytes
        given: ToolOptions = {
            "name": "bash",
            "concurrency_safe": False,
            "max_result_bytes": max_output_bytes + _MARGIN,
            **options,
        }
        given.setdefault("description", _description(restricted=restricted))
        super().__init__(self._command, **given)
        if options:
            Tool.check(self)

    async def _command(self, command: str, timeout: float | None = None, *, context: ToolContext) -> ToolOutput:  # noqa: ASYNC109  the model's argument
        """Runs a command.

        Args:
            command: The command, for bash.
            timeout: After how many seconds to end it, unless it has ended by then; no longer than what is allowed anyway.
            context: The call's context.
        """
        limit = _limit(timeout, context.timeout)
        asked = await run_in_thread(self._asked, command, context, name="alloy tool bash")
        capture = Capture(self._max_output_bytes)
        result: Exit | None = None
        async with background(partial(_report, capture, context)):
            with anyio.move_on_after(limit):
                result = await self._executor.execute(asked, capture)
        return _output(capture, result, limit)

    def _asked(self, command: str, context: ToolContext) -> Command:
        """The command as the executor gets it.

        Raises:
            ToolError: it's refused.
        """
        if not command.strip():
            raise ToolError("the command is empty")
        if "\0" in command:
            raise ToolError("the command has a NUL character in it")
        env = clean_environment({"PWD": str(context.working_directory), **self._env}, self._pass_env)
        allowed = roots(context)
        if not allowed[0].is_dir():
            raise ToolError(f"the working directory {str(allowed[0])!r} doesn't exist")
        if self.restricted and (reason := refused(command, allowed, env)):
            raise ToolError(
                f"refused: {reason}. Only what is inside the working directory can be used, by relative paths"
            )
        passed = {name: env[name] for name in self._pass_env if name in env}
        return Command(
            text=command,
            working_directory=context.working_directory,
            allowed_paths=context.allowed_paths,
            environment=env,
            given={**passed, **self._env},
        )


class Capture:
    """Takes a command's output, and keeps its head and its tail.

    Args:
        limit: how much to keep, in bytes.

    Attributes:
        total: how much there was, in bytes.
    """

    def __init__(self, limit: int) -> None:
        self.total = 0
        self._limit = limit
        self._head = bytearray()
        self._tail = bytearray()
        self._new = bytearray()
        self._lock = threading.Lock()

    def __call__(self, piece: bytes) -> None:
        """Takes a piece; may be called from any thread."""
        with self._lock:
            self.total += len(piece)
            room = self._limit // 2 - len(self._head)
            self._head += piece[: max(room, 0)]
            self._tail += piece[max(room, 0) :]
            del self._tail[: -(self._limit - self._limit // 2)]
            self._new += piece[-_REPORTED:]
            del self._new[:-_REPORTED]

    def news(self) -> str:
        """What came since this was last asked; only its end, if it's long. Lines that aren't ended wait for their end."""
        with self._lock:
            end = self._new.rfind(b"\n") + 1 or (len(self._new) if len(self._new) >= _REPORTED else 0)
            text = _text(bytes(self._new[:end]))
            del self._new[:end]
            return text

    def text(self) -> str:
        """Head and tail, and how much is left out between them."""
        with self._lock:
            head, tail, left = bytes(self._head), bytes(self._tail), self.total - len(self._head) - len(self._tail)
        if not left:
            return _text(head + tail)
        return f"{_text(head)}\n[... {left} bytes left out; redirect to a file to see them all ...]\n{_text(tail)}"


def _check(executor: object, env: object, pass_env: object, max_output_bytes: object) -> None:
    if executor is not None and not isinstance(executor, Executor):
        raise InvalidOptionError("executor", "an object with execute(command, output)", executor)
    if env is not None and not (isinstance(env, Mapping) and all(isinstance(x, str) for x in (*env, *env.values()))):
        raise InvalidOptionError("env", "a mapping of names to values, both text", object())
    if isinstance(pass_env, str) or not isinstance(pass_env, Collection):
        raise InvalidOptionError("pass_env", "a list of names", pass_env)
    if isinstance(max_output_bytes, bool) or not isinstance(max_output_bytes, int) or max_output_bytes < 2:
        raise InvalidOptionError("max_output_bytes", "a whole number of at least 2", max_output_bytes)


def _description(*, restricted: bool) -> str:
    return (
        "Runs a command with bash in the working directory, and returns what it writes and, if it fails, its exit code. Each "
        "call is a new shell, without input and without a terminal. Processes left in the background end with the command."
        + (_RESTRICTED if restricted else "")
    )


def _limit(asked: float | None, longest: float | None) -> float | None:
    """After how many seconds to end a command: what the model asks for, but no more than is allowed."""
    if asked is not None and not asked > 0:
        raise ToolError("timeout must be a number of seconds above 0")
    return min((each for each in (asked, longest) if each is not None), default=None)


async def _report(capture: Capture, context: ToolContext) -> None:
    """Reports what the command writes, several lines at once if they come fast."""
    while True:
        await anyio.sleep(_REPORTS)
        if news := capture.news():
            context.report(news.rstrip("\n"))


def _output(capture: Capture, ended: Exit | None, limit: float | None) -> ToolOutput:
    notes: list[str] = []
    if ended is None:
        result = CommandResult(None, timed_out=True, output_bytes=capture.total)
        notes.append(f"timed out after {limit or 0:g} seconds; the command and its processes were ended")
    else:
        result = CommandResult(ended.code, ended.signal, ended=ended.ended, output_bytes=capture.total)
        if ended.code:
            notes.append(f"exit code {ended.code}" + (f", {ended.signal}" if ended.signal else ""))
        if ended.ended:
            plural = "process that was" if ended.ended == 1 else "processes that were"
            notes.append(f"{ended.ended} {plural} left in the background ended with it")
    text = capture.text().rstrip("\n")
    lines = [*([text] if text else []), *(f"[{note}]" for note in notes)]
    return ToolOutput("\n".join(lines), data=result, is_error=ended is None or ended.code != 0)


def _text(data: bytes) -> str:
    """Whatever a command writes, as text."""
    return data.decode("utf-8", "replace").replace("\0", "\ufffd")


bash = Bash()
"""Runs commands in the working directory; restricted, which is no sandbox."""
