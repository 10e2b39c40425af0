"""Programs that call our server: one program a turn, because its environment holds the turn's key.

A program that serves many turns could not be given the key of each.  So a runtime whose `env` names
`${nested}` makes a runtime of itself for every turn, and passes on to it what that turn is told.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Generic, TypeVar

import anyio
from pydantic import SecretStr

from lap_runtimes.base import Event, Ref, Runtime, Turn
from lap_runtimes.errors import Unsupported
from lap_runtimes.process import NESTED, ProcessConfig

R = TypeVar("R", bound=Runtime)


async def with_key(config: ProcessConfig, turn: Turn) -> Any:
    """The configuration of one turn's program.  Raises `Unsupported`: nobody makes keys here."""
    if turn.nested is None:
        raise Unsupported(f"{NESTED} is for agents that a server calls: there is none here")
    key = await turn.nested()
    env = {
        name: SecretStr(value.replace(NESTED, key))
        if isinstance(value, str) and NESTED in value
        else value
        for name, value in config.env.items()
    }
    return config.model_copy(update={"env": env})


class OnePerTurn(Generic[R]):
    """The runtimes of the turns that are read now."""

    def __init__(self, config: ProcessConfig, make: Callable[[Any], R]) -> None:
        self._config = config
        self._make = make
        self._running: dict[str, R] = {}

    def of(self, ref: Ref) -> R | None:
        """The one that this turn's answer or cancel is for."""
        return self._running.get(str(ref.get("turn", "")))

    async def started(self, turn: Turn) -> AsyncGenerator[Event, None]:
        """The turn, by a program of its own, which ends with it."""
        runtime = self._running[turn.id] = self._make(await with_key(self._config, turn))
        try:
            async with runtime.start(turn) as events:
                async for event in events:
                    yield event
        finally:
            self._running.pop(turn.id, None)
            with anyio.CancelScope(shield=True):
                await runtime.aclose()

    async def aclose(self) -> None:
        for runtime in list(self._running.values()):
            await runtime.aclose()

    def stream(self, turn: Turn) -> Any:
        return aclosing(self.started(turn))
