"""The example of a third party's runtime: installed, found by its entry point, called, refused."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.canary import canary
from tests.lap_mcp.user import ROOT, User

EXAMPLE = ROOT / "examples" / "third_party_runtime"


class Parrot(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[tuple[str | None, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Parrot

    def do_POST(self) -> None:
        said = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.headers["Authorization"], said))
        words = said["text"].upper() if said["loud"] else said["text"]
        lines: list[Any] = [{"word": words[:2]}, {"mood": "fine"}, {"word": words[2:]}]
        if "hawk" in said["text"]:
            lines.append({"failed": "flew away"})
        elif "lost" not in said["text"]:
            lines.append({"said": words})
        body = "".join(json.dumps(line) + "\n" for line in lines).encode()
        self._send(body)

    def do_GET(self) -> None:
        self._send(b"{}")

    def _send(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def parrot() -> Iterator[Parrot]:
    with Parrot() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where pip put the example; from this clone alone, without a network."""
    folder = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", folder, EXAMPLE],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def owner(user: User, installed: Path, parrot: Parrot) -> User:
    """A user who installed it, and configured it."""
    user.environ |= {"PYTHONPATH": str(installed), "PARROT_TOKEN": canary("a2a")}
    user.configure(
        f"""
[runtimes.cage]
kind = "parrot"
url = "{parrot.url}"
auth = {{ bearer = "env:PARROT_TOKEN" }}
loud = true
max_turns = 1
[agents.polly]
runtime = "cage"
ref = "parrot"
"""
    )
    return user


def call(owner: User, prompt: str) -> Any:
    return json.loads(owner.run("agents", "call", "polly", prompt, "--json").stdout)


def test_it_is_found_by_its_entry_point_and_does_a_turn(owner: User, parrot: Parrot) -> None:
    assert call(owner, "hello you")["answer"] == "HELLO YOU"
    ((credential, said),) = parrot.asked
    assert credential == f"Bearer {canary('a2a')}"
    assert said == {"text": "hello you", "loud": True}


def test_what_goes_wrong_is_told_as_with_a_kind_of_ours(owner: User) -> None:
    assert "flew away" in json.dumps(call(owner, "a hawk"))
    assert "closed the stream before the turn ended" in json.dumps(call(owner, "get lost"))


def test_its_own_settings_are_validated_and_a_machine_without_it_says_what_is_known(
    owner: User,
) -> None:
    owner.configure(owner.file.read_text().replace("loud = true", "lout = true"))
    wrong = owner.run("doctor")
    owner.configure(owner.file.read_text().replace("lout = true", ""))
    del owner.environ["PYTHONPATH"]
    missing = owner.run("doctor")

    assert "lout" in wrong.stdout + wrong.stderr
    assert "no runtime kind 'parrot'" in missing.stdout + missing.stderr
