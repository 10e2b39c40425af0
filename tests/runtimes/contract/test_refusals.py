"""The other half of the contract, over every adapter: an answer of "no" is one, and what is not
claimed is refused in words before anything is sent."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Answer, Asked, Done, Event, Prompt, PromptFile, Runtime
from lap_runtimes.errors import Unsupported

from tests.runtimes.bench import Case
from tests.runtimes.cases import CASES
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.reading import last_ref, read, texts

pytestmark = pytest.mark.anyio

SECONDS = 60


@pytest.fixture(params=CASES, ids=lambda case: case.id)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


async def test_an_approval_that_is_denied_lets_nothing_through(
    case: Case, make_turn: MakeTurn
) -> None:
    if case.ask is None or case.ask_kind != "approval":
        pytest.skip("its agents ask for no approval")
    async with case.bench() as bench:
        runtime = bench.runtime
        with anyio.fail_after(SECONDS):
            if runtime.capabilities.answer == "in_stream":
                events = await denied_in_stream(runtime, make_turn(case.ask))
            else:
                asked = await read(runtime.start(make_turn(case.ask)))
                answer = denial(asked)
                turn = make_turn(answers=[answer], ref=last_ref(asked))
                events = await read(runtime.start(turn))
    assert isinstance(events[-1], Done)
    assert events[-1].outcome in ("completed", "failed")
    assert "allowed" not in "\n".join(texts(events))


def denial(events: list[Event]) -> Answer:
    (question,) = [event.question for event in events if isinstance(event, Asked)]
    return Answer(question_id=question.id, decision="deny", text="not on my machine")


async def denied_in_stream(runtime: Runtime, turn: Any) -> list[Event]:
    seen: list[Event] = []
    async with runtime.start(turn) as events:
        async for event in events:
            seen.append(event)
            if isinstance(event, Asked):
                await runtime.answer(last_ref(seen), denial(seen))
    return seen


async def _nothing() -> bytes:
    raise AssertionError("the file of a turn that is refused was read")


def unclaimed(runtime: Runtime, make_turn: MakeTurn) -> dict[str, Callable[[], Awaitable[Any]]]:
    """What this configuration does not claim, and how it would be asked for."""
    claims = runtime.capabilities
    answer = Answer(question_id="q", decision="allow", text="x")
    file = PromptFile(name="a.txt", media_type="text/plain", size=1, read=_nothing)
    asked: dict[str, tuple[bool, Callable[[], Awaitable[Any]]]] = {
        "discover": (claims.discover, runtime.agents),
        "attach": (claims.attach != "none", lambda: read(runtime.attach({}, None))),
        "a cursor": (claims.attach in ("none", "cursor"), lambda: read(runtime.attach({}, "7"))),
        "answer": (claims.answer == "in_stream", lambda: runtime.answer({}, answer)),
        "answer by a start": (
            claims.answer == "resume",
            lambda: read(runtime.start(make_turn(answers=[answer]))),
        ),
        "steer": (claims.steer, lambda: runtime.steer({}, Prompt(text="x"))),
        "cancel": (claims.cancel == "remote", lambda: runtime.cancel({})),
        "files_in": (
            claims.files_in,
            lambda: read(runtime.start(make_turn("hello", files=[file]))),
        ),
    }
    return {name: ask for name, (claimed, ask) in asked.items() if not claimed}


async def test_what_is_not_claimed_is_refused_in_words_before_anything_is_sent(
    case: Case, make_turn: MakeTurn
) -> None:
    async with case.bench() as bench:
        for name, ask in unclaimed(bench.runtime, make_turn).items():
            with anyio.fail_after(SECONDS), pytest.raises(Unsupported) as refused:
                await ask()
            assert refused.value.message, name
            assert not refused.value.sent, name
        assert bench.proxy.accepted == 0
