"""How an execution ended, in one status and one sentence for the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from lap_sandbox.base import Execution, Status

Cause = Literal["timeout", "interrupted", "out_of_memory", "died"]

_KEPT = "Variables and files are kept."
_FRESH = "Variables and imports are lost, files in /mnt/data are kept."
_ALL_LOST = "Variables and files are lost; the next call starts in a fresh sandbox."


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What the host knows about the end; the rest is in the header of `DONE`."""

    cause: Cause | None = None
    container_lost: bool = False
    replaced: bool = True
    """Where the container was lost: another one is there."""


def _status(execution: Execution, done: Mapping[str, Any], ending: Ending) -> Status:
    if done.get("status") == "died" and not (ending.cause and done.get("interrupted") is True):
        return "out_of_memory" if done.get("oom") is True else "died"
    # An interrupt that came too late changed nothing.
    if ending.cause == "interrupted" and done and done.get("interrupted") is not True:
        return execution.status
    return ending.cause or execution.status


def _reason(status: Status, done: Mapping[str, Any], timeout: float) -> str:
    code = done.get("exit")
    how = f" (exit code {code})" if isinstance(code, int) and code >= 0 else ""
    if isinstance(code, int) and code < 0:
        how = f" (signal {-code})"
    return {
        "timeout": f"Stopped at its limit of {timeout:g} s.",
        "interrupted": "Interrupted.",
        "out_of_memory": "The sandbox ran out of memory and its interpreter was killed.",
        "died": f"The interpreter ended{how}.",
    }.get(status, "")


def finish(
    execution: Execution,
    done: Mapping[str, Any],
    ending: Ending,
    timeout: float,
    duration: float = 0.0,
) -> Execution:
    """`execution` with its status, what was lost, the sentence that says so, and how long it took
    (seconds)."""
    status = _status(execution, done, ending)
    before = done.get("lost_before") is True
    state_lost = ending.container_lost or done.get("state_lost") is True
    words = [_reason(status, done, timeout)]
    if ending.container_lost:
        words.append(_ALL_LOST if ending.replaced else "The sandbox is gone; open a new one.")
    elif before:
        words.append("The interpreter had ended since the call before, so that one began anew.")
        words.append("Variables and imports of earlier calls are lost, files are kept.")
    elif words[0]:
        words.append(_FRESH if state_lost else _KEPT)
    if status in ("ok", "error") and done.get("oom") is True:
        words.append("A process of this execution was killed: the sandbox was out of memory.")
    return replace(
        execution,
        status=status,
        state_lost=state_lost,
        files_lost=ending.container_lost,
        notice=" ".join(word for word in words if word),
        duration=duration,
    )
