"""`lap-mcp agents check`, as a person runs it against a real A2A server."""

from __future__ import annotations

import json
from typing import Any

from tests.lap_mcp.user import User

NAMES = ["configuration", "secret", "reach", "listed", "turn", "answer"]


def lab(user: User, more: str = "") -> None:
    user.configure(f'[runtimes.lab]\nkind = "a2a"\nurl = "{user.agent()}"\n{more}')


def checked(user: User, *arguments: str) -> tuple[int, dict[str, Any], Any]:
    """The exit code, the stages by name, and the whole answer."""
    done = user.run("agents", "check", *arguments, "--json")
    answer = json.loads(done.stdout)
    return done.returncode, {stage["name"]: stage for stage in answer["stages"]}, answer


def test_an_agent_that_works_passes_every_stage(user: User) -> None:
    lab(user)
    code, stages, answer = checked(user, "example_agent", "--prompt", "echo all is well")
    assert (code, answer["works"], list(stages)) == (0, True, NAMES)
    assert {stage["state"] for stage in stages.values()} == {"ok"}
    assert "all is well" in stages["answer"]["words"]
    session = stages["turn"]["words"].rsplit(" ", 1)[1]
    assert "all is well" in user.ok("sessions", "show", session)


def test_what_the_agent_itself_says_about_its_failure_is_told(user: User) -> None:
    lab(user)
    done = user.run("agents", "check", "example_agent", "--prompt", "fail the disk is full")
    assert done.returncode == 1
    assert "FAILED   turn: failed: " in done.stdout
    assert "the disk is full" in done.stdout
    assert "sessions show ses_" in done.stdout


def test_a_turn_that_asks_or_takes_too_long_is_cancelled_and_told(user: User) -> None:
    lab(user)
    code, stages, _ = checked(user, "example_agent", "--prompt", "ask which color?")
    assert code == 1
    assert "asked instead of answering" in stages["turn"]["words"]
    assert "which color?" in stages["turn"]["words"]
    assert json.loads(user.ok("questions", "list", "--json")) == []
    code, stages, _ = checked(
        user, "example_agent", "--prompt", "slow 600 0.1", "--timeout", "1"
    )  # fmt: skip
    assert code == 1
    assert "not finished after 1 s" in stages["turn"]["words"]
    listed = json.loads(user.ok("sessions", "list", "--json"))
    assert [entry["status"] for entry in listed] == ["idle", "idle"]


def test_a_missing_secret_is_the_stage_that_fails(user: User) -> None:
    lab(user, 'auth = { bearer = "env:LAB_TOKEN" }\n[agents.mine]\nruntime = "lab"\n')
    code, stages, _ = checked(user, "mine")
    assert (code, list(stages)) == (2, ["configuration", "secret"])
    assert "LAB_TOKEN, which is not set" in stages["secret"]["words"]
    assert "Set LAB_TOKEN" in stages["secret"]["remedy"]


def test_a_wrong_file_a_wrong_name_and_a_server_that_is_down_have_codes_of_their_own(
    user: User,
) -> None:
    user.configure('[runtimes.down]\nkind = "a2a"\nurl = "http://127.0.0.1:9"\n'
        '[agents.gone]\nruntime = "down"\n')  # fmt: skip
    code, stages, _ = checked(user, "gone")
    assert (code, list(stages)[-1]) == (4, "reach")
    assert "cannot connect" in stages["reach"]["words"]
    code, stages, _ = checked(user, "nobody")
    assert (code, list(stages)) == (3, ["configuration"])
    user.configure("[mcp]\nx = 1")
    code, stages, _ = checked(user, "gone")
    assert code == 2
    assert "mcp.x: There is no such key." in stages["configuration"]["words"]
    assert user.run("agents", "check", "gone", "--input", "[1]").returncode == 2
