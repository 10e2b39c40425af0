"""Where a harness runs in these tests: a namespace, a scripted model, our server, an agent."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.canary import canary, keep
from tests.capabilities import ROOT
from tests.harnesses.namespace import Namespace
from tests.models.script import Shown
from tests.models.server import recorded
from tests.processes import Processes

LAP_MCP = Path(sys.executable).parent / "lap-mcp"
RUN_DEADLINE = 180.0
"""Seconds for one run of a harness: a guard against hanging, never a measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """Everything is on loopback of `namespace`; `home` is the only home there is."""

    namespace: Namespace
    started: Processes
    home: Path
    project: Path
    """The folder that the harness works in."""
    record: Path
    model_port: int
    lap_config: Path

    @property
    def lap_home(self) -> Path:
        return self.home / "lap"

    @property
    def temporary(self) -> Path:
        folder = self.home / "tmp"
        folder.mkdir(exist_ok=True)
        return folder

    @property
    def server_log(self) -> Path:
        return self.home / "server.log"

    def server_command(self) -> Path:
        """`lap-mcp`, with what it says on stderr kept for when a test fails."""
        command = self.home / "lap-mcp"
        command.write_text(f'#!/bin/sh\nexec {LAP_MCP} "$@" 2>>{self.server_log}\n')
        command.chmod(0o755)
        return command

    @property
    def lap_environment(self) -> Mapping[str, str]:
        """What our server is given on top of what the harness hands on."""
        return {"LAP_CONFIG": str(self.lap_config), "LAP_HOME": str(self.lap_home)}

    @property
    def clean_environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "LANG": "C.UTF-8",
            "TERM": "dumb",
        }

    def run(self, command: Sequence[str | Path], environment: Mapping[str, str]) -> str:
        """One run of a harness to its end; what it printed.

        Raises:
            AssertionError: it failed, with what it said.
        """
        process = self.started.start(
            self.namespace.command(command),
            env={**self.clean_environment, **environment},
            cwd=self.project,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            out, err = process.communicate(timeout=RUN_DEADLINE)
        finally:
            self.started.end(process)
        keep(out)
        keep(err)
        said = out.decode(errors="replace")
        assert process.returncode == 0, self._what_happened(said, err.decode(errors="replace"))
        return said

    def _what_happened(self, out: str, err: str) -> str:
        log = self.server_log.read_text() if self.server_log.exists() else ""
        parts = {"its end": out[-1500:], "its stderr": err[-1500:], "our server's": log[-3000:]}
        return "\n".join(f"--- {name}\n{text}" for name, text in parts.items())

    def lap(self, *arguments: str) -> str:
        """A `lap-mcp` command beside the running server, on the same LAP_HOME."""
        done = subprocess.run(
            self.namespace.command([LAP_MCP, *arguments]),
            env={**self.clean_environment, **self.lap_environment},
            cwd=self.home,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        keep(done.stdout + done.stderr)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def add_agent(self, name: str) -> None:
        """One more agent, on the runtime that has none yet, while the server runs."""
        self.lap("agents", "add", name, "--runtime", "second")

    def shown(self) -> list[Shown]:
        """What the model was shown, request by request; requests without tools left out."""
        return [request for request in recorded(self.record) if request.tools]


def start_model(started: Processes, namespace: Namespace, record: Path) -> int:
    """The scripted model; its port."""
    return _start_serving(
        started, namespace, ["-m", "tests.models.server", "--record", str(record)]
    )


def start_agent(started: Processes, namespace: Namespace, port: int) -> None:
    """The example A2A agent."""
    _start_serving(
        started,
        namespace,
        ["examples/a2a_agent.py", "--port", str(port), "--token-env", "AGENT_TOKEN"],
    )


def _start_serving(started: Processes, namespace: Namespace, program: Sequence[str]) -> int:
    """Start a Python program that says `serving http://127.0.0.1:PORT`; the port."""
    process = started.start(
        namespace.command([sys.executable, *program]),
        env={**os.environ, "PYTHONPATH": str(ROOT), "AGENT_TOKEN": canary("a2a")},
        cwd=ROOT,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    said = process.stdout.readline().decode()
    assert said.startswith("serving http://"), f"{program} said {said!r}"
    return int(said.rpartition(":")[2])
