"""What is known of how vendors count: by the name of the model, since each line of models has a tokenizer of its own.

None but OpenAI publishes its tokenizer, so the others' are measured against OpenAI's, in which a text is counted first.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from alloy.models.tables import CL100K, O200K, Table

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Family", "family_of"]

UNKNOWN_SIZE = (1024, 1024)
"""What an image is taken to measure whose size can't be seen, such as one by URL, in pixels."""


@dataclass(frozen=True, slots=True)
class Family:
    """How a line of models counts.

    Attributes:
        scale: how many of its tokens make up one of OpenAI's.
        table: OpenAI's tokenizer that comes nearest.
        message: what a message costs besides its content, in tokens.
        call: what a tool call or a result costs besides its content.
        request: what a request costs besides all that's in it.
        toolset: what it costs besides that any tools are declared.
        tool: what a tool costs besides its name, description and schema.
        schema: what of the tokens of a schema's JSON the model is shown.
        seal: how long encrypted text is that says nothing, in characters.
        image: what an image costs by its width and height in pixels.
        page: what a page of a document costs as a picture, besides its text.
        audio: what a second of sound costs.
        video: what a second of film costs.
    """

    scale: float = 1.1
    table: Table = O200K
    message: float = 4
    call: float = 8
    request: float = 3
    toolset: float = 90
    tool: float = 8
    schema: float = 1.0
    seal: int = 250
    image: Callable[[int, int], float] = field(default=lambda width, height: _patches(width, height, 28, 1600))
    page: float = 1500
    audio: float = 32
    video: float = 290


def family_of(model: str) -> Family:
    """How a model counts, as far as its name tells."""
    return next(family for pattern, family in _FAMILIES if pattern.search(model))


# --- images ----------------------------------------------------------------------------------------------------------


def _patches(width: int, height: int, side: int, most: int) -> float:
    """Squares of `side` pixels, after shrinking to `most` of them."""
    return min(math.ceil(width / side) * math.ceil(height / side), most)


def _openai_tiles(width: int, height: int, base: int, tile: int) -> float:
    """A base and so much for each square of 512 pixels, after shrinking into 2048 squared and the shorter side to 768.

    Source: OpenAI's guide on images and vision, "Calculating costs".
    """
    shrink = min(1.0, 2048 / max(width, height))
    shrink = min(shrink, 768 / min(width, height))
    return base + tile * math.ceil(width * shrink / 512) * math.ceil(height * shrink / 512)


def _gemini_tiles(width: int, height: int) -> float:
    """258 for a small image, else for each tile of 768 pixels (Google's page on image understanding)."""
    if max(width, height) <= 384:
        return 258
    side = min(max(min(width, height) / 1.5, 256), 768)
    return 258 * math.ceil(width / side) * math.ceil(height / side)


# Fixed costs are what recorded requests of a few words took.
_OPENAI = Family(
    scale=1.0,
    toolset=12,
    tool=6,
    schema=0.8,
    seal=950,
    image=lambda width, height: _openai_tiles(width, height, 85, 170),
)
_GPT_4 = replace(_OPENAI, table=CL100K)
_GPT_OSS = replace(_OPENAI, request=50)
_CLAUDE_4 = Family(scale=1.2, toolset=340, tool=20, page=1600)
_CLAUDE_4_5 = replace(_CLAUDE_4, toolset=470, tool=50)
_CLAUDE = replace(_CLAUDE_4_5, scale=1.55, image=lambda width, height: _patches(width, height, 28, 4784))
_GEMINI = Family(scale=1.08, message=1, call=6, request=0, toolset=0, tool=6, image=_gemini_tiles, page=258)
_GROK = Family(request=100, toolset=120)

_FAMILIES: tuple[tuple[re.Pattern[str], Family], ...] = tuple(
    (re.compile(pattern, re.IGNORECASE), family)
    for pattern, family in (
        (r"claude-(?:[0-3]|instant|(?:opus|sonnet|haiku)-4(?:-[01]\b|[-@]20|$))", _CLAUDE_4),
        (r"claude-(?:opus|sonnet|haiku)-4[-.][56]", _CLAUDE_4_5),
        (r"claude", _CLAUDE),  # since 4.7 a tokenizer that makes about 30 % more of a text
        (r"gpt-oss", _GPT_OSS),
        (r"gpt-3|gpt-4(?![o.\d])", _GPT_4),
        (r"gpt|codex|(?:^|/)o[134]\b", _OPENAI),
        (r"gemini", _GEMINI),
        (r"grok", _GROK),
        (r"", Family()),
    )
)
