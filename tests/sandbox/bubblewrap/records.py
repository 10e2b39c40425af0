"""What is left of sandboxes, seen from outside: files, processes and control groups."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def records_of(home: Path, instance: str) -> Mapping[str, Mapping[str, Any]]:
    """By sandbox."""
    found = {}
    for path in (home / "bubblewrap" / "running").glob("*.json"):
        record = json.loads(path.read_text())
        if record["labels"]["lap.instance"] == instance:
            found[path.stem] = record
    return found


def pids_below(pid: int) -> set[int]:
    """`pid` and everything that it started, as the host sees them."""
    found, grown = {pid}, True
    while grown:
        grown = False
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) not in found:
                try:
                    parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                except OSError:
                    continue
                if parent in found:
                    found.add(int(entry.name))
                    grown = True
    return found


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if Path(f"/proc/{pid}").exists()}
