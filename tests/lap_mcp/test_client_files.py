"""The configuration files of clients: one entry changes, the rest stays byte for byte."""

from __future__ import annotations

import json
import os
import tomllib
from pathlib import Path

import pytest

from lap_mcp.commands.clients import CLIENTS, Launch
from lap_mcp.commands.foreign_files import read_foreign, replace_foreign
from lap_mcp.commands.json_text import parse, remove_member, set_member
from lap_mcp.commands.toml_text import remove_table, set_table
from lap_mcp.config import Surroundings
from lap_mcp.errors import ConfigError, Conflict, Invalid

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


@pytest.mark.parametrize(
    "text",
    [
        '{"mcpServers": {"lap": {}, "lap": {"a": 1}}}',
        '{"mcpServers": {}, "mcpServers": {"lap": {}}}',
    ],
)
def test_a_name_that_is_there_twice_is_left_to_a_person(text: str) -> None:
    with pytest.raises(Invalid):
        set_member(text, ("mcpServers", "lap"), {"command": "/x"})
    with pytest.raises(Invalid):
        remove_member(text, ("mcpServers", "lap"))


def test_what_is_nested_too_deeply_is_refused_in_words() -> None:
    with pytest.raises(Invalid, match="too deeply"):
        set_member('{"a": ' + "[" * 100_000 + "]" * 100_000 + "}", ("mcpServers", "lap"), {})


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ('{"m": {"lap": {"a": [1, {}]}}}', '{"m": {}}'),
        ('{"m": {"lap": 1, "x": 2}}', '{"m": { "x": 2}}'),
        ('{"m": {"x": 2, "lap": 1}}', '{"m": {"x": 2 }}'),
        ('{"m": {"x": 2, // two\n "lap": 1, // one\n}}', '{"m": {"x": 2, // two\n  // one\n}}'),
        (
            '{\n  "m": {\n    "x": 2,\n    "lap": {\n      "a": 1\n    }\n  }\n}\n',
            '{\n  "m": {\n    "x": 2\n  }\n}\n',
        ),
        ('{"other": {"lap": 1}}', '{"other": {"lap": 1}}'),
        ("", ""),
    ],
)
def test_a_member_is_removed_and_nothing_else(text: str, left: str) -> None:
    assert remove_member(text, ("m", "lap")) == left


def test_what_a_person_wrote_around_a_toml_table_stays() -> None:
    text = """\
[mcp_servers.lap]
command = "old"

# the one for work
[mcp_servers.other]
command = "x"
"""
    changed = set_table(text, ("mcp_servers", "lap"), {"command": "new"})
    assert changed == text.replace("old", "new")
    removed = remove_table(text, ("mcp_servers", "lap"))
    assert removed == '# the one for work\n[mcp_servers.other]\ncommand = "x"\n'
    assert remove_table(removed, ("mcp_servers", "lap")) == removed
    assert tomllib.loads(remove_table(TOML, ("mcp_servers", "lap")))["mcp_servers"].keys() == {
        "other"
    }


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_an_entry_is_removed_and_what_else_was_there_is_as_before(name: str) -> None:
    client = CLIENTS[name]
    before = TOML.replace(".lap", ".mine") if name == "codex" else COMMENTED
    read = tomllib.loads if name == "codex" else parse
    after = client.remove(client.edit(before, LAUNCH))
    emptied = {"servers": {}} if name == "vscode" else {"mcp": {}} if name == "opencode" else {}
    assert read(after) == {**read(before), **emptied}
    # A comma after the last of a list comes and goes.
    assert set(before.replace(",", "").splitlines()) <= set(after.replace(",", "").splitlines())


@pytest.mark.parametrize("name", sorted(CLIENTS))
def test_what_a_person_added_to_our_entry_stays_and_is_not_added_again(name: str) -> None:
    """Variables, above all: secrets that agents need are given there."""
    client = CLIENTS[name]
    variables = "environment" if name == "opencode" else "env"
    first = Launch(command="/old", environ={"LAP_HOME": "/old"})
    text = client.edit("", first)
    if name == "codex":
        ours = tomllib.loads(text)["mcp_servers"]["lap"]
        mine = {**ours, "enabled_tools": ["a"], "env": {"LAP_HOME": "/old", "TOKEN": "t"}}
        text = set_table(text, ("mcp_servers", "lap"), mine)
    else:
        ((table, servers),) = json.loads(text).items()
        mine = {**servers["lap"], "enabled_tools": ["a"]}
        mine[variables] = {"LAP_HOME": "/old", "TOKEN": "t"}
        text = set_member(text, (table, "lap"), mine)
    after = client.edit(text, LAUNCH)
    data = tomllib.loads(after) if name == "codex" else json.loads(after)
    ((_, servers),) = data.items()
    assert servers["lap"][variables] == {"TOKEN": "t"}
    assert servers["lap"]["enabled_tools"] == ["a"]
    assert "/old" not in after
    assert client.edit(after, LAUNCH) == after


def test_an_entry_with_an_address_is_replaced_whole() -> None:
    text = '{"mcpServers": {"lap": {"url": "http://127.0.0.1:1/mcp", "headers": {"A": "b"}}}}'
    entry = parse(CLIENTS["cursor"].edit(text, LAUNCH))["mcpServers"]["lap"]
    assert "url" not in entry
    assert "headers" not in entry


def test_line_ends_a_mark_and_rights_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    path.write_bytes(b'\xef\xbb\xbf{\r\n  "a": 1\r\n}\r\n')
    path.chmod(0o640)
    file = read_foreign(path)
    replace_foreign(file, set_member(file.text, ("b",), {"c": 2}))
    assert path.read_bytes() == (
        b'\xef\xbb\xbf{\r\n  "a": 1,\r\n  "b": {\r\n    "c": 2\r\n  }\r\n}\r\n'
    )
    assert path.stat().st_mode & 0o777 == 0o640
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "mcp.json"
    for before in (None, b"{}"):
        if before is not None:
            path.write_bytes(before)
        file = read_foreign(path)
        path.write_bytes(b'{"theirs": 1}')
        with pytest.raises(Conflict, match="somebody else"):
            replace_foreign(file, "{}")
        assert path.read_bytes() == b'{"theirs": 1}'
        assert list(tmp_path.iterdir()) == [path]
        path.unlink()


def test_what_is_no_file_is_neither_read_nor_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(Invalid, match="not a regular file|is a directory"):
            read_foreign(path)
    below = tmp_path / "file" / "mcp.json"
    file = read_foreign(below)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        replace_foreign(file, "{}")
