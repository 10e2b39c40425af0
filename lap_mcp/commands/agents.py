"""`lap-mcp agents`: which agents there are, and calling one."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from difflib import unified_diff
from pathlib import Path
from typing import Annotated, Any

import anyio
import typer

from lap_mcp.app import Parts, Program, open_parts
from lap_mcp.config import Config
from lap_mcp.control.catalogue import CatalogueRow, Words
from lap_mcp.control.registry import own_words
from lap_mcp.control.tool_names import slug
from lap_mcp.errors import Conflict, NotFound
from lap_mcp.model import Agent, Problem

from . import calling, checking
from .console import (
    OK,
    WRONG,
    Json,
    Yes,
    confirm,
    json_object,
    patience,
    program,
    put,
    put_json,
    put_table,
    read_argument,
    read_config,
    run,
    say,
)

app = typer.Typer(no_args_is_help=True, help="Which agents there are, and calling one.")

ASK_SECONDS = 25.0

Name = Annotated[str, typer.Argument(help="Name of the agent.")]

app.command("check")(checking.check)


@asynccontextmanager
async def asked(started: Program, config: Config, *, offline: bool) -> AsyncIterator[Parts]:
    """The parts, after every runtime was validated and, unless `offline`, asked for its agents."""
    async with open_parts(started, config, lenient=False) as parts:
        if offline:
            await parts.registry.connections.validate()
            parts.registry.refreshed()
        else:
            with anyio.move_on_after(ASK_SECONDS):
                async with patience("asking the runtimes"):
                    await parts.refresher.ask_runtimes()
        yield parts


@app.command("list")
def list_(
    context: typer.Context,
    as_json: Json = False,
    offline: Annotated[bool, typer.Option(help="Ask no runtime: show what is known.")] = False,
) -> None:
    """List the registered agents.  Ends with 2 if the configuration of some is wrong."""
    config = read_config(context)

    async def work() -> tuple[Sequence[Agent], Sequence[Problem], bool]:
        async with asked(program(context), config, offline=offline) as parts:
            registry = parts.registry
            return registry.agents(), registry.problems(), bool(registry.faults())

    agents, problems, wrong = run(work)
    if as_json:
        put_json(agents)
    else:
        rows = [(a.name, a.runtime, a.ref, a.source, _state(a), a.description) for a in agents]
        columns = ("name", "runtime", "ref", "from", "state", "description")
        put_table(columns, rows, f"There are no agents.{_what_to_add(config)}")
    for problem in problems:
        say(f"{problem.level}: {problem.where}: {problem.message} {problem.remedy}".rstrip())
    raise typer.Exit(WRONG if wrong else OK)


def _what_to_add(config: Config) -> str:
    if config.runtimes:
        return ""
    if config.file is None:
        return "  `lap-mcp init` writes a configuration to fill in."
    return f"  Add a [runtimes.NAME] table to {config.file}."


def _state(agent: Agent) -> str:
    return "ready" if agent.enabled else "disabled"


@app.command()
def add(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of its tool: \\[a-z]\\[a-z0-9_]*")],
    runtime: Annotated[str, typer.Option(help="Name of a \\[runtimes.…] table.")],
    ref: Annotated[str, typer.Option(help="What the runtime calls it.")] = "",
    description: Annotated[str, typer.Option(help="What it is good for.")] = "",
    input_schema: Annotated[
        Path | None, typer.Option(help="File with the JSON Schema of a structured input.")
    ] = None,
    pinned: Annotated[
        bool, typer.Option("--pinned", help="Keep its own tool when there are many agents.")
    ] = False,
) -> None:
    """Register an agent; running servers notice it at once."""
    config = read_config(context)

    async def work() -> Agent:
        schema = None
        if input_schema is not None:
            text = await anyio.Path(input_schema).read_text(encoding="utf-8")
            schema = json_object(text, str(input_schema))
        row = CatalogueRow(
            name=name,
            runtime=runtime,
            ref=ref,
            source="store",
            words=own_words(description, schema, None),
            pinned=pinned,
        )
        async with open_parts(program(context), config, lenient=False) as parts:
            return await parts.registry.add(row)

    put(run(work).name)


@app.command("import")
def import_(
    context: typer.Context,
    runtime: Annotated[str, typer.Argument(help="Name of a \\[runtimes.…] table.")],
    refs: Annotated[list[str] | None, typer.Option("--ref", help="Only this one.")] = None,
) -> None:
    """Register what a runtime lists now, once, under names of their own."""
    config = read_config(context)

    async def work() -> list[str]:
        async with open_parts(program(context), config, lenient=False) as parts:
            registry = parts.registry
            infos = await registry.connections.runtime(runtime).agents()
            chosen = [info for info in infos if not refs or info.ref in refs]
            if not chosen:
                known = ", ".join(info.ref for info in infos) or "none"
                raise NotFound(f"Runtime {runtime} lists no such agent.", remedy=f"It has: {known}")
            names: list[str] = []
            for info in chosen:
                taken = {*registry.rows(), *(agent.name for agent in registry.agents()), *names}
                held = next(
                    (a for a in registry.agents() if (a.runtime, a.ref) == (runtime, info.ref)),
                    None,
                )
                if held is not None:
                    say(f"{info.ref} is registered already, as {held.name}.")
                    continue
                agent = await registry.import_listed(runtime, info, slug(info.name, taken, runtime))
                names.append(agent.name)
            return names

    for name in run(work):
        put(name)


@app.command()
def accept(context: typer.Context, name: Name, yes: Yes = False) -> None:
    """Show the newer words of an agent, and let models see them."""
    config = read_config(context)

    async def pending() -> CatalogueRow:
        async with open_parts(program(context), config, lenient=False) as parts:
            row = parts.registry.rows().get(name)
            if row is None or row.pending is None:
                return await parts.registry.accept(name)
            return row

    async def take() -> CatalogueRow:
        async with open_parts(program(context), config, lenient=False) as parts:
            row = parts.registry.rows()[name]
            if row.pending is None or row.pending.digest != shown.digest:
                raise Conflict(
                    f"The words of {name} changed again meanwhile.", remedy="Look at them again."
                )
            return await parts.registry.accept(name)

    row = run(pending)
    assert row.pending is not None
    shown = row.pending
    put(_difference(row.words, shown))
    confirm(f"Show these words of {name} to models?", yes=yes)
    run(take)


def _difference(old: Words, new: Words) -> str:
    lines = unified_diff(_lines(old), _lines(new), "accepted", "new", lineterm="")
    return "\n".join(lines)


def _lines(words: Words) -> list[str]:
    import json

    shown: dict[str, Any] = {
        "name": words.native_name,
        "description": words.description,
        "input": words.input_schema,
        "output": words.output_schema,
    }
    return json.dumps(shown, indent=1, ensure_ascii=False).splitlines()


@app.command()
def remove(context: typer.Context, name: Name, yes: Yes = False) -> None:
    """Forget an agent that was added; hide one that was discovered."""
    config = read_config(context)

    async def work() -> None:
        async with open_parts(program(context), config, lenient=False) as parts:
            await parts.registry.remove(name)

    confirm(f"Remove the agent {name}?", yes=yes)
    run(work)
    put(name)


@app.command()
def call(
    context: typer.Context,
    name: Name,
    prompt: Annotated[str, typer.Argument(help="The prompt; `-` reads standard input.")],
    session: Annotated[str | None, typer.Option(help="Continue this session.")] = None,
    from_session: Annotated[
        str | None, typer.Option(help="Hand over this session: give the agent its transcript.")
    ] = None,
    files: Annotated[list[Path] | None, typer.Option("--file", help="A file to give.")] = None,
    as_json: Json = False,
) -> None:
    """Call an agent and show its answer as it comes."""
    config = read_config(context)
    text = read_argument(prompt)
    code = run(
        lambda: calling.call(
            program(context),
            config,
            name,
            text,
            session=session,
            from_session=from_session,
            files=files or [],
            as_json=as_json,
        )  # fmt: skip
    )
    raise typer.Exit(code)
