"""Names that every provider takes for tools that may be called anything."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["safe_names"]

LONGEST = 64
_SERVER = 24
_DIGEST = 8
_OTHERS = re.compile(r"[^A-Za-z0-9_-]+")


def safe_names(server: str, tools: Iterable[str]) -> dict[str, str]:
    """What models call a server's tools: ``server__tool``.

    What isn't a letter, digit, ``_`` or ``-`` becomes ``_``. A name that is too long is cut; it, and one that would be another
    tool's, ends with a piece of a hash of the original name. So a name depends on the tools beside it as little as can be, and
    never on their order.

    Args:
        server: the server's name.
        tools: the tools' names, each once.

    Returns:
        The names by the original ones.
    """
    prefix = f"{_clean(server)[:_SERVER]}__"
    if not re.match(r"[A-Za-z_]", prefix):
        prefix = f"_{prefix}"
    named: dict[str, str] = {}
    taken: set[str] = set()
    # Those that are safe as they are come first, so that no other takes their name.
    for tool in sorted(set(tools), key=lambda tool: (_clean(tool) != tool, tool)):
        name = f"{prefix}{_clean(tool)}"
        length = _DIGEST
        if len(name) > LONGEST or name in taken:
            digest = hashlib.sha256(tool.encode(errors="surrogatepass")).hexdigest()
            whole = name
            name = f"{whole[: LONGEST - length - 1]}_{digest[:length]}"
            while name in taken:
                length += 1
                name = f"{whole[: LONGEST - length - 1]}_{digest[:length]}"
        named[tool] = name
        taken.add(name)
    return named


def _clean(name: str) -> str:
    return _OTHERS.sub("_", name)
