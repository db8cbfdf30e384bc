"""Reading a shell command just well enough to say what it would plainly do; running it is the shell's own business."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Script", "read_script"]

_VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)\}")
_HEREDOC = re.compile(r"<<-?[ \t]*(?:'([^'\n]+)'|\"([^\"\n]+)\"|(\\?)([\w.-]+))")
_ANSI = re.compile(r"\\(x[0-9a-fA-F]{1,2}|u[0-9a-fA-F]{1,4}|U[0-9a-fA-F]{1,8}|[0-7]{1,3}|.)", re.DOTALL)
_IN_DOCUMENT = re.compile(r"\$\(([^()]*)\)|`([^`]*)`")
_PLACEHOLDER = "_"  # what is put where only the shell knows


@dataclass(slots=True)
class Script:
    """What a command says.

    Attributes:
        commands: the words of each simple command, quotes removed and known variables put in.
        nested: commands in it that are written as text: in ``$(...)``, in backticks.
        documents: the texts that are given as here-documents.
    """

    commands: list[list[str]] = field(default_factory=list)
    nested: list[str] = field(default_factory=list)
    documents: list[str] = field(default_factory=list)


def read_script(text: str, env: Mapping[str, str]) -> Script:
    """Reads a command.

    Args:
        text: the command.
        env: the variables that it will see.

    Raises:
        ValueError: a quote or a parenthesis isn't closed.
    """
    return _Reader(text, env).read()


class _Reader:
    def __init__(self, text: str, env: Mapping[str, str]) -> None:
        self._text = text
        self._env = env
        self._at = 0
        self._script = Script()
        self._words: list[str] = []
        self._word: str | None = None
        self._awaited: list[tuple[str, bool]] = []  # here-documents: how each ends, and whether the shell expands it

    def read(self) -> Script:
        while self._at < len(self._text):
            char = self._text[self._at]
            match char:
                case "\\":
                    self._add(self._text[self._at + 1 : self._at + 2].replace("\n", ""))
                    self._at += 2
                case "'":
                    self._single()
                case '"':
                    self._double()
                case "$" | "`":
                    self._expansion()
                case "#" if self._word is None:
                    end = self._text.find("\n", self._at)
                    self._at = len(self._text) if end < 0 else end
                case "<":
                    self._input()
                case _:
                    self._plain(char)
        self._end_command()
        return self._script

    def _plain(self, char: str) -> None:
        self._at += 1
        if char in ";&|()\n":
            self._end_command()
            if char == "\n":
                self._documents()
        elif char in " \t>":
            self._end_word()
        else:
            self._add(char)

    def _add(self, text: str) -> None:
        self._word = (self._word or "") + text

    def _end_word(self) -> None:
        if self._word is not None:
            self._words.append(self._word)
            self._word = None

    def _end_command(self) -> None:
        self._end_word()
        if self._words:
            self._script.commands.append(self._words)
            self._words = []

    def _single(self) -> None:
        end = self._text.index("'", self._at + 1)
        self._quoted(self._text[self._at + 1 : end])
        self._at = end + 1

    def _quoted(self, text: str) -> None:
        """Adds text of quotes, in which a tilde is no home folder."""
        self._add(f"./{text}" if not self._word and text.startswith("~") else text)

    def _double(self) -> None:
        self._at += 1
        self._quoted("")
        while (char := self._text[self._at : self._at + 1]) != '"':
            if not char:
                raise ValueError("a double quote isn't closed")
            if char == "\\" and self._text[self._at + 1 : self._at + 2] in ("$", "`", '"', "\\", "\n"):
                self._add(self._text[self._at + 1].replace("\n", ""))
                self._at += 2
            elif char in "$`":
                self._expansion()
            else:
                self._quoted(char)
                self._at += 1
        self._at += 1

    def _expansion(self) -> None:
        """A dollar or a backtick, quoted or not."""
        text, at = self._text, self._at
        if text[at] == "`":
            end = text.index("`", at + 1)
            self._nest(text[at + 1 : end], end + 1)
        elif text.startswith("$(", at):
            end = self._closing(at + 2, "()")
            self._nest(text[at + 2 : end], end + 1)
        elif text.startswith("$'", at):
            self._ansi()
        elif match := _VARIABLE.match(text, at):
            self._add(self._env.get(match[1] or match[2], _PLACEHOLDER))
            self._at = match.end()
        elif text.startswith("${", at):  # with a default, or cut in some way: that may be a path as well
            end = self._closing(at + 2, "{}")
            name, operator, rest = re.match(r"[!#]?(\w*)([^\w/~]*)(.*)", text[at + 2 : end], re.DOTALL).groups()  # type: ignore[union-attr]  # it matches everything
            self._words.append(self._env.get(name, _PLACEHOLDER))
            self._words.append(rest)
            self._add(_PLACEHOLDER if operator else self._env.get(name, _PLACEHOLDER))
            self._at = end + 1
        else:
            self._add("$")
            self._at += 1

    def _nest(self, command: str, at: int) -> None:
        self._script.nested.append(command)
        self._add(_PLACEHOLDER)
        self._at = at

    def _ansi(self) -> None:
        end = self._at + 2
        while (char := self._text[end : end + 1]) != "'":
            if not char:
                raise ValueError("a quote isn't closed")
            end += 2 if char == "\\" else 1
        self._quoted(_ANSI.sub(_unescaped, self._text[self._at + 2 : end]))
        self._at = end + 1

    def _closing(self, at: int, pair: str) -> int:
        """Where the parenthesis that is open closes; quotes are passed over."""
        depth = 1
        while at < len(self._text):
            char = self._text[at]
            if char == "\\":
                at += 1
            elif char == "'" and pair == "()":
                at = self._text.index("'", at + 1)
            elif char in pair:
                depth += 1 if char == pair[0] else -1
                if not depth:
                    return at
            at += 1
        raise ValueError(f"a {pair[0]!r} isn't closed")

    def _input(self) -> None:
        """A file, a text, or a here-document whose text begins on the next line."""
        self._end_word()
        if self._text.startswith("<<<", self._at):
            self._at += 3
        elif match := _HEREDOC.match(self._text, self._at):
            self._awaited.append((match[1] or match[2] or match[4], match[4] is not None and not match[3]))
            self._at = match.end()
        else:
            self._at += 1

    def _documents(self) -> None:
        """Takes the here-documents that begin here."""
        for end, expands in self._awaited:
            lines: list[str] = []
            while self._at < len(self._text):
                line, _, _ = self._text[self._at :].partition("\n")
                self._at += len(line) + 1
                if line.lstrip("\t") == end:
                    break
                lines.append(line)
            document = "\n".join(lines)
            self._script.documents.append(document)
            if expands:
                self._script.nested += [one or other for one, other in _IN_DOCUMENT.findall(document)]
        self._awaited.clear()


def _unescaped(match: re.Match[str]) -> str:
    code = match[1]
    if code[0] in "xuU" and len(code) > 1:
        return chr(int(code[1:], 16))
    if code[0] in "01234567":
        return chr(int(code, 8))
    return {"n": "\n", "t": "\t", "r": "\r", "e": "\x1b", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}.get(code, code)
