"""Agents by name, on the event loop that they live on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from alloy.errors import AgentExistsError, UnknownAgentError, WrongEventLoopError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.agents.agent import Agent
    from alloy.messages import Block, Message

__all__ = ["Addressee", "cancel_request", "find", "register", "send_message", "unregister"]


class Addressee(Protocol):
    """Who has a name: an agent, or a supervisor that knows where to find one."""

    async def awake(self, name: str) -> Agent:
        """The agent of this name, woken up where it sleeps."""
        ...


_directories: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, Addressee]] = WeakKeyDictionary()


def register(name: str, addressee: Addressee) -> None:
    """Gives a name to somebody.

    Raises:
        AgentExistsError: it is taken.
    """
    names = _directories.setdefault(asyncio.get_running_loop(), {})
    if names.setdefault(name, addressee) is not addressee:
        raise AgentExistsError(name)


def unregister(name: str, addressee: Addressee) -> None:
    """Takes a name back, if it is still that one's."""
    names = _directories.get(asyncio.get_running_loop(), {})
    if names.get(name) is addressee:
        del names[name]


def find(name: str) -> Addressee:
    """Who has this name.

    Raises:
        UnknownAgentError: nobody has.
        WrongEventLoopError: somebody on another event loop has.
    """
    names = _directories.get(asyncio.get_running_loop(), {})
    if name not in names:
        if any(name in others for others in tuple(_directories.values())):
            raise WrongEventLoopError(name)
        raise UnknownAgentError(name, names)
    return names[name]


async def send_message(
    name: str, prompt: str | Block | Sequence[Block] | Message, *, request_id: str | None = None
) -> str:
    """Sends a message to the agent of this name, from anywhere on its event loop; `Agent.send_message` says more.

    Raises:
        UnknownAgentError: no agent has the name.
        AgentError: as from `Agent.send_message`.
    """
    agent = await find(name).awake(name)
    return await agent.send_message(prompt, request_id=request_id)


async def cancel_request(name: str, request_id: str) -> None:
    """Cancels a request of the agent of this name; `Agent.cancel_request` says more.

    Raises:
        UnknownAgentError: no agent has the name.
        AgentError: as from `Agent.cancel_request`.
    """
    agent = await find(name).awake(name)
    await agent.cancel_request(request_id)
