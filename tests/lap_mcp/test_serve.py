"""`lap-mcp serve`: a key on first start, loopback unless told more, an end in order."""

from __future__ import annotations

import json
import signal
import subprocess
import urllib.error
import urllib.request
from typing import Any

import pytest

from tests.canary import canary, keep
from tests.lap_mcp.user import SCRIPT, User

PING = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}


class Service:
    def __init__(self, user: User, *arguments: str) -> None:
        self.process: subprocess.Popen[bytes] = user.started.start(
            [SCRIPT, "serve", "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=user.project,
            env=user.environ,
        )
        assert self.process.stdout is not None
        self.words = self.process.stdout.readline().decode()
        self.url = self.words.split()[-1]
        while (line := self.process.stdout.readline()) != b"":
            self.words += line.decode()
            if b"Cursor:" in line:
                break
        keep(self.words)

    def post(self, key: str | None, **headers: str) -> tuple[int, str]:
        sent = {
            "Content-Type": "application/json",
            "Accept": "application/json, text/event-stream",
            **headers,
        }
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        request = urllib.request.Request(self.url, json.dumps(PING).encode(), sent)
        return _fetch(request)

    def get(self, path: str) -> tuple[int, str]:
        return _fetch(urllib.request.Request(self.url.removesuffix("/mcp") + path))

    def end(self) -> tuple[int, str]:
        self.process.send_signal(signal.SIGTERM)
        output, errors = self.process.communicate(timeout=30)
        keep(output)
        keep(errors)
        return self.process.returncode, errors.decode()


def _fetch(request: Any) -> tuple[int, str]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=20) as answer:
            status, text = answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            status, text = error.code, error.read().decode()
    keep(text)
    return status, text


def test_the_first_start_writes_a_key_that_clients_need(user: User) -> None:
    service = Service(user)
    file = user.data / "serve.key"
    assert file.stat().st_mode & 0o777 == 0o600
    key = file.read_text().strip()
    assert f"The key was written to {file}" in service.words
    assert "claude mcp add --transport http lap" in service.words
    assert key not in service.words
    assert user.ok("keys", "show").strip() == key
    assert service.post(key)[0] == 200
    assert service.post(None)[0] == 401
    assert service.post("wrong")[0] == 401
    assert service.post(key, Origin="http://evil.example")[0] == 403
    assert service.post(key, Host="evil.example")[0] == 421
    assert service.get("/healthz") == (200, '{"status":"ok"}')
    assert service.get("/readyz")[0] == 200
    code, errors = service.end()
    assert code == 0
    assert errors.endswith("stopped\n"), "what was opened is closed before the process ends"
    assert key not in errors
    again = Service(user)
    assert f"The key is in {file}" in again.words
    assert again.post(key)[0] == 200
    again.end()


def test_a_key_of_ones_own_is_taken_and_shown_nowhere(user: User) -> None:
    """But by `keys show`; the search after the whole run looks into everything else."""
    user.data.mkdir(parents=True)
    file = user.data / "serve.key"
    file.write_text(canary("serve-key"))
    file.chmod(0o600)
    user.configure('[logs]\nlevel = "debug"\n')
    service = Service(user)
    assert service.post(canary("serve-key"))[0] == 200
    assert service.post(canary("serve-key")[:-1])[0] == 401
    assert service.post(None, Cookie=canary("serve-key"))[0] == 401
    assert service.post(canary("serve-key"), Host="evil.example")[0] == 421
    assert user.run("serve", "--port", service.url.split(":")[2].split("/")[0]).returncode == 4
    user.run("doctor")
    service.end()


def test_a_rotated_key_replaces_the_old_one(user: User) -> None:
    service = Service(user)
    old = user.ok("keys", "show").strip()
    service.end()
    assert user.run("keys", "rotate").returncode == 2
    new = user.ok("keys", "rotate", "--yes").strip()
    assert new != old
    service = Service(user)
    assert service.post(old)[0] == 401
    assert service.post(new)[0] == 200
    service.end()


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_others_are_let_in_only_by_name(user: User, host: str) -> None:
    done = user.run("serve", "--host", host, "--port", "0")
    assert done.returncode == 2
    assert done.stderr.startswith("--host server.host: ")
    assert "allowed_hosts" in done.stderr


def test_a_port_that_is_taken_is_told(user: User) -> None:
    service = Service(user)
    port = service.url.split(":")[2].split("/")[0]
    done = user.run("serve", "--port", port)
    assert done.returncode == 4
    assert "give another --port" in done.stderr
    service.end()


@pytest.mark.parametrize(
    ("host", "address"), [("[::1]", "http://[::1]:"), ("127.0.0.2", "http://127.0.0.2:")]
)
def test_the_address_that_is_printed_is_served(user: User, host: str, address: str) -> None:
    service = Service(user, "--host", host)
    assert service.url.startswith(address)
    assert service.post(user.ok("keys", "show").strip())[0] == 200
    assert service.end()[0] == 0


def test_clients_of_every_address_are_told_a_name_that_is_served(user: User) -> None:
    user.configure('[server]\nallowed_hosts = ["LAP.example.com"]\n')
    service = Service(user, "--host", "0.0.0.0")
    assert service.url.lower().startswith("http://lap.example.com:")
    port = service.url.split(":")[2].split("/")[0]
    service.url = f"http://127.0.0.1:{port}/mcp"
    key = user.ok("keys", "show").strip()
    assert service.post(key, Host=f"lap.example.com:{port}")[0] == 200
    assert service.post(key, Host=f"0.0.0.0:{port}")[0] == 421
    assert service.end()[0] == 0


def test_an_address_that_is_not_ours_is_told_as_that(user: User) -> None:
    user.configure('[server]\nallowed_hosts = ["lap.example.com"]\n')
    done = user.run("serve", "--host", "192.0.2.1", "--port", "0")
    assert done.returncode == 4
    assert "address of this machine" in done.stderr


def test_a_key_that_others_can_read_is_no_key(user: User) -> None:
    user.data.mkdir(parents=True)
    (user.data / "serve.key").write_text(canary("serve-key"))
    (user.data / "serve.key").chmod(0o644)
    for command in (("serve", "--port", "0"), ("keys", "show")):
        done = user.run(*command)
        assert done.returncode == 2
        assert "lap-mcp keys rotate" in done.stderr


def test_a_store_that_cannot_be_used_ends_with_words(user: User) -> None:
    user.data.parent.mkdir(parents=True)
    user.data.write_text("not a folder")
    done = user.run("serve", "--port", "0")
    assert done.returncode == 2
    assert "LAP_HOME" in done.stderr


@pytest.mark.parametrize("rest", ["127.0.0.1:1/lap", "127.0.0.1:port/lap", "[::1/lap"])
def test_a_store_that_nobody_reaches_ends_with_words_and_without_its_password(
    user: User, rest: str
) -> None:
    user.environ["DB"] = f"postgresql://lap:{canary('store')}@{rest}"
    user.configure('[store]\nurl = "env:DB"\n')
    for command in (("serve", "--port", "0"), ("sessions", "list", "--json"), ("doctor",)):
        done = user.run(*command)
        said = done.stdout + done.stderr
        assert done.returncode in (1, 2, 4)
        assert "PostgreSQL" in said
        assert "Traceback" not in said
        assert canary("store") not in said
    server = user.stdio()
    assert "PostgreSQL" in server.call("lap_status")
    assert server.end() == 0
    assert "Traceback" not in server.errors()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[runtimes.r]\nkind = "nothing"', ":2 runtimes.r.kind: There is no runtime kind"),
        (
            '[runtimes.r]\nkind = "a2a"\nurl = "http://127.0.0.1:9"\n'
            'auth = { bearer = "env:NOT_SET" }',
            ":4 runtimes.r.auth.bearer: This key needs the environment variable NOT_SET",
        ),
        (
            '[runtimes.r]\nkind = "a2a"\nurl = "http://127.0.0.1:9"\n[agents.lap_status]\n'
            'runtime = "r"',
            ":4 agents.lap_status: This name is reserved",
        ),
    ],
)
def test_what_the_stdio_server_bears_ends_serve_with_2(user: User, text: str, words: str) -> None:
    user.configure(text)
    done = user.run("serve", "--port", "0")
    assert done.returncode == 2
    assert done.stderr.startswith(f"{user.file}{words}")
    assert len(done.stderr.splitlines()) == 1
    assert user.run("agents", "list").returncode == 2
