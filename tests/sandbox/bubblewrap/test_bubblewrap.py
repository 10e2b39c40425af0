"""What only bubblewrap has to see to: what is bound, what is left behind, what ends with what."""

from __future__ import annotations

import json
import os
import pwd
import signal
import sys
from pathlib import Path

import anyio
import pytest
from lap_sandbox.base import LauncherConfig, Mount
from lap_sandbox.bubblewrap import BubblewrapLauncher
from lap_sandbox.errors import LauncherUnavailable

from tests.capabilities import ROOT
from tests.sandbox.bubblewrap.conftest import MakeLauncher
from tests.sandbox.bubblewrap.records import alive, pids_below, records_of
from tests.sandbox.pool import SMALL
from tests.waiting import eventually_async

pytestmark = [pytest.mark.anyio, pytest.mark.bubblewrap]

READABLE = """
import os
found = []
for place in PLACES:
    try: os.stat(place); found.append(place)
    except OSError: pass
found
"""


async def test_neither_the_servers_packages_nor_a_home_nor_etc_can_be_seen(
    make_launcher: MakeLauncher, lap_home: Path
) -> None:
    box = await (await make_launcher()).open(SMALL)
    import pydantic

    import lap_mcp

    places = [
        str(ROOT / "pyproject.toml"),
        str(Path(lap_mcp.__file__)),
        str(Path(pydantic.__file__)),
        str(lap_home / "bubblewrap"),
        str(Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh"),
        str(Path(sys.prefix) / "bin"),
        "/etc/shadow", "/etc/hosts", "/var", "/run", "/home/", "/boot", "/srv", "/usr/local",
        "/var/run/docker.sock", "/proc/1/cwd",
    ]  # fmt: skip
    done = await box.execute(READABLE.replace("PLACES", repr(places)), timeout=30)
    assert done.value == "[]", done
    packages = (
        "import sys, pathlib\n"
        "sorted({p.name for e in sys.path if e for p in pathlib.Path(e).glob('*-packages/*')})"
    )
    assert (await box.execute(packages, timeout=30)).value == "[]"


async def test_nothing_that_the_server_has_open_is_inherited(make_launcher: MakeLauncher) -> None:
    """A harness may have handed the server descriptors of its own."""
    read, write = os.pipe()
    try:
        os.set_inheritable(read, True)
        os.set_inheritable(write, True)
        box = await (await make_launcher()).open(SMALL)
        code = (
            "import os\ndef links():\n    for n in os.listdir('/proc/self/fd'):\n"
            "        try: yield os.readlink(f'/proc/self/fd/{n}')\n        except OSError: pass\n"
            "sum(link.startswith('pipe:') for link in links())"
        )
        done = await box.execute(code, timeout=30)
        assert done.value == "2", "its own stdout and stderr"
    finally:
        os.close(read)
        os.close(write)


async def test_nothing_is_left_of_a_sandbox_that_was_closed(
    make_launcher: MakeLauncher, lap_home: Path, instance: str
) -> None:
    box = await (await make_launcher()).open(SMALL)
    ((id, record),) = records_of(lap_home, instance).items()
    await box.execute("import subprocess; subprocess.Popen(['sleep', '600'])", timeout=30)
    pids = pids_below(record["pid"])
    assert len(pids) >= 4
    groups = [Path(group) for group in record["groups"]]
    assert all(group.is_dir() for group in groups)
    await box.close()
    assert alive(pids) == set()
    assert not any(group.exists() for group in groups)
    assert records_of(lap_home, instance) == {}, id


async def test_every_sandbox_has_files_of_its_own(make_launcher: MakeLauncher) -> None:
    launcher = await make_launcher()
    boxes = [await launcher.open(SMALL) for _ in range(2)]
    await boxes[0].put("f", b"x")
    await boxes[0].execute("open('/tmp/t', 'w'); open('/dev/shm/t', 'w')", timeout=30)
    assert list(await boxes[1].list()) == []
    seen = await boxes[1].execute(
        "import os; os.listdir('/dev/shm') + [n for n in os.listdir('/tmp') if n == 't']",
        timeout=30,
    )
    assert seen.value == "[]"
    uids = {(await box.execute("import os; os.getuid()", timeout=30)).value for box in boxes}
    assert len(uids) == 2


@pytest.fixture
async def killed_server(lap_home: Path, instance: str) -> set[int]:
    """The processes of the sandboxes of a process that was killed while it held them."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/sandbox"}
    holder = str(ROOT / "tests/sandbox/bubblewrap/holder.py")
    process = await anyio.open_process(
        [sys.executable, holder, instance, str(lap_home)], env=environ, stderr=None
    )
    assert process.stdout is not None
    with anyio.fail_after(120):
        await process.stdout.receive()
    found = records_of(lap_home, instance)
    assert len(found) >= 2
    pids = {pid for record in found.values() for pid in pids_below(record["pid"])}
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await process.aclose()
    return pids


async def test_no_process_outlives_a_server_that_is_killed_and_the_next_clears_up(
    make_launcher: MakeLauncher, killed_server: set[int], lap_home: Path, instance: str
) -> None:
    await eventually_async(lambda: alive(killed_server) == set(), within=20)
    left = records_of(lap_home, instance)
    launcher = await make_launcher()
    assert await launcher.reap() == len(left) >= 2
    assert records_of(lap_home, instance) == {}
    groups = [Path(group) for record in left.values() for group in record["groups"]]
    assert not any(group.exists() for group in groups)


async def test_a_sandbox_that_another_process_left_running_is_ended_by_the_next(
    make_launcher: MakeLauncher, lap_home: Path, instance: str
) -> None:
    """Recorded under an owner that is dead, it is whatever `--die-with-parent` did not end."""
    launcher = await make_launcher()
    box = await launcher.open(SMALL)
    ((id, record),) = records_of(lap_home, instance).items()
    record["labels"]["lap.owner"] = "999999999:1"
    (lap_home / "bubblewrap" / "running" / f"{id}.json").write_text(json.dumps(record))
    other = await make_launcher()
    assert [entry["state"] for entry in await other.running()] == ["running"]
    assert await other.reap() == 1
    await eventually_async(lambda: not box.alive)
    assert alive(pids_below(record["pid"]) & {record["pid"]}) == set()


async def test_a_sandbox_whose_pid_was_never_recorded_is_found_by_its_id(
    make_launcher: MakeLauncher, lap_home: Path, instance: str
) -> None:
    """Its server was killed between starting it and knowing it."""
    launcher = await make_launcher()
    box = await launcher.open(SMALL)
    ((id, record),) = records_of(lap_home, instance).items()
    labels = {**record["labels"], "lap.owner": "999999999:1"}
    early = {**record, "pid": 0, "start": "", "labels": labels}
    (lap_home / "bubblewrap" / "running" / f"{id}.json").write_text(json.dumps(early))
    assert await (await make_launcher()).reap() == 1
    await eventually_async(lambda: not box.alive)
    await eventually_async(lambda: alive({record["pid"]}) == set())


async def test_a_recorded_pid_that_is_somebody_elses_by_now_is_left_alone(
    make_launcher: MakeLauncher, lap_home: Path, instance: str
) -> None:
    launcher = await make_launcher()
    box = await launcher.open(SMALL)
    ((id, record),) = records_of(lap_home, instance).items()
    bystander = await anyio.open_process(["sleep", "600"])
    other = {**record, "pid": bystander.pid, "groups": []}
    other["labels"] = {**record["labels"], "lap.owner": "999999999:1"}
    running = lap_home / "bubblewrap" / "running"
    (running / "left.json").write_text(json.dumps(other))
    assert await launcher.reap() == 1
    assert bystander.returncode is None
    bystander.kill()
    await bystander.wait()
    await bystander.aclose()
    assert (await box.execute("1", timeout=30)).value == "1"


async def test_a_folder_of_the_host_is_read_only(
    make_launcher: MakeLauncher, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir(mode=0o755)
    (tmp_path / "data" / "f").write_text("there")
    mount = Mount(source=tmp_path / "data", target="/mnt/shared/data")
    box = await (await make_launcher(mounts=[mount])).open(SMALL)
    assert (await box.execute("open('/mnt/shared/data/f').read()", timeout=30)).value == "'there'"
    refused = await box.execute("open('/mnt/shared/data/g', 'w')", timeout=30)
    assert refused.error is not None
    assert "Read-only" in refused.error.value


async def test_the_environment_is_made_once_and_again_when_asked(
    make_launcher: MakeLauncher, lap_home: Path
) -> None:
    await make_launcher()
    await make_launcher()
    made = [p.name for p in (lap_home / "bubblewrap" / "environments").glob("core-*")]
    assert len(made) == 1
    folder = lap_home / "bubblewrap" / "environments" / made[0]
    written = [p for p in folder.rglob("*") if p.is_file() and p.suffix in (".cfg", ".pth", "")]
    named = [p for p in written if str(lap_home).encode() in p.read_bytes()]
    assert named == [], "no path of this machine"
    assert not [p for p in (folder / "venv" / "bin").iterdir() if p.name[:6] != "python"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [({"runtime": "runsc"}, 'runtime = "runsc"'), ({"image": "mine:1"}, 'image = "mine:1"')],
)
async def test_what_only_an_engine_has_is_refused_in_words(
    settings: dict[str, str], says: str, tmp_path: Path
) -> None:
    config = LauncherConfig(warm=0, **settings)  # type: ignore[arg-type]
    launcher = BubblewrapLauncher(config, os.environ, tmp_path)
    with pytest.raises(LauncherUnavailable) as refused:
        await launcher.prepare()
    assert says in refused.value.message
    assert 'launcher = "docker"' in refused.value.remedy
    (check,) = await launcher.preflight()
    assert check.level == "error"
    await launcher.aclose()
