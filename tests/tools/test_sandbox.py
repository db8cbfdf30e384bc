"""Commands in a sandbox: what the program that makes it is told, and what it's given."""

import json
import sys

import anyio
import pytest

from alloy.errors import ConfigurationError, InvalidOptionError, MissingExtraError, ToolError
from alloy.tools import Bash, Executor, SandboxExecutor

pytestmark = pytest.mark.anyio

FAKE = """\
#!{python}
import json, os, subprocess, sys
arguments = sys.argv[1:]
with open({log!r}, "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), arguments, dict(os.environ)]) + "\\n")
if arguments[0] != "rm":
    where = arguments[arguments.index("--chdir" if "--chdir" in arguments else "--workdir") + 1]
    sys.exit(subprocess.call(arguments[arguments.index("bash"):], cwd=where))
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes programs that write down how they are called, and then run the command without any sandbox."""
    programs = tmp_path / "programs"
    programs.mkdir()
    log = tmp_path / "log"
    log.touch()

    def make(*names):
        for name in names:
            (programs / name).write_text(FAKE.format(python=sys.executable, log=str(log)))
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
        return lambda: [json.loads(line) for line in log.read_text().splitlines()]

    monkeypatch.setenv("PATH", str(programs))
    return make


def test_without_any_of_the_programs_it_says_what_to_install(fake):
    with pytest.raises(MissingExtraError) as caught:
        SandboxExecutor()
    assert "bwrap or podman or docker" in str(caught.value)
    assert caught.value.command == "apt install bubblewrap"
    assert isinstance(caught.value, ConfigurationError)
    fake("bwrap")
    with pytest.raises(MissingExtraError, match="apt install podman"):
        SandboxExecutor("podman")


def test_the_first_that_is_there_is_taken_unless_one_is_named(fake):
    fake("docker", "podman")
    assert SandboxExecutor().kind == "podman"
    assert SandboxExecutor("docker").kind == "docker"
    assert repr(SandboxExecutor()) == "<SandboxExecutor podman>"
    assert isinstance(SandboxExecutor(), Executor)
    with pytest.raises(InvalidOptionError, match="bwrap, podman, docker"):
        SandboxExecutor("chroot")


def pairs(arguments, option, width=2):
    """What stands behind each of an option's occurrences."""
    return [arguments[at + 1 : at + 1 + width] for at, word in enumerate(arguments) if word == option]


@pytest.mark.parametrize("network", [True, False])
async def test_bubblewrap_is_told_to_show_the_folder_and_little_else(user, fake, network, monkeypatch):
    monkeypatch.setenv("DEEP_SECRET", "canary")
    calls = fake("bwrap")
    other = user.root.parent / "room-two"
    user.allowed = (other,)
    executor = SandboxExecutor("bwrap", network=network, read_only=[user.root.parent / "secret.txt"])
    shell = Bash(executor=executor, env={"GIVEN": "value"}, restricted=False)
    assert await user.text(shell, command="pwd; exit 0") == str(user.root)

    [[_, arguments, environment]] = calls()
    for option in ("--unshare-all", "--die-with-parent", "--new-session"):
        assert option in arguments
    assert ("--share-net" in arguments) == network
    assert pairs(arguments, "--bind") == [[str(user.root)] * 2, [str(other)] * 2]
    assert pairs(arguments, "--ro-bind") == [[str(user.root.parent / "secret.txt")] * 2]
    visible = {source for source, _ in pairs(arguments, "--ro-bind-try")}
    assert {"/usr", "/bin"} <= visible
    assert not {"/", "/home", "/root", "/etc", "/etc/shadow", "/var", "/run"} & visible
    assert ("/etc/resolv.conf" in visible) == network
    shells_own = {"PWD", "SHLVL", "_", "LC_CTYPE"}
    assert set(environment) - shells_own == {"PATH", "HOME", "TERM", "LANG", "GIVEN", "ALLOY_COMMAND_ID"}
    assert "value" not in arguments
    assert arguments[-5:] == ["--chdir", str(user.root), "bash", "-c", "pwd; exit 0"]
    assert "canary" not in str(calls())


@pytest.mark.parametrize("kind", ["podman", "docker"])
async def test_containers_are_told_to_show_the_folder_and_nothing_else(user, fake, kind, monkeypatch):
    calls = fake(kind)
    executor = SandboxExecutor(image="python:3", read_only=[user.root.parent / "room-two"])
    shell = Bash(executor=executor, env={"API_TOKEN": "canary"}, restricted=False)
    output = await user.output(shell, command="pwd; exit 3")
    assert output.text == f"{user.root}\n[exit code 3]"

    [[name, arguments, environment]] = calls()
    assert (name, arguments[0]) == (kind, "run")
    assert pairs(arguments, "--network", 1) == [["none"]]
    assert pairs(arguments, "--mount", 1) == [
        [f"type=bind,source={user.root.parent}/room-two,target={user.root.parent}/room-two,readonly"],
        [f"type=bind,source={user.root},target={user.root}"],
    ]
    assert pairs(arguments, "--env", 1) == [["TERM"], ["API_TOKEN"]]
    assert environment["API_TOKEN"] == "canary"
    assert "canary" not in " ".join(arguments)
    assert ("--user" in arguments) == (kind == "docker")
    assert arguments[-6:] == ["--workdir", str(user.root), "python:3", "bash", "-c", "pwd; exit 3"]


async def test_a_container_can_have_the_network(user, fake):
    calls = fake("podman")
    await user.text(Bash(executor=SandboxExecutor(network=True)), command="true")
    assert "--network" not in calls()[0][1]


async def test_a_container_that_is_not_wanted_any_more_is_removed(user, fake):
    """It would go on, if only the program that asked for it were ended."""
    calls = fake("docker")
    shell = Bash(executor=SandboxExecutor(), restricted=False)
    output = await user.output(shell, command="sleep 1000", timeout=1)
    assert output.data.timed_out
    [[_, run, _], [_, remove, _]] = calls()
    assert remove == ["rm", "--force", *pairs(run, "--name", 1)[0]]


async def test_a_container_is_removed_when_the_run_is_cancelled(user, fake):
    calls = fake("docker")
    shell = Bash(executor=SandboxExecutor(), restricted=False)
    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: user.output(shell, command="touch begun; sleep 1000"))
            while not (user.root / "begun").exists():  # noqa: ASYNC110  another process makes it
                await anyio.sleep(0.01)
            group.cancel_scope.cancel()
    assert [call[1][0] for call in calls()] == ["run", "rm"]


async def test_a_folder_that_a_container_can_not_be_given_is_refused(user, fake):
    fake("podman")
    (user.root / "a,b").mkdir()
    user.root = user.root / "a,b"
    with pytest.raises(ToolError, match="comma"):
        await user.output(Bash(executor=SandboxExecutor()), command="ls")


async def test_a_sandbox_is_no_reason_not_to_restrict(user, fake):
    calls = fake("bwrap")
    assert "refused" in await user.refusal(Bash(executor=SandboxExecutor()), command="cat /etc/passwd")
    assert calls() == []
