"""The world around an agent, in which everything can take long or fail: its provider, its tools, and its store."""

from __future__ import annotations

import itertools
from contextlib import aclosing, asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any, Self

import anyio

import alloy
from alloy.errors import ProviderError, SessionConflictError, SessionError
from alloy.messages import Message, TextBlock, ToolUseBlock
from alloy.providers import Retrying
from alloy.providers.base import Completion, TextDelta, ToolCallDelta
from alloy.sessions.base import check_owner, saved
from alloy.usage import Usage
from tests.agents.model_reference import Answer, Asked, Called, check_messages, plain
from tests.agents.model_script import RETRIES, TOOL_TIMEOUT, Turn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from alloy.sessions import Session
    from tests.agents.model import World


TIMED_OUT = f"Timed out after {TOOL_TIMEOUT:g} seconds. It may or may not have taken effect."


class Crash(BaseException):
    """What isn't an error of a request's."""


class Planned:
    """A provider that answers as each prompt's plan says."""

    model = "plan"

    def __init__(self, world: World, name: str) -> None:
        self.name = name
        self.held = 0
        self._world = world

    async def __aenter__(self) -> Self:
        if self.held == 0:
            await anyio.sleep(self._world.setting.connect)
        self.held += 1
        return self

    async def __aexit__(self, *error: object) -> None:
        self.held -= 1

    @asynccontextmanager
    async def stream(self, request: Any) -> AsyncIterator[AsyncIterator[Any]]:
        with self._world.watching():
            asked, turn = self._asked_for(request)
        async with aclosing(self._items(asked, turn, stream=request.stream)) as items:
            yield items

    def _asked_for(self, request: Any) -> tuple[Asked, Turn]:
        """Which turn of which request this is; what is sent must be the history and the prompt."""
        reference = self._world.reference
        asked = reference.running
        assert asked is not None, "a provider was asked while no request ran"
        assert self.held > 0, "a provider was asked that nobody holds"
        history = reference.history
        if not asked.said:
            last = history[-1] if history else []
            joins = last and last[0] == "user" and isinstance(last[-1], str)
            history = [*history[:-1], [*last, asked.text]] if joins else [*history, ["user", asked.text]]
        check_messages(request.messages, [history], "what was sent")
        asked.answer = Answer()
        return asked, asked.turn(asked.answers)

    async def _items(self, asked: Asked, turn: Turn, *, stream: bool) -> AsyncIterator[Any]:
        answer = asked.answer
        assert answer is not None
        await anyio.sleep(turn.wait)
        if asked.attempts < turn.failures:
            asked.attempts += 1
            raise ProviderError("too much to do", kind="overloaded", usage=self._pay(asked, 1, 0))
        for number in range(turn.words if turn.end != "blank" else 0):
            if stream:
                answer.text += f"{number} "
                yield TextDelta(f"{number} ")
                await anyio.sleep(turn.wait / 4)
        match turn.end:
            case "fails" | "breaks":
                raise ProviderError("it broke", kind="invalid_request" if turn.end == "fails" else "overloaded")
            case "hangs":
                await anyio.sleep_forever()
            case "crashes":
                self._world.crash()
                raise Crash(asked.id)
            case _:
                pass
        called = [Called(self._world.new_call(), call) for call in turn.calls if turn.end == "done"]
        blocks = tuple(ToolUseBlock(one.id, "alone" if one.call.alone else "work", {"key": one.id}) for one in called)
        for index, block in enumerate(blocks):
            if stream:
                yield ToolCallDelta(index, block.id, block.name, "{}")
        self._world.calls.update({one.id: one for one in called})
        answer.text = "" if turn.end == "blank" else "".join(f"{number} " for number in range(turn.words))
        answer.calls, answer.whole, answer.refused = called, True, turn.end == "refuses"
        asked.answers += 1
        words = (TextBlock(answer.text),) if answer.text else ()
        yield Completion(
            message=Message("assistant", (*words, *blocks), provider=self.name, model=self.model),
            stop_reason="refusal" if answer.refused else "tool_use" if blocks else "end_turn",
            usage=self._pay(asked, 10, 5),
        )

    def _pay(self, asked: Asked, read: int, written: int) -> Usage:
        paid = Usage(input_tokens=read, output_tokens=written, requests=1)
        asked.paid += paid
        self._world.reference.usage += paid
        return paid


def retrying(provider: Planned, schedule: int | None) -> Retrying:
    """The provider, tried again after waits that are the same each time."""
    return Retrying(provider, max_retries=RETRIES, chance=Random(schedule).random)


def make_tools(world: World) -> list[alloy.Tool]:
    """A tool whose calls may run side by side, and one whose calls don't."""

    async def work(key: str) -> str:
        """Does what the plan says."""
        return await do_work(world, world.calls[key])

    return [alloy.tool(work), alloy.tool(work, name="alone", concurrency_safe=False)]


async def do_work(world: World, called: Called) -> str:  # noqa: C901  one line or two for each outcome
    called.begun = True
    await world.breathe()
    await anyio.sleep(called.call.seconds)
    text = ""
    match called.call.outcome:
        case "text":
            text = f"{called.id} is done"
        case "blank":
            called.result = ("(no output)", False)
            return " "
        case "tool_error":
            called.result = ("no", True)
            raise alloy.ToolError("no")
        case "raises":
            called.result = ("ValueError: oh", True)
            raise ValueError("oh")
        case "hangs":
            begun = anyio.current_time() - called.call.seconds
            try:
                await anyio.sleep_forever()
            except BaseException:
                if anyio.current_time() > begun + TOOL_TIMEOUT - 0.01:
                    called.result = (TIMED_OUT, True)
                raise
        case "crashes":
            world.crash()
            raise Crash(called.id)
        case "sends":
            text = await world.send_inside()
        case "chats" | "asks":
            await world.wait_inside(called, chats=called.call.outcome == "chats")
    called.result = (text, False)
    return text


class SlowStore:
    """Keeps sessions as its plan says: slowly, or not at all."""

    def __init__(self, world: World) -> None:
        self.session: Session | None = None
        self.loads = True
        self.good = True  # the last save
        self.told = False  # that it wasn't
        self.loaded = False  # by the agent that there is now
        self._abandoned: int | None = None
        self._world = world
        self._plans = itertools.cycle(world.setting.saves or ())

    async def load(self, session_id: str) -> Session | None:
        await anyio.sleep(1)
        if not self.loads:
            raise SessionError(session_id, "it is torn")
        self.loaded = True
        if self.session is not None:
            self._world.reference.history = plain(self.session.messages)
            self._world.reference.usage = self.session.usage
        return self.session

    async def save(self, session: Session) -> Session:
        with self._world.watching():
            check_messages(session.messages, self._world.reference.histories(), "saved")
        plan = next(self._plans)
        self.good = self.told = False
        try:
            await anyio.sleep(plan.seconds)
        except BaseException:
            if plan.cancelled == "new" and plan.outcome == "saves":
                self._abandoned = session.revision
                self._write(session)
            raise
        if plan.outcome == "fails":
            raise SessionError(session.id, "the disk is full")
        if plan.outcome == "breaks":
            raise OSError("the disk is gone")
        written = self._write(session)
        self._abandoned = None
        self.good = True
        return written

    def _write(self, session: Session) -> Session:
        if self.session is not None:
            mine = session.revision in (self.session.revision, self._abandoned)
            if not mine:
                raise SessionConflictError(session.id, "somebody else saved it")
        else:
            check_owner(session, None, 0)
        revision = self.session.revision if self.session is not None else 0
        self.session = saved(session, revision + 1)
        return self.session

    async def delete(self, session_id: str) -> None:
        raise NotImplementedError

    async def ids(self) -> tuple[str, ...]:
        raise NotImplementedError
