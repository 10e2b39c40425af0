"""What goes wrong with a database, in words with a remedy."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError

from lap_mcp.errors import StoreError

BUSY_TIMEOUT = 10.0
"""Seconds to wait for another process's write transaction."""


def worded(error: Exception, where: str) -> StoreError:
    """`where`: the file, or the kind of server."""
    cause = error.orig if isinstance(error, DBAPIError) else error
    text = str(cause)
    if "disk is full" in text or "No space left" in text:
        return StoreError(
            f"The disk that holds {where} is full; nothing was stored.",
            remedy="Free some room, then try again.",
        )
    if "readonly" in text or "unable to open" in text:
        return StoreError(
            f"{where} cannot be opened for writing ({text}).",
            remedy="Check the folder's owner and rights, or set LAP_HOME.",
        )
    if "database is locked" in text or "lock timeout" in text:
        return StoreError(
            f"{where} was locked by another process for {BUSY_TIMEOUT:.0f} s.",
            remedy="Look for a stopped lap-mcp process, then try again.",
        )
    if "not a database" in text or "malformed" in text:
        return StoreError(
            f"{where} is damaged or not a lap-mcp store ({text}).",
            remedy="Move it away and start again; sessions in it are lost to this server.",
        )
    return StoreError(f"The store failed ({where}): {text}")
