"""Commands, run as a person runs them: what they print, where, and with which exit code."""

from __future__ import annotations

import json
import sqlite3
import subprocess
from pathlib import Path

import pytest

from lap_mcp.commands.sandbox import each_step
from tests.canary import canary
from tests.lap_mcp.user import SCRIPT, User
from tests.waiting import eventually


def lab(user: User, more: str = "") -> None:
    user.configure(f'[runtimes.lab]\nkind = "a2a"\nurl = "{user.agent()}"\n{more}')


def test_help_and_version_are_results(user: User) -> None:
    assert "Exit codes: 0 done" in user.ok("--help")
    assert user.ok("--version").strip()


def test_help_shows_square_brackets(user: User) -> None:
    added = user.ok("agents", "add", "--help")
    assert "[a-z][a-z0-9_]*" in added
    assert "[runtimes.…]" in added
    assert "[runtimes.…]" in user.ok("agents", "import", "--help")
    assert "\\[" not in added


def test_an_unknown_command_or_option_ends_with_2(user: User) -> None:
    assert user.run("agnets").returncode == 2
    assert user.run("agents", "list", "--wat").returncode == 2


def test_each_fault_is_one_line_on_stderr_and_the_code_is_2(user: User) -> None:
    user.configure("[mcp]\nread_onli = true\n[agents.x]\nruntime = 'gone'\n")
    for command in (["agents", "list"], ["sessions", "list"], ["serve"], ["sandbox", "list"]):
        done = user.run(*command)
        assert done.returncode == 2
        assert done.stdout == ""
        assert done.stderr.splitlines() == [
            f"{user.file}:2 mcp.read_onli: There is no such key. Did you mean `read_only`?",
            f"{user.file}:4 agents.x.runtime: There is no [runtimes.gone]. Add [runtimes.gone].",
        ]


def test_init_writes_a_file_that_is_valid_and_never_overwrites_one(user: User) -> None:
    assert user.ok("init").strip() == str(user.file)
    assert user.file.stat().st_mode & 0o777 == 0o600
    text = user.file.read_text()
    assert user.ok("agents", "list", "--json").strip() == "[]"
    done = user.run("init")
    assert done.returncode == 1
    assert "left as it is" in done.stderr
    assert user.file.read_text() == text
    elsewhere = user.project / "mine.toml"
    assert user.ok("--config", "mine.toml", "init").strip() == str(elsewhere)


def test_what_init_shows_in_comments_is_valid_too(user: User) -> None:
    user.ok("init")
    keys = ("[", "kind", "url", "auth", "discover", "include", "trust", "runtime", "ref")
    more = ("description", "pinned", "deadline", "toolsets", "read_only", "folders", "host", "port")
    lines = [
        line.removeprefix("# ")
        if line.removeprefix("# ").startswith((*keys, *more, "turns", "running"))
        else line
        for line in user.file.read_text().splitlines()
    ]
    user.configure("\n".join(lines))
    environ = {"RESEARCH_TOKEN": canary("bearer"), "MODELS_KEY": canary("responses")}
    listed = json.loads(user.ok("agents", "list", "--json", "--offline", environ=environ))
    assert [(agent["name"], agent["enabled"]) for agent in listed] == [("summarizer", True)]


def test_doctor_tells_what_works_and_what_does_not(user: User) -> None:
    lab(user, '[runtimes.down]\nkind = "a2a"\nurl = "http://127.0.0.1:9"\n')
    done = user.run("doctor")
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok       runtime lab: ") for line in lines)
    assert any(line.startswith("ERROR    runtime down: ") for line in lines)
    assert any(line.startswith("ERROR    sandbox engine: ") for line in lines)
    levels = {check["name"]: check["level"] for check in json.loads(user.run("doctor", "--json").stdout)}  # fmt: skip  # noqa: E501
    assert levels["store"] == "ok"
    user.configure("[mcp]\nx = 1")
    done = user.run("doctor")
    assert done.returncode == 2
    assert "mcp.x: There is no such key." in done.stdout


def test_an_agent_is_called_continued_and_shown(user: User) -> None:
    lab(user)
    done = user.run("agents", "call", "example_agent", "echo hello world")
    assert done.returncode == 0, done.stderr
    assert "hello world" in done.stdout
    session = done.stderr.split("session ")[1].split()[0]
    again = json.loads(
        user.ok(
            "agents",
            "call",
            "example_agent",
            "-",
            "--session",
            session,
            "--json",
            given="echo again",
        )  # fmt: skip
    )
    assert again["session"] == session
    assert again["turn"]["outcome"] == "completed"
    assert "again" in again["answer"]
    shown = user.ok("sessions", "show", session)
    assert "> echo hello world" in shown
    assert "[completed]" in shown
    events = json.loads(user.ok("sessions", "show", session, "--json"))["events"]
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    followed = user.ok("sessions", "follow", session, "--once", "--json").splitlines()
    assert [json.loads(line)["seq"] for line in followed] == [event["seq"] for event in events]
    last = str(len(events))
    assert user.ok("sessions", "follow", session, "--once", "--json", "--after", last) == ""
    listed = json.loads(user.ok("sessions", "list", "--json", "--agent", "example_agent"))
    assert [entry["id"] for entry in listed] == [session]


def test_a_session_is_handed_over_to_another_agent(user: User) -> None:
    lab(user, '[agents.one]\nruntime = "lab"\n[agents.other]\nruntime = "lab"\n')
    first = json.loads(user.ok("agents", "call", "one", "echo the cause", "--json"))
    arguments = ("agents", "call", "other", "echo so", "--json", "--from-session")
    second = json.loads(user.ok(*arguments, first["session"]))
    assert second["session"] != first["session"]
    assert "[user] echo the cause" in " ".join(second["answer"].split())
    events = json.loads(user.ok("sessions", "show", first["session"], "--json"))["events"]
    assert events[-1]["type"] == "session.handed_over"
    assert user.run(*arguments, "ses_" + "0" * 32).returncode == 3


def test_what_fails_is_told_with_the_code_of_its_kind(user: User) -> None:
    lab(user, '[runtimes.down]\nkind = "a2a"\nurl = "http://127.0.0.1:9"\n'
        '[agents.gone]\nruntime = "down"\n')  # fmt: skip
    assert user.run("agents", "call", "exampel_agent", "x").returncode == 3
    assert user.run("sessions", "show", "ses_" + "0" * 32).returncode == 3
    assert user.run("questions", "allow", "qst_" + "0" * 32).returncode == 3
    failed = user.run("agents", "call", "gone", "x")
    assert failed.returncode == 1
    assert "cannot connect" in failed.stderr
    assert user.run("sandbox", "run", "-", given="1").returncode == 4


def test_a_question_is_listed_and_answered(user: User) -> None:
    lab(user)
    asked = user.run("agents", "call", "example_agent", "ask which color?")
    assert asked.returncode == 0
    assert "which color?" in asked.stderr
    (question,) = json.loads(user.ok("questions", "list", "--json"))
    assert question["id"] in asked.stderr
    assert "you said: blue" in user.ok("questions", "answer", question["id"], "blue")
    assert user.run("questions", "answer", question["id"], "red").returncode == 1
    assert json.loads(user.ok("questions", "list", "--json")) == []


def test_a_turn_of_another_process_is_followed_and_cancelled(user: User) -> None:
    lab(user)
    server = user.stdio()
    server.tools()
    eventually(lambda: "example_agent" in server.tools())
    answer = server.call("example_agent", prompt="slow 600 0.1", wait_s=0)
    session = next(word for word in answer.replace(".", " ").split() if word.startswith("ses_"))
    assert user.ok("sessions", "cancel", session).strip() == f"{session} idle"
    assert "[cancelled" in user.ok("sessions", "show", session)
    assert server.end() == 0


def test_agents_are_added_noticed_by_a_running_server_and_removed(user: User) -> None:
    lab(user, "discover = false\n")
    server = user.stdio()
    assert "helper" not in server.tools()
    added = user.ok("agents", "add", "helper", "--runtime", "lab", "--description", "Helps.")
    assert added.strip() == "helper"
    eventually(lambda: "helper" in server.tools())
    assert user.run("agents", "add", "lap_status", "--runtime", "lab").returncode == 2
    assert user.run("agents", "add", "other", "--runtime", "lap").returncode == 2
    assert user.run("agents", "remove", "helper").returncode == 2, "nobody could be asked"
    user.ok("agents", "remove", "helper", "--yes")
    eventually(lambda: "helper" not in server.tools())
    assert user.run("agents", "remove", "helper", "--yes").returncode == 3
    assert server.end() == 0


def test_what_a_runtime_lists_is_imported_once(user: User) -> None:
    lab(user, "discover = false\n")
    assert user.ok("agents", "import", "lab").strip() == "example_agent"
    again = user.run("agents", "import", "lab")
    assert again.returncode == 0
    assert "registered already, as example_agent" in again.stderr
    assert user.run("agents", "import", "nowhere").returncode == 4


def test_changed_words_are_shown_and_accepted(user: User) -> None:
    lab(user)
    user.ok("agents", "list")
    connection = sqlite3.connect(user.data / "lap.db")
    with connection:
        (text,) = connection.execute("SELECT data FROM agents").fetchone()
        row = json.loads(text)
        row["words"] |= {"digest": "of before", "description": "Words of before."}
        connection.execute("UPDATE agents SET data = ?", [json.dumps(row)])
    connection.close()
    listed = user.run("agents", "list")
    assert "Words of before." in listed.stdout
    assert "lap-mcp agents accept example_agent" in listed.stderr
    refused = user.run("agents", "accept", "example_agent")
    assert refused.returncode == 2
    assert '- "description": "Words of before."' in refused.stdout.replace("-  ", "- ")
    user.ok("agents", "accept", "example_agent", "--yes")
    assert "Words of before." not in user.ok("agents", "list")
    assert user.run("agents", "accept", "example_agent", "--yes").returncode == 1


def test_a_build_is_told_once_for_each_step() -> None:
    told: list[str] = []
    tell = each_step(told.append)
    for words in ("starting (0 s)", "starting (1 s)", "step 1 of 9, RUN a (2 s)"):
        tell(f"sandbox image: {words}")
    tell("sandbox image: step 1 of 9, collecting numpy (3 s)")
    tell("sandbox image: step 2 of 9, COPY b (4 s)")
    tell("ready")
    assert [line.removeprefix("sandbox image: ") for line in told] == [
        "starting (0 s)",
        "step 1 of 9, RUN a (2 s)",
        "step 2 of 9, COPY b (4 s)",
        "ready",
    ]


@pytest.mark.docker
def test_code_is_run_in_a_sandbox(user: User, tmp_path: Path) -> None:
    del user.environ["DOCKER_HOST"]
    code = user.project / "code.py"
    code.write_text(
        "print(open('/mnt/data/in.txt').read())\nopen('/mnt/data/out.txt','w').write('made')\n41+1"
    )
    (user.project / "in.txt").write_text("given")
    output = tmp_path / "out"
    done = user.run(
        "sandbox", "run", code, "--file", user.project / "in.txt", "--output", output, within=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["given", "42", str(output / "out.txt")]
    assert (output / "out.txt").read_text() == "made"
    given = ("--file", user.project / "in.txt", "--output", output / "more")
    told = user.ok("sandbox", "run", code, *given, "--json", within=120)
    assert json.loads(told)["saved"] == [str(output / "more" / "out.txt")]
    named = ("sandbox", "run", "-", "--output", output / "named")
    left = user.run(*named, given="open('/mnt/data/.envrc', 'w').write('x')", within=120)
    assert ".envrc was left out" in left.stderr
    assert not list((output / "named").iterdir())
    user.ok(*named, "--all", given="open('/mnt/data/.envrc', 'w').write('x')", within=120)
    assert (output / "named" / ".envrc").read_text() == "x"
    failed = user.run("sandbox", "run", "-", given="1/0", within=120)
    assert failed.returncode == 1
    assert "ZeroDivisionError" in failed.stderr
    assert json.loads(user.ok("sandbox", "list", "--containers", "--json")) == []
    assert user.ok("sandbox", "prune").strip() == "0"


@pytest.mark.docker
def test_an_image_that_cannot_be_written_whole_leaves_no_file(user: User) -> None:
    del user.environ["DOCKER_HOST"]
    file = user.project / "image.tar"
    # A file may have one megabyte: as on a disk that is full.
    limited = 'ulimit -f 2048; exec "$@"'
    done = subprocess.run(
        ["/bin/sh", "-c", limited, "sh", SCRIPT, "sandbox", "export-image", file],
        capture_output=True,
        text=True,
        timeout=120,
        env=user.environ,
        check=False,
    )
    assert done.returncode == 1
    assert f"{file} cannot be written" in done.stderr
    assert not file.exists()
    file.write_text("mine")
    again = user.run("sandbox", "export-image", file, within=120)
    assert again.returncode == 1
    assert file.read_text() == "mine"
