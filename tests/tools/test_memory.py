"""The memory tool: six commands, one folder, and nothing outside of it."""

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import threading
from pathlib import Path

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import alloy
from alloy import errors
from alloy.messages import as_user_message
from alloy.providers import Anthropic, OpenAI, ToolSpec
from alloy.providers.base import Request
from alloy.tools import ToolContext
from alloy.tools.core import memory as module
from alloy.tools.core import memory_text

pytestmark = pytest.mark.anyio

CONTEXT = ToolContext(
    call_id="1",
    tool_name="memory",
    correlation_id="r",
    turn=1,
    working_directory=Path("/nowhere"),
    context={},
    report=lambda _: None,
)


@pytest.fixture
def store(tmp_path):
    """The folder."""
    return tmp_path / "store"


@pytest.fixture
def do(store):
    """Gives a memory a command, and returns what it says."""
    tool = alloy.tools.memory(store)

    async def do(command, path=None, **arguments):
        given = {"command": command} | ({"path": path} if path else {}) | arguments
        return await tool.execute(given, CONTEXT)

    return do


async def refused(do, *args, **arguments):
    """The error that a command ends with."""
    with pytest.raises(errors.ToolError) as caught:
        await do(*args, **arguments)
    return str(caught.value)


# --- The reference's own words ----------------------------------------------------------------------------------------


async def test_a_memory_without_anything_in_it_can_be_viewed(do, store):
    said = await do("view", "/memories")

    assert said == (
        "Here're the files and directories up to 2 levels deep in /memories, excluding hidden items and node_modules:\n"
        "0B\t/memories"
    )
    assert not store.exists()


async def test_a_directory_is_shown_two_levels_deep_with_sizes(do, store):
    await do("create", "/memories/b.md", file_text="x" * 1536)
    await do("create", "/memories/a/deep/down.md", file_text="x" * 512)
    await do("create", "/memories/a/note.md", file_text="")
    (store / ".hidden").write_text("x")
    (store / "node_modules").mkdir()

    assert (await do("view", "/memories")).splitlines()[1:] == [
        "2K\t/memories",
        "512B\t/memories/a/",
        "512B\t/memories/a/deep/",
        "0B\t/memories/a/note.md",
        "1.5K\t/memories/b.md",
    ]
    assert (await do("view", "/memories/a/")).splitlines()[1:] == [
        "512B\t/memories/a",
        "512B\t/memories/a/deep/",
        "512B\t/memories/a/deep/down.md",
        "0B\t/memories/a/note.md",
    ]


async def test_a_file_is_shown_with_line_numbers(do):
    await do("create", "/memories/notes.txt", file_text="Hello World\nThis is line two\n")

    assert await do("view", "/memories/notes.txt") == (
        "Here's the content of /memories/notes.txt with line numbers:\n     1\tHello World\n     2\tThis is line two"
    )
    assert (await do("view", "/memories/notes.txt", view_range=[2, -1])).splitlines()[1:] == [
        "     2\tThis is line two"
    ]
    assert (await do("view", "/memories/notes.txt", view_range=[1, 1])).splitlines()[1:] == ["     1\tHello World"]


async def test_a_long_file_is_shown_a_page_at_a_time(do):
    await do("create", "/memories/long.txt", file_text="".join(f"line {number}\n" for number in range(1, 9001)))

    first = (await do("view", "/memories/long.txt")).splitlines()
    assert first[-1].startswith("... ")
    follow = int(first[-1].partition("[")[2].partition(",")[0])
    second = (await do("view", "/memories/long.txt", view_range=[follow, 9000])).splitlines()
    assert second[1] == f"{follow:6}\tline {follow}"
    assert len("\n".join(first)) < memory_text.PAGE_BYTES + 200


async def test_every_command_says_what_the_reference_says(do):
    assert (
        await do("create", "/memories/a.txt", file_text="one\ntwo\n") == "File created successfully at: /memories/a.txt"
    )
    assert await do("str_replace", "/memories/a.txt", old_str="two", new_str="2") == (
        "The memory file has been edited.\n     1\tone\n     2\t2"
    )
    assert await do("insert", "/memories/a.txt", insert_line=0, insert_text="zero\n") == (
        "The file /memories/a.txt has been edited."
    )
    assert await do("rename", old_path="/memories/a.txt", new_path="/memories/d/b.txt") == (
        "Successfully renamed /memories/a.txt to /memories/d/b.txt"
    )
    assert (await do("view", "/memories/d/b.txt")).splitlines()[1:] == ["     1\tzero", "     2\tone", "     3\t2"]
    assert await do("delete", "/memories/d") == "Successfully deleted /memories/d"
    assert (
        await refused(do, "view", "/memories/d") == "The path /memories/d does not exist. Please provide a valid path."
    )


@pytest.mark.parametrize(
    ("command", "arguments", "said"),
    [
        ("view", {"path": "/memories/no"}, "The path /memories/no does not exist. Please provide a valid path."),
        ("create", {"path": "/memories/a", "file_text": ""}, "Error: File /memories/a already exists"),
        (
            "str_replace",
            {"path": "/memories/no", "old_str": "x", "new_str": "y"},
            "Error: The path /memories/no does not exist. Please provide a valid path.",
        ),
        (
            "str_replace",
            {"path": "/memories/d", "old_str": "x", "new_str": "y"},
            "Error: The path /memories/d does not exist. Please provide a valid path.",
        ),
        (
            "str_replace",
            {"path": "/memories/a", "old_str": "x", "new_str": "y"},
            "No replacement was performed, old_str `x` did not appear verbatim in /memories/a.",
        ),
        (
            "str_replace",
            {"path": "/memories/a", "old_str": "o", "new_str": "y"},
            "No replacement was performed. Multiple occurrences of old_str `o` in lines: 1, 2. Please ensure it is unique",
        ),
        (
            "insert",
            {"path": "/memories/no", "insert_line": 0, "insert_text": "x"},
            "Error: The path /memories/no does not exist",
        ),
        (
            "insert",
            {"path": "/memories/d", "insert_line": 0, "insert_text": "x"},
            "Error: The path /memories/d does not exist",
        ),
        (
            "insert",
            {"path": "/memories/a", "insert_line": 3, "insert_text": "x"},
            "Error: Invalid `insert_line` parameter: 3. It should be within the range of lines of the file: [0, 2]",
        ),
        (
            "insert",
            {"path": "/memories/a", "insert_line": -1, "insert_text": "x"},
            "Error: Invalid `insert_line` parameter: -1. It should be within the range of lines of the file: [0, 2]",
        ),
        ("delete", {"path": "/memories/no"}, "Error: The path /memories/no does not exist"),
        (
            "rename",
            {"old_path": "/memories/no", "new_path": "/memories/x"},
            "Error: The path /memories/no does not exist",
        ),
        (
            "rename",
            {"old_path": "/memories/a", "new_path": "/memories/d"},
            "Error: The destination /memories/d already exists",
        ),
        (
            "rename",
            {"old_path": "/memories/a", "new_path": "/memories/a"},
            "Error: The destination /memories/a already exists",
        ),
    ],
)
async def test_every_error_says_what_the_reference_says(do, command, arguments, said):
    await do("create", "/memories/a", file_text="one\ntwo\n")
    await do("create", "/memories/d/b", file_text="")

    assert await refused(do, command, **arguments) == said


async def test_places_that_overlap_are_several(do):
    await do("create", "/memories/a", file_text="x\naaa\n")

    assert "in lines: 2, 2." in await refused(do, "str_replace", "/memories/a", old_str="aa", new_str="b")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "Error: unknown command 'None'; the commands are view, create, str_replace, insert, delete, rename"),
        ({"command": "grep"}, "Error: unknown command 'grep'"),
        ({"command": "create", "path": "/memories/a"}, "Error: create needs `file_text`"),
        ({"command": "rename", "path": "/memories/a"}, "Error: rename needs `old_path` and `new_path`"),
        ({"command": "view", "path": 3}, "Error: `path` must be text"),
        (
            {"command": "view", "path": "/memories", "view_range": 3},
            "Error: `view_range` must be a list of two line numbers",
        ),
        (
            {"command": "view", "path": "/memories", "view_range": [1, 2]},
            "Error: The `view_range` parameter is not allowed",
        ),
        (
            {"command": "view", "path": "/memories/a", "view_range": [2, 1]},
            "Error: Invalid `view_range` parameter: [2, 1]",
        ),
        (
            {"command": "view", "path": "/memories/a", "view_range": [0, 1]},
            "Error: Invalid `view_range` parameter: [0, 1]",
        ),
        (
            {"command": "insert", "path": "/memories/a", "insert_line": "1", "insert_text": ""},
            "Error: `insert_line` must be a",
        ),
        ({"command": "str_replace", "path": "/memories/a", "old_str": ""}, "Error: `old_str` is empty"),
        (
            {"command": "create", "path": "/memories/x", "file_text": "a\0b"},
            "Error: `file_text` has characters that no text",
        ),
        (
            {"command": "create", "path": "/memories/x", "file_text": "\ud800"},
            "Error: `file_text` has characters that no text",
        ),
        ({"command": "delete", "path": "/memories"}, "Error: The path /memories is the memory itself"),
        (
            {"command": "rename", "old_path": "/memories", "new_path": "/memories/x"},
            "Error: The path /memories is the memory",
        ),
        (
            {"command": "rename", "old_path": "/memories/d", "new_path": "/memories/d/e"},
            "Error: The path /memories/d/e is inside",
        ),
        (
            {"command": "create", "path": "/memories/a/b", "file_text": ""},
            "Error: The path /memories/a/b leads through a file",
        ),
        ({"command": "create", "path": "/memories/" + "n" * 300, "file_text": ""}, "Error: file name too long"),
    ],
)
async def test_arguments_that_make_no_sense_are_told_in_one_line(store, arguments, said):
    tool = alloy.tools.memory(store)
    for path in ("/memories/a", "/memories/d/b"):
        await tool.execute({"command": "create", "path": path, "file_text": "one\n"}, CONTEXT)

    with pytest.raises(errors.ToolError) as caught:
        await tool.execute(arguments, CONTEXT)
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)


# --- Nothing outside --------------------------------------------------------------------------------------------------

ESCAPES = [
    "/etc/passwd",
    "memories/a",
    "",
    "/",
    "/memoriesx/a",
    "/memories/../secret",
    "/memories/a/../../secret",
    "/memories/..",
    "/memories/./a",
    "/memories/%2e%2e/secret",
    "/memories/%252e%252e/secret",
    "/memories%2f..%2fsecret",
    "/memories/..%2fsecret",
    "/memories/..\\secret",
    "/memories/a\0b",
    "/memories/a\nb",
    "/memories/.hidden",
    "//memories/a",
    "/memories/" + "/".join("abcdefghi"),
]


@pytest.mark.parametrize("path", ESCAPES)
@pytest.mark.parametrize("command", ["view", "create", "str_replace", "insert", "delete", "rename to", "rename from"])
async def test_no_path_leads_out(do, store, path, command):
    (store.parent / "secret").write_text("secret")
    await do("create", "/memories/a", file_text="x")
    arguments = {"old_path": path, "new_path": "/memories/b"}
    if command == "rename to":
        arguments = {"old_path": "/memories/a", "new_path": path}
    elif command != "rename from":
        arguments = {"path": path}
    extra = {
        "create": {"file_text": "x"},
        "str_replace": {"old_str": "secret", "new_str": "x"},
        "insert": {"insert_line": 0, "insert_text": "x"},
    }

    await refused(do, command.split()[0], **arguments, **extra.get(command, {}))
    assert sorted(each.name for each in store.parent.iterdir()) == ["secret", "store"]
    assert [each.name for each in store.iterdir()] == ["a"]
    assert (store.parent / "secret").read_text() == "secret"


@pytest.mark.parametrize("through", ["file", "folder"])
async def test_links_are_not_followed(do, store, through):
    outside = store.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("secret")
    store.mkdir()
    (store / "link").symlink_to(outside / "file" if through == "file" else outside)
    path = "/memories/link" if through == "file" else "/memories/link/file"

    assert "does not exist" in await refused(do, "view", path)
    assert "does not exist" in await refused(do, "str_replace", path, old_str="secret", new_str="x")
    assert "does not exist" in await refused(do, "insert", path, insert_line=0, insert_text="x")
    assert "does not exist" in await refused(do, "rename", old_path=path, new_path="/memories/x")
    await refused(do, "create", path, file_text="x")
    assert "link" not in await do("view", "/memories")
    assert (outside / "file").read_text() == "secret"


async def test_deleting_removes_links_and_not_what_they_lead_to(do, store):
    outside = store.parent / "outside"
    outside.mkdir()
    (outside / "file").write_text("secret")
    await do("create", "/memories/d/a", file_text="x")
    (store / "d" / "link").symlink_to(outside)

    await do("delete", "/memories/d")

    assert list(store.iterdir()) == []
    assert (outside / "file").read_text() == "secret"


async def test_pipes_and_devices_are_no_memories(do, store):
    store.mkdir()
    os.mkfifo(store / "pipe")

    with anyio.fail_after(5):
        assert "does not exist" in await refused(do, "view", "/memories/pipe")
        assert "does not exist" in await refused(do, "insert", "/memories/pipe", insert_line=0, insert_text="x")
        assert "already exists" in await refused(do, "create", "/memories/pipe", file_text="x")
        assert "pipe" not in await do("view", "/memories")


async def test_a_folder_that_is_swapped_for_a_link_meanwhile_leads_nowhere(do, store, monkeypatch):
    outside = store.parent / "outside"
    outside.mkdir()
    await do("create", "/memories/d/a", file_text="x")
    real = module.replace_file

    def swap(*args, **options):
        (store / "d").rename(store.parent / "moved")
        (store / "d").symlink_to(outside)
        real(*args, **options)

    monkeypatch.setattr(module, "replace_file", swap)
    await do("create", "/memories/d/b", file_text="mine")

    assert list(outside.iterdir()) == []
    assert (store.parent / "moved" / "b").read_text() == "mine"


# --- Limits -----------------------------------------------------------------------------------------------------------


async def test_files_the_memory_and_the_number_of_files_are_limited(store):
    tool = alloy.tools.memory(store, max_file_bytes=10, max_total_bytes=25, max_files=4)

    async def do(command, **arguments):
        return await tool.execute({"command": command} | arguments, CONTEXT)

    assert "a file may have 10" in await refused(do, "create", path="/memories/a", file_text="x" * 11)
    await do("create", path="/memories/a", file_text="x" * 10)
    assert "a file may have 10" in await refused(do, "insert", path="/memories/a", insert_line=0, insert_text="y")
    await do("create", path="/memories/b", file_text="x" * 10)
    assert "it may have 25" in await refused(do, "create", path="/memories/c", file_text="x" * 6)
    assert "it may have 4" in await refused(do, "create", path="/memories/c/d/e", file_text="x")
    await do("create", path="/memories/c/d", file_text="x")
    assert "it may have 4" in await refused(do, "create", path="/memories/e", file_text="x")
    await do("str_replace", path="/memories/a", old_str="x" * 10, new_str="yy")
    await do("delete", path="/memories/c")
    await do("create", path="/memories/c", file_text="x" * 6)


async def test_a_directory_cannot_be_moved_deeper_than_a_path_may_be(do):
    await do("create", "/memories/a/b/c/d", file_text="x")

    assert "too deep" in await refused(do, "rename", old_path="/memories/a", new_path="/memories/1/2/3/4/5/6")
    await do("rename", old_path="/memories/a", new_path="/memories/1/2/3/4/5")
    assert "x" in await do("view", "/memories/1/2/3/4/5/b/c/d")


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "9"])
def test_a_limit_that_is_no_number_is_refused(store, limit):
    with pytest.raises(errors.InvalidOptionError, match="max_files"):
        alloy.tools.memory(store, max_files=limit)


# --- Whole or not at all ----------------------------------------------------------------------------------------------


async def test_a_cancelled_edit_leaves_the_file_as_it_was(do, store, monkeypatch):
    await do("create", "/memories/a", file_text="old")
    loop, begun, going = asyncio.get_running_loop(), anyio.Event(), threading.Event()
    real = module.replace_file

    def slow(*args, **options):
        loop.call_soon_threadsafe(begun.set)
        going.wait(5)
        real(*args, **options)

    monkeypatch.setattr(module, "replace_file", slow)
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: do("str_replace", "/memories/a", old_str="old", new_str="new"))
        await begun.wait()
        group.cancel_scope.cancel()
        loop.call_later(0.05, going.set)  # when the cancelled call waits for the thread

    assert (store / "a").read_text() == "old"
    assert [each.name for each in store.iterdir()] == ["a"]


async def test_a_file_that_somebody_else_changes_meanwhile_is_not_overwritten(do, store, monkeypatch):
    await do("create", "/memories/a", file_text="old")
    real = module.replace_file

    def meanwhile(*args, **options):
        (store / "a").write_text("theirs")
        real(*args, **options)

    monkeypatch.setattr(module, "replace_file", meanwhile)

    assert "was changed by somebody else" in await refused(do, "insert", "/memories/a", insert_line=0, insert_text="x")
    assert (store / "a").read_text() == "theirs"


async def test_many_edits_at_once_all_arrive(store):
    tools = [alloy.tools.memory(store) for _ in range(2)]
    await tools[0].execute({"command": "create", "path": "/memories/a", "file_text": ""}, CONTEXT)
    async with anyio.create_task_group() as group:
        for number in range(20):
            insert = {"command": "insert", "path": "/memories/a", "insert_line": 0, "insert_text": f"{number}\n"}
            group.start_soon(tools[number % 2].execute, insert, CONTEXT)

    assert sorted(map(int, (store / "a").read_text().split())) == list(range(20))


# --- Against a model --------------------------------------------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "c"])
PATHS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "/memories/" + "/".join(names))
TEXTS = st.sampled_from(["", "x", "one\n", "one\ntwo", "one\ntwo\n", "x\n\nx\n", "é\r\n"])
COMMANDS = st.one_of(
    st.fixed_dictionaries({"command": st.just("create"), "path": PATHS, "file_text": TEXTS}),
    st.fixed_dictionaries({"command": st.just("delete"), "path": PATHS}),
    st.fixed_dictionaries({"command": st.just("rename"), "old_path": PATHS, "new_path": PATHS}),
    st.fixed_dictionaries(
        {"command": st.just("insert"), "path": PATHS, "insert_line": st.integers(-1, 4), "insert_text": TEXTS}
    ),
    st.fixed_dictionaries({"command": st.just("str_replace"), "path": PATHS, "old_str": TEXTS, "new_str": TEXTS}),
)


class Model:
    """What a memory is, as a dict: texts by path, and None for a directory."""

    def __init__(self):
        self.entries = {}

    def inside(self, path):
        return [each for each in self.entries if each == path or each.startswith(path + "/")]

    def parents(self, path):
        names = path.split("/")[2:-1]
        return ["/memories/" + "/".join(names[: end + 1]) for end in range(len(names))]

    def can_hold(self, path):
        return all(self.entries.get(parent, None) is None for parent in self.parents(path))

    def make(self, path):
        for parent in self.parents(path):
            self.entries.setdefault(parent, None)

    def create(self, path, file_text):
        if path in self.entries or not self.can_hold(path):
            return False
        self.make(path)
        self.entries[path] = file_text
        return True

    def delete(self, path):
        found = self.inside(path)
        for each in found:
            del self.entries[each]
        return bool(found)

    def rename(self, old_path, new_path):
        taken = new_path in self.entries or new_path.startswith(old_path + "/") or not self.can_hold(new_path)
        if old_path not in self.entries or taken:
            return False
        self.make(new_path)
        for each in self.inside(old_path):
            self.entries[new_path + each.removeprefix(old_path)] = self.entries.pop(each)
        return True

    def insert(self, path, insert_line, insert_text):
        text = self.entries.get(path)
        if text is None:
            return False
        lines = text.split("\n")
        ended = lines[-1] == ""
        lines = lines[:-1] if ended else lines
        if not 0 <= insert_line <= len(lines):
            return False
        before = "".join(f"{line}\n" for line in lines[:insert_line])
        after = "\n".join(lines[insert_line:]) + ("\n" if ended and insert_line < len(lines) else "")
        gap = "\n" if insert_line < len(lines) and not insert_text.endswith("\n") else ""
        self.entries[path] = before + insert_text + gap + after
        return True

    def str_replace(self, path, old_str, new_str):
        text = self.entries.get(path)
        places = [at for at in range(len(text or "")) if old_str and text.startswith(old_str, at)]
        if len(places) != 1:
            return False
        self.entries[path] = text[: places[0]] + new_str + text[places[0] + len(old_str) :]
        return True


def on_disk(folder):
    """What is in the folder, as the model has it."""
    return {
        f"/memories/{each.relative_to(folder)}": None if each.is_dir() else each.read_bytes().decode()
        for each in folder.rglob("*")
    }


@given(st.lists(COMMANDS, max_size=12))
@settings(max_examples=150, deadline=None)
def test_any_commands_do_what_they_do_to_a_dict(commands):
    async def compare(folder):
        tool, model = alloy.tools.memory(folder), Model()
        for command in commands:
            arguments = dict(command)
            expected = getattr(model, arguments.pop("command"))(**arguments)
            try:
                await tool.execute(command, CONTEXT)
                done = True
            except errors.ToolError:
                done = False
            assert (done, on_disk(folder)) == (expected, model.entries), command
            assert (await tool.execute({"command": "view", "path": "/memories"}, CONTEXT)).count("\t") == 1 + sum(
                path.count("/") < 4 for path in model.entries
            )

    with tempfile.TemporaryDirectory() as folder:
        anyio.run(compare, Path(folder, "store"))


@given(st.text(max_size=40))
@settings(max_examples=300)
def test_whatever_a_path_is_it_is_one_inside_or_refused(path):
    try:
        names = module._names(path)
    except errors.ToolError:
        return
    assert path.startswith("/memories")
    assert all(name and not name.startswith(".") and "/" not in name and "\0" not in name for name in names)


# --- As a tool --------------------------------------------------------------------------------------------------------


async def test_a_model_keeps_notes_from_one_run_to_the_next(store):
    calls = alloy.testing.calls
    tools = [alloy.tools.memory(store)]
    script = [calls("memory", command="create", path="/memories/user.md", file_text="Likes tea.\n"), "Noted."]
    await alloy.run("I like tea.", provider=alloy.providers.Scripted(script), tools=tools)
    script = [calls("memory", command="view", path="/memories/user.md"), "Tea, of course."]
    result = await alloy.run("What do I like?", provider=alloy.providers.Scripted(script), tools=tools)

    assert "Likes tea." in result.tool_calls[0].content[0].text


def test_anthropic_gets_its_own_tool_and_everybody_else_a_tool_with_a_schema(store):
    tool = alloy.tools.memory(store)
    spec = ToolSpec(tool.name, tool.description, tool.input_schema, tool.options)
    request = Request(messages=[as_user_message("Hi")], tools=(spec,))
    native, plain = (
        json.loads(provider.encode(request))["tools"][0]
        for provider in (Anthropic("claude-sonnet-5-5", "sk-x", cache=None), OpenAI("gpt-6.1-sol", "sk-x"))
    )

    assert native == {"name": "memory", "type": "memory_20250818"}
    assert plain["parameters"]["properties"]["command"]["enum"] == list(module._COMMANDS)
