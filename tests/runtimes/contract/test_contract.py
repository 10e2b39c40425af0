"""One contract, every adapter, real servers: what `Capabilities` claims is kept, what it does not
claim is refused before a byte is sent."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest
from lap_runtimes.base import (
    MAX_REF_BYTES,
    Answer,
    Asked,
    Done,
    Event,
    File,
    Heartbeat,
    Message,
    MessageDelta,
    PastMessage,
    Progress,
    Prompt,
    PromptFile,
    Runtime,
    Started,
    ThinkingDelta,
    Turn,
    Usage,
)
from lap_runtimes.errors import RuntimeFailure, Unavailable, Unsupported

from tests.runtimes.bench import Bench, Case
from tests.runtimes.cases import CASES
from tests.runtimes.conftest import MakeTurn
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio

WORKING = (MessageDelta, Progress)
"""What tells that the agent works: some stream their text, others a word on how far they are."""
LIVE = (MessageDelta, ThinkingDelta, Heartbeat, Progress)
SECONDS = 15


@pytest.fixture(params=CASES, ids=lambda case: case.id)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


@asynccontextmanager
async def limited(case: Case) -> AsyncIterator[Bench]:
    """A bench that leaves no task behind when it is closed."""
    before = asyncio.all_tasks()
    async with case.bench() as bench:
        with anyio.fail_after(SECONDS):
            yield bench
    await eventually_async(lambda: asyncio.all_tasks() <= before, words="tasks are left")


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


def stored(events: list[Event]) -> list[Event]:
    return [event for event in events if not isinstance(event, LIVE)]


def kept(events: list[Event]) -> dict[str, tuple[str, Any]]:
    """What of a turn a person would miss: by event id, its kind and content."""
    found: dict[str, tuple[str, Any]] = {}
    for event in events:
        if isinstance(event, Message):
            found[str(event.id)] = (event.message_id, event.text)
        elif isinstance(event, File):
            found[str(event.id)] = (event.file_id, event.data)
    return found


def texts(events: list[Event]) -> str:
    return "\n".join(event.text for event in events if isinstance(event, Message))


def last(events: list[Event]) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


def refs(events: list[Event]) -> Iterator[Any]:
    return (event.ref for event in events if event.ref is not None)


def newest(events: list[Event]) -> Any:
    return list(refs(events))[-1]


def after(turn: Turn, prompt: str, events: list[Event]) -> Turn:
    """The turn with what was said before it, as a runtime needs it that keeps nothing itself."""
    said = [PastMessage(role="user", text=prompt)]
    answer = texts(events)
    return replace(turn, history=[*said, PastMessage(role="agent", text=answer or "(nothing)")])


def check_shape(runtime: Runtime, events: list[Event]) -> None:
    """What holds for every stream that ends."""
    capabilities = runtime.capabilities
    assert sum(isinstance(event, Started) for event in events) == 1
    assert sum(isinstance(event, Done) for event in events) == 1
    last(events)
    first = stored(events)[0]
    assert isinstance(first, Started)
    assert first.ref is not None
    for ref in refs(events):
        assert len(json.dumps(ref)) <= MAX_REF_BYTES
    closed = {event.message_id for event in events if isinstance(event, Message)}
    opened = {event.message_id for event in events if isinstance(event, MessageDelta)}
    assert opened <= closed, "a delta's message was never closed"
    assert all(event.cursor is None for event in events if isinstance(event, LIVE))
    if capabilities.attach == "history":
        ids = [event.id for event in stored(events)]
        assert all(ids)
        assert len(set(ids)) == len(ids)
    if capabilities.attach == "cursor":
        assert events[-1].cursor


async def test_is_a_runtime_that_can_be_checked_without_starting_anything(case: Case) -> None:
    async with limited(case) as bench:
        assert isinstance(bench.runtime, Runtime)
        assert bench.runtime.kind == case.kind
        assert await bench.runtime.check()


async def test_lists_its_agents_where_it_claims_to(case: Case, make_turn: MakeTurn) -> None:
    async with limited(case) as bench:
        if not bench.runtime.capabilities.discover:
            with pytest.raises(Unsupported):
                await bench.runtime.agents()
            return
        (agent,) = await bench.runtime.agents()
        assert agent.name
        events = await read(bench.runtime.start(make_turn("hello", agent=agent.ref)))
        assert "hello" in texts(events)


async def test_a_turn_streams_its_text_and_ends(case: Case, make_turn: MakeTurn) -> None:
    async with limited(case) as bench:
        events = await read(bench.runtime.start(make_turn("hello wide world")))
        check_shape(bench.runtime, events)
        assert last(events).outcome == "completed"
        assert "hello wide world" in texts(events)
        deltas = "".join(e.text for e in events if isinstance(e, MessageDelta))
        assert not deltas or deltas == texts(events)
        if bench.runtime.capabilities.usage:
            assert any(isinstance(event, Usage) and event.output_tokens for event in events)


async def test_streams_while_the_agent_works_where_it_claims_to(
    case: Case, make_turn: MakeTurn
) -> None:
    async with limited(case) as bench:
        if not bench.runtime.capabilities.stream:
            pytest.skip("this configuration does not stream")
        async with bench.runtime.start(make_turn("slow 5")) as events:
            seen = [event async for event in events]
        assert sum(isinstance(event, WORKING) for event in seen) > 1
        check_shape(bench.runtime, seen)


async def test_a_second_turn_continues_the_session(case: Case, make_turn: MakeTurn) -> None:
    async with limited(case) as bench:
        first = await read(bench.runtime.start(make_turn("remember apples")))
        again = make_turn("recall", ref=newest(first))
        keeps = bench.runtime.capabilities.conversation
        if keeps != "runtime":
            with pytest.raises(Unsupported):
                await read(bench.runtime.start(again))
        if keeps == "caller":
            again = after(again, "remember apples", first)
        if keeps != "none":
            assert "apples" in texts(await read(bench.runtime.start(again)))


async def test_message_ids_of_two_turns_differ(case: Case, make_turn: MakeTurn) -> None:
    async with limited(case) as bench:
        first = await read(bench.runtime.start(make_turn("one")))
        alone = bench.runtime.capabilities.conversation == "none"
        turn = after(make_turn("two", ref=None if alone else newest(first)), "one", first)
        second = await read(bench.runtime.start(turn))
        assert not kept(first).keys() & kept(second).keys()
        assert not {v[0] for v in kept(first).values()} & {v[0] for v in kept(second).values()}


async def test_a_question_stops_the_turn_and_its_answer_goes_on(
    case: Case, make_turn: MakeTurn
) -> None:
    async with limited(case) as bench:
        runtime = bench.runtime
        if runtime.capabilities.answer == "none":
            with pytest.raises(Unsupported):
                await read(runtime.start(make_turn(answers=[Answer(question_id="q")])))
            return
        assert case.ask is not None
        if runtime.capabilities.answer == "in_stream":
            await answered_in_stream(case, runtime, make_turn(case.ask))
            return
        asked = await read(runtime.start(make_turn(case.ask)))
        check_shape(runtime, asked)
        assert last(asked).outcome == "requires_action"
        (question,) = [event.question for event in asked if isinstance(event, Asked)]
        assert question.kind == case.ask_kind
        answer = Answer(question_id=question.id, decision="allow", text="blue")
        with pytest.raises(Unsupported):
            await runtime.answer(newest(asked), answer)
        events = await read(runtime.start(make_turn(answers=[answer], ref=newest(asked))))
        check_shape(runtime, events)
        assert last(events).outcome == "completed"
        assert any(word in texts(events) for word in ("blue", "allowed"))
        assert not kept(asked).keys() & kept(events).keys(), "said again what was said before"


async def answered_in_stream(case: Case, runtime: Runtime, turn: Turn) -> None:
    """The stream stays open for the question, and says what came of the answer."""
    seen: list[Event] = []
    async with runtime.start(turn) as events:
        async for event in events:
            seen.append(event)
            if isinstance(event, Asked):
                assert event.question.kind == case.ask_kind
                ref = newest(seen)
                with pytest.raises(RuntimeFailure):
                    await runtime.answer(ref, Answer(question_id="none", decision="allow"))
                answer = Answer(question_id=event.question.id, decision="allow", text="blue")
                await runtime.answer(ref, answer)
    check_shape(runtime, seen)
    assert sum(isinstance(event, Asked) for event in seen) == 1
    assert last(seen).outcome == "completed"
    assert any(word in texts(seen) for word in ("blue", "allowed"))
    with pytest.raises(RuntimeFailure):
        await runtime.answer(newest(seen), answer)


async def test_answers_without_a_question_are_refused_before_anything_is_sent(
    case: Case, make_turn: MakeTurn
) -> None:
    async with limited(case) as bench:
        turn = make_turn(answers=[Answer(question_id="q", text="x")])
        with pytest.raises(RuntimeFailure) as failure:
            await read(bench.runtime.start(turn))
        assert not failure.value.sent


async def test_a_failure_of_the_agent_ends_the_turn_in_its_words(
    case: Case, make_turn: MakeTurn
) -> None:
    async with limited(case) as bench:
        events = await read(bench.runtime.start(make_turn("fail out of ink")))
        check_shape(bench.runtime, events)
        assert last(events).outcome == "failed"
        assert "out of ink" in (last(events).error or "")
        alone = bench.runtime.capabilities.conversation == "none"
        turn = make_turn("hello", ref=None if alone else newest(events))
        again = await read(bench.runtime.start(after(turn, "fail out of ink", events)))
        assert last(again).outcome == "completed"


async def test_files_that_the_agent_makes_arrive_with_their_bytes(
    case: Case, make_turn: MakeTurn
) -> None:
    async with limited(case) as bench:
        if not bench.runtime.capabilities.files_out:
            pytest.skip("this kind makes no files")
        assert case.file is not None
        events = await read(bench.runtime.start(make_turn(case.file)))
        (file,) = [event for event in events if isinstance(event, File)]
        assert file.data.startswith((b"body of it", b"content of"))
        assert file.name in case.file_names


async def test_files_go_in_or_are_refused_before_anything_is_sent(
    case: Case, make_turn: MakeTurn
) -> None:
    async def content() -> bytes:
        return b"bytes"

    file = PromptFile(name="in.txt", media_type="text/plain", size=5, read=content)
    async with limited(case) as bench:
        turn = make_turn("hello", files=[file])
        if bench.runtime.capabilities.files_in:
            assert last(await read(bench.runtime.start(turn))).outcome == "completed"
        else:
            with pytest.raises(Unsupported):
                await read(bench.runtime.start(turn))
            assert bench.proxy.accepted == 0


async def test_cancel_ends_the_work_at_the_runtime(case: Case, make_turn: MakeTurn) -> None:
    async with limited(case) as bench:
        runtime = bench.runtime
        async with runtime.start(make_turn("slow 500")) as events:
            if runtime.capabilities.cancel != "remote":
                with pytest.raises(Unsupported):
                    await runtime.cancel({"response": "r"})
                return
            started = await anext(events)
            while started.ref is None:
                started = await anext(events)
            await runtime.cancel(started.ref)
            rest = [event async for event in events]
        await eventually_async(bench.cancelled)
        assert bench.cancelled() == 1
        assert isinstance(rest[-1], Done)
        if case.kind != "http":
            assert last(rest).outcome == "cancelled"
        await runtime.cancel(started.ref)


async def test_closing_the_stream_cancels_where_nothing_else_does(
    case: Case, make_turn: MakeTurn
) -> None:
    async with limited(case) as bench:
        capabilities = bench.runtime.capabilities
        if capabilities.cancel != "disconnect" or not capabilities.stream:
            pytest.skip("this configuration has another way")
        async with bench.runtime.start(make_turn("slow 500")) as events:
            async for event in events:
                if isinstance(event, MessageDelta):
                    break
        await eventually_async(bench.cancelled)


async def test_leaving_closes_the_connection_at_once_and_cancels_nothing(
    case: Case, make_turn: MakeTurn
) -> None:
    async with limited(case) as bench:
        runtime = bench.runtime
        if runtime.capabilities.on_disconnect != "continues":
            pytest.skip("this configuration does not promise to go on")
        before = 0
        async with runtime.start(make_turn("slow 4")) as events:
            async for event in events:
                before += 1
                if isinstance(event, Started):
                    break
        await runtime.aclose()
        await bench.proxy.until_closed()
        assert bench.cancelled() == 0


async def test_leaving_ends_the_work_where_it_says_so(case: Case, make_turn: MakeTurn) -> None:
    async with limited(case) as bench:
        if bench.runtime.capabilities.on_disconnect != "aborts":
            pytest.skip("this configuration does not say that it stops")
        async with bench.runtime.start(make_turn("slow 500")) as events:
            async for event in events:
                if isinstance(event, WORKING):
                    break
        await eventually_async(bench.cancelled, words="it works on")


async def test_a_start_that_is_repeated_is_the_same_start_where_it_says_so(
    case: Case, make_turn: MakeTurn
) -> None:
    """Its answer was lost; the same turn is started again, while it works and when it has ended."""
    async with limited(case) as bench:
        runtime = bench.runtime
        if not runtime.capabilities.idempotent_start:
            pytest.skip("each start is another one")
        turn = make_turn("remember apples")
        async with runtime.start(turn) as events:
            async for event in events:
                if isinstance(event, Started):
                    break
        once, twice = await read(runtime.start(turn)), await read(runtime.start(turn))
        assert kept(once) == kept(twice)
        said = await read(runtime.start(make_turn("recall", ref=newest(twice))))
        assert texts(said).count("apples") == 1


async def test_a_silent_runtime_can_be_left_promptly(case: Case, make_turn: MakeTurn) -> None:
    async with limited(case) as bench:
        await bench.runtime.check()
        bench.proxy.stall()
        with anyio.move_on_after(0.2) as scope:
            await read(bench.runtime.start(make_turn("hello")))
        assert scope.cancelled_caught
        await bench.runtime.aclose()
        await bench.proxy.until_closed()


async def test_a_connection_cut_half_way_is_lost_and_says_so(
    case: Case, make_turn: MakeTurn
) -> None:
    """It stops without `Done`, or raises `Unavailable` as something that was sent."""
    async with limited(case) as bench:
        if not (bench.runtime.capabilities.stream and case.one_connection):
            pytest.skip("there is no stream to cut")
        seen: list[Event] = []
        failure: Unavailable | None = None
        try:
            async with bench.runtime.start(make_turn("slow 500")) as events:
                async for event in events:
                    seen.append(event)
                    if isinstance(event, WORKING):
                        bench.proxy.cut()
        except Unavailable as raised:
            failure = raised
        assert failure is None or failure.sent
        assert not any(isinstance(event, Done) for event in seen)


async def test_a_runtime_that_is_not_there_was_never_sent_anything(
    case: Case, make_turn: MakeTurn
) -> None:
    async with limited(case) as bench:
        pass
    with anyio.fail_after(SECONDS), pytest.raises(Unavailable) as failure:
        await read(bench.runtime.start(make_turn("hello")))
    assert not failure.value.sent
    await bench.runtime.aclose()


@pytest.mark.parametrize("when", ["while it works", "after it ended"])
async def test_attaching_gives_what_an_undisturbed_run_gives(
    case: Case, make_turn: MakeTurn, when: str
) -> None:
    async with limited(case) as bench:
        runtime = bench.runtime
        if runtime.capabilities.attach == "none":
            with pytest.raises(Unsupported):
                await read(runtime.attach({}, None))
            return
        before: list[Event] = []
        async with runtime.start(make_turn("slow 8")) as events:
            async for event in events:
                before.append(event)
                working = isinstance(event, WORKING if runtime.capabilities.stream else Started)
                if working and list(refs(before)):
                    break
        bench.proxy.cut()
        await bench.proxy.until_closed()
        ref = newest(before)
        if when == "after it ended":
            await read(runtime.attach(ref, None))
        cursors = [event.cursor for event in before if event.cursor]
        after = await read(runtime.attach(ref, cursors[-1] if cursors else None))
        whole = await read(runtime.attach(ref, None))
        assert last(after).outcome == "completed"
        assert kept([*before, *after]) == kept(whole)
        assert sum(len(kept([event])) for event in [*before, *after]) == len(kept(whole)) or (
            runtime.capabilities.attach == "history"
        )
        if case.kind != "http":
            assert "chunk 8 of 8" in texts(whole)


async def test_ten_megabytes_in_one_event_arrive(case: Case, make_turn: MakeTurn) -> None:
    async with limited(case) as bench:
        events = await read(bench.runtime.start(make_turn("big 10000000")))
        assert last(events).outcome == "completed"
        assert len(texts(events)) == 10_000_000


async def test_structured_input_reaches_the_agent_or_is_text(
    case: Case, make_turn: MakeTurn
) -> None:
    async with limited(case) as bench:
        turn = make_turn("hello", input={"city": "Oslo"})
        assert isinstance(turn.input, Prompt)
        assert last(await read(bench.runtime.start(turn))).outcome == "completed"


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_streams_that_are_left_half_way_leave_no_descriptor(
    case: Case, make_turn: MakeTurn
) -> None:
    async with limited(case) as bench:
        await bench.runtime.check()

        async def leave() -> None:
            # A session of its own: some runtimes refuse a second turn while one is running.
            turn = replace(make_turn("slow 3"), session_id=f"ses_{secrets.token_hex(16)}")
            async with bench.runtime.start(turn) as events:
                async for event in events:
                    if isinstance(event, Started):
                        return

        await leave()
        await bench.runtime.aclose()
        await bench.proxy.until_closed()
        before = descriptors()
        async with anyio.create_task_group() as tasks:
            for _ in range(case.at_once):
                tasks.start_soon(leave)
        await bench.runtime.aclose()
        await bench.proxy.until_closed()
        await eventually_async(lambda: descriptors() <= before)
