"""The core tool bash: what it shows, what it keeps in memory, and that nothing of a command is left."""

import contextlib
import itertools
import os
import signal
import subprocess
import sys
import textwrap
import tracemalloc
from pathlib import Path

import anyio
import pytest

from alloy.errors import InvalidOptionError, ToolDefinitionError, ToolError, UnknownOptionError
from alloy.tools import Bash, Executor, LocalExecutor, Tool, bash, process
from alloy.tools.core.bash import Capture, CommandResult
from alloy.tools.executor import Exit

pytestmark = pytest.mark.anyio

FREE = Bash(restricted=False)


def until(file):
    """A command that waits for a file."""
    return f"until [ -e {file} ]; do sleep 0.01; done"


class Alive:
    """A pipe that processes hold as long as they live, whatever becomes of their group, environment and parents."""

    def __init__(self, path):
        self.held_file = path.with_suffix(".held")
        self._path = path
        os.mkfifo(path)
        self._reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def hold(self, then):
        """A command that takes the pipe, tells of it, and goes on."""
        return f"exec 9>{self._path}; : > {self.held_file}; echo held >&9; {then}"

    async def held(self):
        """Waits until a process has the pipe."""
        await self.said(b"held\n")

    async def said(self, line):
        """Waits until a process says something."""
        await anyio.wait_readable(self._reading)
        assert os.read(self._reading, len(line)) == line

    def line(self):
        """Reads what one process said, which is there."""
        while os.read(self._reading, 1) != b"\n":
            pass

    def none(self):
        """Whether no process has it any more."""
        try:
            while os.read(self._reading, 100):
                pass
        except BlockingIOError:
            return False
        return True

    async def gone(self):
        """Waits until no process has it any more."""
        while not self.none():
            await anyio.wait_readable(self._reading)

    def close(self):
        os.close(self._reading)


@pytest.fixture
def alive(tmp_path):
    pipe = Alive(tmp_path / "alive")
    yield pipe
    pipe.close()


@pytest.fixture
def grace(monkeypatch):
    """Little patience with processes that ignore SIGTERM."""
    monkeypatch.setattr(process, "GRACE", 0.1)


# --- What it shows ---------------------------------------------------------------------------------------------------


def test_it_is_a_tool_like_any_other_and_runs_alone():
    Tool.check(bash)
    assert bash.name == "bash"
    assert not bash.concurrency_safe
    assert list(bash.input_schema["properties"]) == ["command", "timeout"]
    assert bash.restricted
    assert "sudo" in bash.description
    assert "sudo" not in FREE.description


async def test_output_and_errors_are_shown_as_they_come(user):
    output = await user.output(bash, command="echo one; echo two >&2; echo three")
    assert output.text == "one\ntwo\nthree"
    assert output.data == CommandResult(exit_code=0, output_bytes=14)


async def test_it_runs_in_the_working_directory_each_time_anew(user):
    assert await user.text(bash, command="cd src && ls && X=1") == "main.py"
    assert await user.text(bash, command="pwd; echo ${X-unset} $PWD") == f"{user.root}\nunset {user.root}"


async def test_an_exit_code_is_told_and_is_an_error(user):
    output = await user.output(bash, command="echo no >&2; exit 3")
    assert (output.text, output.is_error) == ("no\n[exit code 3]", True)
    assert output.data == CommandResult(exit_code=3, output_bytes=3)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGSEGV"])
async def test_a_signal_is_told(user, name):
    output = await user.output(bash, command=f"kill -{name[3:]} $$")
    code = 128 + signal.Signals[name]
    assert output.text == f"[exit code {code}, {name}]"
    assert (output.data.exit_code, output.data.signal) == (code, name)


@pytest.mark.parametrize("command", ["kill -9 0", "kill 0"])
async def test_a_command_that_kills_its_whole_group_has_ended(user, command):
    output = await user.output(bash, command=command)
    assert output.is_error
    assert output.data.exit_code > 128


async def test_no_output_is_no_text(user):
    assert await user.text(bash, command="true") == ""


async def test_there_is_neither_input_nor_a_terminal(user):
    output = await user.output(
        FREE, command="cat; tty; (echo x > /dev/tty) 2>/dev/null || echo none; [ -t 1 ] || echo pipe"
    )
    assert output.text == "not a tty\nnone\npipe"


async def test_no_descriptor_is_inherited_but_the_three(user):
    text = await user.text(FREE, command="ls /proc/$$/fd; true")
    assert text.split() == ["0", "1", "2"]


async def test_bytes_that_are_no_text_are_replaced(user):
    assert await user.text(bash, command=r"printf 'a\xff\0b\xe2\x82\xac'") == "a\ufffd\ufffdb€"


@pytest.mark.parametrize("command", ["", "  \n", "echo a\0b"])
async def test_what_is_no_command_is_refused(user, command):
    assert "command" in await user.refusal(bash, command=command)


async def test_a_command_that_can_not_be_started_is_refused(user):
    assert "argument list too long" in await user.refusal(FREE, command=": " + "x" * 200_000)
    assert "there is no bash" in await user.refusal(Bash(env={"PATH": "/nowhere"}), command="ls")
    user.root = user.root / "gone"
    assert "doesn't exist" in await user.refusal(bash, command="ls")


# --- Much output -----------------------------------------------------------------------------------------------------


async def test_of_much_output_head_and_tail_are_kept(user):
    output = await user.output(Bash(max_output_bytes=100), command="seq 1 100000; echo last")
    head, _, tail = output.text.partition("\n[... ")
    assert head == "".join(f"{n}\n" for n in range(1, 30))[:50]
    assert tail.startswith(f"{output.data.output_bytes - 100} bytes left out")
    assert tail.endswith("99999\n100000\nlast")
    assert len(output.text) < 200


async def test_gigabytes_of_output_take_no_memory(user):
    tracemalloc.start()
    try:
        output = await user.output(bash, command="head -c 1000000000 /dev/zero; echo end")
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
    finally:
        tracemalloc.stop()
    assert output.data.output_bytes == 1_000_000_004
    assert output.text.endswith("end")


def test_output_is_cut_at_the_same_place_however_it_comes():
    data = bytes(range(32, 127)) * 20
    for size in (1, 7, 100, 5000):
        capture = Capture(101)
        for at in range(0, len(data), size):
            capture(data[at : at + size])
        assert capture.text() == (
            f"{data[:50].decode()}\n[... {len(data) - 101} bytes left out; redirect to a file to see them all ...]\n"
            f"{data[-51:].decode()}"
        )


def test_output_at_the_limit_is_whole():
    capture = Capture(10)
    for piece in (b"01234", b"5678", b"9"):
        capture(piece)
    assert capture.text() == "0123456789"


def test_progress_is_whole_lines_and_its_end_if_there_is_much():
    capture = Capture(100)
    capture(b"one\ntw")
    assert capture.news() == "one\n"
    assert capture.news() == ""
    capture(b"o\n")
    assert capture.news() == "two\n"
    capture(b"x" * 10_000)
    assert len(capture.news()) == 4000


async def test_output_is_reported_while_the_command_runs(user):
    """The command waits for a file that is made when its first line was reported."""
    go = user.root / "go"

    class Reports(list):
        def append(self, text):
            super().append(text)
            go.touch()

    user.reports = Reports()
    assert await user.text(bash, command=f"echo first; {until('go')}; echo last") == "first\nlast"
    assert user.reports[0] == "first"


# --- Time ------------------------------------------------------------------------------------------------------------


async def test_a_command_that_takes_too_long_shows_what_it_wrote_until_then(user, alive):
    output = await user.output(FREE, command=f"echo begun; {alive.hold('exec sleep 1000')} & wait", timeout=0.5)
    assert output.text == "begun\n[timed out after 0.5 seconds; the command and its processes were ended]"
    assert output.data == CommandResult(exit_code=None, timed_out=True, output_bytes=6)
    assert output.is_error
    assert alive.none()


async def test_the_time_that_the_model_asks_for_is_capped(user):
    user.timeout = 0.3
    output = await user.output(bash, command="sleep 1000", timeout=900)
    assert "timed out after 0.3 seconds" in output.text
    assert "above 0" in await user.refusal(bash, command="true", timeout=0)


# --- Nothing left ----------------------------------------------------------------------------------------------------

STUBBORN = "(trap '' TERM HUP INT; {}) & wait"
LEAVES = {
    "a child": "exec sleep 1000",
    "a grandchild that ignores signals": "trap '' TERM HUP INT; (while :; do sleep 1000; done) & wait",
    "a child that begins new ones": "trap 'exec bash -c \"trap : TERM; sleep 1000; sleep 1000\"' TERM; sleep 1000 & wait",
    "a group of its own": "set -m; sleep 1000 & wait",
    "a session of its own": "exec setsid sleep 1000",
    "a child without an environment": "exec env -i /bin/sleep 1000",
    "a daemon": "(setsid bash -c 'trap \"\" TERM; sleep 1000; sleep 1000' &) ; exec sleep 1000",
}


@pytest.mark.parametrize("what", LEAVES)
@pytest.mark.parametrize("end", ["cancelled", "timed out", "by itself"])
async def test_p4_no_process_of_a_command_is_left(user, alive, grace, what, end):
    """Each of its processes holds a lock; when the call is over nobody does."""
    held = alive.hold(LEAVES[what])
    with anyio.fail_after(20):
        if end == "by itself":
            go = user.root / "go"
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: user.output(FREE, command=f"({held}) & {until('go')}"))
                await alive.held()
                go.touch()
        elif end == "cancelled":
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: user.output(FREE, command=held))
                await alive.held()
                group.cancel_scope.cancel()
        else:
            output = await user.output(FREE, command=held, timeout=0.5)
            assert output.data.timed_out
    assert alive.none()
    user.assert_no_threads()


async def test_p4_of_many_commands_that_fork_and_are_cancelled_at_once_nothing_is_left(user, alive):
    """Some when all their processes run, others at whatever moment they're at then."""
    forks = "sleep 1000 & (sleep 1000 & sleep 1000) & (setsid sleep 1000 &); "
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            for _ in range(20):
                group.start_soon(lambda: user.output(FREE, command=alive.hold(f"{forks} echo forked >&9; wait")))
            for _ in range(2 * 20):  # "held" and "forked", in some order
                await anyio.wait_readable(alive._reading)
                alive.line()
            for _ in range(10):
                group.start_soon(lambda: user.output(FREE, command=alive.hold(f"{forks} wait")))
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
    assert alive.none()
    user.assert_no_threads()


async def test_what_a_command_leaves_running_is_ended_and_told(user, alive):
    output = await user.output(FREE, command=f"({alive.hold('exec sleep 1000')}) & {until(alive.held_file)}; echo done")
    assert output.text == "done\n[1 process that was left in the background ended with it]"
    assert output.data.ended == 1
    assert not output.is_error
    assert alive.none()


async def test_processes_get_the_chance_to_end_well(user, alive):
    """SIGTERM comes first."""
    command = f"trap 'echo bye; exit' TERM; {alive.hold('sleep 1000 & wait')}"
    texts = []
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:

            async def call():
                texts.append((await user.output(FREE, command=f"({command}) & {until('go')}")).text)

            group.start_soon(call)
            await alive.held()
            (user.root / "go").touch()
    assert texts[0].startswith("bye\n[")


@pytest.mark.parametrize("pidfd", [True, False])
@pytest.mark.parametrize("proc", [True, False])
async def test_systems_without_pidfd_and_without_proc_end_the_group_as_well(
    user, alive, grace, pidfd, proc, monkeypatch
):
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    if not proc:
        monkeypatch.setattr(process, "_PROC", Path("/nowhere"))
    held = alive.hold(LEAVES["a grandchild that ignores signals"])
    assert await user.text(bash, command="echo fine") == "fine"
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: user.output(FREE, command=held))
            await alive.held()
            group.cancel_scope.cancel()
        await alive.gone()
    alive.held_file.unlink()
    output = await user.output(FREE, command=f"({held}) & {until(alive.held_file)}; echo done")
    assert output.text.startswith("done\n[1 process" if not proc else "done\n[")
    await alive.gone()


@pytest.mark.parametrize("what", ["a child", "a session of its own"])
async def test_a_process_that_is_begun_while_processes_are_looked_for_is_found(user, alive, what, monkeypatch):
    """Every second list is as it was before anything was begun."""
    lists, listing = itertools.count(), os.listdir
    monkeypatch.setattr(os, "listdir", lambda path: listing(path) if next(lists) % 2 else [])
    output = await user.output(FREE, command=f"({alive.hold(LEAVES[what])}) & {until(alive.held_file)}; echo done")
    assert output.text.startswith("done")
    assert alive.none()


async def test_a_process_that_no_list_has_is_ended_with_its_group(user, alive, monkeypatch):
    monkeypatch.setattr(os, "listdir", lambda path: [])
    output = await user.output(FREE, command=f"({alive.hold('exec sleep 1000')}) & {until(alive.held_file)}; echo done")
    assert output.text == "done"
    await alive.gone()


async def test_a_pidfd_that_is_forbidden_is_done_without(user, monkeypatch):
    def forbidden(pid):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", forbidden, raising=False)
    assert await user.text(bash, command="echo fine") == "fine"


async def test_a_child_that_nobody_can_find_does_not_hang_the_call(user, alive):
    """It left the session and dropped its environment, and it keeps the output open."""
    held = alive.hold("exec sleep 1000")
    escape = f"env -i PATH=$PATH setsid bash -c '{held}' & {until(alive.held_file)}; echo $!"
    output = await user.output(FREE, command=escape)
    pid = int(output.text.split()[0])
    assert not alive.none()
    os.kill(pid, signal.SIGKILL)
    await alive.gone()


async def test_cancelled_a_second_time_while_it_ends_the_processes_it_still_does(user, alive):
    """Nothing that the caller does keeps the processes from being ended."""
    held = alive.hold(LEAVES["a grandchild that ignores signals"])
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: user.output(FREE, command=held))
            await alive.held()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        await alive.gone()


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), 9)", "os.kill(os.getpid(), 15)", "sys.exit(1)"])
def test_p4_a_command_does_not_outlive_its_interpreter(alive, tmp_path, end):
    """However the interpreter ends, and even if the command's processes ignore signals."""
    held = alive.hold(LEAVES["a grandchild that ignores signals"])
    program = textwrap.dedent(f"""
        import asyncio, os, sys
        from pathlib import Path
        from alloy.tools.process import run_processes

        async def main():
            asyncio.get_running_loop().add_reader(0, lambda: {end})
            await run_processes(["bash", "-c", {held!r}], env=dict(os.environ), cwd=Path("/"), output=print, name="bash")

        asyncio.run(main())
    """)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as interpreter:
        anyio.run(alive.held)
        interpreter.stdin.write(b"x")
        interpreter.stdin.flush()
        interpreter.wait(20)
        anyio.run(alive.gone)


def test_p4_a_command_does_not_outlive_an_interpreter_that_dies_while_it_ends_it(alive):
    """SIGTERM has been sent and ignored, and nobody is left to send SIGKILL but the watcher, which ignored it as well."""
    held = alive.hold("trap 'echo term >&9' TERM; while :; do sleep 0.05; done")
    program = textwrap.dedent(f"""
        import anyio, asyncio, os
        from pathlib import Path
        from alloy.tools import process

        process.GRACE = 100.0

        async def main():
            with anyio.CancelScope() as scope:
                keys = {{b"c": scope.cancel, b"x": lambda: os._exit(1)}}
                asyncio.get_running_loop().add_reader(0, lambda: keys[os.read(0, 1)]())
                command = ["bash", "-c", {held!r}]
                await process.run_processes(command, env=dict(os.environ), cwd=Path("/"), output=print, name="bash")

        asyncio.run(main())
    """)
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE) as interpreter:
        anyio.run(alive.held)
        interpreter.stdin.write(b"c")
        interpreter.stdin.flush()
        anyio.run(alive.said, b"term\n")
        interpreter.stdin.write(b"x")
        interpreter.stdin.flush()
        interpreter.wait(20)
        anyio.run(alive.gone)


async def test_no_thread_descriptor_or_process_stays_after_many_commands(user):
    def count():
        user.assert_no_threads()
        return len([*Path("/dev/fd").iterdir()])

    await user.text(bash, command="true")
    before = count()
    for _ in range(20):
        await user.text(bash, command="true & echo x")
        with contextlib.suppress(ToolError):
            await user.output(bash, command="sudo true")
    assert count() == before


async def test_p7_the_event_loop_is_not_blocked_while_a_command_runs(user):
    """The command waits for a file that the loop makes."""
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: user.text(bash, command=f"{until('go')}"))
        await anyio.lowlevel.checkpoint()
        (user.root / "go").touch()


# --- Settings --------------------------------------------------------------------------------------------------------


class Elsewhere:
    """Runs commands somewhere else."""

    def __init__(self, code=0):
        self.commands = []
        self.code = code

    async def execute(self, command, output):
        self.commands.append(command)
        output(b"from ")
        output(b"elsewhere\n")
        return Exit(self.code, 2)


async def test_an_executor_of_ones_own_gets_the_command_and_gives_output_and_exit(user):
    user.allowed = (user.root.parent / "room-two",)
    executor = Elsewhere(code=130)
    output = await user.output(Bash(executor=executor, env={"API_TOKEN": "given"}), command="make")
    assert (
        output.text
        == "from elsewhere\n[exit code 130, SIGINT]\n[2 processes that were left in the background ended with it]"
    )
    [command] = executor.commands
    assert (command.text, command.working_directory, command.allowed_paths) == ("make", user.root, user.allowed)
    assert command.given == {"API_TOKEN": "given"}
    assert command.environment["API_TOKEN"] == "given"
    assert "given" not in repr(command)
    assert isinstance(executor, Executor)
    assert isinstance(LocalExecutor(), Executor)


async def test_an_executor_that_hangs_is_timed_out(user):
    class Hangs:
        async def execute(self, command, output):
            output(b"begun\n")
            await anyio.sleep_forever()

    output = await user.output(Bash(executor=Hangs()), command="make", timeout=0.1)
    assert output.text.startswith("begun\n[timed out")


async def test_an_executor_that_breaks_is_no_hanging_call(user):
    class Breaks:
        async def execute(self, command, output):
            raise RuntimeError("no connection")

    with pytest.raises(RuntimeError, match="no connection"):
        await user.output(Bash(executor=Breaks()), command="make")


@pytest.mark.parametrize(
    "options",
    [
        {"executor": "docker"},
        {"env": ["A=b"]},
        {"env": {"A": 1}},
        {"pass_env": "HOME"},
        {"pass_env": 3},
        {"max_output_bytes": 1},
        {"max_output_bytes": True},
    ],
)
def test_settings_are_checked(options):
    with pytest.raises(InvalidOptionError) as caught:
        Bash(**options)
    assert "A=b" not in str(caught.value)


def test_options_of_any_tool_are_options_of_bash():
    shell = Bash(name="shell", timeout=5, description="Runs.")
    assert (shell.name, shell.timeout, shell.description) == ("shell", 5, "Runs.")
    with pytest.raises(ToolDefinitionError):
        Bash(timeout=-1)
    with pytest.raises(UnknownOptionError):
        Bash(timout=3)


async def test_a_system_that_is_not_posix_is_told_what_to_do(user, monkeypatch):
    monkeypatch.setattr(process, "_POSIX", False)
    with pytest.raises(ToolError, match="POSIX"):
        await process.run_processes(["ls"], env={}, cwd=Path("/"), output=print, name="bash")
