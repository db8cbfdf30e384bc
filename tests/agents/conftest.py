"""What the tests of agents share."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

import alloy
from alloy.testing import Recorder, Scripted
from tests.agents.supervising import Answers, Store, Watched


def make_agent(*script, **options) -> alloy.Agent:
    """An agent that answers from a script and tries nothing again."""
    options.setdefault("provider", Scripted(script))
    return alloy.Agent(max_retries=0, **options)


async def wait_until(condition) -> None:
    """Lets everybody else go on until something is so."""
    with anyio.fail_after(5):
        while not condition():
            await anyio.lowlevel.checkpoint()


class Gate:
    """A tool that waits until it is let through."""

    def __init__(self) -> None:
        self.reached = anyio.Event()
        self.opened = anyio.Event()
        self.tool = alloy.tool(self._wait, name="gate")

    async def _wait(self) -> str:
        """Waits."""
        self.reached.set()
        await self.opened.wait()
        return "through"


class Watcher(Recorder):
    """Keeps what an agent tells, and picks from it."""

    def of(self, request_id: str) -> list[str]:
        """The events of one request, without the pieces of text."""
        return [
            envelope.event
            for envelope in self.envelopes
            if envelope.correlation_id == request_id and envelope.event != "text_delta"
        ]

    @property
    def responses(self) -> list[tuple[str, str]]:
        """How each request ended, in order."""
        return [(envelope.correlation_id, envelope.payload["status"]) for envelope in self.named("response")]

    @property
    def kinds(self) -> list[str]:
        """The kinds of runtime events."""
        return [envelope.payload["kind"] for envelope in self.named("runtime_event")]


@pytest.fixture
def make():
    return make_agent


@pytest.fixture
def until():
    return wait_until


@pytest.fixture
async def gate() -> Gate:
    return Gate()


@pytest.fixture
def watcher() -> Watcher:
    return Watcher()


@pytest.fixture
async def answers() -> Answers:
    return Answers()


@pytest.fixture
async def store() -> Store:
    return Store()


@pytest.fixture
def bus() -> Watched:
    return Watched()


@pytest.fixture
async def supervising(bus):
    """Makes supervisors on the bus, without a thread."""

    def make(**options) -> alloy.Supervisor:
        return alloy.Supervisor(**{"bus": bus, "watchdog": None, **options})

    return make
