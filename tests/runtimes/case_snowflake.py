"""Cortex Agents under the contract: a contract fake with the shapes of Snowflake's own SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes import snowflake_server
from tests.runtimes.bench import Case


def _snowflake(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = snowflake_server.Server(token=canary("snowflake"))
    return server.app, server, lambda: len(server.cancelled)


CASES = [
    Case(
        id="snowflake",
        kind="snowflake",
        app=_snowflake,
        settings={"schemas": ["DB.SCH"], "agent": "SALES"},
        ask="ask rm",
        ask_kind="approval",
        file="file a",
    ),
]
