"""The example agent, a real A2A agent, as a module."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from tests.capabilities import ROOT


def example_agent() -> Any:
    """The module `examples/a2a_agent.py`, which is not on any path."""
    name = "example_a2a_agent"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / "a2a_agent.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]
