"""Watching a run."""

from __future__ import annotations

from collections import Counter

import anyio
import pytest

import alloy
from alloy.errors import EmptyPromptError
from alloy.loop import run as run_module
from alloy.testing import Recorder, Reply, Scripted, calls, check_envelopes, hangs

pytestmark = pytest.mark.anyio


async def test_text_arrives_piece_by_piece_and_the_result_is_there_afterwards():
    async with alloy.stream("Hi.", provider=Scripted(["one two three"])) as run:
        pieces = [piece async for piece in run.text_deltas()]

    assert pieces == ["one ", "two ", "three"]
    assert run.result.text == "one two three"


async def test_iterating_gives_every_envelope():
    recorder = Recorder()
    async with alloy.stream("Hi.", provider=Scripted(["one two"]), on_event=recorder) as run:
        envelopes = [envelope async for envelope in run]

    check_envelopes(envelopes)
    assert envelopes == recorder.envelopes


async def test_run_and_stream_do_the_same():
    @alloy.tool
    async def add(a: int, b: int) -> int:
        """Adds."""
        return a + b

    script = [calls("add", a=1, b=2), "It is 3."]
    awaited = await alloy.run("1 + 2?", provider=Scripted(script), tools=[add])
    async with alloy.stream("1 + 2?", provider=Scripted(script), tools=[add]) as run:
        streamed = await run.wait()

    assert streamed.messages == awaited.messages
    assert (streamed.status, streamed.usage, streamed.turns) == (awaited.status, awaited.usage, awaited.turns)


async def test_leaving_early_cancels_the_run_and_keeps_what_was_seen():
    recorder = Recorder()
    with anyio.fail_after(5):
        async with alloy.stream("Hi.", provider=Scripted([hangs("Once upon a time")]), on_event=recorder) as run:
            async for piece in run.text_deltas():
                if piece == "time":
                    break

    assert run.result.status == "cancelled"
    assert run.result.messages[-1].interrupted
    assert run.result.messages[-1].text == "Once upon a time"
    alloy.check_history(run.result.messages)
    check_envelopes(recorder.envelopes)


async def test_a_failure_is_raised_at_the_end_of_the_iteration_as_it_is():
    error = alloy.ProviderError("overloaded", kind="overloaded")

    with pytest.raises(alloy.RunError) as caught:
        async with alloy.stream("Hi.", provider=Scripted([Reply(text="So", error=error)])) as run:
            async for _ in run:
                pass

    assert caught.value.cause is error
    assert run.result.status == "failed"


async def test_what_the_body_raises_comes_out_as_it_is():
    with pytest.raises(KeyError, match="mine"):
        async with alloy.stream("Hi.", provider=Scripted([hangs()])) as run:
            raise KeyError("mine")

    assert run.result.status == "cancelled"


async def test_bad_input_is_raised_on_entering_as_it_is():
    with pytest.raises(EmptyPromptError):
        async with alloy.stream(provider=Scripted(["no"])):
            pytest.fail("entered")


async def test_the_result_of_a_run_that_goes_on_is_an_error_that_says_what_to_do():
    async with alloy.stream("Hi.", provider=Scripted([hangs()])) as run:
        with pytest.raises(RuntimeError, match="await wait"):
            _ = run.result


async def test_a_slow_reader_holds_the_model_up(monkeypatch):
    monkeypatch.setattr(run_module, "BUFFER", 10)
    words = " ".join(str(number) for number in range(1000))
    script = Scripted([words])
    recorder = Recorder()

    async with alloy.stream("Count.", provider=script, on_event=recorder) as run:
        await anyio.wait_all_tasks_blocked()
        buffered = len(recorder.envelopes)
        text = "".join([piece async for piece in run.text_deltas()])

    assert buffered <= 11
    assert text == words


async def test_a_run_that_is_cancelled_by_its_watcher_tells_its_end():
    with anyio.fail_after(5):
        async with alloy.stream("Hi.", provider=Scripted([hangs("Once upon a time")])) as run:
            envelopes = []
            async for envelope in run:
                envelopes.append(envelope)
                if envelope.payload.get("text") == "time":
                    run.cancel()

    check_envelopes(envelopes)
    assert envelopes[-1].payload["status"] == "cancelled"
    assert run.result.messages[-1].text == "Once upon a time"
    assert run.result.turns == 0


async def test_cancelling_the_reader_cancels_the_run():
    with anyio.CancelScope() as scope:
        async with alloy.stream("Hi.", provider=Scripted([hangs("word")])) as run:
            async for _ in run.text_deltas():
                scope.cancel()

    assert scope.cancelled_caught
    assert run.result.status == "cancelled"


async def test_two_readers_share_the_envelopes_and_both_come_to_the_end():
    heard = []

    async with alloy.stream("Hi.", provider=Scripted(["one two three"])) as run:

        async def read() -> None:
            heard.extend([envelope.seq async for envelope in run])

        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(read)
                tasks.start_soon(read)

    assert sorted(heard) == list(range(1, len(heard) + 1))
    assert len(heard) > 5


async def test_who_stops_waiting_for_an_envelope_loses_none():
    async with alloy.stream("Hi.", provider=Scripted([hangs("one two")])) as run:
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            async for envelope in run:
                if envelope.payload.get("text") == "two":
                    scope.cancel()
        run.cancel()
        envelopes = [envelope async for envelope in run]

    assert scope.cancelled_caught
    assert [envelope.event for envelope in envelopes] == ["turn_end", "response"]


async def test_a_reader_with_much_to_read_lets_others_have_their_turn():
    turns = 0

    async def work() -> None:
        nonlocal turns
        while True:
            turns += 1
            await anyio.lowlevel.checkpoint()

    async with alloy.stream("Count.", provider=Scripted([" ".join(["word"] * 900)])) as run:
        await anyio.wait_all_tasks_blocked()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            seen = [turns async for _ in run.text_deltas()]
            tasks.cancel_scope.cancel()

    assert len(seen) == 900
    assert max(Counter(seen).values()) <= 64
