"""The content blocks that MCP and ACP share, and JSON from outside read without trust.  No I/O."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any

from lap_runtimes.base import File
from lap_runtimes.files import plain_name

Json = Mapping[str, Any]


def mapping(value: Any) -> Json:
    return value if isinstance(value, Mapping) else {}


def items(value: Any) -> list[Json]:
    return [each for each in value if isinstance(each, Mapping)] if isinstance(value, list) else []


def file_of(content: Json, file_id: str) -> File | None:
    """The file in a content block (of MCP or ACP); None: it holds none."""
    resource = mapping(content.get("resource"))
    kind = content.get("type")
    if kind in ("image", "audio"):
        data, media_type = _decoded(content.get("data")), str(content.get("mimeType") or "")
    elif kind == "resource" and "blob" in resource:
        data, media_type = _decoded(resource.get("blob")), str(resource.get("mimeType") or "")
    elif kind == "resource" and isinstance(resource.get("text"), str):
        data = resource["text"].encode("utf-8", "surrogatepass")
        media_type = str(resource.get("mimeType") or "text/plain")
    else:
        return None
    if data is None:
        return None
    media_type = media_type or "application/octet-stream"
    uri = str(content.get("uri") or resource.get("uri") or "")
    name = plain_name(uri, fallback=str(kind), media_type=media_type)
    return File(id=file_id, file_id=file_id, name=name, media_type=media_type, data=data)


def _decoded(value: Any) -> bytes | None:
    try:
        return base64.b64decode(value) if isinstance(value, str) else None
    except binascii.Error:
        return None
