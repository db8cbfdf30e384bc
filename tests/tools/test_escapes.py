"""No file tool leads out of its folders: by no path, no link, and no race."""

import contextlib
import itertools
import os
import threading
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alloy.errors import ToolError
from alloy.tools import edit, find, grep, list_, paths, read, write

pytestmark = pytest.mark.anyio

LONG = "n" * 255
TOOLS = {
    "read": (read, {}),
    "write": (write, {"content": "escaped"}),
    "edit": (edit, {"edits": [{"old": "secret", "new": "escaped"}]}),
    "grep": (grep, {"pattern": "."}),
    "find": (find, {"pattern": "*"}),
    "list": (list_, {}),
}
OUTSIDE = [
    "../secret.txt",
    "src/../../secret.txt",
    "./.././secret.txt",
    "src//..//..//secret.txt",
    "../room-two/secret.txt",
    "../room-two",
    "../ROOM/../secret.txt",
    "{root}/../secret.txt",
    "{root}-two/secret.txt",
    "{root}-two",
    "{root}/..",
    "/",
    "//",
    "/.",
    "..",
    "../",
    "../room/../room-two/secret.txt",
    "/etc/passwd",
    "/etc",
    "//etc/passwd",
    "/proc/self/root/etc/passwd",
    "/proc/self/environ",
    "/proc/self/fd/0",
    "/dev/null",
    "/dev/stdin",
    "out.txt",
    "out/secret.txt",
    "out",
    "out/",
    "out/../secret.txt",
    "src/up/secret.txt",
    "src/up/room-two/../secret.txt",
    "relative",
    "chain-1",
    "dangling",
    "dangling-folder/new.txt",
    "proc/etc/passwd",
    "loop/../../secret.txt",
    f"{LONG}/../../secret.txt",
    "missing/../../secret.txt",
    "src/main.py/../../../secret.txt",
]


@pytest.fixture
def maze(user):
    """A folder full of links that lead out of it."""
    root = user.root
    links = {
        "out.txt": root.parent / "secret.txt",
        "out": root.parent,
        "src/up": "../..",
        "relative": "../secret.txt",
        "chain-1": "chain-2",
        "chain-2": "chain-3",
        "chain-3": root.parent / "room-two" / "secret.txt",
        "dangling": root.parent / "new.txt",
        "dangling-folder": root.parent / "new",
        "proc": "/proc/self/root",
        "loop": "loop",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    return user


def outside(root):
    """All that is around a folder, with its content."""
    around = [path for path in root.parent.rglob("*") if not path.is_relative_to(root)]
    return {str(path): path.read_bytes() if path.is_file() else None for path in around}


@pytest.mark.parametrize("walks", [True, False])
@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize("path", OUTSIDE)
async def test_no_path_leads_out(maze, name, path, walks, monkeypatch):
    monkeypatch.setattr(paths, "_WALKS", walks)
    before = outside(maze.root)
    tool, more = TOOLS[name]
    said = await maze.refusal(tool, path=path.format(root=maze.root), **more)
    assert "outside of the working directory" in said
    assert outside(maze.root) == before


@pytest.mark.parametrize("name", TOOLS)
async def test_whether_something_exists_outside_can_not_be_told(maze, name):
    tool, more = TOOLS[name]
    there, missing = [await maze.refusal(tool, path=f"../{each}.txt", **more) for each in ("secret", "nothin")]
    assert there.replace("secret", "nothin") == missing


@pytest.mark.parametrize("name", TOOLS)
@pytest.mark.parametrize(
    "path", ["loop", "loop/x", "pipe", "pipe/x", "sock/../pipe", "x" * 300, "x" * 5000, "a\0b", ""]
)
async def test_what_can_not_be_opened_is_refused_and_never_waited_for(maze, name, path):
    os.mkfifo(maze.root / "pipe")
    tool, more = TOOLS[name]
    with pytest.raises(ToolError):
        with anyio.fail_after(10):
            await tool.execute({"path": path, **more}, maze.context())


async def test_searches_tell_of_links_and_never_follow_them(maze):
    assert "secret" not in await maze.text(grep, pattern="secret|root:")
    assert "secret.txt" not in await maze.text(find, pattern="**")
    listed = (await maze.text(list_, depth=9)).splitlines()
    assert f"out -> {maze.root.parent}" in listed
    assert not [line for line in listed if line.startswith("out/")]


# --- What is allowed -------------------------------------------------------------------------------------------------


async def test_further_folders_and_files_can_be_allowed(maze):
    maze.allowed = (maze.root.parent / "room-two", maze.root.parent / "secret.txt")
    other = maze.root.parent / "room-two"
    assert await maze.text(read, path=str(other / "secret.txt")) == "     1\tsecret"
    assert await maze.text(read, path="../room-two/secret.txt") == "     1\tsecret"
    assert await maze.text(read, path="out.txt") == "     1\tsecret"
    await maze.text(write, path="../room-two/new/file.txt", content="x")
    assert await maze.text(list_, path=str(other)) == "new/\nsecret.txt  6"
    assert await maze.text(find, pattern="*.txt", path=str(other)) == f"{other}/new/file.txt\n{other}/secret.txt"
    assert await maze.text(grep, pattern="secret", path=str(other)) == f"{other}/secret.txt:1: secret"


@pytest.mark.parametrize("path", ["../room-two", "../room-twofold/x", "../secret.txt.old", "/etc/passwd", "..", "/"])
async def test_what_is_beside_an_allowed_path_stays_outside(maze, path):
    maze.allowed = (maze.root.parent / "room-two" / "inner", maze.root.parent / "secret.txt")
    assert "and of what else is allowed" in await maze.refusal(read, path=path)
    assert "outside" in await maze.refusal(write, path=path, content="x")


async def test_an_allowed_path_that_is_a_link_means_where_it_leads(maze):
    (maze.root.parent / "link").symlink_to("room-two")
    maze.allowed = (maze.root.parent / "link",)
    assert await maze.text(read, path="../link/secret.txt") == "     1\tsecret"
    assert await maze.text(read, path="../room-two/secret.txt") == "     1\tsecret"


# --- Races -----------------------------------------------------------------------------------------------------------


ROUNDS = {"read": 300, "write": 60, "edit": 60, "grep": 10, "find": 300, "list": 300}


def flip(root, name, stop, target):
    """Has `name` be a folder and a link that leads out, by turns, as fast as it goes."""
    (root / "spare").symlink_to(target)
    steps = itertools.cycle([(name, "aside"), ("spare", name), (name, "spare"), ("aside", name)])
    made = itertools.count()
    for old, new in steps:
        while True:
            try:
                (root / old).rename(root / new)
                break
            except OSError:  # write has made the folder that wasn't there
                (root / name).rename(root / f"made-{next(made)}")
        if stop.is_set():
            return


@pytest.mark.parametrize("name", ROUNDS)
async def test_a_link_that_comes_and_goes_in_the_way_never_leads_out(user, name):
    """A thread swaps a folder for a link all the while; whatever the tool sees, it's never what the link leads to."""
    inner = user.root / "src"
    for file in ("target.txt", "main.py"):
        (inner / file).write_text("inside secret\n")
    other = user.root.parent / "room-two"
    (other / "target.txt").write_text("outside secret\n")
    before = outside(user.root)
    stop = threading.Event()
    racer = threading.Thread(target=flip, args=(user.root, "src", stop, other))
    racer.start()
    tool, more = TOOLS[name]
    path = "src" if name in ("grep", "find", "list") else "src/target.txt"
    seen = []
    try:
        for _ in range(ROUNDS[name]):
            try:
                output = await user.output(tool, path=path, **more)
            except ToolError as error:
                seen.append(str(error))
            else:
                seen.append(output.text)
    finally:
        stop.set()
        racer.join(10)
    assert len(seen) == ROUNDS[name]
    assert not [
        text for text in seen if "outside secret" in text or "room-two/secret" in text or "\nsecret.txt" in text
    ]
    assert outside(user.root) == before


@pytest.mark.parametrize("tool", ["write", "edit"])
@pytest.mark.parametrize("walks", [True, False])
async def test_a_folder_that_becomes_a_link_before_the_file_is_replaced_changes_nothing_outside(
    user, tool, walks, monkeypatch
):
    """The swap is made after the new file is on the disk, right before it takes the old one's name."""
    monkeypatch.setattr(paths, "_WALKS", walks)
    other = user.root.parent / "room-two"
    (other / "main.py").write_text("import this\n")
    before = outside(user.root)
    sync = os.fsync

    def swap(descriptor):
        sync(descriptor)
        if not (user.root / "moved").exists():
            (user.root / "src").rename(user.root / "moved")
            (user.root / "src").symlink_to(other)

    monkeypatch.setattr(os, "fsync", swap)
    more = {"content": "x"} if tool == "write" else {"edits": [{"old": "this", "new": "x"}]}
    with pytest.raises(ToolError) if not walks else monkeypatch.context():
        await user.output(TOOLS[tool][0], path="src/main.py", **more)
    assert outside(user.root) == before


async def test_a_link_put_there_while_folders_are_made_is_not_followed(user, monkeypatch):
    make = os.mkdir

    def swap(name, *args, **kwargs):
        make(name, *args, **kwargs)
        if name == "a":
            (user.root / "a").rename(user.root / "moved")
            (user.root / "a").symlink_to(user.root.parent / "room-two")

    monkeypatch.setattr(os, "mkdir", swap)
    assert "symbolic links" in await user.refusal(write, path="a/b/c.txt", content="x")
    assert [path.name for path in (user.root.parent / "room-two").iterdir()] == ["secret.txt"]


async def test_no_descriptor_is_left_open(maze):
    os.mkfifo(maze.root / "pipe")

    def count():
        return len([*Path("/dev/fd").iterdir()])

    before = count()
    for tool, more in TOOLS.values():
        for path in ("src/main.py", "src", ".", "pipe", "loop", "nothing", "src/main.py/x", "../secret.txt", "out/x"):
            with contextlib.suppress(ToolError):
                await maze.output(tool, path=path, **more)
    assert count() == before


parts = st.sampled_from(
    [
        "..",
        ".",
        "src",
        "main.py",
        "up",
        "abs",
        "room",
        "room-two",
        "secret.txt",
        "loop",
        "",
        "~",
        "new",
        "\\",
        "...",
        "Room",
    ]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(parts, max_size=8), st.sampled_from(["", "/", "{root}/", "{outside}/"]))
def test_no_path_writes_what_is_outside(user, names, start):
    root = user.root
    if not (root / "up").is_symlink():
        (root / "up").symlink_to("..", target_is_directory=True)
        (root / "abs").symlink_to(root.parent / "room-two", target_is_directory=True)
        (root / "loop").symlink_to("loop/x")
    before = outside(root)
    path = start.format(root=root, outside=root.parent) + "/".join(names)
    try:
        folder, name = paths.open_parent((root,), path, make=True)
    except ToolError:
        return
    with folder:
        assert Path(os.path.realpath(folder.path)).is_relative_to(root)
        assert name not in ("", ".", "..")
        assert "/" not in name
    assert outside(root) == before


# --- Systems whose calls take no descriptors of folders --------------------------------------------------------------


def swapped(user):
    """Has `src` be a link that leads out from now on."""
    (user.root / "src").rename(user.root / "moved")
    (user.root / "src").symlink_to(user.root.parent / "room-two")


async def test_by_name_a_file_that_was_opened_outside_is_not_read(user, monkeypatch):
    monkeypatch.setattr(paths, "_WALKS", False)
    (user.root.parent / "room-two" / "main.py").write_text("secret")
    opens = os.open

    def swap(path, *args, **kwargs):
        if str(path).endswith("main.py"):
            swapped(user)
        return opens(path, *args, **kwargs)

    monkeypatch.setattr(os, "open", swap)
    assert "symbolic links" in await user.refusal(read, path="src/main.py")


async def test_by_name_no_folder_is_made_outside(user, monkeypatch):
    monkeypatch.setattr(paths, "_WALKS", False)
    look = os.stat

    def swap(path, *args, **kwargs):
        try:
            return look(path, *args, **kwargs)
        except FileNotFoundError:
            if str(path).endswith("src/new"):
                swapped(user)
            raise

    monkeypatch.setattr(os, "stat", swap)
    assert "symbolic links" in await user.refusal(write, path="src/new/file.txt", content="x")
    assert not (user.root.parent / "room-two" / "new").exists()
