"""What is secret: API keys that don't show themselves, which of them are in use, and what looks like one; no I/O."""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, Self
from weakref import ref

from alloy.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SHORTEST", "Secret", "keys_in_use", "looks_secret", "without_keys"]

SHORTEST = 8
"""What has fewer characters is a placeholder, not a key."""

_RANDOM = 20
"""From how many characters on a key can't be a word that stands in other texts, too."""

_NAMES = re.compile(
    r"key(?!board)|token|secret|passw|passphrase|_pass$|^pass$|_pwd$|_pw$|credential|auth(?!ors?(_|$))|bearer|cookie|private|webhook|_dsn$",
    re.IGNORECASE,
)
_VALUES = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY"
    r"|://[^/@\s]*:[^/@\s]+@"  # a user's password in a URL
    r"|(?:password|pwd|accountkey|sharedaccesskey|secret|token)\s*=\s*[^\s;]"  # connection strings
    r"|\beyJ[\w-]{8,}\.[\w-]{8,}"  # a JSON web token
    r"|\b(?:sk|rk|pk)[-_][\w-]{16,}|\bgh[opsur]_\w{16,}|\bgithub_pat_\w{16,}|\bglpat-[\w-]{16,}|\bxox[a-z]-[\w-]{8,}"
    r"|\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[\w-]{16,}|\bxai-[\w-]{16,}|\bgsk_\w{16,}|\bhf_\w{16,}|\bnpm_\w{16,}"
    r"|\bpypi-[\w-]{16,}|hooks\.slack\.com/services/",
    re.IGNORECASE,
)
_LONG = re.compile(r"(?=\S*[a-z])(?=\S*[A-Z])(?=\S*\d)[\w+=-]{32,}")

_lock = threading.Lock()
_in_use: set[ref[Secret]] = set()  # a WeakSet has to be asked for its length in Python


class Secret:
    """An API key that doesn't show itself.

    Args:
        value: the key; blanks around it, as a file's last newline, are dropped.
        prefix: what stands before it in its header, such as ``Bearer``.

    Raises:
        InvalidOptionError: no header can carry it.
    """

    __slots__ = ("__weakref__", "_prefix", "_value")

    def __init__(self, value: str, prefix: str = "") -> None:
        self._value = value.strip()
        self._prefix = prefix
        if not (self._value.isascii() and self._value.isprintable()):
            raise InvalidOptionError("api_key", "printable ASCII characters", object())
        with _lock:
            _in_use.add(ref(self, _in_use.discard))

    @classmethod
    def of_header(cls, header: str) -> Self:
        """The key in a header's value, which may have a prefix."""
        prefix, _, key = header.strip().rpartition(" ")
        return cls(key, prefix)

    def reveal(self) -> str:
        """The key itself."""
        return self._value

    @property
    def header(self) -> str:
        """What its header says."""
        return f"{self._prefix} {self._value}" if self._prefix else self._value

    def __repr__(self) -> str:
        return "Secret(...)"


def keys_in_use() -> frozenset[str]:
    """The keys that this process holds at the moment, but for placeholders."""
    with _lock:
        held = [secret for one in list(_in_use) if (secret := one()) is not None]
    return frozenset(value for secret in held if len(value := secret.reveal()) >= SHORTEST)


def looks_secret(name: str, value: str) -> bool:
    """Whether a variable's name or value looks like that of a key, token, password or the like, or holds a key in use."""
    if _NAMES.search(name) or _VALUES.search(value) or _LONG.fullmatch(value):
        return True
    return any(key in value for key in keys_in_use())


def without_keys(text: str) -> str:
    """`text` without the keys in use, as far as they are so long and random that nothing else is meant."""
    if not _in_use:
        return text
    for key in keys_in_use():
        if key in text and _is_random(key):
            text = text.replace(key, "[key]")
    return text


def _is_random(key: str) -> bool:
    kinds: tuple[Callable[[str], bool], ...] = (str.isalpha, str.isdigit)
    return len(key) >= _RANDOM and all(any(map(kind, key)) for kind in kinds)
