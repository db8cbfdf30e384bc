"""What requests of one conversation have in common, so that a vendor can send them where their prompt is cached; pure."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from alloy.messages import AudioBlock, DocumentBlock, ImageBlock, TextBlock, VideoBlock

if TYPE_CHECKING:
    from alloy.messages import Block
    from alloy.providers.base import Request

__all__ = ["cache_key"]

_ENOUGH = 65_536  # bytes of each that tell conversations apart


def cache_key(request: Request) -> str:
    """A name for a conversation: the same for each of its requests, after a restart and elsewhere, too.

    It is a digest of what the conversation began with, the system prompt and what the user said first, which stays there when a
    history is made shorter. Who asks isn't in it, and nothing of it can be read.

    Sources: OpenAI's guide on prompt caching (``prompt_cache_key``, 64 characters at most), xAI's and Mistral's pages on it, which
    ask for an identifier of the conversation.

    Args:
        request: one of its requests.

    Returns:
        32 hexadecimal digits.
    """
    first = next((block for message in request.messages[:1] for block in message.content), None)
    digest = hashlib.sha256((request.system or "").encode(errors="surrogatepass")[:_ENOUGH])
    digest.update(b"\0" + _beginning(first))
    return digest.hexdigest()[:32]


def _beginning(block: Block | None) -> bytes:
    match block:
        case TextBlock(text=text):
            return text[:_ENOUGH].encode(errors="surrogatepass")
        case ImageBlock() | AudioBlock() | VideoBlock() | DocumentBlock():
            return block.data[:_ENOUGH] if block.data is not None else str(block.url).encode(errors="surrogatepass")
        case _:
            return b""
