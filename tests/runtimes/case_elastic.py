"""Elastic Agent Builder under the contract, in each way to run a round: a contract fake made from
Kibana's sources."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes import elastic_server
from tests.runtimes.bench import Case


def _elastic(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = elastic_server.Server(key=canary("elastic"))
    return server.app, server, lambda: len(server.aborted)


ELASTIC: dict[str, Any] = {
    "kind": "elastic",
    "app": _elastic,
    "path": "/s/team",
    "ask": "ask logs-2024",
    "ask_kind": "approval",
    "file": "file a.txt",
}
CASES = [
    Case(id="elastic", **ELASTIC),
    Case(id="elastic-local", settings={"execution": "local"}, **ELASTIC),
    Case(
        id="elastic-task-manager",
        settings={"execution": "task_manager", "poll_interval": 0.02},
        **ELASTIC,
    ),
]
