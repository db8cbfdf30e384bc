"""Rules about tool calls, as data: which are allowed, which are denied, and about which somebody is asked."""

from __future__ import annotations

import fnmatch
import glob
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from alloy.errors import InvalidOptionError, UnknownOptionError
from alloy.tools.shell import read_script

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from alloy.messages import ToolUseBlock

__all__ = ["Action", "Rule", "rules_from_json", "rules_to_json"]

Action: TypeAlias = Literal["allow", "ask", "deny"]
"""What a rule says about a call."""

_FOLDS = sys.platform in ("darwin", "win32")  # their file systems take Secret for secret
_PATTERN = re.compile(r"[*?\[]")
_DEEPEST = 5  # commands written as text in commands
_NOT_READ = re.compile(r"\$\(|\$'|\$\"|`|[<>(){}\0]|\\\n")
"""What makes a command more than simple commands in a row."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What is done about the calls that it matches; where it names several things, all must match.

    Attributes:
        action: ``allow``, ``ask`` or ``deny``.
        tool: a pattern of tool names: ``*`` is any text, ``?`` any character, ``[ab]`` one of these.
        path: a pattern of paths, relative to the working directory or absolute; ``*`` stays within one name, ``**`` stands for any
            folders. It is about the argument `path`, with links and ``..`` resolved. A call without one isn't allowed by the rule; if it denies or asks, the working
            directory is meant.
        command: a pattern of commands, where ``*`` is any text. It is about the argument `command`; see `docs/approval.md` for
            commands that are several.
        reason: why; the model reads it where a call is denied, the person where one is asked.

    Raises:
        InvalidOptionError: an attribute has a value that it can't have.
    """

    action: Action
    tool: str = "*"
    path: str | None = None
    command: str | None = None
    reason: str = ""

    def __post_init__(self) -> None:
        if self.action not in get_args(Action):
            raise InvalidOptionError("rule.action", "'allow', 'ask' or 'deny'", self.action)
        for name in ("tool", "path", "command"):
            value = getattr(self, name)
            if (value is not None or name == "tool") and (not isinstance(value, str) or not value.strip()):
                raise InvalidOptionError(f"rule.{name}", "a pattern", value)
        if not isinstance(self.reason, str):
            raise InvalidOptionError("rule.reason", "text", self.reason)

    def looks_up(self, call: ToolUseBlock) -> bool:
        """Whether the file system has to be asked before it can be said whether it is about this call."""
        return self.path is not None and fnmatch.fnmatchcase(call.name, self.tool)

    def matches(self, call: ToolUseBlock, working_directory: Path) -> bool:
        """Whether it is about this call; blocks where it `looks_up` something.

        A rule that allows matches only what it certainly means, any other also what it may mean.
        """
        if not fnmatch.fnmatchcase(call.name, self.tool):
            return False
        if self.command is not None and not self._matches_command(self.command, call.input.get("command")):
            return False
        return self.path is None or self._matches_path(self.path, call.input.get("path"), working_directory)

    def _matches_command(self, pattern: str, command: object) -> bool:
        if not isinstance(command, str):
            return False
        if self.action != "allow":
            return any(fnmatch.fnmatchcase(one, pattern) for one in _meant(command))
        if not _PATTERN.search(pattern):
            return command.strip() == pattern.strip()
        parts = _parts(command)
        if parts is None:
            return not pattern.strip("*")
        return bool(parts) and all(fnmatch.fnmatchcase(part, pattern) for part in parts)

    def _matches_path(self, pattern: str, path: object, working_directory: Path) -> bool:
        given = "." if path is None and self.action != "allow" else path
        if not isinstance(given, str) or "\0" in given:
            return self.action != "allow"
        real = Path(os.path.realpath(working_directory / given))
        return _matches_parts(_folded(real.parts), _folded(_resolved(working_directory, pattern)))

    def to_json(self) -> dict[str, str]:
        """The rule as a JSON object; what isn't said is left out."""
        said = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in said.items() if value and (name, value) != ("tool", "*")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Rule:
        """Reads what `to_json` wrote.

        Raises:
            UnknownOptionError: a key that no rule has.
            InvalidOptionError: it is no rule.
        """
        given: Any = data
        if not isinstance(given, Mapping) or "action" not in given:
            raise InvalidOptionError(
                "rule", "an object with an action, such as {'action': 'ask', 'tool': 'bash'}", given
            )
        known = {field.name for field in fields(cls)}
        for key in data:
            if key not in known:
                raise UnknownOptionError(str(key), known)
        return cls(**data)


def rules_to_json(rules: Sequence[Rule]) -> bytes:
    """Rules as a JSON document."""
    return json.dumps([rule.to_json() for rule in rules], ensure_ascii=False, indent=2).encode()


def rules_from_json(document: str | bytes) -> tuple[Rule, ...]:
    """Reads what `rules_to_json` wrote.

    Raises:
        ConfigurationError: it is no such document.
    """
    try:
        rules = json.loads(document)
    except (ValueError, RecursionError):
        raise InvalidOptionError("rules", "a JSON list of rules", document) from None
    if not isinstance(rules, list):
        raise InvalidOptionError("rules", "a JSON list of rules", rules)
    return tuple(Rule.from_json(rule) for rule in rules)


# --- Paths -----------------------------------------------------------------------------------------------------------


def _resolved(working_directory: Path, pattern: str) -> tuple[str, ...]:
    """A pattern's parts; what comes before the first wildcard is resolved as a path."""
    parts = (working_directory / pattern).parts
    plain = next((index for index, part in enumerate(parts) if _PATTERN.search(part)), len(parts))
    # What the working directory is called isn't meant as a pattern.
    plain = max(plain, len(working_directory.parts) if not Path(pattern).is_absolute() else 1)
    real = Path(os.path.realpath(Path(*parts[:plain]))).parts
    return (*map(glob.escape, real), *parts[plain:])


def _matches_parts(names: Sequence[str], pattern: Sequence[str]) -> bool:
    """Whether names match a pattern of them, in which ``**`` stands for any number, also none."""
    reachable = {0}  # how much of the pattern may have been used up
    for name in names:
        reachable = set(_passed(reachable, pattern))
        reachable = {
            index + (pattern[index] != "**")
            for index in reachable
            if index < len(pattern) and (pattern[index] == "**" or fnmatch.fnmatchcase(name, pattern[index]))
        }
    return len(pattern) in set(_passed(reachable, pattern))


def _passed(reachable: Iterable[int], pattern: Sequence[str]) -> Iterator[int]:
    """Where one can be as well, since ``**`` may stand for nothing."""
    for start in reachable:
        index = start
        yield index
        while index < len(pattern) and pattern[index] == "**":
            index += 1
            yield index


def _folded(parts: Sequence[str]) -> tuple[str, ...]:
    return tuple(part.casefold() for part in parts) if _FOLDS else tuple(parts)


# --- Commands --------------------------------------------------------------------------------------------------------


def _parts(command: str) -> list[str] | None:
    """The simple commands in a row that a command is; None if it is anything else, or can't be read."""
    parts, part, quote, at = [], "", "", 0
    if _NOT_READ.search(command):
        return None
    while at < len(command):
        char = command[at]
        if char == "\\" and quote != "'":
            part += command[at : at + 2]
            at += 2
            continue
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (not part or part[-1] in " \t"):  # a comment, whose quotes are none
            return None
        elif char in ";&|\n":
            parts.append(part.strip())
            part, at = "", at + 1
            continue
        part += char
        at += 1
    return None if quote else [one for one in (*parts, part.strip()) if one]


def _meant(command: str, depth: int = 0) -> Iterator[str]:
    """Everything that a command may run, as far as can be told: itself, and each command in it, without quotes."""
    yield command
    yield command.strip()
    if depth == _DEEPEST:
        return
    try:
        script = read_script(command, {})
    except (ValueError, IndexError):  # the shell won't understand it either
        yield from (part.strip() for part in re.split(r"[;&|\n(){}`<>]|\$\(", command))
        return
    for words in script.commands:
        named = next((index for index, word in enumerate(words) if not re.match(r"\w+=", word)), 0)
        yield " ".join(words)
        yield " ".join(words[named:])
    for nested in script.nested:
        yield from _meant(nested, depth + 1)
