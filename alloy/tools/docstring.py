"""What a docstring says: the tool's description, and one for each parameter.

Sections are read in the styles of Google (``Args:``), NumPy (``Parameters`` underlined) and Sphinx (``:param name:``).
"""

from __future__ import annotations

import functools
import inspect
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["parameters", "summary"]

_PARAMETERS = "args|arguments|parameters|params|keyword args|keyword arguments|other parameters"
_OTHERS = "returns?|yields?|raises|receives|warns"
_GOOGLE = re.compile(rf"(?:(?P<parameters>{_PARAMETERS})|{_OTHERS}):", re.IGNORECASE)
_NUMPY = re.compile(rf"(?:(?P<parameters>{_PARAMETERS})|{_OTHERS})", re.IGNORECASE)
_SPHINX = re.compile(
    r":(?P<field>param|parameter|arg|argument|key|keyword|type|returns?|rtype|raises?|except|exception)\b"
)
_SPHINX_PARAMETER = re.compile(r":(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)")
_GOOGLE_ENTRY = re.compile(r"\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:(?:\s+(.*))?$")
_NUMPY_ENTRY = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?$")
_UNDERLINE = re.compile(r"-{3,}")


def summary(function: Any) -> str:
    """The docstring without its sections about parameters, results and errors; empty if there is none."""
    text = "\n".join(_read(function)[0])
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def parameters(function: Any) -> dict[str, str]:
    """What the docstring says about each parameter that it names."""
    return _read(function)[1]


def _read(function: Any) -> tuple[list[str], dict[str, str]]:
    """The lines outside of the sections, and the parameters' descriptions."""
    lines = _docstring(function).splitlines()
    kept: list[str] = []
    described: dict[str, str] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        if found := _GOOGLE.fullmatch(line.rstrip()):
            end = _end(lines, at + 1)
            entries = _entries(lines[at + 1 : end], _GOOGLE_ENTRY)
        elif (found := _NUMPY.fullmatch(line.rstrip())) and _underlined(lines, at):
            end = _end_numpy(lines, at + 2)
            entries = _entries(lines[at + 2 : end], _NUMPY_ENTRY)
        elif _SPHINX.match(line):
            end = _end(lines, at + 1)
            if parameter := _SPHINX_PARAMETER.match(line):
                described[parameter[1]] = _joined([parameter[2], *lines[at + 1 : end]])
            at = end
            continue
        else:
            kept.append(line)
            at += 1
            continue
        if found["parameters"]:
            described |= entries
        at = end
    return kept, {name: text for name, text in described.items() if text}


def _docstring(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    own = inspect.getdoc(function)
    if own is None and not inspect.isroutine(function):
        own = inspect.getdoc(getattr(function, "__call__", None))  # noqa: B004  not whether it can be called, but its words
    return own or ""


def _end(lines: list[str], start: int) -> int:
    """Where the indented block that begins at `start` ends."""
    end = start
    for at in range(start, len(lines)):
        if lines[at].strip():
            if not lines[at][0].isspace():
                break
            end = at + 1
    return end


def _end_numpy(lines: list[str], start: int) -> int:
    """Where the section whose body begins at `start` ends: at the next underlined heading."""
    return next((at for at in range(start, len(lines)) if _underlined(lines, at)), len(lines))


def _underlined(lines: list[str], at: int) -> bool:
    return bool(lines[at].strip()) and at + 1 < len(lines) and bool(_UNDERLINE.fullmatch(lines[at + 1].strip()))


def _entries(body: list[str], entry: re.Pattern[str]) -> dict[str, str]:
    """``name: text`` with deeper lines that belong to it, each as one line of text."""
    indents = [len(line) - len(line.lstrip()) for line in body if line.strip()]
    outer = min(indents, default=0)
    texts: dict[str, list[str]] = {}
    names: list[str] = []
    for line in body:
        text = line.strip()
        if text and len(line) - len(line.lstrip()) == outer:
            found = entry.match(text)
            names = [name.strip().lstrip("*") for name in found[1].split(",")] if found else []
            text = (found[2] or "") if found and entry is _GOOGLE_ENTRY else ""
        for name in names:
            texts.setdefault(name, []).append(text)
    return {name: _joined(parts) for name, parts in texts.items()}


def _joined(parts: Iterable[str]) -> str:
    return " ".join(part.strip() for part in parts if part.strip())
