"""What is a LiteLLM proxy's own: which agents a key sees, and that nothing else is addressed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from lap_runtimes.base import Event, Message
from lap_runtimes.errors import Rejected, RuntimeFailure
from lap_runtimes.http_errors import rejection
from lap_runtimes.litellm import LiteLLMRuntime

from tests.canary import canary
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.litellm_server import AGENT_ID, Server
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

KEY = canary("litellm")


@asynccontextmanager
async def reaching(server: Server) -> AsyncIterator[LiteLLMRuntime]:
    with serving(server.app) as url:
        made = {"url": url, "auth": {"bearer": "env:KEY"}}
        context = {"resolve_secret": lambda reference: KEY}
        runtime = LiteLLMRuntime(LiteLLMRuntime.Config.model_validate(made, context=context))
        try:
            with anyio.fail_after(15):
                yield runtime
        finally:
            await runtime.aclose()


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


async def test_agents_that_are_enabled_are_listed_with_their_skills_and_not_their_addresses() -> (
    None
):
    async with reaching(Server(key=KEY)) as runtime:
        (agent,) = await runtime.agents()
        assert (agent.ref, agent.name) == (AGENT_ID, "words")
        assert agent.description == "says words\nSkills:\n- echo: says it again"
        assert "10.0.0.1" not in repr(agent)
        assert "2 agents" in await runtime.check()


async def test_an_agent_is_called_by_id_or_name(make_turn: MakeTurn) -> None:
    async with reaching(Server(key=KEY)) as runtime:
        for agent in (AGENT_ID, "words"):
            events = await read(runtime.start(make_turn("echo hello", agent=agent)))
            assert "hello" in "".join(e.text for e in events if isinstance(e, Message))


async def test_a_key_that_is_refused_is_said_in_the_proxy_s_words(make_turn: MakeTurn) -> None:
    async with reaching(Server(key="another")) as runtime:
        for step in (runtime.agents(), read(runtime.start(make_turn("hello", agent="words")))):
            with pytest.raises(Rejected, match="Invalid proxy server token") as refusal:
                await step
            assert refusal.value.kind == "auth"
            assert KEY not in str(refusal.value)


async def test_the_trace_id_of_the_proxy_is_told_with_a_refusal() -> None:
    found = rejection(429, {"x-litellm-trace-id": "trace-7"}, b"{}", where="the proxy")
    assert found.request_id == "trace-7"


async def test_an_agent_that_is_not_there_is_not_found(make_turn: MakeTurn) -> None:
    async with reaching(Server(key=KEY)) as runtime:
        with pytest.raises(RuntimeFailure) as failure:
            await read(runtime.start(make_turn("hello", agent="nobody")))
    assert failure.value.kind == "not_found"


@pytest.mark.parametrize("agent", ["", "..", "../v1/keys", "a/b", "a?b", "a#b", "a%2fb", "a\nb"])
async def test_no_name_leads_elsewhere_at_the_proxy(agent: str, make_turn: MakeTurn) -> None:
    async with reaching(Server(key=KEY)) as runtime:
        with pytest.raises(Rejected) as refusal:
            runtime.start(make_turn("hello", agent=agent))
    assert not refusal.value.sent
