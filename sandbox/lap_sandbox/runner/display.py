"""How values are shown: bounded `repr`, the rich representations of Jupyter, figures as PNG.

Everything here runs methods of the user's objects and so may raise, loop or be interrupted.
"""

from __future__ import annotations

import base64
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator
from typing import Any, Protocol

MAX_VALUE = 64 * 1024
"""Bytes of the representation of a value."""
MAX_ITEMS = 1000
MAX_PIXELS = 8_000_000
"""A larger figure is drawn at a lower resolution."""

IMAGES = ("image/png", "image/jpeg", "image/svg+xml")
MARKUP = ("text/html", "text/markdown", "text/latex")
_METHODS = {
    "image/png": "_repr_png_",
    "image/jpeg": "_repr_jpeg_",
    "image/svg+xml": "_repr_svg_",
    "text/html": "_repr_html_",
    "text/markdown": "_repr_markdown_",
    "text/latex": "_repr_latex_",
    "application/json": "_repr_json_",
}

PLAIN = frozenset({bool, int, float, complex, str, bytes, list, tuple, dict, set, frozenset})
"""Types of values that have no rich form and whose looks are not the user's code."""

show_hooks: list[Callable[..., None]] = []
"""What `pyplot.show()` calls."""


class Outlet(Protocol):
    """Where rich outputs go."""

    def room(self) -> bool:
        """One more is accepted.  Where not, it is counted as dropped."""
        ...

    def emit(self, mime: str, data: bytes) -> None: ...


def bounded_repr(value: Any) -> str:
    """`repr(value)`, at most `MAX_VALUE` bytes; an exception in it is described instead."""
    try:
        text = _long_repr(value)
        size = len(text)
        if size > MAX_VALUE // 4:
            data = text.encode("utf-8", "backslashreplace")
            if len(data) > MAX_VALUE:
                text = data[: MAX_VALUE - 100].decode("utf-8", "ignore")
                text += f"… ({size} characters in all)"
        return text
    except (KeyboardInterrupt, MemoryError):
        raise
    except BaseException as error:  # the user's `__repr__` may raise anything at all
        return f"<{type(value).__name__} object whose repr() raised {type(error).__name__}>"


def _long_repr(value: Any) -> str:
    """As `repr`, without building what will be cut: long strings and containers are cut first."""
    kind = type(value)
    if kind in (str, bytes) and len(value) > MAX_VALUE:
        return f"{value[:MAX_VALUE]!r}… ({len(value)} in all)"
    if kind in (list, tuple, set, frozenset, dict) and len(value) > MAX_ITEMS:
        if kind is dict:
            some: Any = dict(itertools.islice(value.items(), MAX_ITEMS))
        else:
            some = kind(itertools.islice(value, MAX_ITEMS))
        return f"{some!r} … ({len(value)} items in all)"
    return repr(value)


def rich(value: Any) -> Iterator[tuple[str, bytes]]:
    """The rich representations of `value`: at most one image, one text with markup, one JSON."""
    if isinstance(value, type):
        return
    answer = _ask(value, "_repr_mimebundle_", include=None, exclude=None)
    bundle = answer if isinstance(answer, dict) else {}
    for group in (IMAGES, MARKUP, ("application/json",)):
        for mime in group:
            data = _as_bytes(mime, bundle[mime] if mime in bundle else _ask(value, _METHODS[mime]))
            if data is not None:
                yield mime, data
                break


def _ask(value: Any, name: str, **arguments: Any) -> Any:
    """What the method `name` of `value` says; a broken representation is as good as none."""
    try:
        method = getattr(value, name, None)
        result = method(**arguments) if callable(method) else None
    except Exception:  # the user's code: it may raise anything
        return None
    # Jupyter allows (data, metadata).
    return result[0] if isinstance(result, tuple) and result else result


def _as_bytes(mime: str, data: Any) -> bytes | None:
    if data is None:
        return None
    if isinstance(data, (bytes, bytearray)):
        return bytes(data)
    try:
        if mime == "application/json":
            return json.dumps(data).encode()
        if not isinstance(data, str):
            return None
        if mime in ("image/png", "image/jpeg"):
            return base64.b64decode(data, validate=False)
        return data.encode("utf-8", "backslashreplace")
    except (TypeError, ValueError, RecursionError):
        return None


class Shower:
    """Shows values and figures through `emit`, each figure once per cell."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self._shown: list[Any] = []

    def display(self, *values: Any, **_: Any) -> None:
        """Show each value in its richest form, or print its `repr`."""
        for value in values:
            if not self.show(value):
                print(bounded_repr(value))  # noqa: T201

    def show(self, value: Any) -> bool:
        """Show `value` if it has a rich form."""
        if self._is_figure(value):
            self._show_figure(value)
            return True
        found = False
        for mime, data in rich(value):
            if not found and not self._outlet.room():
                return True
            found = True
            self._outlet.emit(mime, data)
        return found

    @staticmethod
    def _is_figure(value: Any) -> bool:
        module = sys.modules.get("matplotlib.figure")
        return module is not None and isinstance(value, module.Figure)

    def _show_figure(self, figure: Any) -> None:
        self._shown.append(figure)
        if self._outlet.room():
            self._outlet.emit("image/png", png_of(figure))

    def figures(self, *_: Any, **__: Any) -> None:
        """Show the figures that are open and were not shown in this cell, then close all."""
        helpers = sys.modules.get("matplotlib._pylab_helpers")
        if helpers is None:
            return
        managers = helpers.Gcf.get_all_fig_managers()
        if not managers:
            return
        try:
            for manager in managers:
                figure = manager.canvas.figure
                if not any(figure is shown for shown in self._shown):
                    self._show_figure(figure)
        finally:
            self.close_figures()

    def close_figures(self) -> None:
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            pyplot.close("all")

    def end_cell(self) -> None:
        self._shown.clear()


def png_of(figure: Any) -> bytes:
    """`figure` drawn as PNG, with the resolution lowered where it would be huge."""
    import io

    width, height = figure.get_size_inches()
    dpi = min(figure.dpi, math.sqrt(MAX_PIXELS / max(width * height, 0.01)))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
    return buffer.getvalue()
