"""AgentCore in the contract suite: a real agent that streams or answers whole, called with signed
requests or an OAuth token, and a harness."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes.agentcore_server import ARN, HARNESS, REGION, Server
from tests.runtimes.bench import Case

Made = tuple[Any, Any, Callable[[], int]]
SIGNED: dict[str, Any] = {
    "auth": {},
    "region": REGION,
    "aws": {"access_key_id": "env:ID", "secret_access_key": "env:KEY"},
}


def _server(**options: Any) -> Callable[[str], Made]:
    def make(url: str) -> Made:
        server = Server(**options)
        return server.app, server, lambda: len(server.cancelled)

    return make


def _before_it_is_called(url: str) -> Made:
    """An agent that answers whole is cancelled by its session, before the call says anything."""
    server = Server(key=canary("bedrock_agentcore"), streams=False)
    return server.app, server, lambda: len(server.told)


def _signed(**options: Any) -> Callable[[str], Made]:
    return _server(key=canary("bedrock_agentcore"), **options)


AGENTCORE_CASES = [
    Case(
        id="agentcore",
        kind="bedrock_agentcore",
        app=_signed(),
        settings={**SIGNED, "agent": ARN},
    ),
    Case(
        id="agentcore-oauth",
        kind="bedrock_agentcore",
        app=_server(token=canary("bedrock_agentcore")),
        settings={"region": REGION, "agent": ARN},
    ),
    Case(
        id="agentcore-whole",
        kind="bedrock_agentcore",
        app=_before_it_is_called,
        settings={**SIGNED, "stream": False, "agent": ARN},
    ),
    Case(
        id="agentcore-harness",
        kind="bedrock_agentcore",
        app=_signed(),
        settings={**SIGNED, "surface": "harness", "agent": HARNESS},
        ask="ask color?",
        ask_kind="tool_result",
    ),
]
