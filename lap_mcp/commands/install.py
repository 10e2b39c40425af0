"""`lap-mcp install CLIENT`: adds this server to a client's configuration, after showing how;
`uninstall` takes it out again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lap_mcp.app import VERSION, Program
from lap_mcp.config import Config, Surroundings, config_file, make_private_folder, one_line
from lap_mcp.errors import ConfigError, Invalid, LapError

from .agents import asked
from .clients import CLIENTS, SERVER, Client, Launch
from .console import Yes, confirm, fail, program, put, run, say
from .foreign_files import ForeignFile, read_foreign, replace_foreign

ClientName = StrEnum("ClientName", {name.replace("-", "_"): name for name in CLIENTS})  # type: ignore[misc]

BUILD_LOG = "sandbox-build.log"


Chosen = Annotated[ClientName, typer.Argument(help="Which client.")]
OfProject = Annotated[bool, typer.Option("--project", help="For the project in this folder only.")]


def install(
    context: typer.Context,
    client: Chosen,
    project: OfProject = False,
    yes: Yes = False,
    image: Annotated[
        bool, typer.Option(help="Start building the sandbox image in the background.")
    ] = True,
) -> None:
    """Add this server to a client.  Shows the change and asks before making it."""
    started = program(context)
    chosen = CLIENTS[client.value]
    try:
        how = launch(started)
        file = read_foreign(target(chosen, started.here, project=project))
        if _changed(file, lambda text: chosen.edit(text, how), yes=yes):
            say(f"Added as `{SERVER}`.  Start {chosen.title} again to see it.")
        else:
            say(f"{chosen.title} has this server already, as `{SERVER}` in {file.path}.")
    except LapError as error:
        fail(error)
    put(str(file.path))
    if chosen.note:
        say(chosen.note)
    config = started.read()
    started.set_up_logs(config)
    if image:
        build_in_background(config, started)
    for fault in config.faults:
        say(one_line(fault))
    if not config.faults:
        tell_agents(started, config)


def uninstall(
    context: typer.Context, client: Chosen, project: OfProject = False, yes: Yes = False
) -> None:
    """Take this server out of a client.  Shows the change and asks; its data stays in LAP_HOME."""
    chosen = CLIENTS[client.value]
    try:
        file = read_foreign(target(chosen, program(context).here, project=project))
        if _changed(file, chosen.remove, yes=yes):
            say(f"Removed `{SERVER}`.  Start {chosen.title} again.")
        else:
            say(f"{chosen.title} has no `{SERVER}` in {file.path}.")
    except LapError as error:
        fail(error)
    put(str(file.path))


def _changed(file: ForeignFile, edit: Callable[[str], str], *, yes: bool) -> bool:
    """Edit the file, after showing how and asking; whether there was anything to change.

    Raises: Invalid, which names the file; Conflict, ConfigError."""
    try:
        after = edit(file.text)
    except Invalid as exc:
        raise Invalid(f"{file.path}: {exc.message}", remedy=exc.remedy) from exc
    if after == file.text:
        return False
    say(file.difference(after))
    confirm(f"Change {file.path}?", yes=yes)
    replace_foreign(file, after)
    return True


def target(client: Client, here: Surroundings, *, project: bool) -> Path:
    """Raises: Invalid, for a client without files for projects."""
    if not project:
        return client.user_file(here)
    if client.project_file is None:
        raise Invalid(
            f"{client.title} has no configuration for one project.",
            remedy="Leave out --project.",
        )
    return here.folder / client.project_file


def launch(started: Program) -> Launch:
    """The command a client starts: absolute, and of this very version.

    Raises: Invalid, ConfigError."""
    command, *arguments = program_command(started.here)
    environ = {}
    if home := started.here.environ.get("LAP_HOME"):
        environ["LAP_HOME"] = home
    arguments += _option(started)
    try:
        "".join([command, *arguments, *environ.values()]).encode()
    except UnicodeEncodeError as exc:
        raise Invalid("The path of lap-mcp, of LAP_HOME or of --config is not UTF-8 text.") from exc
    return Launch(command=command, arguments=arguments, environ=environ)


def _option(started: Program) -> list[str]:
    if not (started.option or started.here.environ.get("LAP_CONFIG")):
        return []
    file, _ = config_file(started.here, started.option)
    return ["--config", os.path.abspath(file)]  # noqa: PTH100  # links stay as named


def program_command(here: Surroundings) -> list[str]:
    """How to start this version again: the script of its own environment, or the tool that made
    a passing one (`uvx`, `pipx run`), told the version."""
    environment = Path(sys.prefix).resolve().parts
    path = ":".join(part for part in here.environ.get("PATH", "").split(":") if part[:1] == "/")
    pinned = f"lap-mcp=={VERSION}"
    passing_uv = {"uv", "archive-v0"} <= set(environment) or "environments-v2" in environment
    if passing_uv and (uvx := shutil.which("uvx", path=path)):
        return [uvx, "--from", pinned, "lap-mcp"]
    passing_pipx = {"pipx", ".cache"} <= set(environment)
    if passing_pipx and (pipx := shutil.which("pipx", path=path)):
        return [pipx, "run", "--spec", pinned, "lap-mcp"]
    script = Path(sys.executable).parent / "lap-mcp"
    if script.exists():
        return [str(script)]
    return [sys.executable, "-P", "-m", "lap_mcp"]


def build_in_background(config: Config, started: Program) -> None:
    """Start `lap-mcp sandbox build` on its own.  It ends by itself; its words go to a log."""
    try:
        make_private_folder(config.home)
        log = config.home / BUILD_LOG
        with log.open("wb") as out:
            subprocess.Popen(
                [*program_command(started.here), *_option(started), "sandbox", "build"],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                cwd="/",
                start_new_session=True,
            )
    except (ConfigError, OSError) as exc:
        say(f"The sandbox image is built at first use instead: {exc}")
        return
    say(f"The sandbox image is being built in the background (see {log}).")


def tell_agents(started: Program, config: Config) -> None:
    """Ask the runtimes once, so that the client's first list of tools has their agents."""

    async def work() -> list[str]:
        async with asked(started, config, offline=False) as parts:
            return [agent.name for agent in parts.registry.agents() if agent.enabled]

    names = run(work)
    if names:
        say(f"Its agents: {', '.join(names)}.")
    elif not config.runtimes:
        say("There are no agents yet: `lap-mcp init` writes a configuration to fill in.")
