"""What is done after a crash: when an agent is started again, and which messages it isn't given again."""

from __future__ import annotations

import hashlib
import random
from typing import TYPE_CHECKING

from alloy.errors import AgentQuarantinedError
from alloy.messages import messages_to_json

if TYPE_CHECKING:
    from collections.abc import Callable

    from alloy.messages import Message

__all__ = ["Poison", "Restarts"]

POISONOUS = 3  # crashes until a message isn't tried again
LONGEST_BACKOFF = 60.0  # seconds


class Restarts:
    """Counts an agent's crashes, and says how long to wait before it is started again.

    The wait doubles with each crash that is remembered, up to a minute, and is shortened by chance by up to a half, so that
    agents that crashed together don't come back together.

    Args:
        most: how many crashes within the window are borne.
        within: the window, in seconds.
        backoff: the longest wait after the first crash, in seconds.
        chance: a number from 0 to 1, another each time.
    """

    __slots__ = ("_backoff", "_chance", "_crashes", "_most", "_within")

    def __init__(self, most: int, within: float, backoff: float, chance: Callable[[], float] = random.random) -> None:
        self._most = most
        self._within = within
        self._backoff = backoff
        self._chance = chance
        self._crashes: list[float] = []

    def crashed(self, now: float) -> float | None:
        """Counts a crash.

        Args:
            now: when it was, in seconds of any clock.

        Returns:
            How long to wait, in seconds; None where there were too many.
        """
        self._crashes = [*(then for then in self._crashes if now - then < self._within), now]
        if len(self._crashes) > self._most:
            return None
        longest = min(self._backoff * 2.0 ** min(len(self._crashes) - 1, 30), LONGEST_BACKOFF)
        return longest * (1 - self._chance() / 2)


class Poison:
    """Messages that have crashed an agent, and how often."""

    __slots__ = ("_crashes",)

    def __init__(self) -> None:
        self._crashes: dict[bytes, tuple[int, BaseException]] = {}

    def remember(self, message: Message, cause: BaseException) -> None:
        """Counts a crash of the agent by a message."""
        key = _fingerprint(message)
        self._crashes[key] = (self._crashes.get(key, (0, cause))[0] + 1, cause)

    def refusal(self, agent: str, message: Message) -> AgentQuarantinedError | None:
        """Why a message isn't tried again, if it has crashed the agent too often."""
        count, cause = self._crashes.get(_fingerprint(message), (0, None))
        if count < POISONOUS or cause is None:
            return None
        return AgentQuarantinedError(agent, cause, f"won't run this message again, which has crashed it {count} times")


def _fingerprint(message: Message) -> bytes:
    return hashlib.sha256(messages_to_json([message])).digest()
