"""Where commands run: on this machine as they are, in a sandbox, or wherever you want."""

from __future__ import annotations

import os
import secrets
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeAlias, get_args, runtime_checkable

from alloy._tasks import last_words
from alloy.errors import InvalidOptionError, MissingExtraError, ToolError
from alloy.tools.process import Exit, run_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["Command", "Executor", "Exit", "LocalExecutor", "SandboxExecutor", "SandboxKind"]

SandboxKind: TypeAlias = Literal["bwrap", "podman", "docker"]
"""What a sandbox is made with."""

_INSTALL: Mapping[SandboxKind, str] = {
    "bwrap": "apt install bubblewrap",
    "podman": "apt install podman",
    "docker": "apt install docker.io",
}
_LAST_WORDS = 10.0
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store")
_SETTINGS = (
    "alternatives",
    "ld.so.cache",
    "ld.so.conf",
    "ld.so.conf.d",
    "passwd",
    "group",
    "nsswitch.conf",
    "localtime",
)
_ONLINE = ("resolv.conf", "hosts", "ssl", "ca-certificates", "pki")
_SANDBOXED = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/tmp",  # noqa: S108  the sandbox's own
    "TERM": "dumb",
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What is to be run.

    Attributes:
        text: the command, for bash.
        working_directory: where; absolute.
        allowed_paths: what else it may use.
        environment: all the variables that a command on this machine gets.
        given: those of them that were asked for by name, which a sandbox gets, too.
    """

    text: str
    working_directory: Path
    allowed_paths: tuple[Path, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    given: Mapping[str, str] = field(default_factory=dict, repr=False)


@runtime_checkable
class Executor(Protocol):
    """Runs commands."""

    async def execute(self, command: Command, output: Callable[[bytes], None]) -> Exit:
        """Runs a command to its end. When cancelled, it ends whatever it has begun, before it lets the cancellation through.

        Args:
            command: what to run.
            output: takes what the command writes, a piece at a time; may be called from any thread.

        Returns:
            How it ended.

        Raises:
            ToolError: it can't be run.
        """
        ...


class LocalExecutor:
    """Runs commands on this machine, with all that this process may do."""

    async def execute(self, command: Command, output: Callable[[bytes], None]) -> Exit:
        """Runs a command; see `Executor.execute`."""
        bash = shutil.which("bash", path=command.environment.get("PATH"))
        if bash is None:
            raise ToolError("there is no bash on this machine's PATH")
        return await run_processes(
            [bash, "-c", command.text],
            env=command.environment,
            cwd=command.working_directory,
            output=output,
            name="bash",
        )


class SandboxExecutor:
    """Runs each command in a sandbox of its own, which sees the working directory and little else.

    With bubblewrap (``bwrap``, Linux) the system's programs are there to be read, the working directory and the allowed paths to
    be written, and nothing else of the file system. With podman or docker it's an image's file system with the same folders in
    it. There is no network, unless allowed, and of the environment only what is asked for by name.

    Args:
        kind: what to make it with; by default the first that is installed.
        network: whether commands may use the network.
        read_only: further folders that commands can read.
        image: the image for podman and docker.

    Attributes:
        kind: what it's made with.

    Raises:
        MissingExtraError: it isn't installed; the message says how to.
        InvalidOptionError: there is no such kind.
    """

    def __init__(
        self,
        kind: SandboxKind | None = None,
        *,
        network: bool = False,
        read_only: Sequence[str | os.PathLike[str]] = (),
        image: str = "debian:stable-slim",
    ) -> None:
        if kind is not None and kind not in get_args(SandboxKind):
            raise InvalidOptionError("kind", f"one of {', '.join(get_args(SandboxKind))}", kind)
        kinds: tuple[SandboxKind, ...] = (kind,) if kind else get_args(SandboxKind)
        found = {each: program for each in kinds if (program := shutil.which(each))}
        if not found:
            why = f"no sandbox without {' or '.join(kinds)}, and this machine has none on its PATH"
            raise MissingExtraError(kinds[0], _INSTALL[kinds[0]], why=why)
        self.kind, self._program = next(iter(found.items()))
        self._network = network
        self._read_only = tuple(Path(os.path.realpath(path)) for path in read_only)
        self._image = image

    def __repr__(self) -> str:
        return f"<SandboxExecutor {self.kind}>"

    async def execute(self, command: Command, output: Callable[[bytes], None]) -> Exit:
        """Runs a command; see `Executor.execute`."""
        name = f"alloy-{secrets.token_hex(6)}"
        argv = self._bwrap(command) if self.kind == "bwrap" else self._container(command, name)
        ended = False
        try:
            result = await self._run(argv, command, output)
            ended = True
        finally:
            if not ended and self.kind != "bwrap":  # a container doesn't end with the program that asked for it
                remove = [self._program, "rm", "--force", name]
                await last_words(lambda: self._run(remove, command, lambda _: None), within=_LAST_WORDS)
        return result

    async def _run(self, argv: Sequence[str], command: Command, output: Callable[[bytes], None]) -> Exit:
        # The environment of bubblewrap is that of the sandbox, where its own process can be looked at.
        env = {**(_SANDBOXED if self.kind == "bwrap" else command.environment), **command.given}
        return await run_processes(argv, env=env, cwd=Path("/"), output=output, name="bash")

    def _bwrap(self, command: Command) -> list[str]:
        argv = [self._program, "--unshare-all", "--die-with-parent", "--new-session"]
        argv += ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]  # noqa: S108  the sandbox's own
        settings = (*_SETTINGS, *(_ONLINE if self._network else ()))
        for system in (*_SYSTEM, *(f"/etc/{name}" for name in settings)):
            argv += ["--ro-bind-try", system, system]
        if self._network:
            argv += ["--share-net"]
        for path in self._read_only:
            argv += ["--ro-bind", str(path), str(path)]
        for path in _real(command):
            argv += ["--bind", str(path), str(path)]
        return [*argv, "--chdir", str(next(_real(command))), "bash", "-c", command.text]

    def _container(self, command: Command, name: str) -> list[str]:
        argv = [self._program, "run", "--rm", "--init", "--name", name]
        argv += ["--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
        if not self._network:
            argv += ["--network", "none"]
        if self.kind == "docker":
            argv += ["--user", f"{os.getuid()}:{os.getgid()}"]
        for path in self._read_only:
            argv += ["--mount", _mount(path) + ",readonly"]
        for path in _real(command):
            argv += ["--mount", _mount(path)]
        for variable in ("TERM", *command.given):
            argv += ["--env", variable]  # its value comes from the program's environment, where nobody else sees it
        return [*argv, "--workdir", str(next(_real(command))), self._image, "bash", "-c", command.text]


def _real(command: Command) -> Iterator[Path]:
    for path in (command.working_directory, *command.allowed_paths):
        yield Path(os.path.realpath(path))


def _mount(path: Path) -> str:
    if "," in str(path) or '"' in str(path):
        raise ToolError(f"a container can't be given {str(path)!r}, which has a comma or a quote in its name")
    return f"type=bind,source={path},target={path}"
