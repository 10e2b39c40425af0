"""A stand-in for `IPython.display`, which notebooks import: shows through our own `display`.

It is asked last, so an IPython that is installed or was uploaded goes first.
"""

from __future__ import annotations

import builtins
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

_TYPES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}


class _Shown:
    """Text or data of one kind, from `data` or from the file `filename`."""

    _method = ""

    def __init__(self, data: Any = None, url: str | None = None, filename: Any = None) -> None:
        if url is not None or (isinstance(data, str) and data.startswith(("http://", "https://"))):
            raise ValueError("There is no network here: give data= or filename=.")
        if data is None and filename is None:
            raise ValueError("Give data= or filename=.")
        self.filename = filename
        self.data = self._read(Path(filename)) if data is None else data

    def _read(self, path: Path) -> Any:
        return path.read_text(encoding="utf-8")

    def __getattr__(self, name: str) -> Any:
        if self._method and name == self._method:
            return lambda **_: self.data
        raise AttributeError(name)

    def __repr__(self) -> str:
        return f"<IPython.display.{type(self).__name__}>"


class HTML(_Shown):
    _method = "_repr_html_"


class Markdown(_Shown):
    _method = "_repr_markdown_"


class Latex(_Shown):
    _method = "_repr_latex_"


class SVG(_Shown):
    _method = "_repr_svg_"


class JSON(_Shown):
    _method = "_repr_json_"


class Image(_Shown):
    """`data`: bytes of a PNG or JPEG, or the name of such a file."""

    def __init__(
        self,
        data: Any = None,
        url: str | None = None,
        filename: Any = None,
        format: str | None = None,
        **_: Any,
    ) -> None:
        if isinstance(data, (str, Path)) and Path(data).suffix.lower() in _TYPES:
            data, filename = None, data
        super().__init__(data, url, filename)
        jpeg = isinstance(self.data, bytes) and self.data.startswith(b"\xff\xd8")
        kind = (format or ("jpeg" if jpeg else "png")).lower()
        self._method = "_repr_jpeg_" if kind in ("jpg", "jpeg") else "_repr_png_"

    def _read(self, path: Path) -> bytes:
        return path.read_bytes()


def display(*values: Any, **_: Any) -> None:
    """Show each value in its richest form."""
    builtins.display(*values)  # type: ignore[attr-defined]


def clear_output(wait: bool = False) -> None:
    """Does nothing: what was shown stays."""


def get_ipython() -> None:
    """This is no IPython: there are no magics."""


_DISPLAY = (display, clear_output, HTML, Markdown, Latex, SVG, JSON, Image)


class _StandIn(MetaPathFinder, Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname == "IPython" or (fullname == "IPython.display" and self._is_ours()):
            package = fullname == "IPython"
            return importlib.util.spec_from_loader(fullname, self, is_package=package)
        return None

    def _is_ours(self) -> bool:
        spec = getattr(sys.modules.get("IPython"), "__spec__", None)
        return spec is not None and spec.loader is self

    def exec_module(self, module: ModuleType) -> None:
        if module.__name__ == "IPython":
            names: tuple[Any, ...] = (get_ipython, display)
        else:
            names = _DISPLAY
        for thing in names:
            setattr(module, thing.__name__, thing)


def install() -> None:
    """Let `import IPython` find the stand-in where nothing else has that name."""
    sys.meta_path.append(_StandIn())
