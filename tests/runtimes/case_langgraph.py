"""LangGraph in the contract suite: a contract fake, and the real `langgraph dev` (tier 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes.bench import Case
from tests.runtimes.langgraph_server import Server

SETTINGS: dict[str, Any] = {"assistant": "words", "auth": {"header": {"x-api-key": "env:KEY"}}}
SKILLS: dict[str, Any] = {
    "kind": "langgraph",
    "settings": SETTINGS,
    "ask": "ask color?",
    "ask_kind": "input",
    "file": "file a.txt body of it",
}


def _fake(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = Server(key=canary("langgraph"))
    return server.app, server, lambda: len(server.cancelled)


LANGGRAPH_CASES = [
    Case(id="langgraph", app=_fake, **SKILLS),
    Case(
        id="langgraph-approval", app=_fake, **{**SKILLS, "ask": "allow x", "ask_kind": "approval"}
    ),
]
