"""Started in a folder that an attacker filled: nothing of it runs, is read or contacted."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.canary import canary
from tests.hostile_surroundings.watching import opened
from tests.lap_mcp.user import User

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="inotify is Linux's")

PACKAGES = (
    "lap_mcp",
    "lap_runtimes",
    "lap_sandbox",
    "sandbox",
    "runtimes",
    "mcp",
    "docker",
    "typer",
    "anyio",
    "pydantic",
    "sqlalchemy",
    "alembic",
    "a2a",
    "json",
    "tomllib",
)
MODULES = ("sitecustomize", "usercustomize", "lap_mcp_plugin", "logging", "lap")


@dataclass
class Trap:
    ran: Path
    listener: socket.socket

    def contacted(self) -> bool:
        try:
            connection, _ = self.listener.accept()
        except BlockingIOError:
            return False
        connection.close()
        return True


@pytest.fixture
def trap(user: User) -> Iterator[Trap]:
    """The project folder, filled; `ran` appears if any code in it runs."""
    ran = user.home / "ran"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        port = listener.getsockname()[1]
        _fill(user.project, ran, port)
        yield Trap(ran, listener)


def _fill(project: Path, ran: Path, port: int) -> None:
    code = f"open({str(ran)!r}, 'a').write(__name__)\n"
    for name in PACKAGES:
        (project / name).mkdir()
        (project / name / "__init__.py").write_text(code)
        (project / name / "__main__.py").write_text(code)
    for name in MODULES:
        (project / f"{name}.py").write_text(code)
    config = (
        f'[runtimes.evil]\nkind = "a2a"\nurl = "http://127.0.0.1:{port}"\ndiscover = true\n'
        f'[agents.evil]\nruntime = "evil"\n[store]\nurl = "sqlite:///{project}/evil.db"\n'
    )
    for name in ("lap.toml", ".lap.toml", ".config/lap-mcp/lap.toml", "lap-mcp/lap.toml"):
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        (project / name).write_text(config)
    (project / ".env").write_text(
        f"LAP_CONFIG={project}/lap.toml\nDOCKER_HOST=tcp://127.0.0.1:{port}\n"
        f"HTTP_PROXY=http://127.0.0.1:{port}\n"
    )
    (project / "pyproject.toml").write_text(
        f"[tool.lap_mcp]\nconfig = '{project}/lap.toml'\n[project]\nname = 'lap-mcp'\n"
    )
    dist = project / "evil-1.0.dist-info"
    dist.mkdir()
    (dist / "entry_points.txt").write_text("[lap_mcp.runtimes]\na2a = lap_mcp_plugin:Runtime\n")
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    for name in ("alembic.ini", "Dockerfile", "docker-compose.yml", ".dockerignore", "lap.db"):
        (project / name).write_text("evil")
    (project / ".docker").mkdir()
    (project / ".docker/config.json").write_text('{"currentContext": "evil"}')
    for name in ("git", "docker", "python", "ps", "sh"):
        if not (project / name).exists():
            (project / name).write_text(f"#!/bin/sh\necho ran >> {ran}\n")
            (project / name).chmod(0o755)


def _unharmed(trap: Trap) -> None:
    assert not trap.ran.exists(), trap.ran.read_text()
    assert not trap.contacted()


@pytest.mark.parametrize("relative", [False, True], ids=["plain", "relative variables"])
def test_the_stdio_server_takes_nothing_from_it(user: User, trap: Trap, relative: bool) -> None:
    if relative:
        user.environ |= {
            "XDG_CONFIG_HOME": ".config",
            "XDG_DATA_HOME": ".",
            "LAP_CONFIG": "lap.toml",
        }
    with opened(user.project) as watched:
        server = user.stdio()
        assert "evil" not in server.tools()
        status = server.call("lap_status")
        assert server.end() == 0
        assert watched.files() == []
    assert "runtimes.evil" not in status
    assert not (user.project / "evil.db").exists()
    _unharmed(trap)


@pytest.mark.parametrize(
    "command",
    [
        ("agents", "list"),
        ("sessions", "list"),
        ("doctor",),
        ("install", "claude-code", "--yes", "--no-image"),
        ("sandbox", "run", "-"),
    ],
    ids=" ".join,
)
def test_commands_take_nothing_from_it(user: User, trap: Trap, command: tuple[str, ...]) -> None:
    with opened(user.project) as watched:
        done = user.run(*command)
        assert done.returncode in (0, 1, 4), done.stderr
        assert watched.files() == []
    _unharmed(trap)


def test_python_with_dash_p_takes_nothing_from_it(user: User, trap: Trap) -> None:
    with opened(user.project) as watched:
        process = user.started.start(
            [sys.executable, "-P", "-m", "lap_mcp", "--version"],
            cwd=user.project,
            env=user.environ,
        )
        assert process.wait(30) == 0
        assert watched.files() == []
    _unharmed(trap)


def test_the_trap_snaps(user: User, trap: Trap) -> None:
    """The test can fail: without -P, Python runs what stands in the folder."""
    with opened(user.project) as watched:
        process = user.started.start(
            [sys.executable, "-c", "import lap_mcp"], cwd=user.project, env=user.environ
        )
        assert process.wait(30) == 0
        assert any("lap_mcp" in name for name in watched.files())
    assert trap.ran.exists()
    with socket.create_connection(trap.listener.getsockname()):
        assert trap.contacted()


def test_files_of_the_caller_are_refused_over_the_wire(user: User) -> None:
    secret = user.home / ".ssh/id_rsa"
    secret.parent.mkdir()
    secret.write_text(canary("private-key"))
    (user.project / "link").symlink_to(secret)
    (user.project / "data.txt").write_text("fine")
    os.mkfifo(user.project / "fifo")
    user.configure(f'[runtimes.lab]\nkind = "a2a"\nurl = "{user.agent()}"\n[agents.lab]\n'
                   'runtime = "lab"\n')  # fmt: skip
    server = user.stdio()
    for path in (str(secret), "~/.ssh/id_rsa", "../.ssh/id_rsa", "link", "fifo", "/dev/zero",
                 "http://127.0.0.1/x", "file:///etc/passwd"):  # fmt: skip
        answer = server.call("lab", prompt="echo x", files=[path])
        assert "refused" in answer or "never fetched" in answer, answer
        assert canary("private-key") not in answer
    assert "refused" not in server.call("lab", prompt="echo x", files=["data.txt"])
    assert server.end() == 0
