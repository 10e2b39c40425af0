"""What can be read under `lap://`: status, agents, runtimes, sessions, events and files."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import quote

import mcp.types as t

from lap_mcp.control.services import Services
from lap_mcp.errors import LapError, LimitReached, NotFound
from lap_mcp.model import Agent

from . import uris
from .media_types import media_type_of
from .providers import Request, ResourceProvider
from .results import size_words
from .session_tools import file_json, question_json, session_json, turn_json
from .status_tools import closed_status
from .text import clean, one_line

_JSON: Final = "application/json"
_SESSIONS_PAGE: Final = 50
_EVENTS_PAGE: Final = 500
MAX_READ: Final = 16 * 1024 * 1024
"""Bytes of a file that is sent whole in one JSON message."""

_PART: Final = 4 * 1000 * 1000
"""Bytes of a part of a file."""
_FILES_PAGE: Final = 500
_SANDBOX_FILES: Final = "lap://sandboxes/{id}/files{?after}"
_SANDBOX_FILE: Final = "lap://sandboxes/{id}/files/{path}{?offset}"

_TEMPLATES: Final = (
    ("lap://agents/{name}", "agent", "An agent: description and schemas", _JSON),
    ("lap://sessions/{id}", "session", "A session: status, turns, questions, files", _JSON),
    ("lap://sessions/{id}/events{?after}", "events", "What happened in a session, by seq", _JSON),
    ("lap://sessions/{id}/files/{name}", "session file", "A file of a session", None),
    (_SANDBOX_FILES, "sandbox files", "Files of a sandbox, by path", _JSON),
    (_SANDBOX_FILE, "sandbox file", "A file of a sandbox; from `offset` on, 4 MB of it", None),
)


class LapResources(ResourceProvider):
    """All `lap://` resources."""

    def owns(self, uri: str) -> bool:
        return uri.startswith("lap:")

    def templates(self) -> Sequence[t.ResourceTemplate]:
        return [
            t.ResourceTemplate(uri_template=uri, name=name, description=words, mime_type=media_type)
            for uri, name, words, media_type in _TEMPLATES
        ]

    async def resources(
        self, request: Request, cursor: str | None
    ) -> tuple[Sequence[t.Resource], str | None]:
        try:
            services = await request.services()
        except LapError:
            return _FIXED, None  # reading lap://status says why there is no more
        first = [] if cursor else [*_FIXED, *(_agent_entry(a) for a in services.registry.agents())]
        found = await services.sessions.list(
            request.caller.principal, limit=_SESSIONS_PAGE + 1, before=cursor or None
        )
        shown = found[:_SESSIONS_PAGE]
        entries = [
            t.Resource(
                uri=uris.session(session.id),
                name=f"{session.agent}: {one_line(session.title, 60)}",
                mime_type=_JSON,
            )
            for session in shown
        ]
        more = shown[-1].id if len(found) > _SESSIONS_PAGE else None
        return [*first, *entries], more

    async def read(self, request: Request, uri: str) -> t.ReadResourceResult:
        address = uris.parse(uri)
        try:
            services = await request.services()
        except LapError as error:
            if address.kind != "status":
                raise
            return _json_result(uri, closed_status(error))
        if address.kind in ("session_file", "sandbox_file"):
            contents = await _file(services, request, uri, address)
            return t.ReadResourceResult(contents=[contents], ttl_ms=0, cache_scope="private")
        return _json_result(uri, await _value(services, request, address))

    async def may_watch(self, request: Request, uri: str) -> bool:
        try:
            address = uris.parse(uri)
            if address.kind in ("session", "events", "session_file"):
                services = await request.services()
                await services.sessions.get(request.caller.principal, address.id)
            elif address.kind in ("sandbox_file", "sandbox_files"):
                services = await request.services()
                await services.sandboxes.files(request.caller.principal, address.id, limit=1)
        except LapError:
            return False
        return True

    async def complete(
        self, request: Request, template: str, argument: str, value: str, known: Mapping[str, str]
    ) -> Sequence[str]:
        services = await request.services()
        principal = request.caller.principal
        match template, argument:
            case "lap://agents/{name}", "name":
                return [agent.name for agent in services.registry.agents()]
            case _, "id" if template in (_SANDBOX_FILE, _SANDBOX_FILES):
                return [view.id for view in await services.sandboxes.list(principal)]
            case _, "path":
                listed = await services.sandboxes.files(
                    principal, known.get("id", ""), limit=_FILES_PAGE
                )
                return [file.path for file in listed]
            case "lap://sessions/{id}/files/{name}", "name":
                files = await services.sessions.files(principal, known.get("id", ""))
                return [file.name for file in files]
            case _, "id":
                return [s.id for s in await services.sessions.list(principal, limit=200)]
            case _:
                return []


_FIXED: Final = (
    t.Resource(uri="lap://status", name="status", mime_type=_JSON, description="What works now"),
    t.Resource(uri="lap://agents", name="agents", mime_type=_JSON, description="All agents"),
    t.Resource(uri="lap://runtimes", name="runtimes", mime_type=_JSON, description="All runtimes"),
)


def _json_result(uri: str, value: Any) -> t.ReadResourceResult:
    text = clean(json.dumps(value, ensure_ascii=False, indent=1, default=str))
    contents = t.TextResourceContents(uri=uri, mime_type=_JSON, text=text)
    return t.ReadResourceResult(contents=[contents], ttl_ms=0, cache_scope="private")


def _agent_entry(agent: Agent) -> t.Resource:
    return t.Resource(
        uri=f"lap://agents/{agent.name}",
        name=agent.name,
        description=one_line(agent.description, 200),
        mime_type=_JSON,
    )


async def _value(services: Services, request: Request, address: uris.LapUri) -> Any:
    match address.kind:
        case "status":
            return dict(services.status())
        case "agents":
            return {"agents": [agent_json(agent) for agent in services.registry.agents()]}
        case "agent":
            return agent_json(services.registry.agent(address.id), whole=True)
        case "runtimes":
            return {"runtimes": [dict(runtime) for runtime in services.registry.runtimes()]}
        case "session":
            return await _session(services, request, address.id)
        case "sandbox_files":
            return await _sandbox_files(services, request, address)
        case _:
            return await _events(services, request, address)


def agent_json(agent: Agent, *, whole: bool = False) -> dict[str, Any]:
    """An agent without what only the operator needs; `whole`: with its schemas."""
    shown: dict[str, Any] = {
        "name": agent.name,
        "runtime": agent.runtime,
        "description": clean(agent.description),
        "source": agent.source,
        "enabled": agent.enabled,
    }
    if agent.problem:
        shown["problem"] = clean(agent.problem)
    if whole:
        shown |= {"input_schema": agent.input_schema, "output_schema": agent.output_schema}
    return shown


async def _session(services: Services, request: Request, session_id: str) -> dict[str, Any]:
    principal = request.caller.principal
    session = await services.sessions.get(principal, session_id)
    turns = await services.sessions.turns(principal, session_id)
    questions = await services.sessions.questions(principal, session_id=session_id)
    files = await services.sessions.files(principal, session_id)
    return session_json(session) | {
        "last_seq": session.last_seq,
        "events": uris.events(session_id),
        "turn_list": [turn_json(turn) | {"prompt": one_line(turn.prompt, 200)} for turn in turns],
        "questions": [question_json(question) for question in questions],
        "files": [file_json(file) for file in files],
    }


async def _events(services: Services, request: Request, address: uris.LapUri) -> dict[str, Any]:
    principal = request.caller.principal
    session = await services.sessions.get(principal, address.id)
    found = await services.sessions.events(
        principal, address.id, after=address.after, limit=_EVENTS_PAGE
    )
    last = found[-1].seq if found else address.after
    return {
        "session": address.id,
        "events": [
            {"seq": e.seq, "turn": e.turn_id, "type": e.type, "at": e.at, **dict(e.payload)}
            for e in found
        ],
        "last_seq": session.last_seq,
        "next": f"{uris.events(address.id)}?after={last}" if last < session.last_seq else None,
    }


async def _sandbox_files(
    services: Services, request: Request, address: uris.LapUri
) -> dict[str, Any]:
    found = await services.sandboxes.files(
        request.caller.principal, address.id, after=address.after_path, limit=_FILES_PAGE + 1
    )
    shown = found[:_FILES_PAGE]
    here = uris.sandbox_files(address.id)
    return {
        "sandbox": address.id,
        "files": [
            {"path": f.path, "size": f.size, "uri": uris.sandbox_file(address.id, f.path)}
            for f in shown
        ],
        "next": f"{here}?after={quote(shown[-1].path)}" if len(found) > len(shown) else None,
    }


async def _part(
    services: Services, request: Request, uri: str, address: uris.LapUri, start: int
) -> t.BlobResourceContents:
    """A part as bytes: it may begin and end inside a character.  Its `_meta` says what it is of."""
    part = await services.sandboxes.part(
        request.caller.principal, address.id, address.path, start, _PART
    )
    end = start + len(part.data)
    here = uris.sandbox_file(address.id, address.path)
    meta = {
        "offset": start,
        "size": part.size,
        "sha256": part.sha256,
        "next": f"{here}?offset={end}" if end < part.size else None,
    }
    return t.BlobResourceContents(
        uri=uri,
        mime_type=media_type_of(address.path),
        blob=base64.b64encode(part.data).decode(),
        _meta={"lap-mcp/part": meta},
    )


async def _file(
    services: Services, request: Request, uri: str, address: uris.LapUri
) -> t.TextResourceContents | t.BlobResourceContents:
    principal = request.caller.principal
    if address.offset is not None:
        return await _part(services, request, uri, address, address.offset)
    if address.kind == "session_file":
        stored, data = await services.sessions.file(principal, address.id, address.path)
        media_type = one_line(stored.media_type, 100)
    else:
        data = await _whole(services, request, address)
        media_type = media_type_of(address.path)
    if len(data) > MAX_READ:
        raise _too_large(len(data), "")
    if media_type.startswith("text/") or media_type == _JSON:
        try:
            text = data.decode()
            return t.TextResourceContents(uri=uri, mime_type=media_type, text=text)
        except UnicodeDecodeError:
            pass  # not text after all: sent as bytes
    blob = base64.b64encode(data).decode()
    return t.BlobResourceContents(uri=uri, mime_type=media_type, blob=blob)


async def _whole(services: Services, request: Request, address: uris.LapUri) -> bytes:
    """A file of a sandbox, if it is small enough: its size is known before its bytes are read."""
    principal = request.caller.principal
    try:
        part = await services.sandboxes.part(principal, address.id, address.path, 0, MAX_READ)
    except NotFound:  # not kept: it is read where it is
        return await services.sandboxes.file(principal, address.id, address.path)
    if part.size > MAX_READ:
        here = uris.sandbox_file(address.id, address.path)
        raise _too_large(part.size, f"Read it in parts, from {here}?offset=0 on, or ")
    return part.data


def _too_large(size: int, or_else: str) -> LimitReached:
    give = "give its URI to code_interpreter in `files` and read it there."
    return LimitReached(
        f"This file has {size_words(size)}; at most {size_words(MAX_READ)} are sent.",
        remedy=f"{or_else}{give}" if or_else else f"G{give[1:]}",
    )
