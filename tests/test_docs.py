"""Documentation is true: its programs run and print what it says, its tables are complete and its links lead somewhere.

The blocks of a page marked ``python`` run in order, in one namespace and one event loop, with top-level ``await``. A block
marked ``text`` right behind one is what it prints. ``<!-- embedded -->`` on the line before a block says that it needs the
embedded model.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import dataclasses
import inspect
import io
import re
from pathlib import Path
from typing import Any, get_args

import pytest

import alloy
from alloy import errors, events, result

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<embedded><!-- embedded -->\n+)?```(?P<language>\w*)\n(?P<body>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclasses.dataclass
class Block:
    """A fenced block of a page."""

    line: int
    language: str
    body: str
    embedded: bool
    printed: str | None = None  # what the page says that it prints


def blocks(page: Path) -> list[Block]:
    """The blocks of a page; what a block of Python prints is with it."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = 0
    for match in FENCE.finditer(text):
        directly = not text[end : match.start()].strip()
        if match["language"] == "text" and found and found[-1].language == "python" and directly:
            found[-1].printed = match["body"]
        else:
            line = text.count("\n", 0, match.start("body"))
            found.append(Block(line, match["language"], match["body"], match["embedded"] is not None))
        end = match.end()
    return found


def programs(page: Path) -> list[Block]:
    """The blocks of a page that are Python."""
    return [block for block in blocks(page) if block.language == "python"]


def runs() -> list[object]:
    """Each page with Python, once without the blocks that need the embedded model and, if there are any, once with them."""
    params = []
    for page in PAGES:
        needs = {block.embedded for block in programs(page)}
        if False in needs:
            params.append(pytest.param(page, False, id=page.stem))
        if True in needs:
            params.append(pytest.param(page, True, id=f"{page.stem}, embedded", marks=pytest.mark.embedded))
    return params


async def execute(page: Path, *, embedded: bool) -> None:
    """Runs a page."""
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in programs(page):
        if block.embedded and not embedded:
            continue
        code = compile(
            "\n" * block.line + block.body,  # so that a traceback names the page's own lines
            str(page),
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            waiting = eval(code, namespace)
            if inspect.isawaitable(waiting):
                await waiting
            for name in [name for name in namespace if name.startswith("test_")]:
                test = namespace.pop(name)
                await (test() if inspect.iscoroutinefunction(test) else asyncio.to_thread(test))
        if block.printed is not None:
            assert output.getvalue().strip() == block.printed.strip(), f"{page.name}, line {block.line}"


@pytest.mark.parametrize(("page", "embedded"), runs())
def test_the_programs_of_a_page_run_and_print_what_it_says(page, embedded, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ALLOY_PROVIDER", raising=False)

    asyncio.run(execute(page, embedded=embedded))


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *PAGES[1:]], ids=lambda page: page.stem)
def test_links_between_pages_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path) if path else page
        assert there.exists(), target
        if anchor:
            assert anchor in anchors(there), target


def anchors(page: Path) -> set[str]:
    """What a page's headings can be linked by."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_what_the_readme_says_to_type_exists():
    lines = [line for block in blocks(ROOT / "README.md") if block.language == "sh" for line in block.body.splitlines()]
    checks = [line for line in lines if "nox" in line]
    files = re.findall(r"[\w/]+\.(?:py|md)\b", "\n".join(lines))

    assert checks
    assert set(checks) <= set((ROOT / ".ci" / "run").read_text().splitlines())
    assert [file for file in files if file.startswith(("examples/", "docs/")) and not (ROOT / file).exists()] == []


# --- Tables ----------------------------------------------------------------------------------------------------------


def table(page: str, heading: str) -> dict[str, list[str]]:
    """The rows of the first table under a heading: the name in the first column, with the other columns."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    section = text.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")]
    return {row[0].strip("`"): row[1:] for row in rows[2:]}


def test_every_option_is_in_the_table_with_its_default():
    documented = {name: row[0].strip("`") for name, row in table("run-and-stream.md", "Options").items()}
    config = alloy.Config()

    assert list(documented) == [field.name for field in dataclasses.fields(alloy.Config)]
    for name, default in documented.items():
        if name not in {"provider", "working_directory", "compaction"}:
            assert getattr(config, name) == ast.literal_eval(default), name


def test_every_status_and_every_stop_reason_is_in_a_table():
    assert list(table("run-and-stream.md", "How a run ends")) == list(get_args(result.Status))
    assert list(table("run-and-stream.md", "Why the model stopped")) == list(get_args(result.StopReason))


def test_the_page_about_events_has_the_catalogue_of_the_module():
    rows = re.findall(r"^(\w+) +(.*)$", re.split(r"^=+ =+$", events.__doc__, flags=re.MULTILINE)[2], re.MULTILINE)
    documented = table("events.md", "The catalogue")

    assert list(documented) == [name for name, _ in rows]
    for name, payload in rows:
        keys = re.sub(r" ?\([^)]*\)", "", payload)
        assert documented[name][1].replace("`", "") == keys.replace("and what belongs to it", "…"), name


def test_every_error_and_every_kind_of_provider_error_is_in_a_table():
    assert set(table("errors.md", "What to do")) == set(errors.__all__) - {"ErrorKind", "HistoryProblem"}
    assert list(table("errors.md", "Provider errors")) == list(get_args(errors.ErrorKind))


def test_every_hook_is_in_the_table_in_its_order():
    hooks = [name for name in vars(alloy.Middleware) if not name.startswith("_")]

    assert list(table("middleware.md", "Hooks")) == hooks
