"""The `files` argument: from what a caller wrote to what the control layer takes.

Nothing is opened here.  What a path may name is decided by the control layer, on stdio only."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from lap_mcp.control.services import FileInput
from lap_mcp.errors import Invalid, LimitReached

from .options import MAX_FILE_BYTES, MAX_FILES
from .text import one_line
from .toolset import Caller

_LAP: Final = re.compile(
    r"lap://(sessions/ses_[0-9a-f]{32}/files/[^/?#]+|sandboxes/sbx_[0-9a-f]{32}/files/[^?#]+)"
)
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")

SCHEMA: Final[Mapping[str, Any]] = {
    "type": "array",
    "description": "lap:// URIs, paths (stdio only) or base64 up to 5 MB.",
    "maxItems": MAX_FILES,
    "items": {
        "anyOf": [
            {"type": "string"},
            {
                "type": "object",
                "properties": {"name": {"type": "string"}, "base64": {"type": "string"}},
                "required": ["name", "base64"],
                "additionalProperties": False,
            },
        ]
    },
}


def file_inputs(caller: Caller, entries: Sequence[Any]) -> tuple[FileInput, ...]:
    """Raises: Invalid for what is refused here, LimitReached for a file over 5 MB."""
    return tuple(_one(caller, entry) for entry in entries)


def _one(caller: Caller, entry: Any) -> FileInput:
    if isinstance(entry, str):
        return _named(caller, entry)
    return FileInput(name=_plain_name(entry["name"]), data=_decoded(entry))


def _named(caller: Caller, entry: str) -> FileInput:
    shown = one_line(entry, 120)
    if entry.startswith("lap://"):
        if _LAP.fullmatch(entry) is None:
            raise Invalid(
                f"`{shown}` is not the URI of a file.",
                remedy="Give lap://sessions/ID/files/NAME or lap://sandboxes/ID/files/PATH.",
            )
        return FileInput(uri=entry)
    if _SCHEME.match(entry):
        raise Invalid(
            f"`{shown}` is an address; files are never fetched from one.",
            remedy="Download it yourself and give {name, base64}, or a lap:// URI.",
        )
    if caller.transport != "stdio":
        raise Invalid(
            f"`{shown}` is a path; this server is not on your machine and reads no paths.",
            remedy="Give the file as {name, base64}, or a lap:// URI.",
        )
    if not entry.strip() or "\0" in entry:
        raise Invalid("An entry of `files` is an empty path.", remedy="Give a path or lap:// URI.")
    return FileInput(path=entry)


def _plain_name(name: str) -> str:
    if not name or len(name) > 200 or name in (".", "..") or re.search(r"[/\\\x00-\x1f]", name):
        raise Invalid(
            f"`{one_line(name, 120)}` is not a file name.",
            remedy="Give a plain name without folders, like `data.csv`.",
        )
    return name


def _decoded(entry: Mapping[str, Any]) -> bytes:
    name = one_line(entry["name"], 120)
    encoded = entry["base64"]
    if len(encoded) > MAX_FILE_BYTES * 4 // 3 + 4:
        raise LimitReached(
            f"`{name}` is larger than 5 MB.",
            remedy="Give a smaller file, or a path (stdio) or lap:// URI instead.",
        )
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise Invalid(
            f"The content of `{name}` is not base64.",
            remedy="Encode the file's bytes with standard base64, without line breaks.",
        ) from None
