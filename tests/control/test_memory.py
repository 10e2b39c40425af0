"""What the driver of a turn knows without asking the store changes nothing of what is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from lap_runtimes.base import Done, Message, MessageDelta, ToolUse
from lap_runtimes.testing import Drop, ScriptedRuntime

from lap_mcp.control import intake
from lap_mcp.control.services import NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import StoreError, StoreUncertain
from lap_mcp.model import LOCAL
from lap_mcp.store.database import Database
from tests.waiting import eventually_async

from .conftest import DEADLINE, ME, Agents

pytestmark = pytest.mark.anyio

END = Done(outcome="completed")


async def told(sessions: Sessions) -> list[tuple[str, str]]:
    """What the agent's events of one turn say, in order."""
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    sid = accepted.session.id
    turn = await sessions.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)
    assert turn.outcome == "completed", turn.error
    events = await sessions.events(LOCAL, sid)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    return [
        (event.type, str(event.payload.get("text", event.payload.get("name"))))
        for event in events
        if event.type.startswith("agent.")
    ]


async def test_what_a_runtime_says_twice_is_stored_once(sessions: Sessions, agents: Agents) -> None:
    script: Sequence[Any] = [
        Message(id="1", message_id="a", text="one"),
        ToolUse(id="1", tool_use_id="a", name="search"),
        Message(id="1", message_id="a", text="one again"),
        Message(id="2", message_id="b", text="two"),
        ToolUse(id="1", tool_use_id="a", name="search"),
        END,
    ]
    agents.add(ScriptedRuntime([list(script)]))
    assert await told(sessions) == [
        ("agent.message", "one"),
        ("agent.tool_use", "search"),
        ("agent.message", "two"),
    ]


async def test_nor_is_a_replay(sessions: Sessions, agents: Agents) -> None:
    script = [Message(message_id="a", text="one"), Drop(), Message(message_id="b", text="two"), END]
    agents.add(ScriptedRuntime([list(script)]))
    assert await told(sessions) == [("agent.message", "one"), ("agent.message", "two")]


async def test_checkpoints_of_an_open_message_go_with_it(
    sessions: Sessions, agents: Agents, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "CHECKPOINT_CHARACTERS", 1)
    script = [
        MessageDelta(message_id="a", text="on"),
        MessageDelta(message_id="a", text="e"),
        Message(message_id="a", text="one"),
        MessageDelta(message_id="b", text="tw"),
        END,
    ]
    agents.add(ScriptedRuntime([list(script)]))
    assert await told(sessions) == [("agent.message", "one"), ("agent.message", "tw")]
    assert await _rows(database, "open_messages") == 0


async def test_a_write_that_is_tried_again_is_not_taken_for_known(
    sessions: Sessions, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = sessions._engine.database
    write, refused = database.write, 0

    async def refuse_once(query: Any, *, quick: bool = False) -> Any:
        nonlocal refused

        def failing(connection: Any) -> Any:
            nonlocal refused
            found = query(connection)
            said = isinstance(found, list) and any(e.type == "agent.message" for e in found)
            if said and not refused:
                refused += 1
                raise StoreError("full")
            return found

        return await write(failing, quick=quick)

    monkeypatch.setattr(database, "write", refuse_once)
    agents.add(ScriptedRuntime([[Message(message_id="a", text="one"), END]]))
    assert await told(sessions) == [("agent.message", "one")]
    assert refused == 1


async def test_a_write_of_which_nobody_knows_is_not_done_again(
    sessions: Sessions, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = sessions._engine.database
    write, broken = database.write, 0

    async def break_off(query: Any, *, quick: bool = False) -> Any:
        nonlocal broken
        found = await write(query, quick=quick)
        if isinstance(found, list) and any(e.type == "agent.message" for e in found):
            broken += 1
            raise StoreUncertain("broken off")
        return found

    monkeypatch.setattr(database, "write", break_off)
    agents.add(ScriptedRuntime([[Message(message_id="a", text="one"), END]]))
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    sid = accepted.session.id
    await eventually_async(lambda: broken and sid not in sessions._engine.hub._lives)
    said = [e for e in await sessions.events(LOCAL, sid) if e.type == "agent.message"]
    assert (broken, len(said)) == (1, 1)


async def test_a_message_that_never_ends_is_ended_in_words(
    sessions: Sessions, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "MAX_OPEN", 10)
    deltas = [MessageDelta(message_id="a", text="four") for _ in range(5)]
    agents.add(ScriptedRuntime([[*deltas, END]]))
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    sid = accepted.session.id
    turn = await sessions.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)
    assert turn.outcome == "failed"
    assert "ended no message" in str(turn.error)
    assert (await sessions.content(LOCAL, sid, turn.id)).text.startswith("fourfour")


async def _rows(database: Database, table: str) -> int:
    return int(
        await database.read(
            lambda connection: connection.exec_driver_sql(f"SELECT count(*) FROM {table}").scalar()
        )
    )
