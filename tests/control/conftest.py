"""A session engine over each database, scripted runtimes, as many servers as a test wants."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa
from lap_runtimes.base import Runtime
from sqlalchemy.ext.asyncio import create_async_engine

from lap_mcp.control.engine import SessionLimits
from lap_mcp.control.opening import EngineOptions, open_sessions
from lap_mcp.control.prompt_files import GivenFiles
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import NotFound
from lap_mcp.model import LOCAL, Agent, Origin, Principal
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import Database, open_database
from tests.canary import keep

ME = Origin(principal=LOCAL)
DEADLINE = 10.0


@dataclass
class Agents:
    """The part of a registry that the engine needs, filled by hand."""

    found: dict[str, tuple[Agent, Runtime]] = field(default_factory=dict)

    def add(self, runtime: Runtime, name: str = "helper", **settings: object) -> None:
        agent = Agent(name=name, runtime="lab", ref="scripted", **settings)  # type: ignore[arg-type]
        self.found[name] = (agent, runtime)

    def agent(self, name: str) -> Agent:
        if name not in self.found:
            raise NotFound(f"There is no agent {name}.")
        return self.found[name][0]

    def runtime_for(self, agent: Agent) -> Runtime:
        return self.found[agent.name][1]


@dataclass
class House:
    """One store, and servers on it."""

    where: Path | str
    blobs: BlobStore
    blobs_folder: Path

    @asynccontextmanager
    async def server(
        self,
        agents: Agents,
        limits: SessionLimits | None = None,
        options: EngineOptions | None = None,
    ) -> AsyncIterator[Sessions]:
        database = await open_database(self.where)
        try:
            given = GivenFiles(database, self.blobs, _no_sandbox)
            options = options or EngineOptions(limits=limits or SessionLimits(cancel_wait=2.0))
            async with open_sessions(database, self.blobs, agents, given, options) as sessions:
                yield sessions
        finally:
            with anyio.CancelScope(shield=True):
                await database.aclose()


async def _no_sandbox(principal: Principal, sandbox_id: str, path: str) -> bytes:
    raise NotFound("There is no sandbox here.")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)])
async def where(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Path | str]:
    if request.param == "sqlite":
        yield tmp_path / "lap.db"
        return
    async with _fresh_postgres() as url:
        yield url


@asynccontextmanager
async def _fresh_postgres() -> AsyncIterator[str]:
    server = sa.make_url(os.environ["LAP_TEST_POSTGRES"])
    name = f"lap_{uuid.uuid4().hex}"
    engine = create_async_engine(server, isolation_level="AUTOCOMMIT")
    try:
        async with engine.connect() as connection:
            await connection.execute(sa.text(f"CREATE DATABASE {name}"))
        url = server.set(database=name)
        yield url.render_as_string(hide_password=False)
        await _keep_rows(url)
        async with engine.connect() as connection:
            await connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    finally:
        await engine.dispose()


async def _keep_rows(url: sa.URL) -> None:
    """For the search for secrets: the database goes away."""
    engine = create_async_engine(url)
    try:
        async with engine.connect() as connection:
            names = await connection.run_sync(lambda c: sa.inspect(c).get_table_names())
            for name in names:
                rows = await connection.execute(sa.text(f'SELECT t::text FROM "{name}" t'))
                keep("\n".join(rows.scalars()))
    finally:
        await engine.dispose()


@pytest.fixture
async def database(where: Path | str) -> AsyncIterator[Database]:
    database = await open_database(where)
    yield database
    await database.aclose()


@pytest.fixture
def house(where: Path | str, tmp_path: Path) -> House:
    return House(where, BlobStore(tmp_path / "blobs"), tmp_path / "blobs")


@pytest.fixture
def agents() -> Agents:
    return Agents()


@pytest.fixture
async def sessions(house: House, agents: Agents) -> AsyncIterator[Sessions]:
    async with house.server(agents) as opened:
        yield opened


Server = Callable[[Agents], AbstractAsyncContextManager[Sessions]]
