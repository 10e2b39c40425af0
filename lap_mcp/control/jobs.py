"""From a stored turn to what a runtime is asked to do."""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from lap_runtimes import base
from sqlalchemy import Connection

from lap_mcp.model import StoredEvent, session_file_uri
from lap_mcp.store import events as event_store
from lap_mcp.store import questions as question_store
from lap_mcp.store import turns as turn_store
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.codec import dump
from lap_mcp.store.events import NewEvent
from lap_mcp.store.turns import TurnRecord

from .driving import Job
from .engine import Engine
from .nested import PREFIX
from .recording import shortened

_HISTORY = 1000
"""Messages of a session that are sent along: the last ones."""


async def job_of(engine: Engine, record: TurnRecord) -> Job:
    """Raises: NotFound, Unavailable (the agent or its runtime cannot be used)."""
    agent = engine.runtimes.agent(record.agent)
    runtime = engine.runtimes.runtime_for(agent)
    given: base.Prompt | base.Answers = base.Prompt(
        text=record.turn.prompt,
        input=record.input,
        files=[_file(engine.blobs, file) for file in record.files],
    )
    if record.starts > 1:
        answers = await engine.database.read(
            lambda connection: question_store.answers_of(
                connection, record.turn.id, record.starts - 1
            )
        )
        given = base.Answers(
            answers=[base.Answer(question_id=native, **answer) for native, answer in answers]
        )
    turn = base.Turn(
        id=start_id(record.turn.id, record.starts),
        session_id=record.turn.session_id,
        agent=agent.ref,
        input=given,
        ref=record.ref,
        history=await _history(engine, record, runtime.capabilities),
        nested=_nested(engine, record),
    )
    return Job(agent=agent, runtime=runtime, turn=turn, cursor=record.cursor)


def _nested(engine: Engine, record: TurnRecord) -> Callable[[], Awaitable[str]] | None:
    """The credential of this turn, made only for an adapter that asks for it."""
    made, turn = engine.nested, record.turn
    if made is None:
        return None

    async def make() -> str:
        # An agent may repeat it, or its program may log it.
        engine.scrubber.add_kind(PREFIX)
        return await made.make(record.origin, record.agent, turn.session_id, turn.id)

    return make


async def _history(
    engine: Engine, record: TurnRecord, capabilities: base.Capabilities
) -> Sequence[base.PastMessage] | None:
    """What was said in the turns before, for a runtime that keeps nothing itself."""
    if capabilities.conversation != "caller":
        return None

    def query(connection: Connection) -> tuple[Sequence[StoredEvent], Mapping[str, str]]:
        said = event_store.newest(
            connection,
            record.turn.session_id,
            types=["user.message", "agent.message"],
            limit=_HISTORY,
            without=record.turn.id,
        )
        # An event holds head and tail of a long prompt; and of the turn in whose middle the last
        # ones begin, what it was asked is told first.
        wanted = {e.turn_id for e in [*said[:1], *filter(_is_prompt, said)]}
        return said, turn_store.prompts(connection, wanted)

    said, prompts = await engine.database.read(query)
    told = [
        base.PastMessage(
            role="user" if event.type == "user.message" else "agent",
            text=prompts[event.turn_id]
            if _is_prompt(event)
            else await whole_text(engine.blobs, event.payload),
        )
        for event in said
    ]
    if said and not _is_prompt(said[0]):
        told.insert(0, base.PastMessage(role="user", text=prompts[said[0].turn_id]))
    return told


def _is_prompt(event: StoredEvent) -> bool:
    """What a turn began with: no answer in it, and nothing that was put into it as it ran."""
    return (
        event.type == "user.message"
        and "question_id" not in event.payload
        and not event.payload.get("steered")
    )


async def whole_text(blobs: BlobStore, payload: Mapping[str, Any]) -> str:
    """The text of a message, also where the event holds its head and tail only."""
    blob = payload.get("blob")
    return str(payload["text"]) if blob is None else (await blobs.get(str(blob))).decode()


def start_id(turn_id: str, starts: int) -> str:
    """Id of one start: the turn's own for the first, derived ones for starts with answers."""
    if starts <= 1:
        return turn_id
    digest = hashlib.sha256(f"{turn_id}:{starts}".encode()).hexdigest()
    return f"trn_{digest[:32]}"


def digest_of(
    text: str, structured: Mapping[str, Any] | None, files: Sequence[Mapping[str, Any]]
) -> str:
    """How the same prompt is recognised."""
    return hashlib.sha256(dump([text, structured, list(files)]).encode()).hexdigest()


def opening(record: TurnRecord) -> Sequence[NewEvent]:
    """The events with which a turn begins."""
    payload: dict[str, Any] = {"text": shortened(record.turn.prompt)}
    if record.input is not None:
        payload["input"] = dict(record.input)
    if record.files:
        payload["files"] = [
            {
                "name": file["name"],
                "size": file["size"],
                "uri": session_file_uri(record.turn.session_id, file["kept_as"]),
            }
            for file in record.files
        ]
    if record.origin.from_session:
        payload["from_session"] = {
            "session": record.origin.from_session,
            "agent": record.origin.from_agent,
        }
    return [
        NewEvent(type="user.message", payload=payload),
        NewEvent(type="session.status_running", payload={}),
    ]


def _file(blobs: BlobStore, file: Mapping[str, Any]) -> base.PromptFile:
    sha256 = str(file["sha256"])

    async def read() -> bytes:
        return await blobs.get(sha256)

    return base.PromptFile(
        name=file["name"], media_type=file["media_type"], size=file["size"], read=read
    )
