"""The open questions of a turn whose runtime is answered while its stream goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lap_runtimes.base import Answer, Question
from lap_runtimes.errors import Rejected

MAX_OPEN = 64
"""Questions of one turn that may be open at a time; more are declined."""
BEAT = 20.0
"""Seconds between heartbeats while a person is asked: the agent is rightly silent then."""


@dataclass(slots=True)
class Request:
    """What the runtime asks.  It waits until `reply` is set: to a result of the method, or to None
    where nobody can be asked."""

    method: str
    params: Mapping[str, Any]
    reply: asyncio.Future[Any]

    @classmethod
    def of(cls, method: str, params: Mapping[str, Any]) -> Request:
        return cls(method, params, asyncio.get_running_loop().create_future())

    @property
    def open(self) -> bool:
        return not self.reply.done()

    def drop(self) -> None:
        """Nobody will answer."""
        if self.open:
            self.reply.set_result(None)


class Asking:
    """The questions of one turn, by id."""

    def __init__(self, turn_id: str) -> None:
        self.turn_id = turn_id
        self.questions: dict[str, tuple[Question, Request]] = {}
        self._asked = 0

    def ask(
        self, request: Request, make: Callable[[Mapping[str, Any], str], Question], key: str = ""
    ) -> Question | None:
        """The question that `make` makes of the request's parameters and an id; None: too many are
        open, and this one is declined.  `key` is the runtime's own id for it, if it has one."""
        if sum(each.open for _, each in self.questions.values()) >= MAX_OPEN:
            request.drop()
            return None
        self._asked += 1
        question = make(request.params, f"{self.turn_id}/{key or f'q{self._asked}'}")
        self.questions[question.id] = (question, request)
        return question

    @property
    def waits(self) -> bool:
        return any(request.open for _, request in self.questions.values())


def answered(
    asking: Asking | None, answer: Answer, make: Callable[[Question, Request, Answer], Any]
) -> None:
    """Reply what `make` makes of the answer.  Raises `Rejected`, unsent, for no open question."""
    found = asking.questions.get(answer.question_id) if asking is not None else None
    if found is None:
        words = f"no question {answer.question_id} is open"
        raise Rejected(words, kind="not_found", sent=False)
    question, request = found
    if not request.open:
        raise Rejected(f"{answer.question_id} is no longer open", kind="conflict", sent=False)
    request.reply.set_result(make(question, request, answer))
