"""The watchdog: who blocks the event loop is named while it blocks, and told once when the loop runs again."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.agents import watchdog
from alloy.agents.watchdog import Watchdog
from alloy.testing import Scripted, calls

pytestmark = pytest.mark.anyio

SOON = 0.2  # seconds: the threshold in these tests, which no test takes between two awaits without wanting to
LIMIT = 20  # seconds for which a test may block at most


class Barks(logging.Handler):
    """Counts the warnings, and lets the loop go at one of them."""

    def __init__(self) -> None:
        super().__init__()
        self.heard = threading.Event()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "event loop" in record.getMessage():
            self.messages.append(record.getMessage())
            self.heard.set()


@pytest.fixture
def barks():
    handler = Barks()
    logging.getLogger("alloy").addHandler(handler)
    yield handler
    logging.getLogger("alloy").removeHandler(handler)


class Ears:
    """What a watchdog tells, and a way to wait for it."""

    def __init__(self) -> None:
        self.blocks: list[watchdog.Block] = []
        self.told = anyio.Event()

    def __call__(self, block: watchdog.Block) -> None:
        self.blocks.append(block)
        self.told.set()


def blocks_until(event: threading.Event) -> None:
    """Blocks the calling thread."""
    assert event.wait(LIMIT)


async def test_p7_a_tool_that_blocks_the_loop_is_named_while_it_does_and_told_afterwards(barks):
    async def careless() -> str:
        """Blocks."""
        barks.heard.clear()
        blocks_until(barks.heard)
        return "done"

    provider = Scripted([calls("careless"), "ok"])
    with anyio.fail_after(LIMIT):
        async with alloy.Supervisor(watchdog=SOON) as supervisor, supervisor.subscribe() as envelopes:
            agent = await supervisor.start("desk", provider=provider, tools=[alloy.tool(careless)])
            assert (await agent.chat("Go")).text == "ok"
            async for told in envelopes:
                if told.payload["frame"].startswith(__file__):  # and not an import on a slow machine
                    break
    lines, first = inspect.getsourcelines(careless)
    line = first + next(number for number, text in enumerate(lines) if "blocks_until" in text)
    said = next(message for message in barks.messages if told.payload["frame"] in message)
    assert told.event == "runtime_event"
    assert told.payload["kind"] == "loop_blocked"
    assert told.payload["seconds"] >= SOON
    assert told.payload["frame"].startswith(f"{__file__}:{line} ")
    assert told.payload["frame"].endswith("careless")
    assert "blocks_until < " in said.partition("Innermost first: ")[2]  # where exactly


async def test_a_block_is_told_once_however_long_it_is(barks):
    class Counts(threading.Event):
        """Counts how often it was waited for."""

        count = 0
        enough = threading.Event()

        def wait(self, timeout=None):
            self.count += 1
            if self.count == 5:
                self.enough.set()
            return super().wait(timeout)

    ears = Ears()
    dog = Watchdog(SOON, ears)
    dog._alive = Counts()
    dog.start()
    blocks_until(dog._alive.enough)
    with anyio.fail_after(LIMIT):
        await ears.told.wait()
        await dog.stop()
    assert (len(barks.messages), len(ears.blocks)) == (1, 1)
    assert ears.blocks[0].seconds >= 4 * SOON


async def test_each_block_is_told(barks):
    ears = Ears()
    dog = Watchdog(SOON, ears)
    dog.start()
    with anyio.fail_after(LIMIT):
        for _ in range(3):
            ears.told = anyio.Event()
            blocks_until(barks.heard)
            await ears.told.wait()
            barks.heard.clear()
        await dog.stop()
    assert (len(barks.messages), len(ears.blocks)) == (3, 3)


async def test_a_loop_that_runs_is_never_suspected(barks):
    ears = Ears()
    dog = Watchdog(LIMIT, ears)
    dog.start()
    async with asyncio.timeout(LIMIT):
        for _ in range(1000):
            await anyio.lowlevel.checkpoint()
    await dog.stop()
    assert (barks.messages, ears.blocks) == ([], [])


async def test_p4_the_thread_ends_with_the_supervisor_even_while_its_pause_lasts(answers):
    before = set(threading.enumerate())
    with anyio.fail_after(LIMIT):
        async with alloy.Supervisor(watchdog=1e6):
            assert [thread.name for thread in set(threading.enumerate()) - before] == ["alloy watchdog"]
            assert all(thread.daemon for thread in set(threading.enumerate()) - before)
    assert set(threading.enumerate()) <= before


async def test_p4_the_thread_ends_when_the_block_is_left_by_an_exception_or_a_cancellation():
    before = set(threading.enumerate())
    with pytest.raises(ValueError, match="mine"):
        async with alloy.Supervisor():
            raise ValueError("mine")
    with anyio.CancelScope() as scope:
        async with alloy.Supervisor():
            scope.cancel()
            await anyio.lowlevel.checkpoint()
    assert set(threading.enumerate()) <= before


def test_p4_the_thread_ends_with_a_loop_that_was_closed_without_a_word():
    before = set(threading.enumerate())

    async def start():
        Watchdog(SOON, Ears()).start()

    asyncio.run(start())
    for thread in set(threading.enumerate()) - before:
        thread.join(LIMIT)
    assert set(threading.enumerate()) <= before


async def test_without_a_threshold_there_is_no_thread():
    before = set(threading.enumerate())
    async with alloy.Supervisor(watchdog=None):
        assert set(threading.enumerate()) <= before


async def test_a_block_that_nobody_could_look_at_is_told_without_a_culprit(barks, monkeypatch):
    """As when C code keeps the interpreter's lock, so that the watchdog comes too late, too."""
    ears = Ears()
    dog = Watchdog(SOON, ears)
    times = iter([0.0, 7.0])
    monkeypatch.setattr(watchdog.time, "monotonic", lambda: next(times, 7.0))
    answer = threading.Thread(target=dog._watch_a_round)
    answer.start()
    with anyio.fail_after(LIMIT):
        await ears.told.wait()
    answer.join(LIMIT)
    assert ears.blocks == [watchdog.Block(7.0, None)]
    assert "7 s" in barks.messages[0]


# --- who is named ---------------------------------------------------------------------------------------------------------

FRAMEWORK = watchdog._FRAMEWORKS[0] + "loop/run.py"
LOOP = asyncio.__file__


@pytest.mark.parametrize(
    ("files", "culprit"),
    [
        (["app.py", FRAMEWORK, LOOP], "app.py"),
        (["socket.py", "requests.py", "app.py", FRAMEWORK, "other.py", LOOP], "app.py"),
        ([FRAMEWORK, FRAMEWORK, LOOP], FRAMEWORK),
        ([FRAMEWORK, "app.py", LOOP], "app.py"),
        (["app.py"], "app.py"),
    ],
)
def test_the_culprit_is_the_function_that_a_framework_called(files, culprit):
    assert watchdog._culprit([(file, 1, "function") for file in files])[0] == culprit


def test_a_folder_that_only_begins_like_a_frameworks_is_the_users():
    assert watchdog._culprit([(FRAMEWORK, 1, "f"), (str(Path(alloy.__file__).parent) + "_app/x.py", 2, "g")])[1] == 2


async def test_what_blocks_without_a_function_of_its_own_is_told_with_who_called_it(barks):
    ears = Ears()
    dog = Watchdog(SOON, ears)
    dog.start()
    lock = threading.Lock()
    lock.acquire()
    barks.heard.set = lock.release
    asyncio.get_running_loop().call_soon(lock.acquire, True, LIMIT)
    with anyio.fail_after(LIMIT):
        await ears.told.wait()
        await dog.stop()
    assert "events.py" in ears.blocks[0].frame
