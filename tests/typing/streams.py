"""What a stream gives, as a type checker sees it."""

from __future__ import annotations

from typing import assert_type

import alloy


async def a_stream_gives_envelopes_or_text_and_then_a_result(config: alloy.Config) -> None:
    async with alloy.stream("Hi.", config) as run:
        assert_type(run, alloy.RunStream)
        async for envelope in run:
            assert_type(envelope, alloy.Envelope)
        async for text in run.text_deltas():
            assert_type(text, str)
        assert_type(await run.wait(), alloy.Result)
        assert_type(run.result, alloy.Result)


def an_event_that_does_not_exist_is_an_error(envelope: alloy.Envelope) -> bool:
    return envelope.event == "text"  # type: ignore[comparison-overlap]  # the assertion
