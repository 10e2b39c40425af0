"""A turn as the work behind a task, also of a task that an earlier process handed out."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import anyio
import mcp.types as t

from lap_mcp.control.services import Services
from lap_mcp.errors import NotFound, StoreError
from lap_mcp.model import Principal, Question, Turn

from .held import Held, give_answer
from .options import FaceOptions
from .questions import askable, elicitation
from .tasks import TaskEnded, TaskRecord
from .toolset import Caller

logger = logging.getLogger(__name__)

_TASK_ID: Final = re.compile(r"(ses_[0-9a-f]{32})\.(trn_[0-9a-f]{32})")
_LOOK: Final = 0.5
"""Seconds between two looks at whether a question was settled elsewhere."""


class TurnBody:
    """A turn as the work behind a task."""

    def __init__(self, held: Held, caller: Caller, options: FaceOptions) -> None:
        self._held = held
        self._caller = caller
        self._options = options

    @property
    def task_id(self) -> str:
        return f"{self._held.session_id}.{self._held.turn_id}"

    async def run(self, task: TaskRecord) -> t.CallToolResult:
        held = self._held
        task.say(f"Agent {held.agent_name} is working (session {held.session_id}).")
        while True:
            turn = await held.wait(30.0)
            if turn.outcome == "cancelled":
                raise TaskEnded("The turn was cancelled.")
            if turn.ended:
                return await held.show(turn)
            if turn.outcome == "requires_action":
                stuck = await self._ask(task, turn)
                if stuck is not None:
                    return stuck

    async def _ask(self, task: TaskRecord, turn: Turn) -> t.CallToolResult | None:
        held = self._held
        questions = await held.questions()
        if not questions:
            await anyio.sleep(0.05)
            return None
        can_ask = [q for q in questions if askable(self._caller, q)]
        if not can_ask or self._options.chain or self._caller.principal.chain:
            return await held.asked(turn, questions)
        task.say(f"Agent {held.agent_name} has a question.")
        requests = {q.id: elicitation(q, held.agent_name) for q in can_ask}
        responses = await task.ask(requests, until=self._settled)
        if not responses:
            return None
        if await self._apply(can_ask, responses):
            return None
        return await held.asked(turn, await held.questions())

    async def _apply(self, questions: Sequence[Question], responses: Mapping[str, Any]) -> bool:
        answered = False
        for question in questions:
            answered |= await give_answer(self._held, question, responses.get(question.id))
        return answered

    async def _settled(self) -> None:
        """Returns once nothing is open any more: answered elsewhere, expired, cancelled."""
        while await self._still_open():  # noqa: ASYNC110 - may be settled by another process
            await anyio.sleep(_LOOK)

    async def _still_open(self) -> bool:
        try:
            return bool(await self._held.questions())
        except StoreError as error:
            # The turn waits all the same, and so does the client.
            logger.warning("open questions could not be looked at: %s", error)
            return True

    async def cancel(self) -> None:
        await self._held.cancel()


async def restored(
    services: Services, principal: Principal, task_id: str, options: FaceOptions
) -> TurnBody | None:
    """The work behind a task of an earlier process, or of another one on the same store."""
    match = _TASK_ID.fullmatch(task_id)
    if match is None:
        return None
    try:
        session = await services.sessions.get(principal, match[1])
        await services.sessions.turn(principal, match[1], match[2])
        agent = services.registry.agent(session.agent)
    except NotFound:
        return None
    held = Held(
        services=services,
        principal=principal,
        agent=agent,
        agent_name=agent.name,
        session_id=match[1],
        turn_id=match[2],
    )
    caller = replace(Caller(principal=principal), tasks=True, elicit_form=True, elicit_url=True)
    return TurnBody(held, caller, options)
