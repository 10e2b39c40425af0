"""A server process for fault tests: the real session engine on a store, with a real A2A runtime.

`python server.py HOME URL [COUNT PROMPT]` starts COUNT turns, prints their ids as one JSON line
`[[session, turn], …]`, then `ended` when none of its turns is open, and lives until it is ended.
Without COUNT it only looks after what others left.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import anyio
from lap_runtimes.a2a import A2ARuntime
from lap_runtimes.base import Runtime

from lap_mcp.control.engine import SessionLimits
from lap_mcp.control.opening import EngineOptions, open_sessions
from lap_mcp.control.prompt_files import GivenFiles
from lap_mcp.control.services import NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import NotFound
from lap_mcp.model import LOCAL, Agent, Origin, Principal
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import open_database
from tests.canary import canary


class OneAgent:
    def __init__(self, url: str) -> None:
        config = {"url": url, "auth": {"bearer": "env:AGENT_TOKEN"}}
        context = {"resolve_secret": lambda reference: canary("a2a")}
        self._runtime = A2ARuntime(A2ARuntime.Config.model_validate(config, context=context))

    def agent(self, name: str) -> Agent:
        return Agent(name=name, runtime="lab", ref="", silence=60)

    def runtime_for(self, agent: Agent) -> Runtime:
        return self._runtime


async def no_sandbox(principal: Principal, sandbox_id: str, path: str) -> bytes:
    raise NotFound("There is no sandbox here.")


async def start(sessions: Sessions, count: int, prompt: str) -> list[tuple[str, str]]:
    started: list[tuple[str, str]] = []
    for _ in range(count):
        accepted = await sessions.prompt(Origin(), "helper", NewPrompt(text=prompt))
        started.append((accepted.session.id, accepted.turn.id))
    return started


async def main(home: Path, url: str, count: int, prompt: str) -> None:
    database = await open_database(home / "lap.db")
    blobs = BlobStore(home / "blobs")
    given = GivenFiles(database, blobs, no_sandbox)
    options = EngineOptions(limits=SessionLimits(running_turns=1000))
    async with open_sessions(database, blobs, OneAgent(url), given, options) as sessions:
        started = await start(sessions, count, prompt)
        print(json.dumps(started), flush=True)
        for session_id, turn_id in started:
            await sessions.wait(LOCAL, session_id, turn_id, timeout=600)
        print("ended", flush=True)
        await anyio.sleep_forever()


if __name__ == "__main__":
    arguments = sys.argv[1:]
    anyio.run(
        main,
        Path(arguments[0]),
        arguments[1],
        int(arguments[2]) if len(arguments) > 2 else 0,
        arguments[3] if len(arguments) > 3 else "",
    )
