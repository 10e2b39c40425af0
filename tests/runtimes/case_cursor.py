"""Cursor under the contract: a contract fake made from the official OpenAPI document."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes import cursor_server
from tests.runtimes.bench import Case


def _cursor(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = cursor_server.Server(token=canary("cursor"))
    return server.app, server, lambda: len(server.cancelled)


CASES = [
    Case(
        id="cursor",
        kind="cursor",
        app=_cursor,
        settings={"usage": True, "poll_interval": 0.02},
        file="file a.txt",
    ),
    Case(
        id="cursor-plain",
        kind="cursor",
        app=_cursor,
        settings={"artifacts": False, "poll_interval": 0.02},
    ),
]
