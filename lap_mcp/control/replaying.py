"""Running the recorded cells of a sandbox again, up to the first that shows something else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import anyio
from lap_sandbox.base import Execution, ExecutionError

from lap_mcp.store import cells
from lap_mcp.store.cells import Cell
from lap_mcp.store.database import Database

from .cell_record import MAX_CODE, Recorder, digest
from .sandbox_entry import Entry


@dataclass(slots=True)
class Replayed:
    words: str
    stopped: Execution | None = None
    """The outcome where it ended early; nothing more was run."""


async def replayable(entry: Entry, database: Database, recorder: Recorder) -> Sequence[Cell] | str:
    """The cells to run again, or why there are none.  Raises: StoreError."""
    await recorder.flush()
    recorded = await database.read(lambda connection: cells.of_sandbox(connection, entry.id))
    if [cell.number for cell in recorded] != list(range(1, entry.number + 1)):
        return (
            f"of its {entry.number} cells {len(recorded)} are recorded (the newest {cells.KEPT}, "
            f"each up to {MAX_CODE // 1024} kB, while there is room)"
        )
    return [cell for cell in recorded if cell.repeats]


async def replay(entry: Entry, todo: Sequence[Cell], timeout: float) -> Replayed:
    """Run cells in a fresh interpreter.

    Args:
        timeout: seconds for all of them together.
    Raises:
        SandboxGone
    """
    done = Replayed("")
    end = anyio.current_time() + timeout
    entry.ran = True
    for place, cell in enumerate(todo, 1):
        left = end - anyio.current_time()
        where = f"Replay stopped at cell {place} of {len(todo)} (its number was {cell.number})"
        if left <= 0:
            return _stopped(done, None, f"{where}: {timeout:g} s were over.")
        execution = await entry.sandbox.execute(cell.code, timeout=left)
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
    entry.cold = False
    return done


def _stopped(done: Replayed, last: Execution | None, words: str) -> Replayed:
    told = f"{words} The code of this call was not run; call without replay to go on from here."
    last = last or Execution(id="exe_replay", status="error")
    # Whatever ended the interpreter is said as it was; else the call failed with these words.
    error = last.error or ExecutionError(name="ReplayStopped", value=words, traceback="")
    status = "error" if last.status == "ok" else last.status
    done.words = told
    done.stopped = replace(last, status=status, error=error, files=())
    return done


def refused(words: str) -> Replayed:
    return _stopped(Replayed(""), None, words)
