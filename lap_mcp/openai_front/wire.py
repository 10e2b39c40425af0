"""The few shapes of OpenAI's wire that every part here shares: events, errors, ids.

Source of the shapes: the public API reference, the types of `openai` 3.54 and recorded streams.
Nothing here does I/O.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lap_mcp.front_parts.wire import (
    DONE,
    KEEP_ALIVE,
    ApiError,
    Json,
    NewId,
    bad,
    encode,
    error_body,
    mapping,
    missing,
    new_id,
    sequence,
)

__all__ = [
    "ApiError",
    "DONE",
    "INTERPRETER",
    "Json",
    "KEEP_ALIVE",
    "NewId",
    "bad",
    "chunk_event",
    "encode",
    "error_body",
    "mapping",
    "missing",
    "named_event",
    "new_id",
    "sequence",
]

INTERPRETER: Final = "code_interpreter"


def named_event(event: Mapping[str, Any]) -> bytes:
    """An event of a Responses stream."""
    kind = b" ".join(str(event["type"]).encode("ascii", "replace").split())
    return b"event: %b\ndata: %b\n\n" % (kind, encode(event))


def chunk_event(chunk: Mapping[str, Any]) -> bytes:
    """A chunk of a Chat Completions stream."""
    return b"data: %b\n\n" % encode(chunk)
