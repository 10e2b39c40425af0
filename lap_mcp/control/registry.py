"""Which agents and runtimes there are, now.  Answers from memory; `refresh.py` keeps it current."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from lap_runtimes.base import AgentInfo, Capabilities, Runtime

from lap_mcp.clock import Clock
from lap_mcp.config import AGENT_NAME, Config, nearest
from lap_mcp.errors import Conflict, Invalid, NotFound, Unavailable
from lap_mcp.model import Agent, Problem
from lap_mcp.scrub import Scrubber

from .catalogue import CatalogueRow, CatalogueStore, Words
from .changes import Change, Changes, Topic
from .cleaning import clean_schema, clean_text, clean_words
from .connections import Connection, Connections
from .discovery import accepted, apply_listing
from .merging import Merged, discovers, merge
from .tool_names import RESERVED_NAMES, shadows

MAX_OWN_DESCRIPTION = 1000
STATUS_URI = "lap://status"
_LISTS: tuple[Topic, ...] = ("tools", "prompts", "resources")


class Registry:
    """Merges file, store and discovery.  `open` first; then everything but `add`, `accept`,
    `remove` and the refresh answers from memory."""

    def __init__(
        self,
        config: Config,
        catalogue: CatalogueStore,
        connections: Connections,
        *,
        changes: Changes,
        clock: Clock,
        scrubber: Scrubber | None = None,
    ) -> None:
        self._config = config
        self._catalogue = catalogue
        self._connections = connections
        self._changes = changes
        self._clock = clock
        self._scrubber = scrubber or Scrubber()
        self._rows: dict[str, CatalogueRow] = {}
        self._merged = Merged(agents={}, problems=())
        self._notes: Mapping[str, Problem] = {}
        self._told: Sequence[Problem] = ()
        connections.configure(config)
        self._merge()

    async def open(self) -> None:
        """Read the stored catalogue.  Raises: StoreError."""
        await self.reload_rows()

    # What there is

    def agents(self) -> Sequence[Agent]:
        return tuple(self._merged.agents.values())

    def agent(self, name: str) -> Agent:
        found = self._merged.agents.get(name)
        if found is not None:
            return found
        near = nearest(name, self._merged.agents)
        raise NotFound(
            f"There is no agent {name!r}.",
            remedy=f"Did you mean `{near}`?"
            if near
            else "`lap_status` and `lap-mcp agents list` name them all.",
        )

    def runtimes(self) -> Sequence[Mapping[str, Any]]:
        views: list[Mapping[str, Any]] = self._scrubber.data(self._connections.views())
        return views

    def problems(self) -> Sequence[Problem]:
        found = (
            *self._config.problems,
            *self._notes.values(),
            *self._connections.problems(),
            *self._merged.problems,
        )
        return tuple(dict.fromkeys(map(self._scrubbed, found)))

    def faults(self) -> Sequence[Problem]:
        """What is wrong in the configuration, beyond what reading it shows: runtimes that cannot
        be made, names that are refused.  Complete after `connections.validate()`."""
        found = [*self._connections.faults(), *self._merged.problems]
        return tuple(self._scrubbed(problem) for problem in found if problem.level == "error")

    def _scrubbed(self, problem: Problem) -> Problem:
        """What a runtime answered may be in it, and a runtime may answer what it was sent."""
        message = self._scrubber.text(problem.message)
        return problem if message == problem.message else replace(problem, message=message)

    def runtime_for(self, agent: Agent) -> Runtime:
        """Raises: Unavailable, with the reason in words."""
        if not agent.enabled:
            raise Unavailable(f"Agent {agent.name} cannot be used: {agent.problem}")
        return self._connections.runtime(agent.runtime)

    async def capabilities(self, agent: Agent) -> Capabilities | None:
        runtime = await self._connections.made(agent.runtime) if agent.enabled else None
        return None if runtime is None else runtime.capabilities

    def rows(self) -> Mapping[str, CatalogueRow]:
        """The stored catalogue, hidden rows and pending words included: for the command line."""
        return dict(self._rows)

    @property
    def config(self) -> Config:
        return self._config

    @property
    def connections(self) -> Connections:
        return self._connections

    # What changes it

    def note(self, key: str, problem: Problem | None) -> None:
        """Show a problem until another one, or none, is noted under the same key."""
        notes = {name: value for name, value in self._notes.items() if name != key}
        self._notes = notes if problem is None else {**notes, key: problem}

    def configure(self, config: Config) -> None:
        """Follow a changed configuration file."""
        self._config = config
        self._connections.configure(config)
        self.refreshed()

    async def reload_rows(self) -> None:
        """Follow what other processes stored.  Raises: StoreError."""
        self._rows = {row.name: row for row in await self._catalogue.load()}
        self.refreshed()

    def refreshed(self) -> None:
        """Merge again; tell whoever follows, if the list differs."""
        before = self._merged.agents
        self._merge()
        if self._merged.agents != before:
            for topic in _LISTS:
                self._changes.publish(Change(topic))
        problems = self.problems()
        if problems != self._told:
            self._told = problems
            self._changes.publish(Change("resource", STATUS_URI))

    def _merge(self) -> None:
        rows = self._rows.values()
        self._merged = merge(self._config, rows, self._connections.disabled())

    async def listed(self, connection: Connection, infos: Sequence[AgentInfo]) -> None:
        """Take what a runtime listed into the catalogue.  Raises: StoreError."""
        taken = {name: (a.runtime, a.ref) for name, a in self._config.agents.items()}
        infos = [self._without_secrets(info) for info in infos]
        for attempt in (1, 2):
            result = apply_listing(
                self._rows,
                connection.name,
                infos,
                taken=taken,
                trust=connection.table.trust,
                now=self._clock.now(),
            )
            connection.trouble = tuple(result.problems)
            try:
                for row in result.save:
                    await self._catalogue.save(row)
                    self._rows[row.name] = row
            except Conflict:
                # Another process discovered the same agents between our read and our write.
                await self.reload_rows()
                if attempt == 2:
                    raise
            else:
                break
        self.refreshed()

    def _without_secrets(self, info: AgentInfo) -> AgentInfo:
        return replace(
            info,
            name=self._scrubber.data(info.name),
            description=self._scrubber.data(info.description),
            input_schema=self._scrubber.data(info.input_schema),
            output_schema=self._scrubber.data(info.output_schema),
        )

    def discovers(self, connection: Connection) -> bool:
        """Whether to ask this runtime for its agents."""
        answer = discovers(self._config, connection.name)
        able = connection.runtime is not None and connection.runtime.capabilities.discover
        return able if answer is None else answer

    async def add(self, row: CatalogueRow) -> Agent:
        """Store an agent that a person describes.

        Raises:
            Invalid: its name, runtime or schema.
            Conflict: the name is taken, or the agent has another name already.
            StoreError
        """
        self._check_name(row.name)
        if row.runtime not in self._config.runtimes:
            near = nearest(row.runtime, self._config.runtimes)
            known = ", ".join(sorted(self._config.runtimes)) or "none yet"
            hint = f"Did you mean `{near}`?" if near else f"Configured runtimes: {known}."
            raise Invalid(f"There is no runtime {row.runtime!r}.", remedy=hint)
        if row.words.input_schema is not None and clean_schema(row.words.input_schema) is None:
            raise Invalid("The input schema is not a JSON Schema of an object (at most 16 kB).")
        existing = self._merged.agents.get(row.name)
        if existing is not None and (existing.runtime, existing.ref) != (row.runtime, row.ref):
            raise Conflict(
                f"The name {row.name} belongs to {existing.ref!r} of runtime {existing.runtime}.",
                remedy="Choose another name, or remove that agent first.",
            )
        self._check_unnamed(row)
        await self._save(row)
        return self.agent(row.name)

    def _check_unnamed(self, row: CatalogueRow) -> None:
        """Names that a person gave before go first, so that `row` would not be shown."""
        for agent in self._merged.agents.values():
            if agent.name == row.name or agent.source == "discovery":
                continue
            if (agent.runtime, agent.ref) == (row.runtime, row.ref):
                which = f"its agent {row.ref!r}" if row.ref else "its agent"
                remedy = f"Call it `{agent.name}`, or name another one with `--ref`."
                raise Conflict(
                    f"Runtime {row.runtime} has {which} registered already, as {agent.name}.",
                    remedy=remedy,
                )

    async def import_listed(self, runtime: str, info: AgentInfo, name: str) -> Agent:
        """Store an agent that a runtime listed once, with the runtime's words."""
        words = clean_words(self._without_secrets(info))
        return await self.add(
            CatalogueRow(name=name, runtime=runtime, ref=info.ref, source="store", words=words)
        )

    async def accept(self, name: str) -> CatalogueRow:
        """Show the newer words of an agent.

        Raises:
            NotFound, Conflict (nothing to accept), StoreError
        """
        row = self._row(name)
        if row.pending is None:
            raise Conflict(f"Agent {name} has no newer words to accept.")
        await self._save(accepted(row))
        return self._rows[name]

    async def remove(self, name: str) -> None:
        """Forget an agent that was added; hide one that was discovered.

        Raises:
            NotFound, Conflict (the file has it), StoreError
        """
        if name in self._config.agents:
            raise Conflict(
                f"Agent {name} stands in {self._config.file}.",
                remedy=f"Remove [agents.{name}] from that file.",
            )
        row = self._row(name)
        if row.source == "discovery":
            await self._save(replace(row, hidden=True))
            return
        await self._catalogue.remove(name)
        await self.reload_rows()

    def _row(self, name: str) -> CatalogueRow:
        row = self._rows.get(name)
        if row is None:
            near = nearest(name, self._rows)
            raise NotFound(
                f"There is no stored agent {name!r}.",
                remedy=f"Did you mean `{near}`?" if near else "`lap-mcp agents list` lists them.",
            )
        return row

    async def _save(self, row: CatalogueRow) -> None:
        await self._catalogue.save(row)
        self._rows[row.name] = row
        self.refreshed()

    @staticmethod
    def _check_name(name: str) -> None:
        if not AGENT_NAME.fullmatch(name):
            raise Invalid(
                f"The name {name!r} is refused.",
                remedy="Use lower-case letters, digits and _, starting with a letter, at most 48.",
            )
        if shadows(name):
            raise Invalid(
                f"The name {name!r} is reserved.",
                remedy=f"These are our own tools: {', '.join(sorted(RESERVED_NAMES))}.",
            )


def own_words(
    description: str,
    input_schema: Mapping[str, Any] | None,
    output_schema: Mapping[str, Any] | None,
) -> Words:
    """The words of an operator: cleaned, and not attributed to a runtime."""
    return Words(
        native_name="",
        description=clean_text(description, MAX_OWN_DESCRIPTION),
        input_schema=input_schema,
        output_schema=output_schema,
    )
