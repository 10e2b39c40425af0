"""What an HTTP error status means, and the words that a runtime put into its body."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from lap_runtimes.errors import Kind, ProtocolError, Rejected, RuntimeFailure, Unavailable

MAX_ERROR_BODY = 64 * 1024
MAX_POLITE_WAIT = 5.0
"""Longest `retry-after`, in seconds, that a read request waits out by itself."""
_MAX_WORDS = 500
_LONGEST = 1e9
"""Seconds that a server may ask us to wait, as far as they are told."""
_PACKED = ("", "identity", "gzip", "x-gzip", "deflate")

_KINDS: dict[int, Kind] = {
    401: "auth",
    403: "auth",
    404: "not_found",
    402: "rate_limited",
    429: "rate_limited",
    409: "conflict",
    410: "gone",
    424: "failed",
    408: "overloaded",
    503: "overloaded",
    529: "overloaded",
}
_NAMES: dict[str, Kind] = {
    "rate_limit_error": "rate_limited",
    "rate_limit_exceeded": "rate_limited",
    "insufficient_quota": "rate_limited",
    "resource_exhausted": "rate_limited",
    "overloaded_error": "overloaded",
    "server_overloaded": "overloaded",
    "unavailable": "overloaded",
    "authentication_error": "auth",
    "invalid_api_key": "auth",
    "permission_denied": "auth",
    "permission_error": "auth",
    "unauthenticated": "auth",
    "context_length_exceeded": "invalid",
    "invalid_argument": "invalid",
    "invalid_prompt": "invalid",
    "invalid_request_error": "invalid",
    "not_found": "not_found",
    "not_found_error": "not_found",
}
"""Codes that several vendors write into the errors of their streams: those of OpenAI, of Anthropic
and of `google.rpc.Code`, in lower case."""
_MAY_HAVE_BEGUN = {408, 424}
_REQUEST_IDS = (
    "x-request-id",
    "request-id",
    "x-amzn-requestid",
    "x-snowflake-request-id",
    "x-litellm-trace-id",
)
_REMEDY: dict[Kind, str] = {
    "auth": "; look at the runtime's auth in the configuration",
    "not_found": "; look at the runtime's url in the configuration",
}


def rejection(status: int, headers: Mapping[str, str], body: bytes, *, where: str) -> Rejected:
    """The error of an answer with a status of 400 or more."""
    kind: Kind = _KINDS.get(status, "invalid" if status < 500 else "failed")
    words = error_words(body)
    said = f": {words}" if words else _REMEDY.get(kind, "")
    return Rejected(
        f"{where} answered {status}{said}",
        kind=kind,
        status=status,
        request_id=named_id(headers),
        retry_after=retry_after(headers),
        sent=status >= 500 or status in _MAY_HAVE_BEGUN,
    )


def check_packing(headers: Mapping[str, str], where: str) -> None:
    """Raise `ProtocolError` for a body that is packed in a way that was not asked for: those of
    brotli and zstd may be a million times larger than what was sent, in one step."""
    packed = [each.strip().lower() for each in headers.get("content-encoding", "").split(",")]
    if len(packed) > 1 or packed[0] not in _PACKED:
        said = clean(", ".join(packed))[:80]
        raise ProtocolError(f"{where}: the answer is packed with {said}, which was not asked for")


def named_id(headers: Mapping[str, str]) -> str | None:
    """The vendor's id for the request, from an answer's headers."""
    found = next((headers[name] for name in _REQUEST_IDS if name in headers), None)
    return clean(found)[:128] or None if found else None


def told_kind(error: Any) -> Kind:
    """What kind of error one is that came inside a stream, by its `code`, `status`, `statusCode`,
    `status_code` or `type`: a status of HTTP, or a code of `_NAMES`; "failed" where none says."""
    places = [error, error.get("error")] if isinstance(error, Mapping) else []
    for place in places:
        for key in ("code", "status", "statusCode", "status_code", "type"):
            value = place.get(key) if isinstance(place, Mapping) else None
            text = str(value).lower() if isinstance(value, (str, int)) else ""
            if text in _NAMES:
                return _NAMES[text]
            if re.fullmatch(r"[45]\d\d", text):
                return _KINDS.get(int(text), "invalid" if int(text) < 500 else "failed")
    return "failed"


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds: `retry-after-ms`, or `retry-after` as seconds or as a date (RFC 9110, 10.2.3)."""
    try:
        if "retry-after-ms" in headers:
            return min(max(0.0, float(headers["retry-after-ms"]) / 1000), _LONGEST)
        if "retry-after" not in headers:
            return None
        value = headers["retry-after"].strip()
        if re.fullmatch(r"\d+(\.\d+)?", value):
            return min(float(value), _LONGEST)
        when = parsedate_to_datetime(value)
        return max(0.0, (when.astimezone(UTC) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None


def error_words(body: bytes | Any) -> str:
    """The human part of an error body, whichever of the usual shapes it has: `error.message`,
    `error`, `message`, `detail`, `error_description`, or plain text.  One line, capped."""
    if not isinstance(body, bytes):
        return clean(_dig(body))
    text = body.decode("utf-8", "replace")
    try:
        return clean(_dig(json.loads(text)))
    except (ValueError, RecursionError):
        return "" if text.lstrip().startswith("<") else clean(text)


def _dig(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "; ".join(filter(None, (_dig(each) for each in value[:3])))
    if isinstance(value, dict):
        for key in ("error", "message", "detail", "msg", "error_description", "title", "reason"):
            found = _dig(value.get(key))
            if found:
                return found
    return ""


def clean(text: str) -> str:
    """One line without control characters, at most 500 characters."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return flat if len(flat) <= _MAX_WORDS else flat[: _MAX_WORDS - 1] + "…"


def pause_before(exc: RuntimeFailure, pauses: list[float]) -> float | None:
    """Seconds until a read that failed in this way is made again, by the next of `pauses`, which is
    used up; None: it is not."""
    if not pauses:
        return None
    usual = pauses.pop(0)
    if isinstance(exc, Unavailable) and not exc.sent:
        return usual
    if exc.status in (429, 503) and (exc.retry_after or usual) <= MAX_POLITE_WAIT:
        return exc.retry_after or usual
    return None
