"""`lap-mcp install CLIENT`: adds this server to a client's configuration, after showing how."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from difflib import unified_diff
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from lap_mcp.app import VERSION, Program
from lap_mcp.config import Config, Surroundings, config_file, make_private_folder
from lap_mcp.errors import ConfigError, Invalid, LapError

from .agents import asked
from .clients import CLIENTS, SERVER, Client, Launch
from .console import Yes, confirm, fail, program, put, run, say

ClientName = StrEnum("ClientName", {name.replace("-", "_"): name for name in CLIENTS})  # type: ignore[misc]

BUILD_LOG = "sandbox-build.log"


def install(
    context: typer.Context,
    client: Annotated[ClientName, typer.Argument(help="Which client.")],
    project: Annotated[
        bool, typer.Option("--project", help="For the project in this folder only.")
    ] = False,
    yes: Yes = False,
    image: Annotated[
        bool, typer.Option(help="Start building the sandbox image in the background.")
    ] = True,
) -> None:
    """Add this server to a client.  Shows the change and asks before making it."""
    started = program(context)
    chosen = CLIENTS[client.value]
    try:
        file = target(chosen, started.here, project=project)
        before, after = edited(chosen, file, launch(started))
    except LapError as error:
        fail(error)
    if after == before:
        say(f"{chosen.title} has this server already, as `{SERVER}` in {file}.")
    else:
        show_difference(file, before, after)
        confirm(f"Change {file}?", yes=yes)
        _write(file, before, after)
        say(f"Added as `{SERVER}`.  Start {chosen.title} again to see it.")
    put(str(file))
    if chosen.note:
        say(chosen.note)
    config = started.read()
    started.set_up_logs(config)
    if image:
        build_in_background(config, started.here)
    if not config.faults:
        tell_agents(started, config)


def edited(client: Client, file: Path, how: Launch) -> tuple[str, str]:
    """The file's text now and with our entry.  Raises: Invalid."""
    try:
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        return before, client.edit(before, how)
    except (OSError, UnicodeDecodeError) as exc:
        raise Invalid(f"{file} cannot be read: {exc}") from exc
    except Invalid as exc:
        raise Invalid(f"{file}: {exc.message}", remedy=exc.remedy) from exc


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
    """The command a client starts: absolute, and of this very version."""
    command, *arguments = program_command(started.here)
    environ = {}
    if home := started.here.environ.get("LAP_HOME"):
        environ["LAP_HOME"] = home
    if started.option or started.here.environ.get("LAP_CONFIG"):
        file, _ = config_file(started.here, started.option)
        arguments += ["--config", os.path.abspath(file)]  # noqa: PTH100  # links stay as named
    return Launch(command=command, arguments=arguments, environ=environ)


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


def show_difference(file: Path, before: str, after: str) -> None:
    lines = unified_diff(
        before.splitlines(), after.splitlines(), f"{file} (now)", f"{file} (then)", lineterm=""
    )
    say("\n".join(lines))


def _write(file: Path, before: str, after: str) -> None:
    """Replace the file at once, through a link if it is one, with the rights it had."""
    real = Path(os.path.realpath(file))
    try:
        real.parent.mkdir(parents=True, exist_ok=True)
        current = real.read_text(encoding="utf-8") if real.exists() else ""
        if current != before:
            fail(Invalid(f"{file} was changed by somebody else just now.", remedy="Run it again."))
        mode = real.stat().st_mode & 0o777 if real.exists() else 0o600
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", dir=real.parent, prefix=".lap-mcp-", delete=False
        ) as out:
            out.write(after)
            out.flush()
            os.fsync(out.fileno())
        made = Path(out.name)
        try:
            made.chmod(mode)
            made.replace(real)
        except OSError:
            made.unlink(missing_ok=True)
            raise
    except OSError as exc:
        fail(ConfigError(f"{file} cannot be written: {exc.strerror or exc}."))


def build_in_background(config: Config, here: Surroundings) -> None:
    """Start `lap-mcp sandbox build` on its own.  It ends by itself; its words go to a log."""
    try:
        make_private_folder(config.home)
        log = config.home / BUILD_LOG
        with log.open("wb") as out:
            subprocess.Popen(
                [*program_command(here), "sandbox", "build"],
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
