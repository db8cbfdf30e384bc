"""The core tools grep, find and list: what they show, in which order, and where they stop."""

import importlib
import os
import random
import socket
import sys
import threading
from pathlib import Path

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alloy.errors import ToolError
from alloy.tools import Tool, find, grep, list_, paths, process, walk
from alloy.tools.walk import Glob, shown

pytestmark = pytest.mark.anyio

GREP = importlib.import_module("alloy.tools.core.grep")
FIND = importlib.import_module("alloy.tools.core.find")


@pytest.fixture
def tree(user):
    """A project."""
    files = {
        "src/deep/er/one.py": "import os\nimport sys\n\nprint(1)\n",
        "src/two.ts": "import x from 'y'\n",
        "README.md": "# Import\n",
        "docs/a.md": "nothing\n",
        ".git/config": "import git\n",
        "node_modules/x/y.js": "import node\n",
        ".hidden": "import hidden\n",
    }
    for name, text in files.items():
        (user.root / name).parent.mkdir(parents=True, exist_ok=True)
        (user.root / name).write_text(text)
    (user.root / "src/link").symlink_to("deep")
    return user


@pytest.mark.parametrize("tool", [grep, find, list_])
def test_they_are_tools_like_any_other(tool):
    Tool.check(tool)
    assert tool.concurrency_safe
    assert all(of["description"] for of in tool.input_schema["properties"].values())


# --- list ------------------------------------------------------------------------------------------------------------


async def test_a_folder_is_listed_in_order(tree):
    os.mkfifo(tree.root / "pipe")
    assert (await tree.text(list_)).splitlines() == [
        ".git/",
        ".hidden  14",
        "README.md  9",
        "docs/",
        "node_modules/",
        "pipe  (device, pipe or socket)",
        "src/",
    ]
    assert (await tree.text(list_, path="src", depth=2)).splitlines() == [
        "deep/",
        "deep/er/",
        "link -> deep",
        "main.py  12",
        "two.ts  18",
    ]


async def test_a_long_list_says_how_to_go_on(tree):
    text = await tree.text(list_, depth=9, limit=3)
    assert text.splitlines()[-1] == "... 10 more; list one of the folders, or set limit higher"
    assert len(text.splitlines()) == 4
    assert await tree.text(list_, path="docs", limit=1) == "a.md  8"


async def test_an_empty_folder_says_so(tree):
    (tree.root / "empty").mkdir()
    assert await tree.text(list_, path="empty") == "(empty is empty)"


async def test_names_are_one_line_each(tree):
    (tree.root / "docs" / "two\nlines\x1b[0m").touch()
    (tree.root / "docs" / os.fsdecode(b"caf\xe9")).touch()
    output = await tree.output(list_, path="docs")
    assert output.text.splitlines() == ["a.md  8", "caf\\udce9  0", "two\\nlines\\x1b[0m  0"]
    output.text.encode()


@pytest.mark.parametrize(("depth", "limit"), [(0, 1), (1, 0), (-1, 5)])
async def test_depth_and_limit_begin_at_one(tree, depth, limit):
    assert "must be 1 or more" in await tree.refusal(list_, depth=depth, limit=limit)


@pytest.mark.parametrize("tool", [list_, find])
async def test_what_is_no_folder_is_refused(tree, tool):
    more = {"pattern": "*"} if tool is find else {}
    assert "'README.md' is no directory" in await tree.refusal(tool, path="README.md", **more)
    assert "did you mean 'docs'?" in await tree.refusal(tool, path="dosc", **more)


# --- find ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.py", ["src/deep/er/one.py", "src/main.py"]),
        ("*.{py,ts}", ["src/deep/er/one.py", "src/main.py", "src/two.ts"]),
        ("src/*.py", ["src/main.py"]),
        ("./src/*.py", ["src/main.py"]),
        ("src/**/*.py", ["src/deep/er/one.py", "src/main.py"]),
        ("**/er/**", ["src/deep/er/one.py"]),
        ("src/**/er", ["src/deep/er/"]),
        ("src/deep/**", ["src/deep/er/", "src/deep/er/one.py"]),
        ("[rR]*.md", ["README.md"]),
        ("readme.md", []),
        ("s?c", ["src/"]),
        ("config", []),
        (".git", [".git/"]),
        ("y.js", []),
        ("link", ["src/link"]),
        (".*", [".git/", ".hidden"]),
    ],
)
async def test_names_are_found_in_order(tree, pattern, found):
    text = await tree.text(find, pattern=pattern)
    assert text == ("\n".join(found) or f"nothing in '.' is called {pattern!r}")


async def test_a_folder_that_is_passed_over_can_be_asked_for_itself(tree):
    assert await tree.text(find, pattern="*", path=".git") == ".git/config"
    assert await tree.text(find, pattern="*.js", path="node_modules") == "node_modules/x/y.js"
    assert await tree.text(grep, pattern="import", path="node_modules") == "node_modules/x/y.js:1: import node"


async def test_too_much_says_how_to_narrow_it(tree):
    text = await tree.text(find, pattern="**", limit=2)
    assert text.splitlines() == [
        ".git/",
        ".hidden",
        "... more than 2; narrow the pattern or the path, or set limit higher",
    ]


@pytest.mark.parametrize("pattern", ["", "/etc/*", "./", "{a,b}" * 10])
async def test_what_is_no_glob_is_refused(tree, pattern):
    assert await tree.refusal(find, pattern=pattern)


async def test_a_search_of_many_files_ends_and_says_so(tree, monkeypatch):
    monkeypatch.setattr(walk, "_MOST", 5)
    for tool, more in ((find, {"pattern": "*"}), (list_, {"depth": 9})):
        assert "... stopped after 5 files and folders" in await tree.text(tool, **more)
    monkeypatch.setattr(walk, "_MOST", 1000)
    monkeypatch.setattr(FIND, "SECONDS", -1.0)
    assert "... stopped after" in await tree.text(find, pattern="*")


async def test_a_very_deep_folder_is_no_recursion_error(tree):
    deep = tree.root
    for _ in range(200):
        deep = deep / "d"
    deep.mkdir(parents=True)
    assert "d/d/d/" in await tree.text(find, pattern="d")
    listed = (await tree.text(list_, depth=500)).splitlines()
    assert max(line.count("/") for line in listed) == 64
    assert await tree.text(grep, pattern="import os")


async def test_a_cancelled_search_stops(tree, monkeypatch):
    begun = anyio.Event()
    token = anyio.lowlevel.current_token()
    wait, later = threading.Event(), []

    class Slow(walk.Walk):
        def of(self, folder, names=()):
            for found in super().of(folder, names):
                if begun.is_set():
                    later.append(found)
                anyio.from_thread.run_sync(begun.set, token=token)
                while not self._stopped():
                    wait.wait(0.01)
                yield found

    monkeypatch.setattr(FIND, "Walk", Slow)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: tree.output(find, pattern="*"))
            await begun.wait()
            group.cancel_scope.cancel()
    tree.assert_no_threads()
    assert later == []


# --- Globs -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from("ab"), min_size=1, max_size=5),
    st.lists(st.sampled_from(["a", "b", "*", "**"]), min_size=2, max_size=5),
)
def test_globs_mean_what_a_plain_search_of_all_ways_says(names, parts):
    def fits(parts, names):
        if not parts:
            return not names
        if parts[0] == "**":
            return fits(parts[1:], names) or (bool(names) and fits(parts, names[1:]))
        return bool(names) and parts[0] in ("*", names[0]) and fits(parts[1:], names[1:])

    assert Glob("/".join(parts))(names) == fits([*parts, "*"] if parts[-1] == "**" else parts, names)


@pytest.mark.timeout(10)
def test_a_glob_of_many_stars_does_not_take_for_ever():
    assert not Glob("/".join(["**", "a"] * 30))(["a"] * 29 + ["b"])
    assert not Glob("*a" * 30 + "b")(["a" * 200])


def test_a_printable_path_is_shown_as_it_is():
    assert shown(("src", "é x.py")) == "src/é x.py"


# --- grep ------------------------------------------------------------------------------------------------------------


async def test_matches_are_shown_in_order_with_path_and_line(tree):
    assert (await tree.text(grep, pattern="^import")).splitlines() == [
        ".hidden:1: import hidden",
        "src/deep/er/one.py:1: import os",
        "src/deep/er/one.py:2: import sys",
        "src/main.py:1: import this",
        "src/two.ts:1: import x from 'y'",
    ]
    assert "README.md:1: # Import" in await tree.text(grep, pattern="IMPORT", ignore_case=True)


async def test_files_can_be_chosen(tree):
    assert await tree.text(grep, pattern="import", include=["*.ts"]) == "src/two.ts:1: import x from 'y'"
    assert await tree.text(grep, pattern="import", include=["src/*.py"]) == "src/main.py:1: import this"
    assert await tree.text(grep, pattern="import", path="src", include=["main.*", "*.ts"]) == (
        "src/main.py:1: import this\nsrc/two.ts:1: import x from 'y'"
    )
    assert await tree.text(grep, pattern="this", path="src/main.py") == "src/main.py:1: import this"
    assert await tree.text(grep, pattern="this", path=f"{tree.root}/src") == "src/main.py:1: import this"


async def test_lines_around_a_match_are_shown_once(tree):
    (tree.root / "a.txt").write_text("".join(f"{n}\n" for n in range(1, 13)))
    text = await tree.text(grep, pattern="^(3|5|11)$", include=["a.txt"], context_lines=1)
    assert text.splitlines() == [
        "a.txt-2- 2",
        "a.txt:3: 3",
        "a.txt-4- 4",
        "a.txt:5: 5",
        "a.txt-6- 6",
        "--",
        "a.txt-10- 10",
        "a.txt:11: 11",
        "a.txt-12- 12",
    ]


async def test_no_match_says_what_was_searched(tree):
    (tree.root / "a.bin").write_bytes(b"\0nowhere")
    said = await tree.text(grep, pattern="nowhere")
    assert said == "no match in 7 files, 1 binary; not looked into: .git, node_modules"


async def test_many_matches_are_cut(tree):
    (tree.root / "a.txt").write_text("x\n" * 1000)
    lines = (await tree.text(grep, pattern="x", include=["a.txt"], limit=7)).splitlines()
    assert len(lines) == 8
    assert lines[-1] == "... more matches; narrow the pattern, the path or include, or set limit higher"
    (tree.root / "b.txt").write_text(("y" * 399 + "\n") * 1000)
    text = await tree.text(grep, pattern="y", include=["b.txt"], limit=1000)
    assert len(text) < 45_000
    assert "... more matches" in text


async def test_long_lines_and_odd_bytes_are_shown_around_the_match(tree):
    (tree.root / "a.txt").write_bytes(b"a" * 100_000 + b"MATCH" + b"b" * 100_000 + b"\r\n" + b"caf\xe9 MATCH\n")
    first, second = (await tree.text(grep, pattern="MATCH", include=["a.txt"])).splitlines()
    assert first == "a.txt:1: ..." + "a" * 200 + "MATCH" + "b" * 195 + "..."
    assert second == "a.txt:2: caf\ufffd MATCH"


async def test_a_line_that_never_ends_takes_little_memory(tree):
    with (tree.root / "a.txt").open("wb") as file:
        for _ in range(64):
            file.write(b"a" * (1 << 20))
        file.write(b"\nMATCH")
    assert await tree.text(grep, pattern="MATCH", include=["a.txt"]) == "a.txt:2: MATCH"


@pytest.mark.parametrize("pattern", ["(", "*", "[a", "(?P<x", "a{99999999999}", "(?<=a*)b"])
async def test_what_is_no_regular_expression_is_refused(tree, pattern):
    assert f"{pattern!r} is no regular expression: " in await tree.refusal(grep, pattern=pattern)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pattern": ""},
        {"pattern": "x" * 10_001},
        {"limit": 0},
        {"context_lines": -1},
        {"context_lines": 21},
        {"include": ["/x"]},
    ],
)
async def test_arguments_that_make_no_sense_are_refused(tree, arguments):
    assert await tree.refusal(grep, **{"pattern": "x", **arguments})


async def test_p7_a_pattern_that_takes_for_ever_is_stopped_and_the_loop_goes_on_meanwhile(tree, monkeypatch):
    """What was found until then is shown."""
    monkeypatch.setattr(GREP, "SECONDS", 0.5)
    (tree.root / "a.txt").write_text("aab\n")
    (tree.root / "b.txt").write_text("a" * 60 + "!\n")
    steps = 0

    async def count():
        nonlocal steps
        while True:
            await anyio.sleep(0.01)
            steps += 1

    async with anyio.create_task_group() as group:
        group.start_soon(count)
        text = await tree.text(grep, pattern="^(a+)+b$", include=["?.txt"])
        group.cancel_scope.cancel()
    assert text.splitlines() == [
        "a.txt:1: aab",
        "... stopped after 0.5 seconds; use a simpler pattern, or narrow the path or include",
    ]
    assert steps > 5
    tree.assert_no_threads()


async def test_p4_a_cancelled_search_leaves_no_process(tree, monkeypatch):
    (tree.root / "b.txt").write_text("a" * 60 + "!\n")
    begun = anyio.Event()
    token = anyio.lowlevel.current_token()
    started = []
    start = process._Run._start

    def starts(self, *args):
        started.append(start(self, *args))
        anyio.from_thread.run_sync(begun.set, token=token)
        return started[0]

    monkeypatch.setattr(process._Run, "_start", starts)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: tree.output(grep, pattern="^(a+)+$"))
            await begun.wait()
            group.cancel_scope.cancel()
    assert started[0].returncode is not None
    with pytest.raises(ProcessLookupError):
        os.killpg(started[0].pid, 0)


async def test_a_search_that_breaks_down_says_so(tree, monkeypatch):
    monkeypatch.setattr(GREP, "_PROGRAM", "import os; os._exit(9)")
    assert await tree.refusal(grep, pattern="x") == "the search failed, exit code 9: "
    monkeypatch.setattr(sys, "executable", "")
    assert "no Python" in await tree.refusal(grep, pattern="x")


async def test_sockets_pipes_and_what_may_not_be_read_are_passed_over(tree, monkeypatch):
    os.mkfifo(tree.root / "src/pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(tree.root)
        try:
            listener.bind("sock")
        finally:
            os.chdir(here)
        assert "src/main.py:1" in await tree.text(grep, pattern="this")


async def test_results_are_the_same_however_the_disk_orders_them(tree, monkeypatch):
    expected = [await tree.text(tool, **more) for tool, more in ((find, {"pattern": "**"}), (list_, {"depth": 9}))]

    def shuffled(self, limit):
        found = list(original(self, limit).items())
        random.shuffle(found)
        return dict(found)

    original = paths.Folder.entries
    monkeypatch.setattr(paths.Folder, "entries", shuffled)
    assert [
        await tree.text(tool, **more) for tool, more in ((find, {"pattern": "**"}), (list_, {"depth": 9}))
    ] == expected


async def test_systems_without_descriptors_of_folders_find_and_list_but_do_not_grep(tree, monkeypatch):
    expected = await tree.text(find, pattern="**")
    monkeypatch.setattr(paths, "_WALKS", False)
    assert await tree.text(find, pattern="**") == expected
    with pytest.raises(ToolError, match="no descriptors"):
        await tree.output(grep, pattern="x")
