"""A registry over a real store, with runtimes that a test scripts."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.to_thread
import pytest
from lap_runtimes.base import AgentInfo, Capabilities
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import Unavailable
from lap_runtimes.testing import EVERYTHING

from lap_mcp.clock import SystemClock
from lap_mcp.config import Config, SecretResolver, Surroundings, load_config
from lap_mcp.control.changes import Changes
from lap_mcp.control.connections import Connections
from lap_mcp.control.refresh import Refresher, mark
from lap_mcp.control.registry import Registry
from lap_mcp.control.stored_catalogue import StoredCatalogue
from lap_mcp.scrub import Scrubber
from lap_mcp.store.database import open_database


@dataclass
class Hosted:
    """What a configured runtime does in a test: which agents it lists, or that it is down."""

    infos: Sequence[AgentInfo] = ()
    down: bool = False
    broken: bool = False
    """Its adapter has a bug."""
    capabilities: Capabilities = EVERYTHING
    asked: int = 0
    closed: int = 0


class ListingRuntime:
    """A runtime that lists what `Hosted` of its address says."""

    kind: ClassVar[str] = "listing"
    Config = HTTPRuntimeConfig
    hosted: ClassVar[dict[str, Hosted]] = {}

    def __init__(self, config: HTTPRuntimeConfig) -> None:
        self._hosted = self.hosted[config.url]

    @property
    def capabilities(self) -> Capabilities:
        return self._hosted.capabilities

    async def check(self) -> str:
        return "there"

    async def agents(self) -> Sequence[AgentInfo]:
        self._hosted.asked += 1
        if self._hosted.broken:
            raise KeyError("a bug")
        if self._hosted.down:
            raise Unavailable("nobody answers")
        return self._hosted.infos

    async def aclose(self) -> None:
        self._hosted.closed += 1


@dataclass
class Town:
    """Runtimes by address, and one `LAP_HOME` with its file."""

    folder: Path
    environ: dict[str, str] = field(default_factory=dict)
    scrubber: Scrubber = field(default_factory=Scrubber)

    @property
    def file(self) -> Path:
        return self.folder / "lap.toml"

    def host(self, url: str, *infos: AgentInfo, **settings: Any) -> Hosted:
        ListingRuntime.hosted[url] = hosted = Hosted(infos=infos, **settings)
        return hosted

    def write(self, text: str) -> None:
        new = self.folder / "lap.toml.new"
        new.write_text(text)
        new.chmod(0o600)
        new.replace(self.file)

    def read(self) -> Config:
        here = Surroundings(environ=self.environ, home=self.folder, folder=self.folder)
        return load_config(here, self.resolver(), option=str(self.file))

    def resolver(self) -> SecretResolver:
        return SecretResolver(self.environ, self.folder, self.scrubber)

    @asynccontextmanager
    async def process(self, *, poll: float = 0.02) -> AsyncIterator[Process]:
        """One process on this `LAP_HOME`: its registry, and the refresher that a test may run."""
        async with AsyncExitStack() as stack:
            database = await open_database(self.folder / "lap.db")
            stack.push_async_callback(database.aclose)
            connections = Connections(_load, self.resolver())
            stack.push_async_callback(connections.aclose)
            changes = Changes()
            catalogue = StoredCatalogue(database)
            seen = await anyio.to_thread.run_sync(mark, self.file)
            config = await anyio.to_thread.run_sync(self.read)
            registry = Registry(
                config, catalogue, connections, changes=changes, clock=SystemClock()
            )
            await registry.open()
            refresher = Refresher(
                registry, catalogue, self.read, file=self.file, seen=seen, poll=poll,
                refresh=poll,
            )  # fmt: skip
            yield Process(registry, refresher, changes)


@dataclass
class Process:
    registry: Registry
    refresher: Refresher
    changes: Changes

    @property
    def names(self) -> list[str]:
        return [agent.name for agent in self.registry.agents()]

    @property
    def words(self) -> str:
        """Every problem, as one text."""
        return "\n".join(
            f"{problem.where}: {problem.message} {problem.remedy}"
            for problem in self.registry.problems()
        )


def _load(kind: str) -> type[Any]:
    if kind != ListingRuntime.kind:
        raise LookupError(f"There is no runtime kind {kind!r}; known are listing.")
    return ListingRuntime


@pytest.fixture
def town(tmp_path: Path) -> AsyncIterator[Town]:
    ListingRuntime.hosted = {}
    return Town(tmp_path)  # type: ignore[return-value]


def info(name: str, description: str = "does things", **more: Any) -> AgentInfo:
    return replace(AgentInfo(ref=f"ref-{name}", name=name, description=description), **more)


MakeInfo = Callable[..., AgentInfo]
