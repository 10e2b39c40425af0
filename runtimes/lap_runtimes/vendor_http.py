"""HTTP for vendors whose errors have codes of their own, and what their adapters need to build a
request: path segments of ids from outside, and prompts for runtimes that take text only.
"""

from __future__ import annotations

import html
import json
import uuid
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from lap_runtimes.base import MAX_REF_BYTES, Prompt, PromptFile, Ref
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import Kind, ProtocolError, Rejected, Unsupported
from lap_runtimes.http import HTTP, Reply
from lap_runtimes.http_errors import clean

Json = Mapping[str, Any]

MAX_INLINE = 256 * 1024
"""Bytes of a text file that becomes part of a prompt."""
_TEXT_TYPES = (
    "application/json",
    "application/sql",
    "application/toml",
    "application/xml",
    "application/yaml",
    "application/x-yaml",
    "application/javascript",
)


class VendorHTTP(HTTP):
    """`codes` says what kind of error a vendor's code is; one that it does not hold is of the kind
    of its HTTP status."""

    def __init__(self, config: HTTPRuntimeConfig, codes: Mapping[str, Kind]) -> None:
        super().__init__(config)
        self._codes = codes

    def scrub(self, body: bytes) -> bytes:
        """Also of a credential without the scheme that is sent before it."""
        body = super().scrub(body)
        for value in self._home_headers.values():
            secret = value.partition(" ")[2]
            if len(secret) >= 8:
                body = body.replace(secret.encode(), b"[secret]")
        return body

    def rejection(self, reply: Reply, body: bytes) -> Rejected:
        told = _told(self.scrub(body))
        if isinstance(told.get("error"), str) and told.get("message"):
            # Kibana and n8n: the status in words, beside what was meant.
            body = json.dumps({**told, "error": None}).encode()
        refused = super().rejection(reply, body)
        code, words = error_code(told), refused.message
        if code and code not in words and code != str(refused.status):
            words = f"{words} ({clean(code)[:80]})"
        return Rejected(
            words,
            kind=self._codes.get(code, refused.kind),
            status=refused.status,
            request_id=refused.request_id or request_id(told) or None,
            retry_after=refused.retry_after,
            sent=refused.sent,
        )


def _told(body: bytes) -> Json:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, Mapping) else {}


def error_code(told: Json) -> str:
    """The vendor's code in an error's body or event: `error.code`, `error_code` or `code`."""
    inner = told.get("error")
    for place in (inner if isinstance(inner, Mapping) else {}, told):
        for key in ("error_code", "code"):
            value = place.get(key)
            if isinstance(value, (str, int)) and not isinstance(value, bool) and value != "":
                return str(value)
    return ""


def request_id(told: Json) -> str:
    """The vendor's id for the request, where the body holds it: `request_id`, or a `trace_id`
    among Kibana's `attributes`."""
    attributes = told.get("attributes")
    trace = attributes.get("trace_id") if isinstance(attributes, Mapping) else None
    value = told.get("request_id") or trace
    return clean(str(value))[:128] if isinstance(value, (str, int)) else ""


def mapping(value: Any) -> Json:
    """Raises `ProtocolError` for what is no object."""
    if not isinstance(value, Mapping):
        raise ProtocolError(f"the server sent {type(value).__name__} where an object belongs")
    return value


def mappings(value: Any) -> list[Json]:
    """The objects of a list; of anything else, none."""
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def decoded(data: str) -> Json:
    """The JSON object that an event is.  Raises `ProtocolError`."""
    try:
        return mapping(json.loads(data))
    except (ValueError, RecursionError) as exc:
        raise ProtocolError(f"the stream has an event that is not JSON: {exc}") from exc


def fits(ref: Ref) -> bool:
    """Whether a ref can be kept."""
    return len(json.dumps(ref, ensure_ascii=False).encode("utf-8", "replace")) <= MAX_REF_BYTES


def segment(value: Any, *, what: str) -> str:
    """One segment of a path, percent-encoded, of an id that came from outside.  Raises `Rejected`
    where it cannot be one."""
    text = str(value or "")
    if not text or text in (".", "..") or len(text) > 1024 or not text.isprintable():
        raise Rejected(f"no {what} can be called {text[:80]!r}", kind="invalid", sent=False)
    return quote(text, safe="")


def as_uuid(ours: str) -> str:
    """The 128 bits of an id of ours as a UUID; of an id of another form, one derived from it."""
    try:
        return str(uuid.UUID(ours.partition("_")[2]))
    except ValueError:
        return str(uuid.uuid5(uuid.NAMESPACE_OID, ours))


def text_of(prompt: Prompt) -> str:
    """The words of a prompt, its structured input after them as JSON."""
    if prompt.input is None:
        return prompt.text
    structured = json.dumps(dict(prompt.input), ensure_ascii=False)
    return "\n\n".join(filter(None, (prompt.text, structured)))


def is_text(file: PromptFile) -> bool:
    kind = file.media_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind in _TEXT_TYPES or kind.endswith(("+json", "+xml"))


async def text_in(file: PromptFile) -> str:
    """The text of a file that goes into the prompt itself.  Raises `Unsupported` for one that is
    too large, or no text."""
    if not is_text(file) or file.size > MAX_INLINE:
        raise Unsupported(
            f"{file.name}: this runtime takes text files of at most {MAX_INLINE // 1024} kB, "
            f"which become part of the prompt, not {file.size} bytes of {file.media_type}"
        )
    try:
        return (await file.read()).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise Unsupported(f"{file.name} is no UTF-8 text, and this runtime takes no other") from exc


async def inlined(file: PromptFile) -> str:
    """`text_in`, marked with the file's name."""
    name = html.escape(file.name, quote=True)
    return f'<file name="{name}">\n{await text_in(file)}\n</file>'
