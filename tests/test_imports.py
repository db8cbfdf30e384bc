"""What an import costs: these lists are the whole of what comes along, and grow only on purpose."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOOP = {
    "alloy",
    "alloy._ids",
    "alloy._memo",
    "alloy._quick",
    "alloy._secrets",
    "alloy._tasks",
    "alloy.errors",
    "alloy.events",
    "alloy.history",
    "alloy.loop",
    "alloy.loop.answering",
    "alloy.loop.asking",
    "alloy.loop.channel",
    "alloy.loop.compaction",
    "alloy.loop.compactor",
    "alloy.loop.config",
    "alloy.loop.conversation",
    "alloy.loop.desk",
    "alloy.loop.goal",
    "alloy.loop.listening",
    "alloy.loop.middleware",
    "alloy.loop.prefix",
    "alloy.loop.run",
    "alloy.loop.seat",
    "alloy.loop.step",
    "alloy.loop.toolrun",
    "alloy.loop.turn",
    "alloy.loop.turns",
    "alloy.messages",
    "alloy.providers",
    "alloy.providers.base",
    "alloy.providers.batches",
    "alloy.providers.retry",
    "alloy.result",
    "alloy.tools",
    "alloy.tools.base",
    "alloy.tools.compact",
    "alloy.tools.decision",
    "alloy.tools.docstring",
    "alloy.tools.functions",
    "alloy.usage",
}
ANYIO = {"anyio", "sniffio", "typing_extensions"}  # anyio and what it takes, which differs between versions
SOME_TOOL = '''
@alloy.tool
def add(a: int, b: int) -> int:
    """Adds."""
    return a + b
'''
A_RUN = """
import asyncio
asyncio.run(alloy.testing.run_script(["Hello."], tools=[]))
"""


def imported_by(code: str) -> tuple[set[str], set[str]]:
    """The modules of Alloy, and the top-level modules of others, that a new interpreter has after running `code`."""
    program = f"import sys\nbefore = set(sys.modules)\nimport alloy\n{code}\nprint(*set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    modules = set(done.stdout.split())
    ours = {name for name in modules if name.partition(".")[0] == "alloy"}
    others = {name.partition(".")[0] for name in modules - ours} - sys.stdlib_module_names - {"alloy", "__mp_main__"}
    return ours, others


def test_importing_alloy_imports_nothing_else():
    assert imported_by("") == ({"alloy"}, set())


def test_what_run_brings_is_the_loop_and_anyio():
    ours, others = imported_by("alloy.run")

    assert ours == LOOP
    assert "anyio" in others
    assert others <= ANYIO


@pytest.mark.parametrize("name", ["AlloyError", "Message", "Result", "Usage", "Envelope", "check_history"])
def test_words_alone_bring_nothing_of_others(name):
    ours, others = imported_by(f"alloy.{name}")

    assert ours < LOOP
    assert others == set()


def test_a_whole_run_against_a_script_needs_no_http_and_no_pydantic():
    _, others = imported_by(A_RUN)

    assert others <= ANYIO | {"pydantic_core"}


def test_a_run_that_asks_nothing_about_models_does_not_bring_what_is_known_of_them():
    ours, _ = imported_by(A_RUN)

    assert {name for name in ours if name.startswith("alloy.models")} == set()


def test_overriding_what_is_known_of_a_model_brings_no_catalogue():
    ours, others = imported_by('alloy.Config(model_metadata_overrides={"gpt-9": 32_000})')

    assert "alloy.models" in ours
    assert others <= ANYIO


def test_a_tool_made_of_a_function_brings_pydantic_but_no_http():
    _, others = imported_by(SOME_TOOL)

    assert "pydantic" in others
    assert others.isdisjoint({"httpx", "tiktoken", "genai_prices", "rich", "click", "xllamacpp"})
