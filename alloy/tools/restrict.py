"""What a restricted `bash` refuses: commands that plainly leave their folder, or ask for other rights.

This is no sandbox. It reads a command before it's run, and keeps a model from doing by accident what nobody meant. A program
that is run can do whatever its user can, such as ``python -c "..."``; use `SandboxExecutor` against that.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from alloy.errors import ToolError
from alloy.tools.paths import inside
from alloy.tools.shell import Script, read_script

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

__all__ = ["refused"]

_DENIED = {
    **dict.fromkeys(("sudo", "su", "doas", "pkexec", "runuser", "setpriv", "capsh"), "asks for another user's rights"),
    **dict.fromkeys(
        ("chroot", "nsenter", "unshare", "mount", "umount", "pivot_root"), "changes what the system's folders are"
    ),
    **dict.fromkeys(
        ("setsid", "systemd-run", "at", "batch", "crontab", "daemonize"), "starts what outlives the command"
    ),
    **dict.fromkeys(("shutdown", "reboot", "halt", "poweroff", "init", "telinit", "mkfs"), "is for the whole machine"),
    **dict.fromkeys(("pkill", "killall", "killall5"), "ends processes that aren't the command's"),
}
_WRAPPERS = {
    *(
        "builtin",
        "chrt",
        "command",
        "coproc",
        "env",
        "exec",
        "find",
        "flock",
        "ionice",
        "nice",
        "nohup",
        "parallel",
        "stdbuf",
    ),
    *("taskset", "time", "timeout", "trap", "watch", "xargs"),
}
_SHELLS = {"ash", "bash", "dash", "eval", "fish", "ksh", "rbash", "sh", "trap", "zsh"}
_KEYWORDS = {
    "!",
    "{",
    "}",
    "case",
    "do",
    "done",
    "elif",
    "else",
    "esac",
    "fi",
    "for",
    "function",
    "if",
    "in",
    "then",
    "time",
}
_KEYWORDS |= {"until", "while", "[[", "]]"}
_DEVICES = {
    "/dev/null",
    "/dev/zero",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/stderr",
    "/dev/tty",
    "/dev/urandom",
    "/dev/random",
}
_PROGRAMS = ("/bin/", "/sbin/", "/usr/bin/", "/usr/sbin/", "/usr/local/bin/")
_ASSIGNMENT = re.compile(r"\w+\+?=")
_DEPTH = 8


def refused(command: str, allowed: Sequence[Path], env: Mapping[str, str], *, depth: int = 0) -> str | None:
    """Why a command isn't run; None if it is.

    Args:
        command: the command.
        allowed: the folders that its paths may lead to, the one that it runs in first.
        env: the variables that it will see.
        depth: how far it's nested in another one.
    """
    if depth > _DEPTH:
        return "it has too many commands in commands"
    try:
        script = read_script(command, env)
    except ValueError as error:
        return f"it can't be read: {_said(error)}"
    for words in script.commands:
        if reason := _refused_words(words, allowed):
            return reason
    for inner in _inner(script):
        if reason := refused(inner, allowed, env, depth=depth + 1):
            return reason
    return None


def _refused_words(words: Sequence[str], allowed: Sequence[Path]) -> str | None:
    called = _called(words)
    for name in called:
        if reason := _DENIED.get(name.partition(".")[0]):
            return f"{name!r} {reason}"
    if called[:1] == ["cd"] and words[-1] == "cd":
        return "'cd' alone leads to the home folder"
    for number, word in enumerate(words):
        for piece in _pieces(word):
            if reason := _leads_out(piece, allowed, program=number == 0):
                return f"{word!r} {reason}" if len(word) <= 100 else f"{word[:100]!r}... {reason}"
    return None


def _called(words: Sequence[str]) -> list[str]:
    """The names of the programs that are run, as far as they stand there."""
    rest = list(words)
    while rest and (rest[0] in _KEYWORDS or _ASSIGNMENT.match(rest[0])):
        rest.pop(0)
    if not rest:
        return []
    program = os.path.basename(rest[0])  # noqa: PTH119  a word
    return [program, *map(os.path.basename, rest[1:])] if program in _WRAPPERS else [program]


def _inner(script: Script) -> Iterator[str]:
    """The commands that are texts in this one."""
    yield from script.nested
    for words in script.commands:
        called = _called(words)
        if _SHELLS & {*called} and (called[0] in _SHELLS or called[0] in _WRAPPERS):
            yield from (word for word in words if re.search(r"[\s;&|$`(]", word))
            yield from script.documents
            if "eval" in called:
                yield " ".join(words[words.index("eval") + 1 :])


def _pieces(word: str) -> Iterator[str]:
    """What of a word may be a path: itself, what is behind an equals sign or a colon, in braces, or behind a short option."""
    if word:
        yield word
    if word[:1] == "-" and word[1:2] not in ("", "-") and len(word) > 3:
        yield word[2:]
    separators = r"[=:{},]" if "{" in word else r"[=:]"
    yield from (piece for piece in re.split(separators, word) if piece and piece != word)


def _leads_out(piece: str, allowed: Sequence[Path], *, program: bool) -> str | None:
    if piece == "~" or re.match(r"~[\w.+-]*(/|$)", piece):
        return "is in a home folder"
    if piece.startswith("/") and not _is_path(piece):
        return None
    if piece in _DEVICES or (program and piece.startswith(_PROGRAMS) and ".." not in piece):
        return None
    try:
        inside(allowed, piece)
    except ToolError:
        return "leads out of the working directory"
    return None


def _is_path(piece: str) -> bool:
    """Whether an absolute path is meant, not a pattern such as ``/foo/p``: the first folder is there, or may be a glob."""
    first = next((part for part in piece.split("/") if part not in ("", ".", "..")), "")
    return not first or bool(re.search(r"[*?\[]", first)) or os.path.lexists(f"/{first}")


def _said(error: ValueError) -> str:
    text = str(error)
    return "a quote isn't closed" if "substring" in text else text
