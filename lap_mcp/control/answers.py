"""Answers that were given a moment ago: whoever waited for one asks for it next, and need not have
the store read what this process has just written."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from lap_mcp.model import StoredEvent

_FRESH = 2.0
"""Seconds for which an answer is kept here; later ones are the store's …"""
_KEPT = 64
"""… and no more of them than this …"""
_LENGTH = 64 * 1024
"""… of at most so many characters each."""


class Said:
    """The messages of one turn, while everything that belongs to its answer is known here."""

    def __init__(self) -> None:
        self._parts: list[str] | None = None

    def begin(self, *, whole: bool) -> None:
        """A turn comes now.  `whole`: nothing of it was stored before, by anybody."""
        self._parts = [] if whole else None

    def add(self, stored: Sequence[StoredEvent]) -> None:
        for event in stored:
            if event.type == "agent.message":
                self._say(event)
            elif event.type == "agent.file":
                self._parts = None

    def _say(self, event: StoredEvent) -> None:
        if self._parts is None:
            return
        self._parts.append(str(event.payload["text"]))
        if "blob" in event.payload or sum(map(len, self._parts)) > _LENGTH:
            self._parts = None

    @property
    def text(self) -> str | None:
        """All of it, a blank line between messages; `None`: the store has to be asked."""
        return None if self._parts is None else "\n\n".join(part for part in self._parts if part)


@dataclass(frozen=True, slots=True)
class _Answer:
    principal: str
    text: str
    until: float


class Answers:
    """Of turns that have just ended.  Each is given once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], _Answer] = {}
        """By session and turn."""

    def keep(self, principal: str, session_id: str, turn_id: str, said: Said) -> None:
        text = said.text
        if text is None:
            return
        self._kept[session_id, turn_id] = _Answer(principal, text, time.monotonic() + _FRESH)
        while len(self._kept) > _KEPT:
            del self._kept[next(iter(self._kept))]

    def take(self, principal: str, session_id: str, turn_id: str) -> str | None:
        answer = self._kept.get((session_id, turn_id))
        if answer is None or answer.principal != principal:
            return None
        del self._kept[session_id, turn_id]
        return answer.text if time.monotonic() < answer.until else None
