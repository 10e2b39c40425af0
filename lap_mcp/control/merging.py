"""Which agents there are: the file's, then the store's, then discovered ones.  Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase

from lap_mcp.config import AgentTable, Config, RuntimeTable, as_problem
from lap_mcp.model import Agent, Pace, Problem

from .catalogue import CatalogueRow
from .cleaning import attributed
from .tool_names import RESERVED_NAMES, shadows

Key = tuple[str, str]
"""Runtime and ref."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    agents: Mapping[str, Agent]
    problems: Sequence[Problem]


def discovers(config: Config, runtime: str) -> bool | None:
    """Whether this runtime's agents are looked up; `None`: yes, if it can list them."""
    table = config.runtimes.get(runtime)
    if table is None:
        return False
    if table.discover is not None:
        return table.discover
    named = any(agent.runtime == runtime for agent in config.agents.values())
    return False if named else None


def wanted(table: RuntimeTable, name: str, ref: str) -> bool:
    """Whether `include` and `exclude` let this discovered agent in."""

    def matches(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, p) or fnmatchcase(ref, p) for p in patterns)

    return (not table.include or matches(table.include)) and not matches(table.exclude)


def merge(config: Config, rows: Iterable[CatalogueRow], disabled: Mapping[str, str]) -> Merged:
    """`disabled`: runtimes that cannot be used, and why."""
    merger = _Merger(config, list(rows), disabled)
    merger.run()
    return Merged(
        agents=dict(sorted(merger.agents.items())),
        problems=merger.problems,
    )


class _Merger:
    def __init__(
        self, config: Config, rows: list[CatalogueRow], disabled: Mapping[str, str]
    ) -> None:
        self._config = config
        self._rows = rows
        self._disabled = disabled
        self._registered: dict[Key, str] = {}
        self.agents: dict[str, Agent] = {}
        self.problems: list[Problem] = []

    def run(self) -> None:
        for name, table in self._config.agents.items():
            self._from_file(name, table)
        for source in ("store", "discovery"):
            for row in self._rows:
                if row.source == source and self._is_listed(row):
                    self._from_row(row)

    # The file

    def _from_file(self, name: str, table: AgentTable) -> None:
        key = ("agents", name)
        if shadows(name):
            ours = ", ".join(sorted(RESERVED_NAMES))
            words = "This name is reserved: it is, begins with, or begins one of our own tools."
            fault = self._config.fault(key, words, f"Choose another name than {ours}.")
            self.problems.append(as_problem(fault))
            return
        row = self._described_by(table)
        ref = table.ref or (row.ref if row is not None else "")
        holder = self._registered.get((table.runtime, ref))
        if holder is not None:
            words = f"This is the same agent of {table.runtime} as [agents.{holder}]."
            self.problems.append(
                replace(as_problem(self._config.fault(key, words)), level="warning")
            )
        self._registered.setdefault((table.runtime, ref), name)
        runtime = self._config.runtimes.get(table.runtime)
        words_of = row.words if row is not None else None
        if row is not None:
            self._note_pending(row)
        deadline, silence = _times(runtime)
        self._add(
            Agent(
                name=name,
                runtime=table.runtime,
                ref=ref,
                description=table.description
                or (attributed(words_of, table.runtime) if words_of else ""),
                input_schema=table.input_schema or (words_of.input_schema if words_of else None),
                output_schema=table.output_schema or (words_of.output_schema if words_of else None),
                source="file",
                pinned=table.pinned,
                deadline=table.deadline or deadline,
                silence=table.silence or silence,
                pace=_pace(runtime),
                model_may_answer=table.model_may_answer,
                cancel_on_disconnect=table.cancel_on_disconnect,
            )
        )

    def _described_by(self, table: AgentTable) -> CatalogueRow | None:
        listed = [
            row for row in self._rows if row.runtime == table.runtime and row.source == "discovery"
        ]
        if table.ref:
            return next((row for row in listed if row.ref == table.ref), None)
        present = [row for row in listed if row.seen_at]
        return present[0] if len(present) == 1 else None

    # The store

    def _is_listed(self, row: CatalogueRow) -> bool:
        if row.hidden or (row.runtime, row.ref) in self._registered:
            return False
        if row.source == "store":
            return True
        table = self._config.runtimes.get(row.runtime)
        if table is None or discovers(self._config, row.runtime) is False:
            return False
        return bool(row.seen_at) and wanted(table, row.words.native_name, row.ref)

    def _from_row(self, row: CatalogueRow) -> None:
        other = self.agents.get(row.name)
        if other is not None or shadows(row.name):
            self._hidden_row(row, other)
            return
        runtime = self._config.runtimes.get(row.runtime)
        deadline, silence = _times(runtime)
        theirs = bool(row.words.digest)
        self._registered[(row.runtime, row.ref)] = row.name
        self._add(
            Agent(
                name=row.name,
                runtime=row.runtime,
                ref=row.ref,
                description=attributed(row.words, row.runtime) if theirs else row.words.description,
                input_schema=row.words.input_schema,
                output_schema=row.words.output_schema,
                source=row.source,
                pinned=row.pinned,
                deadline=deadline,
                silence=silence,
                pace=_pace(runtime),
            )
        )
        self._note_pending(row)

    def _note_pending(self, row: CatalogueRow) -> None:
        if row.pending is not None:
            self.problems.append(
                Problem(
                    where=f"agent {row.name}",
                    message=f"Runtime {row.runtime} describes it in new words; the old ones are "
                    "shown until somebody accepts the new.",
                    remedy=f"Compare and decide with `lap-mcp agents accept {row.name}`.",
                    level="warning",
                )
            )

    def _hidden_row(self, row: CatalogueRow, other: Agent | None) -> None:
        why = f"[agents.{row.name}] of the file" if other else "one of our own tools"
        self.problems.append(
            Problem(
                where=f"agent {row.name}",
                message=f"The stored agent {row.ref!r} of runtime {row.runtime} is hidden: its "
                f"name is taken by {why}.",
                remedy=f"Rename one, or run `lap-mcp agents remove {row.name}`.",
                level="warning",
            )
        )

    def _add(self, agent: Agent) -> None:
        problem = self._disabled.get(agent.runtime, "")
        if not problem and agent.runtime not in self._config.runtimes:
            problem = self._missing_runtime(agent.runtime)
        self.agents[agent.name] = replace(agent, enabled=not problem, problem=problem)

    def _missing_runtime(self, name: str) -> str:
        if self._config.unreadable:
            return f"The configuration file cannot be read, so runtime {name} is not known."
        if name in self._config.broken_runtimes:
            return f"[runtimes.{name}] has errors."
        return f"There is no [runtimes.{name}] in the configuration."


def _times(table: RuntimeTable | None) -> tuple[float, float]:
    return (table.deadline, table.silence) if table else (24 * 3600.0, 600.0)


def _pace(table: RuntimeTable | None) -> Pace:
    if table is None:
        return Pace()
    return Pace(max_turns=table.max_turns, turns_per_minute=table.turns_per_minute)
