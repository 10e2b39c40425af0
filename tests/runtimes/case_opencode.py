"""The contract's cases of the `opencode` kind: a contract fake; the real one is in tier 2."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes.bench import Case
from tests.runtimes.opencode_server import Server


def basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"opencode:{password}".encode()).decode()


def _server(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = Server(basic(canary("opencode")))
    return server, server, lambda: len(server.cancelled)


CASES: list[Case] = [
    Case(
        id="opencode",
        kind="opencode",
        app=_server,
        settings={"auth": {}, "password": "env:KEY"},
        ask="ask rm -rf",
        ask_kind="approval",
    )
]
