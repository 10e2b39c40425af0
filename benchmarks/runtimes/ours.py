"""The product's session engine, put together as the product does it, in a process without a face:

    python -m benchmarks.runtimes.ours CONFIG

calls the agent `it` of the configuration, a new session each time.  Everything a turn does is
done: accepting, lease, adapter, events stored and fanned out, the answer read from the store.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from lap_mcp.app import Program, open_services
from lap_mcp.config import surroundings
from lap_mcp.control.services import NewPrompt, SessionsAPI
from lap_mcp.model import LOCAL, Origin

from .direct import PROMPT
from .worker import said, serve

SECONDS = 60.0
ME = Origin(principal=LOCAL)


@asynccontextmanager
async def opened(config: str) -> AsyncIterator[SessionsAPI]:
    """Sessions over the configuration's store and runtimes; no sandbox is prepared."""
    program = Program(here=surroundings(), option=config)
    found = program.read()
    program.set_up_logs(found)
    async with open_services(program, found) as running:
        yield running.services.sessions


async def ask(sessions: SessionsAPI, prompt: str) -> str:
    """One turn to its end; its text.  Raises: RuntimeError where it fails."""
    accepted = await sessions.prompt(ME, "it", NewPrompt(text=prompt))
    session, turn = accepted.session.id, accepted.turn.id
    ended = await sessions.wait(LOCAL, session, turn, timeout=SECONDS)
    if ended.outcome != "completed":
        raise RuntimeError(f"the turn is {ended.outcome}: {ended.error}")
    return (await sessions.content(LOCAL, session, turn)).text


async def main() -> None:
    async with opened(sys.argv[1]) as sessions:

        async def once() -> str:
            return said(await ask(sessions, PROMPT), PROMPT)

        await serve(once)


if __name__ == "__main__":
    anyio.run(main)
