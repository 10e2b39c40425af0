"""Questions of turns and their answers."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from lap_mcp.errors import NotFound
from lap_mcp.model import Question

from .codec import dump, load
from .statements import given, run
from .tables import questions, sessions, turns

_DETAIL = ("options", "schema", "tool", "tool_input", "url")


def _question(row: sa.Row[Any]) -> Question:
    detail = load(row.detail)
    return Question(
        id=row.id,
        session_id=row.session_id,
        turn_id=row.turn_id,
        native_id=row.native_id,
        kind=row.kind,
        text=row.text,
        status=row.status,
        asked_at=row.asked_at,
        expires_at=row.expires_at,
        answered_by=row.answered_by,
        **detail,
    )


def ask(connection: Connection, question: Question) -> bool:
    """Store an open question; `False` where this turn asked it already (a replay)."""
    known = connection.execute(
        sa.select(questions.c.id).where(
            questions.c.turn_id == question.turn_id,
            questions.c.native_id == question.native_id,
        )
    ).first()
    if known is not None:
        return False
    connection.execute(
        questions.insert().values(
            id=question.id,
            session_id=question.session_id,
            turn_id=question.turn_id,
            native_id=question.native_id,
            kind=question.kind,
            text=question.text,
            status="open",
            start=sa.select(turns.c.starts).where(turns.c.id == question.turn_id).scalar_subquery(),
            detail=dump({name: getattr(question, name) for name in _DETAIL}),
            asked_at=question.asked_at,
            expires_at=question.expires_at,
        )
    )
    return True


def find(connection: Connection, principal: str, question_id: str) -> Question:
    """Raises: NotFound, for a missing one and for somebody else's alike."""
    row = connection.execute(
        sa.select(questions)
        .select_from(questions.join(sessions, questions.c.session_id == sessions.c.id))
        .where(questions.c.id == question_id, sessions.c.principal == principal)
    ).first()
    if row is None:
        raise NotFound(f"There is no question {question_id[:60]!r}.")
    return _question(row)


def list_questions(
    connection: Connection,
    principal: str,
    *,
    session_id: str | None,
    status: str | None,
) -> Sequence[Question]:
    query = (
        sa.select(questions)
        .select_from(questions.join(sessions, questions.c.session_id == sessions.c.id))
        .where(sessions.c.principal == principal)
        .order_by(questions.c.asked_at, questions.c.id)
    )
    if session_id is not None:
        query = query.where(questions.c.session_id == session_id)
    if status is not None:
        query = query.where(questions.c.status == status)
    return [_question(row) for row in connection.execute(query)]


def open_of_session(connection: Connection, session_id: str) -> Sequence[Question]:
    rows = connection.execute(
        sa.select(questions)
        .where(questions.c.session_id == session_id, questions.c.status == "open")
        .order_by(questions.c.asked_at, questions.c.id)
    )
    return [_question(row) for row in rows]


def answered(connection: Connection, question_id: str, answer: Mapping[str, Any], by: str) -> None:
    connection.execute(
        questions.update()
        .where(questions.c.id == question_id)
        .values(status="answered", answer=dump(answer), answered_by=by)
    )


def answers_of(
    connection: Connection, turn_id: str, start: int
) -> Sequence[tuple[str, Mapping[str, Any]]]:
    """(native id, answer) of the questions that this start of the turn asked."""
    rows = connection.execute(
        sa.select(questions.c.native_id, questions.c.answer)
        .where(
            questions.c.turn_id == turn_id,
            questions.c.start == start,
            questions.c.status == "answered",
        )
        .order_by(questions.c.asked_at, questions.c.id)
    )
    return [(row.native_id, load(row.answer)) for row in rows]


@functools.cache
def _settling(*, one: bool) -> sa.Update:
    query = questions.update().where(
        questions.c.turn_id == given(questions.c.turn_id), questions.c.status == "open"
    )
    if one:
        query = query.where(questions.c.native_id == given(questions.c.native_id))
    return query.values(status=sa.bindparam("new_status", type_=questions.c.status.type))


def settle(connection: Connection, turn_id: str, status: str, native_id: str | None = None) -> int:
    """Set open questions of a turn (one, or all) to `closed` or `expired`; how many."""
    asked = {"given_turn_id": turn_id, "new_status": status}
    if native_id is not None:
        asked["given_native_id"] = native_id
    return run(connection, _settling(one=native_id is not None), asked).rowcount


def overdue(connection: Connection, now: float) -> Sequence[str]:
    """Sessions with an open question whose time is over."""
    rows = connection.execute(
        sa.select(questions.c.session_id)
        .where(questions.c.status == "open", questions.c.expires_at < now)
        .distinct()
    )
    return list(rows.scalars())
