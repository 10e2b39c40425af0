"""`lap-mcp sandbox list|export|import|prune --older`: kept sandboxes, without an engine."""

from __future__ import annotations

import json

from tests.lap_mcp.user import User


def test_files_go_in_and_come_out_again_without_an_engine(user: User) -> None:
    folder = user.project / "data"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "a b.csv").write_text("1,2")
    (folder / "link").symlink_to("/etc/passwd")
    (user.project / "one.bin").write_bytes(bytes(range(256)) * 8192)

    sandbox = user.ok("sandbox", "import", folder, user.project / "one.bin").strip()
    listed = json.loads(user.ok("sandbox", "list", "--json"))
    out = user.home / "out"
    user.ok("sandbox", "export", sandbox, "--ipynb", "--output", out)

    assert [(one["id"], one["files"], one["process"]) for one in listed] == [(sandbox, 2, None)]
    assert (out / "deep" / "a b.csv").read_text() == "1,2"
    assert (out / "one.bin").read_bytes() == bytes(range(256)) * 8192
    assert json.loads((out / "sandbox.ipynb").read_text())["cells"] == []
    assert not (out / "link").exists()


def test_an_export_overwrites_nothing(user: User) -> None:
    (user.project / "a.txt").write_text("new")
    sandbox = user.ok("sandbox", "import", user.project / "a.txt").strip()
    out = user.home / "out"
    out.mkdir()
    (out / "a.txt").write_text("mine")

    done = user.run("sandbox", "export", sandbox, "--output", out)

    assert (out / "a.txt").read_text() == "mine"
    assert "left as it is" in done.stderr


def test_what_was_not_used_for_long_is_forgotten_on_demand(user: User) -> None:
    (user.project / "a.txt").write_text("1")
    user.ok("sandbox", "import", user.project / "a.txt")

    assert user.ok("sandbox", "prune", "--older", "1h").strip() == "0"
    assert user.ok("sandbox", "prune", "--older", "1ms").strip() == "1"
    assert json.loads(user.ok("sandbox", "list", "--json")) == []


def test_what_cannot_be_done_is_said(user: User) -> None:
    odd = user.project / "a\nb"
    odd.write_text("1")
    unknown = "sbx_" + "0" * 32

    assert "control or invisible" in user.run("sandbox", "import", odd).stderr
    assert "nothing to do" in user.run("sandbox", "export", unknown).stderr
    missing = user.run("sandbox", "export", unknown, "--ipynb")
    assert missing.returncode != 0
    assert "There is no sandbox" in missing.stderr
    assert "not a duration" in user.run("sandbox", "prune", "--older", "soon").stderr


def test_more_than_one_sandbox_may_have_is_refused_before_anything_is_copied(user: User) -> None:
    user.configure('[sandbox]\nkeep_each = "1m"\n')
    for name in ("a", "b"):
        (user.project / name).write_bytes(bytes(600 * 1024))
    done = user.run("sandbox", "import", user.project)
    assert done.returncode == 1
    assert "sandbox.keep_each" in done.stderr
    assert not [path for path in (user.data / "sandbox-blobs").rglob("*") if path.is_file()]


def test_what_programs_act_on_by_its_name_is_exported_only_if_a_person_says_so(user: User) -> None:
    """Code in the sandbox chose the names, and the folder may be somebody's project."""
    made = user.home / "made"
    for name in (".git/hooks/pre-commit", "CLAUDE.md", ".envrc", "data/result.csv"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_text("1")
    sandbox = user.ok("sandbox", "import", made).strip()

    done = user.run("sandbox", "export", sandbox, "--output", user.project)
    assert done.returncode == 0
    assert done.stdout.splitlines() == [str(user.project / "data/result.csv")]
    assert done.stderr.count("was left out") == 3
    assert sorted(path.name for path in user.project.iterdir()) == ["data"]

    user.ok("sandbox", "export", sandbox, "--all", "--output", user.home / "whole")
    assert (user.home / "whole/.git/hooks/pre-commit").read_text() == "1"
