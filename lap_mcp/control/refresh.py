"""Keeps the registry current in the background: runtimes, the configuration file, the store.

Nobody waits for it.  `tools/list` shows what the catalogue knew; changes are published.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import anyio
import anyio.to_thread
from lap_runtimes.errors import RuntimeFailure, Unsupported

from lap_mcp.config import Config, one_line
from lap_mcp.errors import Conflict, StoreError
from lap_mcp.model import Problem

from .catalogue import CatalogueStore
from .connections import Connection
from .registry import Registry

logger = logging.getLogger(__name__)

POLL = 1.0
"""Seconds between looks at the file and the store."""
DISCOVERY_DEADLINE = 20.0
REFRESH = 300.0
"""Seconds between two listings of a runtime that answered."""
RETRY = (5.0, 30.0, 120.0, 300.0)
"""Seconds until a runtime that did not answer is asked again."""


class Mark(NamedTuple):
    """What tells one state of a file from another without reading it."""

    modified: int = 0
    inode: int = 0
    size: int = -1


def mark(file: Path | None) -> Mark:
    if file is None:
        return Mark()
    try:
        state = file.stat()
    except OSError:
        return Mark()
    return Mark(state.st_mtime_ns, state.st_ino, state.st_size)


class Refresher:
    """Owns the background work on one registry; `run` it in a task, cancel it to end it.

    `file` is watched; `seen` is its mark from before it was read, so that no change is missed."""

    def __init__(
        self,
        registry: Registry,
        catalogue: CatalogueStore,
        read_config: Callable[[], Config],
        *,
        file: Path | None,
        seen: Mark,
        poll: float = POLL,
        refresh: float = REFRESH,
    ) -> None:
        self._registry = registry
        self._catalogue = catalogue
        self._read_config = read_config
        self._file = file
        self._mark = seen
        self._poll = poll
        self._refresh = refresh
        self._due: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._revision = -1
        self._changed = anyio.Event()
        self.settled = anyio.Event()
        """Set when every runtime was validated, and asked once if it is to be asked."""

    async def run(self) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._watch)
            tasks.start_soon(self._discover_often)

    async def _watch(self) -> None:
        while True:
            await self._look_at_file()
            await self._look_at_store()
            await anyio.sleep(self._poll)

    async def _discover_often(self) -> None:
        while True:
            self._changed = anyio.Event()
            await self.ask_runtimes()
            self.settled.set()
            with anyio.move_on_after(self._poll):
                await self._changed.wait()

    # The file

    async def _look_at_file(self) -> None:
        seen = await anyio.to_thread.run_sync(mark, self._file)
        if seen == self._mark:
            return
        self._mark = seen
        config = await anyio.to_thread.run_sync(self._read_config)
        if config.faults:
            logger.warning("the changed configuration has errors; the old one stays in use")
            first = config.faults[0]
            more = len(config.faults) - 1
            self._registry.note(
                "reload",
                Problem(
                    where=str(self._file),
                    message="This file was changed and has errors; what was read before stays in "
                    f"use. {one_line(first)}" + (f" (and {more} more)" if more else ""),
                    remedy="Correct it; it is read again at once.",
                ),
            )
            return
        before = self._registry.config
        self._registry.note("reload", _restart_note(before, config))
        self._due.clear()
        self._failures.clear()
        self._registry.configure(config)
        self._changed.set()
        logger.info("the configuration was read again")

    # The store

    async def _look_at_store(self) -> None:
        try:
            revision = await self._catalogue.revision()
            if revision != self._revision:
                await self._registry.reload_rows()
                self._revision = revision
        except StoreError as exc:
            self._registry.note(
                "store", Problem(where="store", message=exc.message, remedy=exc.remedy)
            )
        else:
            self._registry.note("store", None)

    # The runtimes

    async def ask_runtimes(self) -> None:
        """Validate those that are new and ask those that are due, all at once."""
        now = anyio.current_time()
        due = [
            connection
            for connection in self._registry.connections.all()
            if self._due.get(connection.name, now) <= now
        ]
        if not due:
            return
        await self._registry.connections.validate()
        self._registry.refreshed()
        async with anyio.create_task_group() as tasks:
            for connection in due:
                tasks.start_soon(self._ask, connection)

    async def _ask(self, connection: Connection) -> None:
        name = connection.name
        if connection.runtime is None or not self._registry.discovers(connection):
            self._due[name] = float("inf")
            return
        problem = await self._discover(connection)
        if problem is None:
            self._failures.pop(name, None)
            self._due[name] = anyio.current_time() + self._refresh
            return
        failures = self._failures[name] = self._failures.get(name, 0) + 1
        wait = RETRY[min(failures, len(RETRY)) - 1]
        self._due[name] = anyio.current_time() + min(wait, self._refresh)
        connection.trouble = (problem,)
        self._registry.refreshed()

    async def _discover(self, connection: Connection) -> Problem | None:
        """Ask one runtime.  What went wrong, if anything did.

        Boundary: an adapter may be anybody's; one that breaks is logged and asked again later.
        """
        where = f"runtime {connection.name}"
        assert connection.runtime is not None
        try:
            with anyio.fail_after(DISCOVERY_DEADLINE):
                infos = await connection.runtime.agents()
            connection.state = "ready"
            if self._registry.connections.get(connection.name) is connection:
                await self._registry.listed(connection, infos)
        except TimeoutError:
            connection.state = "unreachable"
            return Problem(
                where=where,
                message=f"It did not list its agents within {DISCOVERY_DEADLINE:.0f} s; the ones "
                "known from before stay.",
                level="warning",
            )
        except Unsupported as exc:
            return Problem(
                where=where,
                message=f"It cannot list its agents: {exc.message}",
                remedy=f"Take `discover` out of [runtimes.{connection.name}] and write its agents "
                "as [agents.NAME].",
            )
        except RuntimeFailure as exc:
            connection.state = "unreachable"
            return Problem(
                where=where,
                message=exc.message,
                level="warning",
                remedy=f"`lap-mcp doctor` checks it; is {connection.name} running?",
            )
        except (StoreError, Conflict) as exc:
            return Problem(where=where, message=exc.message, remedy=exc.remedy, level="warning")
        except Exception as exc:
            logger.exception("a runtime could not list its agents", extra={"runtime": where})
            words = f"Its adapter broke: {type(exc).__name__}."
            return Problem(where=where, message=words, remedy="The log says where.")
        return None


def _restart_note(before: Config, after: Config) -> Problem | None:
    """Tables that are read at the start only."""
    names = ("sandbox", "mcp", "limits", "server", "store", "retention", "logs")
    changed = [name for name in names if getattr(before, name) != getattr(after, name)]
    if not changed:
        return None
    return Problem(
        where=str(after.file),
        message=f"[{'], ['.join(changed)}] changed and takes effect at the next start.",
        remedy="Start the server again.",
        level="warning",
    )
