"""xAI's Responses API: OpenAI's, at another place."""

from __future__ import annotations

from typing import ClassVar

from alloy.providers.openai import OpenAI

__all__ = ["XAI"]


class XAI(OpenAI):
    """A Grok model.

    Like `OpenAI`, with ``XAI_API_KEY`` and xAI's address. Nothing is stored unless `store` says so, and reasoning goes back
    encrypted. What xAI's own tools did (web and X search, code) is kept and goes back as it came.
    """

    _VENDOR: ClassVar[str] = "xai"
