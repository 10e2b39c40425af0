"""What every runtime test needs: one backend, and turns with fresh ids."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any

import pytest
from lap_runtimes.base import Answer, Answers, Prompt, Ref, Turn

MakeTurn = Callable[..., Turn]


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def make_turn() -> MakeTurn:
    """`make_turn("words")`, `make_turn(answers=[…], ref=…)`; the session id stays the same."""
    session_id = f"ses_{secrets.token_hex(16)}"

    def make(
        text: str = "hello",
        *,
        agent: str = "",
        ref: Ref | None = None,
        answers: list[Answer] | None = None,
        turn_id: str | None = None,
        **prompt: Any,
    ) -> Turn:
        return Turn(
            id=turn_id or f"trn_{secrets.token_hex(16)}",
            session_id=session_id,
            agent=agent,
            input=Answers(answers=answers) if answers is not None else Prompt(text=text, **prompt),
            ref=ref or {},
        )

    return make
