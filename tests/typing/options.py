"""Options are known to type checkers: all of them, and no others. An unused ignore is an error, so each is an assertion."""

from __future__ import annotations

from typing import Literal, assert_type

import alloy


@alloy.tool
async def weather(city: str, unit: Literal["c", "f"] = "c") -> str:
    """Current weather."""
    return f"{city}: 20 {unit}"


def watch(envelope: alloy.Envelope) -> None:
    envelope.to_json()


async def every_option_is_taken(provider: alloy.testing.Scripted) -> None:
    config = alloy.Config(
        provider=provider,
        tools=[weather],
        system_prompt="Be brief.",
        messages=[alloy.Message("user", (alloy.TextBlock("Hi."),))],
        max_turns=3,
        middleware=[alloy.Middleware()],
        working_directory=".",
        context={"user": "ada"},
        until_tool="weather",
        timeout=60,
        tool_timeout=5.0,
        max_result_bytes=1000,
        on_event=watch,
        fallback_providers=["local", provider],
        max_retries=2,
        retry_backoff=0.5,
        max_budget=0.5,
        model_metadata_overrides={
            "my-model": 32_000,
            "gpt-9": alloy.models.ModelMetadata(max_output=64_000),
            "gpt-10": {"context_window": 2_000_000, "patterns": [r"-v\d"]},
        },
        model_catalogue=alloy.models.GenaiPrices(),
    )
    assert_type(config.with_options(max_turns=2), alloy.Config)
    assert_type(await alloy.run("Hi.", config, provider="openai:gpt-5", max_turns=2), alloy.Result)


async def a_wrong_option_is_an_error(config: alloy.Config) -> None:
    await alloy.run("Hi.", config, max_turn=3)  # type: ignore[call-overload]  # the assertion
    await alloy.run("Hi.", config, max_turns="3")  # type: ignore[call-overload]  # the assertion
    await alloy.run("Hi.", config, tools=[print])  # type: ignore[list-item]  # the assertion
    await alloy.run(3, config)  # type: ignore[call-overload]  # the assertion
    alloy.stream("Hi.", config, on_event=a_wrong_option_is_an_error)  # type: ignore[arg-type]  # the assertion
    alloy.Config(verbose=True)  # type: ignore[call-arg]  # the assertion


def values_are_immutable(config: alloy.Config, result: alloy.Result) -> None:
    config.max_turns = 3  # type: ignore[misc]  # the assertion
    result.text = ""  # type: ignore[misc]  # the assertion
