"""How an execution ended, in one status and one sentence for the caller."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from lap_sandbox.base import Status

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


NO_ENDING = Ending()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What an `Execution` says of its end."""

    status: Status
    state_lost: bool = False
    files_lost: bool = False
    notice: str = ""
    duration: float = 0.0


def _status(raised: bool, done: Mapping[str, Any], ending: Ending) -> Status:
    by_itself: Status = "error" if raised else "ok"
    if done.get("status") == "died" and not (ending.cause and done.get("interrupted") is True):
        return "out_of_memory" if done.get("oom") is True else "died"
    # An interrupt that came too late changed nothing.
    if ending.cause == "interrupted" and done and done.get("interrupted") is not True:
        return by_itself
    return ending.cause or by_itself


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


def outcome(
    raised: bool, done: Mapping[str, Any], ending: Ending, timeout: float, duration: float
) -> Outcome:
    """The status of an execution, what was lost, and the sentence that says so.

    `raised`: the code ended in an error; `duration` in seconds.
    """
    if len(done) <= 1 and ending is NO_ENDING and "cpu" in done:  # nothing but its CPU time is said
        return Outcome(status="error" if raised else "ok", duration=duration)
    status = _status(raised, done, ending)
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
    return Outcome(
        status=status,
        state_lost=state_lost,
        files_lost=ending.container_lost,
        notice=" ".join(word for word in words if word),
        duration=duration,
    )
