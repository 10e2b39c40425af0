"""A server of other people's that speaks the API of Claude Managed Agents, with a scripted model
(tier 2): open-managed-agents 0.1.0, which wants Python 3.12.

It is a peer, not an oracle: where it differs from the official SDK's types, `docs/proven.md` says
so, and the adapter keeps to the types."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Answer, Asked, Done, Event, Message, Runtime, Started
from lap_runtimes.claude_managed_agents import ClaudeManagedAgentsRuntime
from lap_runtimes.errors import Rejected

from tests.canary import canary
from tests.conftest import require
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.oma_model import Model
from tests.runtimes.own_environment import environment, free_port, python_of, started
from tests.runtimes.reading import done, last_ref, questions, read, texts, until
from tests.runtimes.real_cases import folder_of
from tests.runtimes.serving import Proxy, address, listening, proxied, serving
from tests.waiting import eventually_async

pytestmark = [pytest.mark.anyio, pytest.mark.tier2]

SECONDS = 60
PYTHON = (3, 12)
HEADERS = {
    "anthropic-version": "2023-06-01",
    "anthropic-beta": "managed-agents-2026-04-01",
    "content-type": "application/json",
}
ASKS = {
    "type": "agent_toolset_20260401",
    "default_config": {"permission_policy": {"type": "always_ask"}},
}
LOOKUP = {
    "type": "custom",
    "name": "lookup",
    "description": "Looks something up.",
    "input_schema": {"type": "object", "properties": {"key": {"type": "string"}}},
}
AGENTS: dict[str, dict[str, Any]] = {
    "words": {"model": "scripted/words", "description": "Says it again.", "tools": []},
    "careful": {"model": "unset/none", "tools": [ASKS]},
    "asking": {"model": "unset/none", "tools": [LOOKUP]},
}
"""The model `unset` has no key: its agents are answered by the server's own stand-in, the only one
that asks."""


@dataclass(frozen=True, slots=True)
class Peer:
    url: str
    environment: str
    agents: dict[str, str]
    model: Model


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    python = python_of(PYTHON)
    if python is None:
        require(
            "python3.12", "no Python 3.12 or newer, which open-managed-agents needs: install it"
        )
    programs, port, model = environment("open_managed_agents", str(python)), free_port(), Model()
    url = f"http://127.0.0.1:{port}"
    with serving(model.app) as behind, folder_of("open_managed_agents") as folder:
        providers = {
            "scripted": {"api_key": "x", "base_url": f"{behind}/v1"},
            "unset": {"api_key_env": "NO_SUCH_KEY"},
        }
        env = {
            "DATABASE_URL": "sqlite+aiosqlite:///./oma.db?timeout=30",
            "OMA_API_KEYS": canary("claude"),
            "OMA_RUNTIME_BACKEND": "auto",
            "OMA_OPENAI_COMPATIBLE_PROVIDERS": json.dumps(providers),
            "OMA_EVENT_POLL_INTERVAL_SECONDS": "0.05",
            "OPENAI_AGENTS_DISABLE_TRACING": "1",
        }
        command = [str(programs / "python"), "server.py", str(port)]
        with started(command, folder=folder, ready=f"{url}/health/db", env=env):
            made = asked(f"{url}/v1/environments", {"name": "sandbox"})
            agents = {
                name: asked(f"{url}/v1/agents", {"name": name, **about})["id"]
                for name, about in AGENTS.items()
            }
            yield Peer(url, str(made["id"]), agents, model)


def asked(url: str, body: Any = None) -> Any:
    data = json.dumps(body).encode() if body is not None else None
    headers = {**HEADERS, "x-api-key": canary("claude")}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers), timeout=30) as answer:
        return json.load(answer)


@asynccontextmanager
async def reaching(peer: Peer, **settings: Any) -> AsyncIterator[tuple[Runtime, Proxy]]:
    listener = listening()
    kind = ClaudeManagedAgentsRuntime
    made = {
        "url": address(listener),
        "auth": {"bearer": "env:KEY"},
        "environment": peer.environment,
        **settings,
    }
    context = {"resolve_secret": lambda reference: canary("claude")}
    async with proxied(peer.url, listener) as proxy:
        runtime = kind(kind.Config.model_validate(made, context=context))
        try:
            with anyio.fail_after(SECONDS):
                yield runtime, proxy
        finally:
            await runtime.aclose()


async def test_it_is_reached_and_its_agents_are_listed(peer: Peer) -> None:
    async with reaching(peer) as (runtime, _):
        assert "sandbox" in await runtime.check()
        found = {agent.name: agent for agent in await runtime.agents()}
    assert {name: found[name].ref for name in AGENTS} == peer.agents
    assert found["words"].description == "Says it again."


async def test_a_turn_begins_says_its_words_and_ends(peer: Peer, make_turn: MakeTurn) -> None:
    async with reaching(peer) as (runtime, _):
        events = await read(
            runtime.start(make_turn("hello wide world", agent=peer.agents["words"]))
        )
    assert isinstance(events[0], Started)
    assert sum(isinstance(event, Started) for event in events) == 1
    assert texts(events) == ["you said: hello wide world"]
    assert done(events).outcome == "completed"
    ids = [event.id for event in events if isinstance(event, Started | Message | Done)]
    assert all(ids)
    assert len(set(ids)) == len(ids)


async def test_a_second_turn_goes_on_in_the_session_and_says_nothing_twice(
    peer: Peer, make_turn: MakeTurn
) -> None:
    """Its stream begins with all that happened before, which the API's own does not."""
    agent = peer.agents["words"]
    async with reaching(peer) as (runtime, _):
        first = await read(runtime.start(make_turn("remember apples", agent=agent)))
        ref = last_ref(first)
        second = await read(runtime.start(make_turn("recall", agent=agent, ref=ref)))
    assert texts(second) == ["apples"]
    assert done(second).outcome == "completed"
    assert last_ref(second)["session"] == ref["session"]


async def test_an_interrupt_ends_the_turn_as_cancelled(peer: Peer, make_turn: MakeTurn) -> None:
    before = len(peer.model.asked)
    async with reaching(peer) as (runtime, _):
        turn = make_turn("slow 200", agent=peer.agents["words"])
        async with runtime.start(turn) as events:
            seen = await until(events, Started)
            await eventually_async(lambda: len(peer.model.asked) > before)
            await runtime.cancel(last_ref(seen))
            rest = [event async for event in events]
        assert done(rest).outcome == "cancelled"
        await runtime.cancel(last_ref(seen))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"decision": "allow"}, "received tool confirmation: allow"),
        ({"decision": "deny", "text": "too risky"}, "received tool denial: too risky"),
    ],
)
async def test_a_tool_is_allowed_or_denied(
    peer: Peer, answer: Any, said: str, make_turn: MakeTurn
) -> None:
    async with reaching(peer) as (runtime, _):
        asked_for = await read(runtime.start(make_turn("rm", agent=peer.agents["careful"])))
        assert done(asked_for).outcome == "requires_action"
        (question,) = questions(asked_for)
        assert (question.kind, question.tool) == ("approval", "bash")
        given = [Answer(question_id=question.id, **answer)]
        events = await read(runtime.start(make_turn(answers=given, ref=last_ref(asked_for))))
    assert done(events).outcome == "completed"
    assert said in texts(events)[0]
    assert not any(isinstance(event, Asked) for event in events)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ({"text": "blue"}, "received custom tool result: blue"),
        ({"decision": "deny", "text": "no"}, "custom tool result: The call was declined. no"),
    ],
)
async def test_a_tool_of_the_callers_is_answered_or_declined(
    peer: Peer, answer: Any, said: str, make_turn: MakeTurn
) -> None:
    async with reaching(peer) as (runtime, _):
        asked_for = await read(runtime.start(make_turn("which?", agent=peer.agents["asking"])))
        (question,) = questions(asked_for)
        assert (question.kind, question.tool) == ("tool_result", "lookup")
        assert question.tool_input == {"prompt": "which?"}
        given = [Answer(question_id=question.id, **answer)]
        events = await read(runtime.start(make_turn(answers=given, ref=last_ref(asked_for))))
    assert done(events).outcome == "completed"
    assert said in texts(events)[0]


async def test_a_model_that_refuses_fails_the_turn_in_its_words(
    peer: Peer, make_turn: MakeTurn
) -> None:
    """A session whose run failed is over here, which the API says of few errors."""
    async with reaching(peer) as (runtime, _):
        turn = make_turn("fail out of ink", agent=peer.agents["words"])
        events = await read(runtime.start(turn))
    assert done(events).outcome == "failed"
    assert "out of ink" in (done(events).error or "")
    assert done(events).session_gone


@pytest.mark.parametrize("when", ["while it works", "after it ended"])
async def test_a_turn_whose_stream_was_cut_is_taken_over_by_another_process(
    peer: Peer, when: str, make_turn: MakeTurn
) -> None:
    agent = peer.agents["words"]
    async with reaching(peer) as (runtime, proxy):
        async with runtime.start(make_turn("slow 10", agent=agent)) as events:
            before = await until(events, Started)
            proxy.cut()
        await proxy.until_closed()
    ref = json.loads(json.dumps(last_ref(before)))
    async with reaching(peer) as (other, _):
        first: list[Event] = await read(other.attach(ref, None))
        whole = await read(other.attach(ref, None)) if when == "after it ended" else first
    assert done(whole).outcome == "completed"
    assert texts(whole) == ["".join(f"chunk {n + 1} of 10\n" for n in range(10))]
    assert [event.id for event in first if isinstance(event, Message)] == [
        event.id for event in whole if isinstance(event, Message)
    ]


async def test_an_agent_or_an_environment_that_is_not_there_is_refused_unsent(
    peer: Peer, make_turn: MakeTurn
) -> None:
    async with reaching(peer, environment="env_none") as (runtime, _):
        for asking in (runtime.check(), read(runtime.start(make_turn(agent="agt_none")))):
            with pytest.raises(Rejected) as refused:
                await asking
            assert (refused.value.kind, refused.value.status) == ("not_found", 404)
            assert not refused.value.sent
