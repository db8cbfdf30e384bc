"""A match over how a run ended is exhaustive, and a type checker says so when one end is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, assert_never

if TYPE_CHECKING:
    import alloy


def every_end_is_known(result: alloy.Result) -> str:
    match result.status:
        case "completed" | "max_turns":
            return result.text
        case "halted" | "failed":
            return f"sorry: {result.error}"
        case "cancelled":
            return "as you wish"
        case _:
            assert_never(result.status)


def a_forgotten_end_is_an_error(result: alloy.Result) -> str:
    match result.status:  # type: ignore[exhaustive-match]  # the assertion
        case "completed" | "max_turns" | "halted" | "failed":
            return result.text
    return ""


def a_misspelt_end_is_an_error(result: alloy.Result) -> bool:
    return result.status == "complete"  # type: ignore[comparison-overlap]  # the assertion


def error_kinds_are_known(error: alloy.ProviderError) -> bool:
    return error.kind == "rate_limit"  # type: ignore[comparison-overlap]  # the assertion
