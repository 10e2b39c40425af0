"""A look inside an opened engine, for tests of what it leaves behind."""

from __future__ import annotations

from lap_mcp.control.engine import Engine
from lap_mcp.control.runners import Runners
from lap_mcp.control.sessions import Sessions


def engine_of(sessions: Sessions) -> Engine:
    return sessions._engine


def runners_of(sessions: Sessions) -> Runners:
    return sessions._runners
