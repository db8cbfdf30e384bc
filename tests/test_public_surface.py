"""What users write against: names, words and documentation that don't change by accident."""

from __future__ import annotations

import ast
import dataclasses
import importlib
import inspect
import pkgutil
import re
from pathlib import Path
from typing import get_args

import anyio.lowlevel
import pytest

import alloy
from alloy import errors, events, result
from alloy.loop import config
from alloy.testing import Recorder, Reply, calls, run_script

PACKAGE = Path(alloy.__file__).parent
MODULES = ["alloy", *(module.name for module in pkgutil.walk_packages(alloy.__path__, "alloy."))]

EVENT_NAMES = [
    "approval_requested",
    "approval_settled",
    "compaction",
    "lagged",
    "message",
    "request_cancelled",
    "request_queued",
    "response",
    "retry",
    "run_start",
    "runtime_event",
    "text_delta",
    "thinking_delta",
    "tool_call_delta",
    "tool_end",
    "tool_progress",
    "tool_start",
    "turn_end",
    "turn_start",
]
STATUSES = ["completed", "max_turns", "halted", "cancelled", "failed"]
STOP_REASONS = [
    "end_turn",
    "tool_use",
    "max_tokens",
    "stop_sequence",
    "pause_turn",
    "refusal",
    "context_window",
    "unknown",
]
ERROR_KINDS = [
    "rate_limited",
    "overloaded",
    "server_error",
    "timeout",
    "network",
    "context_overflow",
    "quota",
    "auth",
    "invalid_request",
    "refused",
    "unknown",
]
RETRYABLE = ["rate_limited", "overloaded", "server_error", "timeout", "network"]
EXCEPTIONS = {
    "AlloyError": ["Exception"],
    "ConfigurationError": ["AlloyError", "ValueError"],
    "UnknownOptionError": ["ConfigurationError", "TypeError"],
    "InvalidOptionError": ["ConfigurationError"],
    "UnknownProviderError": ["ConfigurationError"],
    "MissingKeyError": ["ConfigurationError"],
    "MissingExtraError": ["ConfigurationError", "ImportError"],
    "ToolDefinitionError": ["ConfigurationError"],
    "UnknownPriceError": ["ConfigurationError"],
    "EmptyPromptError": ["ConfigurationError"],
    "HistoryError": ["AlloyError", "ValueError"],
    "ProviderError": ["AlloyError"],
    "ToolError": ["AlloyError"],
    "AgentDepthError": ["ToolError"],
    "Halt": ["AlloyError"],
    "BudgetExceededError": ["Halt"],
    "MCPServerError": ["AlloyError"],
    "DeadlineExceededError": ["AlloyError", "TimeoutError"],
    "OutputError": ["AlloyError"],
    "RunError": ["AlloyError"],
    "RequestCancelledError": ["AlloyError"],
    "ApprovalError": ["AlloyError"],
    "UnknownApprovalError": ["ApprovalError", "LookupError"],
    "ApprovalSettledError": ["ApprovalError"],
    "SessionError": ["AlloyError"],
    "SessionConflictError": ["SessionError"],
    "AgentError": ["AlloyError"],
    "AgentBusyError": ["AgentError"],
    "QueueFullError": ["AgentError"],
    "AgentClosedError": ["AgentError"],
    "AgentQuarantinedError": ["AgentClosedError"],
    "AgentCrashedError": ["AgentError"],
    "AgentExistsError": ["AgentError"],
    "UnknownAgentError": ["AgentError", "LookupError"],
    "UnknownRequestError": ["AgentError", "LookupError"],
    "RequestConflictError": ["AgentError"],
    "RequestSettledError": ["AgentError"],
    "AgentDeadlockError": ["AgentError"],
    "WrongEventLoopError": ["AgentError", "RuntimeError"],
    "CursorError": ["AgentError", "LookupError"],
}


# --- The top level ---------------------------------------------------------------------------------------------------


def test_the_public_names_are_sorted_and_few():
    assert alloy.__all__ == sorted(alloy.__all__)
    assert len(alloy.__all__) <= 48


def test_every_public_name_resolves_to_what_type_checkers_see():
    seen_by_checkers = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.partition(".")[0] == "alloy":
            for name in node.names:
                assert name.asname == name.name  # the explicit form of a re-export
                seen_by_checkers[name.name] = node.module

    assert sorted(seen_by_checkers) == alloy.__all__
    for name, module in seen_by_checkers.items():
        assert getattr(alloy, name) is getattr(importlib.import_module(module), name), name
    assert set(alloy.__all__) <= set(dir(alloy))


def test_the_version_is_that_of_the_installed_package():
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", alloy.__version__)


def test_a_name_that_does_not_exist_is_an_attribute_error_that_says_so():
    with pytest.raises(AttributeError, match="'alloy' has no attribute 'sprint'"):
        _ = alloy.sprint


@pytest.mark.parametrize("name", MODULES)
def test_every_name_that_a_module_announces_is_there(name):
    module = importlib.import_module(name)

    announced = getattr(module, "__all__", [])

    assert len(set(announced)) == len(announced)
    assert [missing for missing in announced if not hasattr(module, missing)] == []


# --- Frozen words ----------------------------------------------------------------------------------------------------


def test_event_names_are_frozen():
    assert list(events.EVENT_NAMES) == EVENT_NAMES


def test_statuses_and_stop_reasons_are_frozen():
    assert list(get_args(result.Status)) == STATUSES
    assert list(get_args(result.StopReason)) == STOP_REASONS


def test_error_kinds_are_frozen_and_so_is_which_of_them_are_worth_another_try():
    assert list(get_args(errors.ErrorKind)) == ERROR_KINDS
    assert [kind for kind in ERROR_KINDS if errors.ProviderError("", kind=kind).retryable] == RETRYABLE


def test_the_exceptions_and_their_ancestors_are_frozen():
    classes = {
        name: [base.__name__ for base in value.__bases__]
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, Exception)
    }

    assert classes == EXCEPTIONS
    assert set(classes) <= set(errors.__all__)


def test_the_tree_in_the_documentation_of_the_errors_is_the_tree():
    drawn = {}
    path = []
    for line in errors.__doc__.splitlines():
        if match := re.match(r"((?:[│ ] {3})*)(├── |└── |)(\w+)(?: \((\w+)\))?(?: |$)", line):
            indent, branch, name, extra = match.groups()
            if not branch and name != "AlloyError":
                continue
            depth = len(indent) // 4 + bool(branch)
            path[depth:] = [name]
            drawn[name] = [path[depth - 1] if depth else "Exception", *([extra] if extra else [])]

    assert drawn == EXCEPTIONS


# --- Options ---------------------------------------------------------------------------------------------------------


def test_options_are_the_same_for_editors_for_the_checks_and_for_config():
    fields = [field.name for field in dataclasses.fields(alloy.Config)]
    documented = re.findall(r"^ {4}(\w+): ", inspect.getdoc(alloy.Config), re.MULTILINE)

    assert list(config.Options.__annotations__) == fields
    assert list(config._CHECKS) == fields
    assert [name for name in documented if name in fields] == fields


def test_a_config_can_be_made_again_out_of_its_own_values():
    made = alloy.Config(system_prompt="Be brief.", timeout=3)

    assert made.with_options(max_turns=3).with_options(max_turns=made.max_turns) == made


# --- Envelopes -------------------------------------------------------------------------------------------------------


def catalogue() -> dict[str, set[str]]:
    """Each event of the table in the documentation of alloy.events, with the keys of its payload."""
    table = re.split(r"^=+ =+$", events.__doc__, flags=re.MULTILINE)[2]
    rows = re.findall(r"^(\w+) +(.*)$", table, re.MULTILINE)
    return {name: set(re.findall(r"\w+(?=,|$)", re.sub(r" ?\([^)]*\)", "", keys))) for name, keys in rows}


def test_the_catalogue_names_every_event_and_no_other():
    assert sorted(catalogue()) == EVENT_NAMES


@alloy.tool
async def work(context: alloy.ToolContext) -> str:
    """Works, tells of it, and asks."""
    context.report("half way")
    assert not await context.ask("to be sure")
    await anyio.lowlevel.checkpoint()
    return "done"


class Shortens(alloy.Middleware):
    async def on_context_overflow(self, error, messages, run):
        return [alloy.Message("user", (alloy.TextBlock("In short?"),))]


@pytest.mark.anyio
async def test_envelopes_carry_what_the_catalogue_says():
    recorder = Recorder()
    busy = alloy.ProviderError("busy", kind="overloaded")
    too_long = alloy.ProviderError("too long", kind="context_overflow")

    await run_script(
        [busy, too_long, Reply(thinking="Hm.", text="Wait.", tool_calls=calls("work").tool_calls), "Done."],
        tools=[work],
        middleware=[Shortens()],
        on_event=recorder,
        max_retries=1,
        retry_backoff=0,
    )

    documented = catalogue()
    carried = {envelope.event: set(envelope.payload) for envelope in recorder.envelopes}
    assert carried == {name: documented[name] for name in carried}
    of_agents = {"lagged", "message", "request_cancelled", "request_queued"}
    assert set(EVENT_NAMES) - set(carried) - of_agents == {"runtime_event"}


# --- Documentation ---------------------------------------------------------------------------------------------------


def undocumented(module: object) -> list[str]:
    """Public classes, functions, methods and properties of a module that have no docstring."""
    found = []
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if (inspect.isclass(value) or inspect.isroutine(value)) and not value.__doc__:
            found.append(f"{module.__name__}.{name}")
        if inspect.isclass(value):
            found += [f"{module.__name__}.{name}.{method}" for method in undocumented_methods(value)]
    return found


def undocumented_methods(cls: type) -> list[str]:
    return [
        name
        for name, value in vars(cls).items()
        if not name.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property) or hasattr(value, "func"))
        and not inspect.getdoc(value)
    ]


@pytest.mark.parametrize("name", MODULES)
def test_everything_public_is_documented(name):
    module = importlib.import_module(name)

    assert module.__doc__ or not Path(module.__file__).read_text()
    assert undocumented(module) == []
