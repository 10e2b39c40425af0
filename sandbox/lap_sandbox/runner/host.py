"""How PID 1 of a sandbox reaches the host: its stdio, or a socket of the host's that is mounted
into the container, which saves each frame the way through two processes of the engine."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable

from lap_sandbox.runner import wire
from lap_sandbox.runner.outgoing import Outgoing, widen
from lap_sandbox.runner.polling import Poller

STDIN, STDOUT = 0, 1


class Host:
    """`reads` and `writes` are descriptors, never the same one.

    `path`: where the host may listen.  No code of the user runs yet: nobody else is here to knock
    there.  Where the engine's machine is another one, or a security module forbids it, nobody
    answers, and stdio it is.
    """

    def __init__(self, path: str | None) -> None:
        self.reads, self.writes = STDIN, STDOUT
        self._direct = path is not None and self._knock(path)
        widen(self.reads, self.writes)

    def _knock(self, path: str) -> bool:
        knocking = socket.socket(socket.AF_UNIX)
        try:
            # Never to wait: it has listened since before this container was made.
            knocking.setblocking(False)
            knocking.connect(path)
        except OSError:
            knocking.close()
            return False
        self.reads = knocking.detach()
        self.writes = os.dup(self.reads)
        return True

    def watch(self, poller: Poller, on_frames: Callable[[], object]) -> None:
        poller.watch(self.reads, on_frames)
        if self._direct:  # then nothing but its end comes here
            poller.watch(STDIN, lambda: os._exit(0))

    def announce(self, out: Outgoing) -> None:
        """The first frame, on stdout in any case: the host reads there until it knows better."""
        header: dict[str, object] = {"protocol": wire.PROTOCOL, "python": sys.version.split()[0]}
        if self._direct:
            os.write(STDOUT, wire.encode(wire.Kind.READY, 0, {**header, "direct": True}))
        else:
            out.send(wire.Kind.READY, 0, header)
