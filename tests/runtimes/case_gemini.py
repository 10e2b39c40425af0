"""The Gemini API, from a service made of the official SDK's types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.canary import canary
from tests.runtimes.bench import Case
from tests.runtimes.gemini_server import Server


def _gemini(url: str) -> tuple[Any, Any, Callable[[], int]]:
    server = Server(key=canary("gemini"))
    return server.app, server, lambda: len(server.cancelled)


CASES_GEMINI = [
    Case(
        id="gemini",
        kind="gemini",
        app=_gemini,
        path="/v1",
        settings={"auth": {"header": {"x-goog-api-key": "env:KEY"}}, "agent": "words"},
        ask="ask lookup",
        ask_kind="tool_result",
        file="file",
        file_names=("image.png",),
    )
]
