"""Claude Managed Agents, from a service made of the official SDK's types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes.bench import Case
from tests.runtimes.claude_server import Server


def _claude(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = Server(key=canary("claude"))
    return server.app, server, lambda: len(server.cancelled)


CASES_CLAUDE = [
    Case(
        id="claude-managed-agents",
        kind="claude_managed_agents",
        slot="claude",
        app=_claude,
        settings={"environment": "env_1", "agent": "agent_words"},
        ask="ask /etc/passwd",
        ask_kind="approval",
        file="file a.csv",
    )
]
