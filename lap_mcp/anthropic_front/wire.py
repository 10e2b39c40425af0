"""The few shapes of Anthropic's wire that every part here shares: events, errors, names.

Source of the shapes: the public Messages and Files API reference, the types of `anthropic` 2.14.
Nothing here does I/O.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

from lap_mcp.front_parts.wire import Json, encode

PYTHON: Final = "code_execution"
BASH: Final = "bash_code_execution"
EDITOR: Final = "text_editor_code_execution"
OURS: Final = (PYTHON, BASH, EDITOR)
RESULTS: Final = {f"{name}_tool_result": name for name in OURS}
"""Types of result blocks, and the call that each answers."""

_EVENT_NAME: Final = re.compile(r"[\w.]{1,100}")
_KINDS: Final = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
STATUS_OF: Final = {kind: status for status, kind in _KINDS.items()}


def event_bytes(event: Mapping[str, Any]) -> bytes:
    """An event of a stream.  Its type may be an upstream's and must not break out of its line."""
    name = str(event.get("type"))
    shown = name if _EVENT_NAME.fullmatch(name) else "message"
    return b"event: %b\ndata: %b\n\n" % (shown.encode(), encode(event))


def error_of(status: int, message: str) -> Json:
    """The body of an error, which is an event of a stream as well."""
    kind = _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")
    return {"type": "error", "error": {"type": kind, "message": message}}


def shown_id(upstream_id: str) -> str:
    """A call's id for the client, `srvtoolu_…`; `upstream_id_of` leads back, with no memory."""
    return f"srv{upstream_id}"


def upstream_id_of(shown: str) -> str:
    return shown.removeprefix("srv")
