"""n8n under the contract: a contract fake made from captured traffic of a real one.  The same cases
run against a real n8n by `tests/vendors/n8n/run`."""

from __future__ import annotations

import json
import os
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from tests.canary import canary
from tests.runtimes import n8n_server
from tests.runtimes.bench import Bench, Case, adapter_of
from tests.runtimes.serving import address, listening, proxied


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
        settings={"agent": "webhook/words", "stream": False, "waits": True, **FAST},
        ask="ask colour",
        ask_kind="input",
        **N8N,
    ),
]


class RealCase(Case):
    """The same against a real n8n, which `tests/vendors/n8n/run` has started."""

    @asynccontextmanager
    async def bench(self) -> AsyncIterator[Bench]:
        url, key = os.environ["LAP_TEST_N8N_URL"], os.environ["LAP_TEST_N8N_KEY"]

        def cancelled() -> int:
            asked = urllib.request.Request(
                f"{url}/api/v1/executions?status=canceled", headers={"X-N8N-API-KEY": key}
            )
            with urllib.request.urlopen(asked, timeout=10) as answer:
                return len(json.load(answer)["data"])

        listener = listening()
        before = cancelled()
        adapter = adapter_of(self.kind)
        settings = {"url": address(listener), "auth": {"bearer": "env:KEY"}, **self.settings}
        context = {"resolve_secret": lambda reference: key}
        runtime = adapter(adapter.Config.model_validate(settings, context=context))
        async with proxied(url, listener) as proxy:
            try:
                count = lambda: cancelled() - before  # noqa: E731
                yield Bench(runtime=runtime, proxy=proxy, server=None, cancelled=count)
            finally:
                await runtime.aclose()


if "LAP_TEST_N8N_URL" in os.environ:
    # An agent node holds its words until its model has ended, so that there is nothing to cut.
    N8N["one_connection"] = False
    CASES += [
        RealCase(
            id="n8n-real-chat",
            app=_n8n(True),
            settings={"agent": "chat/hook-1", "poll_interval": 0.1},
            **N8N,
        ),
        RealCase(
            id="n8n-real-webhook",
            app=_n8n(False),
            settings={"agent": "webhook/words", "stream": False, "poll_interval": 0.1},
            **N8N,
        ),
    ]
