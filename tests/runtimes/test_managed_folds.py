"""Whatever a vendor sends, the folds of the managed kinds give events of ours or one of our errors,
and close what they opened."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lap_runtimes import claude_fold, gemini_fold, lap_platform_fold, openai_agents_fold
from lap_runtimes.base import (
    MAX_REF_BYTES,
    Done,
    Event,
    Message,
    MessageDelta,
    Thinking,
    ThinkingDelta,
)
from lap_runtimes.errors import RuntimeFailure, Unavailable
from lap_runtimes.managed import parsed

LEAF = st.sampled_from(
    [None, True, 0, 7, -1, 1.5, "", "a", "turn_1", "completed", "requires_action", "idle", "[", "9"]
)


def events_of(kinds: list[str], key: str, fields: list[str]) -> st.SearchStrategy[Any]:
    """Objects of these types, with fields of any type, nested in themselves to a depth of three."""
    names = st.sampled_from([*fields, "type", "id", "text", "status", key])
    value: st.SearchStrategy[Any] = LEAF | st.lists(LEAF, max_size=2)
    for _ in range(2):
        objects = st.dictionaries(names, value, max_size=4)
        value = LEAF | objects | st.lists(objects | LEAF, max_size=2)
    return st.builds(
        lambda kind, body: {**body, key: kind},
        st.sampled_from(kinds),
        st.dictionaries(names, value, max_size=5),
    )


CLAUDE = events_of(
    [*claude_fold._HANDLERS, "error", "new"],
    "type",
    ["id", "content", "event", "event_id", "delta", "input", "name", "stop_reason", "event_ids"]
    + ["error", "usage", "evaluated_permission", "tool_use_id", "retry_status", "stop_details"],
)
OPENAI = events_of(
    [*openai_agents_fold._HANDLERS, "error", "new"],
    "type",
    ["event_id", "item_id", "delta", "item", "turn", "turn_id", "session", "session_id", "usage"]
    + ["required_actions", "request", "status", "summary", "action", "output", "spend_control"],
)
PLATFORM = events_of(
    [*lap_platform_fold._HANDLERS, "new"],
    "type",
    ["id", "content", "error", "stop_reason", "input", "name", "tool_use_id", "text"],
)
GEMINI = events_of(
    ["interaction.created", "interaction.status_update", "interaction.completed", "step.start"]
    + ["step.delta", "step.stop", "error", "new"],
    "event_type",
    ["event_id", "index", "interaction", "interaction_id", "status", "step", "delta", "usage"]
    + ["content", "arguments", "result", "steps", "errors"],
)


def claude(bodies: list[Any]) -> list[Event]:
    fold = claude_fold.SessionFold({"session": "s", "turn": "t"})
    events = [event for body in bodies for event in fold.feed(body)]
    return [*events, *fold.end(bodies[0], bodies[1:])]


def openai(bodies: list[Any]) -> list[Event]:
    fold = openai_agents_fold.AgentFold({"turn": "t"})
    events = [event for body in bodies for event in fold.feed(body)]
    events += fold.feed_past(bodies, bodies[0], bodies[-1])
    return [*events, *fold.end([], [])]


def platform(bodies: list[Any]) -> list[Event]:
    fold = lap_platform_fold.PlatformFold({"session": "s", "turn": "t"})
    return [*fold.feed_list(bodies), *fold.end([b for b in bodies if b.get("id")])]


def gemini(bodies: list[Any]) -> list[Event]:
    fold = gemini_fold.InteractionFold("t", {})
    events = [event for body in bodies for event in fold.feed(body)]
    return [*events, *fold.feed_whole(bodies[0]), *fold.end(bodies[-1])]


@pytest.mark.parametrize(
    ("fold", "bodies"),
    [(claude, CLAUDE), (openai, OPENAI), (platform, PLATFORM), (gemini, GEMINI)],
    ids=["claude", "openai", "platform", "gemini"],
)
def test_nothing_that_a_vendor_sends_breaks_a_fold(
    fold: Callable[[list[Any]], list[Event]], bodies: st.SearchStrategy[Any]
) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.lists(bodies, min_size=1, max_size=5))
    def holds(sent: list[Any]) -> None:
        try:
            events = fold(sent)
        except RuntimeFailure:
            return
        opened = {e.message_id for e in events if isinstance(e, MessageDelta | ThinkingDelta)}
        closed = {e.message_id for e in events if isinstance(e, Message | Thinking)}
        assert opened <= closed
        for event in events:
            if event.ref is not None:
                assert len(json.dumps(event.ref)) <= MAX_REF_BYTES

    holds()


# Servers that speak the API of Claude Managed Agents, and differ from it


def idle(event_id: str, reason: str = "end_turn") -> dict[str, Any]:
    return {"type": "session.status_idle", "id": event_id, "stop_reason": {"type": reason}}


def said(event_id: str, text: str) -> dict[str, Any]:
    content = [{"type": "text", "text": text}]
    return {"type": "agent.message", "id": event_id, "content": content}


def test_a_stream_that_begins_with_what_was_before_does_not_end_the_turn_by_an_old_rest() -> None:
    fold = claude_fold.SessionFold({"session": "s", "turn": "t", "from": "evt_3"})
    listed = [idle("evt_1"), idle("evt_2"), {"type": "user.message", "id": "evt_3"}]
    for body in listed:
        assert fold.feed(body) == []
    for body in listed:
        assert fold.feed(body) == []
        assert not fold.finished
    (message,) = fold.feed(said("evt_4", "hello"))
    assert isinstance(message, Message)
    assert fold.feed(idle("evt_5")) == []
    assert fold.finished


@pytest.mark.parametrize(
    "error",
    [
        {"message": "out of ink", "error_type": "BadRequestError"},
        {"error": {"type": "unknown_error", "message": "out of ink"}},
    ],
)
def test_an_error_of_a_session_is_read_where_either_server_writes_it(error: Any) -> None:
    fold = claude_fold.SessionFold({"session": "s", "turn": "t"})
    fold.feed({"type": "session.error", "id": "evt_1", **error})
    fold.feed({"type": "session.status_terminated", "id": "evt_2"})
    done = list(fold.end({}, []))[-1]
    assert isinstance(done, Done)
    assert (done.outcome, done.error) == ("failed", "out of ink")


def test_a_frame_called_error_is_one_whatever_type_it_gives_itself() -> None:
    body = parsed('{"type": "not_found_error", "message": "Session not found"}', "error")
    with pytest.raises(Unavailable, match="Session not found"):
        claude_fold.SessionFold({"session": "s", "turn": "t"}).feed(body)
