"""Answering a question: checked, passed on, and the turn goes on.

Where a runtime takes answers while its stream goes on, the process that holds the stream passes
them on; where it takes them by a new start, whoever answers the last question drives the turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import anyio.to_thread
from sqlalchemy import Connection

from lap_mcp.errors import Conflict, Invalid
from lap_mcp.model import Question, StoredEvent, Turn
from lap_mcp.store import driving as moments
from lap_mcp.store import leases
from lap_mcp.store import questions as question_store
from lap_mcp.store import turns as turn_store
from lap_mcp.store.leases import Lease

from .directing import answer_event, answer_in_stream
from .engine import Engine
from .polling import eventually
from .runners import Runners, unreachable_driver
from .services import NewAnswer
from .storable import NOT_TEXT, storable

_ELSEWHERE = 15.0
"""Seconds that the process which drives the session has to pass an answer on."""


class Answering:
    def __init__(self, engine: Engine, runners: Runners) -> None:
        self._engine = engine
        self._runners = runners

    async def answer(self, question: Question, answer: NewAnswer, *, by: str) -> Turn:
        """Raises: Conflict, Invalid, Unavailable."""
        if question.status != "open":
            raise Conflict(f"Question {question.id} is {question.status} already.")
        await anyio.to_thread.run_sync(check, question, answer)
        session = await self._engine.database.read(
            lambda connection: turn_store.find_session(connection, None, question.session_id)
        )
        agent = self._engine.runtimes.agent(session.agent)
        runtime = self._engine.runtimes.runtime_for(agent)
        if runtime.capabilities.answer == "in_stream":
            await self._in_stream(question, asdict(answer), by)
        else:
            await self._by_resuming(question, asdict(answer), by)
        return await self._engine.database.read(
            lambda connection: turn_store.find(connection, question.session_id, question.turn_id)
        )

    async def _in_stream(self, question: Question, answer: Mapping[str, Any], by: str) -> None:
        about = {name: getattr(question, name) for name in ("id", "native_id", "kind", "tool")}
        runner = self._runners.find(question.session_id)
        if runner is None and (seized := await self._runners.seize(question.session_id)):
            # The server that held the stream is gone: take it up again.
            runner = self._runners.run(*seized, adopted=True)
        if runner is not None:
            await answer_in_stream(runner, about, answer, by)
            return
        await self._runners.tell(
            question.session_id, "answer", {"question": about, "answer": answer, "by": by}
        )
        if not await eventually(lambda: self._is_settled(question), _ELSEWHERE):
            raise unreachable_driver(question.session_id)

    async def _is_settled(self, question: Question) -> bool:
        open_ = await self._engine.database.read(
            lambda connection: question_store.open_of_session(connection, question.session_id)
        )
        return question.id not in {other.id for other in open_}

    async def _by_resuming(self, question: Question, answer: Mapping[str, Any], by: str) -> None:
        dead = await self._runners.dead()
        now = self._engine.clock.now()

        def query(connection: Connection) -> tuple[Lease, Sequence[StoredEvent], bool]:
            lease = leases.take(connection, question.session_id, self._engine.owner, now, dead)
            if lease is None:
                raise Conflict(
                    f"The turn of session {question.session_id} has not stopped for its question, "
                    "or goes on already.",
                    remedy="Look at it with get_session, and try again if it still waits.",
                )
            open_ = question_store.open_of_session(connection, question.session_id)
            if question.id not in {other.id for other in open_}:
                raise Conflict(f"Question {question.id} is no longer open.")
            question_store.answered(connection, question.id, answer, by)
            about = {"id": question.id, "kind": question.kind, "tool": question.tool}
            stored = moments.go_on(
                connection, lease, question.turn_id, [answer_event(about, answer, by)], now
            )
            complete = len(open_) == 1
            if complete:
                turn_store.starting(connection, question.turn_id, now)
            else:
                leases.free(connection, lease)
            return lease, stored, complete

        lease, stored, complete = await self._engine.database.write(query)
        live = self._engine.hub.get(question.session_id)
        live.publish(stored)
        if complete:
            self._runners.run(lease, question.turn_id)
        self._engine.hub.release(live)


def check(question: Question, answer: NewAnswer) -> None:
    """Raises: Invalid, in words, where this is no answer to that question."""
    if storable([answer.text, answer.data]) != [answer.text, answer.data]:
        raise Invalid(f"The answer {NOT_TEXT}.")
    if question.kind == "approval":
        if answer.decision is None:
            raise Invalid(f"Question {question.id} is an approval: allow it or deny it.")
    elif answer.decision is not None:
        raise Invalid(f"Question {question.id} asks for {question.kind}, not for a decision.")
    if answer.option is not None and answer.option not in question.options:
        raise Invalid(
            f"{answer.option[:100]!r} is none of the choices: {', '.join(question.options)}."
        )
    if question.kind == "input" and question.schema is not None and answer.data is not None:
        problem = _misfit(question.schema, answer.data)
        if problem:
            raise Invalid(f"The answer does not fit: {problem}.")
    if question.kind == "input" and not (answer.text or answer.data or answer.option):
        raise Invalid(f"The answer to question {question.id} is empty.")


def _misfit(schema: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """What is wrong with the data; empty if nothing is.  The schema is an agent's: what it refers
    to is never fetched, and what of it cannot be checked is left for the runtime to check."""
    # A twentieth of a second that a server's start can do without.
    from jsonschema import Draft202012Validator
    from jsonschema.exceptions import SchemaError, UnknownType, best_match
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    validator = Draft202012Validator(dict(schema), registry=Registry())
    try:
        validator.check_schema(dict(schema))
        error = best_match(validator.iter_errors(dict(data)))
    except (SchemaError, UnknownType, Unresolvable):
        return ""
    return "" if error is None else str(error.message)
