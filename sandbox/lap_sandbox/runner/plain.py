"""Whether code wants what the zygote imports.  A guess: to be wrong costs time and nothing else."""

from __future__ import annotations

import re
import sys

_IMPORTS = re.compile(rb"^[ \t;]*(?:import|from)[ \t]+([\w., \t]+)", re.MULTILINE)
_NAMES = re.compile(rb"\b(?:__import__|importlib|exec|runpy|subprocess|multiprocessing)\b")
_LONG = 64 * 1024


def is_plain(code: bytes) -> bool:
    """It imports nothing but modules of the standard library."""
    if len(code) > _LONG or _NAMES.search(code):
        return False
    for statement in _IMPORTS.findall(code):
        for part in statement.partition(b" import ")[0].split(b","):
            name = part.strip().partition(b".")[0].partition(b" ")[0].decode()
            if name not in sys.stdlib_module_names:
                return False
    return True
