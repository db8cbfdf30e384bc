"""A coding agent: it reads and edits a repository until the tests pass, and asks before it runs any command but these.

Without arguments it works on a copy of ``examples/small_repo``, and a script answers, so this runs anywhere. A real model in a
repository of yours (commit first; what it edits is edited)::

    python examples/coding_agent.py --provider anthropic:claude-sonnet-4-5 --repo . --tests "python -m pytest -q" "Fix issue 12."

The environment variable ALLOY_PROVIDER says who answers where ``--provider`` isn't given.
"""

import argparse
import asyncio
import os
import shutil
import sys
import tempfile
from pathlib import Path

import alloy
from alloy.loop.approval import ApprovalRequest, Decision, Rule
from alloy.providers import Scripted
from alloy.testing import Reply, calls, together
from alloy.tools import Bash, edit, find, grep, list_, read, write

SYSTEM_PROMPT = """You are a programmer. Look at the code before you change it, change as little as possible, and never change a \
test to make it pass. Run the tests with: {tests}. When they pass, call finish."""

SUM = "    return sum("
CHECK = '    if not re.fullmatch(r"(\\d+[hms])+", text):\n        raise ValueError(f"no duration: {text!r}")\n'
SCRIPT = [
    together(Reply(text="Let me see what is there, and what fails."), calls("list"), calls("bash", command="pytest")),
    calls("bash", command="python -m unittest"),
    calls("read", path="durations.py"),
    together(
        Reply(text="Only one digit of a number is read."),
        calls("edit", path="durations.py", edits=[{"old": r"(\d)", "new": r"(\d+)"}]),
    ),
    calls("finish", summary="Numbers may have several digits."),
    together(
        Reply(text="One test is left: what is no duration has to be refused."),
        calls("grep", pattern="ValueError"),
        calls("edit", path="durations.py", edits=[{"old": SUM, "new": CHECK + SUM}]),
    ),
    calls("finish", summary="Numbers may have several digits, and what is no duration is a ValueError."),
]


def rules(tests: str) -> list[Rule]:
    """What the agent may do without asking: look at files, edit them, and run the tests."""
    return [
        Rule("deny", path=".git/**", reason="the history is git's own"),
        *(Rule("allow", tool=tool.name) for tool in (read, grep, find, list_, edit, write)),
        Rule("allow", tool="finish"),
        Rule("allow", tool="bash", command=tests),
        Rule("allow", tool="bash", command=f"{tests} *"),  # these with arguments, but not "...; rm -r ."
    ]


async def ask(request: ApprovalRequest) -> Decision:
    """Asks whoever is at the terminal about any other command."""
    if not sys.stdin.isatty():
        return Decision.deny("nobody is there to approve it")
    answer = await asyncio.to_thread(input, f"  run {request.arguments['command']!r}? y, or what to do instead: ")
    return Decision.allow() if answer.strip() == "y" else Decision.deny(answer or "the user said no")


def finish_tool(shell: Bash, tests: str) -> alloy.Tool:
    """The tool that ends the run: the tests decide whether the work is done, not the model."""

    @alloy.tool(concurrency_safe=False, timeout=300)
    async def finish(summary: str, context: alloy.ToolContext) -> str:
        """Says that the work is done; the tests are run once more, and must pass."""
        tested = await shell.execute({"command": tests}, context)
        if tested.is_error:
            raise alloy.ToolError(f"not done, the tests fail:\n{tested.text}")
        return summary

    return finish


def show(envelope: alloy.Envelope) -> None:
    """Prints what happens, as it happens."""
    said = envelope.payload
    match envelope.event:
        case "text_delta":
            print(said["text"], end="", flush=True)
        case "tool_start":
            print(f"\n> {said['name']}", *(value for value in said["arguments"].values() if isinstance(value, str)))
            for one in said["arguments"].get("edits", ()):
                print(*(f"  - {line}" for line in one["old"].splitlines()), sep="\n")
                print(*(f"  + {line}" for line in one["new"].splitlines()), sep="\n")
        case "tool_progress" if sys.stdout.isatty():
            print(said["text"])
        case "tool_end":
            lines = [line for line in said["text"].splitlines() if line.strip()]
            print(*(f"  {line}" for line in lines[-2:]), sep="\n")


async def work(options: argparse.Namespace, folder: Path) -> alloy.Result:
    """Lets the model work in a folder until its tests pass, or a limit is reached."""
    # Commands get this program's Python. A restricted Bash is no sandbox: see docs/tool-safety.md for one.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    shell = Bash(env={"PATH": path, "PYTHONDONTWRITEBYTECODE": "1"}, timeout=300)
    async with alloy.stream(
        options.task,
        provider=options.provider or Scripted(SCRIPT),
        system_prompt=SYSTEM_PROMPT.format(tests=options.tests),
        tools=[read, edit, write, shell, grep, find, list_, finish_tool(shell, options.tests)],
        middleware=[alloy.Approval(rules(options.tests), otherwise="ask", ask=ask)],
        working_directory=folder,
        until_tool="finish",
        max_turns=50,
        timeout=3600,
    ) as run:
        async for envelope in run:
            show(envelope)
    return run.result


async def main() -> None:
    """Reads the command line, and prints what came of the work."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", nargs="?", default="Make the tests pass.")
    parser.add_argument(
        "--provider", default=os.environ.get("ALLOY_PROVIDER"), help="vendor:model; a script by default"
    )
    parser.add_argument("--repo", type=Path, help="the folder to work in; a copy of examples/small_repo by default")
    parser.add_argument("--tests", default="python -m unittest", help="the command that runs the tests")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.repo or shutil.copytree(Path(__file__).parent / "small_repo", Path(temporary, "repo"))
        try:
            result = await work(options, folder)
        except alloy.RunError as error:
            sys.exit(f"\n{error}")
    print(f"\n[{result.status} after {result.turns} turns and {len(result.tool_calls)} tool calls]")


asyncio.run(main())
