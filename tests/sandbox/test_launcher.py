"""The launcher and its engine: what is created, what is left behind, what is said when it fails."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
from lap_sandbox import session
from lap_sandbox.base import LauncherConfig
from lap_sandbox.docker_engine import DockerEngine, DockerLauncher
from lap_sandbox.errors import LauncherUnavailable, SandboxGone
from lap_sandbox.hardening import COMMAND
from lap_sandbox.link import Link

from tests.capabilities import ROOT
from tests.sandbox.conftest import MakeLauncher
from tests.sandbox.engine_view import containers_of, docker, inspect, running_of
from tests.sandbox.pool import SMALL
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio


def engineless(environ: dict[str, str], home: Path) -> DockerLauncher:
    return DockerLauncher(LauncherConfig(warm=0), environ, home)


async def refusal(launcher: DockerLauncher) -> tuple[LauncherUnavailable, float]:
    """What `open` and `prepare` say, and the longer of their times, each the best of three: the
    machine may be busy with something else."""
    longest = 0.0
    for attempt in (launcher.prepare, lambda: launcher.open(SMALL)):
        times = []
        for _ in range(3):
            begun = time.monotonic()
            with pytest.raises(LauncherUnavailable) as refused:
                await attempt()
            times.append(time.monotonic() - begun)
        longest = max(longest, min(times))
    await launcher.aclose()
    return refused.value, longest


@pytest.fixture
def silent_engine(tmp_path: Path) -> Iterator[str]:
    """An address that takes connections and never answers."""
    path = tmp_path / "silent.sock"
    taken: list[socket.socket] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def take() -> None:
            with contextlib.suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])

        thread = threading.Thread(target=take, daemon=True)
        thread.start()
        yield f"unix://{path}"
        listener.shutdown(socket.SHUT_RDWR)
        thread.join(5)
        for connection in taken:
            connection.close()


@pytest.mark.parametrize(
    "host", ["unix:///nowhere/docker.sock", "tcp://127.0.0.1:9", "nonsense://", "unix:///dev/null"]
)
async def test_an_engine_that_is_not_there_is_said_within_two_seconds(
    host: str, tmp_path: Path
) -> None:
    launcher = engineless({"DOCKER_HOST": host}, tmp_path)
    error, seconds = await refusal(launcher)
    assert seconds <= 2
    assert host in error.message
    assert "DOCKER_HOST" in error.remedy
    assert launcher.preparation().error is not None


async def test_an_address_of_ssh_is_said_with_what_to_do_instead(tmp_path: Path) -> None:
    launcher = engineless({"DOCKER_HOST": "ssh://far"}, tmp_path)
    error, _ = await refusal(launcher)
    assert "ssh:// is not supported; forward its socket" in error.message


async def test_an_engine_that_hangs_is_said_within_two_seconds(
    silent_engine: str, tmp_path: Path
) -> None:
    error, seconds = await refusal(engineless({"DOCKER_HOST": silent_engine}, tmp_path))
    assert seconds <= 2
    assert "answers" in error.message


async def test_preflight_without_an_engine_is_one_error_with_a_remedy(tmp_path: Path) -> None:
    launcher = engineless({"DOCKER_HOST": "unix:///nowhere"}, tmp_path)
    (check,) = await launcher.preflight()
    assert (check.name, check.level) == ("engine", "error")
    assert check.remedy
    await launcher.aclose()


@pytest.mark.docker
async def test_an_engine_that_came_back_is_found_again(
    tmp_path: Path, instance: str, engine_environ: Mapping[str, str]
) -> None:
    engine = engine_environ.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    link = tmp_path / "docker.sock"
    environ = {"DOCKER_HOST": f"unix://{link}"}
    launcher = DockerLauncher(LauncherConfig(warm=0, instance=instance), environ, tmp_path)
    with pytest.raises(LauncherUnavailable):
        await launcher.prepare()
    link.symlink_to(engine.removeprefix("unix://"))
    await launcher.prepare()
    assert launcher.preparation().ready
    await launcher.aclose()


@pytest.mark.docker
async def test_a_container_is_created_with_every_restriction(
    make_launcher: MakeLauncher, instance: str
) -> None:
    launcher = await make_launcher()
    await launcher.open(SMALL, labels={"session": "ses_1"})
    (id,) = containers_of(instance)
    found = inspect(id)
    host, config = found["HostConfig"], found["Config"]
    assert host["NetworkMode"] == "none"
    assert host["ReadonlyRootfs"] is True
    assert host["CapDrop"] == ["ALL"]
    assert host["Privileged"] is False
    assert not host["Binds"]
    assert not host["Devices"]
    assert host["IpcMode"] == "private"
    assert host["CgroupnsMode"] == "private"
    assert host["PidsLimit"] == SMALL.pids
    assert host["Memory"] == host["MemorySwap"] == SMALL.memory
    assert host["NanoCpus"] == 1_000_000_000
    assert host["LogConfig"]["Type"] == "none"
    assert host["AutoRemove"] is True
    assert {u["Name"]: u["Hard"] for u in host["Ulimits"]}["core"] == 0
    options = host["SecurityOpt"]
    assert "no-new-privileges:true" in options
    assert any(o.startswith("seccomp={") for o in options)
    for mount in ("/mnt/data", "/tmp"):
        assert {"noexec", "nosuid", "nodev"} <= set(host["Tmpfs"][mount].split(","))
    assert config["Image"].startswith("sha256:")
    assert config["StdinOnce"] is True
    assert config["Tty"] is False
    uid, gid = config["User"].split(":")
    assert uid == gid
    assert int(uid) >= 10_000
    assert config["Labels"]["lap.label.session"] == "ses_1"
    assert not any("proxy" in entry.lower() for entry in config["Env"])
    # The socket of this server alone (`direct.py`).
    assert [(each["Destination"], each["RW"]) for each in found["Mounts"]] == [("/run/lap", False)]


@pytest.mark.docker
async def test_every_sandbox_has_a_container_and_a_uid_of_its_own(
    make_launcher: MakeLauncher, instance: str
) -> None:
    launcher = await make_launcher()
    boxes = [await launcher.open(SMALL) for _ in range(2)]
    found = containers_of(instance)
    assert len(found) == 2
    assert len({inspect(id)["Config"]["User"] for id in found}) == 2
    await boxes[0].put("f", b"x")
    assert list(await boxes[1].list()) == []


@pytest.mark.docker
async def test_nothing_is_left_after_closing(make_launcher: MakeLauncher, instance: str) -> None:
    launcher = await make_launcher(warm=1)
    box = await launcher.open(SMALL)
    await launcher.open(SMALL)
    await box.close()
    assert len(containers_of(instance)) <= 2
    await launcher.aclose()
    assert containers_of(instance) == []


@pytest.mark.docker
async def test_nothing_is_left_when_opening_is_cancelled(
    make_launcher: MakeLauncher, instance: str
) -> None:
    launcher = await make_launcher()
    for seconds in (0.01, 0.2, 0.5):
        with anyio.move_on_after(seconds):
            box = await launcher.open(SMALL)
            await box.close()
    await eventually_async(lambda: containers_of(instance) == [])


@pytest.mark.docker
async def test_a_warm_sandbox_is_taken_and_replaced(
    make_launcher: MakeLauncher, instance: str
) -> None:
    launcher = await make_launcher(warm=1)
    await eventually_async(lambda: len(containers_of(instance)) == 1)
    (warm,) = containers_of(instance)
    box = await launcher.open(SMALL)
    assert (await box.execute("1", timeout=20)).value == "1"
    assert warm in containers_of(instance)
    await eventually_async(lambda: len(containers_of(instance)) == 2)


@pytest.mark.docker
async def test_what_a_warm_sandbox_rehearsed_leaves_nothing_behind(
    make_launcher: MakeLauncher,
) -> None:
    """No name, no `_`, no cell that was counted; numpy is imported, which shows that it did."""
    launcher = await make_launcher(warm=1)
    await eventually_async(lambda: launcher.ready_sandboxes == 1)
    box = await launcher.open(SMALL)
    names = (
        "import sys\n[n for n in globals() if n[:2] != '__' and n != 'sys'], 'numpy' in sys.modules"
    )
    first = await box.execute(names, timeout=20)
    assert first.value == "([], True)", first
    second = await box.execute("1 / 0", timeout=20)
    assert second.error is not None
    assert 'File "Cell 2"' in second.error.traceback
    assert first.files == second.files == ()


@pytest.mark.docker
async def test_a_warm_sandbox_that_nobody_took_is_replaced_when_it_is_old(
    make_launcher: MakeLauncher, instance: str
) -> None:
    await make_launcher(warm=1, warm_age=3.0)
    await eventually_async(lambda: len(containers_of(instance)) == 1)
    first = containers_of(instance)
    await eventually_async(lambda: first[0] not in containers_of(instance))
    await eventually_async(lambda: len(running_of(instance)) == 1)


@pytest.mark.docker
async def test_a_warm_sandbox_that_died_is_not_handed_out(
    make_launcher: MakeLauncher, instance: str
) -> None:
    launcher = await make_launcher(warm=1)
    await eventually_async(lambda: len(containers_of(instance)) == 1)
    docker("kill", containers_of(instance)[0])
    box = await launcher.open(SMALL)
    assert (await box.execute("1", timeout=20)).value == "1"


@pytest.mark.docker
async def test_a_container_that_is_killed_while_code_runs_is_replaced_and_told(
    make_launcher: MakeLauncher, instance: str
) -> None:
    launcher = await make_launcher()
    box = await launcher.open(SMALL)
    await box.put("f", b"x")
    (id,) = containers_of(instance)
    found = []
    began = anyio.Event()

    async def execute() -> None:
        code = "print('on')\nwhile True: pass"
        found.append(await box.execute(code, timeout=60, on_output=lambda *_: began.set()))

    async with anyio.create_task_group() as group:
        group.start_soon(execute)
        await began.wait()
        docker("kill", id)
    (execution,) = found
    assert execution.status == "died"
    assert execution.state_lost
    assert execution.files_lost
    assert "fresh sandbox" in execution.notice
    assert (await box.execute("2", timeout=20)).value == "2"
    assert list(await box.list()) == []


@pytest.mark.docker
async def test_a_sandbox_whose_container_ended_between_calls_says_that_it_is_gone(
    make_launcher: MakeLauncher, instance: str
) -> None:
    launcher = await make_launcher()
    box = await launcher.open(SMALL)
    docker("kill", containers_of(instance)[0])
    await eventually_async(lambda: not box.alive)
    with pytest.raises(SandboxGone):
        await box.execute("1", timeout=5)


@pytest.mark.docker
async def test_what_an_idle_sandbox_left_running_is_stopped_until_the_next_call(
    make_launcher: MakeLauncher, instance: str
) -> None:
    launcher = await make_launcher(idle_stop=0.3)
    box = await launcher.open(SMALL)
    await box.execute(
        "import threading\nn = 0\ndef count():\n    global n\n    while True: n += 1\n"
        "threading.Thread(target=count, daemon=True).start()",
        timeout=20,
    )
    (id,) = containers_of(instance)

    def states() -> set[str]:
        return {line.split()[0] for line in docker("top", id, "-o", "stat,pid").splitlines()[1:]}

    await eventually_async(lambda: any(state.startswith("T") for state in states()))
    grows = "import time\nseen = n\nwhile n == seen: time.sleep(0.01)\nn > seen > 0"
    assert (await box.execute(grows, timeout=20)).value == "True"


@pytest.fixture
async def killed_server(instance: str) -> None:
    """A process that held two sandboxes and a warm one, and was killed."""
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT}/sandbox"}
    process = await anyio.open_process(
        [sys.executable, str(ROOT / "tests/sandbox/holder.py"), instance],
        env=environ,
        stderr=None,
    )
    assert process.stdout is not None
    with anyio.fail_after(60):
        await process.stdout.receive()
    assert len(containers_of(instance)) >= 2
    process.send_signal(signal.SIGKILL)
    await process.wait()
    await process.aclose()


@pytest.mark.docker
async def test_no_container_outlives_a_server_that_is_killed(
    make_launcher: MakeLauncher, instance: str, killed_server: None
) -> None:
    """What runs ends by itself.  A container that was created but not yet started at that moment
    has nobody to end it; the next start does."""
    await eventually_async(lambda: running_of(instance) == [], within=20)
    launcher = await make_launcher()
    await launcher.reap()
    await eventually_async(lambda: containers_of(instance) == [])


@pytest.mark.docker
async def test_the_next_start_reaps_what_a_dead_server_left(
    make_launcher: MakeLauncher, instance: str
) -> None:
    launcher = await make_launcher()
    kept = await launcher.open(SMALL)
    (own,) = containers_of(instance)
    labels = inspect(own)["Config"]["Labels"]
    dead = {**labels, "lap.owner": "999999999:1"}
    arguments = [part for k, v in dead.items() for part in ("--label", f"{k}={v}")]
    left = docker("create", *arguments, "--network", "none", "lap-sandbox:core").strip()
    assert await launcher.reap() == 1
    assert left not in containers_of(instance)
    assert (await kept.execute("1", timeout=20)).value == "1"


@pytest.mark.docker
async def test_what_runs_for_a_server_that_cannot_be_seen_is_reaped_once_it_expired(
    make_launcher: MakeLauncher, instance: str
) -> None:
    launcher = await make_launcher(life=3600)
    await launcher.open(SMALL)
    labels = inspect(containers_of(instance)[0])["Config"]["Labels"]
    assert 3000 < int(labels["lap.expires"]) - time.time() <= 3600
    foreign = {**labels, "lap.machine": "another/pid:[1]", "lap.owner": "1:1"}

    def left(**other: str) -> str:
        marked = {**foreign, **{f"lap.{name}": value for name, value in other.items()}}
        arguments = [part for k, v in marked.items() for part in ("--label", f"{k}={v}")]
        sleep = ["--entrypoint", "/bin/sleep", "lap-sandbox:core", "600"]
        return docker("run", "-d", "--rm", "--network", "none", *arguments, *sleep).strip()

    in_use, of_old, over = left(), left(expires="soon"), left(expires="1")
    ours = left(machine=labels["lap.machine"], owner=labels["lap.owner"], expires="1")
    assert await launcher.reap() == 1
    assert {in_use, of_old, ours} <= set(running_of(instance))
    assert over not in running_of(instance)
    docker("rm", "-f", in_use, of_old, ours)


@pytest.mark.docker
async def test_an_image_of_another_version_is_noticed(
    make_launcher: MakeLauncher, instance: str, tmp_path: Path
) -> None:
    launcher = await make_launcher()
    levels = {check.name: check.level for check in await launcher.preflight()}
    assert levels["image"] == "ok"
    assert levels["seccomp"] == "ok"
    other = DockerLauncher(
        LauncherConfig(image="no-such-image:1", warm=0, instance=instance), {}, tmp_path
    )
    with pytest.raises(LauncherUnavailable, match="not on this engine"):
        await other.prepare()
    await other.aclose()


@pytest.mark.docker
async def test_a_sandbox_that_stops_answering_ends_its_call_in_words(
    make_launcher: MakeLauncher, instance: str
) -> None:
    """Frozen by the engine, it is silent the way it is when the engine itself hangs."""
    launcher = await make_launcher()
    box = await launcher.open(SMALL)
    docker("pause", containers_of(instance)[0])
    with anyio.fail_after(30), pytest.raises(SandboxGone, match="stopped answering"):
        await box.execute("1", timeout=600)
    assert not box.alive
    await box.close()
    await eventually_async(lambda: containers_of(instance) == [])


@pytest.mark.docker
async def test_one_that_ends_while_it_is_asked_whether_it_is_there_is_replaced(
    make_launcher: MakeLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    launcher = await make_launcher()
    box = await launcher.open(SMALL)
    ask = Link.ping

    async def too_late(link: Link, deadline: float) -> None:
        await anyio.to_thread.run_sync(docker, "kill", box.container_id)
        await ask(link, deadline)

    with monkeypatch.context() as patch:
        patch.setattr(session, "QUIET_SECONDS", 0.2)
        patch.setattr(Link, "ping", too_late)
        ended = await box.execute("import time; time.sleep(60)", timeout=60)
    assert (ended.status, ended.state_lost, ended.files_lost) == ("died", True, True)
    assert (await box.execute("6 * 7", timeout=30)).value == "42"


@pytest.mark.docker
@pytest.mark.parametrize(("size", "short"), [(1 << 30, True), (1, False)])
async def test_that_memory_ran_out_is_known_of_a_container_that_is_removed(
    engine_environ: Mapping[str, str], tmp_path: Path, size: int, short: bool
) -> None:
    engine = DockerEngine(engine_environ, tmp_path)
    await engine.find()
    id = docker(
        "run", "--detach", "--rm", "--network", "none", "--memory", "64m", "--memory-swap", "64m",
        "--entrypoint", COMMAND[0], "lap-sandbox:core", "-c", f"bytearray({size})",
    ).strip()  # fmt: skip
    await eventually_async(lambda: docker("ps", "-aq", "--filter", f"id={id}") == "")
    assert await engine.oom_killed(id) is short
    await engine.aclose()


@pytest.mark.docker
async def test_an_image_is_discarded_only_where_nothing_names_it(
    make_launcher: MakeLauncher,
    instance: str,
    tmp_path: Path,
    engine_environ: Mapping[str, str],
) -> None:
    await make_launcher()
    engine = DockerEngine(engine_environ, tmp_path)
    tag = f"lap-test:{instance}"
    docker("build", "-q", "-t", tag, "--label", f"lap.test={instance}", str(empty_image(tmp_path)))
    id = docker("images", "-q", "--no-trunc", tag).strip()
    await engine.discard_image(id)
    assert docker("images", "-q", "--no-trunc", tag).strip() == id
    kept = docker("create", "--label", f"lap.instance={instance}", tag).strip()
    docker("tag", "lap-sandbox:core", tag)
    await engine.discard_image(id)
    assert inspect(id)["Id"] == id
    docker("rm", kept)
    await engine.discard_image(id)
    assert docker("images", "-qa", "--no-trunc", "--filter", f"label=lap.test={instance}") == ""
    docker("rmi", tag)
    await engine.aclose()


def empty_image(folder: Path) -> Path:
    """A context that builds an image of no size."""
    context = folder / "context"
    context.mkdir()
    (context / "Dockerfile").write_text('FROM lap-sandbox:core\nCMD ["true"]\n')
    return context
