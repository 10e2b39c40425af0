"""What the supervisor keeps of the execution under way: its limits, streams and counts."""

from __future__ import annotations

from collections.abc import Mapping

from lap_sandbox.runner import wire
from lap_sandbox.runner.headtail import HeadTail
from lap_sandbox.runner.printed import Printed, Whole
from lap_sandbox.runner.processes import Counters
from lap_sandbox.runner.wire import Frame, Kind

_NAMES = {Kind.STDOUT: "stdout", Kind.STDERR: "stderr"}
_FROM_WORKER = (Kind.OUTPUT, Kind.VALUE, Kind.ERROR)

REHEARSAL = Frame(
    Kind.EXECUTE,
    0,
    {"head": 0, "tail": 0, "outputs": 0, "output_size": 0, "files": 0},
    b"import numpy, pandas, matplotlib.pyplot\n1 + 1\n",
)
"""What a worker runs before the user's first code.  No id of the host's: it hears nothing of it."""


class Running:
    """One execution, from its `EXECUTE` to its `DONE`.

    `still`: nothing ran since the counters were read last, so that they need not be read again.
    """

    def __init__(
        self,
        frame: Frame,
        counters: Counters,
        printed: Printed,
        *,
        lost: str = "",
        still: bool = False,
    ) -> None:
        self.id = frame.id
        self.files = int(frame.header["files"])
        self.interrupted = False
        self._limits = frame.header
        self._streams: dict[int, HeadTail] = {}
        self._printed = printed
        self._wholes: dict[int, Whole] = {}
        self._left: dict[str, dict[str, object]] = {}
        self._lost = lost
        most = int(self._limits["outputs"]) * int(self._limits["output_size"])
        self._bytes_left = most + 1024 * 1024
        self._frames_left = self._bytes_left // 1024
        self._counters = counters
        if not still:
            counters.read()
        self._cpu, self._oom = counters.cpu, counters.oom

    def feed(self, kind: int, data: bytes) -> bytes:
        """What of `data` the host gets at once."""
        stream = self._streams.get(kind)
        if stream is None:
            stream = self._open(kind)
        self._wholes[kind].feed(data)
        return stream.feed(data)

    def _open(self, kind: int) -> HeadTail:
        limits = self._limits
        name = _NAMES[kind]
        self._wholes[kind] = Whole(
            self._printed,
            kind,
            short=int(limits.get(f"{name}_short", 0)),
            most=int(limits.get("whole", 0)),
        )
        stream = self._streams[kind] = HeadTail(int(limits["head"]), int(limits["tail"]))
        return stream

    def tails(self) -> list[tuple[int, bytes]]:
        """No more comes: the end of each stream; empty where the host has it already."""
        for kind, whole in self._wholes.items():
            if (left := whole.end()) is not None:
                self._left[_NAMES[kind]] = left
        if self._left:
            self._printed.next()
        return [(kind, stream.take_tail()) for kind, stream in self._streams.items()]

    def admit(self, frame: Frame) -> bool:
        """The worker may send this, in kind and in amount.  The host checks again."""
        self._bytes_left -= len(frame.body)
        self._frames_left -= 1
        return frame.kind in _FROM_WORKER and self._bytes_left >= 0 and self._frames_left >= 0

    def summary(
        self, header: Mapping[str, object], files: list[dict[str, object]], more: bool
    ) -> bytes:
        """The header of `DONE`: what the worker or its end said, and what was seen from here.
        What is not said is `ok`, `False`, nothing or 0."""
        self._counters.read()
        cpu = max(self._counters.cpu - self._cpu, 0.0)
        oom = self._counters.oom > self._oom
        said = header or files or more or oom or self._streams or self._lost or self.interrupted
        if not said:
            return b'{"cpu":%.6f}' % cpu
        whole: dict[str, object] = {"cpu": round(cpu, 6), **_checked(header)}
        if self._lost:
            whole["state_lost"] = whole["lost_before"] = True
        for name, what in (("interrupted", self.interrupted), ("oom", oom), ("files_more", more)):
            if what:
                whole[name] = True
        for kind, stream in self._streams.items():
            if stream.dropped:
                whole[f"{_NAMES[kind]}_dropped"] = stream.dropped
        if self._left:
            whole["left"] = self._left
        if files:
            whole["files"] = files
        return wire.header_bytes(whole)


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
