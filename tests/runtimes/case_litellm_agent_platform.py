"""A LiteLLM Agent Platform, from a server written from its source."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes.bench import Case
from tests.runtimes.lap_server import Server


def _platform(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = Server(key=canary("lap-platform"))
    return server.app, server, lambda: len(server.cancelled)


PLATFORM = {
    "kind": "litellm_agent_platform",
    "slot": "lap-platform",
    "app": _platform,
    "ask": "ask /etc/passwd",
    "ask_kind": "approval",
    "one_connection": False,
}
SETTINGS = {"agent": "agt_1", "poll_interval": 0.02}

CASES_LAP_PLATFORM = [
    Case(
        id="lap-platform",
        settings={**SETTINGS, "runtime": "claude_managed_agents"},
        **PLATFORM,  # type: ignore[arg-type]
    ),
    Case(id="lap-platform-disobedient", settings=SETTINGS, **PLATFORM),  # type: ignore[arg-type]
]
