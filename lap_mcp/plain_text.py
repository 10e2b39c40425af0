"""Text that leaves through a face: cleaned of what hides or steers, and cut into pages."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_ESCAPE: Final = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b]*(?:\x07|\x1b\\)?|[ -/]*[0-~])"
    r"|\x9b[0-?]*[ -/]*[@-~]"
)
"""Terminal sequences: CSI, OSC and its kin with their text, two-byte ones."""
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_STEERING: Final = re.compile(
    "[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # bidirectional marks and overrides
    "\u200b\u2060-\u2065\ufeff\u00ad\u180e"  # invisible
    "\ufff9-\ufffb"  # interlinear annotation
    "\U000e0000-\U000e007f]"  # tags: text that only a model reads
)
_JOINERS: Final = re.compile("[\u200c\u200d]")
_SURROGATES: Final = re.compile("[\ud800-\udfff]")


def clean(text: str) -> str:
    """Prose or output, without terminal sequences, control, bidirectional and invisible
    characters.  Line ends become `\\n`; of a line that was overwritten with `\\r` the last state
    stays; joiners stay, since emoji and several scripts need them."""
    if not text:
        return ""
    text = _ESCAPE.sub("", text).replace("\r\n", "\n")
    if "\r" in text:
        text = "\n".join(_last_state(line) for line in text.split("\n"))
    text = _STEERING.sub("", _CONTROL.sub("", text))
    return _SURROGATES.sub("\ufffd", text)


def _last_state(line: str) -> str:
    states = [state for state in line.split("\r") if state]
    return states[-1] if states else ""


def one_line(text: str, limit: int = 200) -> str:
    """One line of plain text, at most `limit` characters."""
    flat = " ".join(_JOINERS.sub("", clean(text)).split())
    return flat if len(flat) <= limit else flat[: limit - 1].rstrip() + "…"


@dataclass(frozen=True, slots=True)
class Page:
    """Part of a longer text; offsets count characters."""

    text: str
    offset: int
    total: int

    @property
    def next(self) -> int | None:
        """Where the next page starts; `None` at the end."""
        end = self.offset + len(self.text)
        return end if end < self.total else None


def page(text: str, offset: int, limit: int) -> Page:
    """At most `limit` bytes (UTF-8) of `text` from `offset`, cut at a line end where one is near.

    Pages put one after the other are the text."""
    offset = min(max(offset, 0), len(text))
    part = text[offset : offset + limit]
    if len(part.encode()) > limit:
        part = part.encode()[:limit].decode(errors="ignore")
    if offset + len(part) < len(text):
        newline = part.rfind("\n", len(part) * 4 // 5)
        if newline > 0:
            part = part[: newline + 1]
    return Page(text=part, offset=offset, total=len(text))


def shorten(text: str, limit: int) -> tuple[str, int]:
    """Head and tail of `text` in `limit` bytes, and how many characters were left out."""
    data = text.encode(errors="surrogatepass")  # half a character, as a client may send it
    if len(data) <= limit:
        return text, 0
    head = data[: limit * 2 // 3].decode(errors="ignore")
    tail = data[-(limit // 3) :].decode(errors="ignore")
    dropped = len(text) - len(head) - len(tail)
    return f"{head}\n… {dropped} characters left out …\n{tail}", dropped


def iso(at: float) -> str:
    """Seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
