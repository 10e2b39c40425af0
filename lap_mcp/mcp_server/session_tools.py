"""Sessions as a model handles them: read, wait, list, cancel, answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import anyio
import mcp.types as t

from lap_mcp.control.cleaning import clean_schema
from lap_mcp.control.services import NewAnswer, Services
from lap_mcp.errors import Conflict, Invalid, NotFound
from lap_mcp.model import Agent, Question, Session, SessionFile, Turn

from .held import Held
from .long_turn import hold
from .options import LONG_WAIT, TEXT_LIMIT
from .questions import how_to_answer, model_may_answer, web_address
from .results import both, size_words, status_line
from .text import clean, iso, one_line, page
from .toolset import ALWAYS_LOAD, READ_ONLY, Call, Caller, ToolResult, Toolset, tool

_PAGE: Final = TEXT_LIMIT - 2500
_SESSION: Final = {"type": "string", "description": "Session id (ses_…)."}

GET: Final = tool(
    "get_session",
    "Read an agent session: status, the answer of its last turn, files, open questions. "
    "With wait_s it waits for the running turn first. Long answers come in pages: "
    "give the offset that the page before names.",
    {
        "session": _SESSION,
        "turn": {"type": "string", "description": "Turn id, for an earlier turn."},
        "wait_s": {"type": "number", "minimum": 0, "maximum": LONG_WAIT},
        "offset": {"type": "integer", "minimum": 0, "description": "Character to start at."},
    },
    required=["session"],
    annotations=READ_ONLY,
    meta=ALWAYS_LOAD,
)
LIST: Final = tool(
    "list_sessions",
    "List your agent sessions, newest first. Use it to find a session id to continue or read.",
    {
        "agent": {"type": "string", "description": "Only this agent's."},
        "status": {
            "type": "string",
            "enum": ["idle", "running", "requires_action", "terminated"],
        },
        "limit": {"type": "integer", "minimum": 1, "maximum": 100},
        "before": {"type": "string", "description": "Session id that the page before ended with."},
    },
    annotations=READ_ONLY,
)
CANCEL: Final = tool(
    "cancel_session",
    "End the running turn of an agent session and drop queued ones. "
    "The session stays and can be continued.",
    {"session": _SESSION},
    required=["session"],
    annotations=t.ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=True, open_world_hint=True
    ),
)
ANSWER: Final = tool(
    "answer_question",
    "Answer an open question of an agent, so that its turn goes on; then waits for it. "
    "Approvals are refused unless the agent's configuration lets a model decide.",
    {
        "question": {"type": "string", "description": "Question id (qst_…)."},
        "text": {"type": "string", "description": "The answer, or a tool's output."},
        "option": {"type": "string", "description": "One of the question's options."},
        "data": {"type": "object", "description": "For a question with a schema."},
        "decision": {"type": "string", "enum": ["allow", "deny"]},
        "is_error": {"type": "boolean", "description": "The tool failed; text says how."},
        "wait_s": {"type": "number", "minimum": 0, "maximum": LONG_WAIT},
    },
    required=["question"],
    annotations=t.ToolAnnotations(
        read_only_hint=False, destructive_hint=True, idempotent_hint=False, open_world_hint=True
    ),
)


class SessionTools(Toolset):
    """The toolset `sessions`."""

    name = "sessions"

    async def tools(
        self, caller: Caller, services: Callable[[], Awaitable[Services]]
    ) -> Sequence[t.Tool]:
        return [GET, LIST, CANCEL, ANSWER]

    async def call(self, call: Call, name: str, arguments: Mapping[str, Any]) -> ToolResult:
        services = await call.services()
        match name:
            case "get_session":
                return await _get(call, services, arguments)
            case "list_sessions":
                return await _list(call, services, arguments)
            case "cancel_session":
                return await _cancel(call, services, arguments)
            case _:
                return await _answer(call, services, arguments)


def _agent(services: Services, name: str) -> Agent | None:
    """The session's agent; a session outlives the registration of its agent."""
    try:
        return services.registry.agent(name)
    except NotFound:
        return None


async def _turn(
    services: Services, call: Call, session: Session, turn_id: str | None
) -> Turn | None:
    if turn_id:
        return await services.sessions.turn(call.principal, session.id, turn_id)
    turns = await services.sessions.turns(call.principal, session.id)
    running = [turn for turn in turns if turn.outcome in ("running", "requires_action")]
    return running[0] if running else (turns[-1] if turns else None)


async def _get(call: Call, services: Services, arguments: Mapping[str, Any]) -> t.CallToolResult:
    sessions = services.sessions
    session = await sessions.get(call.principal, arguments["session"])
    turn = await _turn(services, call, session, arguments.get("turn"))
    wait_s = float(arguments.get("wait_s") or 0)
    if turn is not None and wait_s > 0 and not turn.ended:
        turn = await _waited(call, services, session, turn, wait_s)
        session = await sessions.get(call.principal, session.id)
    if turn is None:
        return both(f"Session {session.id} has no turn yet.", {"session": session_json(session)})
    text = clean((await sessions.content(call.principal, session.id, turn.id)).text)
    shown = page(text, int(arguments.get("offset") or 0), _PAGE)
    files = [f for f in await sessions.files(call.principal, session.id) if f.turn_id == turn.id]
    found = await sessions.questions(call.principal, session_id=session.id)
    questions = [q for q in found if q.turn_id == turn.id]
    structured: dict[str, Any] = {
        "session": session_json(session),
        "turn": turn_json(turn),
        "text": shown.text,
        "offset": shown.offset,
        "total": shown.total,
        "next_offset": shown.next,
        "files": [file_json(f) for f in files],
        "questions": [question_json(q) for q in questions],
    }
    agent = _agent(services, session.agent)
    lines = [shown.text.strip("\n")]
    if shown.next is not None:
        end = shown.offset + len(shown.text)
        lines.append(f"(Characters {shown.offset} to {end} of {shown.total}; next offset {end}.)")
    if turn.error:
        lines.append(f"Error: {clean(turn.error)[:1000]}")
    if files:
        lines.append(
            "Files:\n" + "\n".join(f"- {f.uri} ({size_words(f.size)})" for f in files[:16])
        )
    lines.extend(how_to_answer(q, agent) for q in questions)
    lines.append(status_line(turn, session.agent))
    return both("\n\n".join(line for line in lines if line), structured)


async def _waited(
    call: Call, services: Services, session: Session, turn: Turn, wait_s: float
) -> Turn:
    """The turn after at most `wait_s`, or sooner when the server stops."""
    deadline = call.began + min(wait_s, call.caller.longest_wait)
    call.progress.idle = f"Agent {session.agent} is working."
    async with call.progress.running():
        while not turn.ended and turn.outcome != "requires_action":
            left = deadline - anyio.current_time()
            if left <= 0 or call.stopping():
                break
            turn = await services.sessions.wait(
                call.principal, session.id, turn.id, timeout=min(left, 2.0)
            )
    return turn


async def _list(call: Call, services: Services, arguments: Mapping[str, Any]) -> t.CallToolResult:
    limit = int(arguments.get("limit") or 20)
    found = await services.sessions.list(
        call.principal,
        agent=arguments.get("agent"),
        status=arguments.get("status"),
        limit=limit + 1,
        before=arguments.get("before"),
    )
    shown = list(found[:limit])
    after = shown[-1].id if len(found) > limit else None
    entries = [session_json(session) for session in shown]
    lines = [
        f"- {s.id} · {s.agent} · {s.status} · {iso(s.updated_at)} · {one_line(s.title, 80)}"
        for s in shown
    ]
    text = "\n".join(lines) if lines else "No sessions."
    if after:
        text += f'\n(More: before "{after}".)'
    return both(text, {"sessions": entries, "next_before": after})


async def _cancel(call: Call, services: Services, arguments: Mapping[str, Any]) -> t.CallToolResult:
    session = await services.sessions.cancel(call.principal, arguments["session"])
    turns = await services.sessions.turns(call.principal, session.id)
    last = turns[-1] if turns else None
    note = f" {clean(last.error)}" if last and last.error else ""
    text = f"Session {session.id} of agent {session.agent} is {session.status} now.{note}"
    return both(text, {"session": session_json(session), "turn": last and turn_json(last)})


async def _answer(call: Call, services: Services, arguments: Mapping[str, Any]) -> ToolResult:
    if call.chain:
        raise Invalid(
            "This call comes from inside an agent's session; such calls never answer questions.",
            remedy="A person answers with `lap-mcp questions`.",
        )
    open_ones = await services.sessions.questions(call.principal, status=None)
    question = next((q for q in open_ones if q.id == arguments["question"]), None)
    if question is None:
        raise NotFound(f"There is no question `{one_line(arguments['question'], 60)}`.")
    if question.status != "open":
        raise Conflict(f"Question {question.id} is {question.status} already.")
    session = await services.sessions.get(call.principal, question.session_id)
    agent = _agent(services, session.agent)
    if not model_may_answer(question, agent):
        raise Invalid(how_to_answer(question, agent))
    answer = NewAnswer(
        decision=arguments.get("decision"),
        option=arguments.get("option"),
        text=arguments.get("text") or "",
        data=arguments.get("data"),
        is_error=bool(arguments.get("is_error")),
    )
    turn = await services.sessions.answer(call.principal, question.id, answer, by="model")
    held = Held(
        services=services,
        principal=call.principal,
        agent=agent,
        agent_name=session.agent,
        session_id=session.id,
        turn_id=turn.id,
    )
    return await hold(call, held, arguments.get("wait_s"))


def session_json(session: Session) -> dict[str, Any]:
    return {
        "id": session.id,
        "agent": session.agent,
        "status": session.status,
        "title": one_line(session.title, 120),
        "turns": session.turns,
        "created_at": iso(session.created_at),
        "updated_at": iso(session.updated_at),
    }


def turn_json(turn: Turn) -> dict[str, Any]:
    return {
        "id": turn.id,
        "number": turn.number,
        "outcome": turn.outcome,
        "error": clean(turn.error) if turn.error else None,
        "started_at": None if turn.started_at is None else iso(turn.started_at),
        "ended_at": None if turn.ended_at is None else iso(turn.ended_at),
    }


def file_json(file: SessionFile) -> dict[str, Any]:
    return {
        "name": one_line(file.name, 200),
        "media_type": one_line(file.media_type, 100),
        "size": file.size,
        "uri": file.uri,
    }


def question_json(question: Question) -> dict[str, Any]:
    return {
        "id": question.id,
        "kind": question.kind,
        "text": clean(question.text)[:2000],
        "options": [clean(option) for option in question.options],
        "schema": clean_schema(question.schema),
        "tool": question.tool and one_line(question.tool, 100),
        "url": web_address(question) or None,
    }
