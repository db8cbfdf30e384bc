"""The memory tool: notes that a model keeps from one conversation to the next, as files in one folder.

Commands, arguments and answers are those of Anthropic's memory tool, which Claude knows without being told; every other model
gets it as any tool.

Source: https://platform.claude.com/docs/en/agents-and-tools/tool-use/memory-tool
"""

from __future__ import annotations

import os
import re
import stat
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote
from weakref import WeakValueDictionary

from alloy._tasks import run_in_thread
from alloy.errors import InvalidOptionError, ToolError
from alloy.tools.base import Tool
from alloy.tools.core.memory_text import edited, human, inserted, page, replaced
from alloy.tools.core.write import PATIENCE
from alloy.tools.files import Text, read_whole, replace_file
from alloy.tools.paths import Folder, why

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from alloy.tools.base import ToolContext

__all__ = ["Memory", "memory"]

ROOT = "/memories"
DEEPEST = 8
"""How many names a path may have below `ROOT`."""

_LISTED = 10_000  # entries of one folder
_NO_FILE = "Error: The path {} does not exist. Please provide a valid path."
_NOTHING = "Error: The path {} does not exist"
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "view": ("path",),
    "create": ("path", "file_text"),
    "str_replace": ("path", "old_str"),
    "insert": ("path", "insert_line", "insert_text"),
    "delete": ("path",),
    "rename": ("old_path", "new_path"),
}
"""The commands, with what each needs."""

_TEXT = {"type": "string"}
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "command": {"type": "string", "enum": list(_COMMANDS), "description": "What to do."},
        "path": _TEXT | {"description": "The file or directory, such as /memories/notes.md; for all but rename."},
        "view_range": {
            "type": "array",
            "items": {"type": "integer"},
            "description": "For view of a file: the first and the last line to show, from 1; -1 is the file's last line.",
        },
        "file_text": _TEXT | {"description": "For create: all that is to be in the file."},
        "old_str": _TEXT
        | {"description": "For str_replace: the text to replace; it must be in the file exactly once."},
        "new_str": _TEXT | {"description": "For str_replace: what to put there; nothing, if left out."},
        "insert_line": {"type": "integer", "description": "For insert: after which line; 0 is before the first."},
        "insert_text": _TEXT | {"description": "For insert: the lines to insert."},
        "old_path": _TEXT | {"description": "For rename: what to rename or move."},
        "new_path": _TEXT | {"description": "For rename: its new path, where nothing may be yet."},
    },
    "required": ["command"],
}
_DESCRIPTION = (
    "Your memory: text files under /memories that stay from one conversation to the next. View /memories before you begin, since "
    "there may be notes from earlier; write down what will be of use later, and keep it current and in order. Commands: view (a "
    "file, or what is in a directory), create (a new file), str_replace and insert (edit a file), delete and rename (a file or "
    "directory)."
)

_locks: WeakValueDictionary[str, _Lock] = WeakValueDictionary()


def memory(
    directory: str | os.PathLike[str],
    *,
    max_file_bytes: int = 100_000,
    max_total_bytes: int = 10_000_000,
    max_files: int = 1_000,
) -> Memory:
    """A memory of its own for whoever gets this tool, kept in a folder.

    Args:
        directory: where the files are kept; made when the first one is. Whoever has the same folder has the same memory.
        max_file_bytes: how large one file may get, in bytes of UTF-8.
        max_total_bytes: how large all files together may get.
        max_files: how many files and directories there may be.

    Raises:
        InvalidOptionError: a limit that isn't a whole number above 0.
    """
    limits = {"max_file_bytes": max_file_bytes, "max_total_bytes": max_total_bytes, "max_files": max_files}
    for option, value in limits.items():
        given: Any = value
        if isinstance(given, bool) or not isinstance(given, int) or given < 1:
            raise InvalidOptionError(option, "a whole number above 0", value)
    return Memory(Path(os.path.abspath(directory)), **limits)  # noqa: PTH100  Path.absolute keeps ".."


class Memory(Tool):
    """The memory tool, made by `memory`."""

    name = "memory"
    description = _DESCRIPTION
    input_schema = _SCHEMA
    concurrency_safe = False
    options = {"anthropic": {"type": "memory_20250818"}}  # noqa: RUF012  as of any Tool

    def __init__(self, directory: Path, *, max_file_bytes: int, max_total_bytes: int, max_files: int) -> None:
        super().__init__()
        self._directory = directory
        self._max_file_bytes = max_file_bytes
        self._max_total_bytes = max_total_bytes
        self._max_files = max_files

    async def execute(self, arguments: Mapping[str, Any], context: ToolContext) -> str:  # noqa: ARG002  as of any Tool
        """Does what a command says; see `Tool.execute`."""
        command = _checked(arguments)
        stop = threading.Event()
        work = partial(self._do, command, dict(arguments), stop)
        return await run_in_thread(work, name="alloy tool memory", stop=stop.set, within=PATIENCE)

    def _do(self, command: str, arguments: dict[str, Any], stop: threading.Event) -> str:
        store = _Store(self._directory, self._max_file_bytes, self._max_total_bytes, self._max_files, stop)
        actions: Mapping[str, Callable[[], str]] = {
            "view": lambda: store.view(arguments["path"], arguments.get("view_range")),
            "create": lambda: store.create(arguments["path"], arguments["file_text"]),
            "str_replace": lambda: store.replace(
                arguments["path"], arguments["old_str"], arguments.get("new_str") or ""
            ),
            "insert": lambda: store.insert(arguments["path"], arguments["insert_line"], arguments["insert_text"]),
            "delete": lambda: store.delete(arguments["path"]),
            "rename": lambda: store.rename(arguments["old_path"], arguments["new_path"]),
        }
        try:
            with store.lock:
                return actions[command]()
        except OSError as error:
            raise ToolError(f"Error: {why(error)}") from None


class _Lock:
    """A lock that can be referred to weakly; whoever works on one folder in this process does so one at a time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


class _Store:
    """The folder, for one command."""

    def __init__(
        self, directory: Path, max_file_bytes: int, max_total_bytes: int, max_files: int, stop: threading.Event
    ) -> None:
        self._real = Path(os.path.realpath(directory))
        self._max_file_bytes = max_file_bytes
        self._max_total_bytes = max_total_bytes
        self._max_files = max_files
        self._stop = stop
        self.lock = _locks.setdefault(str(self._real), _Lock())

    def view(self, path: str, span: Any) -> str:
        names = _names(path)
        if not names and not self._real.exists():
            return _listing(path, {"": (0, True)})
        with self._parent(names, f"The path {path} does not exist. Please provide a valid path.") as (
            folder,
            name,
        ):
            found = folder.look(name)
            if found is not None and stat.S_ISREG(found.st_mode):
                return page(path, _read(folder, name, path)[0].content, span)
            if found is None or not stat.S_ISDIR(found.st_mode):
                raise ToolError(f"The path {path} does not exist. Please provide a valid path.")
            if span is not None:
                raise ToolError("Error: The `view_range` parameter is not allowed when `path` points to a directory.")
            with folder.enter(name) as shown:
                return _listing(path, {"": (0, True)} | dict(_walk(shown, self._stop)))

    def create(self, path: str, text: str) -> str:
        names = _names(path)
        if not names:
            raise ToolError(f"Error: File {path} already exists")
        data = text.encode()
        self._check_size(path, data)
        self._real.mkdir(parents=True, exist_ok=True)
        self._check_room(len(data), names)
        with self._parent(names, f"Error: The path {path} leads through a file", make=True) as (folder, name):
            if folder.look(name) is not None:
                raise ToolError(f"Error: File {path} already exists")
            replace_file(folder, name, data, path=path, before=None, stop=self._stop)
        return f"File created successfully at: {path}"

    def replace(self, path: str, old: str, new: str) -> str:
        with self._file(path, _NO_FILE.format(path)) as (folder, name):
            text, before = _read(folder, name, path)
            content, line = replaced(path, text.content, old, new)
            self._write(folder, name, path, text.with_content(content), before)
        return edited(content, line, new)

    def insert(self, path: str, line: int, words: str) -> str:
        with self._file(path, _NOTHING.format(path)) as (folder, name):
            text, before = _read(folder, name, path)
            self._write(folder, name, path, text.with_content(inserted(text.content, line, words)), before)
        return f"The file {path} has been edited."

    def delete(self, path: str) -> str:
        names = _names(path)
        if not names:
            raise ToolError(f"Error: The path {path} is the memory itself; delete what is in it")
        with self._parent(names, _NOTHING.format(path)) as (folder, name):
            found = folder.look(name)
            if found is None:
                raise ToolError(_NOTHING.format(path))
            _remove(folder, name, found, self._stop)
            folder.sync()
        return f"Successfully deleted {path}"

    def rename(self, old_path: str, new_path: str) -> str:
        old, new = _names(old_path), _names(new_path)
        if not old:
            raise ToolError(f"Error: The path {old_path} is the memory itself; it can't be renamed")
        if new[: len(old)] == old and new != old:
            raise ToolError(f"Error: The path {new_path} is inside of {old_path}")
        with self._parent(old, _NOTHING.format(old_path)) as (folder, name):
            found = folder.look(name)
            if found is None or stat.S_ISLNK(found.st_mode):
                raise ToolError(_NOTHING.format(old_path))
            if not new:
                raise ToolError(f"Error: The destination {new_path} already exists")
            if stat.S_ISDIR(found.st_mode):
                self._check_depth(folder, name, len(new), new_path)
            self._check_room(0, new[:-1])
            leads = f"Error: The path {new_path} leads through a file"
            with self._parent(new, leads, make=True) as (there, named):
                if there.look(named) is not None:
                    raise ToolError(f"Error: The destination {new_path} already exists")
                folder.move(name, there, named)
                there.sync()
                folder.sync()
        return f"Successfully renamed {old_path} to {new_path}"

    def _parent(self, names: tuple[str, ...], absent: str, *, make: bool = False) -> _At:
        """The folder that something is in, open, and its name there; the memory itself is in the folder around it."""
        if not names:
            return _At(Folder.at(self._real.parent), self._real.name)
        if not self._real.exists():
            raise ToolError(absent)
        here = Folder.at(self._real)
        for name in names[:-1]:
            with here:
                if make and here.look(name) is None:
                    here.make(name)
                found = here.look(name)
                if found is None or not stat.S_ISDIR(found.st_mode):  # nor through a link
                    raise ToolError(absent)
                following = here.enter(name)
            here = following
        return _At(here, names[-1])

    def _file(self, path: str, absent: str) -> _At:
        """The folder of a file that is there."""
        names = _names(path)
        if not names:
            raise ToolError(absent)
        at = self._parent(names, absent)
        found = at.folder.look(at.name)
        if found is None or not stat.S_ISREG(found.st_mode):
            at.folder.close()
            raise ToolError(absent)
        return at

    def _write(self, folder: Folder, name: str, path: str, data: bytes, before: os.stat_result) -> None:
        self._check_size(path, data)
        self._check_room(len(data) - before.st_size)
        replace_file(folder, name, data, path=path, before=before, stop=self._stop)

    def _check_size(self, path: str, data: bytes) -> None:
        if len(data) > self._max_file_bytes:
            raise ToolError(
                f"Error: {path} would have {len(data)} bytes, and a file may have {self._max_file_bytes}; "
                "keep what matters, or use several files"
            )

    def _check_room(self, more: int, names: tuple[str, ...] = ()) -> None:
        """That the memory may grow by so many bytes, and by a path's names that aren't there yet."""
        if more <= 0 and not names:
            return
        entries = self._entries()
        size = sum(size for size, _ in entries.values()) + more
        if size > self._max_total_bytes:
            raise ToolError(
                f"Error: The memory would have {size} bytes, and it may have {self._max_total_bytes}; "
                "delete what isn't needed"
            )
        count = len(entries) + sum("/".join(names[: end + 1]) not in entries for end in range(len(names)))
        if names and count > self._max_files:
            raise ToolError(
                f"Error: The memory would have {count} files and directories, and it may have {self._max_files}; "
                "delete or join what isn't needed"
            )

    def _entries(self) -> dict[str, tuple[int, bool]]:
        if not self._real.exists():
            return {}
        with Folder.at(self._real) as folder:
            return dict(_walk(folder, self._stop))

    def _check_depth(self, folder: Folder, name: str, depth: int, path: str) -> None:
        """That what is in a folder isn't deeper where it is moved to than a path may be."""
        with folder.enter(name) as moved:
            below = max((names.count("/") + 1 for names, _ in _walk(moved, self._stop)), default=0)
        if depth + below > DEEPEST:
            raise ToolError(f"Error: The path {path} is too deep; there may be {DEEPEST} names below {ROOT}")


class _At:
    """A name in an open folder."""

    def __init__(self, folder: Folder, name: str) -> None:
        self.folder = folder
        self.name = name

    def __enter__(self) -> tuple[Folder, str]:
        return self.folder, self.name

    def __exit__(self, *_: object) -> None:
        self.folder.close()


def _read(folder: Folder, name: str, path: str) -> tuple[Text, os.stat_result]:
    data, before = read_whole(folder, name, path)
    return Text.of(data, path), before


def _checked(arguments: Mapping[str, Any]) -> str:
    """The command, if it has what it needs.

    Raises:
        ToolError: it hasn't, or there is no such command.
    """
    command = str(arguments.get("command"))
    if command not in _COMMANDS:
        raise ToolError(f"Error: unknown command {command!r}; the commands are {', '.join(_COMMANDS)}")
    missing = [name for name in _COMMANDS[command] if arguments.get(name) is None]
    if missing:
        raise ToolError(f"Error: {command} needs {' and '.join(f'`{name}`' for name in missing)}")
    for name, value in arguments.items():
        kind = int if name == "insert_line" else list if name == "view_range" else str
        if value is not None and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ToolError(f"Error: `{name}` must be {_KINDS[kind]}")
        if isinstance(value, str) and _NO_TEXT.search(value):
            raise ToolError(f"Error: `{name}` has characters that no text file has")
    return command


_KINDS: Mapping[type, str] = {int: "a whole number", list: "a list of two line numbers", str: "text"}


def _names(path: str) -> tuple[str, ...]:
    """The names below the memory's root.

    Raises:
        ToolError: it isn't in the memory, or has names that no file there has.
    """
    seen = path
    for _ in range(len(path)):  # what is written as %2e%2e, or that once more, is meant for somebody careless
        if (plain := unquote(seen)) == seen:
            break
        seen = plain
    for form in {path, seen}:
        parts = form.split("/")
        if parts[:2] != ["", ROOT[1:]]:
            raise ToolError(f"Error: The path {path!r} is not in the memory; all paths begin with {ROOT}")
        names = tuple(part for part in parts[2:] if part)
        if any(name.startswith(".") or "\\" in name or not name.isprintable() for name in names):
            raise ToolError(
                f"Error: The path {path!r} is not allowed; names have no backslashes and no control characters, and don't "
                "begin with a dot"
            )
    names = tuple(part for part in path.split("/")[2:] if part)
    if len(names) > DEEPEST:
        raise ToolError(f"Error: The path {path!r} is too deep; there may be {DEEPEST} names below {ROOT}")
    return names


def _walk(folder: Folder, stop: threading.Event, before: str = "") -> Iterator[tuple[str, tuple[int, bool]]]:
    """What is in a folder, by path: how large it is, and whether it's a directory; only what can be seen has a path."""
    for name, kind in folder.entries(_LISTED).items():
        if stop.is_set():
            raise ToolError("stopped")
        if name.startswith(".") or name == "node_modules" or kind not in ("file", "folder"):
            continue
        path = f"{before}/{name}" if before else name
        if kind == "file":
            found = folder.look(name)
            yield path, (found.st_size if found else 0, False)
            continue
        if path.count("/") + 1 > DEEPEST:
            continue
        with suppress(OSError), folder.enter(name) as inner:
            yield path, (0, True)
            yield from _walk(inner, stop, path)


def _listing(path: str, entries: Mapping[str, tuple[int, bool]]) -> str:
    """A directory as the reference shows it: two levels, a directory being as large as what is in it."""
    sizes = dict.fromkeys(entries, 0)
    for name, (size, _) in entries.items():
        parts = name.split("/") if name else []
        for depth in range(len(parts) + 1):
            sizes["/".join(parts[:depth])] += size
    top = path.rstrip("/")
    lines = [
        f"Here're the files and directories up to 2 levels deep in {top}, excluding hidden items and node_modules:"
    ]
    for name in sorted(entries, key=lambda name: name.split("/") if name else []):
        if name.count("/") < 2:
            whole = f"{top}/{name}" if name else top
            lines.append(f"{human(sizes[name])}\t{whole}{'/' if name and entries[name][1] else ''}")
    return "\n".join(lines)


def _remove(folder: Folder, name: str, found: os.stat_result, stop: threading.Event) -> None:
    """Removes something with all that is in it; links themselves, not what they lead to."""
    if stop.is_set():
        raise ToolError("stopped; some of it may be gone")
    if not stat.S_ISDIR(found.st_mode):
        folder.remove(name)
        return
    with folder.enter(name) as inner:
        while entries := inner.entries(_LISTED):
            for each in entries:
                if (inside := inner.look(each)) is not None:
                    _remove(inner, each, inside, stop)
    folder.remove_folder(name)
