"""Running the recorded cells of a sandbox again, up to the first that shows something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import anyio
from lap_sandbox.base import Execution, ExecutionError, FileInfo

from lap_mcp.store import cells
from lap_mcp.store.cells import Cell
from lap_mcp.store.database import Database

from .cell_record import MAX_CODE, Recorder, digest
from .sandbox_entry import Entry


@dataclass(slots=True)
class Replayed:
    words: str
    files: dict[str, FileInfo] = field(default_factory=dict)
    """What the cells made, by path."""
    stopped: Execution | None = None
    """The outcome where it ended early; nothing more was run."""


async def replay(entry: Entry, database: Database, recorder: Recorder, timeout: float) -> Replayed:
    """Bring back the variables of a sandbox whose container was replaced.

    Args:
        timeout: seconds for all cells together.
    Raises:
        SandboxGone, StoreError
    """
    if not entry.cold:
        return Replayed("Its variables are still there: nothing was replayed.")
    await recorder.flush()
    recorded = await database.read(lambda connection: cells.of_sandbox(connection, entry.id))
    if [cell.number for cell in recorded] != list(range(1, entry.number + 1)):
        return _refused(
            f"of its {entry.number} cells {len(recorded)} are recorded (the newest "
            f"{cells.KEPT}, each up to {MAX_CODE // 1024} kB, while there is room)"
        )
    todo = [cell for cell in recorded if cell.repeats]
    if entry.ran:
        await entry.sandbox.reset()
    entry.ran = True
    done = await _again(entry, todo, timeout)
    if done.stopped is None:
        entry.cold = False
    return done


async def _again(entry: Entry, todo: Sequence[Cell], timeout: float) -> Replayed:
    done = Replayed("")
    end = anyio.current_time() + timeout
    for place, cell in enumerate(todo, 1):
        left = end - anyio.current_time()
        where = f"Replay stopped at cell {place} of {len(todo)} (its number was {cell.number})"
        if left <= 0:
            return _stopped(done, None, f"{where}: {timeout:g} s were over.")
        execution = await entry.sandbox.execute(cell.code, timeout=left)
        done.files.update({info.path: info for info in execution.files})
        entry.dirty = entry.dirty or execution.files_more
        if digest(execution) != cell.digest:
            why = "it showed something else than the first time"
            if execution.status not in ("ok", "error"):
                why = execution.notice or f"it ended as {execution.status}"
            return _stopped(done, execution, f"{where}: {why.rstrip('.')}.")
    count = len(todo)
    done.words = (
        f"Replayed {count} recorded cell{'s' if count != 1 else ''} with the same results: "
        "variables are as they were."
    )
    return done


def _stopped(done: Replayed, last: Execution | None, words: str) -> Replayed:
    told = f"{words} The code of this call was not run; call without replay to go on from here."
    last = last or Execution(id="exe_replay", status="error")
    # Whatever ended the interpreter is said as it was; else the call failed with these words.
    error = last.error or ExecutionError(name="ReplayStopped", value=words, traceback="")
    status = "error" if last.status == "ok" else last.status
    done.words = told
    done.stopped = replace(last, status=status, error=error, files=tuple(done.files.values()))
    return done


def _refused(why: str) -> Replayed:
    return _stopped(Replayed(""), None, f"Nothing was replayed: {why}.")
