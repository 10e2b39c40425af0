"""Runtime objects: made when first needed, shared, closed once.

What is wrong with a runtime's table (unknown kind, missing extra, wrong key, missing secret) is
found here and costs that runtime only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal
from urllib.parse import urlsplit

import anyio
import anyio.to_thread
from lap_runtimes.base import Runtime

from lap_mcp.config import Config, ConfigFaults, RuntimeTable, SecretResolver, as_problem
from lap_mcp.errors import Unavailable
from lap_mcp.model import Problem

logger = logging.getLogger(__name__)

LoadKind = Callable[[str], type[Any]]
"""The adapter class of a kind.  Raises `LookupError` (it lists the known kinds) or `ImportError`
(it says what to install)."""

CLOSE_SECONDS = 5.0

_UNCONFINED = (
    "This runtime starts a program on this machine, and `lap-mcp serve` starts none: whoever may "
    "call it would act with the server's own rights, because nothing confines the program.",
    "Use it with `lap-mcp` over stdio, or run the agent as a server of its own and give its url.",
)
"""The place to let a runtime through for which a launcher is configured, once there is one."""

State = Literal["configured", "ready", "unreachable", "disabled"]


@dataclass(slots=True, kw_only=True)
class Connection:
    """One configured runtime.  `configured`: not reached yet; `disabled`: its table is wrong."""

    name: str
    table: RuntimeTable
    state: State = "configured"
    runtime: Runtime | None = None
    problems: Sequence[Problem] = field(default_factory=tuple)
    """Why it is disabled."""
    trouble: Sequence[Problem] = field(default_factory=tuple)
    """What the last discovery found."""

    @property
    def why(self) -> str:
        first = self.problems[0] if self.problems else None
        return f"{first.where}: {first.message} {first.remedy}".strip() if first else ""


class Connections:
    """The runtimes of the configuration, by name."""

    def __init__(
        self, load_kind: LoadKind, resolver: SecretResolver, *, shared: bool = False
    ) -> None:
        self._load_kind = load_kind
        self._resolver = resolver
        self._shared = shared
        """Others than the local user are served: no program is started for them."""
        self._config: Config | None = None
        self._open: dict[str, Connection] = {}
        self._retired: list[Runtime] = []
        self._making = anyio.Lock()

    def configure(self, config: Config) -> None:
        """Follow a new configuration.  A connection whose table did not change is kept; another is
        closed with the rest at the end, because turns may still run over it."""
        before, self._open = self._open, {}
        self._config = config
        for name, table in config.runtimes.items():
            old = before.pop(name, None)
            if old is not None and old.table == table and old.state != "disabled":
                self._open[name] = old
            else:
                self._open[name] = Connection(name=name, table=table)
                self._retire(old)
        for gone in before.values():
            self._retire(gone)

    def _retire(self, connection: Connection | None) -> None:
        if connection is not None and connection.runtime is not None:
            self._retired.append(connection.runtime)

    def all(self) -> Sequence[Connection]:
        return tuple(self._open.values())

    def get(self, name: str) -> Connection | None:
        return self._open.get(name)

    def disabled(self) -> Mapping[str, str]:
        return {c.name: c.why for c in self._open.values() if c.state == "disabled"}

    def faults(self) -> list[Problem]:
        """What is wrong with the tables, for as far as they were validated."""
        return [problem for c in self._open.values() for problem in c.problems]

    def problems(self) -> list[Problem]:
        trouble = (problem for c in self._open.values() for problem in c.trouble)
        return [*self.faults(), *trouble, *self._resolver.warnings]

    async def validate(self) -> None:
        """Make every runtime that was not made yet.  Importing an adapter may take half a second:
        not on the event loop."""
        for connection in tuple(self._open.values()):
            await self._make_aside(connection)

    async def made(self, name: str) -> Runtime | None:
        """The runtime, made now if it was not, as `validate` does; `None` where it cannot be."""
        connection = self._open.get(name)
        if connection is None:
            return None
        await self._make_aside(connection)
        return connection.runtime

    async def _make_aside(self, connection: Connection) -> None:
        if connection.runtime is None and connection.state != "disabled":
            async with self._making:
                await anyio.to_thread.run_sync(self.make, connection)

    def runtime(self, name: str) -> Runtime:
        """The runtime, made now if it was not.

        Raises:
            Unavailable: it is not configured, or its configuration is wrong; why.
        """
        connection = self._open.get(name)
        if connection is None:
            raise Unavailable(
                f"Runtime {name} is not configured.", remedy=f"Add [runtimes.{name}] to lap.toml."
            )
        self.make(connection)
        if connection.runtime is None:
            raise Unavailable(f"Runtime {name} cannot be used: {connection.why}")
        return connection.runtime

    def make(self, connection: Connection) -> None:
        """Validate the table and construct the runtime, which does no I/O.  Never raises.

        Boundary: an adapter may be anybody's; one that breaks is disabled and logged.
        """
        if connection.runtime is not None or connection.state == "disabled":
            return
        assert self._config is not None
        try:
            connection.runtime = self._made(connection, self._config)
        except ConfigFaults as exc:
            self._disable(connection, [as_problem(fault) for fault in exc.faults])
        except Exception as exc:
            logger.exception("a runtime could not be made", extra={"runtime": connection.name})
            words = f"Its adapter broke: {type(exc).__name__}."
            fault = self._config.fault(("runtimes", connection.name), words, "The log says where.")
            self._disable(connection, [as_problem(fault)])

    def _made(self, connection: Connection, config: Config) -> Runtime:
        """Raises: ConfigFaults."""
        try:
            adapter = self._load_kind(connection.table.kind)
        except (LookupError, ImportError) as exc:
            key = ("runtimes", connection.name, "kind")
            raise ConfigFaults((config.fault(key, str(exc.args[0])),)) from exc
        settings = config.adapter_settings(connection.name, adapter.Config, self._resolver)
        if self._shared and getattr(settings, "starts_process", False):
            raise ConfigFaults((config.fault(("runtimes", connection.name), *_UNCONFINED),))
        made: Runtime = adapter(settings)
        return made

    def _disable(self, connection: Connection, problems: Sequence[Problem]) -> None:
        connection.state = "disabled"
        connection.problems = tuple(problems)

    def views(self) -> list[Mapping[str, Any]]:
        """{name, kind, url, state, capabilities, problem}, without secrets."""
        return [_view(connection) for connection in self._open.values()]

    async def aclose(self) -> None:
        """Close every runtime, each with a deadline; a failure to close is logged only."""
        runtimes = [*self._retired, *(c.runtime for c in self._open.values() if c.runtime)]
        self._retired, self._open = [], {}
        async with anyio.create_task_group() as tasks:
            for runtime in runtimes:
                tasks.start_soon(_close, runtime)


async def _close(runtime: Runtime) -> None:
    with anyio.move_on_after(CLOSE_SECONDS, shield=True) as scope:
        try:
            await runtime.aclose()
        except Exception:  # a runtime that cannot close must not keep the others from closing
            logger.warning("a runtime did not close", extra={"kind": runtime.kind}, exc_info=True)
    if scope.cancelled_caught:
        logger.warning("a runtime did not close in time", extra={"kind": runtime.kind})


def _view(connection: Connection) -> Mapping[str, Any]:
    runtime = connection.runtime
    return {
        "name": connection.name,
        "kind": connection.table.kind,
        "url": _address(connection.table.settings.get("url")),
        "state": connection.state,
        "capabilities": None if runtime is None else asdict(runtime.capabilities),
        "problem": connection.why or next((p.message for p in connection.trouble), ""),
    }


def _address(url: Any) -> str:
    """Scheme, host and path: user names, passwords and queries may be secrets."""
    if not isinstance(url, str):
        return ""
    try:
        parts = urlsplit(url)
        host = parts.hostname or ""
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return ""
    return f"{parts.scheme}://{host}{port}{parts.path}" if parts.scheme else ""
