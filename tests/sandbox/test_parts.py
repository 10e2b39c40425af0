"""The parts of the launcher that decide without an engine: where one may be, whose a container is,
what the image is made of, what a doctor says, which system calls exist."""

from __future__ import annotations

import hashlib
import io
import json
import os
import socket
import subprocess
import sys
import tarfile
import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lap_sandbox import hardening, hosts, image_build, owner, preflight, seccomp
from lap_sandbox.base import LauncherConfig, Limits
from lap_sandbox.engine import Facts
from lap_sandbox.errors import BadPath
from lap_sandbox.hardening import Placement
from lap_sandbox.paths import clean_path, show_name
from lap_sandbox.profile_file import ProfileFile


def write_context(home: Path, name: str, host: str) -> None:
    config = home / ".docker"
    meta = config / "contexts" / "meta" / hashlib.sha256(name.encode()).hexdigest()
    meta.mkdir(parents=True)
    (config / "config.json").write_text(json.dumps({"currentContext": name}))
    found = {"Name": name, "Endpoints": {"docker": {"Host": host}}}
    (meta / "meta.json").write_text(json.dumps(found))


def test_docker_host_is_the_only_candidate_where_it_is_set(tmp_path: Path) -> None:
    write_context(tmp_path, "colima", "unix:///colima.sock")
    (found,) = hosts.candidates({"DOCKER_HOST": "tcp://10.0.0.1:2375"}, tmp_path)
    assert (found.address, found.how, found.tls) == ("tcp://10.0.0.1:2375", "DOCKER_HOST", None)


def test_tls_is_used_as_the_docker_cli_does(tmp_path: Path) -> None:
    environ = {"DOCKER_HOST": "tcp://h:2376", "DOCKER_TLS_VERIFY": "1"}
    (found,) = hosts.candidates(environ, tmp_path)
    assert (found.tls, found.verify) == (tmp_path / ".docker", True)


def test_the_current_context_of_the_docker_cli_comes_next(tmp_path: Path) -> None:
    write_context(tmp_path, "colima", "unix:///colima.sock")
    (found,) = hosts.candidates({}, tmp_path)
    assert found.address == "unix:///colima.sock"
    assert "`colima`" in found.how


def test_a_broken_context_leads_to_the_default_sockets(tmp_path: Path) -> None:
    write_context(tmp_path, "colima", "unix:///colima.sock")
    (tmp_path / ".docker" / "config.json").write_text("{")
    found = hosts.candidates({}, tmp_path)
    assert all("colima" not in candidate.address for candidate in found)


def test_sockets_of_other_engines_are_found(tmp_path: Path) -> None:
    run = Path("/tmp") / f"lap-{os.getpid()}"  # a socket's path must be short
    run.mkdir()
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(run / "docker.sock"))
            found = hosts.candidates({"XDG_RUNTIME_DIR": str(run)}, tmp_path)
        assert f"unix://{run}/docker.sock" in [candidate.address for candidate in found]
    finally:
        (run / "docker.sock").unlink()
        run.rmdir()


def test_sockets_are_looked_for_where_no_variable_says_so(tmp_path: Path) -> None:
    """A harness starts us without XDG_RUNTIME_DIR; so does sudo."""
    found = [str(place) for place in hosts._sockets({}, tmp_path)]
    user = f"/run/user/{os.getuid()}"
    for place in (
        "/var/run/docker.sock",
        f"{user}/docker.sock",
        f"{user}/podman/podman.sock",
        "/run/podman/podman.sock",
        f"{tmp_path}/.colima/default/docker.sock",
        f"{tmp_path}/.orbstack/run/docker.sock",
        f"{tmp_path}/.docker/desktop/docker.sock",
    ):
        assert place in found
    assert len(found) == len(set(found))


def test_a_contexts_tls_files_are_found(tmp_path: Path) -> None:
    write_context(tmp_path, "far", "tcp://far:2376")
    digest = hashlib.sha256(b"far").hexdigest()
    folder = tmp_path / ".docker/contexts/tls" / digest / "docker"
    folder.mkdir(parents=True)
    (found,) = hosts.candidates({}, tmp_path)
    assert (found.address, found.tls, found.verify) == ("tcp://far:2376", folder, True)


def test_a_running_process_is_alive_and_an_ended_one_dead() -> None:
    here = owner.machine()
    assert not owner.is_dead(owner.this_process(), here)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start = owner.start_of(child.pid)
    assert not owner.is_dead(f"{child.pid}:{start}", here)
    child.communicate()
    assert owner.is_dead(f"{child.pid}:{start}", here)


def test_a_pid_that_was_given_to_another_process_is_dead() -> None:
    assert owner.is_dead(f"{os.getpid()}:1", owner.machine())


def test_nothing_is_said_about_processes_of_another_machine() -> None:
    assert not owner.is_dead("999999999:1", "another boot")


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {m.name: archive.extractfile(m).read() for m in archive}  # type: ignore[union-attr]


def test_the_context_is_the_same_each_time_and_holds_the_runner() -> None:
    first = image_build.request("lap-sandbox:core", "core", {})
    assert first == image_build.request("lap-sandbox:core", "core", {})
    found = members(first.context)
    assert {"Dockerfile", "supervisor.py", "requirements-core.txt"} <= found.keys()
    assert "lib/lap_sandbox/runner/wire.py" in found
    assert not any(name.endswith(".pyc") for name in found)
    assert first.labels[image_build.HASH_LABEL] == image_build.content_hash("core")
    assert image_build.content_hash("core") != image_build.content_hash("full")


def test_certificates_and_proxies_go_to_the_builder_and_not_into_the_hash(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("CERTIFICATE")
    environ = {"SSL_CERT_FILE": str(bundle), "HTTPS_PROXY": "http://p:1", "PIP_INDEX_URL": "u"}
    plain = image_build.request("lap-sandbox:core", "core", {})
    found = image_build.request("lap-sandbox:core", "core", environ)
    assert members(found.context)["extra-ca.pem"] == b"CERTIFICATE"
    assert found.arguments["HTTPS_PROXY"] == "http://p:1"
    assert found.arguments["PIP_INDEX_URL"] == "u"
    assert found.labels == plain.labels
    final = members(found.context)["Dockerfile"].decode().rpartition("\nFROM ")[2]
    assert "extra-ca" not in final
    assert "PIP_" not in final


def test_requirements_are_pinned_and_name_no_address() -> None:
    found = image_build.inputs()
    for name in ("requirements-core.txt", "requirements-full.txt"):
        lines = found[name].decode().split()
        assert len(lines) > 5
        assert all(line.count("==") == 1 and "/" not in line for line in lines)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ([], "starting"),
        (["Step 3/11 : RUN apt-get update -q"], "step 3 of 11, RUN apt-get update -q"),
        (["Step 4/11 : RUN pip", "Collecting pandas==3.1.1"], "step 4 of 11, collecting pandas"),
    ],
)
def test_the_builders_lines_become_words(lines: list[str], words: str) -> None:
    progress = image_build.Progress()
    for line in lines:
        progress.line(line)
    said = progress.preparation(38.2)
    assert said.words == f"sandbox image: {words} (38 s)"
    assert not said.ready
    assert said.fraction is not None
    assert 0 <= said.fraction < 1


def facts(runc: str = "1.3.3", security: tuple[str, ...] = ("seccomp", "rootless")) -> Facts:
    return Facts(
        address="unix:///x",
        how="test",
        version="29.0",
        components={"runc": runc},
        security=security,
        cgroup_version="2",
        runtimes=("runc",),
    )


def levels(found: Facts, config: LauncherConfig | None = None) -> dict[str, str]:
    checks = preflight.checks(found, config or LauncherConfig(), None)
    assert all(check.remedy or check.level != "error" for check in checks)
    return {check.name: check.level for check in checks}


@pytest.mark.parametrize(
    ("runc", "level"),
    [
        ("1.1.5+ds1", "warning"),
        ("1.2.7", "warning"),
        ("1.2.8", "ok"),
        ("1.3.2", "warning"),
        ("1.4.0", "ok"),
        ("1.5.1", "ok"),
        ("2.0.0", "ok"),
        ("", "warning"),
        ("unknown", "warning"),
    ],
)
def test_an_old_runc_is_a_warning_and_no_refusal(runc: str, level: str) -> None:
    assert levels(facts(runc))["runc"] == level


def test_an_engine_without_seccomp_is_an_error() -> None:
    assert levels(facts(security=()))["seccomp"] == "error"


def test_a_runtime_that_the_engine_does_not_know_is_an_error() -> None:
    assert levels(facts(), LauncherConfig(runtime="runsc"))["runtime"] == "error"


def test_a_runtime_with_a_kernel_of_its_own_is_told_with_what_it_leaves_out() -> None:
    found = replace(facts(), runtimes=("runc", "runsc"), gvisor=("runsc",))
    checks = preflight.checks(found, LauncherConfig(runtime="runsc"), None)
    (check,) = [check for check in checks if check.name == "runtime"]
    assert check.level == "ok"
    assert "does not apply our seccomp profile" in check.words


def test_podman_is_known_with_its_runc_and_what_it_does_not_limit() -> None:
    podman = {"Podman Engine": "4.3.1", "OCI Runtime (runc)": "runc version 1.1.5+ds1\ncommit: x"}
    found = levels(replace(facts(), components=podman))
    assert (found["runc"], found["files"]) == ("warning", "warning")
    checks = preflight.checks(replace(facts(), components=podman), LauncherConfig(), None)
    assert next(c for c in checks if c.name == "runc").words.startswith("1.1.5+ds1 is older")


@pytest.mark.parametrize(("security", "level"), [(("apparmor",), "ok"), ((), "warning")])
def test_apparmor_is_a_layer_that_may_be_missing(security: tuple[str, ...], level: str) -> None:
    assert levels(facts(security=("seccomp", *security)))["apparmor"] == level


def test_an_engine_without_control_groups_is_told_and_limits_each_process_instead() -> None:
    info = {"MemoryLimit": False, "PidsLimit": False, "CpuCfsQuota": True, "NCPU": 2}
    assert preflight.unlimited(info) == ["memory", "processes"]
    assert preflight.unlimited({}) == []
    found = replace(facts(), unlimited=("memory", "processes"))
    assert (levels(facts())["cgroup"], levels(found)["cgroup"]) == ("ok", "warning")
    (check,) = [c for c in preflight.checks(found, LauncherConfig(), None) if c.name == "cgroup"]
    assert "memory, processes of a whole sandbox" in check.words
    placement = Placement(image="x", runtime=None, apparmor=False, small_uids=True, labels={})
    held, limits = replace(placement, ungrouped=True), Limits(memory=123, pids=45)
    assert {"data", "nproc"}.isdisjoint(hardening.ulimits(limits, placement))
    with_these = hardening.ulimits(limits, held)
    assert (with_these["data"], with_these["nproc"]) == (123, 45)


def test_gvisor_is_known_by_name_or_program() -> None:
    known = {
        "runc": {"path": "runc"},
        "runsc": {"path": "/usr/local/bin/wrapper"},
        "guarded": {"path": "/usr/bin/runsc"},
        "io.containerd.runc.v2": {},
    }
    assert preflight.gvisor({"Runtimes": known}) == ["runsc", "guarded"]
    assert preflight.gvisor({"Runtimes": None}) == []


def test_gvisor_counts_its_own_processes_and_the_engine_those_of_its_kernel() -> None:
    placement = Placement(image="x", runtime="runsc", apparmor=False, small_uids=False, labels={})
    limits, guest = Limits(pids=45), replace(placement, gvisor=True)
    assert hardening.ulimits(limits, guest)["nproc"] == 45
    options = hardening.options(limits, guest, 5)
    assert options["pids_limit"] > 5 * 45
    assert options["mem_limit"] == options["memswap_limit"] > limits.memory
    assert "nproc" not in hardening.ulimits(limits, placement)
    options = hardening.options(limits, placement, 5)
    assert (options["pids_limit"], options["mem_limit"]) == (45, limits.memory)


def test_podman_gets_its_profile_as_a_file_and_only_options_that_it_knows() -> None:
    placement = Placement(
        image="sha256:x", runtime=None, apparmor=False, small_uids=False, labels={},
        profile_file="/run/profile.json",
    )  # fmt: skip
    options = hardening.options(Limits(), placement, 5)
    assert "seccomp=/run/profile.json" in options["security_opt"]
    for mount in options["tmpfs"].values():
        assert {"noexec", "nosuid", "nodev"} <= set(mount.split(","))
        assert "nr_inodes" not in mount
    profile = ProfileFile()
    path = Path(profile.path())
    assert json.loads(path.read_text()) == seccomp.profile()
    assert profile.path() == str(path)
    profile.remove()
    assert not path.exists()


def test_an_image_that_is_missing_is_built_later() -> None:
    assert levels(facts())["image"] == "warning"
    assert levels(facts(), LauncherConfig(image="mine:1"))["image"] == "error"


def test_the_profile_denies_by_default_and_names_nothing_dangerous() -> None:
    profile = json.loads(json.dumps(seccomp.profile()))
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = {
        name
        for rule in profile["syscalls"]
        if rule["action"] == "SCMP_ACT_ALLOW" and not rule.get("args")
        for name in rule["names"]
    }
    dangerous = {
        "socket", "clone", "clone3", "mount", "umount2", "unshare", "setns", "ptrace", "bpf",
        "io_uring_setup", "keyctl", "add_key", "perf_event_open", "userfaultfd", "ioctl",
        "process_vm_readv", "process_vm_writev", "pidfd_getfd", "open_by_handle_at", "chroot",
        "pivot_root", "init_module", "kexec_load", "reboot", "personality", "socketcall",
        "name_to_handle_at", "fanotify_init", "quotactl", "syslog", "settimeofday", "move_pages",
    }  # fmt: skip
    assert not allowed & dangerous
    assert {"execve", "futex", "openat", "mmap"} <= allowed


def test_uids_are_out_of_the_way_and_differ() -> None:
    large = {hardening.choose_uid(small=False) for _ in range(50)}
    small = {hardening.choose_uid(small=True) for _ in range(50)}
    assert len(large) > 45
    assert min(large) >= 2_000_000_000
    assert max(large) < 2**31
    assert 10_000 <= min(small) <= max(small) < 65_000


def test_nothing_of_the_server_is_given_to_a_container() -> None:
    placement = Placement(
        image="sha256:x", runtime=None, apparmor=True, small_uids=False, labels={}
    )
    options = hardening.options(Limits(), placement, 5)
    assert not {"volumes", "devices", "mounts", "ports", "pid_mode", "volumes_from"} & set(options)
    assert "apparmor=docker-default" in options["security_opt"]


@given(st.text(max_size=60))
def test_a_path_is_refused_or_stays_below_its_folder(path: str) -> None:
    try:
        clean = clean_path(path)
    except BadPath:
        return
    assert os.path.normpath(clean) == clean
    assert not clean.startswith(("/", ".."))


@given(st.text(max_size=60))
def test_a_shown_name_holds_nothing_that_moves_a_cursor(name: str) -> None:
    shown = show_name(name)
    assert not {unicodedata.category(char) for char in shown} & {"Cc", "Cf", "Cs", "Zl", "Zp"}
