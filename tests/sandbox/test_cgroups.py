"""Control groups for sandboxes: where they can be made, and what is written into them.

Version 2 is a folder that looks like one: a machine has one version, and tests both.
"""

from __future__ import annotations

from pathlib import Path

from lap_sandbox import cgroups
from lap_sandbox.base import Limits, MiB

LIMITS = Limits(memory=512 * MiB, pids=64, cpus=0.5)


def second(tmp_path: Path, own: str, handing: dict[str, str]) -> Path:
    """A `/proc/self` whose mount of version 2 has these groups; returns the top of them."""
    top = tmp_path / "cgroup"
    for group, controllers in handing.items():
        folder = top / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "cgroup.subtree_control").write_text(controllers)
        (folder / "cgroup.procs").write_text("")
    (tmp_path / "proc").mkdir()
    mount = f"29 23 0:26 / {top} rw,nosuid - cgroup2 cgroup2 rw\n"
    (tmp_path / "proc" / "mountinfo").write_text(f"22 1 8:1 / / rw - ext4 /dev/x rw\n{mount}")
    (tmp_path / "proc" / "cgroup").write_text(f"0::/{own}\n")
    return top


def test_the_nearest_group_that_hands_memory_on_is_taken(tmp_path: Path) -> None:
    top = second(
        tmp_path,
        "user.slice/app.slice/shell.scope",
        {
            "": "cpu memory pids",
            "user.slice": "cpu memory pids",
            "user.slice/app.slice": "memory pids",
            "user.slice/app.slice/shell.scope": "",
        },
    )
    found = cgroups.find(tmp_path / "proc")
    assert found.version == 2
    assert found.held == ("memory", "pids")
    assert set(found.folders.values()) == {top / "user.slice/app.slice"}


def test_without_delegation_there_is_none(tmp_path: Path) -> None:
    second(tmp_path, "a/b", {"": "cpu", "a": "cpu", "a/b": ""})
    assert cgroups.find(tmp_path / "proc") == cgroups.NONE
    assert cgroups.find(tmp_path / "absent") == cgroups.NONE


def test_limits_are_written_and_the_group_goes_again(tmp_path: Path) -> None:
    top = second(tmp_path, "a", {"": "cpu memory pids", "a": ""})
    found = cgroups.find(tmp_path / "proc")
    group = cgroups.make(found, "lap-1", LIMITS)
    folder = top / "lap-1"
    written = {path.name: path.read_text() for path in folder.iterdir()}
    assert written == {
        "memory.max": str(512 * MiB),
        "pids.max": "64",
        "cpu.max": "50000 100000",
    }, "and no swap, on a kernel that counts it"
    assert group.held == ("memory", "pids", "cpu")
    assert group.views == {"": folder}
    assert not group.out_of_memory()
    (folder / "memory.events").write_text("low 0\noom 3\noom_kill 2\n")
    assert group.out_of_memory()
    group.add(4711)
    assert (folder / "cgroup.procs").read_text() == "4711"
    for path in folder.iterdir():
        path.unlink()
    group.remove()
    assert not folder.exists()
    group.remove()


def test_version_1_has_a_folder_for_each_controller(tmp_path: Path) -> None:
    lines, own = [], []
    for number, name in enumerate(("memory", "pids", "cpu,cpuacct"), 1):
        folder = tmp_path / name / "docker" / "x"
        folder.mkdir(parents=True)
        (folder / "cgroup.procs").write_text("")
        lines.append(f"3{number} 23 0:{number} / {tmp_path / name} rw - cgroup cgroup rw,{name}")
        own.append(f"{number}:{name}:/docker/x")
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "mountinfo").write_text("\n".join(lines) + "\n")
    (tmp_path / "proc" / "cgroup").write_text("\n".join(own) + "\n")
    found = cgroups.find(tmp_path / "proc")
    assert found.version == 1
    assert found.held == ("memory", "pids", "cpu")
    assert len(cgroups.paths(found, "lap-1")) == 3, "cpu and cpuacct are one"
    group = cgroups.make(found, "lap-1", LIMITS)
    memory = tmp_path / "memory/docker/x/lap-1"
    assert (memory / "memory.limit_in_bytes").read_text() == str(512 * MiB)
    assert set(group.views) == {"memory", "pids", "cpuacct"}
    (memory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 1\n")
    assert group.out_of_memory()
