"""What the supervisor keeps of the execution under way: its limits, streams and counts."""

from __future__ import annotations

from lap_sandbox.runner.headtail import HeadTail
from lap_sandbox.runner.processes import Counters
from lap_sandbox.runner.wire import Frame, Kind

_FROM_WORKER = (Kind.OUTPUT, Kind.VALUE, Kind.ERROR)


class Running:
    """One execution, from its `EXECUTE` to its `DONE`."""

    def __init__(self, frame: Frame, counters: Counters, *, lost: str) -> None:
        limits = frame.header
        head, tail = int(limits["head"]), int(limits["tail"])
        self.id = frame.id
        self.files = int(limits["files"])
        self.streams = {kind: HeadTail(head, tail) for kind in (Kind.STDOUT, Kind.STDERR)}
        self.interrupted = False
        self._lost = lost
        self._bytes_left = int(limits["outputs"]) * int(limits["output_size"]) + 1024 * 1024
        self._frames_left = self._bytes_left // 1024
        self._counters = counters
        self._cpu = counters.cpu_seconds()
        self._oom = counters.oom_kills()

    def feed(self, kind: Kind, data: bytes) -> bytes:
        return self.streams[kind].feed(data)

    def admit(self, frame: Frame) -> bool:
        """The worker may send this, in kind and in amount.  The host checks again."""
        self._bytes_left -= len(frame.body)
        self._frames_left -= 1
        return frame.kind in _FROM_WORKER and self._bytes_left >= 0 and self._frames_left >= 0

    def summary(
        self, header: dict[str, object], files: list[dict[str, object]], more: bool
    ) -> dict[str, object]:
        """The header of `DONE`: what the worker or its end said, and what was seen from here.
        What is not said is `False`, nothing or 0."""
        dropped = header.get("outputs_dropped")
        whole: dict[str, object] = {
            "status": str(header.get("status"))[:16],
            "state_lost": bool(header.get("state_lost")) or bool(self._lost),
            "lost_before": bool(self._lost),
            "oom": self._counters.oom_kills() > self._oom,
            "interrupted": self.interrupted,
            "stdout_dropped": self.streams[Kind.STDOUT].dropped,
            "stderr_dropped": self.streams[Kind.STDERR].dropped,
            "outputs_dropped": dropped if isinstance(dropped, int) else 0,
            "files": files,
            "files_more": more,
            "cpu": round(max(self._counters.cpu_seconds() - self._cpu, 0.0), 6),
        }
        if header.get("exit") is not None:
            whole["exit"] = header["exit"]  # 0 too
        return {name: what for name, what in whole.items() if what or name == "exit"}
