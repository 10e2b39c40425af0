"""Executions recorded behind the answer: many in one write, a second later at most.

A server that is killed loses the cells of its last second; a replay then ends before them.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import anyio
import anyio.to_thread
from lap_sandbox.base import Execution, Output
from sqlalchemy import Connection

from lap_mcp.clock import Clock
from lap_mcp.errors import LapError, LeaseLost, StoreError
from lap_mcp.store import cells, sandboxes
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.cells import BlobRef, Cell
from lap_mcp.store.codec import dump
from lap_mcp.store.database import Database
from lap_mcp.store.sandboxes import Held

from .sandbox_entry import Entry
from .storable import storable

log = logging.getLogger(__name__)

PAUSE = 1.0
"""Seconds for which cells are gathered before they are written."""
MAX_CODE = 128 * 1024
"""Characters of a cell that is recorded."""
_TEXT = 32 * 1024
"""Characters of each text of a result …"""
_INLINE = 4 * 1024
"""… bytes of an output that stands in its cell's row …"""
_LARGE = 1024 * 1024
"""… and of one that is kept at all."""
_PENDING = 512
"""Cells that wait before a call waits for them to be written …"""
_PENDING_BYTES = 32 * 1024 * 1024
"""… or characters and bytes of their output."""

_ADDRESS = re.compile(r"0x[0-9a-f]{6,}")
_REPEATED = frozenset({"ok", "error"})


@dataclass(frozen=True, slots=True)
class _Pending:
    held: Held
    number: int
    code: str
    execution: Execution | None
    """`None`: only that there was one is recorded."""
    repeats: bool
    at: float


class Recorder:
    def __init__(self, database: Database, blobs: BlobStore, clock: Clock) -> None:
        self._database = database
        self._blobs = blobs
        self._clock = clock
        self._pending: list[_Pending] = []
        self._waiting = 0
        """Size of what is pending."""
        self._wake = anyio.Event()
        self._writing = anyio.Lock()

    async def run(self) -> None:
        """The background work, until it is cancelled."""
        while True:
            await self._wake.wait()
            await anyio.sleep(PAUSE)
            self._wake = anyio.Event()
            try:
                await self.flush()
            except (LapError, OSError) as error:
                log.warning("cells could not be recorded: %s", error)

    async def note(
        self, entry: Entry, code: str, execution: Execution, *, room: bool = True
    ) -> None:
        """Have an execution recorded soon.  Waits only where the store does not keep up.

        `room`: the principal may have more kept; else only that there was one is recorded, so
        that a replay knows what it lacks.
        """
        entry.number += 1
        # What fails for want of variables that a replay would bring back is no part of the story.
        repeats = execution.status in _REPEATED and not (entry.cold and execution.status != "ok")
        told = execution if room and len(code) <= MAX_CODE else None
        self._pending.append(
            _Pending(entry.held, entry.number, code, told, repeats, self._clock.now())
        )
        self._wake.set()
        self._waiting += _weight(execution)
        if len(self._pending) >= _PENDING or self._waiting >= _PENDING_BYTES:
            try:
                await self.flush()
            except StoreError as error:
                log.warning("cells could not be recorded: %s", error)
                del self._pending[: -_PENDING // 2]

    async def flush(self) -> None:
        """Write what waits.

        Raises:
            StoreError: nothing was written; it is tried again.
        """
        async with self._writing:
            taken, self._pending = self._pending, []
            self._waiting = 0
            if not taken:
                return
            try:
                made = await self._cells(taken)
                await self._database.write(lambda connection: _write(connection, made))
            except BaseException:
                self._pending = taken + self._pending
                raise

    async def _cells(self, taken: Sequence[_Pending]) -> Sequence[_Made]:
        made = await anyio.to_thread.run_sync(_made, taken)
        for number, (one, cell, large) in enumerate(made):
            if cell is not None and large:
                blobs = {
                    place: BlobRef(await self._blobs.put(data), len(data))
                    for place, data in large.items()
                }
                made[number] = (one, replace(cell, blobs=blobs), {})
        return made


def _weight(execution: Execution) -> int:
    outputs = sum(len(output.data) for output in execution.outputs)
    return outputs + len(execution.stdout) + len(execution.stderr)


_Made = tuple[_Pending, Cell | None, Mapping[int, bytes]]


def _write(connection: Connection, made: Sequence[_Made]) -> None:
    by_sandbox: dict[Held, list[tuple[_Pending, Cell | None]]] = {}
    for one, cell, _ in made:
        by_sandbox.setdefault(one.held, []).append((one, cell))
    for held, group in by_sandbox.items():
        last = group[-1][0]
        try:
            sandboxes.ran(connection, held, last.number, last.at)
        except LeaseLost as error:
            log.warning("%s; %d cells are not recorded", error, len(group))
            continue
        new = [cell for _, cell in group if cell is not None]
        if new:
            cells.add(connection, held.sandbox_id, new)


def _made(taken: Sequence[_Pending]) -> list[_Made]:
    """Off the event loop: some of them have megabytes to be hashed."""
    return [
        (one, None, {}) if one.execution is None else (one, *_recorded(one, one.execution))
        for one in taken
    ]


def _recorded(one: _Pending, execution: Execution) -> tuple[Cell, Mapping[int, bytes]]:
    large: dict[int, bytes] = {}
    outputs: list[dict[str, str]] = []
    for place, output in enumerate(execution.outputs):
        shown = {"mime": output.mime}
        if len(output.data) <= _INLINE:
            shown["base64"] = base64.b64encode(output.data).decode()
        elif len(output.data) <= _LARGE:
            large[place] = output.data
        outputs.append(shown)
    error = execution.error
    result: dict[str, Any] = {
        "stdout": _cut(execution.stdout),
        "stderr": _cut(execution.stderr),
        "value": None if execution.value is None else _cut(execution.value),
        "outputs": outputs,
    }
    if error is not None:
        result["error"] = {
            "name": error.name[:200],
            "value": _cut(error.value),
            "traceback": _cut(error.traceback),
        }
    cell = Cell(
        number=one.number,
        code=storable(one.code),
        status=execution.status,
        repeats=one.repeats,
        digest=digest(execution),
        result=result,
        at=one.at,
    )
    return cell, large


def digest(execution: Execution) -> str:
    """What tells a repeat apart: everything that the execution showed, but for addresses of
    objects, which differ from one interpreter to the next."""
    error = execution.error
    shown = [
        execution.status,
        _ADDRESS.sub("0x", execution.stdout),
        _ADDRESS.sub("0x", execution.stderr),
        None if execution.value is None else _ADDRESS.sub("0x", execution.value),
        None if error is None else [error.name, _ADDRESS.sub("0x", error.value)],
        [[output.mime, _of_output(output)] for output in execution.outputs],
    ]
    return hashlib.sha256(dump(shown).encode("utf-8", "replace")).hexdigest()


def _of_output(output: Output) -> str:
    data = output.data
    if output.mime.startswith("text/"):
        data = _ADDRESS.sub("0x", data.decode("utf-8", "replace")).encode("utf-8", "replace")
    return hashlib.sha256(data).hexdigest()


def _cut(text: str) -> str:
    """The beginning and the end."""
    if len(text) > _TEXT:
        half = _TEXT // 2
        text = f"{text[:half]}\n… {len(text) - _TEXT} characters left out …\n{text[-half:]}"
    return storable(text)
