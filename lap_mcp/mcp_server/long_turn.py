"""A turn of an agent behind one MCP call: grace, then a task or a held call, then a handle.

The turn itself is driven by the session engine; a call that ends, however, only lets go of it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from typing import Any, Final

import anyio
import mcp.types as t

from lap_mcp.control.services import Followed
from lap_mcp.errors import LapError
from lap_mcp.model import Agent, Delta, Question, Turn

from .held import Held, give_answer
from .options import DEFAULT_WAIT
from .progress import Progress
from .questions import askable, elicitation
from .text import one_line
from .toolset import Call, ToolResult
from .turn_task import TurnBody

logger = logging.getLogger(__name__)

_SLICE: Final = 2.0
"""Seconds between two looks at whether the server is stopping."""


async def hold(call: Call, held: Held, wait_s: float | None) -> ToolResult:
    """Wait for the turn as long as this client and this call allow, and answer."""
    wanted = DEFAULT_WAIT if wait_s is None else wait_s
    wait = min(wanted, call.caller.longest_wait)
    try:
        async with call.progress.running():
            if not call.progress.wanted:
                return await _hold(call, held, wait)
            return await _told(call, held, wait)
    except anyio.get_cancelled_exc_class():
        if held.agent is not None and held.agent.cancel_on_disconnect:
            call.background(held.cancel)
        raise


async def _told(call: Call, held: Held, wait: float) -> ToolResult:
    """Wait, and tell meanwhile what the agent does."""
    result: ToolResult | None = None
    failure: Exception | None = None
    async with anyio.create_task_group() as group:
        group.start_soon(_report, held, call.progress)
        try:
            result = await _hold(call, held, wait)
        except Exception as error:
            # Not from inside the task group, which would wrap it.
            failure = error
        group.cancel_scope.cancel()
    if failure is not None:
        raise failure
    assert result is not None
    return result


async def _hold(call: Call, held: Held, wait: float) -> ToolResult:
    deadline = call.began + wait
    as_task = call.caller.tasks and wait > 0
    grace = min(call.options.grace, wait) if as_task else wait
    turn = await wait_until(call, held, call.began + grace)
    while True:
        if turn.ended:
            return await held.show(turn)
        if turn.outcome == "requires_action":
            questions = await held.questions()
            if questions:
                answered = await _ask(call, held, turn, questions)
                if answered is not None:
                    return answered
                deadline = anyio.current_time() + wait
            else:
                await anyio.sleep(0.05)  # answered this moment: the turn goes on shortly
        elif as_task:
            body = TurnBody(held, call.caller, call.options)
            return call.tasks.create(held.principal, body, task_id=body.task_id)
        if anyio.current_time() >= deadline or call.stopping():
            return await _still_running(held, turn, wait)
        turn = await wait_until(call, held, deadline)


async def wait_until(call: Call, held: Held, deadline: float) -> Turn:
    """The turn once it ended, asks, or as it is at `deadline` or when the server stops."""
    while True:
        left = deadline - anyio.current_time()
        turn = await held.wait(max(0.0, min(left, _SLICE)))
        if turn.ended or turn.outcome == "requires_action":
            return turn
        if left <= _SLICE or call.stopping():
            return turn


async def _still_running(held: Held, turn: Turn, wait: float) -> t.CallToolResult:
    how = (
        f'Read its answer: get_session with session "{held.session_id}" and wait_s. '
        "It goes on working meanwhile; cancel_session ends it."
    )
    if turn.outcome == "queued":
        note = f"Accepted; it waits for the turn before it. {how}"
    elif wait > 0:
        note = f"Not finished after {wait:.0f} s; what it wrote so far is above. {how}"
    else:
        note = f"Started. {how}"
    status = "queued" if turn.outcome == "queued" else "running"
    return await held.show(turn, notes=[note], status=status)


async def _ask(
    call: Call, held: Held, turn: Turn, questions: Sequence[Question]
) -> ToolResult | None:
    """Put open questions to a person.  `None`: something was answered, the turn goes on."""
    can_ask = [q for q in questions if askable(call.caller, q)] if not call.chain else []
    declined = call.request_state is not None and call.input_responses
    if not can_ask or (call.caller.modern and declined):
        return await held.asked(turn, questions)
    if call.caller.modern:
        state = {"session": held.session_id, "turn": held.turn_id}
        requests = {q.id: elicitation(q, held.agent_name) for q in can_ask}
        return t.InputRequiredResult(input_requests=dict(requests), request_state=json.dumps(state))
    if await _elicit(call, held, can_ask):
        return None
    return await held.asked(turn, await held.questions())


async def _elicit(call: Call, held: Held, questions: Sequence[Question]) -> bool:
    """Ask over the handshake era's back channel, one question after the other."""
    answered = False
    with anyio.move_on_after(call.caller.longest_wait):
        for question in questions:
            params = elicitation(question, held.agent_name).params
            response = await _send_elicitation(call, params)
            answered |= await give_answer(held, question, response)
    return answered


async def _send_elicitation(call: Call, params: Any) -> t.ElicitResult:
    session = call.ctx.session
    if isinstance(params, t.ElicitRequestURLParams):
        return await session.elicit_url(
            params.message, params.url, params.elicitation_id or "", call.ctx.request_id
        )
    return await session.elicit_form(params.message, params.requested_schema, call.ctx.request_id)


async def resume(call: Call, agent: Agent, wait_s: float | None) -> ToolResult:
    """A retry that brings answers: joins the turn that asked, never starts one."""
    state = json.loads(call.request_state or "{}")
    services = await call.services()
    held = Held(
        services=services,
        principal=call.principal,
        agent=agent,
        agent_name=agent.name,
        session_id=state["session"],
        turn_id=state["turn"],
    )
    answered = False
    for question in await held.questions():
        response = call.input_responses.get(question.id)
        answered |= await give_answer(held, question, response)
    if answered:
        call.request_state = None
    return await hold(call, held, wait_s)


async def _report(held: Held, progress: Progress) -> None:
    """Tell what the agent writes and does.  A follower that fails costs the progress only."""
    sessions = held.services.sessions
    try:
        turn = await sessions.turn(held.principal, held.session_id, held.turn_id)
        after = max(turn.first_seq - 1, 0)
        async with sessions.follow(held.principal, held.session_id, after=after) as items:
            streamed: dict[str, int] = {}
            async for item in items:
                if item.turn_id == held.turn_id:
                    _tell(item, streamed, progress)
    except LapError as error:
        logger.info("progress of a turn ended early: %s", error)


def _tell(item: Followed, streamed: dict[str, int], progress: Progress) -> None:
    """`streamed`: how many characters of each open message were told."""
    if isinstance(item, Delta):
        if item.kind == "message":
            told = streamed.get(item.message_id, 0)
            new = item.text[told:] if item.replace else item.text
            streamed[item.message_id] = told + len(new)
            progress.feed(new)
        elif item.kind == "progress":
            progress.say(item.text)
        return
    payload = item.payload
    if item.type == "agent.message" and payload.get("id") not in streamed:
        progress.say(str(payload.get("text", "")))
    elif item.type == "agent.tool_use":
        progress.say(f"[uses {one_line(str(payload.get('name', 'a tool')), 80)}]")
    elif item.type == "agent.file":
        progress.say(f"[made {one_line(str(payload.get('name', 'a file')), 80)}]")
