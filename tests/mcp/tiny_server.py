"""An MCP server without anything but the standard library, which starts in an instant and misbehaves when told to.

Its arguments say how: ``journal=FILE`` writes down what it hears; ``dies`` ends at once; ``silent`` never answers;
``stubborn`` ends only when it's killed.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

MODES = dict(argument.partition("=")[::2] for argument in sys.argv[1:])
TOOLS = ["echo", "die", "wait", "spawn", "chatter", "steps", "grow", "environment", "refuse", "wrong", "bare", "huge"]


def say(**message: object) -> None:
    sys.stdout.write(json.dumps({"jsonrpc": "2.0", **message}) + "\n")
    sys.stdout.flush()


def text(words: str, **rest: object) -> dict[str, object]:
    return {"content": [{"type": "text", "text": words}], **rest}


def describe(name: str) -> dict[str, object]:
    tool: dict[str, object] = {"name": name, "description": f"Tool {name}.", "inputSchema": {"type": "object"}}
    if name == "echo":
        tool["annotations"] = {"readOnlyHint": True}
        tool["inputSchema"] = {"type": "object", "properties": {"words": {"type": "string"}}, "required": ["words"]}
    if name == "wrong":
        tool["outputSchema"] = {"type": "object", "required": ["a"]}
    if name == "bare":
        del tool["description"]
    return tool


def wait(number: object, **_: object) -> None:
    """Never answers."""


def die(**_: object) -> None:
    sys.stderr.write("the disk is full, said " + os.environ.get("SOME_TOKEN", "nobody") + "\n")
    sys.stderr.flush()
    os._exit(3)


def refuse(number: object, **_: object) -> None:
    say(id=number, error={"code": -32602, "message": "not today"})


def huge(**_: object) -> None:
    sys.stdout.write("x" * 5_000_000)
    sys.stdout.flush()


def spawn(number: object, **_: object) -> None:
    children = [
        subprocess.Popen(["sleep", "1000"], start_new_session=away, stdout=sys.stdout if away else None)
        for away in (False, True)
    ]
    say(id=number, result=text(json.dumps([os.getpid(), *(child.pid for child in children)])))


def chatter(number: object, **_: object) -> None:
    sys.stdout.write("Welcome to the tiny server!\n\n\u00e9\n")
    sys.stdout.flush()
    sys.stdout.buffer.write(b"\xff\xfe\n")
    say(id=number, result=text("ok"))


def steps(number: object, meta: dict[str, object], **_: object) -> None:
    for step in (1, 2):
        progress = {"progressToken": meta["progressToken"], "progress": step, "total": 2, "message": f"step {step}"}
        say(method="notifications/progress", params=progress)
    say(id=number, result=text("ok"))


def grow(number: object, **_: object) -> None:
    TOOLS.append("grown")
    say(method="notifications/tools/list_changed")
    say(id=number, result=text("ok"))


def echo(number: object, arguments: dict[str, str], **_: object) -> None:
    say(id=number, result=text(arguments["words"]))


def environment(number: object, **_: object) -> None:
    say(id=number, result=text(json.dumps(dict(os.environ))))


def wrong(number: object, **_: object) -> None:
    say(id=number, result=text("?", structuredContent={"b": 1}))


def bare(number: object, **_: object) -> None:
    say(id=number, result=text("ok"))


def answer(message: dict[str, object]) -> None:
    if "journal" in MODES:
        with Path(MODES["journal"]).open("a", encoding="utf-8") as journal:
            journal.write(json.dumps(message) + "\n")
    number, method = message.get("id"), message.get("method")
    if number is None or method is None or "silent" in MODES:
        return
    params = message.get("params") or {}
    if method == "initialize":
        about = {"name": "tiny", "version": "1"}
        version = params["protocolVersion"]
        tools = {"tools": {"listChanged": True}}
        say(id=number, result={"protocolVersion": version, "capabilities": tools, "serverInfo": about})
    elif method == "tools/list":
        say(id=number, result={"tools": [describe(name) for name in TOOLS]})
    elif method == "tools/call":
        tool = globals()[params["name"]]
        tool(number=number, arguments=params.get("arguments") or {}, meta=params.get("_meta") or {})
    else:
        say(id=number, error={"code": -32601, "message": "Method not found"})


if "dies" in MODES:
    sys.exit("no configuration found")
if "stubborn" in MODES:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
for line in sys.stdin:
    answer(json.loads(line))
while "stubborn" in MODES:
    signal.pause()
