"""What has to be there before a run is complete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from alloy.messages import Message, TextBlock

if TYPE_CHECKING:
    from alloy.loop.config import Config
    from alloy.loop.toolrun import ToolBatch

__all__ = ["Goal", "goal_of"]

NUDGE = "You haven't called the tool {tool!r} successfully yet. Call it now; the task isn't finished before that."


class Goal:
    """The plain one: the run is complete when the model has nothing more to say."""

    def reached_by_calls(self, batch: ToolBatch) -> bool:  # noqa: ARG002  the plain one doesn't care
        """Whether the run is complete with these calls, which were executed."""
        return False

    def missing_from(self, answer: Message) -> Message | None:  # noqa: ARG002  likewise
        """What to tell the model when its answer asks for no tool; None if the run is complete with it."""
        return None


class _UntilTool(Goal):
    """A tool has to have been called successfully."""

    def __init__(self, tool: str) -> None:
        self._tool = tool

    def reached_by_calls(self, batch: ToolBatch) -> bool:
        return batch.succeeded(self._tool)

    def missing_from(self, answer: Message) -> Message | None:  # noqa: ARG002  only a call counts
        return Message("user", (TextBlock(NUDGE.format(tool=self._tool)),))


def goal_of(config: Config) -> Goal:
    """What a run of these options has to come to."""
    return Goal() if config.until_tool is None else _UntilTool(config.until_tool)
