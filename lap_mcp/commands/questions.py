"""`lap-mcp questions`: what agents wait for, and a person's decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import typer

from lap_mcp.app import open_services
from lap_mcp.control.services import NewAnswer
from lap_mcp.model import LOCAL, Question

from . import calling
from .calling import how_to_answer
from .console import (
    Json,
    json_object,
    program,
    put_json,
    put_table,
    read_argument,
    read_config,
    run,
)

app = typer.Typer(no_args_is_help=True, help="What agents wait for, and your decision.")

Id = Annotated[str, typer.Argument(metavar="QUESTION", help="qst_…")]


@app.command("list")
def list_(
    context: typer.Context,
    all_: Annotated[bool, typer.Option("--all", help="Also those that are closed.")] = False,
    as_json: Json = False,
) -> None:
    """List open questions."""
    config = read_config(context)

    async def work() -> Sequence[Question]:
        async with open_services(program(context), config) as running:
            sessions = running.services.sessions
            return await sessions.questions(LOCAL, status=None if all_ else "open")

    found = run(work)
    if as_json:
        put_json(found)
        return
    rows = [(q.id, q.kind, q.status, q.session_id, _words(q), how_to_answer(q)) for q in found]
    columns = ("question", "kind", "status", "session", "what", "how to answer")
    put_table(columns, rows, "There are no open questions.")


def _words(question: Question) -> str:
    tool = f"{question.tool} {dict(question.tool_input or {})} " if question.tool else ""
    options = f" ({' | '.join(question.options)})" if question.options else ""
    return f"{tool}{question.text}{options}"


@app.command()
def allow(context: typer.Context, question: Id) -> None:
    """Allow what an agent wants to do."""
    _answer(context, question, NewAnswer(decision="allow"))


@app.command()
def deny(
    context: typer.Context,
    question: Id,
    reason: Annotated[str, typer.Option(help="What the agent is told.")] = "",
) -> None:
    """Refuse what an agent wants to do."""
    _answer(context, question, NewAnswer(decision="deny", text=reason))


@app.command()
def answer(
    context: typer.Context,
    question: Id,
    text: Annotated[str, typer.Argument(help="The answer; `-` reads standard input.")] = "",
    option: Annotated[str | None, typer.Option(help="One of the offered options.")] = None,
    data: Annotated[str | None, typer.Option(help="A JSON object, for a schema.")] = None,
    error: Annotated[
        bool, typer.Option("--error", help="The asked-for tool failed; TEXT says how.")
    ] = False,
) -> None:
    """Answer in words, with an option or with data."""
    value = None if data is None else json_object(read_argument(data), "--data")
    given = NewAnswer(text=read_argument(text), option=option, data=value, is_error=error)
    _answer(context, question, given)


def _answer(context: typer.Context, question: str, given: NewAnswer) -> None:
    config = read_config(context)

    async def work() -> int:
        async with open_services(program(context), config) as running:
            services = running.services
            open_ = await services.sessions.questions(LOCAL)
            asked = next((entry for entry in open_ if entry.id == question), None)
            after = 0
            if asked is not None:
                after = (await services.sessions.get(LOCAL, asked.session_id)).last_seq
            turn = await services.sessions.answer(LOCAL, question, given, by="cli")
            # Where no server drives the session, this process does, until the turn ends.
            turn = await calling.shown(services, turn, after=after)
            return await calling.ended(services, turn, quiet=False)

    raise typer.Exit(run(work))
