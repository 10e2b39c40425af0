"""Services that play scripts: the real shapes and behaviour in memory, no runtime, no engine.

An agent is a coroutine that gets a `Stage` and may speak, make files, ask, wait or fail.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import anyio
import anyio.abc
import anyio.lowlevel
from anyio.streams.memory import MemoryObjectSendStream
from lap_runtimes.base import Capabilities

from lap_mcp.clock import new_id
from lap_mcp.control.changes import Change, Changes
from lap_mcp.control.services import (
    Accepted,
    Followed,
    NewAnswer,
    NewPrompt,
    Services,
    TurnContent,
)
from lap_mcp.errors import Conflict, Invalid, NotFound, Unavailable
from lap_mcp.model import (
    Agent,
    Delta,
    EventType,
    Origin,
    Principal,
    Problem,
    Question,
    Session,
    SessionFile,
    StoredEvent,
    Turn,
)
from tests.mcp.scripted_sandboxes import ScriptedSandboxes

Script = Callable[["Stage"], Awaitable[None]]


@dataclass
class Room:
    """A session and everything in it."""

    session: Session
    turns: list[Turn] = field(default_factory=list)
    events: list[StoredEvent] = field(default_factory=list)
    files: list[tuple[SessionFile, bytes]] = field(default_factory=list)
    followers: set[MemoryObjectSendStream[Followed]] = field(default_factory=set)
    open_text: str = ""
    scope: anyio.CancelScope | None = None
    playing: str = ""
    """The turn that runs in `scope`."""
    changed: anyio.Event = field(default_factory=anyio.Event)


class Failed(Exception):
    """The scripted agent fails with these words."""


@dataclass
class Stage:
    """What a scripted agent can do in its turn."""

    sessions: ScriptedSessions
    room: Room
    turn_id: str
    prompt: NewPrompt

    async def delta(self, text: str) -> None:
        self.room.open_text += text
        self.sessions.tell(self.room, self.sessions.delta(self.room, self.turn_id, text))
        await anyio.lowlevel.checkpoint()

    async def message(self, text: str, data: Any = None) -> None:
        self.room.open_text = ""
        payload = {"id": "m", "text": text} | ({} if data is None else {"data": data})
        self.sessions.append(self.room, self.turn_id, "agent.message", payload)
        await anyio.lowlevel.checkpoint()

    async def file(self, name: str, media_type: str, data: bytes) -> None:
        stored = SessionFile(
            session_id=self.room.session.id,
            name=name,
            media_type=media_type,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            turn_id=self.turn_id,
            origin="agent",
            at=time.time(),
        )
        self.room.files.append((stored, data))
        self.sessions.append(self.room, self.turn_id, "agent.file", {"name": name})

    async def ask(self, text: str, **fields: Any) -> NewAnswer:
        """Ask, stop for the answer, and give it back."""
        return (await self.ask_all([{"text": text, **fields}]))[0]

    async def ask_all(self, questions: Sequence[Mapping[str, Any]]) -> list[NewAnswer]:
        return await self.sessions.ask(self.room, self.turn_id, questions)


class ScriptedSessions:
    def __init__(self, registry: ScriptedRegistry, changes: Changes) -> None:
        self.registry = registry
        self.changes = changes
        self.rooms: dict[str, Room] = {}
        self.open_questions: dict[str, Question] = {}
        self.answers: dict[str, NewAnswer] = {}
        self.answered_by: dict[str, str] = {}
        self.prompts: list[tuple[Origin, str, NewPrompt]] = []
        self.group: anyio.abc.TaskGroup | None = None

    async def prompt(
        self, origin: Origin, agent: str, prompt: NewPrompt, *, session_id: str | None = None
    ) -> Accepted:
        found = self.registry.agent(agent)
        if not found.enabled:
            raise Unavailable(f"Agent `{agent}` cannot be used: {found.problem}")
        self.prompts.append((origin, agent, prompt))
        room = self._room(origin.principal, session_id) if session_id else self._new(origin, agent)
        if room.session.agent != agent:
            raise Invalid(f"Session {session_id} belongs to agent `{room.session.agent}`.")
        if room.session.status == "requires_action":
            raise Conflict("An approval is open in this session.")
        number = len(room.turns) + 1
        turn = Turn(
            id=new_id("trn"),
            session_id=room.session.id,
            outcome="queued" if room.session.status == "running" else "running",
            number=number,
            prompt=prompt.text,
            created_at=time.time(),
            started_at=time.time(),
        )
        room.turns.append(turn)
        event = self.append(room, turn.id, "user.message", {"text": prompt.text})
        self._set(room, turn.id, first_seq=event.seq)
        assert self.group is not None
        if turn.outcome == "running":
            self._status(room, "running")
            self.group.start_soon(self._play, room, turn.id, prompt)
        return Accepted(session=room.session, turn=turn)

    def _new(self, origin: Origin, agent: str) -> Room:
        now = time.time()
        session = Session(
            id=new_id("ses"),
            principal=origin.principal.id,
            agent=agent,
            status="idle",
            created_at=now,
            updated_at=now,
        )
        room = self.rooms[session.id] = Room(session)
        self.changes.publish(Change("resources"))
        return room

    def _room(self, principal: Principal, session_id: str) -> Room:
        room = self.rooms.get(session_id)
        if room is None or room.session.principal != principal.id:
            raise NotFound(f"There is no session `{session_id}`.")
        return room

    async def _play(self, room: Room, turn_id: str, prompt: NewPrompt) -> None:
        script = self.registry.scripts[room.session.agent]
        stage = Stage(self, room, turn_id, prompt)
        room.playing = turn_id
        with anyio.CancelScope() as room.scope:
            try:
                await script(stage)
                self._end(room, turn_id, "completed", None)
            except Failed as failure:
                self._end(room, turn_id, "failed", str(failure))
        if room.scope.cancelled_caught:
            self._end(room, turn_id, "cancelled", None)

    def _end(
        self,
        room: Room,
        turn_id: str,
        outcome: Literal["completed", "failed", "cancelled"],
        error: str | None,
    ) -> None:
        for question in list(self.open_questions.values()):
            if question.turn_id == turn_id and question.status == "open":
                self.open_questions[question.id] = replace(question, status="closed")
        if room.open_text:
            text, room.open_text = room.open_text, ""
            self.append(room, turn_id, "agent.message", {"id": "m", "text": text})
        event = self.append(room, turn_id, "session.status_idle", {"stop_reason": {"type": "end"}})
        self._set(
            room, turn_id, outcome=outcome, error=error, ended_at=time.time(), last_seq=event.seq
        )
        self._status(room, "idle")

    def _set(self, room: Room, turn_id: str, **fields: Any) -> None:
        room.turns = [replace(t, **fields) if t.id == turn_id else t for t in room.turns]

    def _status(self, room: Room, status: Any) -> None:
        room.session = replace(
            room.session, status=status, turns=len(room.turns), updated_at=time.time()
        )
        room.changed.set()
        room.changed = anyio.Event()
        self.changes.publish(Change("resource", f"lap://sessions/{room.session.id}"))

    def append(
        self, room: Room, turn_id: str, kind: EventType, payload: Mapping[str, Any]
    ) -> StoredEvent:
        event = StoredEvent(
            session_id=room.session.id,
            seq=len(room.events) + 1,
            turn_id=turn_id,
            type=kind,
            payload=payload,
            at=time.time(),
        )
        room.events.append(event)
        room.session = replace(room.session, last_seq=event.seq)
        self.tell(room, event)
        return event

    @staticmethod
    def delta(room: Room, turn_id: str, text: str, *, replace: bool = False) -> Delta:
        return Delta(
            session_id=room.session.id,
            turn_id=turn_id,
            kind="message",
            message_id="m",
            text=text,
            replace=replace,
        )

    def tell(self, room: Room, item: Followed) -> None:
        for send in room.followers:
            send.send_nowait(item)

    async def ask(
        self, room: Room, turn_id: str, questions: Sequence[Mapping[str, Any]]
    ) -> list[NewAnswer]:
        asked = []
        for given in questions:
            fields: dict[str, Any] = {"kind": "approval", **given}
            question = Question(
                id=new_id("qst"),
                session_id=room.session.id,
                turn_id=turn_id,
                native_id="n",
                status="open",
                asked_at=time.time(),
                **fields,
            )
            self.open_questions[question.id] = question
            asked.append(question.id)
        self._set(room, turn_id, outcome="requires_action")
        self._status(room, "requires_action")
        while any(key not in self.answers for key in asked):
            await room.changed.wait()
        return [self.answers[key] for key in asked]

    async def get(self, principal: Principal, session_id: str) -> Session:
        return self._room(principal, session_id).session

    async def turn(self, principal: Principal, session_id: str, turn_id: str) -> Turn:
        for turn in self._room(principal, session_id).turns:
            if turn.id == turn_id:
                return turn
        raise NotFound(f"There is no turn `{turn_id}`.")

    async def turns(self, principal: Principal, session_id: str) -> Sequence[Turn]:
        return self._room(principal, session_id).turns

    async def list(
        self,
        principal: Principal,
        *,
        agent: str | None = None,
        status: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> Sequence[Session]:
        found = [
            room.session
            for room in reversed(self.rooms.values())
            if room.session.principal == principal.id
            and agent in (None, room.session.agent)
            and status in (None, room.session.status)
        ]
        ids = [session.id for session in found]
        start = ids.index(before) + 1 if before in ids else 0
        return found[start : start + limit]

    async def events(
        self, principal: Principal, session_id: str, *, after: int = 0, limit: int = 1000
    ) -> Sequence[StoredEvent]:
        return self._room(principal, session_id).events[after : after + limit]

    @asynccontextmanager
    async def follow(
        self, principal: Principal, session_id: str, *, after: int = 0
    ) -> AsyncIterator[AsyncIterator[Followed]]:
        room = self._room(principal, session_id)
        send, receive = anyio.create_memory_object_stream[Followed](10_000)
        for event in room.events[after:]:
            send.send_nowait(event)
        if room.open_text:
            send.send_nowait(self.delta(room, room.turns[-1].id, room.open_text, replace=True))
        room.followers.add(send)
        try:
            yield receive
        finally:
            room.followers.discard(send)
            send.close()
            receive.close()

    async def wait(
        self, principal: Principal, session_id: str, turn_id: str, *, timeout: float
    ) -> Turn:
        room = self._room(principal, session_id)
        with anyio.move_on_after(timeout):
            while self._outcome(room, turn_id) in ("running", "queued"):
                await room.changed.wait()
        return await self.turn(principal, session_id, turn_id)

    @staticmethod
    def _outcome(room: Room, turn_id: str) -> str:
        return next(turn.outcome for turn in room.turns if turn.id == turn_id)

    async def content(self, principal: Principal, session_id: str, turn_id: str) -> TurnContent:
        room = self._room(principal, session_id)
        texts = [
            str(event.payload["text"])
            for event in room.events
            if event.turn_id == turn_id and event.type == "agent.message"
        ]
        return TurnContent(
            text="\n\n".join([*texts, *([room.open_text] if room.open_text else [])]),
            files=[f for f, _ in room.files if f.turn_id == turn_id and f.origin == "agent"],
        )

    async def questions(
        self,
        principal: Principal,
        *,
        session_id: str | None = None,
        status: str | None = "open",
    ) -> Sequence[Question]:
        return [
            question
            for question in self.open_questions.values()
            if self.rooms[question.session_id].session.principal == principal.id
            and session_id in (None, question.session_id)
            and status in (None, question.status)
        ]

    async def answer(
        self, principal: Principal, question_id: str, answer: NewAnswer, *, by: str
    ) -> Turn:
        question = self.open_questions.get(question_id)
        if question is None:
            raise NotFound(f"There is no question `{question_id}`.")
        room = self._room(principal, question.session_id)
        if question.status != "open":
            raise Conflict("This question is no longer open.")
        if (question.kind == "approval") != (answer.decision is not None):
            raise Invalid("An approval, and nothing else, wants a decision.")
        self.open_questions[question_id] = replace(question, status="answered")
        self.answers[question_id] = answer
        self.answered_by[question_id] = by
        if not await self.questions(principal, session_id=question.session_id):
            self._set(room, question.turn_id, outcome="running")
            self._status(room, "running")
        return await self.turn(principal, room.session.id, question.turn_id)

    async def cancel(
        self, principal: Principal, session_id: str, *, turn_id: str | None = None
    ) -> Session:
        room = self._room(principal, session_id)
        if turn_id is not None and self._outcome(room, turn_id) == "queued":
            self._set(room, turn_id, outcome="cancelled", ended_at=time.time())
            self._status(room, room.session.status)
            return room.session
        if turn_id is None:
            for turn in room.turns:
                if turn.outcome == "queued":
                    self._set(room, turn.id, outcome="cancelled", ended_at=time.time())
        if room.scope is not None and turn_id in (None, room.playing):
            room.scope.cancel()
            while room.session.status in ("running", "requires_action"):
                await room.changed.wait()
        return room.session

    async def files(self, principal: Principal, session_id: str) -> Sequence[SessionFile]:
        return [stored for stored, _ in self._room(principal, session_id).files]

    async def file(
        self, principal: Principal, session_id: str, name: str
    ) -> tuple[SessionFile, bytes]:
        for stored, data in self._room(principal, session_id).files:
            if stored.name == name:
                return stored, data
        raise NotFound(f"There is no file `{name}`.")

    @property
    def running(self) -> int:
        return sum(room.session.status == "running" for room in self.rooms.values())


class ScriptedRegistry:
    def __init__(self, changes: Changes) -> None:
        self.changes = changes
        self.scripts: dict[str, Script] = {}
        self.found: dict[str, Agent] = {}
        self.able: Capabilities | None = Capabilities(
            cancel="remote", attach="cursor", files_in=True
        )

    def add(self, name: str, script: Script, **fields: Any) -> None:
        values: dict[str, Any] = {"description": f"Agent {name} for tests.", **fields}
        self.found[name] = Agent(name=name, runtime="scripted", ref=name, **values)
        self.scripts[name] = script
        self.changes.publish(Change("tools"))

    def remove(self, name: str) -> None:
        del self.found[name]
        self.changes.publish(Change("tools"))

    def agents(self) -> Sequence[Agent]:
        return sorted(self.found.values(), key=lambda agent: agent.name)

    def agent(self, name: str) -> Agent:
        if name not in self.found:
            raise NotFound(f"There is no agent `{name}`.")
        return self.found[name]

    async def capabilities(self, agent: Agent) -> Capabilities | None:
        return self.able

    def runtimes(self) -> Sequence[Mapping[str, Any]]:
        return [{"name": "scripted", "kind": "scripted", "state": "ready"}]

    def problems(self) -> Sequence[Problem]:
        return []


class World:
    """Everything scripted, together; `services()` counts how often it was opened."""

    def __init__(self) -> None:
        from tests.mcp.cast import cast

        self.changes = Changes()
        self.registry = ScriptedRegistry(self.changes)
        self.sessions = ScriptedSessions(self.registry, self.changes)
        self.sandboxes = ScriptedSandboxes()
        self.opened = 0
        self.gate: anyio.Event | None = None
        self.refusal: Exception | None = None
        cast(self.registry)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[World]:
        async with anyio.create_task_group() as group:
            self.sessions.group = group
            yield self
            group.cancel_scope.cancel()

    async def services(self) -> Services:
        self.opened += 1
        if self.gate is not None:
            await self.gate.wait()
        if self.refusal is not None:
            raise self.refusal
        return Services(
            sessions=self.sessions,
            registry=self.registry,
            sandboxes=self.sandboxes,
            changes=self.changes,
            status=lambda: {
                "version": "test",
                "agents": len(self.registry.found),
                "problems": [{"where": "x", "message": "broken", "remedy": "mend it"}],
            },
        )
