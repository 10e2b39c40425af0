"""One attempt to connect to an engine, in two steps with a deadline each.  Knows no engine."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.to_thread

from lap_sandbox.engine import Facts

INTRODUCTION_SECONDS = 10.0
"""For what an engine that did answer says of itself: Podman runs programs to know its version."""


class Attempt:
    """`ask` whether somebody is there, within `seconds`; then `connect`.  Both block, and run in
    threads; a client that comes when nobody waits any more is closed."""

    def __init__(
        self,
        ask: Callable[[], None],
        connect: Callable[[], tuple[Any, Facts]],
        seconds: float,
    ) -> None:
        self._ask = ask
        self._connect = connect
        self._seconds = seconds
        self._given_up = False

    async def wait(self) -> tuple[Any, Facts]:
        """
        Raises:
            TimeoutError, and whatever `ask` and `connect` raise.
        """
        run = partial(anyio.to_thread.run_sync, abandon_on_cancel=True)
        try:
            with anyio.fail_after(self._seconds):
                await run(self._ask)
            with anyio.fail_after(INTRODUCTION_SECONDS):
                return await run(self._connected)
        except BaseException:
            self._given_up = True
            raise

    def _connected(self) -> tuple[Any, Facts]:
        client, facts = self._connect()
        if self._given_up:
            client.close()
        return client, facts
