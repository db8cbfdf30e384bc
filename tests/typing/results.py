"""The type of a run's result is that of its `output_type`, as far as a type checker can name it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, assert_type

import alloy


@dataclass
class Invoice:
    """An invoice."""

    sender: str


async def a_class_is_the_type_of_the_result(config: alloy.Config) -> None:
    result = await alloy.run("Hi.", config, output_type=Invoice, max_turns=3)
    assert_type(result, alloy.Result[Invoice])
    assert_type(result.output, Invoice)
    assert_type((await alloy.run("Hi.", config, output_type=list[int])).output, list[int])
    assert_type((await alloy.run("Hi.", config, output_type=str)).output, str)


async def what_is_no_class_is_anything(config: alloy.Config) -> None:
    assert_type((await alloy.run("Hi.", config, output_type=Literal["a", "b"])).output, Any)
    assert_type((await alloy.run("Hi.", config, output_type=Invoice | int)).output, Any)
    assert_type((await alloy.run("Hi.", config)).output, Any)


async def a_stream_knows_it_too(config: alloy.Config) -> None:
    async with alloy.stream("Hi.", config, output_type=Invoice) as run:
        assert_type(run, alloy.RunStream[Invoice])
        async for value in run.partial_outputs():
            assert_type(value, Invoice)
        assert_type(run.result.output, Invoice)
        assert_type((await run.wait()).output, Invoice)


def a_result_of_a_type_is_a_result(result: alloy.Result[Invoice]) -> alloy.Result:
    return result


async def a_wrong_option_beside_a_type_is_an_error(config: alloy.Config) -> None:
    await alloy.run("Hi.", config, output_type=Invoice, max_turn=3)  # type: ignore[call-overload]  # the assertion
