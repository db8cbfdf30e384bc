"""tiktoken's tables, where they are on this machine already; nothing here ever fetches them.

tiktoken downloads a table at its first use and keeps it in a directory (``TIKTOKEN_CACHE_DIR``, ``DATA_GYM_CACHE_DIR`` or
``data-gym-cache`` among the temporary files), in a file that is called by the SHA-1 of its address.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["CL100K", "O200K", "Table", "counting_by", "path_of"]


@dataclass(frozen=True, slots=True)
class Table:
    """One of tiktoken's tables.

    Attributes:
        name: tiktoken's name for it.
        address: where tiktoken has it from, which is what its file is called by.
        sha256: of the file, in hexadecimal.
        pattern: how a text is cut into pieces, as tiktoken has it.
    """

    name: str
    address: str
    sha256: str
    pattern: str


_ADDRESS = "https://openaipublic.blob.core.windows.net/encodings/{}.tiktoken"
_LETTERS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_ENDING = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"

O200K = Table(
    "o200k_base",
    _ADDRESS.format("o200k_base"),
    "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d",
    "|".join(
        (
            _LETTERS + r"*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+" + _ENDING,
            _LETTERS + r"+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*" + _ENDING,
            r"\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
            r"\s*[\r\n]+",
            r"\s+(?!\S)",
            r"\s+",
        )
    ),
)
"""OpenAI's since GPT-4o (openai/tiktoken, ``tiktoken_ext/openai_public.py``)."""

CL100K = Table(
    "cl100k_base",
    _ADDRESS.format("cl100k_base"),
    "223921b76ee99bde995b7ff738513eef100fb51d18c93597a113bcffe865b2a7",
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s",
)
"""OpenAI's of GPT-3.5 and GPT-4 (the same source)."""

_SLICE = 16_384  # characters that are handed to tiktoken at once: of longer ones its patterns may run out of stack
_loading = threading.Lock()
_loaded: dict[tuple[Table, Path], Callable[[str], int]] = {}


def path_of(table: Table) -> Path | None:
    """Where tiktoken would keep a table; None where it is told to keep none."""
    folder = os.environ.get("TIKTOKEN_CACHE_DIR", os.environ.get("DATA_GYM_CACHE_DIR"))
    if folder == "":
        return None
    parent = Path(tempfile.gettempdir(), "data-gym-cache") if folder is None else Path(folder)
    return parent / hashlib.sha1(table.address.encode(), usedforsecurity=False).hexdigest()


def counting_by(table: Table) -> Callable[[str], int] | None:
    """A function that counts a text's tokens by a table; None where the table isn't on this machine, or isn't whole.

    It blocks: the first time, reading a table takes half a second.
    """
    path = path_of(table)
    if path is None:
        return None
    with _loading:
        if (table, path) not in _loaded:
            try:
                data = path.read_bytes()
            except OSError:
                return None
            if hashlib.sha256(data).hexdigest() != table.sha256:
                return None  # tiktoken would fetch it anew
            _loaded[table, path] = _counting(table, data)
        return _loaded[table, path]


def _counting(table: Table, data: bytes) -> Callable[[str], int]:
    from tiktoken import Encoding  # noqa: PLC0415  only who has tables pays for it

    ranks = {base64.b64decode(token): int(rank) for token, rank in map(bytes.split, data.splitlines())}
    encoding = Encoding(table.name, pat_str=table.pattern, mergeable_ranks=ranks, special_tokens={})

    def count(text: str) -> int:
        slices = (text[at : at + _SLICE] for at in range(0, len(text), _SLICE))
        return sum(len(encoding.encode_ordinary(one)) for one in slices)

    return count
