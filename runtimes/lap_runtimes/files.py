"""Files that a runtime made: names that are safe to use, and links that are followed."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from lap_runtimes.base import Event, File, Message, together
from lap_runtimes.errors import RuntimeFailure
from lap_runtimes.http import HTTP

_MAX_NAME = 120
_SUFFIXES = {
    "application/json": ".json",
    "application/pdf": ".pdf",
    "application/zip": ".zip",
    "audio/mpeg": ".mp3",
    "audio/wav": ".wav",
    "image/gif": ".gif",
    "image/jpeg": ".jpg",
    "image/png": ".png",
    "image/svg+xml": ".svg",
    "image/webp": ".webp",
    "text/csv": ".csv",
    "text/html": ".html",
    "text/markdown": ".md",
    "text/plain": ".txt",
    "video/mp4": ".mp4",
}
"""The standard library reads files of the machine for this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileLink(Event):
    """A file that is still at its runtime.  Never leaves an adapter: `fetched` makes a `File`."""

    file_id: str
    name: str
    media_type: str
    """Empty: as it is served."""
    url: str
    """Absolute, or below the runtime's own address."""


async def fetched(http: HTTP, event: Event) -> Event:
    """The event; a link, followed: as the file, or as words that say why it was not."""
    if not isinstance(event, FileLink):
        return event
    try:
        got = await http.download(http.url(event.url), whence=f"the agent's file {event.name}")
    except RuntimeFailure as exc:
        text = f"{event.name}: {event.url} (not fetched: {exc.message})"
        return Message(
            id=event.id, ref=event.ref, cursor=event.cursor, message_id=event.file_id, text=text
        )
    return File(
        id=event.id,
        ref=event.ref,
        cursor=event.cursor,
        file_id=event.file_id,
        name=event.name,
        media_type=event.media_type or got.media_type,
        data=got.data,
    )


def at_once(events: Sequence[Event]) -> Sequence[Event]:
    """Events that came together, marked so where none of them has to be fetched first."""
    return events if any(isinstance(event, FileLink) for event in events) else together(events)


def plain_name(name: str, *, fallback: str, media_type: str = "") -> str:
    """A name that is safe as a path component, of a name that is text from outside: the last
    component, without control, format (bidirectional, zero-width) or reserved characters, without
    a leading dot, at most 120 characters."""
    last = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]
    kept = "".join(c for c in last if unicodedata.category(c)[0] != "C" and c not in '<>:"|?*')
    kept = kept.strip().lstrip(".").strip()
    if not kept:
        kept = fallback + _SUFFIXES.get(media_type, "")
    if len(kept) > _MAX_NAME:
        stem, dot, suffix = kept.rpartition(".")
        tail = f".{suffix}" if dot and len(suffix) <= 10 else ""
        kept = (stem if tail else kept)[: _MAX_NAME - len(tail)] + tail
    return kept
