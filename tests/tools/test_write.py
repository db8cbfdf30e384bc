"""The core tools write and edit: what they change, what they keep, and that it's all or nothing."""

import importlib
import os
import stat

import anyio
import pytest

from alloy.tools import Tool, edit, files, paths, write

pytestmark = pytest.mark.anyio

WRITE = importlib.import_module("alloy.tools.core.write")
EDIT = importlib.import_module("alloy.tools.core.edit")


def everything(root):
    """Each file in a folder with its content."""
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def one(old, new, **more):
    return [{"old": old, "new": new, **more}]


# --- write -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tool", [write, edit])
def test_they_are_tools_like_any_other_and_run_alone(tool):
    Tool.check(tool)
    assert not tool.concurrency_safe
    assert all(of["description"] for of in tool.input_schema["properties"].values())


async def test_a_file_is_written_with_the_folders_that_it_needs(user):
    said = await user.text(write, path="a/b/c.txt", content="one\ntwo")
    assert said == "wrote 7 bytes, 2 lines, to 'a/b/c.txt' (a new file)"
    assert (user.root / "a/b/c.txt").read_text() == "one\ntwo"


async def test_a_file_that_is_there_is_replaced(user):
    said = await user.text(write, path="src/main.py", content="é\n")
    assert said == "wrote 3 bytes, 1 line, to 'src/main.py' (it had 12 bytes)"
    assert everything(user.root) == {"src/main.py": b"\xc3\xa9\n"}
    assert "wrote 0 bytes, 0 lines" in await user.text(write, path="src/main.py", content="")


async def test_line_ends_are_written_as_they_are_given(user):
    await user.text(write, path="a.txt", content="one\r\ntwo\n")
    assert (user.root / "a.txt").read_bytes() == b"one\r\ntwo\n"


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
async def test_a_file_keeps_its_mode_and_a_new_one_has_the_usual_one(user, mode):
    (user.root / "src/main.py").chmod(mode)
    await user.text(write, path="src/main.py", content="x")
    await user.text(edit, path="src/main.py", edits=one("x", "y"))
    assert stat.S_IMODE((user.root / "src/main.py").stat().st_mode) == mode

    (user.root / "plain").touch()
    await user.text(write, path="new.py", content="x")
    assert (user.root / "new.py").stat().st_mode == (user.root / "plain").stat().st_mode


async def test_a_link_inside_stays_a_link(user):
    (user.root / "link").symlink_to("src/main.py")
    await user.text(write, path="link", content="x")
    assert (user.root / "link").is_symlink()
    assert (user.root / "src/main.py").read_text() == "x"


async def test_whoever_has_the_old_file_open_still_reads_all_of_it(user):
    """It's replaced, not changed: nobody sees half of it."""
    with (user.root / "src/main.py").open() as before:
        await user.text(write, path="src/main.py", content="new")
        assert before.read() == "import this\n"


@pytest.mark.parametrize("call", ["write", "fsync", "replace"])
async def test_a_full_disk_leaves_everything_as_it_was(user, call, monkeypatch):
    before = everything(user.root)

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, call if call != "write" else "fdopen", full)
    assert (
        await user.refusal(write, path="src/main.py", content="x")
        == "can't write 'src/main.py': no space left on device"
    )
    monkeypatch.undo()
    assert everything(user.root) == before


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("src", "is a directory"),
        (".", "is a directory"),
        ("new/", "doesn't end with a slash"),
        ("src/main.py/x", "'src/main.py' is no directory"),
        ("pipe", "pipe"),
        ("", "no path"),
        ("a\0b", "no path"),
        ("a" * 300, "name too long"),
        ("x/" * 3000 + "y", "name too long"),
    ],
)
@pytest.mark.parametrize("tool", [write, edit])
async def test_what_is_no_file_is_refused(user, path, said, tool):
    os.mkfifo(user.root / "pipe")
    more = {"content": "x"} if tool is write else {"edits": one("a", "b")}
    assert said in await user.refusal(tool, path=path, **more)


async def test_a_write_protected_file_is_refused(user, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *args, **kwargs: False)
    assert "write-protected" in await user.refusal(write, path="src/main.py", content="x")
    assert "write-protected" in await user.refusal(edit, path="src/main.py", edits=one("import", "y"))


@pytest.mark.parametrize("tool", [write, edit])
@pytest.mark.parametrize("change", ["content", "another", "gone", "link"])
async def test_a_change_at_the_same_moment_is_seen_and_kept(user, tool, change, monkeypatch):
    """Somebody changes the file after it was looked at, and before it's replaced."""
    target = user.root / "src/main.py"
    sync = os.fsync

    def interfere(descriptor):
        sync(descriptor)
        monkeypatch.undo()
        if change == "content":
            target.write_text("import that\n")
        else:
            target.unlink()
        if change == "another":
            target.write_text("import this\n")
        if change == "link":
            target.symlink_to(user.root.parent / "secret.txt")

    monkeypatch.setattr(os, "fsync", interfere)
    more = {"content": "x"} if tool is write else {"edits": one("import", "y")}
    assert "changed by somebody else" in await user.refusal(tool, path="src/main.py", **more)
    assert b"x" not in everything(user.root).values()
    assert [*(user.root / "src").glob(".*.tmp")] == []
    assert (user.root.parent / "secret.txt").read_text() == "secret"


@pytest.mark.parametrize("module", [WRITE, EDIT])
async def test_a_cancelled_call_has_written_nothing_when_it_returns(user, module, monkeypatch):
    begun = anyio.Event()
    token = anyio.lowlevel.current_token()
    before = everything(user.root)

    def wait(folder, name, data, *, path, before, stop):
        anyio.from_thread.run_sync(begun.set, token=token)
        assert stop.wait(10)
        files.replace_file(folder, name, data, path=path, before=before, stop=stop)

    monkeypatch.setattr(module, "replace_file", wait)
    tool, more = (write, {"content": "x"}) if module is WRITE else (edit, {"edits": one("import", "y")})
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: user.output(tool, path="src/main.py", **more))
            await begun.wait()
            group.cancel_scope.cancel()
    assert everything(user.root) == before
    user.assert_no_threads()


# --- edit ------------------------------------------------------------------------------------------------------------


async def test_one_place_is_replaced(user):
    said = await user.text(edit, path="src/main.py", edits=one("this", "that"))
    assert said == "edited 'src/main.py': replaced 1 match, on line 1"
    assert (user.root / "src/main.py").read_text() == "import that\n"


async def test_several_edits_are_made_one_after_the_other(user):
    (user.root / "a.txt").write_text("one\ntwo\none\n")
    edits = [*one("two", "three"), *one("three\none", "end"), *one("o", "0", replace_all=True)]
    said = await user.text(edit, path="a.txt", edits=edits)
    assert said == "edited 'a.txt': replaced 1 match, on line 2; 1 match, on line 2; 1 match, on line 1"
    assert (user.root / "a.txt").read_text() == "0ne\nend\n"


async def test_all_places_are_replaced_if_asked_for(user):
    (user.root / "a.txt").write_text("a b\na\n" * 30)
    said = await user.text(edit, path="a.txt", edits=one("a", "$1\\1", replace_all=True))
    assert said.startswith("edited 'a.txt': replaced 60 matches, on lines 1, 2, 3, ")
    assert (user.root / "a.txt").read_text() == "$1\\1 b\n$1\\1\n" * 30


@pytest.mark.parametrize(
    ("edits", "said"),
    [
        ([], "edits is empty"),
        (one("", "x"), "edit 1 of 1: old is empty"),
        (one("one", "one"), "edit 1 of 1: old and new are the same"),
        (one("a\r\nb", "a\nb"), "edit 1 of 1: old and new are the same"),
        (one("ONE", "x"), "edit 1 of 1: the old text isn't in 'a.txt'; nothing was changed"),
        (one("one", "x"), "the old text is in 'a.txt' 2 times, on lines 1, 3; nothing was changed. Give more"),
        ([*one("two", "x"), *one("two", "y")], "edit 2 of 2: the old text isn't in"),
        ([*one("two", "x"), *one("x", "two")], "the edits undo each other"),
        (one("two\n    one", "x"), "though line 2 is like its first line; it must be the same in blanks"),
        (one("x", "y", replace_al=True), "invalid arguments"),
    ],
)
async def test_an_edit_that_can_not_be_made_changes_nothing(user, edits, said):
    (user.root / "a.txt").write_text("one\n  two\none\n")
    before = everything(user.root)
    assert said in await user.refusal(edit, path="a.txt", edits=edits)
    assert everything(user.root) == before


@pytest.mark.parametrize(
    ("before", "edits", "after"),
    [
        (b"one\r\ntwo\r\n", one("one\ntwo", "1\n2\n3"), b"1\r\n2\r\n3\r\n"),
        (b"one\r\ntwo\r\n", one("one", "1\n2"), b"1\r\n2\r\ntwo\r\n"),
        (b"one\r\ntwo\r\n", one("one\r\ntwo", "1\r\n2"), b"1\r\n2\r\n"),
        (b"one\ntwo\n", one("one\r\ntwo", "1\r\n2"), b"1\n2\n"),
        (b"a\r\nb\nc\nd\n", one("a\nb", "1\n2"), b"1\r\n2\nc\nd\n"),
        (b"a\r\nb\nc\nd\n", one("c", "1\n2"), b"a\r\nb\n1\n2\nd\n"),
        (b"\xef\xbb\xbfone\n", one("one", "two"), b"\xef\xbb\xbftwo\n"),
        ("one é\r\n".encode("utf-16"), one("é", "ü\n"), "one ü\r\n\r\n".encode("utf-16")),
        (b"\xfe\xff" + "one\n".encode("utf-16-be"), one("one", "€"), b"\xfe\xff" + "€\n".encode("utf-16-be")),
        (b"no end", one("end", "END"), b"no END"),
    ],
)
async def test_line_ends_mark_and_encoding_are_kept(user, before, edits, after):
    (user.root / "a.txt").write_bytes(before)
    await user.text(edit, path="a.txt", edits=edits)
    assert (user.root / "a.txt").read_bytes() == after


@pytest.mark.parametrize("content", [b"\x89PNG\0one", b"one \xff\xfe", b"caf\xe9 one", b"\xff\xfeo\0n\0e\0\0"])
async def test_a_file_that_is_no_text_is_not_edited(user, content):
    (user.root / "a.bin").write_bytes(content)
    assert "isn't UTF-8 text" in await user.refusal(edit, path="a.bin", edits=one("one", "two"))
    assert (user.root / "a.bin").read_bytes() == content


async def test_a_missing_file_is_told_with_names_that_are_near(user):
    said = await user.refusal(edit, path="src/mian.py", edits=one("a", "b"))
    assert said == "no file 'src/mian.py'; did you mean 'src/main.py'?"


async def test_a_very_large_file_is_not_held_in_memory(user):
    with (user.root / "a.txt").open("wb") as file:
        file.truncate(files.LARGEST + 1)
    assert "too large" in await user.refusal(edit, path="a.txt", edits=one("a", "b"))


@pytest.mark.parametrize("walks", [True, False])
async def test_a_system_without_descriptors_of_folders_writes_as_well(user, walks, monkeypatch):
    monkeypatch.setattr(paths, "_WALKS", walks)
    await user.text(write, path="a/b.txt", content="one")
    await user.text(edit, path="a/b.txt", edits=one("one", "two"))
    assert everything(user.root) == {"a/b.txt": b"two", "src/main.py": b"import this\n"}
