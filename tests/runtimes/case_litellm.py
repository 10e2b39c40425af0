"""A LiteLLM proxy in the contract suite: a contract fake in front of a real A2A agent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes.bench import Case
from tests.runtimes.litellm_server import Server

SKILLS: dict[str, Any] = {
    "kind": "litellm",
    "settings": {"agent": "words", "poll_interval": 0.02},
    "ask": "ask color?",
    "ask_kind": "input",
    "file": "file a.txt body of it",
}


def _fake(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = Server(key=canary("litellm"))
    return server.app, server, lambda: len(server.agent.cancelled)


LITELLM_CASES = [Case(id="litellm", app=_fake, **SKILLS)]
