"""What a run looks like: text for people (`Transcript`), lines of JSON for programs (`JsonLines`).

Both write where they are told and block while they do, so they are called in a thread. What comes from a model or a tool is
foreign text: on a terminal its control characters are shown, not obeyed, since they could move the cursor or forge lines.
"""

from __future__ import annotations

import json
import os
import select
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, Protocol, TextIO, assert_never, cast

from rich.console import Console
from rich.text import Text

from alloy.models import price
from alloy.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.status import Status

    from alloy.events import Envelope

__all__ = ["JsonLines", "Transcript", "View", "printable"]

ARGUMENTS = 100  # characters of a call's arguments, and of a result's first line
ARGUMENT = 40  # characters of one argument

_CONTROLS = [code for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"]
_SHOWN = {code: f"\\x{code:02x}" for code in _CONTROLS} | {ord("\r"): ""}
_IN_JSON = {code: f"\\u{code:04x}" for code in _CONTROLS}


def printable(text: str) -> str:
    """`text` with its control characters spelled out, but for line ends and tabs."""
    return text.translate(_SHOWN)


class View(Protocol):
    """Shows a run; every method blocks until it is written."""

    def show(self, envelope: Envelope) -> None:
        """Shows what happened.

        Raises:
            OSError: the stream can't be written; BrokenPipeError where its reader has gone.
        """
        ...

    def busy(self, doing: str) -> None:
        """Says that something is under way, until the next thing is shown."""
        ...

    def say(self, text: str) -> None:
        """Says something about the run, in one line on standard error."""
        ...

    def fail(self, text: str) -> None:
        """Says why it didn't end well, in one line on standard error."""
        ...

    def end_line(self) -> None:
        """Ends the line that the cursor is in, if any."""
        ...

    def release(self) -> None:
        """Gives the terminal back as it was."""
        ...


class _Output:
    """A stream to write to, unbuffered: what couldn't be written isn't tried again when the interpreter ends."""

    def __init__(self, stream: TextIO, *, encoding: str | None = None) -> None:
        self.encoding = encoding or stream.encoding or "utf-8"
        self.in_line = False
        self._stream = stream
        self._terminal = stream.isatty()
        self._raw: Any = getattr(stream.buffer, "raw", stream.buffer)

    def isatty(self) -> bool:
        return self._terminal

    def write(self, text: str) -> None:
        rest = memoryview(text.encode(self.encoding, "replace"))
        while rest:
            written = self._raw.write(rest)
            if written is None:  # whoever shares the stream made it non-blocking
                select.select([], [self._raw], [])
            else:
                rest = rest[written:]
        self.in_line = not text.endswith("\n") if text else self.in_line

    def end_line(self) -> None:
        if self.in_line:
            self.write("\n")


class _Notes(_Output):
    """Standard error: what is said there is no reason to fail, should nobody be able to read it."""

    def write(self, text: str) -> None:
        with suppress(OSError):
            super().write(text)

    def flush(self) -> None:
        """Nothing: nothing is buffered."""


class JsonLines:
    """Each envelope as one line of JSON on standard output; errors on standard error.

    Args:
        stdout: where the envelopes go.
        stderr: where errors go.
    """

    def __init__(self, stdout: TextIO, stderr: TextIO) -> None:
        self._out = _Output(stdout, encoding="utf-8")
        self._err = _Notes(stderr)

    def show(self, envelope: Envelope) -> None:
        """Writes one line; control characters in it are escaped the way JSON does."""
        self._out.write(envelope.to_json().decode().translate(_IN_JSON) + "\n")

    def busy(self, doing: str) -> None:
        """Nothing: the envelopes say it."""

    def say(self, text: str) -> None:
        """Writes one line to standard error."""
        self._err.write(printable(_one_line(text)) + "\n")

    def fail(self, text: str) -> None:
        """Writes one line to standard error."""
        self.say(f"alloy: {text}")

    def end_line(self) -> None:
        """Nothing: lines are written whole."""

    def release(self) -> None:
        """Nothing: nothing was changed."""


class Transcript:
    """The answer on standard output; what happens besides on standard error.

    Args:
        stdout: where the answer goes, and nothing else.
        stderr: where tool calls, thinking, the usage and errors go; in colour on a terminal, unless ``NO_COLOR`` is set.
    """

    def __init__(self, stdout: TextIO, stderr: TextIO) -> None:
        self._out = _Output(stdout)
        self._notes_in_line = False
        self._spinner: Status | None = None
        self._provider = self._model = ""
        notes = _Notes(stderr)
        coloured = notes.isatty() and not os.environ.get("NO_COLOR")
        self._console = Console(
            file=cast("TextIO", notes),
            force_terminal=notes.isatty(),
            color_system="auto" if coloured else None,
            markup=False,
            highlight=False,
            soft_wrap=True,
        )

    def show(self, envelope: Envelope) -> None:
        """Shows what happened, unless it is of no interest to people."""
        payload = envelope.payload
        match envelope.event:
            case "run_start":
                self._provider, self._model = payload["provider"], payload["model"]
                threading.Thread(target=_load_prices, name="alloy prices", daemon=True).start()
                self.busy(f"starting {self._who}")
            case "text_delta":
                self._answer(payload["text"])
            case "thinking_delta":
                self._note(payload["text"], style="dim", end="")
            case "tool_start" | "tool_progress" | "tool_end":
                self._tool(envelope.event, payload)
            case "approval_requested" | "approval_settled":
                self._approval(envelope.event, payload)
            case "turn_start" | "turn_end" | "tool_call_delta" | "retry" | "compaction":
                self._progress(envelope.event, payload)
            case "response":
                self._usage(payload)
            case "runtime_event":
                self._line(", ".join(f"{key}: {value}" for key, value in payload.items()), "yellow")
            case "request_queued" | "request_cancelled" | "lagged" | "message":
                pass  # an agent's; a single run sends none
            case _:
                assert_never(envelope.event)

    @property
    def _who(self) -> str:
        return f"{self._provider}:{self._model}"

    def busy(self, doing: str) -> None:
        """Turns a spinner, if standard error is a terminal."""
        if not self._console.is_terminal:
            return
        text = Text(printable(doing), style="dim")
        if self._spinner is not None:
            self._spinner.update(text)
            return
        self.end_line()
        self._spinner = self._console.status(text, spinner="dots", spinner_style="dim")
        self._spinner.start()

    def say(self, text: str) -> None:
        """Writes one line to standard error."""
        self._line(text, "dim")

    def fail(self, text: str) -> None:
        """Writes one line to standard error."""
        self._line(f"alloy: {text}", "red")

    def end_line(self) -> None:
        """Stops the spinner, and ends lines that were begun."""
        self._stop_spinner()
        self._out.end_line()
        if self._notes_in_line:
            self._note("")

    def release(self) -> None:
        """Shows the cursor, which a spinner hides."""
        self._console.show_cursor()

    def _answer(self, text: str) -> None:
        self._stop_spinner()
        if self._notes_in_line:
            self._note("")
        self._out.write(printable(text) if self._out.isatty() else text)

    def _line(self, text: str, style: str) -> None:
        self.end_line()
        self._note(_one_line(text), style=style)

    def _note(self, text: str, *, style: str = "", end: str = "\n") -> None:
        self._stop_spinner()
        if self._out.isatty():
            self._out.end_line()
        text = printable(text)
        self._console.print(Text(text, style=style), end=end)
        self._notes_in_line = not (text + end).endswith("\n")

    def _stop_spinner(self) -> None:
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None

    def _progress(
        self,
        event: Literal["turn_start", "turn_end", "tool_call_delta", "retry", "compaction"],
        payload: Mapping[str, Any],
    ) -> None:
        match event:
            case "turn_start":
                self.busy(f"waiting for {self._who}")
            case "tool_call_delta":
                self.busy(f"{self._who} is calling {payload['name'] or 'a tool'}")
            case "turn_end":
                self.end_line()
            case "retry":
                delay, asked = payload["delay_s"], payload["next"]
                self._line(f"{payload['error']['message']}; asking {asked} in {delay:.1f} s", "yellow")
                self.busy(f"waiting for {asked}")
            case "compaction":
                before, after = payload["before_messages"], payload["after_messages"]
                self._line(f"the history was shortened from {before} to {after} messages", "dim")
            case _:
                assert_never(event)

    def _approval(self, event: Literal["approval_requested", "approval_settled"], payload: Mapping[str, Any]) -> None:
        match event:
            case "approval_requested":
                reason = payload["reason"]
                asked = f"{payload['name']}({_arguments(payload['arguments'])})"
                self._line(f"? {asked}{reason and ': '}{reason}", "yellow")
            case "approval_settled":
                reason = payload["reason"]
                self._line(f"  {payload['decision']}{reason and ': '}{reason}", "yellow")
            case _:
                assert_never(event)

    def _tool(self, event: Literal["tool_start", "tool_progress", "tool_end"], payload: Mapping[str, Any]) -> None:
        name = payload["name"]
        match event:
            case "tool_start":
                self._line(f"→ {name}({_arguments(payload['arguments'])})", "cyan")
                self.busy(f"running {name}")
            case "tool_progress" if payload["envelope"] is not None:
                self._inside(name, payload["envelope"])
            case "tool_progress":
                self._line(f"  {name}: {payload['text']}", "dim")
                self.busy(f"running {name}")
            case "tool_end":
                outcome = payload["error"] or "ok"
                said = _first_line(payload["text"])
                text = f"← {name} {outcome} in {_duration(payload['duration_ms'])}{said and ': '}{said}"
                self._line(text, "red" if payload["is_error"] else "green")
            case _:
                assert_never(event)

    def _inside(self, name: str, envelope: Mapping[str, Any]) -> None:
        """What happened in a run that is inside of a call; its tools alone, since its text comes as the call's result."""
        payload = envelope["payload"]
        if envelope["event"] == "tool_start":
            self._line(f"  {name} → {payload['name']}({_arguments(payload['arguments'])})", "dim")
            self.busy(f"running {name}")
        elif envelope["event"] == "tool_progress" and payload["envelope"] is not None:
            self._inside(f"{name}: {payload['name']}", payload["envelope"])

    def _usage(self, payload: Mapping[str, Any]) -> None:
        self.end_line()
        usage = payload["usage"]
        if payload["stop_reason"] in ("max_tokens", "context_window") and payload["status"] == "completed":
            self._line(f"the answer was cut off: {payload['stop_reason']}", "yellow")
        elif payload["status"] == "completed" and not payload["text"].strip():
            self._line("the model said nothing", "yellow")
        if not usage["requests"]:
            return
        used = Usage(**usage)
        cost = price(used, self._provider, self._model)
        parts = (
            f"{used.prompt_tokens} tokens in ({used.cache_read_tokens} cached), {used.output_tokens} out",
            _count(payload["turns"], "turn"),
            _count(payload["tool_calls"], "tool call"),
            self._who,
            _duration(payload["duration_ms"]),
            f"${cost:.4f}" if cost is not None else "",
        )
        self.say(" · ".join(filter(None, parts)))


def _load_prices() -> None:
    """Takes half a second, which is better spent while the model thinks."""
    price(Usage(), "", "")


def _arguments(arguments: Mapping[str, Any]) -> str:
    return _short(
        ", ".join(f"{name}={_short(_as_json(value), ARGUMENT)}" for name, value in arguments.items()), ARGUMENTS
    )


def _as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=repr)


def _first_line(text: str) -> str:
    return _short(next((" ".join(line.split()) for line in text.splitlines() if line.strip()), ""), ARGUMENTS)


def _one_line(text: str) -> str:
    return " ".join(line.rstrip() for line in text.splitlines() if line.strip())


def _short(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _duration(milliseconds: int) -> str:
    return f"{milliseconds} ms" if milliseconds < 1000 else f"{milliseconds / 1000:.1f} s"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
