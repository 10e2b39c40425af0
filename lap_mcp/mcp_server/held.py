"""A turn that a call or a task waits for: waiting, showing it, answering its questions."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mcp.types as t

from lap_mcp.control.services import Services
from lap_mcp.errors import Conflict
from lap_mcp.model import Agent, Principal, Question, SessionFile, Turn

from .questions import answer_of, how_to_answer
from .results import IMAGE_TYPES, MAX_IMAGE, MAX_IMAGES, TurnView, is_image, turn_result

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """A turn and who waits for it."""

    services: Services
    principal: Principal
    agent: Agent | None
    agent_name: str
    session_id: str
    turn_id: str

    async def wait(self, timeout: float) -> Turn:
        return await self.services.sessions.wait(
            self.principal, self.session_id, self.turn_id, timeout=timeout
        )

    async def cancel(self) -> None:
        """End this turn only: others of its session belong to other calls."""
        await self.services.sessions.cancel(self.principal, self.session_id, turn_id=self.turn_id)

    async def questions(self) -> Sequence[Question]:
        found = await self.services.sessions.questions(self.principal, session_id=self.session_id)
        return [q for q in found if q.turn_id == self.turn_id and q.status == "open"]

    async def show(
        self, turn: Turn, *, notes: Sequence[str] = (), status: str = ""
    ) -> t.CallToolResult:
        """The turn as it is now, as a tool result."""
        content = await self.services.sessions.content(
            self.principal, self.session_id, self.turn_id
        )
        view = TurnView(
            turn=turn,
            agent=self.agent_name,
            text=content.text,
            files=content.files,
            images=await self._images(content.files),
            data=await self._data(turn),
            notes=notes,
            status=status,
        )
        return turn_result(view)

    async def _images(self, files: Sequence[SessionFile]) -> list[tuple[SessionFile, bytes]]:
        shown: list[tuple[SessionFile, bytes]] = []
        for file in files:
            if len(shown) == MAX_IMAGES:
                break
            if file.media_type not in IMAGE_TYPES or file.size > MAX_IMAGE:
                continue
            stored, data = await self.services.sessions.file(
                self.principal, self.session_id, file.name
            )
            if is_image(data, stored.media_type):
                shown.append((stored, data))
        return shown

    async def _data(self, turn: Turn) -> Any:
        """Structured output of a finished turn, for an agent that declares a schema of it."""
        if self.agent is None or not self.agent.output_schema or turn.outcome != "completed":
            return None
        after = max(turn.first_seq - 1, 0)
        data = None
        while True:
            events = await self.services.sessions.events(
                self.principal, self.session_id, after=after
            )
            for event in events:
                if event.turn_id == self.turn_id and event.type == "agent.message":
                    data = event.payload.get("data", data)
            if not events or events[-1].seq >= turn.last_seq:
                return data
            after = events[-1].seq

    async def asked(self, turn: Turn, questions: Sequence[Question]) -> t.CallToolResult:
        notes = [how_to_answer(question, self.agent) for question in questions]
        return await self.show(turn, notes=notes, status="requires_action")


async def give_answer(held: Held, question: Question, response: Any) -> bool:
    """Whether the question is answered now, by this response or already before it."""
    answer = answer_of(question, response)
    if answer is None:
        return False
    try:
        await held.services.sessions.answer(held.principal, question.id, answer, by="person")
    except Conflict:
        logger.info("a question was answered elsewhere first")
    return True
