"""The words of the control plane, on a terminal."""

from __future__ import annotations

import errno
import json
import os
import pty
import signal
import subprocess
from pathlib import Path

import anyio
import pytest
import typer

from lap_mcp.commands.console import fail
from lap_mcp.commands.new_files import new_file
from lap_mcp.errors import NotFound
from tests.lap_mcp.user import SCRIPT, User


def test_a_remedy_names_commands_there(capsys: pytest.CaptureFixture[str]) -> None:
    error = NotFound("There is no session 'x'.", remedy="list_sessions shows yours.")
    with pytest.raises(typer.Exit) as ended:
        fail(error)
    assert ended.value.exit_code == 3
    said = " ".join(capsys.readouterr().err.split())
    assert "`lap-mcp sessions list` shows yours." in said


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("agents", "call", "a", "hi", "--file", "no.csv"), 1, "no.csv cannot be used: no such"),
        (("sandbox", "run", "no.py"), 2, "no.py cannot be used: no such file or directory."),
        (("sandbox", "run", "-", "--output", "lap.txt"), 1, "lap.txt cannot be used: file exists."),
        (("questions", "answer", "qst_1", "--data", "{"), 2, "--data is not JSON"),
        (("agents", "check", "a", "--input", "{"), 2, "--input is not JSON"),
    ],
)
def test_what_is_wrong_with_an_argument_is_one_line(
    user: User, arguments: tuple[str, ...], code: int, words: str
) -> None:
    (user.project / "lap.txt").write_text("")
    done = user.run(*arguments)
    assert done.returncode == code
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("sessions", "show", "ses_1", "--json"), 3),
        (("sandbox", "run", "no.py", "--json"), 2),
        (("sandbox", "run", "-", "--json"), 4),
    ],
)
def test_who_asked_for_json_gets_json_when_it_fails_too(
    user: User, arguments: tuple[str, ...], code: int
) -> None:
    done = user.run(*arguments)
    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"] == code
    assert told["error"] in done.stderr


def test_faults_of_the_configuration_are_json_for_who_asked_for_it(user: User) -> None:
    user.configure("[sandbox]\nmemroy = 3\n")
    done = user.run("agents", "list", "--json")
    told = json.loads(done.stdout)
    assert done.returncode == told["exit_code"] == 2
    assert "sandbox.memroy" in told["error"]


def test_a_locale_without_our_characters_gets_an_escape_instead(user: User) -> None:
    bare = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    home = user.home / "grün"
    done = user.run("doctor", environ={**bare, "LAP_HOME": str(home)})
    assert "store: " in done.stdout
    assert "Traceback" not in done.stderr
    failed = user.run("doctor", "--json", environ={**bare, "LAP_HOME": str(home)})
    assert [one["name"] for one in json.loads(failed.stdout)][:2] == ["program", "configuration"]


@pytest.mark.parametrize(
    ("stream", "arguments", "code", "words"),
    [
        ("<&-", (), 1, "closed"),
        ("<&-", ("sandbox", "run", "-"), 2, "closed"),
        (">&-", ("sessions", "list", "--json"), 1, "closed"),
        (">/dev/full", ("sessions", "list", "--json"), 1, "no space left on device"),
        ("2>&-", ("sessions", "list"), 0, None),
    ],
)
def test_streams_that_cannot_be_used_end_it_with_words(
    user: User, stream: str, arguments: tuple[str, ...], code: int, words: str | None
) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {stream}', "sh", SCRIPT, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        env=user.environ,
        check=False,
    )
    assert done.returncode == code
    assert len(done.stderr.splitlines()) == (0 if words is None else 1)
    assert words is None or words in done.stderr


def test_who_reads_no_further_ends_it_without_words(user: User) -> None:
    process = user.started.start(
        [SCRIPT, "doctor"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=user.project,
        env=user.environ,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    said = process.stderr.read().decode()
    assert process.wait(60) == 1
    assert said == ""


def test_an_interrupt_at_a_question_changes_nothing_and_ends_with_130(user: User) -> None:
    ours, theirs = pty.openpty()
    process = user.started.start(
        [SCRIPT, "install", "cursor", "--no-image"],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=user.project,
        env=user.environ,
        # Whoever runs the tests may be in the background, where interrupts are ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    os.close(theirs)
    assert process.stderr is not None
    said = b""
    while b"[y/N]" not in said:
        read = process.stderr.read1(4096)
        assert read, said
        said += read
    process.send_signal(signal.SIGINT)
    said += process.stderr.read()
    assert process.wait(60) == 130, said
    assert b"Nothing was changed" in said
    assert not (user.home / ".cursor").exists()
    os.close(ours)


@pytest.mark.anyio
async def test_a_file_that_cannot_be_finished_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "out.bin"

    async def half() -> None:
        async with new_file(path) as write:
            assert write is not None
            await write(b"half")
            raise OSError(errno.ENOSPC, "full")

    with pytest.raises(OSError, match="full"):
        await half()
    with anyio.CancelScope() as scope:
        async with new_file(path) as write:
            assert write is not None
            scope.cancel()
            await write(b"half")
    assert list(path.parent.iterdir()) == []
