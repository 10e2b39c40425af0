"""The runners of this process: started, found, told what to do, ended with the server.

A session that this process does not drive is told through the `commands` table, or driven from
here if nobody does.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

import anyio
import anyio.to_thread
from sqlalchemy import Connection

from lap_mcp.clock import new_id
from lap_mcp.errors import LapError, NotFound, Unavailable
from lap_mcp.store import commands, leases, owners, turns
from lap_mcp.store.commands import Command
from lap_mcp.store.driving import Next, begin_next
from lap_mcp.store.leases import Lease
from lap_mcp.store.turns import TurnRecord
from lap_mcp.store.waiting import Unattended, unattended

from .engine import Engine
from .jobs import opening
from .polling import until
from .runner import Runner

log = logging.getLogger(__name__)

_LEAVE = 8.0
"""Seconds that turns have to end when the server stops."""
_A_DAY = 24 * 3600.0
"""Seconds that a turn waits for a server that has its agent, where no deadline of it is known."""


class Runners:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._runners: dict[str, Runner] = {}
        self._leaving = False
        self._left: set[str] = set()
        """Sessions of agents that cannot be used here: left to a server that can."""

    def __len__(self) -> int:
        return len(self._runners)

    def find(self, session_id: str) -> Runner | None:
        return self._runners.get(session_id)

    def run(
        self,
        lease: Lease,
        turn_id: str,
        *,
        adopted: bool = False,
        record: TurnRecord | None = None,
    ) -> Runner:
        """Drive a turn, and those queued behind it, in a task of the server.  `record`: the turn's,
        if it was read under this lease."""
        before = self._runners.get(lease.session_id)
        runner = Runner(self.engine, lease, turn_id, adopted=adopted, record=record, before=before)
        self._runners[lease.session_id] = runner
        if self._leaving:
            runner.leave()

        async def run() -> None:
            try:
                await runner.run()
            finally:
                if self._runners.get(lease.session_id) is runner:
                    del self._runners[lease.session_id]

        self.engine.spawn(run, f"session {lease.session_id}")
        return runner

    async def dead(self) -> Collection[str]:
        """Owners that hold leases and surely ended."""
        holders = await self.engine.database.read(owners.holders)
        return await anyio.to_thread.run_sync(
            lambda: [owner.id for owner in holders if owner.pid == 0 or owners.gone(owner)]
        )

    async def tell(self, session_id: str, kind: commands.Kind, payload: Mapping[str, Any]) -> int:
        """Leave word for the process that drives the session; the word's number."""
        command = Command(session_id, kind, payload)
        now = self.engine.clock.now()
        return await self.engine.database.write(
            lambda connection: commands.give(connection, command, now)
        )

    async def seize(self, session_id: str) -> tuple[Lease, str] | None:
        """The session's lease, if nobody alive holds it, and the turn that runs or waits."""
        dead = await self.dead()
        now = self.engine.clock.now()

        def query(connection: Connection) -> tuple[Lease, str] | None:
            current = turns.current(connection, session_id)
            if current is None:
                return None
            lease = leases.take(connection, session_id, self.engine.owner, now, dead)
            return None if lease is None else (lease, current)

        return await self.engine.database.write(query)

    async def adopt(self) -> int:
        """Drive what nobody drives: turns of processes that ended, prompts left in a queue."""
        if self._leaving:
            return 0
        now = self.engine.clock.now()
        found = await self.engine.database.read(unattended)
        open_ = [entry for entry in found if entry.session_id not in self._runners]
        self._left.intersection_update(entry.session_id for entry in open_)
        if not open_:
            return 0
        dead = set(await self.dead())
        adopted = 0
        for entry in open_:
            free = entry.owner is None or entry.owner in dead or entry.until < now
            if free and self._is_ours(entry, now):
                adopted += await self._adopt(entry.session_id, dead, held=entry.owner is not None)
        return adopted

    def _is_ours(self, entry: Unattended, now: float) -> bool:
        """Whether its agent can be used here, or its time is over and it only has to be ended."""
        patience = _A_DAY
        try:
            agent = self.engine.runtimes.agent(entry.agent)
            patience = agent.deadline
            self.engine.runtimes.runtime_for(agent)
        except (NotFound, Unavailable) as error:
            if entry.since + patience < now:
                return True
            if entry.session_id not in self._left:
                self._left.add(entry.session_id)
                log.warning("session %s is left to a server that has its agent: %s",
                            entry.session_id, error)  # fmt: skip
            return False
        return True

    async def _adopt(self, session_id: str, dead: Collection[str], *, held: bool) -> int:
        now = self.engine.clock.now()

        def query(connection: Connection) -> tuple[Lease, Next, bool] | None:
            lease = leases.take(connection, session_id, self.engine.owner, now, dead)
            if lease is None:
                return None
            open_ = [turn for turn, _ in turns.open_turns(connection, session_id)]
            if open_ and open_[0].outcome == "requires_action" and not held:
                leases.free(connection, lease)
                return None
            if open_ and open_[0].outcome != "queued":
                return lease, Next((), open_[0].id), True
            return lease, begin_next(connection, lease, opening, now), False

        found = await self.engine.database.write(query)
        if found is None:
            return 0
        lease, following, begun = found
        if following.turn_id is None:
            return 0
        log.info("session %s: nobody drives it, taking it over", session_id)
        self.engine.hub.get(session_id).publish(following.stored)
        self.run(lease, following.turn_id, adopted=begun)
        return 1

    async def consume(self) -> None:
        """Do what other processes asked of the sessions that are driven here."""
        if not await self.engine.database.read(
            lambda connection: commands.waiting(connection, self.engine.owner)
        ):
            return
        taken = await self.engine.database.write(
            lambda connection: commands.take(connection, self.engine.owner, tuple(self._runners))
        )
        for command in taken:
            runner = self._runners.get(command.session_id)
            if runner is not None:
                self.engine.spawn(_Told(runner, command).do, f"{command.kind} {command.session_id}")

    async def renew(self) -> None:
        """Keep our leases; stop runners whose lease somebody else took."""
        ours = tuple(self._runners.items())
        if not ours:
            return
        now = self.engine.clock.now()
        held = await self.engine.database.write(
            lambda connection: leases.renew(
                connection, self.engine.owner, [session_id for session_id, _ in ours], now
            )
        )
        for session_id, runner in ours:
            if held.get(session_id) != runner.leased.lease.fence:
                runner.lose()

    async def leave(self) -> None:
        """The server stops: hand on what can go on without it, end the rest in words."""
        self._leaving = True
        for runner in tuple(self._runners.values()):
            runner.leave()
        with anyio.move_on_after(_LEAVE, shield=True):
            await until(lambda: not self._runners, _LEAVE)
        for runner in tuple(self._runners.values()):
            runner.lose()


class _Told:
    """One command of another process, done here; what fails is logged, the asker's wait ends."""

    def __init__(self, runner: Runner, command: Command) -> None:
        self._runner = runner
        self._command = command

    async def do(self) -> None:
        from .directing import answer_in_stream, cancel, steer

        payload = self._command.payload
        try:
            match self._command.kind:
                case "cancel" if payload["turn"] == self._runner.turn_id:
                    await cancel(self._runner)
                case "cancel":
                    log.info("turn %s had ended before it was cancelled", payload["turn"])
                case "answer":
                    await answer_in_stream(
                        self._runner, payload["question"], payload["answer"], payload["by"]
                    )
                case "steer" if payload["turn"] == self._runner.turn_id:
                    await steer(self._runner, payload["text"], payload["id"])
                case "steer":
                    log.info("turn %s had ended before it was steered", payload["turn"])
        except LapError as error:
            log.warning("%s of session %s: %s", self._command.kind,
                        self._command.session_id, error)  # fmt: skip


def owner_id() -> str:
    return new_id("own")


def unreachable_driver(session_id: str) -> Unavailable:
    return Unavailable(
        f"The process that drives session {session_id} does not react.",
        remedy="It may be stopped; once its lease has run out (15 s), try again.",
    )
