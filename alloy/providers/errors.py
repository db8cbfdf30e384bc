"""What a provider's refusal means: one classification for every adapter, from status, code and wording; no I/O."""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from pydantic_core import from_json, to_json

from alloy.errors import ErrorKind, ProviderError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["error_from_document", "error_from_response", "error_kind", "retry_after_seconds"]

LONGEST_MESSAGE = 2000
"""How much of a message is kept, in characters."""
LONGEST_NAME = 200
"""How much of a code or a request's id is kept, in characters."""
TELLING = 8000
"""How much of what an error says is looked at, in characters."""

_OVERFLOW_WORDINGS = (
    r"prompt (?:is )?too long",  # Anthropic, Ollama, Fireworks
    r"request_too_large|request exceeds the maximum size",  # Anthropic
    r"input is too long",  # Bedrock, Databricks
    r"input length and .{0,20}exceed",  # Anthropic: input and max_tokens together
    r"exceeds? the (?:model'?s? )?context (?:window|length|limit|size)",  # OpenAI
    r"context_length_exceeded|context_window_exceeded|context length exceeded",  # OpenAI, Z.ai
    r"maximum (?:allowed )?context length",  # OpenAI, OpenRouter, DeepSeek, vLLM, Mistral, Together
    r"maximum context (?:window|size)",
    r"input token count.{0,40}exceeds",  # Gemini
    r"maximum prompt length",  # xAI
    r"reduce the length of (?:the|your) (?:messages|prompt|input)",  # Groq
    r"please reduce (?:the|your) (?:prompt|input)",
    r"token count of \d+ exceeds the limit",  # Copilot
    r"exceed(?:s|ed)? the available context size|exceed_context_size",  # llama.cpp
    r"greater than the context length",  # LM Studio
    r"context window exceeds",  # MiniMax
    r"exceeded model token limit",  # Kimi
    r"too large for model with \d+",  # Mistral
    r"range of input length",  # DashScope
    r"prompt exceeds max(?:imum)? length",  # Z.ai 1261
    r"longer than (?:the|this) (?:maximum model length|model'?s? (?:maximum )?context)",  # vLLM, SGLang
    r"inputs?`? (?:tokens )?(?:\+ `?max_new_tokens`? )?must (?:be <=|have less than) \d+",  # text-generation-inference
    r"too_many_prompt_tokens|total length of all messages is too long",  # Perplexity
    r"too many (?:input )?tokens(?! per)",  # Cohere
    r"maximum number of (?:input )?tokens",
    r"(?:input|prompt) (?:length|tokens?) (?:\(\d+\) )?exceeds?",
    r"exceeds? the maximum (?:number of tokens|token|input length)",
    r"token limit exceeded|context limit exceeded|exceeds? (?:the )?(?:token|context) limit",
)
_OVERFLOW = re.compile("|".join(_OVERFLOW_WORDINGS), re.IGNORECASE)
_THROTTLED = re.compile(
    r"rate.?limit|too many requests|per[ _]min|throttl|\btpm\b|\brpm\b|\btpd\b|\brpd\b", re.IGNORECASE
)
_QUOTA = re.compile(
    r"insufficient[_ ](?:quota|balance|credits?|funds)|exceeded your current quota|credit balance is too low"
    r"|billing|spend(?:ing)?[_ -]limit|out of credits|more credits|arrearage|payment required",
    re.IGNORECASE,
)
_AUTH = re.compile(
    r"(?:invalid|incorrect|missing|expired|wrong)[_ ](?:\w{1,20}[_ ])?(?:api[_ ]?key|token|credentials?)\b"
    r"|api[_ ]?key (?:not (?:valid|found)|is invalid|expired)|unauthori[sz]ed|authentication",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"content[_ ](?:filter|policy|management)|ResponsibleAI|_policy(?:_violation)?\b|moderation|flagged", re.IGNORECASE
)

# Exact codes and types, as the vendors' references list them.
_CODES: Mapping[str, ErrorKind] = {
    "1113": "quota",  # Z.ai: balance
    "1261": "context_overflow",  # Z.ai: prompt too long
    "1302": "rate_limited",  # Z.ai: concurrency
    "1305": "overloaded",  # Z.ai
    "api_error": "server_error",
    "authentication_error": "auth",
    "billing_error": "quota",
    "billing_hard_limit_reached": "quota",
    "context_length_exceeded": "context_overflow",
    "deadline_exceeded": "timeout",
    "exceed_context_size_error": "context_overflow",
    "insufficient_quota": "quota",
    "internal": "server_error",
    "internal_server_error": "server_error",
    "invalid_api_key": "auth",
    "model_not_found": "invalid_request",
    "not_found_error": "invalid_request",
    "overloaded_error": "overloaded",
    "permission_denied": "auth",
    "permission_error": "auth",
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "request_too_large": "context_overflow",
    "resource_exhausted": "rate_limited",
    "server_error": "server_error",
    "server_is_overloaded": "overloaded",
    "slow_down": "overloaded",
    "timeout_error": "timeout",
    "too_many_requests": "rate_limited",
    "unauthenticated": "auth",
    "unavailable": "overloaded",
}
_STATUSES: Mapping[int, ErrorKind] = {
    401: "auth",
    402: "quota",
    403: "auth",
    408: "timeout",
    413: "context_overflow",
    429: "rate_limited",
    503: "overloaded",
    504: "timeout",
    524: "timeout",
    529: "overloaded",
}


def error_from_response(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError:
    """What an answer with an error status means.

    Args:
        status: the HTTP status.
        headers: the response's headers, their names in lower case.
        body: the response's body, whatever it is.

    Returns:
        The error to raise.
    """
    wait = retry_after_seconds(headers)
    try:
        document = from_json(body)
    except ValueError:
        text = body.decode(errors="replace").strip()
        document = {
            "message": f"the server sent a page of HTML, HTTP {status}" if "<html" in text[:500].lower() else text
        }
    error = error_from_document(document, status=status, retry_after=wait)
    if not body.strip() and status == 400:
        error.kind = "context_overflow"  # Cerebras sends no body for a prompt that is too long
    return error


def error_from_document(document: Any, *, status: int | None = None, retry_after: float | None = None) -> ProviderError:
    """What a JSON error of any known shape means.

    The shapes: ``{"error": {...}}`` or ``{"error": "text"}``, ``{"detail": ...}``, a flat object, a list of one of these, or
    plain text; with an upstream's own error inside ``metadata.raw``.

    Args:
        document: the parsed body, or the error inside a stream.
        status: the HTTP status, if it tells anything.
        retry_after: what the headers said, in seconds.

    Returns:
        The error to raise.
    """
    while isinstance(document, list) and document:
        document = document[0]
    inner = _inner(document)
    message = _message(inner) or _message(document)
    words = " ".join(_words(inner))
    codes = [str(code) for code in _codes(inner, document) if isinstance(code, str | int) and code != ""]
    numbers = [int(code) for code in codes if re.fullmatch("[45][0-9]{2}", code)]
    status_said = next(iter(numbers), None)
    if status is None or status < 400:
        status = status_said or status
    code = next((code for code in codes if code != str(status)), None)
    if retry_after is None:
        retry_after = _delay_in_body(inner)
    text = f"{message} {words}"
    kind = error_kind(status_said if status in (None, 400, 500) and status_said else status, codes, text)
    if kind == "quota" and retry_after is not None and "insufficient_quota" not in codes:
        kind = "rate_limited"  # a quota that frees itself within seconds is a rate
    message = message or (f"HTTP {status} without a reason" if status else "an error without a reason")
    return ProviderError(
        message if len(message) <= LONGEST_MESSAGE else message[: LONGEST_MESSAGE - 3] + "...",
        kind=kind,
        status=status,
        code=code,
        retry_after=retry_after,
    )


def error_kind(status: int | None, codes: list[str], text: str) -> ErrorKind:
    """One word for an error.

    Args:
        status: the HTTP status, if known.
        codes: the vendor's codes and types, most telling first.
        text: everything else that it says.
    """
    known = [_CODES[code.lower()] for code in codes if code.lower() in _CODES]
    everything, text = " ".join([*codes, text])[:TELLING], text[:TELLING]
    if "context_overflow" in known or (status != 429 and _OVERFLOW.search(everything) and not _THROTTLED.search(text)):
        return "context_overflow"
    if "quota" in known or (_QUOTA.search(everything) and (status in (None, 400, 402, 403, 429))):
        return "quota"
    if status in (None, 200, 400, 403) and _REFUSED.search(everything):
        return "refused"
    if status is not None and status in _STATUSES:
        return _STATUSES[status]
    if known:
        return known[0]
    if status is not None and status >= 500:
        return "server_error"
    if _AUTH.search(everything):
        return "auth"
    if status is None and _THROTTLED.search(everything):
        return "rate_limited"
    return "invalid_request" if status is not None and 400 <= status < 500 else "unknown"


def retry_after_seconds(headers: Mapping[str, str], *, now: float | None = None) -> float | None:
    """How long a server asks to wait, from ``retry-after-ms`` and ``retry-after`` (RFC 9110, section 10.2.3).

    Args:
        headers: the response's headers, their names in lower case.
        now: the time, in seconds since the epoch, for a server that names a date.

    Returns:
        Seconds, the longest of what the headers say; None where they say nothing that makes sense.
    """
    waits = []
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name, "").strip()
        if re.fullmatch(r"\d{1,12}(\.\d{1,12})?", value):
            waits.append(float(value) * unit)
        elif value:
            try:
                date = parsedate_to_datetime(value).timestamp()
            except (ValueError, OverflowError):
                continue
            waits.append(max(0.0, date - (time.time() if now is None else now)))
    return max(waits, default=None)


def _inner(document: Any) -> Any:
    """The part of an error document that says something."""
    match document:
        case {"error": dict() | list() | str() as inner} if inner:
            return inner[0] if isinstance(inner, list) else inner
        case {"detail": dict() | str() as inner} if inner:
            return inner
        case {"detail": [first, *_]} | {"errors": [first, *_]}:
            return first
        case _:
            return document


def _message(document: Any) -> str:
    match document:
        case str():
            return document.strip()
        case {"metadata": {"raw": str(raw)}, "message": str(message)} if raw.strip():
            return f"{message}: {raw.strip()}"
        case {"message": str(message)} | {"msg": str(message)} | {"error": str(message)} | {"title": str(message)}:
            return message.strip()
        case {"message": dict() | list() as message}:
            return to_json(message, fallback=str).decode()
        case _:
            return ""


def _codes(*documents: Any) -> Iterator[Any]:
    for document in documents:
        if isinstance(document, dict):
            yield from (document.get(name) for name in ("code", "type", "status", "status_code", "reason"))
            if isinstance(details := document.get("details"), list):
                yield from (detail.get("reason") for detail in details if isinstance(detail, dict))
            if isinstance(nested := document.get("innererror"), dict):
                yield nested.get("code")


def _words(document: Any) -> Iterator[str]:
    if isinstance(document, dict):
        for name in ("details", "detail", "param", "error_type"):
            if isinstance(value := document.get(name), str):
                yield value


def _delay_in_body(document: Any) -> float | None:
    """Google's RetryInfo: ``{"@type": ".../google.rpc.RetryInfo", "retryDelay": "34s"}``."""
    details = document.get("details") if isinstance(document, dict) else None
    for detail in details if isinstance(details, list) else ():
        if isinstance(detail, dict) and (
            found := re.fullmatch(r"(\d{1,12}(?:\.\d{1,12})?)s", str(detail.get("retryDelay")))
        ):
            return float(found[1])
    return None
