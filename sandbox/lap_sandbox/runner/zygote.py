"""The process that imported numpy, pandas and matplotlib once, and forks workers that have them.

It never runs the user's code, and takes orders only from the supervisor's socket.
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

from lap_sandbox.runner import ipython, worker
from lap_sandbox.runner.processes import make_dumpable

FONT_CACHE = Path("/opt/lap/mpl")


def _warm() -> None:
    """Import what nearly every cell wants, and draw once so that fonts and caches are there."""
    config = Path(os.environ["MPLCONFIGDIR"])
    if FONT_CACHE.is_dir() and not config.exists():
        shutil.copytree(FONT_CACHE, config)
    with contextlib.suppress(ImportError), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("numpy").zeros(1).sum()
        importlib.import_module("pandas").DataFrame({"a": [1]}).describe()
        pyplot = importlib.import_module("matplotlib.pyplot")
        pyplot.switch_backend("module://lap_sandbox.runner.backend")
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
    """Serve orders on `control_fd`: one byte with three descriptors makes a worker."""
    # Before the next line, which makes this process's files in /proc root's.
    Path("/proc/self/oom_score_adj").write_text("800")
    make_dumpable(False)
    control = socket.socket(fileno=control_fd)
    _warm()
    ipython.install()
    gc.collect()
    gc.freeze()
    control.sendall(b"R")
    while True:
        data, ends, _, _ = socket.recv_fds(control, 1, 3)
        if not data:
            os._exit(0)
        if len(ends) == 3:
            _fork(control, ends)
        for end in ends:
            os.close(end)


def start(number: str) -> NoReturn:
    """The command line of a zygote: the number of its control descriptor."""
    sys.argv = [""]
    main(int(number))
