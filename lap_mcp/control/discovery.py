"""What a runtime's listing changes in the catalogue.  Pure: rows in, rows to save out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeGuard

from lap_runtimes.base import AgentInfo

from lap_mcp.model import Problem

from .catalogue import CatalogueRow, Words
from .cleaning import clean_words
from .steering import steers
from .tool_names import slug

MAX_AGENTS = 500
"""Agents taken from one runtime; more are named in a problem."""
MAX_REF = 1024
SEEN_PRECISION = 24 * 3600.0
"""`seen_at` is written again only when it is older than this: a refresh that finds nothing new
writes nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    save: Sequence[CatalogueRow]
    problems: Sequence[Problem]


def apply_listing(
    rows: Mapping[str, CatalogueRow],
    runtime: str,
    infos: Iterable[AgentInfo],
    *,
    taken: Mapping[str, tuple[str, str]],
    trust: bool,
    now: float,
) -> Listing:
    """Rows to save after `runtime` listed `infos`.

    `taken` maps names that the configuration file gives to their (runtime, ref): a discovered
    agent may only get such a name if it is that agent.
    """
    known = {r.ref: r for r in rows.values() if r.runtime == runtime and r.source == "discovery"}
    added = {r.ref for r in rows.values() if r.runtime == runtime and r.source == "store"}
    names = set(rows)
    save: list[CatalogueRow] = []
    usable, problems = _usable(runtime, infos)
    for info in usable.values():
        words = clean_words(info)
        if (row := known.get(info.ref)) is not None:
            changed = _updated(row, words, trust=trust, now=now)
            if changed != row:
                save.append(changed)
        elif info.ref not in added:
            name = _name(words, runtime, info.ref, names, taken)
            names.add(name)
            save.append(
                CatalogueRow(
                    name=name,
                    runtime=runtime,
                    ref=info.ref,
                    source="discovery",
                    words=words,
                    seen_at=now,
                )
            )
    gone = [row for ref, row in known.items() if ref not in usable and row.seen_at]
    save += [replace(row, seen_at=0.0) for row in gone]
    return Listing(save=save, problems=problems)


def _usable(runtime: str, infos: Iterable[AgentInfo]) -> tuple[dict[str, AgentInfo], list[Problem]]:
    usable: dict[str, AgentInfo] = {}
    problems: list[Problem] = []
    odd = more = 0
    for info in infos:
        if not _is_usable(info):
            odd += 1
        elif len(usable) >= MAX_AGENTS and info.ref not in usable:
            more += 1
        else:
            usable.setdefault(info.ref, info)
    if odd:
        problems.append(_problem(runtime, f"{odd} agents were listed without a usable name or id."))
    if more:
        problems.append(
            _problem(
                runtime,
                f"It lists {more} agents more than the {MAX_AGENTS} that are taken.",
                f"Choose with `include` and `exclude` in [runtimes.{runtime}].",
            )
        )
    return usable, problems


def _is_usable(info: AgentInfo) -> TypeGuard[AgentInfo]:
    texts = isinstance(info.ref, str) and isinstance(info.name, str)
    return texts and isinstance(info.description, str) and len(info.ref) <= MAX_REF


def _problem(runtime: str, message: str, remedy: str = "") -> Problem:
    return Problem(where=f"runtime {runtime}", message=message, remedy=remedy, level="warning")


def _updated(row: CatalogueRow, words: Words, *, trust: bool, now: float) -> CatalogueRow:
    fresh = row.seen_at and now - row.seen_at < SEEN_PRECISION
    row = row if fresh else replace(row, seen_at=now)
    if words.digest == row.words.digest:
        return replace(row, pending=None)
    if trust:
        return replace(row, words=words, pending=None)
    if row.pending is not None and row.pending.digest == words.digest:
        return row
    return replace(row, pending=words)


def _name(
    words: Words,
    runtime: str,
    ref: str,
    names: Collection[str],
    taken: Mapping[str, tuple[str, str]],
) -> str:
    others = {name for name, holder in taken.items() if holder != (runtime, ref)}
    said = "agent" if steers(words.native_name) else words.native_name
    return slug(said, others.union(names), runtime)


def accepted(row: CatalogueRow) -> CatalogueRow:
    """The row with its newer words taken."""
    return row if row.pending is None else replace(row, words=row.pending, pending=None)
