"""What the parts of the session engine share: its store, its runtimes, its owner id, its limits."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from lap_runtimes.base import Runtime

from lap_mcp.clock import Clock
from lap_mcp.model import Agent
from lap_mcp.scrub import Scrubber
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import Database

from .changes import Changes
from .driving import Drive
from .live import Hub
from .nested import Nested


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionLimits:
    """Hold in every mode."""

    turns_per_session: int = 50
    running_turns: int = 8
    """Of one principal, at the same time."""
    queue: int = 8
    """Prompts waiting in one session."""
    depth: int = 3
    """Agents calling agents."""
    question_ttl: float = 24 * 3600
    """Seconds that a question stays open."""
    prompt: int = 1024 * 1024
    """Characters of one prompt."""
    retention: float = 30 * 24 * 3600
    """Seconds that a session and its files are kept after they were last used."""
    cancel_wait: float = 10.0
    """Seconds that a runtime has to end a turn after it was told to."""


class Runtimes(Protocol):
    """The part of the registry that the engine needs."""

    def agent(self, name: str) -> Agent:
        """Raises: NotFound."""
        ...

    def runtime_for(self, agent: Agent) -> Runtime:
        """Raises: Unavailable, in words."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    database: Database
    blobs: BlobStore
    runtimes: Runtimes
    changes: Changes
    clock: Clock
    owner: str
    limits: SessionLimits
    drive: Drive
    """The path to a runtime, wrapped by governance: composed in `app.py`."""
    hub: Hub
    spawn: Callable[[Callable[[], Awaitable[None]], str], None]
    """Runs a task that belongs to the server, not to the request that caused it."""
    nested: Nested | None = None
    """Makes credentials for agents that call agents."""
    scrubber: Scrubber = field(default_factory=Scrubber)
    """Takes resolved secret values out of whatever is stored or shown."""
