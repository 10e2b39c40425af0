"""What runtimes send and followers see: odd text, replays, gaps, floods; a store under stress."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest
import sqlalchemy as sa
from lap_runtimes.base import Done, Message, MessageDelta, Question, Started, ToolUse
from lap_runtimes.testing import EVERYTHING, Drop, Gate, ScriptedRuntime, ask, say
from sqlalchemy.ext.asyncio import create_async_engine

from lap_mcp.control import following
from lap_mcp.control.services import NewAnswer, NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.control.storable import short_id, storable
from lap_mcp.errors import Invalid, StoreError
from lap_mcp.model import LOCAL, Delta, StoredEvent
from lap_mcp.store.database import Database, open_database
from lap_mcp.store.sqlite import SQLite

from .conftest import DEADLINE, ME, Agents, House, _fresh_postgres
from .engine_view import engine_of

pytestmark = pytest.mark.anyio

ODD = "a\x00b\ud83d\ude00c\ud800d"
CLEAN = "a\ufffdb\U0001f600c\ufffdd"


async def ended(sessions: Sessions, text: str = "go") -> tuple[str, Any]:
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text=text))
    sid = accepted.session.id
    return sid, await sessions.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)


async def test_text_that_no_store_takes_costs_a_character_and_not_the_turn(
    sessions: Sessions, agents: Agents
) -> None:
    agents.add(
        ScriptedRuntime(
            [
                [
                    Started(),
                    MessageDelta(message_id="m" * 400 + "\x00", text=ODD * 2000),
                    Message(message_id="m" * 400 + "\x00", text=ODD, data={ODD: [ODD]}),
                    ToolUse(tool_use_id=ODD, name=ODD, input={"x": ODD}),
                    Done(outcome="failed", error=ODD, ref={"run": ODD}),
                ]
            ]
        )
    )

    sid, turn = await ended(sessions)

    assert (turn.outcome, turn.error) == ("failed", CLEAN)
    assert (await sessions.content(LOCAL, sid, turn.id)).text == CLEAN
    event = next(e for e in await sessions.events(LOCAL, sid) if e.type == "agent.message")
    assert event.payload["data"] == {CLEAN: [CLEAN]}
    assert (await sessions.get(LOCAL, sid)).ref["run"] == CLEAN


async def test_a_prompt_or_an_answer_that_cannot_be_stored_is_refused_in_words(
    sessions: Sessions, agents: Agents
) -> None:
    which = Question(id="q", kind="input", text="Which?")
    agents.add(
        ScriptedRuntime(
            [ask(which, in_stream=False)], capabilities=replace(EVERYTHING, answer="resume")
        )
    )

    with pytest.raises(Invalid, match="NUL"):
        await sessions.prompt(ME, "helper", NewPrompt(text="a\x00b"))
    with pytest.raises(Invalid, match="NUL"):
        await sessions.prompt(ME, "helper", NewPrompt(text="a", input={"x": "\ud800"}))
    await ended(sessions)
    (question,) = await sessions.questions(LOCAL)
    with pytest.raises(Invalid, match="NUL"):
        await sessions.answer(LOCAL, question.id, NewAnswer(text="\x00"), by="person")


def test_cleaning_leaves_what_is_fine_as_it_is() -> None:
    event = Message(message_id="m", text="ok \U0001f600", data={"a": ["b", 1, None]})

    assert storable(event) is event
    assert short_id("x" * 300) == "x" * 300
    assert short_id("x" * 400 + "a") != short_id("x" * 400 + "b")
    assert len(short_id("x" * 400)) <= 300


async def test_a_replay_from_history_repeats_nothing(sessions: Sessions, agents: Agents) -> None:
    """Neither to a follower, nor in the text, nor when the turn fails in the middle of it."""
    runtime = ScriptedRuntime(
        [
            [
                Gate("go"),
                Started(),
                MessageDelta(message_id="a", text="one"),
                Message(message_id="a", text="one"),
                Drop(),
                MessageDelta(message_id="b", text="tw"),
                Done(outcome="failed", error="broke"),
            ]
        ],
        capabilities=replace(EVERYTHING, attach="history"),
    )
    agents.add(runtime)
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    sid = accepted.session.id

    seen = await followed(sessions, sid, runtime)

    assert [item.text for item in seen if isinstance(item, Delta)] == ["one", "tw"]
    assert [e.payload["text"] for e in stored(seen) if e.type == "agent.message"] == ["one", "tw"]
    text = (await sessions.content(LOCAL, sid, accepted.turn.id)).text
    assert text == "one\n\ntw"


async def followed(
    sessions: Sessions, sid: str, runtime: ScriptedRuntime
) -> Sequence[StoredEvent | Delta]:
    """Everything until the session is idle; the gate `go` is opened once the follower listens."""
    seen: list[StoredEvent | Delta] = []
    with anyio.fail_after(DEADLINE):
        async with sessions.follow(LOCAL, sid) as items:
            async for item in items:
                seen.append(item)
                runtime.release("go")
                if isinstance(item, StoredEvent) and item.type == "session.status_idle":
                    break
    return seen


def stored(seen: Sequence[StoredEvent | Delta]) -> list[StoredEvent]:
    return [item for item in seen if isinstance(item, StoredEvent)]


async def test_message_ids_may_repeat_from_turn_to_turn(sessions: Sessions, agents: Agents) -> None:
    agents.add(ScriptedRuntime(lambda turn: [*say(turn.input.text)]))
    first = await sessions.prompt(ME, "helper", NewPrompt(text="one"))
    sid = first.session.id
    second = await sessions.prompt(ME, "helper", NewPrompt(text="two"), session_id=sid)
    await sessions.wait(LOCAL, sid, second.turn.id, timeout=DEADLINE)

    assert (await sessions.content(LOCAL, sid, first.turn.id)).text == "one"
    assert (await sessions.content(LOCAL, sid, second.turn.id)).text == "two"


async def test_ten_thousand_deltas_to_a_slow_follower_lose_nothing_and_stay_in_order(
    sessions: Sessions, agents: Agents
) -> None:
    count = 10_000
    deltas = [MessageDelta(message_id="m", text=f"{number} ") for number in range(count)]
    whole = "".join(delta.text for delta in deltas)
    runtime = ScriptedRuntime(
        [
            [
                Gate("go"),
                *deltas,
                Gate("all"),
                Message(message_id="m", text=whole),
                Done(outcome="completed"),
            ]
        ]
    )
    agents.add(runtime)
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    text, finished = "", False

    with anyio.fail_after(3 * DEADLINE):
        async with sessions.follow(LOCAL, accepted.session.id) as items:
            async for item in items:
                if isinstance(item, Delta):
                    assert not finished
                    text = item.text if item.replace else text + item.text
                    runtime.release("all") if text == whole else None
                    continue
                finished = finished or item.type == "agent.message"
                if item.type == "session.status_running":
                    runtime.release("go")
                    await runtime.reached("all")  # the inbox overflows meanwhile
                    continue
                if item.type == "session.status_idle":
                    break

    assert text == whole


async def test_a_follower_that_finds_a_gap_reads_the_store_and_drops_older_deltas(
    sessions: Sessions, agents: Agents
) -> None:
    agents.add(ScriptedRuntime([say("hello")]))
    sid, turn = await ended(sessions)
    events = await sessions.events(LOCAL, sid)
    late = Delta(session_id=sid, turn_id=turn.id, kind="message", message_id="m1", text="hello")
    seen: list[StoredEvent | Delta] = []

    with anyio.fail_after(DEADLINE):
        async with following.follow(engine_of(sessions), sid, 1) as items:
            live = engine_of(sessions).hub.find(sid)
            assert live is not None
            driver = object()
            live.drive(driver)
            (inbox,) = live.inboxes
            inbox.put(events[-1])
            inbox.put(late)
            async for item in items:
                seen.append(item)
                if isinstance(item, StoredEvent) and item.seq == events[-1].seq:
                    break
            live.leave(driver)

    assert [event.seq for event in stored(seen)] == [event.seq for event in events[1:]]
    assert len(stored(seen)) == len(seen)


async def test_the_open_message_and_its_finished_form_are_never_both_in_the_text(
    house: House, agents: Agents
) -> None:
    runtime = ScriptedRuntime(
        [
            [
                Started(),
                MessageDelta(message_id="m", text="half"),
                Gate("half"),
                Message(message_id="m", text="half done"),
                Gate("never"),
            ]
        ]
    )
    agents.add(runtime)
    async with house.server(agents) as sessions:
        accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
        sid = accepted.session.id
        with anyio.fail_after(DEADLINE):
            await runtime.reached("half")
            assert (await sessions.content(LOCAL, sid, accepted.turn.id)).text == "half"
            runtime.release("half")
            await runtime.reached("never")
        assert (await sessions.content(LOCAL, sid, accepted.turn.id)).text == "half done"
        await sessions.cancel(LOCAL, sid)


# The store --------------------------------------------------------------------------------------


@pytest.fixture
async def postgres() -> AsyncIterator[str]:
    async with _fresh_postgres() as url:
        yield url


@pytest.mark.postgres
async def test_the_token_moves_when_an_older_transaction_is_committed_after_a_newer_one(
    postgres: str,
) -> None:
    """What one server commits late must not be overlooked by those who watch."""
    database = await open_database(postgres)
    engine = create_async_engine(postgres)
    async with engine.begin() as older:
        await older.execute(sa.text("CREATE TABLE older (x int)"))
        await database.write(lambda c: c.execute(sa.text("CREATE TABLE newer (x int)")))
        before = await database.token()
    after = await database.token()
    await database.aclose()
    await engine.dispose()

    assert after != before


@pytest.mark.postgres
async def test_a_read_sees_one_snapshot(postgres: str) -> None:
    database = await open_database(postgres)

    def level(connection: sa.Connection) -> str:
        return str(connection.execute(sa.text("SHOW transaction_isolation")).scalar())

    assert await database.read(level) == "repeatable read"
    assert await database.write(level) == "read committed"
    await database.aclose()


async def test_a_cancelled_writer_leaves_its_transaction_whole_and_the_store_usable(
    database: Database,
) -> None:
    await database.write(lambda c: c.execute(sa.text("CREATE TABLE t (x int)")))

    def insert(connection: sa.Connection) -> None:
        scope.cancel()
        connection.execute(sa.text("INSERT INTO t VALUES (1)"))
        connection.execute(sa.text("INSERT INTO t VALUES (2)"))

    loop_scope = anyio.CancelScope()

    class FromAnyThread:
        def cancel(self) -> None:
            if database.dialect == "sqlite":
                anyio.from_thread.run_sync(loop_scope.cancel)
            else:
                loop_scope.cancel()

    scope = FromAnyThread()
    with loop_scope:
        await database.write(insert)

    count = await database.read(lambda c: c.execute(sa.text("SELECT count(*) FROM t")).scalar())
    assert count == 2
    await database.write(lambda c: c.execute(sa.text("DELETE FROM t")))


@pytest.mark.postgres
async def test_a_row_that_another_process_holds_on_to_is_waited_for_with_a_deadline(
    postgres: str,
) -> None:
    """A process that is stopped in a transaction holds up nobody for ever."""
    database = await open_database(postgres)

    def setting(connection: sa.Connection) -> tuple[Any, ...]:
        row = connection.execute(
            sa.text(
                "SELECT current_setting('lock_timeout'),"
                " current_setting('idle_in_transaction_session_timeout')"
            )
        ).one()
        return tuple(row)

    assert await database.read(setting) == ("10s", "10s")
    await database.aclose()


@pytest.mark.postgres
async def test_a_database_that_is_not_there_is_a_store_error_in_words(postgres: str) -> None:
    nowhere = sa.make_url(postgres).set(database="nowhere")

    with pytest.raises(StoreError, match="does not exist"):
        await open_database(nowhere.render_as_string(hide_password=False))


async def test_a_watched_file_that_cannot_be_opened_is_a_store_error(tmp_path: Path) -> None:
    database = await anyio.to_thread.run_sync(SQLite, tmp_path / "missing" / "lap.db")

    with pytest.raises(StoreError):
        await database.token()
    await database.aclose()
