"""Servers of fault tests and a look into their store from outside."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.canary import canary
from tests.processes import Processes

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@dataclass
class Lab:
    """A home, an example A2A agent, and server processes on both."""

    home: Path
    url: str
    started: Processes

    def server(self, count: int = 0, prompt: str = "") -> Server:
        command = [sys.executable, "-P", HERE / "server.py", self.home, self.url]
        process = self.started.start(
            [*command, str(count), prompt] if count else command,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/runtimes:{ROOT}/sandbox"},
        )
        assert process.stdout is not None
        turns = json.loads(process.stdout.readline())
        return Server(process, [(session, turn) for session, turn in turns])

    def query(self, sql: str, *values: object) -> Sequence[sqlite3.Row]:
        with sqlite3.connect(self.home / "lap.db", timeout=10) as connection:
            connection.row_factory = sqlite3.Row
            rows = connection.execute(sql, values).fetchall()
        connection.close()
        return rows

    def outcome(self, turn_id: str) -> str:
        return str(self.query("SELECT outcome FROM turns WHERE id = ?", turn_id)[0]["outcome"])

    def events(self, session_id: str) -> Sequence[tuple[int, str, dict[str, Any]]]:
        rows = self.query("SELECT * FROM events WHERE session_id = ? ORDER BY seq", session_id)
        return [(row["seq"], row["type"], json.loads(row["payload"])) for row in rows]

    def said(self, session_id: str) -> Sequence[tuple[str, dict[str, Any]]]:
        """What the agent said and made, without what differs from run to run."""
        kept = []
        for _, kind, payload in self.events(session_id):
            if kind in ("agent.message", "agent.file"):
                shown = {k: v for k, v in payload.items() if k not in ("id", "uri")}
                kept.append((kind, shown))
        return kept


@dataclass
class Server:
    process: subprocess.Popen[bytes]
    turns: Sequence[tuple[str, str]]


def eventually(condition: Callable[[], object], within: float = 30.0) -> None:
    give_up = time.monotonic() + within
    while not condition():
        assert time.monotonic() < give_up, "it did not come true in time"
        time.sleep(0.05)


@pytest.fixture
def lab(tmp_path: Path, started: Processes) -> Lab:
    agent = started.start(
        [sys.executable, "-P", ROOT / "examples" / "a2a_agent.py", "--port", "0"]
        + ["--token-env", "AGENT_TOKEN"],
        stdout=subprocess.PIPE,
        env={**os.environ, "AGENT_TOKEN": canary("a2a")},
    )
    assert agent.stdout is not None
    url = agent.stdout.readline().decode().split()[-1]
    home = tmp_path / "home"
    home.mkdir()
    secret = tmp_path / "agent.secret"  # for those whose HOME this is
    secret.write_text(canary("a2a"))
    secret.chmod(0o600)
    return Lab(home, url, started)
