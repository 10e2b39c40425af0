"""The scripted runtime keeps the contract that it stands in for."""

from __future__ import annotations

from dataclasses import replace

import anyio
import pytest
from lap_runtimes.base import (
    Answer,
    Asked,
    Done,
    Event,
    File,
    Message,
    MessageDelta,
    Prompt,
    PromptFile,
    Question,
    Runtime,
    Started,
    Turn,
)
from lap_runtimes.errors import Rejected, Unavailable, Unsupported
from lap_runtimes.testing import (
    EVERYTHING,
    AwaitAnswer,
    AwaitSteer,
    Drop,
    Fail,
    Gate,
    Hang,
    ScriptedRuntime,
    Wait,
    ask,
    big_message,
    say,
    text_file,
)

from .conftest import MakeTurn

pytestmark = pytest.mark.anyio

QUESTION = Question(id="q1", kind="approval", text="May I?")


async def read(runtime: Runtime, turn: Turn) -> list[Event]:
    with anyio.fail_after(5):
        async with runtime.start(turn) as events:
            return [event async for event in events]


async def read_again(runtime: Runtime, ref: dict[str, object], cursor: str | None) -> list[Event]:
    with anyio.fail_after(5):
        async with runtime.attach(ref, cursor) as events:
            return [event async for event in events]


def shapes(events: list[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


async def test_is_a_runtime() -> None:
    assert isinstance(ScriptedRuntime([]), Runtime)


async def test_says_a_text_word_by_word_and_closes_it(make_turn: MakeTurn) -> None:
    events = await read(ScriptedRuntime([say("one two")]), make_turn())
    assert shapes(events) == ["Started", "MessageDelta", "MessageDelta", "Message", "Done"]
    assert "".join(e.text for e in events if isinstance(e, MessageDelta)) == "one two"
    assert events[0].ref is not None
    assert all(e.cursor is None and e.id is None for e in events if isinstance(e, MessageDelta))
    assert all(e.cursor and e.id for e in events if not isinstance(e, MessageDelta))


async def test_takes_scripts_one_by_one_or_from_a_function(make_turn: MakeTurn) -> None:
    listed = ScriptedRuntime([say("first"), say("second")])
    await read(listed, make_turn())
    assert Message(message_id="m1", text="second") in [
        replace(e, id=None, cursor=None, ref=None) for e in await read(listed, make_turn())
    ]

    def echo(turn: Turn) -> list[Event]:
        assert isinstance(turn.input, Prompt)
        return [Message(message_id="m", text=turn.input.text), Done(outcome="completed")]

    events = await read(ScriptedRuntime(echo), make_turn("again"))
    assert isinstance(events[0], Message)
    assert events[0].text == "again"


async def test_a_gate_holds_the_stream_until_it_is_released(make_turn: MakeTurn) -> None:
    runtime = ScriptedRuntime([[Started(), Gate("a"), Done(outcome="completed")]])
    seen: list[Event] = []
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks, runtime.start(make_turn()) as events:

            async def open_it() -> None:
                await runtime.reached("a")
                assert shapes(seen) == ["Started"]
                runtime.release("a")

            tasks.start_soon(open_it)
            async for event in events:
                seen.append(event)
    assert shapes(seen) == ["Started", "Done"]


async def test_a_dropped_stream_is_attached_after_its_cursor(make_turn: MakeTurn) -> None:
    script = [
        Started(),
        Message(message_id="m1", text="kept"),
        MessageDelta(message_id="m2", text="lo"),
        Drop(),
        MessageDelta(message_id="m2", text="st"),
        Message(message_id="m2", text="lost"),
        Done(outcome="completed"),
    ]
    runtime = ScriptedRuntime([script])
    events = await read(runtime, make_turn())
    assert shapes(events) == ["Started", "Message", "MessageDelta"]
    rest = await read_again(runtime, dict(events[0].ref or {}), events[1].cursor)
    assert shapes(rest) == ["MessageDelta", "MessageDelta", "Message", "Done"]
    assert runtime.disconnects == [runtime.starts[0].id]


async def test_history_gives_the_whole_turn_with_the_same_ids(make_turn: MakeTurn) -> None:
    runtime = ScriptedRuntime(
        [[Started(), Drop(), *say("hello")[1:]]],
        capabilities=replace(EVERYTHING, attach="history"),
    )
    first = await read(runtime, make_turn())
    again = await read_again(runtime, dict(first[0].ref or {}), None)
    assert again[0].id == first[0].id
    assert shapes(again) == ["Started", "MessageDelta", "Message", "Done"]


async def test_without_attach_a_lost_stream_is_lost(make_turn: MakeTurn) -> None:
    runtime = ScriptedRuntime(
        [[Started(), Drop()]], capabilities=replace(EVERYTHING, attach="none")
    )
    events = await read(runtime, make_turn())
    with pytest.raises(Unsupported):
        await read_again(runtime, dict(events[0].ref or {}), None)


async def test_an_answer_in_the_stream_lets_it_go_on(make_turn: MakeTurn) -> None:
    runtime = ScriptedRuntime([ask(QUESTION, in_stream=True)])
    said = []
    with anyio.fail_after(5):
        async with runtime.start(make_turn()) as events:
            async for event in events:
                said.append(event)
                if isinstance(event, Asked):
                    ref = said[0].ref or {}
                    await runtime.answer(ref, Answer(question_id="q1", decision="allow"))
                    with pytest.raises(Rejected):
                        await runtime.answer(ref, Answer(question_id="q1", decision="deny"))
                    with pytest.raises(Rejected):
                        await runtime.answer(ref, Answer(question_id="q2", decision="deny"))
    assert [e.text for e in said if isinstance(e, Message)] == ["allow"]
    assert [a.decision for a in runtime.answers] == ["allow"]


async def test_answers_come_by_a_new_start_where_the_runtime_resumes(make_turn: MakeTurn) -> None:
    runtime = ScriptedRuntime(
        [ask(QUESTION, in_stream=False), say("thanks")],
        capabilities=replace(EVERYTHING, answer="resume"),
    )
    first = await read(runtime, make_turn())
    assert isinstance(first[-1], Done)
    assert first[-1].outcome == "requires_action"
    answers = [Answer(question_id="q1", decision="deny")]
    await read(runtime, make_turn(answers=answers, ref=first[0].ref))
    assert runtime.starts[1].input.answers == answers  # type: ignore[union-attr]
    with pytest.raises(Unsupported):
        await runtime.answer(first[0].ref or {}, answers[0])


@pytest.mark.parametrize(
    "step", [Hang(), Wait(3600), Gate("never"), AwaitAnswer("q"), AwaitSteer()]
)
async def test_cancel_ends_whatever_the_turn_waits_for(make_turn: MakeTurn, step: object) -> None:
    runtime = ScriptedRuntime([[Started(), step, Done(outcome="completed")]])  # type: ignore[list-item]
    with anyio.fail_after(5):
        async with runtime.start(make_turn()) as events:
            started = await anext(events)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(runtime.cancel, started.ref or {})
                ended = await anext(events)
    assert isinstance(ended, Done)
    assert ended.outcome == "cancelled"
    assert len(runtime.cancels) == 1


async def test_a_hanging_reader_can_leave_and_a_second_one_gets_past(make_turn: MakeTurn) -> None:
    runtime = ScriptedRuntime([[Started(), Hang(), Done(outcome="completed")]])
    async with runtime.start(make_turn()) as events:
        started = await anext(events)
        with anyio.move_on_after(0.01) as scope:
            await anext(events)
        assert scope.cancelled_caught
    assert runtime.readers == 0
    assert shapes(await read_again(runtime, dict(started.ref or {}), started.cursor)) == ["Done"]


async def test_leaving_ends_the_work_where_only_a_disconnect_cancels(make_turn: MakeTurn) -> None:
    runtime = ScriptedRuntime(
        [[Started(), Gate("a"), Done(outcome="completed")]],
        capabilities=replace(EVERYTHING, cancel="disconnect", on_disconnect="aborts"),
    )
    async with runtime.start(make_turn()) as events:
        started = await anext(events)
    with pytest.raises(Unsupported):
        await runtime.cancel(started.ref or {})
    rest = await read_again(runtime, dict(started.ref or {}), started.cursor)
    assert isinstance(rest[-1], Done)
    assert rest[-1].outcome == "cancelled"


async def test_failures_come_on_entering_or_in_the_stream_once(make_turn: MakeTurn) -> None:
    error = Unavailable("nobody there", sent=False)
    runtime = ScriptedRuntime([[Fail(error), Started(), Fail(error), Done(outcome="completed")]])
    turn = make_turn()
    with pytest.raises(Unavailable):
        await read(runtime, turn)
    with pytest.raises(Unavailable):
        await read(runtime, turn)
    assert shapes(await read(runtime, turn)) == ["Started", "Done"]


async def test_a_repeated_start_is_the_same_start_only_where_claimed(make_turn: MakeTurn) -> None:
    turn = make_turn()
    same = ScriptedRuntime([say("once")])
    assert await read(same, turn) == await read(same, turn)
    other = ScriptedRuntime(
        [say("once"), say("twice")], capabilities=replace(EVERYTHING, idempotent_start=False)
    )
    assert await read(other, turn) != await read(other, turn)


async def test_carries_files_steers_and_large_events(make_turn: MakeTurn) -> None:
    def steered(prompt: Prompt) -> list[Event]:
        return [Message(message_id="s", text=prompt.text), Done(outcome="completed")]

    runtime = ScriptedRuntime(
        [[Started(), text_file("a.txt", "A"), big_message(10_000_000), AwaitSteer(steered)]]
    )

    async def content() -> bytes:
        return b"in"

    file = PromptFile(name="in.txt", media_type="text/plain", size=2, read=content)
    seen: list[Event] = []
    with anyio.fail_after(5):
        async with runtime.start(make_turn(files=[file])) as events:
            async for event in events:
                seen.append(event)
                if isinstance(event, Message) and event.message_id == "m1":
                    await runtime.steer(seen[0].ref or {}, Prompt(text="left"))
    assert runtime.files == [{"in.txt": b"in"}]
    assert [e.data for e in seen if isinstance(e, File)] == [b"A"]
    assert [len(e.text) for e in seen if isinstance(e, Message)] == [10_000_000, 4]


async def test_an_ended_process_takes_its_sessions_with_it(make_turn: MakeTurn) -> None:
    runtime = ScriptedRuntime(
        [[Started(), Hang()]], capabilities=replace(EVERYTHING, process_bound=True)
    )
    async with runtime.start(make_turn()) as events:
        await anext(events)
        await runtime.aclose()
        ended = await anext(events)
    assert isinstance(ended, Done)
    assert ended.session_gone
