"""What is stored of agents that the configuration file does not name, and who stores it.

Rows come from `lap-mcp agents add` (`store`) and from what runtimes list (`discovery`).  Merging
them with the file is the registry's job; SQL is the store's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """What a runtime says of an agent, cleaned: the part that is pinned by hash."""

    native_name: str
    description: str = ""
    """Without the prefix that says whose words these are."""
    input_schema: Mapping[str, Any] | None = None
    output_schema: Mapping[str, Any] | None = None
    digest: str = ""
    """sha256 (hex) of what the runtime sent: name, description and schemas, before cleaning."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueRow:
    """One name that is taken, for as long as the store lives."""

    name: str
    """Primary key; given once to a (runtime, ref) and never to another."""
    runtime: str
    ref: str
    source: Literal["store", "discovery"]
    words: Words
    """What is shown: of a discovered agent the accepted words, of an added one the operator's."""
    pending: Words | None = None
    """Newer words of the runtime that nobody accepted yet: never shown to a model."""
    pinned: bool = False
    hidden: bool = False
    """`agents remove` of a discovered agent: not listed, and its name stays taken."""
    seen_at: float = 0.0
    """Seconds since the epoch when the runtime last listed it; 0: it no longer does."""


class CatalogueStore(Protocol):
    """Where rows live.  Several processes share it."""

    async def load(self) -> Sequence[CatalogueRow]:
        """Every row, hidden ones too."""
        ...

    async def save(self, row: CatalogueRow) -> None:
        """Insert, or replace the row of that name.  In one transaction.

        Raises:
            Conflict: the name is held by another (runtime, ref), or that (runtime, ref, source)
                holds another name.
        """
        ...

    async def remove(self, name: str) -> bool:
        """Forget a row and free its name.  False: there was none."""
        ...

    async def revision(self) -> int:
        """A number that is larger after each `save` and `remove` by any process.  Cheap: it is
        asked once a second."""
        ...
