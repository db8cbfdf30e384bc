"""API keys, and texts and addresses without them; no I/O."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from alloy._secrets import SHORTEST, Secret
from alloy.errors import InvalidOptionError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Secret", "checked_url", "cleaned", "origin", "scrub", "shown_url"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def cleaned(text: object, secrets: Iterable[Secret], longest: int) -> str:
    """What a server said, whatever that is, as text without keys and without characters that steer a terminal.

    Args:
        text: what it said.
        secrets: the keys.
        longest: how much to keep, in characters.
    """
    clean = _CONTROL.sub(" ", scrub(str(text), secrets))
    return clean if len(clean) <= longest else clean[: longest - 3] + "..."


def scrub(text: str, secrets: Iterable[Secret]) -> str:
    """`text` without the keys, nor what they are in URLs, JSON and base64, nor what is left of one where a text was cut.

    What has fewer than 8 characters is a placeholder, not a key.
    """
    for secret in secrets:
        if len(secret.reveal()) >= SHORTEST:
            for form in sorted(set(_forms(secret.reveal())), key=len, reverse=True):
                text = _without_start(text.replace(form, "[key]"), form)
    return text


def _forms(key: str) -> Iterator[str]:
    """How a key can be written, also where that is quoted once more; in base64 with anything around it, as ``Bearer``."""
    escaped = json.dumps(key)[1:-1]
    for form in (key, escaped, escaped.replace("/", r"\/")):
        yield from (form, form.replace("\\", r"\\"))
    yield from (quote(key), quote(key, safe=""))
    for before in range(3):  # bytes before it in its group of three
        whole = base64.b64encode(bytes(before) + key.encode()).decode()
        own = whole[(before * 8 + 5) // 6 : (before + len(key)) * 8 // 6]
        yield from (own, own.replace("+", "-").replace("/", "_"))


def _without_start(text: str, form: str) -> str:
    """`text` without the first part of `form` at its end; a text that was cut ends with dots, or in quotes."""
    said = text.rstrip("'\".")
    for length in range(len(form) - 1, SHORTEST - 1, -1):
        if said.endswith(form[:length]):
            return f"{said[:-length]}[key]{text[len(said) :]}"
    return text


def checked_url(base_url: str) -> str:
    """An address of an API, without a slash at its end.

    Raises:
        InvalidOptionError: it is none, or holds a password.
    """
    try:
        parts = urlsplit(base_url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:  # brackets around no address, or a port that is none
        known = False
    if not known:
        raise InvalidOptionError("base_url", "an address such as 'https://host/v1'", base_url)
    if parts.username or parts.password:
        raise InvalidOptionError("base_url", "an address without a user and password; pass api_key=...", object())
    return base_url.rstrip("/")


def shown_url(url: str) -> str:
    """An address without its query, which may hold anything."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "somewhere"
    return f"{parts.scheme}://{parts.netloc}{parts.path}" if parts.netloc else parts.path


def origin(adapter: str, base_url: str, key: Secret | None) -> str:
    """A fingerprint of who answers: signed and opaque blocks are only good where it is the same.

    Args:
        adapter: the wire protocol.
        base_url: the endpoint.
        key: the account's key; it can't be told from the fingerprint.
    """
    parts = "\0".join((adapter, base_url.rstrip("/"), key.reveal() if key else ""))
    return hashlib.sha256(parts.encode()).hexdigest()[:16]
