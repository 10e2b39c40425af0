"""What a runtime says, taken in: stored, shown, or both.  One event at a time, in order."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Literal

import anyio
from lap_runtimes import base
from lap_runtimes.errors import ProtocolError
from sqlalchemy import Connection

from lap_mcp.clock import new_id
from lap_mcp.model import Question, SessionFile, StoredEvent
from lap_mcp.store import driving as moments
from lap_mcp.store import events as event_store
from lap_mcp.store import files as file_store
from lap_mcp.store import questions as question_store
from lap_mcp.store.codec import dump
from lap_mcp.store.events import NewEvent, Progress
from lap_mcp.store.turns import Phase

from .driving import Replayed
from .leased import Leased
from .naming import safe_file_name
from .pacing import Goes, Waits
from .recording import recorded
from .storable import MAX_ID, short_id

CHECKPOINT_SECONDS = 1.0
CHECKPOINT_CHARACTERS = 4096
_QUICK = 64 * 1024
"""Characters of a checkpoint that is written on the event loop."""
MAX_OPEN = 16 * 1024 * 1024
"""Characters of messages that are open: a runtime that begins them and never ends is stopped."""
_TOGETHER = 32
"""Events that are stored at once, at most."""
_STORED = (base.Message, base.Thinking, base.ToolUse, base.ToolResult, base.Usage)
"""Events that are stored as they are, whatever else happens."""


def _later(before: Progress, after: Progress) -> Progress:
    """Where a runtime's stream is after both."""
    return Progress(
        ref=before.ref if after.ref is None else after.ref,
        cursor=before.cursor if after.cursor is None else after.cursor,
        phase=before.phase if after.phase is None else after.phase,
    )


class Intake:
    def __init__(self, leased: Leased) -> None:
        self._leased = leased
        self._scrubber = leased.engine.scrubber
        self._saved_at = anyio.current_time()
        self._held: dict[str, str] = {}
        """Ends of open messages that may be the beginning of a secret."""
        self._unsaved = 0
        """Characters of open messages since the last checkpoint …"""
        self._saved = 0
        """… and in it."""
        self._finished: set[str] = set()
        """Messages of this turn whose deltas, if a replay brings them again, say nothing new."""
        self.ref: base.Ref = {}
        self.begun = False
        """`ref` is one of this turn.  Before, it leads to the turn before it, if anywhere."""
        self.waiting = False
        """Nothing was sent yet: the turn waits for its runtime."""
        self._in_stream = False
        self._kept: list[NewEvent] = []
        """Events to be stored with the one that comes next, since it came with them …"""
        self._kept_progress = Progress()
        """… and what the runtime said with them."""

    def begin(
        self, ref: base.Ref, finished: Collection[str], *, begun: bool, in_stream: bool
    ) -> None:
        """A turn comes now.

        Args:
            ref: the session's, which may be that of an earlier turn.
            begun: the ref is this turn's; it was taken over from another process.
            finished: ids of its messages that are stored already.
            in_stream: the runtime's questions leave its stream open.
        """
        self.ref = ref
        self.begun = begun
        self.waiting = False
        self._finished = set(finished)
        self._in_stream = in_stream
        self._kept, self._kept_progress = [], Progress()

    async def take(self, event: base.Event) -> None:
        """Raises: LeaseLost, StoreError, ProtocolError (an oversized reference)."""
        await self._before(event)
        match event:
            case base.MessageDelta():
                await self._delta("message", short_id(event.message_id), event.text)
            case base.ThinkingDelta():
                await self._delta("thinking", short_id(event.message_id), event.text)
            case base.Progress():
                self._leased.live.progress(self._leased.turn_id, self._scrubber.text(event.text))
            case base.Asked():
                await self._asked(event)
            case base.QuestionClosed():
                await self._question_closed(event)
            case base.File():
                await self._file(event)
            case Replayed():
                self._held.clear()
                self._leased.live.restart()
            case Waits() | Goes():
                await self._waits(event)
            case base.Heartbeat():
                pass
            case _:
                await self._stored(event)

    def flush(self) -> None:
        """Nothing more comes: show what was held back."""
        for message_id, text in self._held.items():
            message = self._leased.live.open.get(message_id)
            kind = "message" if message is None else message.kind
            self._leased.live.delta(
                self._leased.turn_id, kind, message_id, self._scrubber.text(text)
            )
        self._held.clear()

    async def _waits(self, event: Waits | Goes) -> None:
        """Nothing was sent, or something is about to be: stored, for whoever takes this over."""
        waits = isinstance(event, Waits)
        if waits != self.waiting:
            self.waiting = waits
            phase = Phase.STORED if waits else Phase.SENT
            await self._leased.append([], Progress(phase=phase))
        if isinstance(event, Waits):
            self._leased.live.progress(self._leased.turn_id, event.text)

    async def moved(self, event: base.Event) -> None:
        """Keep the event's `ref` and `cursor`, if it has any."""
        if event.ref is not None or event.cursor is not None:
            await self._leased.append([], self.progress(event))

    async def _stored(self, event: base.Event) -> None:
        new = await recorded(event, self._leased.engine.blobs.put, self._scrubber)
        if new is None:
            await self.moved(event)
            return
        if new.closes:
            closes = short_id(new.closes)
            self._leased.live.close(closes)
            self._held.pop(closes, None)
            self._finished.add(closes)
            new = replace(new, closes=closes)
        if new.native_id is not None:
            new = replace(new, native_id=short_id(new.native_id))
        self._kept.append(new)
        self._kept_progress = _later(self._kept_progress, self.progress(event))
        if not event.more or len(self._kept) >= _TOGETHER:
            await self.settle()

    async def _before(self, event: base.Event) -> None:
        """What was kept is stored with events of its like only."""
        if self._kept and not isinstance(event, _STORED):
            await self.settle()

    async def settle(self) -> None:
        """Store what was kept for the event that was to follow.  Raises: LeaseLost, StoreError."""
        new, progress = self.kept()
        if new:
            await self._leased.append(new, progress)

    def kept(self, progress: Progress | None = None) -> tuple[Sequence[NewEvent], Progress]:
        """What is still to be stored, for whoever stores it now, with `progress`, the newer."""
        new, before = self._kept, self._kept_progress
        self._kept, self._kept_progress = [], Progress()
        return new, _later(before, progress or Progress())

    def progress(self, event: base.Event) -> Progress:
        """The event's `ref` and `cursor`, to be stored.  Raises: ProtocolError."""
        cursor = None if event.cursor is None else self._scrubber.text(event.cursor)
        if event.ref is None:
            return Progress(cursor=cursor)
        size = len(dump(dict(event.ref)).encode())
        if size > base.MAX_REF_BYTES:
            raise ProtocolError(
                f"The adapter's reference has {size} bytes; {base.MAX_REF_BYTES} is the limit."
            )
        self.ref = self._scrubber.data(event.ref)
        self.begun = True
        return Progress(ref=self.ref, cursor=cursor, phase=Phase.BEGUN)

    async def _delta(
        self, kind: Literal["message", "thinking"], message_id: str, text: str
    ) -> None:
        leased, live = self._leased, self._leased.live
        if message_id in self._finished:
            return
        text = self._settled(message_id, text)
        if not text:
            return
        live.delta(leased.turn_id, kind, message_id, text)
        if live.open_characters > MAX_OPEN:
            raise ProtocolError(
                f"The runtime wrote {MAX_OPEN >> 20} million characters and ended no message."
            )
        now = anyio.current_time()
        self._unsaved += len(text)
        # A checkpoint is the whole text so far: of a long one, only when it has grown by a part.
        enough = max(CHECKPOINT_CHARACTERS, self._saved // 8)
        if now - self._saved_at < CHECKPOINT_SECONDS and self._unsaved < enough:
            return
        snapshot = live.snapshot()
        self._saved_at, self._unsaved = now, 0
        self._saved = sum(len(delta.text) for delta in snapshot)
        if leased.memory is not None:
            leased.memory.checkpoints = True
        await leased.write(
            lambda connection: event_store.checkpoint(connection, leased.lease, snapshot),
            quick=self._saved <= _QUICK,
        )

    def _settled(self, message_id: str, text: str) -> str:
        """What can be shown of a message: a secret may come in two pieces."""
        text = self._held.pop(message_id, "") + text
        if length := self._scrubber.unsettled(text):
            self._held[message_id], text = text[-length:], text[:-length]
        return self._scrubber.text(text)

    async def _asked(self, event: base.Asked) -> None:
        leased = self._leased
        now = leased.now
        question = self._question(event.question, now)
        if leased.memory is not None:
            leased.memory.questions = True

        def query(connection: Connection) -> Sequence[StoredEvent]:
            stored: Sequence[StoredEvent] = ()
            if self._in_stream:
                stored = moments.ask(connection, leased.lease, leased.turn_id, question, now)
            else:
                question_store.ask(connection, question)
            event_store.append(
                connection, leased.lease, leased.turn_id, [], now, self.progress(event)
            )
            return stored

        leased.publish(await leased.write(query))

    def _question(self, asked: base.Question, now: float) -> Question:
        leased = self._leased
        return Question(
            id=new_id("qst"),
            session_id=leased.lease.session_id,
            turn_id=leased.turn_id,
            native_id=asked.id[:MAX_ID],
            kind=asked.kind,
            text=self._scrubber.text(asked.text),
            status="open",
            options=tuple(self._scrubber.text(option) for option in asked.options),
            schema=self._scrubber.data(asked.schema),
            tool=asked.tool,
            tool_input=self._scrubber.data(asked.tool_input),
            url=asked.url,
            asked_at=now,
            expires_at=now + leased.engine.limits.question_ttl,
        )

    async def _question_closed(self, event: base.QuestionClosed) -> None:
        leased = self._leased

        def query(connection: Connection) -> Sequence[StoredEvent]:
            closed = question_store.settle(
                connection, leased.turn_id, "closed", event.question_id[:MAX_ID]
            )
            if not closed:
                return ()
            return moments.go_on(connection, leased.lease, leased.turn_id, [], leased.now)

        leased.publish(await leased.write(query))
        await self.moved(event)

    async def _file(self, event: base.File) -> None:
        leased = self._leased
        data = self._scrubber.bytes(event.data)
        file = SessionFile(
            session_id=leased.lease.session_id,
            name=safe_file_name(event.name),
            media_type=event.media_type[:200],
            size=len(data),
            sha256=await leased.engine.blobs.put(data),
            turn_id=leased.turn_id,
            origin="agent",
            at=leased.now,
        )

        def query(connection: Connection) -> Sequence[StoredEvent]:
            kept = file_store.add(connection, file)
            new = NewEvent(
                type="agent.file",
                payload={
                    "id": event.file_id,
                    "name": kept.name,
                    "media_type": kept.media_type,
                    "size": kept.size,
                    "sha256": kept.sha256,
                    "uri": kept.uri,
                },
                native_id=short_id(event.id or event.file_id),
            )
            return event_store.append(
                connection, leased.lease, leased.turn_id, [new], leased.now, self.progress(event)
            )

        leased.publish(await leased.write(query))
