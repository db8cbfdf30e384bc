"""What tests of the bus share: envelopes, a reader's words, and two buses.

One bus is at the other end of a wire: what a networked one would be, with lines of JSON in place of a network.
"""

from __future__ import annotations

import json
import math
from contextlib import asynccontextmanager, nullcontext

import anyio
import pytest

from alloy.agents.bus import LocalBus
from alloy.agents.subscription import subscribe
from alloy.errors import CursorError
from alloy.events import Envelope


def local_bus(*, replay=512):
    """A bus as the library has it."""
    return nullcontext(LocalBus(replay=replay))


@asynccontextmanager
async def wire_bus(*, replay=512):
    """A client's bus, joined to a server's `LocalBus`."""
    to_server, server_in = anyio.create_memory_object_stream[bytes](math.inf)
    to_client, client_in = anyio.create_memory_object_stream[bytes](math.inf)
    client = WireBus(to_server)
    async with to_server, server_in, to_client, client_in, anyio.create_task_group() as group:
        group.start_soon(serve, LocalBus(replay=replay), server_in, to_client)
        group.start_soon(client.listen, client_in)
        yield client
        group.cancel_scope.cancel()


class WireBus:
    """The client's side; its listeners are on a `LocalBus` that keeps nothing, what is kept is the server's."""

    def __init__(self, wire):
        self._wire = wire
        self._local = LocalBus(replay=0)
        self._topics = set()
        self._newest = {}
        self._answers = {}

    def publish(self, topic, envelope):
        self._newest[topic] = max(self.newest(topic), envelope.seq)
        self._send(do="publish", topic=topic, envelope=json.loads(envelope.to_json()))

    def attach(self, topic, sink, on_close=None):
        if topic not in self._topics:
            self._topics.add(topic)
            self._send(do="attach", topic=topic)
        return self._local.attach(topic, sink, on_close)

    async def recent(self, topic, after):
        number = len(self._answers)
        answered = anyio.Event()
        self._answers[number] = answered
        self._send(do="recent", topic=topic, after=after, number=number)
        await answered.wait()
        answer = self._answers[number]
        if "oldest" in answer:
            raise CursorError(topic, after, answer["oldest"])
        return [Envelope(**envelope) for envelope in answer["envelopes"]]

    def newest(self, topic):
        return self._newest.get(topic, 0)

    def forget(self, topic):
        self._send(do="forget", topic=topic)

    def close(self, topic):
        self._send(do="close", topic=topic)

    def _send(self, **line):
        self._wire.send_nowait(json.dumps(line).encode())

    async def listen(self, wire):
        async for line in wire:
            said = json.loads(line)
            match said["do"]:
                case "publish":
                    self._local.publish(said["topic"], Envelope(**said["envelope"]))
                case "close":
                    self._topics.discard(said["topic"])
                    self._local.close(said["topic"])
                case "answer":
                    answered = self._answers[said["number"]]
                    self._answers[said["number"]] = said
                    answered.set()


async def serve(bus, wire, back):
    """The server's side."""

    def send(**line):
        back.send_nowait(json.dumps(line).encode())

    async for line in wire:
        asked = json.loads(line)
        topic = asked["topic"]
        match asked["do"]:
            case "publish":
                bus.publish(topic, Envelope(**asked["envelope"]))
            case "attach":
                bus.attach(
                    topic,
                    lambda each, topic=topic: send(do="publish", topic=topic, envelope=json.loads(each.to_json())),
                    lambda topic=topic: send(do="close", topic=topic),
                )
            case "recent":
                send(do="answer", number=asked["number"], **await answer(bus, topic, asked["after"]))
            case "forget":
                bus.forget(topic)
            case "close":
                bus.close(topic)


async def answer(bus, topic, after):
    """What is kept, or the cursor that would do."""
    try:
        return {"envelopes": [json.loads(each.to_json()) for each in await bus.recent(topic, after)]}
    except CursorError as error:
        return {"oldest": error.oldest}


every_bus = pytest.mark.parametrize("make_bus", [local_bus, wire_bus], ids=["local", "wire"])


def envelope(seq, event="text_delta", request_id="r1", *, turn=1, **payload):
    """An envelope of an agent's."""
    return Envelope(
        seq=seq, correlation_id=request_id, turn=turn, ts_ms=seq, event=event, payload=payload, agent_id="desk-1"
    )


def lagged(missed, first_seq, last_seq, request_id="r1"):
    """What a reader is told that missed something."""
    payload = {"missed": missed, "first_seq": first_seq, "last_seq": last_seq}
    return envelope(last_seq, "lagged", request_id, **payload)


def publish(bus, *seqs, topic="desk", event="text_delta", request_id="r1"):
    """Publishes envelopes of these numbers."""
    for seq in seqs:
        bus.publish(topic, envelope(seq, event, request_id))


async def arrived(bus):
    """Everything published until now has arrived: what is asked for afterwards is answered."""
    await bus.recent("another topic", None)


def numbers(envelopes):
    """Their numbers."""
    return [each.seq for each in envelopes]


def on(bus, **options):
    """A subscription."""
    return subscribe(bus, "desk", agent="desk-1", **options)


async def take(envelopes, count):
    """The numbers of the next envelopes."""
    with anyio.fail_after(5):
        return [(await anext(envelopes)).seq for _ in range(count)]


async def rest(envelopes):
    """The numbers of all envelopes until the end."""
    with anyio.fail_after(5):
        return [each.seq async for each in envelopes]


async def told(envelopes):
    """What the next envelope says, but for the time."""
    with anyio.fail_after(5):
        each = await anext(envelopes)
    return each.event, each.correlation_id, each.seq, dict(each.payload)


def a_loss(missed, first_seq, last_seq, request_id="r1"):
    """What `told` gives of a loss."""
    return "lagged", request_id, last_seq, {"missed": missed, "first_seq": first_seq, "last_seq": last_seq}
