"""A person with a home folder who runs `lap-mcp`: the installed script, as a process."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.canary import keep
from tests.processes import Processes

SCRIPT = Path(sys.executable).parent / "lap-mcp"
ROOT = Path(__file__).resolve().parent.parent.parent
NO_ENGINE = "unix:///nonexistent/docker.sock"
_ERA = "io.modelcontextprotocol"


class User:
    def __init__(self, folder: Path, started: Processes) -> None:
        self.started = started
        self.home = folder / "home"
        self.project = self.home / "project"
        self.data = self.home / ".local/share/lap-mcp"
        self.file = self.home / ".config/lap-mcp/lap.toml"
        self.file.parent.mkdir(parents=True)
        self.project.mkdir()
        self.environ = {
            "HOME": str(self.home),
            "PATH": os.environ["PATH"],
            "DOCKER_HOST": NO_ENGINE,
            "LAP_SANDBOX__LAUNCHER": "docker",  # and no bubblewrap instead of it
        }

    def configure(self, text: str) -> None:
        self.file.write_text(text)
        self.file.chmod(0o600)

    def run(
        self,
        *arguments: str | Path,
        given: str | None = None,
        environ: Mapping[str, str] | None = None,
        within: float = 60.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command to its end.  Without `given`, stdin is empty."""
        done = subprocess.run(
            [str(SCRIPT), *(str(part) for part in arguments)],
            input=given or "",
            capture_output=True,
            text=True,
            timeout=within,
            cwd=self.project,
            env={**self.environ, **(environ or {})},
            check=False,
        )
        keep(done.stdout)
        keep(done.stderr)
        return done

    def ok(self, *arguments: str | Path, **options: Any) -> str:
        """The output of a command that has to end with 0."""
        done = self.run(*arguments, **options)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stdio(self, *arguments: str, **options: Any) -> Stdio:
        process = self.started.start(
            [SCRIPT, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self.project,
            env=self.environ,
            **options,
        )
        return Stdio(process)

    def agent(self, *arguments: str) -> str:
        """Start the example A2A agent; its address."""
        process = self.started.start(
            [sys.executable, "-P", ROOT / "examples/a2a_agent.py", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
        )
        assert process.stdout is not None
        return process.stdout.readline().decode().split()[-1]


class Stdio:
    """A client of the stdio server that speaks the wire itself (2026-07-28, no handshake)."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self._id = 0
        self._meta = {
            f"{_ERA}/protocolVersion": "2026-07-28",
            f"{_ERA}/clientCapabilities": {},
            f"{_ERA}/clientInfo": {"name": "test", "version": "1"},
        }
        self.wire: list[str] = []
        """Every line that came."""

    def ask(self, method: str, *, within: float = 30.0, **params: Any) -> Any:
        """The result; an error is an `AssertionError`."""
        self._id += 1
        params["_meta"] = self._meta
        message = {"jsonrpc": "2.0", "id": self._id, "method": method, "params": params}
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()
        deadline = time.monotonic() + within
        while True:
            answer = json.loads(self._line(deadline))
            if answer.get("id") == self._id:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def _line(self, deadline: float) -> str:
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], deadline - time.monotonic())
        assert ready, "the server did not answer in time"
        line = self.process.stdout.readline().decode()
        assert line, f"the server ended: {self.errors()}"
        self.wire.append(line)
        keep(line)
        return line

    def tools(self) -> list[str]:
        return sorted(tool["name"] for tool in self.ask("tools/list")["tools"])

    def call(self, name: str, **arguments: Any) -> str:
        """The text of a tool's result."""
        result = self.ask("tools/call", name=name, arguments=arguments, within=60.0)
        return "\n".join(part.get("text", "") for part in result["content"])

    def errors(self) -> str:
        assert self.process.stderr is not None
        said = self.process.stderr.read().decode()
        keep(said)
        return said

    def end(self, within: float = 20.0) -> int:
        """Close stdin, as a client does; the exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(within)


@pytest.fixture
def user(tmp_path: Path, started: Processes) -> User:
    return User(tmp_path, started)
