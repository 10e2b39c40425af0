"""Gives pyplot our backend the moment it is imported, whoever imports it.  A setting would do the
same and reach the processes that the user's code starts, which do not have that backend."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_NAME = "matplotlib.pyplot"
_BACKEND = "module://lap_sandbox.runner.backend"


class _Switching(Loader):
    """Loads pyplot as it is, then chooses the backend."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        module.switch_backend(_BACKEND)


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != _NAME:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Switching(spec.loader)
        return spec


def install() -> None:
    sys.meta_path.insert(0, _Finder())
