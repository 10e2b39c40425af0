"""JSON as it goes over the wire, ids, and what a client is answered instead of a result.  Nothing
here does I/O."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

Json = dict[str, Any]
NewId = Callable[[str], str]
"""From a prefix (`resp`) to a fresh id."""

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"
"""A comment, which every reader of event streams ignores."""


def new_id(prefix: str) -> str:
    """`prefix_` and 48 hex digits, as OpenAI's ids look; 192 random bits."""
    separator = "-" if prefix in ("file", "chatcmpl") else "_"
    return f"{prefix}{separator}{secrets.token_hex(24)}"


def encode(value: Any) -> bytes:
    """Compact JSON.  Text that UTF-8 cannot hold (a lone surrogate) is escaped."""
    try:
        return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


class ApiError(Exception):
    """What a client is answered instead of a result, in OpenAI's error shape."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
        self.headers = dict(headers or {})

    @property
    def body(self) -> Json:
        return error_body(self.status, self.message, param=self.param, code=self.code)


_KINDS: Final = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


def error_body(
    status: int, message: str, *, param: str | None = None, code: str | None = None
) -> Json:
    kind = _KINDS.get(status, "server_error" if status >= 500 else "invalid_request_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def bad(message: str, param: str | None = None, code: str | None = None) -> ApiError:
    """The client's request is wrong."""
    return ApiError(400, message, param=param, code=code)


def missing(message: str, param: str | None = None) -> ApiError:
    """No such thing, or somebody else's."""
    return ApiError(404, message, param=param, code="not_found")


def mapping(value: Any) -> Json:
    """`value` where it is an object, else an empty one: for reading what others sent."""
    return value if isinstance(value, dict) else {}


def sequence(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
