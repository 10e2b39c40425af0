"""What goes wrong with a database, in words with a remedy."""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy.exc import DBAPIError

from lap_mcp.errors import StoreError

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process's write transaction."""


_KNOWN: Sequence[tuple[Sequence[str], str, str]] = (
    (
        ("disk is full", "No space left"),
        "The disk that holds {where} is full; nothing was stored.",
        "Free some room, then try again.",
    ),
    (
        ("readonly", "unable to open"),
        "{where} cannot be opened for writing ({text}).",
        "Check the folder's owner and rights, or set LAP_HOME.",
    ),
    (
        ("database is locked", "lock timeout"),
        f"{{where}} was locked by another process for {BUSY_TIMEOUT:.0f} s.",
        "Look for a stopped lap-mcp process, then try again.",
    ),
    (
        ("not a database", "malformed"),
        "{where} is damaged or not a lap-mcp store ({text}).",
        "Move it away and start again; sessions in it are lost to this server.",
    ),
)
"""What is in a driver's words, ours, and the remedy."""


def worded(error: Exception, where: str) -> StoreError:
    """`where`: the file, or the kind of server."""
    text = str(error.orig if isinstance(error, DBAPIError) else error)
    for parts, words, remedy in _KNOWN:
        if any(part in text for part in parts):
            return StoreError(words.format(where=where, text=text), remedy=remedy)
    return StoreError(f"The store failed ({where}): {text}")
