"""Agents that call agents: a credential that lets the agent of a running turn call this server.

It stands for the turn's principal, works only while that turn runs, and carries the chain of agents
that led to it, so that depth and cycles hold across processes: whoever has nothing else cannot call
without it.  Signed with a key of this `LAP_HOME`; nothing is stored.  A caller that holds an
ordinary key as well is that key's owner, and no chain is known of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import anyio.to_thread

from lap_mcp.errors import NotFound
from lap_mcp.model import Origin, Principal

from .services import SessionsAPI
from .signed_links import link_key
from .signed_text import content_of, signed_text

PREFIX = "lap-nested-"
"""How it is told from other keys."""
MAX_TOKEN = 4096

_PURPOSE = b"lap-mcp nested call 1\0"


class Nested:
    """Makes credentials and recognises them.  `key` is asked once, in a thread."""

    def __init__(self, key: Callable[[], bytes]) -> None:
        self._ask = key
        self._key: bytes | None = None

    @classmethod
    def of_home(cls, home: Path) -> Nested:
        return cls(lambda: link_key(home))

    async def make(self, origin: Origin, agent: str, session_id: str, turn_id: str) -> str:
        """For the agent of one turn.  Raises: ConfigError, if the key cannot be used."""
        said = {
            "principal": [origin.principal.id, origin.principal.kind],
            "chain": [*origin.chain, agent],
            "session": session_id,
            "turn": turn_id,
        }
        signed = json.dumps(said, separators=(",", ":")).encode()
        return PREFIX + signed_text(signed, await self._signing_key(), _PURPOSE)

    async def principal(self, token: str, sessions: SessionsAPI) -> Principal | None:
        """Whose it is, with its chain; `None` for what is not ours, or whose turn does not run."""
        if not token.startswith(PREFIX) or len(token) > MAX_TOKEN:
            return None
        key = await self._signing_key()
        body = content_of(token.removeprefix(PREFIX), key, _PURPOSE)
        if body is None:
            return None
        said = json.loads(body)
        identity, kind = said["principal"]
        principal = Principal(id=identity, kind=kind, chain=tuple(said["chain"]))
        try:
            turn = await sessions.turn(principal, said["session"], said["turn"])
        except NotFound:
            return None
        return None if turn.ended else principal

    async def _signing_key(self) -> bytes:
        if self._key is None:
            self._key = await anyio.to_thread.run_sync(self._ask)
        return self._key
