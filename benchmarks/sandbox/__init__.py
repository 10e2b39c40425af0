"""Sandboxes beside their peers, on one engine and with one image: `scripts/bench sandbox`, or one
row by its name, as `scripts/bench sandbox-claim`.

The peers: ipykernel driven by `jupyter_client`, `llm-sandbox`, and `docker exec python -c`.  Where
a peer cannot do something, it has no row.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from benchmarks.report import Report
from benchmarks.sandbox import rows
from benchmarks.surroundings import Place

SANDBOX: Mapping[str, tuple[Callable[[Place, int], Awaitable[list[Report]]], int]] = {
    "sandbox-cold": (rows.cold, 10),
    "sandbox-claim": (rows.claim, 100),
    "sandbox-execute": (rows.execute, 5000),
    "sandbox-files": (rows.files, 5),
    "sandbox-interrupt": (rows.interrupt, 20),
    "sandbox-memory": (rows.idle, 1),
    "sandbox-many": (rows.many, 2000),
    "sandbox-churn": (rows.churn, 500),
}
"""Each with how often it does its thing."""
