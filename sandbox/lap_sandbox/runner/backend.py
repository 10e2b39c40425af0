"""The matplotlib backend of the worker: Agg, whose `show()` hands figures to the caller."""

from __future__ import annotations

import importlib
from typing import Any

from lap_sandbox.runner.display import show_hooks

FigureCanvas = importlib.import_module("matplotlib.backends.backend_agg").FigureCanvasAgg


def show(*args: Any, **kwargs: Any) -> None:
    """What `pyplot.show()` calls."""
    for hook in show_hooks:
        hook(*args, **kwargs)
