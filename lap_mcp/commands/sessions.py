"""`lap-mcp sessions`: conversations with agents, whichever process drives them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated

import typer

from lap_mcp.app import open_services
from lap_mcp.model import LOCAL, Session, StoredEvent, Turn

from . import calling
from .console import Json, program, put, put_json, put_table, put_text, read_config, run, say

app = typer.Typer(no_args_is_help=True, help="Conversations with agents.")

Id = Annotated[str, typer.Argument(metavar="SESSION", help="ses_…")]


@app.command("list")
def list_(
    context: typer.Context,
    agent: Annotated[str | None, typer.Option(help="Only of this agent.")] = None,
    status: Annotated[
        str | None, typer.Option(help="idle, running, requires_action or terminated.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000)] = 20,
    as_json: Json = False,
) -> None:
    """List sessions, newest first."""
    config = read_config(context)

    async def work() -> Sequence[Session]:
        async with open_services(program(context), config) as running:
            sessions = running.services.sessions
            return await sessions.list(LOCAL, agent=agent, status=status, limit=limit)

    found = run(work)
    if as_json:
        put_json(found)
        return
    rows = [(s.id, s.agent, s.status, _when(s.updated_at), s.title) for s in found]
    put_table(("session", "agent", "status", "updated", "title"), rows, "There are no sessions.")


def _when(at: float) -> str:
    return datetime.fromtimestamp(at).strftime("%Y-%m-%d %H:%M:%S")


@app.command()
def show(context: typer.Context, session: Id, as_json: Json = False) -> None:
    """Show a session's turns and their answers."""
    config = read_config(context)

    async def work() -> tuple[Session, Sequence[Turn], Sequence[StoredEvent], list[str]]:
        async with open_services(program(context), config) as running:
            api = running.services.sessions
            found = await api.get(LOCAL, session)
            turns = await api.turns(LOCAL, session)
            events: list[StoredEvent] = []
            while page := await api.events(LOCAL, session, after=events[-1].seq if events else 0):
                events += page
            answers = [(await api.content(LOCAL, session, turn.id)).text for turn in turns]
            return found, turns, events, answers

    found, turns, events, answers = run(work)
    if as_json:
        listed = [calling.event_json(event) for event in events]
        put_json({"session": found, "turns": turns, "events": listed})
        return
    put(f"{found.id}  {found.agent}  {found.status}")
    for turn, answer in zip(turns, answers, strict=True):
        put_text(f"\n> {turn.prompt}\n\n{answer}")
        put(f"[{turn.outcome}{': ' + turn.error if turn.error else ''}]")


@app.command()
def follow(
    context: typer.Context,
    session: Id,
    after: Annotated[int, typer.Option(help="Begin after this event.", min=0)] = 0,
    once: Annotated[
        bool, typer.Option("--once", help="End when the session is no longer running.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show events as they come; Ctrl-C leaves the session as it is."""
    config = read_config(context)

    async def work() -> None:
        async with open_services(program(context), config) as running:
            api = running.services.sessions
            found = await api.get(LOCAL, session)
            until = calling.Until(found.last_seq, resting=found.status != "running")
            if once and until.reached(after):
                return
            async with api.follow(LOCAL, session, after=after) as events:
                await calling.follow(events, as_json=as_json, until=until if once else None)

    run(work)


@app.command()
def cancel(context: typer.Context, session: Id) -> None:
    """End the running turn and drop queued ones."""
    config = read_config(context)

    async def work() -> tuple[Session, Turn | None]:
        async with open_services(program(context), config) as running:
            api = running.services.sessions
            found = await api.cancel(LOCAL, session)
            turns = await api.turns(LOCAL, session)
            return found, turns[-1] if turns else None

    found, turn = run(work)
    if turn is not None and turn.error:
        say(turn.error)
    put(f"{found.id} {found.status}")
