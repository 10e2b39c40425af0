"""What the supervisor keeps of the execution under way: its limits, streams and counts."""

from __future__ import annotations

from collections.abc import Mapping

from lap_sandbox.runner.headtail import HeadTail
from lap_sandbox.runner.processes import Counters
from lap_sandbox.runner.wire import Frame, Kind

_FROM_WORKER = (Kind.OUTPUT, Kind.VALUE, Kind.ERROR)


class Running:
    """One execution, from its `EXECUTE` to its `DONE`."""

    def __init__(self, frame: Frame, counters: Counters, *, lost: str) -> None:
        self.id = frame.id
        self.files = int(frame.header["files"])
        self.interrupted = False
        self._limits = frame.header
        self._streams: dict[int, HeadTail] = {}
        self._lost = lost
        most = int(self._limits["outputs"]) * int(self._limits["output_size"])
        self._bytes_left = most + 1024 * 1024
        self._frames_left = self._bytes_left // 1024
        self._counters = counters
        self._cpu = counters.cpu_seconds()
        self._oom = counters.oom_kills()

    def feed(self, kind: int, data: bytes) -> bytes:
        """What of `data` the host gets at once."""
        stream = self._streams.get(kind)
        if stream is None:
            head, tail = int(self._limits["head"]), int(self._limits["tail"])
            stream = self._streams[kind] = HeadTail(head, tail)
        return stream.feed(data)

    def take_tail(self, kind: int) -> bytes:
        """The end of a stream; empty where the host has it already."""
        stream = self._streams.get(kind)
        return b"" if stream is None else stream.take_tail()

    def admit(self, frame: Frame) -> bool:
        """The worker may send this, in kind and in amount.  The host checks again."""
        self._bytes_left -= len(frame.body)
        self._frames_left -= 1
        return frame.kind in _FROM_WORKER and self._bytes_left >= 0 and self._frames_left >= 0

    def summary(
        self, header: Mapping[str, object], files: list[dict[str, object]], more: bool
    ) -> dict[str, object]:
        """The header of `DONE`: what the worker or its end said, and what was seen from here.
        What is not said is `ok`, `False`, nothing or 0."""
        cpu = max(self._counters.cpu_seconds() - self._cpu, 0.0)
        whole: dict[str, object] = {"cpu": round(cpu, 6)}
        if header:
            whole.update(_checked(header))
        if self._lost:
            whole["state_lost"] = whole["lost_before"] = True
        if self.interrupted:
            whole["interrupted"] = True
        if self._counters.oom_kills() > self._oom:
            whole["oom"] = True
        for kind, stream in self._streams.items():
            if stream.dropped:
                whole["stdout_dropped" if kind == Kind.STDOUT else "stderr_dropped"] = stream.dropped
        if files:
            whole["files"] = files
        if more:
            whole["files_more"] = True
        return whole


def _checked(header: Mapping[str, object]) -> dict[str, object]:
    """Of what the worker says, the parts that exist, in their types."""
    found: dict[str, object] = {}
    if "status" in header:
        found["status"] = str(header["status"])[:16]
    if header.get("state_lost"):
        found["state_lost"] = True
    if type(header.get("exit")) is int:
        found["exit"] = header["exit"]
    dropped = header.get("outputs_dropped")
    if type(dropped) is int and dropped:
        found["outputs_dropped"] = dropped
    return found
