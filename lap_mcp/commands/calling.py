"""One turn, and a session, shown in a terminal as they go on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anyio

from lap_mcp.app import Program, open_services
from lap_mcp.config import Config
from lap_mcp.control.services import (
    FileInput,
    Followed,
    NewPrompt,
    Services,
)
from lap_mcp.model import LOCAL, Delta, Origin, Question, StoredEvent, Turn

from .console import FAILED, OK, patience, put, put_json, put_text, say

ORIGIN = Origin(principal=LOCAL, client="lap-mcp cli")


async def call(
    program: Program,
    config: Config,
    agent: str,
    text: str,
    *,
    session: str | None,
    from_session: str | None,
    files: Sequence[Path],
    as_json: bool,
) -> int:
    """Send a prompt, show the turn until it ends or asks something; the exit code.

    An interrupted call cancels nothing: what the runtime can go on with goes on.
    """
    given = [FileInput(name=path.name, data=await anyio.Path(path).read_bytes()) for path in files]
    async with open_services(program, config) as running:
        services = running.services
        if all(known.name != agent for known in services.registry.agents()):
            async with patience("asking the runtimes"):
                await running.parts.refresher.ask_runtimes()
        prompt = NewPrompt(text=text, files=given, from_session=from_session or "")
        accepted = await services.sessions.prompt(ORIGIN, agent, prompt, session_id=session)
        if not as_json:
            say(f"session {accepted.session.id}")
        after = accepted.session.last_seq
        turn = await shown(services, accepted.turn, after=after, as_json=as_json)
        if as_json:
            content = await services.sessions.content(LOCAL, turn.session_id, turn.id)
            put_json({"session": turn.session_id, "turn": turn, "answer": content.text})
        return await ended(services, turn, quiet=as_json)


async def shown(services: Services, turn: Turn, *, after: int, as_json: bool = False) -> Turn:
    """Show a turn until it ends or asks something; the turn then."""
    session_id, turn_id = turn.session_id, turn.id
    screen = Shown()
    async with services.sessions.follow(LOCAL, session_id, after=after) as events:
        async for event in events:
            if event.turn_id != turn_id:
                continue
            if not as_json:
                screen.show(event)
            if isinstance(event, StoredEvent) and event.type in (
                "session.status_idle",
                "session.status_terminated",
            ):
                turn = await services.sessions.turn(LOCAL, session_id, turn_id)
                if turn.ended or turn.outcome == "requires_action":
                    return turn
    return await services.sessions.turn(LOCAL, session_id, turn_id)


async def ended(services: Services, turn: Turn, *, quiet: bool) -> int:
    if turn.outcome == "requires_action":
        for question in await services.sessions.questions(LOCAL, session_id=turn.session_id):
            say(f"{question.kind} {question.id}: {question.text}")
            say(f"  {how_to_answer(question)}")
        return OK
    if turn.outcome != "completed" and not quiet:
        say(f"{turn.outcome}: {turn.error or 'no reason was given'}")
    return OK if turn.outcome == "completed" else FAILED


def how_to_answer(question: Question) -> str:
    if question.kind == "approval":
        return f"lap-mcp questions allow {question.id}    (or deny)"
    if question.kind == "auth":
        return f"Sign in at {question.url}, then: lap-mcp questions answer {question.id} done"
    return f"lap-mcp questions answer {question.id} TEXT"


class Shown:
    """Prints a stream: open messages as they grow, everything else one line each."""

    def __init__(self) -> None:
        self._open: dict[str, str] = {}

    def show(self, event: Followed) -> None:
        if isinstance(event, Delta):
            self._delta(event)
        else:
            self._stored(event)

    def _delta(self, delta: Delta) -> None:
        if delta.kind != "message":
            return
        before = self._open.get(delta.message_id, "")
        text = delta.text if delta.replace else before + delta.text
        if text.startswith(before):
            put_text(text[len(before) :], end="")
            self._open[delta.message_id] = text

    def _stored(self, event: StoredEvent) -> None:
        payload = event.payload
        match event.type:
            case "agent.message":
                self._message(payload)
            case "agent.tool_use":
                say(f"[tool {payload.get('name', '')}]")
            case "agent.file":
                say(f"[file {payload.get('name')} {payload.get('uri')}]")
            case "session.error":
                say(f"[error] {payload.get('message')}")
            case _:
                pass

    def _message(self, payload: Mapping[str, Any]) -> None:
        text = str(payload.get("text", ""))
        before = self._open.pop(str(payload.get("id", "")), "")
        put_text(text[len(before) :] if text.startswith(before) else f"\n{text}")


@dataclass(frozen=True, slots=True)
class Until:
    """When to stop following: the session rests, now or from its next turn's end on."""

    seq: int
    """The last event when following began: what comes before it has been over for long."""
    resting: bool
    """Whether it rested then."""

    def reached(self, seq: int, kind: str = "") -> bool:
        at_rest = kind in ("session.status_idle", "session.status_terminated")
        return seq >= self.seq and (self.resting or at_rest)


async def follow(events: AsyncIterator[Followed], *, as_json: bool, until: Until | None) -> None:
    """Show events until the stream ends, or is where it is to stop."""
    screen = Shown()
    async for event in events:
        if as_json:
            if isinstance(event, StoredEvent):
                put(json.dumps(event_json(event), ensure_ascii=False))
        else:
            screen.show(event)
        if until and isinstance(event, StoredEvent) and until.reached(event.seq, event.type):
            return


def event_json(event: StoredEvent) -> Mapping[str, Any]:
    return {
        "seq": event.seq,
        "type": event.type,
        "turn": event.turn_id,
        "at": event.at,
        "payload": event.payload,
    }
