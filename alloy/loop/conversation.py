"""The messages of a run, which change by whole steps, and the prompt that waits for its answer."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from alloy._memo import Appended
from alloy.errors import EmptyPromptError
from alloy.history import check_history, own_call_ids, without_blanks
from alloy.messages import Message, TextBlock, as_user_message

if TYPE_CHECKING:
    from collections.abc import Sequence

    from alloy.messages import Block

__all__ = ["History", "checked_prompt"]


def checked_prompt(prompt: str | Block | Sequence[Block] | Message) -> Message:
    """The user's words as a message that every API accepts.

    Raises:
        EmptyPromptError: there is nothing in them.
        HistoryError: they can't be a user's turn, such as results of no call.
        InvalidOptionError: they are nothing that could be said.
    """
    if isinstance(prompt, str) and prompt.strip():
        return Message("user", (TextBlock(prompt),))
    message = as_user_message(prompt)
    if not without_blanks(message).content:
        raise EmptyPromptError
    check_history([message])
    return message


class History:
    """The messages of a run; they change by whole steps."""

    def __init__(self, messages: Sequence[Message], prompt: Message | None) -> None:
        self.messages = Appended(messages)
        self.prompt: Message | None = None
        self._ids = {call.id for message in messages for call in message.tool_uses}
        if prompt is not None:
            self.say(prompt)

    def say(self, prompt: Message) -> None:
        """Puts the user's next words in front of the next answer; they are committed with it."""
        self.prompt = prompt

    @property
    def upcoming(self) -> Sequence[Message]:
        """What the next request is made of."""
        if self.prompt is None:
            return self.messages
        head, prompt = self._joined(self.prompt)
        return [*self.messages[:head], prompt]

    def answer(self, message: Message) -> Message:
        """The message as it can stand in this history: nothing blank, nothing misplaced, no call id twice."""
        return own_call_ids(without_blanks(message), self._ids)

    def commit(self, *step: Message) -> None:
        """Appends a step: the prompt that waits, and what came of it. The only thing that changes the history."""
        if self.prompt is not None:
            head, prompt = self._joined(self.prompt)
            self.messages[head:] = [prompt]
            self.prompt = None
        for message in step:
            if message.content:
                self.messages.append(message)
                if message.role == "assistant":
                    self._ids.update([call.id for call in message.tool_uses])

    def replace(self, messages: Sequence[Message]) -> None:
        """Goes on with another history, checked already."""
        self.messages = Appended(messages)
        self.prompt = None

    def _joined(self, prompt: Message) -> tuple[int, Message]:
        """The prompt, together with the user's own turn before it where there is one, and where it stands."""
        last = self.messages[-1] if self.messages else None
        if last is None or last.role == "assistant" or len(last.tool_results) == len(last.content):
            return len(self.messages), prompt
        return len(self.messages) - 1, dataclasses.replace(last, content=last.content + prompt.content)
