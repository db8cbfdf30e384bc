"""What the tests of supervisors share."""

from __future__ import annotations

import anyio

import alloy
from alloy.agents.bus import LocalBus
from alloy.sessions import MemoryStore
from alloy.testing import Recorder, Scripted


class Melt(BaseException):
    """No Exception, so no part of a run may take it for one of its own errors."""


class Answers(alloy.Middleware):
    """Makes a model of itself: it answers by what it hears last.

    "melt" crashes the agent, "hang" never ends, "wait" waits for the gate, and anything else is repeated with the number of messages.
    """

    def __init__(self) -> None:
        self.hanging = anyio.Event()
        self.gate = anyio.Event()
        self.melting = True
        self.provider = Scripted([self._answer] * 10_000)

    def _answer(self, request):
        return f"{request.messages[-1].text.rpartition(' ')[2]} {len(request.messages)}"

    async def before_completion(self, request, run):
        word = request.messages[-1].text.rpartition(" ")[2]
        if word.startswith("melt") and self.melting:
            raise Melt("hot")
        if word == "hang":
            self.hanging.set()
            await anyio.sleep_forever()
        if word == "wait":
            self.hanging.set()
            await self.gate.wait()
        return request

    def config(self, **options) -> alloy.Config:
        """A configuration that answers like this."""
        return alloy.Config(
            **{"provider": self.provider, "middleware": [self], "max_retries": 0, "max_pending": 10, **options}
        )


class Watched(LocalBus):
    """A bus that remembers all that went over it."""

    def __init__(self) -> None:
        super().__init__()
        self.recorder = Recorder()
        self.topics: list[str] = []

    def publish(self, topic, envelope):
        self.topics.append(topic)
        self.recorder(envelope)
        super().publish(topic, envelope)

    def told(self, topic: str) -> list[dict]:
        """The runtime events of a topic."""
        return [
            dict(envelope.payload)
            for where, envelope in zip(self.topics, self.recorder.envelopes, strict=True)
            if where == topic and envelope.event == "runtime_event"
        ]

    def kinds(self, topic: str) -> list[str]:
        """Their kinds."""
        return [told["kind"] for told in self.told(topic)]

    def responses(self, topic: str) -> dict[str, str]:
        """How each request that was told of ended."""
        return {
            envelope.correlation_id: envelope.payload["status"]
            for where, envelope in zip(self.topics, self.recorder.envelopes, strict=True)
            if where == topic and envelope.event == "response"
        }


class Store(MemoryStore):
    """Fails when it is told to, and can be held up."""

    def __init__(self) -> None:
        super().__init__()
        self.load_fails: BaseException | None = None
        self.save_fails: BaseException | None = None
        self.loading = anyio.Event()
        self.let_load = anyio.Event()
        self.let_load.set()
        self.saving = anyio.Event()
        self.let_save = anyio.Event()
        self.let_save.set()
        self.loads = 0

    async def load(self, session_id):
        self.loads += 1
        self.loading.set()
        await self.let_load.wait()
        if self.load_fails is not None:
            raise self.load_fails
        return await super().load(session_id)

    async def save(self, session):
        self.saving.set()
        await self.let_save.wait()
        if self.save_fails is not None:
            raise self.save_fails
        return await super().save(session)


async def ended(agent: alloy.Agent, request_id: str) -> str:
    """How a request ended."""
    try:
        return (await agent.result(request_id)).status
    except alloy.RunError as error:
        return error.result.status
    except alloy.RequestCancelledError:
        return "cancelled"
