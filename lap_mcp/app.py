"""The composition root: every concrete class is named here and nowhere else.

`open_parts` opens what commands need (store, catalogue, registry), `open_services` adds what
runs: sessions, sandboxes, background work.  Heavy imports are inside the functions that need
them, so that a server answers its first request before it loads a database or an engine.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from lap_mcp import sandbox_parts
from lap_mcp.clock import SystemClock
from lap_mcp.config import (
    Config,
    Overrides,
    SecretResolver,
    Surroundings,
    as_problem,
    config_file,
    load_config,
    make_private_folder,
)
from lap_mcp.errors import ConfigError, StoreError
from lap_mcp.logs import log_what_ends_us, set_up_logs
from lap_mcp.model import Problem
from lap_mcp.scrub import Scrubber

if TYPE_CHECKING:
    from lap_sandbox.base import Launcher

    from lap_mcp.control.changes import Changes
    from lap_mcp.control.engine import SessionLimits
    from lap_mcp.control.front import FrontDoor
    from lap_mcp.control.opening import EngineOptions
    from lap_mcp.control.prompt_files import ReadPath
    from lap_mcp.control.refresh import Refresher
    from lap_mcp.control.registry import Registry
    from lap_mcp.control.sandboxes import Sandboxes
    from lap_mcp.control.saving import OutputFolder
    from lap_mcp.control.services import Services
    from lap_mcp.control.sessions import Sessions
    from lap_mcp.store.blobs import BlobStore
    from lap_mcp.store.database import Database

logger = logging.getLogger(__name__)

VERSION = version("lap-mcp")
STORE_FILE = "lap.db"
REAP_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One run of this program: what it was started with, and the secrets it knows."""

    here: Surroundings
    option: str | None = None
    """`--config`, as a person typed it."""
    overrides: Overrides = field(default_factory=dict)
    scrubber: Scrubber = field(default_factory=Scrubber)

    def read(self) -> Config:
        """Read the configuration.  Never raises: faults are in it."""
        return load_config(self.here, self.resolver, option=self.option, overrides=self.overrides)

    @property
    def resolver(self) -> SecretResolver:
        return SecretResolver(self.here.environ, self.here.home, self.scrubber)

    def watched_file(self) -> Path | None:
        """The file to watch: also where there is none yet."""
        try:
            return config_file(self.here, self.option)[0]
        except ConfigError:
            return None

    def set_up_logs(self, config: Config) -> None:
        set_up_logs(self.scrubber, level=config.logs.level, style=config.logs.format)
        log_what_ends_us()


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """What a command works on; everything in it is open."""

    program: Program
    config: Config
    home: Path
    database: Database
    registry: Registry
    refresher: Refresher
    changes: Changes


@asynccontextmanager
async def open_parts(
    program: Program, config: Config, *, lenient: bool, shared: bool = False
) -> AsyncIterator[Parts]:
    """Open the store and the registry.

    `shared`: callers come over HTTP, for whom no runtime may start a program on this machine.

    `lenient` is for the stdio server, which always starts: a store that cannot be used is
    replaced by one that ends with the process, and a problem says so.

    Raises:
        ConfigError, StoreError: only if not `lenient`.
    """
    from lap_runtimes.kinds import load

    from lap_mcp.control.changes import Changes
    from lap_mcp.control.connections import Connections
    from lap_mcp.control.refresh import Refresher, mark
    from lap_mcp.control.registry import Registry
    from lap_mcp.control.stored_catalogue import StoredCatalogue

    async with AsyncExitStack() as stack:
        file = program.watched_file()
        seen = await anyio.to_thread.run_sync(mark, file)
        home, database, problem = await _open_store(config, stack, lenient=lenient)
        changes = Changes()
        connections = Connections(load, program.resolver, shared=shared)
        stack.push_async_callback(connections.aclose)
        catalogue = StoredCatalogue(database)
        registry = Registry(
            config,
            catalogue,
            connections,
            changes=changes,
            clock=SystemClock(),
            scrubber=program.scrubber,
        )
        registry.note("home", problem)
        await registry.open()
        refresher = Refresher(registry, catalogue, program.read, file=file, seen=seen)
        yield Parts(
            program=program,
            config=config,
            home=home,
            database=database,
            registry=registry,
            refresher=refresher,
            changes=changes,
        )


async def _open_store(
    config: Config, stack: AsyncExitStack, *, lenient: bool
) -> tuple[Path, Database, Problem | None]:
    from lap_mcp.store.database import open_database

    problem: Problem | None = None
    try:
        await anyio.to_thread.run_sync(make_private_folder, config.home)
        database = await open_database(_store_address(config))
        home = config.home
    except (ConfigError, StoreError) as exc:
        if not lenient:
            raise
        logger.error("the store cannot be used; sessions of this run will not be kept")
        problem = _not_kept(exc)
        home = await anyio.to_thread.run_sync(_temporary_home, stack)
        database = await open_database(home / STORE_FILE)
    stack.push_async_callback(database.aclose)
    return home, database, problem


def _store_address(config: Config) -> Path | str:
    url = config.store_url
    if url is None:
        return config.home / STORE_FILE
    scheme, _, rest = url.partition("://")
    if scheme == "sqlite":
        return Path(rest[1:] if rest.startswith("//") else rest)
    return f"postgresql+asyncpg://{rest}"


def _not_kept(exc: ConfigError | StoreError) -> Problem:
    told = as_problem(exc) if isinstance(exc, ConfigError) else Problem(
        where="store", message=exc.message, remedy=exc.remedy
    )  # fmt: skip
    words = f"{told.message} Until then sessions are kept for this run only."
    return Problem(where=told.where, message=words, remedy=told.remedy)


def _temporary_home(stack: AsyncExitStack) -> Path:
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="lap-mcp-"))
    return Path(folder)


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A server's services, and the parts below them."""

    services: Services
    parts: Parts
    launcher: Launcher


@asynccontextmanager
async def open_services(
    program: Program,
    config: Config,
    *,
    lenient: bool = False,
    server: bool = False,
    shared: bool = False,
) -> AsyncIterator[Running]:
    """Open everything.  Leaving ends it: turns are handed on or ended in words, sandboxes closed.

    `server`: keep the registry current and the sandbox ready, and drive turns that nobody drives;
    a command does none of it.  `shared`: as in `open_parts`.

    Raises:
        ConfigError, StoreError: only if not `lenient`.
    """
    from lap_mcp.control.front import keep_forgetting
    from lap_mcp.control.opening import open_sessions
    from lap_mcp.control.prompt_files import GivenFiles
    from lap_mcp.control.services import Services
    from lap_mcp.store.blobs import BlobStore

    async with AsyncExitStack() as stack:
        parts = await stack.enter_async_context(
            open_parts(program, config, lenient=lenient, shared=shared)
        )
        blobs = BlobStore(parts.home / "blobs")
        read_path = await anyio.to_thread.run_sync(_local_files, program, config)
        make = partial(
            sandbox_parts.sandbox_launcher, config, program.here, parts.home, shared=shared
        )
        launcher = await anyio.to_thread.run_sync(make)
        sandboxes = sandbox_parts.made_sandboxes(launcher, parts.database, config, parts.home)
        given = GivenFiles(parts.database, blobs, sandboxes.file, read_path)
        await stack.enter_async_context(sandboxes.running(given.read))
        options = _engine_options(parts, adopt=server)
        sessions = await stack.enter_async_context(
            open_sessions(parts.database, blobs, parts.registry, given, options)
        )
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        front = _front_door(parts, blobs, sandboxes)
        if server:
            tasks.start_soon(parts.refresher.run)
            sandboxes.prepare()
            tasks.start_soon(keep_reaping, launcher)
            tasks.start_soon(keep_forgetting, parts.database, front.clock, options.limits.retention)
        services = Services(
            front=front,
            sessions=sessions,
            registry=parts.registry,
            sandboxes=sandboxes,
            changes=parts.changes,
            status=lambda: status(parts, launcher),
            output=_output_folder(program, config, sandboxes, sessions),
        )
        yield Running(services=services, parts=parts, launcher=launcher)


def _engine_options(parts: Parts, *, adopt: bool) -> EngineOptions:
    from lap_mcp.control.nested import Nested
    from lap_mcp.control.opening import EngineOptions

    return EngineOptions(
        changes=parts.changes,
        limits=_session_limits(parts.config),
        scrubber=parts.program.scrubber,
        nested=Nested.of_home(parts.home),
        adopt=adopt,
    )


def _front_door(parts: Parts, blobs: BlobStore, sandboxes: Sandboxes) -> FrontDoor:
    from lap_mcp.control.front import front_door
    from lap_mcp.openai_front.wire import new_id

    most, scrub = parts.config.openai.max_file, parts.program.scrubber.data
    return front_door(parts.database, blobs, sandboxes, new_id, most, scrub=scrub)


def _session_limits(config: Config) -> SessionLimits:
    from lap_mcp.control.engine import SessionLimits

    table = config.limits
    return SessionLimits(
        turns_per_session=table.turns_per_session,
        running_turns=table.running_turns,
        queue=table.queue,
        question_ttl=table.approval_expiry,
        retention=config.retention.days * 24 * 3600.0,
    )


def _local_files(program: Program, config: Config) -> ReadPath:
    """Paths below the folder that the client started us in, or that the operator names.  The
    faces let a path through on stdio only."""
    from lap_mcp.control.local_files import LocalFiles, allowed_folders

    here = program.here
    files = LocalFiles(
        allowed_folders(here.folder, here.home, config.mcp.folders),
        environ=here.environ,
        hidden=config.mcp.hidden_files,
        ignored=config.mcp.ignored_files,
        max_bytes=config.limits.file_size,
    )
    return files.read


def _output_folder(
    program: Program, config: Config, sandboxes: Sandboxes, sessions: Sessions
) -> OutputFolder:
    """The same folders as for reading: a working folder that is no project is none."""
    from lap_mcp.control.local_files import allowed_folders
    from lap_mcp.control.saving import OutputFolder

    here = program.here
    named = config.mcp.output
    return OutputFolder(
        sandboxes,
        sessions,
        working=next(iter(allowed_folders(here.folder, here.home, ())), None),
        configured=None if named is None else allowed_folders(Path("/"), here.home, [named])[0],
    )


async def keep_reaping(launcher: Launcher, every: float = REAP_SECONDS) -> None:
    """At the start, and again: a server that is killed later has nobody else to clear up."""
    while True:
        await _reap(launcher)
        await anyio.sleep(every)


async def _reap(launcher: Launcher) -> None:
    """Clear what dead servers left.  An engine that is down leaves nothing to clear."""
    from lap_sandbox.errors import SandboxError

    try:
        gone = await launcher.reap()
    except SandboxError as exc:
        logger.info("left-over sandboxes were not looked for: %s", exc)
    else:
        if gone:
            logger.info("left-over sandboxes were removed", extra={"count": gone})


def status(parts: Parts, launcher: Launcher) -> Mapping[str, Any]:
    """What `lap_status` shows.  From memory."""
    registry = parts.registry
    agents = registry.agents()
    ready = launcher.preparation()
    problems = list(registry.problems())
    if ready.error:
        problems.append(Problem(where="sandbox", message=ready.error))
    shown: dict[str, Any] = {
        "version": VERSION,
        "home": str(parts.home),
        "config": str(parts.config.file or "none"),
        "store": parts.database.dialect,
        "runtimes": registry.runtimes(),
        "agents": {
            "enabled": [agent.name for agent in agents if agent.enabled],
            "disabled": {agent.name: agent.problem for agent in agents if not agent.enabled},
        },
        "sandbox": {"launcher": launcher.name, "ready": ready.ready, "words": ready.words},
        "problems": [
            {"where": p.where, "message": p.message, "remedy": p.remedy, "level": p.level}
            for p in problems
        ],
    }
    scrubbed: Mapping[str, Any] = parts.program.scrubber.data(shown)
    return scrubbed
