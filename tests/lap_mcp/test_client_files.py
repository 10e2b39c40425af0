"""The configuration files of clients: one entry changes, the rest stays byte for byte."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from lap_mcp.commands.clients import CLIENTS, Launch
from lap_mcp.commands.json_text import parse, set_member
from lap_mcp.commands.toml_text import set_table
from lap_mcp.config import Surroundings
from lap_mcp.errors import Invalid

LAUNCH = Launch(command="/opt/lap/bin/lap-mcp", arguments=("--config", "/etc/lap.toml"))

COMMENTED = """\
// mine
{
    "theme": "dark", /* keep */
    "mcpServers": {
        "other": {"command": "x", "args": ["a,b", "}"]}, // last
    },
    "list": [1, 2, 3,],
}
"""


def test_a_member_is_added_and_comments_stay() -> None:
    text = set_member(COMMENTED, ("mcpServers", "lap"), {"command": "/x"})
    assert parse(text)["mcpServers"] == {
        "other": {"command": "x", "args": ["a,b", "}"]},
        "lap": {"command": "/x"},
    }
    kept = [line for line in COMMENTED.splitlines() if line not in text.splitlines()]
    assert kept == []
    assert set_member(text, ("mcpServers", "lap"), {"command": "/x"}) == text


def test_a_member_is_replaced_in_place() -> None:
    text = set_member(COMMENTED, ("mcpServers", "other"), {"command": "new"})
    assert parse(text)["mcpServers"] == {"other": {"command": "new"}}
    assert "// last" in text
    assert "/* keep */" in text


@pytest.mark.parametrize(
    "text",
    ["", "{}", "{ }", "{\n}\n", '{"a": 1}', '{"a": 1,}', '{\n\t"a": {}\n}', '{"mcpServers": {}}'],
)
def test_objects_on_the_way_are_made(text: str) -> None:
    before = parse(text) or {}
    after = parse(set_member(text, ("mcpServers", "lap"), {"x": [1]}))
    assert after == {**before, "mcpServers": {"lap": {"x": [1]}}}


@pytest.mark.parametrize("text", ["[]", "3", '{"mcpServers": 3}', '{"a" 1}', "{", "{'a': 1}"])
def test_what_is_not_such_a_file_is_refused(text: str) -> None:
    with pytest.raises(Invalid):
        set_member(text, ("mcpServers", "lap"), {})


TOML = """\
# mine
model = "gpt"   # this one

[mcp_servers.other]
command = "x"

[mcp_servers.lap]
command = "old"
[mcp_servers.lap.env]
A = "1"

[profiles.p]
text = \"\"\"
no header here
\"\"\"
"""


def test_a_toml_table_is_replaced_with_those_below_it() -> None:
    text = set_table(TOML, ("mcp_servers", "lap"), {"command": "/x", "required": True})
    data = tomllib.loads(text)
    assert data["mcp_servers"] == {
        "other": {"command": "x"},
        "lap": {"command": "/x", "required": True},
    }
    assert data["profiles"] == tomllib.loads(TOML)["profiles"]
    assert "# mine" in text
    assert "# this one" in text
    assert set_table(text, ("mcp_servers", "lap"), {"command": "/x", "required": True}) == text


def test_a_toml_table_is_added_at_the_end() -> None:
    text = set_table('a = "é"\n', ("mcp_servers", "lap"), {"env": {"K": 'v"\\'}, "args": ["x"]})
    assert text.startswith('a = "é"\n\n[mcp_servers.lap]\n')
    assert tomllib.loads(text)["mcp_servers"]["lap"] == {"env": {"K": 'v"\\'}, "args": ["x"]}


@pytest.mark.parametrize(
    "text",
    ['mcp_servers.lap.command = "x"', 'mcp_servers = { lap = { command = "x" } }', "a = "],
)
def test_a_table_written_in_another_way_is_left_alone(text: str) -> None:
    with pytest.raises(Invalid):
        set_table(text, ("mcp_servers", "lap"), {"command": "/x"})


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_each_client_gets_an_entry_that_starts_us_and_again_changes_nothing(
    name: str, tmp_path: Path
) -> None:
    client = CLIENTS[name]
    text = client.edit("", LAUNCH)
    data = tomllib.loads(text) if name == "codex" else json.loads(text)
    ((_, servers),) = data.items()
    entry = servers["lap"]
    command = entry["command"]
    started = command if isinstance(command, list) else [command, *entry["args"]]
    assert started == ["/opt/lap/bin/lap-mcp", "--config", "/etc/lap.toml"]
    assert client.edit(text, LAUNCH) == text
    here = Surroundings(environ={}, home=tmp_path, folder=tmp_path, platform="linux")
    assert client.user_file(here).is_relative_to(tmp_path)


def test_clients_that_were_moved_are_found(tmp_path: Path) -> None:
    here = Surroundings(
        environ={
            "CLAUDE_CONFIG_DIR": str(tmp_path / "c"),
            "CODEX_HOME": str(tmp_path / "x"),
            "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
        },
        home=tmp_path,
        folder=tmp_path,
        platform="linux",
    )
    assert CLIENTS["claude-code"].user_file(here) == tmp_path / "c/.claude.json"
    assert CLIENTS["codex"].user_file(here) == tmp_path / "x/config.toml"
    assert CLIENTS["vscode"].user_file(here) == tmp_path / "xdg/Code/User/mcp.json"
    (tmp_path / "xdg/opencode").mkdir(parents=True)
    (tmp_path / "xdg/opencode/opencode.jsonc").write_text("{}")
    assert CLIENTS["opencode"].user_file(here).name == "opencode.jsonc"
