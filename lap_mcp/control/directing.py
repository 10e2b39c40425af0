"""What a running turn can be told: cancel, an answer, a word in between.

These run in the process that drives the session.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import anyio
from lap_runtimes import base
from lap_runtimes.errors import RuntimeFailure
from sqlalchemy import Connection

from lap_mcp.errors import Conflict, LeaseLost, StoreError, Unavailable
from lap_mcp.model import StoredEvent
from lap_mcp.store import driving as moments
from lap_mcp.store import questions as question_store
from lap_mcp.store.events import NewEvent

from .polling import until
from .runner import Runner

_RUNTIME_WAIT = 2.0
"""Seconds that a turn which was only just taken over has to find its runtime."""
_REF_WAIT = 2.0
"""Seconds that a turn which has only just started has to say how it can be cancelled."""


async def cancel(runner: Runner, outcome: Literal["cancelled", "expired"] = "cancelled") -> None:
    """End the runner's current turn: the runtime's verb first, our side in any case."""
    wait = runner.engine.limits.cancel_wait
    if runner.ending:
        await _ended(runner, wait * 2)
        return
    turn_id = runner.turn_id
    runner.ending = outcome
    runner.complaint = "" if outcome == "cancelled" else "Nobody answered its question in time."
    try:
        await runner.leased.append([NewEvent(type="user.interrupt", payload={})])
    except StoreError:
        runner.ending = ""  # so that it can be asked for again
        raise
    if runner.runtime is not None and not runner.intake.waiting:
        await _tell(runner, runner.runtime, wait)
    if runner.turn_id == turn_id and not runner.ended.is_set():
        runner.stop()
        await _ended(runner, wait)


async def _tell(runner: Runner, runtime: base.Runtime, wait: float) -> None:
    """Tell the runtime as soon as the turn has an id of its own, and let it end by itself."""
    remote = runtime.capabilities.cancel == "remote"
    ended = runner.ended  # a turn that follows has another
    give_up = anyio.current_time() + _REF_WAIT + 2 * wait
    if remote:
        # What ends with its stream need not be waited for as long.
        ends = runtime.capabilities.on_disconnect == "aborts"
        patience = _REF_WAIT if ends else _REF_WAIT + wait
        await until(lambda: runner.intake.begun or ended.is_set(), patience)
    if ended.is_set():
        return
    note = await runner.tell_to_stop(wait)
    if ended.is_set():
        return
    runner.complaint = f"{runner.complaint} {note}".strip()
    if remote and runner.intake.begun and not note:
        with anyio.move_on_after(min(wait, give_up - anyio.current_time())):
            await ended.wait()


async def _ended(runner: Runner, timeout: float) -> None:
    with anyio.move_on_after(timeout):
        await runner.ended.wait()


async def answer_in_stream(
    runner: Runner, question: Mapping[str, Any], answer: Mapping[str, Any], by: str
) -> None:
    """Pass an answer on while the stream goes on; it counts once the runtime has taken it.

    Args:
        question: {id, native_id, kind, tool}.

    Raises:
        Conflict: answered meanwhile.
        Unavailable: the runtime did not take it; the question stays open.
    """
    leased = runner.leased
    await until(lambda: runner.runtime is not None or runner.ended.is_set(), _RUNTIME_WAIT)
    async with leased.order:
        open_ = await leased.engine.database.read(
            lambda connection: question_store.open_of_session(connection, leased.lease.session_id)
        )
        if question["id"] not in {other.id for other in open_}:
            raise Conflict(f"Question {question['id']} is no longer open.")
        await _pass_on(runner, base.Answer(question_id=question["native_id"], **answer))
        await _note(runner, question, answer, by)


async def _pass_on(runner: Runner, given: base.Answer) -> None:
    if runner.runtime is None:
        raise Conflict("The turn has only just been taken over; try again in a second.")
    try:
        with anyio.fail_after(runner.engine.limits.cancel_wait):
            await runner.runtime.answer(runner.intake.ref, given)
    except RuntimeFailure as failure:
        raise Unavailable(f"The runtime did not take the answer: {failure.message}") from failure
    except TimeoutError as error:
        raise Unavailable(
            "The runtime did not take the answer in time.", remedy="The question is still open."
        ) from error


async def _note(
    runner: Runner, question: Mapping[str, Any], answer: Mapping[str, Any], by: str
) -> None:
    leased = runner.leased

    def query(connection: Connection) -> Sequence[StoredEvent]:
        question_store.answered(connection, question["id"], answer, by)
        event = answer_event(question, answer, by)
        return moments.go_on(connection, leased.lease, leased.turn_id, [event], leased.now)

    try:
        leased.publish(await leased.write(query))
    except LeaseLost as error:
        raise _too_late() from error


async def steer(runner: Runner, text: str, word: str | None = None) -> None:
    """Put a message into the running turn.  `word`: the event's id, by which whoever asked for it
    from another process finds it.

    Raises:
        Unavailable: the runtime did not take it.
    """
    if runner.runtime is None:
        raise Conflict("The turn has only just been taken over; try again in a second.")
    ended = runner.ended  # a turn that follows has another
    await until(lambda: runner.intake.begun or ended.is_set(), _REF_WAIT)
    if ended.is_set():
        raise _too_late()
    if not runner.intake.begun:
        raise Unavailable("The runtime has not taken the turn yet; try again in a second.")
    try:
        with anyio.fail_after(runner.engine.limits.cancel_wait):
            await runner.runtime.steer(runner.intake.ref, base.Prompt(text=text))
    except RuntimeFailure as failure:
        raise Unavailable(f"The runtime did not take the message: {failure.message}") from failure
    except TimeoutError as error:
        raise Unavailable("The runtime did not take the message in time.") from error
    event = NewEvent(type="user.message", payload={"text": text, "steered": True}, native_id=word)
    try:
        await runner.leased.append([event])
    except LeaseLost as error:
        raise _too_late() from error


def _too_late() -> Conflict:
    return Conflict("The turn ended, or another process took it over, at this moment.")


def answer_event(question: Mapping[str, Any], answer: Mapping[str, Any], by: str) -> NewEvent:
    """An answer as an event, in the Managed Agents API's words."""
    common = {"question_id": question["id"], "by": by}
    if question["kind"] == "approval":
        reason = answer["text"] if answer["decision"] == "deny" else ""
        payload = {"result": answer["decision"], "tool": question["tool"], "deny_message": reason}
        return NewEvent(type="user.tool_confirmation", payload=common | payload)
    if question["kind"] == "tool_result":
        payload = {"text": answer["text"], "is_error": answer["is_error"]}
        return NewEvent(type="user.custom_tool_result", payload=common | payload)
    payload = {"text": answer["text"] or answer["option"] or ""}
    if answer["data"] is not None:
        payload["data"] = answer["data"]
    return NewEvent(type="user.message", payload=common | payload)
