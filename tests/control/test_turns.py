"""Turns from a prompt to their end, with a runtime that keeps to its contract."""

from __future__ import annotations

import anyio
import pytest
from lap_runtimes.base import (
    Done,
    EventStream,
    File,
    Message,
    MessageDelta,
    Ref,
    Thinking,
    ToolResult,
    ToolUse,
    Usage,
)
from lap_runtimes.errors import Rejected, Unavailable
from lap_runtimes.script import Step
from lap_runtimes.testing import Drop, Fail, Gate, ScriptedRuntime, big_message
from lap_runtimes.testing import say as scripted_say

from lap_mcp.control.engine import SessionLimits
from lap_mcp.control.services import FileInput, NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import Conflict, Invalid, LimitReached, NotFound
from lap_mcp.model import LOCAL, Delta, Origin, Principal, StoredEvent
from tests.canary import canary

from .conftest import DEADLINE, ME, Agents, House

pytestmark = pytest.mark.anyio


def say(text: str, message_id: str = "m1") -> list[Step]:
    return scripted_say(text, message_id=message_id, outcome=False)


async def ask(sessions: Sessions, text: str = "go", session: str | None = None, **kw: object):
    """Prompt and wait for the end: (session id, turn, text)."""
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text=text, **kw), session_id=session)
    sid = accepted.session.id
    turn = await sessions.wait(LOCAL, sid, accepted.turn.id, timeout=DEADLINE)
    content = await sessions.content(LOCAL, sid, turn.id)
    # What is remembered of a turn that has just ended is what the store has.
    assert await sessions.content(LOCAL, sid, turn.id) == content
    return sid, turn, content.text


async def test_an_answer_is_stored_as_events_without_gaps(sessions: Sessions, agents: Agents):
    agents.add(
        ScriptedRuntime(
            [
                [
                    Thinking(message_id="t", text="hm"),
                    ToolUse(tool_use_id="u", name="search", input={"q": "x"}),
                    ToolResult(tool_use_id="u", text="found"),
                    *say("Hello there", message_id="m"),
                    Usage(input_tokens=3, output_tokens=5),
                    Done(outcome="completed"),
                ]
            ]
        )
    )

    sid, turn, text = await ask(sessions, "hi")

    events = await sessions.events(LOCAL, sid)
    assert text == "Hello there"
    assert turn.outcome == "completed"
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert [event.type for event in events] == [
        "user.message",
        "session.status_running",
        "agent.thinking",
        "agent.tool_use",
        "agent.tool_result",
        "agent.message",
        "session.usage",
        "session.status_idle",
    ]
    assert (await sessions.get(LOCAL, sid)).status == "idle"
    assert (turn.first_seq, turn.last_seq) == (1, len(events))


async def test_a_session_continues_with_the_ref_of_its_last_turn(
    sessions: Sessions, agents: Agents
):
    runtime = ScriptedRuntime(lambda turn: [*say("ok"), Done(outcome="completed")])
    agents.add(runtime)

    sid, _, _ = await ask(sessions, "one")
    again, turn, _ = await ask(sessions, "two", session=sid)

    assert again == sid
    assert turn.number == 2
    assert runtime.starts[0].ref == {}
    assert runtime.starts[1].ref != {}
    assert runtime.starts[1].session_id == sid


async def test_a_follower_sees_deltas_then_the_finished_message(sessions: Sessions, agents: Agents):
    runtime = ScriptedRuntime(
        [[Gate("go"), MessageDelta(message_id="m", text="He"), Gate("half"),
          MessageDelta(message_id="m", text="llo"), Message(message_id="m", text="Hello"),
          Done(outcome="completed")]]
    )  # fmt: skip
    agents.add(runtime)
    accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
    seen: list[StoredEvent | Delta] = []

    with anyio.fail_after(DEADLINE):
        async with sessions.follow(LOCAL, accepted.session.id) as items:
            runtime.release("go")
            async for item in items:
                seen.append(item)
                if isinstance(item, Delta) and item.text == "He":
                    runtime.release("half")
                if isinstance(item, StoredEvent) and item.type == "session.status_idle":
                    break

    deltas = [item.text for item in seen if isinstance(item, Delta)]
    stored = [item for item in seen if isinstance(item, StoredEvent)]
    assert deltas == ["He", "llo"]
    assert [event.seq for event in stored] == list(range(1, len(stored) + 1))
    assert next(e for e in stored if e.type == "agent.message").payload["text"] == "Hello"


async def test_a_refused_start_ends_the_turn_in_words_and_leaves_the_session_idle(
    sessions: Sessions, agents: Agents
):
    agents.add(ScriptedRuntime([[Fail(Rejected("no such agent", kind="not_found", status=404))]]))

    sid, turn, _ = await ask(sessions)

    assert turn.outcome == "failed"
    assert "no such agent" in (turn.error or "")
    assert "404" in (turn.error or "")
    assert (await sessions.get(LOCAL, sid)).status == "idle"


async def test_a_dropped_stream_is_attached_to_again_and_nothing_comes_twice(
    sessions: Sessions, agents: Agents
):
    runtime = ScriptedRuntime(
        [[*say("one", message_id="a"), MessageDelta(message_id="b", text="tw"), Drop(),
          *say("two", message_id="b"), Done(outcome="completed")]]
    )  # fmt: skip
    agents.add(runtime)

    sid, turn, text = await ask(sessions)

    assert turn.outcome == "completed"
    assert text == "one\n\ntwo"
    assert len(runtime.attaches) == 1


async def test_a_runtime_that_never_comes_back_ends_the_turn_and_keeps_what_came(
    sessions: Sessions, agents: Agents, monkeypatch: pytest.MonkeyPatch
):
    from dataclasses import replace

    from lap_runtimes.testing import EVERYTHING

    capabilities = replace(EVERYTHING, attach="none", idempotent_start=False)
    agents.add(
        ScriptedRuntime(
            [[*say("one", message_id="a"), MessageDelta(message_id="b", text="half"), Drop()]],
            capabilities=capabilities,
        )
    )

    sid, turn, text = await ask(sessions)

    assert turn.outcome == "failed"
    assert "cannot resume" in (turn.error or "")
    assert text == "one\n\nhalf"
    events = await sessions.events(LOCAL, sid)
    assert next(e for e in events if e.payload.get("id") == "b").payload["partial"] is True


async def test_a_silent_runtime_is_left_after_its_silence(sessions: Sessions, agents: Agents):
    from dataclasses import replace

    from lap_runtimes.testing import EVERYTHING, Hang

    capabilities = replace(EVERYTHING, attach="none")
    agents.add(ScriptedRuntime([[*say("one"), Hang()]], capabilities=capabilities), silence=0.2)

    _, turn, text = await ask(sessions)

    assert turn.outcome == "failed"
    assert "0.2 s" in (turn.error or "")
    assert text == "one"


async def test_a_turn_past_its_deadline_expires(sessions: Sessions, agents: Agents):
    runtime = ScriptedRuntime([[*say("one"), Gate("never")]])
    agents.add(runtime, deadline=1.0)

    sid, turn, _ = await ask(sessions)

    assert turn.outcome == "expired"
    assert len(runtime.cancels) == 1
    assert (await sessions.get(LOCAL, sid)).status == "idle"


async def test_ten_megabytes_in_one_message_are_kept_whole(sessions: Sessions, agents: Agents):
    agents.add(ScriptedRuntime([[big_message(10_000_000), Done(outcome="completed")]]))

    sid, turn, text = await ask(sessions)

    assert turn.outcome == "completed"
    assert len(text) == 10_000_000
    event = next(e for e in await sessions.events(LOCAL, sid) if e.type == "agent.message")
    assert len(event.payload["text"]) < 64 * 1024


async def test_prompts_to_a_running_session_queue_and_run_in_order(
    sessions: Sessions, agents: Agents
):
    runtime = ScriptedRuntime(
        lambda turn: [Gate(turn.input.text), *say(turn.input.text), Done(outcome="completed")]
    )
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    sid = first.session.id
    others = [
        await sessions.prompt(ME, "helper", NewPrompt(text=text), session_id=sid)
        for text in ("b", "c")
    ]

    assert [a.turn.outcome for a in others] == ["queued", "queued"]
    for gate in ("a", "b", "c"):
        runtime.release(gate)
    last = await sessions.wait(LOCAL, sid, others[-1].turn.id, timeout=DEADLINE)

    assert last.outcome == "completed"
    assert [turn.input.text for turn in runtime.starts] == ["a", "b", "c"]
    events = await sessions.events(LOCAL, sid)
    assert [event.seq for event in events] == list(range(1, len(events) + 1))


async def test_the_same_prompt_to_a_running_session_joins_its_turn(
    sessions: Sessions, agents: Agents
):
    runtime = ScriptedRuntime([[Gate("go"), *say("ok"), Done(outcome="completed")]])
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="same"))

    again = await sessions.prompt(ME, "helper", NewPrompt(text="same"), session_id=first.session.id)

    assert again.joined
    assert again.turn.id == first.turn.id
    runtime.release("go")
    await sessions.wait(LOCAL, first.session.id, first.turn.id, timeout=DEADLINE)
    assert len(runtime.starts) == 1


async def test_cancel_uses_the_runtimes_verb_and_drops_the_queue(
    sessions: Sessions, agents: Agents
):
    runtime = ScriptedRuntime([[*say("one"), Gate("never")]])
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    queued = await sessions.prompt(ME, "helper", NewPrompt(text="b"), session_id=first.session.id)
    with anyio.fail_after(DEADLINE):
        await runtime.reached("never")

    session = await sessions.cancel(LOCAL, first.session.id)

    turns = await sessions.turns(LOCAL, first.session.id)
    assert session.status == "idle"
    assert [turn.outcome for turn in turns] == ["cancelled", "cancelled"]
    assert turns[1].id == queued.turn.id
    assert len(runtime.cancels) == 1
    assert len(runtime.starts) == 1


async def test_a_cancelled_session_takes_the_next_prompt(sessions: Sessions, agents: Agents):
    runtime = ScriptedRuntime([[Gate("never")], [*say("fine"), Done(outcome="completed")]])
    agents.add(runtime)
    first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
    await sessions.cancel(LOCAL, first.session.id)

    _, turn, text = await ask(sessions, "b", session=first.session.id)

    assert (turn.outcome, text) == ("completed", "fine")


async def test_files_of_an_agent_are_listed_and_read_and_given_on(
    sessions: Sessions, agents: Agents
):
    file = File(file_id="f", name="../a b.csv", media_type="text/csv", data=b"x,y\n1,2\n")
    runtime = ScriptedRuntime(
        [[file, Done(outcome="completed")], [*say("thanks"), Done(outcome="completed")]]
    )
    agents.add(runtime)
    sid, _, _ = await ask(sessions)

    (listed,) = await sessions.files(LOCAL, sid)
    meta, data = await sessions.file(LOCAL, sid, listed.name)

    assert listed.name == "a b.csv"
    assert data == b"x,y\n1,2\n"
    await ask(sessions, "use it", files=[FileInput(uri=meta.uri.replace(" ", "%20"))])
    assert runtime.files[1] == {"a b.csv": b"x,y\n1,2\n"}


async def test_a_foreign_session_is_as_missing_as_a_missing_one(sessions: Sessions, agents: Agents):
    agents.add(ScriptedRuntime([[Done(outcome="completed")]]))
    sid, _, _ = await ask(sessions)
    other = Principal(id="key:other", kind="key")

    with pytest.raises(NotFound) as foreign:
        await sessions.get(other, sid)
    with pytest.raises(NotFound) as missing:
        await sessions.get(LOCAL, "ses_" + "0" * 32)

    assert str(foreign.value).replace(sid, "X") == str(missing.value).replace(
        "ses_" + "0" * 32, "X"
    )


async def test_limits_are_named_when_they_are_reached(house: House, agents: Agents):
    runtime = ScriptedRuntime(lambda turn: [Gate("never")])
    agents.add(runtime)
    limits = SessionLimits(running_turns=2, queue=1, turns_per_session=2, cancel_wait=2.0)
    async with house.server(agents, limits) as sessions:
        first = await sessions.prompt(ME, "helper", NewPrompt(text="a"))
        await sessions.prompt(ME, "helper", NewPrompt(text="b"))
        with pytest.raises(LimitReached, match="running_turns"):
            await sessions.prompt(ME, "helper", NewPrompt(text="c"))
        await sessions.prompt(ME, "helper", NewPrompt(text="d"), session_id=first.session.id)
        with pytest.raises(LimitReached, match="turns_per_session"):
            await sessions.prompt(ME, "helper", NewPrompt(text="e"), session_id=first.session.id)


async def test_agents_that_call_each_other_in_a_circle_are_refused(
    sessions: Sessions, agents: Agents
):
    agents.add(ScriptedRuntime([]))

    with pytest.raises(Invalid, match="helper → other → helper"):
        await sessions.prompt(Origin(chain=("helper", "other")), "helper", NewPrompt(text="again"))
    with pytest.raises(Invalid, match="3 deep"):
        await sessions.prompt(Origin(chain=("a", "b", "c")), "helper", NewPrompt(text="deep"))


async def test_a_session_of_another_agent_is_an_error_that_names_it(
    sessions: Sessions, agents: Agents
):
    agents.add(ScriptedRuntime([[Done(outcome="completed")]]))
    agents.add(ScriptedRuntime([]), name="second")
    sid, _, _ = await ask(sessions)

    with pytest.raises(Invalid, match="helper"):
        await sessions.prompt(ME, "second", NewPrompt(text="x"), session_id=sid)


async def test_a_session_that_its_runtime_calls_gone_takes_no_more_prompts(
    sessions: Sessions, agents: Agents
):
    agents.add(ScriptedRuntime([[Done(outcome="failed", error="expired", session_gone=True)]]))
    sid, turn, _ = await ask(sessions)

    assert turn.outcome == "failed"
    assert (await sessions.get(LOCAL, sid)).status == "terminated"
    with pytest.raises(Conflict, match="ended at its runtime"):
        await sessions.prompt(ME, "helper", NewPrompt(text="x"), session_id=sid)


async def test_an_unreachable_runtime_says_so_and_is_not_tried_again(
    sessions: Sessions, agents: Agents
):
    runtime = ScriptedRuntime([[Fail(Unavailable("connection refused", sent=False))]])
    agents.add(runtime)

    _, turn, _ = await ask(sessions)

    assert turn.outcome == "failed"
    assert "connection refused" in (turn.error or "")
    assert "may have started" not in (turn.error or "")


async def test_a_secret_value_is_stored_and_shown_nowhere_also_in_two_pieces(
    house: House, agents: Agents
) -> None:
    from lap_mcp.control.opening import EngineOptions
    from lap_mcp.scrub import Scrubber

    secret = canary("event")
    scrubber = Scrubber()
    scrubber.add(secret)
    runtime = ScriptedRuntime(
        [
            [
                Gate("go"),
                MessageDelta(message_id="m", text=f"the key is {secret[:9]}"),
                MessageDelta(message_id="m", text=f"{secret[9:]}, keep it"),
                Message(message_id="m", text=f"the key is {secret}, keep it"),
                ToolUse(tool_use_id="u", name="get", input={"authorization": f"Bearer {secret}"}),
                ToolResult(tool_use_id="u", text=f"{secret} " * 10_000),
                File(file_id="f", name="k.txt", media_type="text/plain", data=secret.encode()),
                Done(outcome="failed", error=f"401 for {secret}"),
            ]
        ]
    )
    agents.add(runtime)
    seen: list[str] = []
    async with house.server(agents, options=EngineOptions(scrubber=scrubber)) as sessions:
        accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
        with anyio.fail_after(DEADLINE):
            async with sessions.follow(LOCAL, accepted.session.id) as items:
                runtime.release("go")
                async for item in items:
                    seen.append(item.text if isinstance(item, Delta) else str(item.payload))
                    if isinstance(item, StoredEvent) and item.type == "session.error":
                        break
        turn = await sessions.turn(LOCAL, accepted.session.id, accepted.turn.id)

    assert "the key is [secret], keep it" in "".join(seen)
    assert secret not in "".join(seen)
    assert secret not in (turn.error or "")
    blobs = [path.read_bytes() for path in house.blobs_folder.iterdir()]
    assert blobs
    assert not any(secret.encode() in blob for blob in blobs)


async def test_a_runtime_that_replays_and_drops_without_end_is_given_up(
    sessions: Sessions, agents: Agents, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each re-attach brings the same events: that is no progress."""
    from dataclasses import replace

    from lap_runtimes.testing import EVERYTHING

    from lap_mcp.control import driving

    class Stuck(ScriptedRuntime):
        def attach(self, ref: Ref, cursor: str | None) -> EventStream:
            self.run(self.starts[0].id).spent.clear()
            return super().attach(ref, cursor)

    monkeypatch.setattr(driving, "BACKOFF", (0.01, 0.01, 0.01))
    capabilities = replace(EVERYTHING, attach="history", idempotent_start=False)
    runtime = Stuck([[*say("one"), Drop()]], capabilities=capabilities)
    agents.add(runtime)

    _, turn, text = await ask(sessions)

    assert turn.outcome == "failed"
    assert text == "one"
    assert len(runtime.attaches) == 3
