"""`lap-mcp install`: the change is shown before it is made, made once, and nothing else changes."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.lap_mcp.user import SCRIPT, User

CLAUDE = {"numStartups": 3, "mcpServers": {"other": {"command": "x"}}, "projects": {"/p": {}}}


def test_claude_code_gets_an_absolute_command_and_keeps_the_rest(user: User) -> None:
    file = user.home / ".claude.json"
    file.write_text(json.dumps(CLAUDE, indent=2))
    file.chmod(0o600)
    done = user.run("install", "claude-code", "--yes", "--no-image")
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(file)
    assert '+    "lap": {' in done.stderr
    data = json.loads(file.read_text())
    assert data["mcpServers"].pop("lap") == {"type": "stdio", "command": str(SCRIPT), "args": []}
    assert data == CLAUDE
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in user.home.glob(".claude*")) == [".claude.json"]
    text = file.read_text()
    again = user.run("install", "claude-code", "--yes", "--no-image")
    assert "has this server already" in again.stderr
    assert file.read_text() == text


def test_without_a_yes_and_nobody_to_ask_nothing_is_changed(user: User) -> None:
    done = user.run("install", "cursor", "--no-image")
    assert done.returncode == 2
    assert '+    "lap": {' in done.stderr
    assert not (user.home / ".cursor").exists()


@pytest.mark.parametrize("client", ["cursor", "codex", "vscode", "opencode"])
def test_each_client_is_given_an_entry(user: User, client: str) -> None:
    text = Path(user.ok("install", client, "--yes", "--no-image").strip()).read_text()
    data = tomllib.loads(text) if client == "codex" else json.loads(text)
    assert str(SCRIPT) in json.dumps(data)


def test_a_chosen_configuration_goes_into_the_command(user: User) -> None:
    config = user.project / "mine.toml"
    config.write_text("")
    user.environ["LAP_HOME"] = str(user.home / "data")
    user.ok("--config", "mine.toml", "install", "cursor", "--yes", "--no-image")
    entry = json.loads((user.home / ".cursor/mcp.json").read_text())["mcpServers"]["lap"]
    assert entry["args"] == ["--config", str(config)]
    assert entry["env"] == {"LAP_HOME": str(user.home / "data")}


def test_a_project_has_its_own_file(user: User) -> None:
    file = user.ok("install", "claude-code", "--project", "--yes", "--no-image").strip()
    assert file == str(user.project / ".mcp.json")
    refused = user.run("install", "codex", "--project", "--yes", "--no-image")
    assert refused.returncode == 2
    assert "no configuration for one project" in refused.stderr


def test_a_file_that_cannot_be_understood_is_left_alone(user: User) -> None:
    file = user.home / ".claude.json"
    file.write_text("{ not json")
    done = user.run("install", "claude-code", "--yes", "--no-image")
    assert done.returncode == 2
    assert str(file) in done.stderr
    assert file.read_text() == "{ not json"


def test_a_link_is_kept_and_what_it_leads_to_is_changed(user: User) -> None:
    real = user.home / "dotfiles/claude.json"
    real.parent.mkdir()
    real.write_text("{}")
    link = user.home / ".claude.json"
    link.symlink_to(real)
    user.ok("install", "claude-code", "--yes", "--no-image")
    assert link.is_symlink()
    assert "lap" in json.loads(real.read_text())["mcpServers"]


def test_the_image_is_built_in_the_background(user: User) -> None:
    done = user.run("install", "claude-code", "--yes")
    assert done.returncode == 0
    assert "is being built in the background" in done.stderr
    log = user.data / "sandbox-build.log"
    assert log.exists()


def test_what_was_added_is_taken_out_again(user: User) -> None:
    file = user.home / ".cursor/mcp.json"
    user.ok("install", "cursor", "--yes", "--no-image")
    asked = user.run("uninstall", "cursor")
    assert asked.returncode == 2
    assert '-    "lap": {' in asked.stderr
    assert "lap" in json.loads(file.read_text())["mcpServers"]
    assert user.ok("uninstall", "cursor", "--yes").strip() == str(file)
    assert json.loads(file.read_text()) == {"mcpServers": {}}
    again = user.run("uninstall", "cursor", "--yes")
    assert again.returncode == 0
    assert "has no `lap`" in again.stderr


def test_what_is_wrong_with_the_configuration_is_told_when_a_client_is_added(user: User) -> None:
    user.configure("[sandbox]\nmemroy = 3\n")
    done = user.run("install", "cursor", "--yes", "--no-image")
    assert done.returncode == 0
    assert f"{user.file}:2 sandbox.memroy: There is no such key." in done.stderr
