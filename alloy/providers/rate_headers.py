"""What servers say about their rate limits, read from response headers; no I/O.

The names are those of Anthropic (https://docs.claude.com/en/api/rate-limits), of OpenAI and everybody like it
(https://platform.openai.com/docs/guides/rate-limits), and of what hosts made of the IETF's draft for ``RateLimit`` headers. They are
read word by word, since each host orders them in its own way: ``x-ratelimit-limit-tokens-minute``.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Reading", "Resource", "readings", "seconds_until"]

Resource: TypeAlias = Literal["requests", "tokens", "input_tokens", "output_tokens"]
"""What is counted. ``tokens`` are those of prompt and answer together."""

MOST = 10**12
"""Above this a number means no limit, or nothing."""
LONGEST = 366 * 86_400.0  # seconds
_EPOCH = 10**9  # what counts so many seconds is a date

_WINDOWS = {"second": 1.0, "minute": 60.0, "hour": 3600.0, "day": 86_400.0, "month": 30 * 86_400.0}
_UNITS = {"d": 86_400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_DURATION = re.compile(r"(?:\d{1,12}(?:\.\d{1,12})?(?:ms|us|ns|d|h|m|s))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|us|ns|d|h|m|s)")
_NUMBER = re.compile(r"\d{1,16}(?:\.\d{1,20})?")
_WORDS = {
    "requests": "requests", "request": "requests", "req": "requests", "tokens": "tokens", "ratelimitbysize": "tokens",
    "tokenlimit": "tokens", "input": "input_tokens", "prompt": "input_tokens", "output": "output_tokens",
    "generated": "output_tokens",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Reading:
    """What one response says about one limit.

    Attributes:
        resource: what is limited.
        limit: how much there is in a window.
        remaining: how much is left.
        reset: in how many seconds all of it is there again; None where the server doesn't say, or says nonsense.
        window: how long a window is, in seconds, where the header's name says so.
        refills: whether it is known to come back bit by bit, not all at once.
        coarse: whether `reset` was rounded to whole seconds.
    """

    resource: Resource
    limit: float
    remaining: float | None = None
    reset: float | None = None
    window: float | None = None
    refills: bool = False
    coarse: bool = False


def readings(headers: Mapping[str, str], *, now: float | None = None) -> list[Reading]:
    """What a response says about limits; what makes no sense is left out.

    Args:
        headers: the response's headers, their names in lower case.
        now: the time, in seconds since the epoch; by default what the server's ``date`` says, or else this machine.
    """
    found: dict[tuple[Resource, float | None], dict[str, str]] = {}
    anthropic = False
    for name in headers:
        if ("ratelimit" in name or "tokenlimit" in name) and (meaning := _meaning(name)):
            resource, window, field = meaning
            found.setdefault((resource, window), {}).setdefault(field, headers[name].strip())
            anthropic = anthropic or name.startswith("anthropic")
    said = []
    for (resource, window), fields in found.items():
        limit, remaining = _amount(fields.get("limit")), _amount(fields.get("remaining"))
        if not limit:
            continue
        reset = seconds_until(fields["reset"], now=_now(headers) if now is None else now) if "reset" in fields else None
        said.append(
            Reading(
                resource,
                limit,
                None if remaining is None else min(remaining, limit),
                reset,
                60.0 if anthropic else window,
                refills=anthropic,  # Anthropic: "the API uses the token bucket algorithm"
                coarse=reset is not None and reset.is_integer(),
            )
        )
    return said


def seconds_until(value: str, *, now: float) -> float | None:
    """In how many seconds a limit resets: ``6m0s``, ``12ms``, ``1.5``, an ISO time, or a time in (milli)seconds since the epoch.

    Args:
        value: what the header says.
        now: the time, in seconds since the epoch.

    Returns:
        Seconds of at least 0; None where it makes no sense, or is more than a year away.
    """
    value = value.strip()
    if _NUMBER.fullmatch(value):
        seconds = float(value)
        if seconds >= _EPOCH:
            seconds = (seconds / 1000 if seconds >= _EPOCH * 1000 else seconds) - now
    elif len(value) < 100 and _DURATION.fullmatch(value):
        seconds = sum(float(number) * _UNITS[unit] for number, unit in _PART.findall(value))
    else:
        try:
            date = datetime.fromisoformat(value)
            seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if seconds <= LONGEST else None


@lru_cache(maxsize=1000)
def _meaning(name: str) -> tuple[Resource, float | None, str] | None:
    """What a header is about: the resource, the window in seconds, and ``limit``, ``remaining`` or ``reset``."""
    resource: str | None = None
    window: float | None = None
    field: str | None = None
    for word in name.removeprefix("anthropic-").removeprefix("x-").split("-"):
        if word in ("limit", "remaining", "reset"):
            field = word
        elif word in _WORDS:
            resource = resource if resource in ("input_tokens", "output_tokens") else _WORDS[word]
        elif word in _WINDOWS:
            window = _WINDOWS[word]
        elif word != "ratelimit":
            return None
    if field is None and resource is None:
        return None
    return resource or "requests", window, field or "limit"  # type: ignore[return-value]  # the words are resources


def _amount(value: str | None) -> float | None:
    if value is None or not _NUMBER.fullmatch(value):
        return None
    return amount if (amount := float(value)) <= MOST else None


def _now(headers: Mapping[str, str]) -> float:
    """The server's time, if it tells it, since its resets are by its own clock."""
    try:
        return parsedate_to_datetime(headers["date"]).timestamp()
    except (KeyError, ValueError, OverflowError):
        return time.time()
