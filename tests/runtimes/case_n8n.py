"""n8n under the contract: a contract fake made from captured traffic of a real one.  The same cases
run against a real n8n by `tests/vendors/n8n/run`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes import n8n_server
from tests.runtimes.bench import Case


def _n8n(streaming: bool) -> Callable[[str], tuple[Any, Any, Callable[[], int]]]:
    def make(url: str) -> tuple[Any, Any, Callable[[], int]]:
        server = n8n_server.Server(key=canary("n8n"), streaming=streaming)
        return server.app, server, lambda: len(server.stopped)

    return make


N8N: dict[str, Any] = {"kind": "n8n", "file": "file a.txt"}
FAST = {"poll_interval": 0.02}
CASES = [
    Case(id="n8n-chat", app=_n8n(True), settings={"agent": "chat/hook-1", **FAST}, **N8N),
    Case(
        id="n8n-chat-without-key",
        app=_n8n(True),
        settings={"agent": "chat/hook-1", "auth": {}, **FAST},
        **N8N,
    ),
    Case(
        id="n8n-webhook",
        app=_n8n(False),
        settings={"agent": "webhook/words", "stream": False, **FAST},
        **N8N,
    ),
]
