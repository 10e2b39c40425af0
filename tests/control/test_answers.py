"""Answers that are remembered for whoever waited: the same as the store's, for nobody else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from lap_runtimes.base import Done, File
from lap_runtimes.testing import ScriptedRuntime, big_message
from lap_runtimes.testing import say as scripted_say

from lap_mcp.control import answers
from lap_mcp.control.answers import Answers, Said
from lap_mcp.control.services import NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.model import LOCAL, StoredEvent

from .conftest import DEADLINE, ME, Agents

END = Done(outcome="completed")
A_FILE = File(file_id="f", name="a.txt", media_type="text/plain", data=b"x")


def event(kind: str, **payload: Any) -> StoredEvent:
    return StoredEvent(session_id="s", seq=1, turn_id="t", type=kind, payload=payload, at=0.0)


def said(*events: StoredEvent, whole: bool = True) -> Said:
    found = Said()
    found.begin(whole=whole)
    found.add(events)
    return found


def test_messages_are_joined_by_a_blank_line() -> None:
    whole = [event("agent.message", id="a", text="one"), event("agent.message", id="b", text="")]
    assert said(*whole, event("agent.message", id="c", text="two")).text == "one\n\ntwo"


@pytest.mark.parametrize(
    "more",
    [
        event("agent.file", name="a.png"),
        event("agent.message", id="b", text="head", blob="x"),
        event("agent.message", id="b", text="x" * 70_000),
    ],
    ids=["a file", "a blob", "a long one"],
)
def test_of_an_answer_with_more_to_it_nothing_is_remembered(more: StoredEvent) -> None:
    first = event("agent.message", id="a", text="one")
    assert said(first, more).text is None
    assert said(first, more, first).text is None


def test_nor_of_a_turn_that_began_elsewhere() -> None:
    assert said(event("agent.message", id="a", text="one"), whole=False).text is None


def test_an_answer_is_given_once_and_to_its_own_principal() -> None:
    kept = Answers()
    kept.keep("me", "s", "t", said(event("agent.message", id="a", text="one")))
    assert kept.take("you", "s", "t") is None
    assert kept.take("me", "other", "t") is None
    assert kept.take("me", "s", "t") == "one"
    assert kept.take("me", "s", "t") is None


def test_it_is_soon_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(answers.time, "monotonic", lambda: now[0])
    kept = Answers()
    kept.keep("me", "s", "t", said(event("agent.message", id="a", text="one")))
    now[0] += 3
    assert kept.take("me", "s", "t") is None


def test_no_more_are_kept_than_some() -> None:
    kept = Answers()
    for number in range(200):
        kept.keep("me", "s", str(number), said(event("agent.message", id="a", text="one")))
    assert kept.take("me", "s", "0") is None
    assert kept.take("me", "s", "199") == "one"
    assert len(kept._kept) < 100


def say(text: str, message_id: str) -> Sequence[Any]:
    return scripted_say(text, message_id=message_id, outcome=False)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("script", "text"),
    [
        ([*say("one", "a"), *say("two", "b"), END], "one\n\ntwo"),
        ([END], ""),
        ([*say("kept", "a"), Done(outcome="failed", error="broke")], "kept"),
        ([*scripted_say("half", message_id="a", outcome=False)[:-1], END], "half"),
    ],
    ids=["two messages", "none", "failed", "an open message"],
)
async def test_what_is_remembered_is_what_is_stored(
    sessions: Sessions, agents: Agents, script: Sequence[Any], text: str
) -> None:
    agents.add(ScriptedRuntime([list(script)]))
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    sid, tid = accepted.session.id, accepted.turn.id
    await sessions.wait(LOCAL, sid, tid, timeout=DEADLINE)
    assert (sid, tid) in sessions._engine.hub.answers._kept
    remembered = await sessions.content(LOCAL, sid, tid)
    assert remembered.text == text
    assert await sessions.content(LOCAL, sid, tid) == remembered


@pytest.mark.anyio
@pytest.mark.parametrize(
    "script",
    [
        [
            *say("see", "a"),
            A_FILE,
            END,
        ],
        [big_message(200_000), END],
    ],
    ids=["a file", "a long message"],
)
async def test_the_rest_is_read_from_the_store(
    sessions: Sessions, agents: Agents, script: Sequence[Any]
) -> None:
    agents.add(ScriptedRuntime([list(script)]))
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    sid, tid = accepted.session.id, accepted.turn.id
    await sessions.wait(LOCAL, sid, tid, timeout=DEADLINE)
    assert sessions._engine.hub.answers._kept == {}
    content = await sessions.content(LOCAL, sid, tid)
    assert content.text
    assert await sessions.content(LOCAL, sid, tid) == content
