"""An agent that has this server calls others through it: real processes, real HTTP."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import anyio
import pytest
from httpx2 import AsyncClient
from mcp import Client
from mcp.client.streamable_http import streamable_http_client

from tests.lap_mcp.test_serve import Service
from tests.lap_mcp.user import User
from tests.mcp.serving import text


class Boss(ThreadingHTTPServer):
    """Agents of somebody's own.  `boss` calls two others with the key that came with its turn."""

    daemon_threads = True
    mcp = ""
    """Where the server that calls it is served."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.keys: list[str] = []
        self.said: dict[str, str] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    async def work(self, key: str) -> None:
        for name in ("worker", "boss"):
            self.said[name] = await ask(self.mcp, key, name)


async def ask(url: str, key: str, name: str) -> str:
    headers = {"Authorization": f"Bearer {key}"}
    async with (
        AsyncClient(headers=headers, timeout=30) as http,
        Client(streamable_http_client(url, http_client=http)) as client,
    ):
        return text(await client.call_tool(name, {"prompt": "help me"}))


class Handler(BaseHTTPRequestHandler):
    server: Boss

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/boss":
            self.server.keys.append(self.headers["X-Lap-Key"])
            anyio.run(self.server.work, self.headers["X-Lap-Key"])
        body = json.dumps({"text": f"{self.path[1:]} did: {said['ask']}"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def boss() -> Iterator[Boss]:
    with Boss() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def configure(user: User, url: str) -> None:
    user.configure(
        f"""
[runtimes.mine]
kind = "http"
url = "{url}"
request = {{ path = "/boss", headers = {{ X-Lap-Key = "${{nested}}" }}, body = {{ ask = "${{prompt}}" }} }}
answer = {{ text = "text" }}
[runtimes.others]
kind = "http"
url = "{url}"
request = {{ path = "/worker", body = {{ ask = "${{prompt}}" }} }}
answer = {{ text = "text" }}
[agents.boss]
runtime = "mine"
[agents.worker]
runtime = "others"
"""  # noqa: E501 - an inline table has one line
    )


def test_an_agent_calls_another_with_the_key_of_its_turn_and_only_while_it_runs(
    user: User, boss: Boss
) -> None:
    configure(user, boss.url)
    service = Service(user)
    boss.mcp = service.url
    # The turn is driven by this command's process; its credential is recognised by the server's.
    answer = json.loads(user.ok("agents", "call", "boss", "do it", "--json"))
    assert answer["answer"] == "boss did: do it"
    assert boss.said["worker"].startswith("worker did: help me")
    assert "would go in a circle: boss → boss" in boss.said["boss"]
    (key,) = boss.keys
    status, _ = service.post(key)
    assert status == 401
    sessions = json.loads(user.ok("sessions", "list", "--json"))
    assert sorted(entry["agent"] for entry in sessions) == ["boss", "worker"]
    _, words = service.end()
    assert key not in words
