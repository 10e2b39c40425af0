"""Names for files whose name a runtime chose: it is text from outside, and becomes a path later."""

from __future__ import annotations

import mimetypes
import unicodedata

_MAX_NAME = 120


def plain_name(name: str, *, fallback: str, media_type: str = "") -> str:
    """A plain file name: the last component, without control, format (bidirectional, zero-width)
    or reserved characters, without a leading dot, at most 120 characters."""
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    kept = "".join(c for c in last if unicodedata.category(c)[0] != "C" and c not in '<>:"|?*')
    kept = kept.strip().lstrip(".").strip()
    if not kept:
        kept = fallback + (mimetypes.guess_extension(media_type) or "")
    if len(kept) > _MAX_NAME:
        stem, dot, suffix = kept.rpartition(".")
        tail = f".{suffix}" if dot and len(suffix) <= 10 else ""
        kept = (stem if tail else kept)[: _MAX_NAME - len(tail)] + tail
    return kept
