"""The ``alloy`` command: what can be typed, and what is made of it."""

from __future__ import annotations

import os
import sys
import threading
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from alloy.errors import AlloyError, ConfigurationError, HistoryError, InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from alloy.cli.rendering import View
    from alloy.loop.config import Config
    from alloy.tools import Tool

__all__ = ["alloy"]

PATIENCE = 2.0  # seconds before it is said that more input is awaited
BROKEN_PIPE = 141  # what a shell reports of a program that wrote to a pipe nobody read

_EPILOG = """\
\b
Examples:
  alloy "What is the capital of France?"
  alloy --provider openai:gpt-5 "Explain actors in two sentences"
  alloy --tools read "Read examples/notes.txt. Who leads the project?"
  git diff | alloy "Write a commit message for this change"
  alloy --tools read,bash --ask bash "Which of these files is the largest?"
  alloy --tools mytools:weather "Do I need a coat in Oslo?"
  alloy --json "Hello" | jq -r 'select(.event == "response").payload.text'
  alloy                            (a conversation)

\b
Exit codes:
  0    completed
  1    failed: the model's side, or the output could not be written
  2    wrong usage or configuration; nothing was asked
  3    stopped after --max-turns
  4    halted
  130  cancelled by Ctrl-C (129 by hang-up, 143 by SIGTERM)
  141  the reader of the output went away
"""


@click.command(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.argument("prompt", nargs=-1)
@click.option(
    "-p",
    "--provider",
    metavar="VENDOR:MODEL",
    default="local",
    envvar="ALLOY_PROVIDER",
    show_default=True,
    show_envvar=True,
    help="Who answers; 'local' is a small model that runs on this computer.",
)
@click.option(
    "-t",
    "--tools",
    metavar="NAME,...",
    multiple=True,
    help="What the model can call: core tools by name, your own as module:attribute. Can be repeated.",
)
@click.option(
    "-a",
    "--ask",
    metavar="NAME,...",
    multiple=True,
    help="Tools that you are asked about before each call; '*' for all. Without a terminal their calls are denied.",
)
@click.option("-s", "--system", metavar="TEXT", help="What the model is told first.")
@click.option("--max-turns", type=click.IntRange(min=1), metavar="N", help="How many answers a run may take.")
@click.option("--timeout", type=float, metavar="SECONDS", help="How long a run may take.")
@click.option(
    "-C",
    "--working-directory",
    type=click.Path(exists=True, file_okay=False),
    help="The folder that file tools stay in; by default the current one.",
)
@click.option("--json", "as_json", is_flag=True, help="Write every event as a line of JSON, and nothing else.")
@click.version_option(package_name="alloy-harness", prog_name="alloy", message="%(prog)s %(version)s")
@click.pass_context
def alloy(context: click.Context, /, prompt: tuple[str, ...], *, as_json: bool, **options: Any) -> None:
    """Ask a model, let it use tools, and see it work.

    PROMPT is the question. What is piped in goes before it, or is the question where there is none ("-" says so). With
    neither, a conversation begins.
    """
    try:
        code = _main(prompt, as_json=as_json, options=options)
    except KeyboardInterrupt:
        click.echo("alloy: cancelled", err=True)
        code = 130
    context.exit(code)


def _main(words: tuple[str, ...], *, as_json: bool, options: dict[str, Any]) -> int:
    """Runs what was typed; returns the exit code."""
    from alloy.cli.rendering import JsonLines, Transcript  # noqa: PLC0415  --help does without

    view = JsonLines(sys.stdout, sys.stderr) if as_json else Transcript(sys.stdout, sys.stderr)
    try:
        return _run(words, view, interactive=not as_json, options=options)
    except (ConfigurationError, HistoryError) as error:
        return _failed(view, error, 2)
    except AlloyError as error:
        return _failed(view, error, 1)
    except BrokenPipeError:
        return BROKEN_PIPE
    except OSError as error:
        return _failed(view, error, 1)  # no space left, a terminal that is gone


def _run(words: tuple[str, ...], view: View, *, interactive: bool, options: dict[str, Any]) -> int:
    import anyio  # noqa: PLC0415  --help does without

    from alloy.cli.running import ask, converse  # noqa: PLC0415  --help does without

    config = _config(**options)
    text = _prompt(words, view)
    if text is not None:
        return anyio.run(partial(ask, text, config, view, interactive=interactive and sys.stdin.isatty()))
    if not interactive or not sys.stdout.isatty():
        raise ConfigurationError("nothing to ask: give a question; a conversation needs a terminal, and no --json")
    return anyio.run(converse, config, view)


def _failed(view: View, error: Exception, code: int) -> int:
    from alloy.cli.running import explain  # noqa: PLC0415  --help does without

    view.fail(explain(error))
    return code


# --- What was typed --------------------------------------------------------------------------------------------------


def _config(
    *,
    provider: str,
    tools: Sequence[str],
    ask: Sequence[str],
    system: str | None,
    max_turns: int | None,
    timeout: float | None,
    working_directory: Path | None,
) -> Config:
    from alloy.loop.config import Config, Options  # noqa: PLC0415  --help does without

    options: Options = {"provider": provider, "tools": _tools(tools), "system_prompt": system, "timeout": timeout}
    if max_turns is not None:
        options["max_turns"] = max_turns
    if working_directory is not None:
        options["working_directory"] = working_directory
    if asked := _split(ask):
        from alloy.loop.approval import Approval, Rule  # noqa: PLC0415  --help does without

        options["middleware"] = [Approval([Rule("ask", tool=name) for name in asked], otherwise="allow")]
    return Config(**options)


def _prompt(words: tuple[str, ...], view: View) -> str | None:
    """What to ask: what is piped in, and behind it the words of the command line. None for a conversation."""
    typed = " ".join(word for word in words if word != "-")
    typed = typed.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if sys.stdin.isatty() and "-" not in words:
        return typed if words else None
    hint = threading.Timer(PATIENCE, view.say, ["reading standard input to its end; '< /dev/null' does without"])
    hint.daemon = True
    hint.start()
    piped = sys.stdin.buffer.read().decode("utf-8", "replace")
    hint.cancel()
    text = "\n\n".join(part for part in (piped.strip("\n"), typed) if part.strip())
    if not text:
        raise ConfigurationError("nothing to ask: give a question, or pipe one in")
    return text


def _tools(names: Sequence[str]) -> list[Tool]:
    """The tools that are named: ``read``, ``read,bash`` or ``module:attribute``.

    Raises:
        InvalidOptionError: there is no such tool.
    """
    return [_own_tool(name) if ":" in name else _core_tool(name) for name in _split(names)]


def _split(given: Sequence[str]) -> list[str]:
    """The names in ``a,b``, once each."""
    names = [name.strip() for one in given for name in one.split(",")]
    return [name for name in dict.fromkeys(names) if name]


def _core_tool(name: str) -> Tool:
    from alloy import tools  # noqa: PLC0415  --help does without

    every = (getattr(tools, public) for public in tools.__all__)
    core = {tool.name: tool for tool in every if isinstance(tool, tools.Tool)}
    if name not in core:
        raise InvalidOptionError("--tools", f"{', '.join(sorted(core))}, or your own as module:attribute", name)
    return core[name]


def _own_tool(name: str) -> Tool:
    import importlib  # noqa: PLC0415  --help does without
    import operator  # noqa: PLC0415  --help does without

    from alloy.tools import Tool  # noqa: PLC0415  --help does without

    module, _, attribute = name.partition(":")
    if os.getcwd() not in sys.path:  # noqa: PTH109  as Python itself puts it there for -m
        sys.path.insert(0, os.getcwd())  # noqa: PTH109  as above
    try:
        found = operator.attrgetter(attribute)(importlib.import_module(module))
    except Exception as error:
        raise ConfigurationError(f"tool {name!r} can't be loaded: {type(error).__name__}: {error}") from error
    if not isinstance(found, Tool):
        raise InvalidOptionError("--tools", f"a tool; put @alloy.tool on {attribute!r} in {module!r}", found)
    return found
