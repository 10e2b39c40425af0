"""The stdio server always starts: whatever is wrong, it says so in `lap_status`."""

from __future__ import annotations

import os
import pty
import signal
import sqlite3
import subprocess

import pytest

from tests.lap_mcp.user import SCRIPT, User
from tests.waiting import eventually

BARE = ["code_interpreter", "lap_status", "save_files"]
SESSIONS = ["answer_question", "cancel_session", "get_session", "list_sessions"]


def test_without_a_configuration_the_built_in_tools_are_there(user: User) -> None:
    server = user.stdio()
    assert "tools" in server.ask("server/discover")["capabilities"]
    assert server.tools() == sorted([*BARE, *SESSIONS])
    eventually(lambda: "No container engine answers" in server.call("lap_status"))
    assert server.end() == 0
    assert user.data.stat().st_mode & 0o777 == 0o700


def test_a_broken_file_leaves_code_interpreter_and_lap_status(user: User) -> None:
    user.configure("[runtimes.lab]\nkind = \n")
    server = user.stdio()
    assert server.tools() == BARE
    assert f"{user.file}:2: This is not TOML" in server.call("lap_status")
    assert server.end() == 0


def test_one_wrong_key_costs_only_what_it_belongs_to(user: User) -> None:
    user.configure(
        f'[runtimes.lab]\nkind = "a2a"\nurl = "{user.agent()}"\n'
        '[runtimes.bad]\nkind = "a2a"\nurl = "http://127.0.0.1:9"\nretries = 3\n'
        '[agents.lab_agent]\nruntime = "lab"\n[agents.bad_agent]\nruntime = "bad"\n'
    )
    server = user.stdio()
    server.tools()
    status = server.call("lap_status")
    while "runtimes.bad.retries" not in status:
        status = server.call("lap_status")
    assert f"{user.file}:7 runtimes.bad.retries: There is no such key." in status
    names = server.tools()
    assert "lab_agent" in names
    assert "bad_agent" not in names
    assert "hello" in server.call("lab_agent", prompt="echo hello")
    assert server.end() == 0


@pytest.mark.skipif(os.getuid() == 0, reason="root writes everywhere")
def test_a_data_folder_that_cannot_be_written_is_replaced_for_this_run(user: User) -> None:
    user.data.parent.mkdir(parents=True)
    user.data.parent.chmod(0o500)
    server = user.stdio()
    assert "kept for this run only" in server.call("lap_status")
    assert server.end() == 0


def test_a_data_folder_that_is_a_file_is_replaced_for_this_run(user: User) -> None:
    user.data.parent.mkdir(parents=True)
    user.data.write_text("not a folder")
    server = user.stdio()
    status = server.call("lap_status")
    assert "LAP_HOME" in status
    assert "kept for this run only" in status
    assert server.end() == 0
    assert user.data.read_text() == "not a folder"


def test_a_store_of_a_newer_version_is_left_alone(user: User) -> None:
    assert user.ok("sessions", "list") == ""
    store = user.data / "lap.db"
    connection = sqlite3.connect(store)
    with connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    server = user.stdio()
    status = server.call("lap_status")
    assert "schema 9999" in status
    assert "kept for this run only" in status
    assert server.end() == 0
    done = user.run("sessions", "list")
    assert done.returncode == 4
    assert "schema 9999" in done.stderr


def test_options_of_the_server_override_the_file(user: User) -> None:
    user.configure('[mcp]\ntoolsets = ["agents"]\n')
    server = user.stdio("--toolsets", "code")
    assert server.tools() == BARE
    server.end()
    server = user.stdio("--toolsets=sessions", "--read-only")
    assert server.tools() == ["get_session", "lap_status", "list_sessions"]
    server.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_in_order(user: User, number: signal.Signals) -> None:
    server = user.stdio()
    server.tools()
    server.process.send_signal(number)
    assert server.process.wait(20) == 128 + number


def test_only_the_protocol_is_on_stdout_and_logs_are_lines_of_json_on_stderr(user: User) -> None:
    user.configure('[logs]\nlevel = "debug"\n')
    server = user.stdio()
    server.tools()
    server.call("lap_status")
    assert server.end() == 0
    assert all(line.startswith('{"jsonrpc"') for line in server.wire)
    for line in server.errors().splitlines():
        assert line.startswith('{"at"'), line


def test_on_a_terminal_it_says_what_it_is(user: User) -> None:
    ours, theirs = pty.openpty()
    try:
        done = subprocess.run(
            [SCRIPT],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=20,
            env=user.environ,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)
    assert done.returncode == 0
    assert "lap-mcp install claude-code" in done.stdout
    assert not user.data.exists()


def test_the_server_imports_no_database_engine_or_command_line_before_it_answers(
    user: User,
) -> None:
    user.environ["PYTHONPROFILEIMPORTTIME"] = "1"
    server = user.stdio()
    server.ask("server/discover")
    assert server.end() == 0
    loaded = {line.rpartition("|")[2].strip() for line in server.errors().splitlines()}
    assert "lap_mcp.hosting" in loaded
    assert loaded & {"sqlalchemy", "alembic", "docker", "typer", "rich"} == set()


@pytest.mark.docker
def test_code_runs_on_a_file_of_the_working_folder(user: User) -> None:
    del user.environ["DOCKER_HOST"]
    (user.project / "data.csv").write_text("a,b\n1,2\n3,4\n")
    server = user.stdio()
    eventually(lambda: "being prepared" not in server.call("code_interpreter", code="1"),
               within=300)  # fmt: skip
    code = "import pandas as pd; total = int(pd.read_csv('data.csv').b.sum()); total"
    assert "6" in server.call("code_interpreter", code=code, files=["data.csv"])
    assert "7" in server.call("code_interpreter", code="total + 1")
    assert server.end() == 0
