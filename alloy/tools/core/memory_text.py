"""What the memory tool says, and what its edits do to a text; pure."""

from __future__ import annotations

from typing import Any

from alloy.errors import ToolError

__all__ = ["edited", "human", "inserted", "page", "replaced"]

PAGE_BYTES = 50_000
"""How much of a file one view gives, in bytes of UTF-8."""

_MOST_LINES = 999_999
_AROUND = 2  # lines before and after a change


def human(size: int) -> str:
    """A size as people read it: 0B, 512B, 1.5K, 2M."""
    unit = 0
    number = float(size)
    while number >= 1024 and unit < 3:
        number /= 1024
        unit += 1
    return f"{int(number)}{'BKMG'[unit]}" if number.is_integer() else f"{number:.1f}{'BKMG'[unit]}"


def page(path: str, text: str, span: Any) -> str:
    """A file with line numbers, or some lines of it.

    Args:
        path: the file's.
        text: what is in it.
        span: the first and the last line, from 1; None for all.

    Raises:
        ToolError: there are too many lines, or not those.
    """
    lines = _split(text)
    if len(lines) > _MOST_LINES:
        raise ToolError(f"File {path} exceeds maximum line limit of 999,999 lines.")
    first, last = _span(span, len(lines))
    shown = [f"Here's the content of {path} with line numbers:"]
    size = 0
    for number in range(first, last + 1):
        line = _numbered(number, lines[number - 1])
        size += len(line.encode()) + 1
        if size > PAGE_BYTES and number > first:
            shown.append(f"... {last - number + 1} more lines; go on with view_range [{number}, {last}]")
            break
        shown.append(line)
    return "\n".join(shown)


def _span(span: Any, count: int) -> tuple[int, int]:
    if span is None:
        return 1, count
    if len(span) == 2 and all(isinstance(number, int) and not isinstance(number, bool) for number in span):
        first, last = span
        last = count if last == -1 else min(last, count)
        if 1 <= first <= max(count, 1) and (first <= last or count == 0):
            return first, last
    raise ToolError(
        f"Error: Invalid `view_range` parameter: {span}. It should be [first, last], within the range of lines of the file: "
        f"[1, {count}]; -1 as the last is the file's last line"
    )


def replaced(path: str, text: str, old: str, new: str) -> tuple[str, int]:
    """A text with the one place where `old` is replaced, and the line on which that begins, from 1.

    Raises:
        ToolError: there is no such place, or more than one.
    """
    if not old:
        raise ToolError("Error: `old_str` is empty; give the text to replace, exactly as it is in the file")
    found: list[int] = []
    at = text.find(old)
    while at >= 0:
        found.append(text.count("\n", 0, at) + 1)
        at = text.find(old, at + 1)
    if not found:
        raise ToolError(f"No replacement was performed, old_str `{old}` did not appear verbatim in {path}.")
    if len(found) > 1:
        lines = ", ".join(map(str, found))
        raise ToolError(
            f"No replacement was performed. Multiple occurrences of old_str `{old}` in lines: {lines}. "
            "Please ensure it is unique"
        )
    return text.replace(old, new), found[0]


def edited(text: str, line: int, new: str) -> str:
    """That a file was edited, with the lines around the change."""
    lines = _split(text)
    first, last = max(line - _AROUND, 1), min(line + new.count("\n") + _AROUND, len(lines))
    shown = [_numbered(number, lines[number - 1]) for number in range(first, last + 1)]
    return "\n".join(["The memory file has been edited.", *shown])


def inserted(text: str, line: int, words: str) -> str:
    """A text with lines inserted after a line; what is inserted are whole lines.

    Raises:
        ToolError: there is no such line.
    """
    lines = _split(text)
    if not 0 <= line <= len(lines):
        raise ToolError(
            f"Error: Invalid `insert_line` parameter: {line}. It should be within the range of lines of the file: "
            f"[0, {len(lines)}]"
        )
    if line and not lines[line - 1].endswith("\n"):
        lines[line - 1] += "\n"
    ended = words if words.endswith("\n") or line == len(lines) else f"{words}\n"
    return "".join([*lines[:line], ended, *lines[line:]])


def _split(text: str) -> list[str]:
    """Lines with their ends; only a newline ends one."""
    parts = text.split("\n")
    lines = [f"{part}\n" for part in parts[:-1]]
    return [*lines, parts[-1]] if parts[-1] else lines


def _numbered(number: int, line: str) -> str:
    return f"{number:6}\t{line.removesuffix(chr(10)).removesuffix(chr(13))}"
