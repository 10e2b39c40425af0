"""The socket that takes the place of the engine's streams: used where it can be, nobody else's, and
gone once it has been used."""

from __future__ import annotations

import errno
import os
import socket
import stat
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from lap_sandbox import direct, starting
from lap_sandbox.base import Mount, Sandbox
from lap_sandbox.direct import INSIDE, Meeting, Meetings
from lap_sandbox.docker_engine import DockerLauncher
from lap_sandbox.engine import Attached, EngineRefused, Facts
from lap_sandbox.errors import LauncherUnavailable
from lap_sandbox.hardening import Placement

from tests.sandbox.conftest import MakeLauncher
from tests.sandbox.engine_view import docker, inspect
from tests.sandbox.pool import SMALL
from tests.waiting import eventually_async

FACTS = Facts(
    address="unix:///nowhere.sock", how="", version="", components={}, security=(),
    cgroup_version="1", runtimes=(),
)  # fmt: skip
PLACEMENT = Placement(image="i", runtime=None, apparmor=False, small_uids=False, labels={})
KNOCK = f"import socket\ns = socket.socket(socket.AF_UNIX)\ns.connect({INSIDE!r})"


@pytest.fixture
def above(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    return folder


@pytest.fixture
def meetings(above: Path) -> Meetings:
    return Meetings(str(above))


def house(above: Path) -> Path:
    return above / f"lap-mcp-{os.getuid()}"


def test_only_its_own_user_can_come_near_it(meetings: Meetings, above: Path) -> None:
    meeting = meetings.new()
    assert meeting is not None
    assert stat.S_IMODE(house(above).stat().st_mode) == 0o700
    meeting.close()
    assert list(house(above).iterdir()) == []
    meeting.close()


def test_a_folder_of_somebody_else_is_not_used(meetings: Meetings, above: Path) -> None:
    house(above).mkdir(mode=0o755)
    house(above).chmod(0o755)
    assert meetings.new() is None
    assert not meetings.useful


def test_nor_is_a_link_to_one(meetings: Meetings, above: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir(mode=0o700)
    house(above).symlink_to(tmp_path / "elsewhere")
    assert meetings.new() is None
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_what_a_killed_server_left_is_removed(meetings: Meetings, above: Path) -> None:
    left, young = meetings.new(), meetings.new()
    assert left is not None
    assert young is not None
    old = time.time() - 2 * direct._STALE_SECONDS
    os.utime(left.mount.source, (old, old))
    third = meetings.new()
    assert third is not None
    found = {path.name for path in house(above).iterdir()}
    assert found == {young.mount.source.name, third.mount.source.name}
    for meeting in (left, young, third):
        meeting.close()


def test_only_one_comes(meetings: Meetings) -> None:
    meeting = meetings.new()
    assert meeting is not None
    path = meeting.mount.source / "host"
    with socket.socket(socket.AF_UNIX) as first, socket.socket(socket.AF_UNIX) as second:
        first.connect(str(path))
        meeting.accept().close()
        meeting.close()
        with pytest.raises(FileNotFoundError):
            second.connect(str(path))


def test_what_passes_is_no_reason_to_do_without(
    meetings: Meetings, above: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*arguments: object) -> socket.socket:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(direct.socket, "socket", none_left)
        assert meetings.new() is None
    assert meetings.useful
    assert list(house(above).iterdir()) == []
    meeting = meetings.new()
    assert meeting is not None
    meeting.close()


@pytest.mark.parametrize("given", ["relative", "open to all", "not there"])
def test_a_runtime_folder_that_is_not_this_users_alone_is_not_used(
    above: Path, tmp_path: Path, given: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(direct.tempfile, "gettempdir", lambda: str(above))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "relative").mkdir()
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    folders = {"relative": "relative", "open to all": str(shared), "not there": "/not/there"}
    meeting = Meetings(folders[given]).new()
    assert meeting is not None
    assert meeting.mount.source.parent == house(above)
    meeting.close()


# -- on a real engine


@pytest.fixture
def runtime_folder(above: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the engine's own search for a folder begins."""
    monkeypatch.setattr(direct.tempfile, "gettempdir", lambda: str(above))
    return above


def is_direct(sandbox: Sandbox) -> bool:
    return sandbox._container.link._attached is not None  # type: ignore[attr-defined]


def meetings_of(launcher: DockerLauncher) -> Meetings:
    found = launcher._engine._meetings  # type: ignore[attr-defined]
    assert isinstance(found, Meetings)
    return found


async def works(sandbox: Sandbox) -> bool:
    await sandbox.put("a.bin", bytes(3_000_000))
    execution = await sandbox.execute("print('x' * 1000)\nlen(open('a.bin').read())", timeout=30)
    same = await sandbox.get("a.bin") == bytes(3_000_000)
    return (len(execution.stdout), execution.value, same) == (1001, "3000000", True)


@pytest.mark.anyio
@pytest.mark.docker
async def test_frames_go_over_it_and_nothing_of_it_stays(
    make_launcher: MakeLauncher, runtime_folder: Path
) -> None:
    launcher = await make_launcher()
    sandbox = await launcher.open(SMALL)
    assert is_direct(sandbox)
    assert await works(sandbox)
    assert list(house(runtime_folder).iterdir()) == []


@pytest.mark.anyio
@pytest.mark.docker
async def test_code_cannot_come_to_it(make_launcher: MakeLauncher) -> None:
    launcher = await make_launcher()
    sandbox = await launcher.open(SMALL)
    assert is_direct(sandbox)
    refused = await sandbox.execute(KNOCK, timeout=30)
    assert refused.error is not None
    assert refused.error.name in ("FileNotFoundError", "ConnectionRefusedError")
    written = await sandbox.execute(f"open('{INSIDE}2', 'w')", timeout=30)
    assert written.error is not None
    assert written.error.name in ("OSError", "PermissionError", "FileNotFoundError")
    assert (await sandbox.execute("1 + 1", timeout=30)).value == "2"


@pytest.mark.anyio
@pytest.mark.docker
async def test_the_mount_is_read_only(make_launcher: MakeLauncher) -> None:
    launcher = await make_launcher()
    sandbox = await launcher.open(SMALL)
    mounts = inspect(sandbox.container_id)["Mounts"]  # type: ignore[attr-defined]
    assert [(each["Destination"], each["RW"]) for each in mounts] == [("/run/lap", False)]


@pytest.mark.anyio
@pytest.mark.docker
async def test_an_engine_that_sees_no_such_folder_is_used_without(
    make_launcher: MakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Mount(source=Path("/nowhere/at/all"), target=direct.TARGET)
    monkeypatch.setattr(Meeting, "mount", property(lambda self: nowhere))
    launcher = await make_launcher()
    for _ in range(2):
        sandbox = await launcher.open(SMALL)
        assert not is_direct(sandbox)
        assert await works(sandbox)
    assert not meetings_of(launcher).useful


@pytest.mark.anyio
@pytest.mark.docker
async def test_a_supervisor_that_cannot_reach_it_says_so(
    make_launcher: MakeLauncher, runtime_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def closed_to_it(meeting: Meeting) -> Mount:
        (meeting._folder / "host").chmod(0o600)
        return Mount(source=meeting._folder, target=direct.TARGET)

    monkeypatch.setattr(Meeting, "mount", property(closed_to_it))
    launcher = await make_launcher()
    sandbox = await launcher.open(SMALL)
    assert not is_direct(sandbox)
    assert await works(sandbox)
    assert not meetings_of(launcher).useful
    assert list(house(runtime_folder).iterdir()) == []


@pytest.mark.anyio
@pytest.mark.docker
async def test_the_end_of_the_container_is_seen(make_launcher: MakeLauncher) -> None:
    launcher = await make_launcher()
    sandbox = await launcher.open(SMALL)
    assert is_direct(sandbox)
    docker("kill", sandbox.container_id)  # type: ignore[attr-defined]
    await eventually_async(lambda: not sandbox.alive)


@pytest.mark.anyio
@pytest.mark.parametrize("how", [{"runtime": "kata"}, {"gvisor": True}])
async def test_a_guest_with_a_kernel_of_its_own_is_not_asked_to_come(
    above: Path, how: dict[str, Any]
) -> None:
    """At once and with no attempt, also where it is the engine's own default."""
    tried: list[tuple[str | None, int]] = []

    async def ends(placement: Placement) -> Attached:
        tried.append((placement.host_socket, len(placement.mounts)))
        raise LauncherUnavailable("That is all.")

    meetings = Meetings(str(above))
    with pytest.raises(LauncherUnavailable):
        await starting.start(meetings, FACTS, replace(PLACEMENT, **how), ends)
    assert tried == [(None, 0)]
    assert list(house(above).parent.iterdir()) == []


@pytest.mark.anyio
async def test_only_a_refusal_is_a_reason_to_try_without(above: Path) -> None:
    tried: list[bool] = []

    async def down(placement: Placement) -> Attached:
        tried.append(placement.host_socket is not None)
        raise LauncherUnavailable("The container engine does not answer.")

    meetings = Meetings(str(above))
    with pytest.raises(LauncherUnavailable):
        await starting.start(meetings, FACTS, PLACEMENT, down)
    assert tried == [True]
    assert meetings.useful


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("words", "useful"),
    [
        ("bind source path does not exist: {folder}", False),
        ("invalid mount config", False),
        ("busy", True),
    ],
)
async def test_only_what_is_said_of_the_mount_is_remembered(
    above: Path, words: str, useful: bool
) -> None:
    tried: list[bool] = []

    async def refuses(placement: Placement) -> Attached:
        tried.append(placement.host_socket is not None)
        raise EngineRefused(
            words.format(folder=placement.mounts[0].source if placement.mounts else "")
        )

    meetings = Meetings(str(above))
    with pytest.raises(EngineRefused):
        await starting.start(meetings, FACTS, PLACEMENT, refuses)
    assert tried == [True, False]
    assert meetings.useful is useful
    assert not list(house(above).iterdir())
