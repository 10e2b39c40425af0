"""The process that imports numpy, pandas and matplotlib once, and forks workers that have them.

Until it is told to import them it forks workers without, so that a sandbox that is new need not
wait for what its first code does not use.  It never runs the user's code, and takes orders only
from the supervisor's socket.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import shutil
import socket
import sys
import warnings
from pathlib import Path
from typing import NoReturn

from lap_sandbox.runner import ipython, plotting, worker
from lap_sandbox.runner.processes import BARE, WARM, make_dumpable

FONT_CACHE = Path("/opt/lap/mpl")


def _warm() -> None:
    """Import what nearly every cell wants, and draw once so that fonts and caches are there."""
    with contextlib.suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("numpy").zeros(1).sum()
        importlib.import_module("pandas").DataFrame({"a": [1]}).describe()
        pyplot = importlib.import_module("matplotlib.pyplot")
        pyplot.plot([1, 2])
        pyplot.gcf().savefig(io.BytesIO(), format="png")
        pyplot.close("all")


def _fork(control: socket.socket, ends: list[int]) -> None:
    """Fork twice, so that the worker becomes the supervisor's child and is reaped there."""
    pid = os.fork()
    if pid == 0:
        if os.fork() != 0:
            os._exit(0)
        try:
            control.close()
            worker.run(*ends)
        finally:
            os._exit(70)
    os.waitpid(pid, 0)


def main(control_fd: int) -> NoReturn:
    """Serve orders on `control_fd`: `F` with three descriptors makes a worker, `W` imports."""
    # Before the next line, which makes this process's files in /proc root's.
    Path("/proc/self/oom_score_adj").write_text("800")
    make_dumpable(False)
    control = socket.socket(fileno=control_fd)
    ipython.install()
    plotting.install()
    config = Path(os.environ["MPLCONFIGDIR"])
    if FONT_CACHE.is_dir() and not config.exists():
        shutil.copytree(FONT_CACHE, config)
    control.sendall(BARE)
    while True:
        order, ends, _, _ = socket.recv_fds(control, 1, 3)
        if not order:
            os._exit(0)
        if order == WARM:
            _warm()
            gc.collect()
            gc.freeze()
            control.sendall(WARM)
        elif len(ends) == 3:
            _fork(control, ends)
        for end in ends:
            os.close(end)


def start(number: str) -> NoReturn:
    """The command line of a zygote: the number of its control descriptor."""
    sys.argv = [""]
    main(int(number))
