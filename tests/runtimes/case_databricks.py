"""Databricks in the contract suite: a contract fake, in each of its surfaces."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes.bench import Case
from tests.runtimes.databricks_server import ENDPOINT, Server

ASK: dict[str, Any] = {"kind": "databricks", "ask": "ask /etc/passwd", "ask_kind": "approval"}
DURABLE = {**ASK, "settings": {"surface": "durable"}}
APP = {**ASK, "settings": {"surface": "app", "conversation": "context"}}


def _fake(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = Server(token=canary("databricks"))
    return server.app, server, lambda: len(server.cancelled)


DATABRICKS_CASES = [
    Case(id="databricks-durable", app=_fake, **DURABLE),
    Case(id="databricks-app", app=_fake, **APP),
    Case(
        id="databricks-serving",
        app=_fake,
        settings={"endpoint": ENDPOINT, "conversation": "context"},
        **ASK,
    ),
    Case(id="databricks-resend", kind="databricks", app=_fake, settings={"endpoint": ENDPOINT}),
]
