"""The OpenAI Agents API, with and without a hosted environment, from a service made of the official
SDK's types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes.bench import Case
from tests.runtimes.openai_agents_server import Server


def _agents(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = Server(key=canary("openai-agents"))
    return server.app, server, lambda: len(server.cancelled)


OPENAI_AGENTS = {
    "kind": "openai_agents",
    "slot": "openai-agents",
    "app": _agents,
    "path": "/v1",
    "ask": "ask /etc/passwd",
    "ask_kind": "approval",
    "file": "file a.csv",
}

CASES_OPENAI_AGENTS = [
    Case(
        id="openai-agents-hosted",
        settings={"agent": "agent_words", "environment": {"type": "openai_hosted"}},
        **OPENAI_AGENTS,  # type: ignore[arg-type]
    ),
    Case(id="openai-agents-bare", settings={"agent": "agent_words"}, **OPENAI_AGENTS),  # type: ignore[arg-type]
]
