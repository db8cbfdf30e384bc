"""The core tool read: what it shows, and where it never goes."""

import importlib
import os
import socket
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alloy.errors import ToolDefinitionError, ToolError
from alloy.tools import Tool, ToolContext, paths, read
from alloy.tools.base import FunctionTool

pytestmark = pytest.mark.anyio

MODULE = importlib.import_module("alloy.tools.core.read")  # as an attribute, alloy.tools.read is the tool


def context(root: Path) -> ToolContext:
    return ToolContext(
        call_id="call",
        tool_name="read",
        correlation_id="run",
        turn=1,
        working_directory=root,
        context={},
        report=print,
    )


async def page(root: Path, path: str, **arguments: Any) -> str:
    return await read.execute({"path": path, **arguments}, context(root))


async def refusal(root: Path, path: str, **arguments: Any) -> str:
    with anyio.fail_after(20):
        with pytest.raises(ToolError) as caught:
            await page(root, path, **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def room(tmp_path: Path) -> Path:
    """A working directory, with a secret beside it."""
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "room-two").mkdir()
    (tmp_path / "room-two" / "secret.txt").write_text("secret")
    root = tmp_path / "room"
    (root / "src").mkdir(parents=True)
    (root / "src" / "main.py").write_text("import this\n")
    return root


# --- What it shows ---------------------------------------------------------------------------------------------------


def test_it_is_a_tool_like_any_other():
    assert isinstance(read, Tool)
    Tool.check(read)
    assert read.name == "read"
    assert read.input_schema["required"] == ["path"]
    assert [name for name, of in read.input_schema["properties"].items() if of["description"]] == [
        "path",
        "offset",
        "limit",
    ]
    assert "Args" not in read.description


async def test_lines_are_numbered(room):
    (room / "a.txt").write_text("one\n\n  three")
    assert await page(room, "a.txt") == "     1\tone\n     2\t\n     3\t  three"


async def test_it_can_be_called_as_a_function(room):
    assert await read("src/main.py", context=context(room)) == "     1\timport this"


async def test_a_page_says_where_to_go_on(room):
    (room / "a.txt").write_text("".join(f"line {n}\n" for n in range(1, 11)))
    assert await page(room, "a.txt", offset=3, limit=2) == (
        "     3\tline 3\n     4\tline 4\n... 6 more lines; go on with offset=5"
    )
    assert await page(room, "a.txt", offset=9) == "     9\tline 9\n    10\tline 10"
    assert (await page(room, "a.txt", offset="10", limit=1)) == "    10\tline 10"


async def test_a_page_ends_by_itself_before_it_is_too_large(room):
    (room / "a.txt").write_text(("x" * 999 + "\n") * 1000)
    text = await page(room, "a.txt", limit=1000)
    assert len(text) < 60_000
    shown = text.count("\n")
    assert text.endswith(f"... {1000 - shown} more lines; go on with offset={shown + 1}")


async def test_a_long_line_is_cut_visibly(room):
    (room / "a.txt").write_text("€" * 700_000 + "\nnext\n")
    first, second = (await page(room, "a.txt")).split("\n")
    assert first == "     1\t" + "€" * 2000 + " [... cut: the line has 2100000 bytes]"
    assert second == "     2\tnext"


async def test_a_long_line_of_narrow_characters_is_cut_at_the_same_place(room):
    (room / "a.txt").write_text("x" * 2001 + "\n" + "y" * 2000)
    first, second = (await page(room, "a.txt")).split("\n")
    assert first == "     1\t" + "x" * 2000 + " [... cut: the line has 2001 bytes]"
    assert second == "     2\t" + "y" * 2000


async def test_an_empty_file_says_so(room):
    (room / "a.txt").write_text("")
    assert await page(room, "a.txt") == "(a.txt is empty)"
    (room / "b.txt").write_bytes(b"\xef\xbb\xbf")
    assert await page(room, "b.txt") == "(b.txt is empty)"


@pytest.mark.parametrize(
    ("text", "lines"), [("a", "1 line"), ("a\n", "1 line"), ("a\n\n", "2 lines"), ("a\nb", "2 lines")]
)
async def test_an_offset_past_the_end_says_how_many_lines_there_are(room, text, lines):
    (room / "a.txt").write_text(text)
    assert await refusal(room, "a.txt", offset=7) == f"offset 7 is past the end: 'a.txt' has {lines}"
    assert await refusal(room, "a.txt", offset=int(lines[0]) + 1)


async def test_line_ends_of_windows_and_a_byte_order_mark_are_not_shown(room):
    (room / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert await page(room, "a.txt") == "     1\tone\n     2\ttwo"


@pytest.mark.parametrize("field", ["offset", "limit"])
async def test_offset_and_limit_begin_at_one(room, field):
    assert field in await refusal(room, "src/main.py", **{field: 0})
    assert field in await refusal(room, "src/main.py", **{field: "many"})


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.text("aé€\r", max_size=6), min_size=1, max_size=12),
    st.integers(1, 14),
    st.integers(1, 14),
    st.integers(3, 12),
)
def test_a_page_is_the_same_however_the_file_falls_into_chunks(room, lines, offset, limit, chunk):
    (room / "a.txt").write_bytes("\n".join(lines).encode())
    expected = lines if lines[-1] else lines[:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MODULE, "_CHUNK", chunk)
        if expected and offset > len(expected):
            with pytest.raises(ToolError, match=f" {len(expected)} line"):
                MODULE._page((room,), "a.txt", (offset, limit), threading.Event())
            return
        shown = MODULE._page((room,), "a.txt", (offset, limit), threading.Event()).split("\n")
    if not expected:
        assert shown == ["(a.txt is empty)"]
        return
    left = len(expected) - offset - limit + 1
    if left > 0:
        assert shown.pop() == f"... {left} more line{'s' * (left > 1)}; go on with offset={offset + limit}"
    assert shown == [
        f"{number:6}\t{line.removesuffix(chr(13))}"
        for number, line in list(enumerate(expected, 1))[offset - 1 : offset - 1 + limit]
    ]


async def test_a_giant_file_is_read_in_small_pieces(room):
    import tracemalloc  # noqa: PLC0415  this test alone

    with (room / "a.bin").open("wb") as file:
        file.write(b"first\n")
        file.seek(1 << 40)  # a terabyte of nothing
        file.write(b"last\n")
    with (room / "a.txt").open("wb") as file:
        for _ in range(64):
            file.write(b"x" * (1 << 20))
        file.write(b"\nlast\n")

    tracemalloc.start()
    try:
        assert "binary" in await refusal(room, "a.bin")
        assert (await page(room, "a.txt")).endswith("     2\tlast")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 3 << 19


async def test_counting_what_is_left_has_an_end(room, monkeypatch):
    monkeypatch.setattr(MODULE, "_COUNTED", 1 << 18)
    (room / "a.txt").write_text("x\n" * 1_000_000)
    assert "... more than " in await page(room, "a.txt", limit=1)


async def test_a_cancelled_call_stops_reading(room, monkeypatch):
    stopped = threading.Event()
    begun = anyio.Event()
    token = anyio.lowlevel.current_token()

    def endless(root: Path, path: str, span: Any, stop: threading.Event) -> str:
        anyio.from_thread.run_sync(begun.set, token=token)
        if stop.wait(10):
            stopped.set()
        return ""

    monkeypatch.setattr(MODULE, "_page", endless)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(page, room, "src/main.py")
            await begun.wait()
            group.cancel_scope.cancel()
        assert await anyio.to_thread.run_sync(stopped.wait, 10)


# --- What it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [b"\x89PNG\r\n\x1a\n\0\0", b"text\n\xff\xfe\xfa\n", b"a" * 9000 + b"\n\0\n", b"caf\xe9"],
    ids=["nul", "bytes", "late", "latin"],
)
async def test_what_is_no_text_is_refused(room, content):
    (room / "a.bin").write_bytes(content)
    assert "isn't UTF-8 text" in await refusal(room, "a.bin")


async def test_utf_16_is_named(room):
    (room / "a.txt").write_text("hello", encoding="utf-16")
    assert "UTF-16" in await refusal(room, "a.txt")


async def test_directories_pipes_sockets_and_devices_are_refused_without_waiting(room):
    os.mkfifo(room / "pipe")
    assert "is a directory" in await refusal(room, "src")
    assert "is a directory" in await refusal(room, ".")
    assert "pipe" in await refusal(room, "pipe")
    assert "device" in await refusal(Path("/dev"), "null")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(room)  # a socket's path must be short
        try:
            listener.bind("sock")
        finally:
            os.chdir(here)
        assert "socket" in await refusal(room, "sock")


async def test_a_missing_file_is_told_with_names_that_are_near(room):
    assert await refusal(room, "src/mian.py") == "no file 'src/mian.py'; did you mean 'src/main.py'?"
    assert await refusal(room, "scr/main.py") == "no file 'scr/main.py'; did you mean 'src/main.py'?"
    assert await refusal(room, "SRC/main.py") == "no file 'SRC/main.py'; did you mean 'src/main.py'?"
    assert await refusal(room, "quite/other") == "no file 'quite/other'"
    assert "'src/main.py' is no directory" in await refusal(room, "src/main.py/x")


async def test_odd_paths_are_refused(room):
    assert "no path" in await refusal(room, "")
    assert "no path" in await refusal(room, "a\0b")
    assert "'a" in await refusal(room, "a" * 5000)
    assert "no file" in await refusal(room, "a" * 200)
    with pytest.raises(ToolError):
        await read("a\ud800", context=context(room))
    assert "doesn't exist" in await refusal(room / "gone", "a")


async def test_a_file_that_may_not_be_read_is_refused(room, monkeypatch):
    def forbidden(*args: Any, **kwargs: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", forbidden)
    assert await refusal(room, "src/main.py") == "can't open 'src/main.py': permission denied"


# --- Where it never goes ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("walks", [True, False])
@pytest.mark.parametrize(
    "path",
    [
        "../secret.txt",
        "src/../../secret.txt",
        "../room-two/secret.txt",
        "{root}/../secret.txt",
        "{root}-two/secret.txt",
        "/etc/passwd",
        "/",
        "..",
        "out",
        "out-directory/secret.txt",
        "src/up/secret.txt",
        "loop/../../secret.txt",
    ],
)
async def test_it_never_leaves_the_working_directory(room, path, walks, monkeypatch):
    monkeypatch.setattr(paths, "_WALKS", walks)
    (room / "out").symlink_to(room.parent / "secret.txt")
    (room / "out-directory").symlink_to(room.parent, target_is_directory=True)
    (room / "src" / "up").symlink_to("../..", target_is_directory=True)
    (room / "loop").symlink_to("loop")
    assert "outside of the working directory" in await refusal(room, path.format(root=room))


async def test_whether_something_exists_outside_cannot_be_told(room):
    there, missing = await refusal(room, "../secret.txt"), await refusal(room, "../nothing.txt")
    assert there.replace("secret", "nothing") == missing


@pytest.mark.parametrize("walks", [True, False])
async def test_links_and_ways_that_stay_inside_are_followed(room, walks, monkeypatch):
    monkeypatch.setattr(paths, "_WALKS", walks)
    (room / "link").symlink_to("src/main.py")
    (room / "directory").symlink_to(room / "src", target_is_directory=True)
    (room.parent / "way-in").symlink_to(room, target_is_directory=True)
    for path in ("link", "directory/main.py", "src/../src/./main.py", f"{room}/src/main.py", f"../{room.name}/link"):
        assert await page(room, path) == "     1\timport this"
        assert await page(room.parent / "way-in", path) == "     1\timport this"


@pytest.mark.parametrize("walks", [True, False])
async def test_links_that_go_round_in_circles_are_refused(room, walks, monkeypatch):
    monkeypatch.setattr(paths, "_WALKS", walks)
    (room / "loop").symlink_to("loop")
    (room / "a").symlink_to("b")
    (room / "b").symlink_to("a")
    for path in ("loop", "a", "loop/x", "loop/../a"):
        assert await refusal(room, path)


@pytest.mark.parametrize("walks", [True, False])
@pytest.mark.parametrize("what", ["src", "src/main.py"])
async def test_a_link_put_there_after_the_check_is_not_followed(room, what, walks, monkeypatch):
    """The directory or the file is swapped for a link that leads outside, between the check and the opening."""
    monkeypatch.setattr(paths, "_WALKS", walks)
    outside = room.parent / "secret.txt"
    (room.parent / "room-two" / "main.py").write_text("secret")
    check = paths.inside

    def swap(root: Path, path: str) -> Any:
        checked = check(root, path)
        (room / what).rename(room / "moved")
        (room / what).symlink_to(outside if what.endswith(".py") else room.parent / "room-two")
        return checked

    monkeypatch.setattr(paths, "inside", swap)
    assert "symbolic links" in await refusal(room, "src/main.py")


@pytest.mark.parametrize("what", ["src", "src/main.py"])
async def test_a_link_put_there_while_the_path_is_walked_is_not_followed(room, what, monkeypatch):
    (room.parent / "room-two" / "main.py").write_text("secret")
    look = os.stat
    name = what.rpartition("/")[2]

    def swap(path: Any, **options: Any) -> os.stat_result:
        found = look(path, **options)
        if path == name and options.get("dir_fd") is not None and not (room / "moved").exists():
            (room / what).rename(room / "moved")
            (room / what).symlink_to(room.parent / "room-two" / ("main.py" if name == "main.py" else ""))
        return found

    monkeypatch.setattr(os, "stat", swap)
    assert "can't open 'src/main.py'" in await refusal(room, "src/main.py")


async def test_a_pipe_put_there_after_the_check_is_not_waited_for(room, monkeypatch):
    look = os.stat

    def swap(path: Any, **options: Any) -> os.stat_result:
        found = look(path, **options)
        if path == "main.py" and not (room / "moved").exists():
            (room / "src" / "main.py").rename(room / "moved")
            os.mkfifo(room / "src" / "main.py")
        return found

    monkeypatch.setattr(os, "stat", swap)
    assert "pipe" in await refusal(room, "src/main.py")


async def test_no_descriptor_is_left_open(room):
    os.mkfifo(room / "pipe")
    (room / "loop").symlink_to("loop")

    def count() -> int:
        return len(list(Path("/dev/fd").iterdir()))

    before = count()
    await page(room, "src/main.py")
    for path in ("src", "pipe", "loop", "nothing", "src/mian.py", "src/main.py/x", "../secret.txt"):
        await refusal(room, path)
    assert count() == before


parts = st.sampled_from(
    ["..", ".", "src", "main.py", "up", "abs", "room", "room-two", "secret.txt", "loop", "", "~", "x", "\\", "..."]
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(parts, max_size=8), st.sampled_from(["", "/", "{root}/", "{outside}/"]))
def test_no_path_gives_what_is_outside(room, names, start):
    """Every file outside says secret, and no file inside does."""
    if not (room / "up").is_symlink():
        (room / "up").symlink_to("..", target_is_directory=True)
        (room / "abs").symlink_to(room.parent / "room-two", target_is_directory=True)
        (room / "loop").symlink_to("loop/x")
    path = start.format(root=room, outside=room.parent) + "/".join(names)
    try:
        with paths.open_inside((room,), path) as file:
            content = file.read()
    except ToolError:
        return
    assert content == b"import this\n"
    assert Path(os.path.realpath(room / path)).is_relative_to(room)


def test_a_core_tool_is_checked_like_others_where_it_matters():
    def bare(path):
        pass

    with pytest.raises(ToolDefinitionError):
        FunctionTool(bare, description="Reads.")
