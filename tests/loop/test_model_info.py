"""What middleware can ask about the run's model."""

from __future__ import annotations

import threading

import anyio
import pytest

import alloy
from alloy.models import ModelInfo
from alloy.providers import Scripted
from alloy.testing import calls, run_script

pytestmark = pytest.mark.anyio


class Known:
    """A catalogue that remembers who asked for what, and on which thread."""

    def __init__(self, info=None):
        self.info = info
        self.asked = []
        self.threads = set()

    def find(self, provider, model):
        self.asked.append((provider, model))
        self.threads.add(threading.current_thread())
        return self.info


class Asks(alloy.Middleware):
    def __init__(self):
        self.answers = []

    async def before_completion(self, request, run):
        self.answers.append(await run.model_info())

    async def before_tool_call(self, call, run):
        self.answers.append(await run.model_info())


@alloy.tool
async def look() -> str:
    """Looks."""
    await anyio.lowlevel.checkpoint()
    return "seen"


async def test_middleware_learns_what_the_catalogue_knows_of_the_runs_model():
    catalogue = Known(ModelInfo(context_window=1000, max_output=10))
    asks = Asks()

    await run_script(["Hello."], middleware=[asks], model_catalogue=catalogue)

    assert asks.answers == [ModelInfo(context_window=1000, max_output=10)]
    assert catalogue.asked == [("scripted", "script")]


async def test_the_catalogue_is_asked_once_a_run_and_off_the_event_loop():
    catalogue = Known(ModelInfo(context_window=1000))
    asks = Asks()

    await run_script([calls("look"), "Done."], tools=[look], middleware=[asks], model_catalogue=catalogue)

    assert [info.context_window for info in asks.answers] == [1000] * 3
    assert len(catalogue.asked) == 1
    assert threading.current_thread() not in catalogue.threads


async def test_hooks_that_ask_at_the_same_time_share_one_question():
    class AsksTwice(alloy.Middleware):
        async def session_start(self, run):
            async with anyio.create_task_group() as group:
                group.start_soon(run.model_info)
                group.start_soon(run.model_info)

    catalogue = Known()

    await run_script(["Hello."], middleware=[AsksTwice()], model_catalogue=catalogue)

    assert len(catalogue.asked) == 1


async def test_a_run_in_which_nobody_asks_never_asks_the_catalogue():
    catalogue = Known()

    await run_script(["Hello."], middleware=[alloy.Middleware()], model_catalogue=catalogue)

    assert catalogue.asked == []


async def test_overrides_go_before_the_catalogue():
    asks = Asks()

    await run_script(
        ["Hello."],
        middleware=[asks],
        model_catalogue=Known(ModelInfo(context_window=1000, max_output=10)),
        model_metadata_overrides={"scripted:script": 32_000},
    )

    assert asks.answers == [ModelInfo(context_window=32_000, max_output=10)]


async def test_a_dated_snapshot_of_an_overridden_family_has_its_window():
    asks = Asks()
    provider = Scripted(["Hello."], model="my-model-2026-03-05")

    await alloy.run("Hi.", provider=provider, middleware=[asks], model_metadata_overrides={"my-model": 32_000})

    assert asks.answers[0].window == 32_000


async def test_an_unknown_model_reads_200_000_tokens():
    asks = Asks()

    await run_script(["Hello."], middleware=[asks])

    assert asks.answers == [ModelInfo()]
    assert asks.answers[0].window == 200_000


async def test_a_catalogue_that_breaks_fails_the_run_that_asks_with_its_own_error():
    class Broken:
        def find(self, provider, model):
            raise OSError("the catalogue is on another disk")

    with pytest.raises(alloy.RunError) as raised:
        await run_script(["Hello."], middleware=[Asks()], model_catalogue=Broken())

    assert str(raised.value.cause) == "the catalogue is on another disk"
