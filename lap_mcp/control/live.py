"""What is going on in this process, per session: who listens, and the text of open messages.

Nothing here is stored and nothing here waits: publishing to a slow follower marks it as lagging,
and it reads the store instead.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import anyio

from lap_mcp.model import Delta, StoredEvent, Turn

from .answers import Answers
from .services import Followed

_INBOX = 1024
"""Items kept for a follower that does not read; then it has to read the store."""

_TURNS = 8
"""Turns of a session that are known here: the one that runs, and those that just ended."""


class Inbox:
    """What one follower has not seen yet.  `deltas`: of open messages too."""

    def __init__(self, *, deltas: bool = True) -> None:
        self.deltas = deltas
        self._items: deque[Followed] = deque()
        self._wake = anyio.Event()
        self.lagged = False

    def put(self, item: Followed) -> None:
        if len(self._items) >= _INBOX:
            self._items.clear()
            self.lagged = True
        self._items.append(item)
        self._wake.set()

    def poke(self) -> None:
        """Wake the follower: something changed that is not an event."""
        self._wake.set()

    def forget_deltas(self) -> None:
        self._items = deque(item for item in self._items if not isinstance(item, Delta))

    async def take(self, timeout: float) -> Sequence[Followed]:
        """What came, after at most `timeout` seconds."""
        with anyio.move_on_after(timeout):
            await self._wake.wait()
        items = tuple(self._items)
        self._items.clear()
        self._wake = anyio.Event()
        return items


@dataclass
class OpenMessage:
    kind: Literal["message", "thinking"]
    turn_id: str
    parts: list[str] = field(default_factory=list)
    size: int = 0
    """Characters."""

    @property
    def text(self) -> str:
        if len(self.parts) > 1:
            self.parts = ["".join(self.parts)]
        return self.parts[0] if self.parts else ""


class Live:
    """One session."""

    def __init__(self, session_id: str) -> None:
        self.session_id = session_id
        self._driver: object | None = None
        self.open: dict[str, OpenMessage] = {}
        self.inboxes: set[Inbox] = set()
        self._turns: dict[str, tuple[str, Turn]] = {}

    def know(self, principal: str, turn: Turn) -> None:
        """How the principal's turn stands, by the driver's own word: nobody need ask the store."""
        self._turns[turn.id] = (principal, turn)
        while len(self._turns) > _TURNS:
            del self._turns[next(iter(self._turns))]

    def doubt(self, turn_id: str) -> None:
        """The turn may stand otherwise than was known."""
        self._turns.pop(turn_id, None)

    def turn(self, principal: str, turn_id: str) -> Turn | None:
        """The turn where it is known here."""
        owner, turn = self._turns.get(turn_id, ("", None))
        return turn if owner == principal else None

    @property
    def driven(self) -> bool:
        """This process drives its turn: events arrive here without asking the store."""
        return self._driver is not None

    def drive(self, driver: object) -> None:
        self._driver = driver
        self.open.clear()

    def leave(self, driver: object) -> None:
        """The driver stops.  Another may have begun, once this one had given its lease back."""
        if self._driver is driver:
            self._driver = None
            self.open.clear()
            self._turns = {key: known for key, known in self._turns.items() if known[1].ended}
            self.poke()

    @property
    def open_characters(self) -> int:
        return sum(message.size for message in self.open.values())

    @property
    def idle(self) -> bool:
        return not self.driven and not self.inboxes

    def publish(self, events: Sequence[StoredEvent]) -> None:
        for event in events:
            for inbox in self.inboxes:
                inbox.put(event)

    def poke(self) -> None:
        for inbox in self.inboxes:
            inbox.poke()

    def delta(
        self, turn_id: str, kind: Literal["message", "thinking"], message_id: str, text: str
    ) -> None:
        message = self.open.get(message_id)
        if message is None:
            message = self.open[message_id] = OpenMessage(kind, turn_id)
        message.parts.append(text)
        message.size += len(text)
        self._show(Delta(session_id=self.session_id, turn_id=turn_id, kind=kind,
                         message_id=message_id, text=text))  # fmt: skip

    def progress(self, turn_id: str, text: str) -> None:
        self._show(Delta(session_id=self.session_id, turn_id=turn_id, kind="progress",
                         message_id="", text=text))  # fmt: skip

    def close(self, message_id: str) -> None:
        self.open.pop(message_id, None)

    def restart(self) -> None:
        """The stream is replayed: open messages come again from their beginning."""
        for message_id, message in self.open.items():
            self._show(Delta(session_id=self.session_id, turn_id=message.turn_id,
                             kind=message.kind, message_id=message_id, text="",
                             replace=True))  # fmt: skip
        self.open.clear()

    def snapshot(self) -> Sequence[Delta]:
        return [
            Delta(
                session_id=self.session_id,
                turn_id=message.turn_id,
                kind=message.kind,
                message_id=message_id,
                text=message.text,
                replace=True,
            )  # fmt: skip
            for message_id, message in self.open.items()
        ]

    def _show(self, delta: Delta) -> None:
        for inbox in self.inboxes:
            if inbox.deltas:
                inbox.put(delta)


class Hub:
    """The live sessions of this process; one that is neither driven nor followed is forgotten."""

    def __init__(self) -> None:
        self._lives: dict[str, Live] = {}
        self.answers = Answers()

    def get(self, session_id: str) -> Live:
        live = self._lives.get(session_id)
        if live is None:
            live = self._lives[session_id] = Live(session_id)
        return live

    def find(self, session_id: str) -> Live | None:
        return self._lives.get(session_id)

    def release(self, live: Live) -> None:
        if live.idle and self._lives.get(live.session_id) is live:
            del self._lives[live.session_id]

    @contextmanager
    def join(self, session_id: str, *, deltas: bool = True) -> Iterator[tuple[Live, Inbox]]:
        live, inbox = self.get(session_id), Inbox(deltas=deltas)
        live.inboxes.add(inbox)
        try:
            yield live, inbox
        finally:
            live.inboxes.discard(inbox)
            self.release(live)

    def __len__(self) -> int:
        return len(self._lives)
