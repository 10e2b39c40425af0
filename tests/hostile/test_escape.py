"""Cases 25 to 40: code that wants out, or up."""

from __future__ import annotations

import pytest
from lap_sandbox.base import Sandbox

from tests.hostile.attacks import SYSCALL, Attack, attempt, run, value
from tests.hostile.launchers import Confinement

pytestmark = pytest.mark.anyio

GET_SECCOMP, GET_NO_NEW_PRIVS = 21, 39
PRCTL = "import ctypes; ctypes.CDLL(None).prctl({}, 0, 0, 0, 0)"

ATTACKS = [
    Attack(30, "kills-pid-1", "import os; os.kill(1, 9); os.kill(1, 2); os.kill(1, 15); 'alive'",
           ("ok",), "alive"),
    Attack(30, "kills-all", "import os; os.kill(-1, 9)", ("died", "ok")),
    Attack(35, "working-folder",
           "import os\nfound = []\nfor fd in range(3, 64):\n"
           "    try: found.append(os.listdir(f'/proc/self/fd/{fd}/../../..'))\n"
           "    except OSError: pass\nos.path.exists('/.dockerenv') or not found", ("ok",), "True"),
    Attack(35, "replaces-dev-null", "import os; os.unlink('/dev/null')", ("error",)),
    Attack(35, "overwrites-its-program", "open('/proc/self/exe', 'wb')", ("error",)),
    Attack(36, "host-sockets",
           "import os\n[p for p in ('/var/run/docker.sock', '/run/docker.sock',\n"
           "  '/run/containerd/containerd.sock', '/var/run/secrets') if os.path.exists(p)]",
           ("ok",), "[]"),
    Attack(36, "metadata", "import urllib.request as u\n"
           "u.urlopen('http://169.254.169.254/latest/meta-data', timeout=2)", ("error",)),
    Attack(39, "noexec", "import shutil, subprocess\nshutil.copy('/bin/true', 't')\n"
           "import os; os.chmod('t', 0o755); subprocess.run(['./t'])", ("error",),
           "PermissionError"),
    Attack(39, "shared-object", "import shutil, ctypes, ctypes.util, glob\n"
           "shutil.copy(glob.glob('/lib/*/libm.so.6')[0], 'm.so'); ctypes.CDLL('./m.so')",
           ("error",), "OSError"),
    Attack(40, "priority",
           "import os\nfor act in (lambda: os.nice(-20),\n"
           "            lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))):\n"
           "    try: act(); print('granted')\n    except PermissionError: print('refused')",
           ("ok",), "refused\nrefused"),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
async def test_what_is_tried_fails(attack: Attack, sandbox: Sandbox) -> None:
    await attempt(attack, sandbox)


async def test_25_58_60_nothing_secret_is_in_the_environment_or_in_proc(
    sandbox: Sandbox, confinement: Confinement
) -> None:
    also = sorted(confinement.environment)
    names = await value(sandbox, f"import os; sorted(set(os.environ) - set({also}))")
    expected = ["HOME", "HOSTNAME", "LANG", "LOGNAME", "MPLBACKEND", "MPLCONFIGDIR",
                "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH", "PYTHONDONTWRITEBYTECODE",
                "USER"]  # fmt: skip
    assert names == repr(expected)
    shadow = await run(sandbox, "open('/etc/shadow', 'rb').read()")
    assert shadow.error is not None
    assert shadow.error.name in ("PermissionError", "FileNotFoundError")
    assert await value(sandbox, "import socket; socket.gethostname()") == "'sandbox'"


@pytest.mark.parametrize(
    "path",
    ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/fs/cgroup/memory.max",
     "/sys/fs/cgroup/memory/release_agent", "/etc/passwd", "/dev/mem"],
)  # fmt: skip
async def test_26_36_the_systems_own_files_cannot_be_written(sandbox: Sandbox, path: str) -> None:
    execution = await run(sandbox, f"open('{path}', 'w').write('x')")
    assert execution.status == "error"


@pytest.mark.parametrize(
    ("name", "number", "arguments", "expected"),
    [
        ("mount", 165, "0,0,0,0,0", "EPERM"),
        ("unshare user", 272, "0x10000000", "EPERM"),
        ("setns", 308, "0,0", "EPERM"),
        ("pivot_root", 155, "0,0", "EPERM"),
        ("ptrace", 101, "0,0,0,0", "EPERM"),
        ("process_vm_readv", 310, "1,0,0,0,0,0", "EPERM"),
        ("keyctl", 250, "0,0,0,0,0", "EPERM"),
        ("add_key", 248, "0,0,0,0,0", "EPERM"),
        ("io_uring_setup", 425, "1,0", "EPERM"),
        ("bpf", 321, "0,0,0", "EPERM"),
        ("perf_event_open", 298, "0,0,0,0,0", "EPERM"),
        ("userfaultfd", 323, "0", "EPERM"),
        ("open_by_handle_at", 304, "0,0,0", "EPERM"),
        ("modify_ldt", 154, "0,0,0", "EPERM"),
        ("kexec_load", 246, "0,0,0,0", "EPERM"),
        ("personality", 135, "0x40000", "EPERM"),
        ("clone3", 435, "0,0", "ENOSYS"),
        ("clone with namespaces", 56, "0x10000000,0,0,0,0", "EPERM"),
        ("chroot", 161, "0", "EPERM"),
        ("setuid-less reboot", 169, "0,0,0,0", "EPERM"),
        ("ioctl TIOCSTI", 16, "0,0x5412,0", "EPERM"),
        ("ioctl TIOCSTI in 64 bits", 16, "0,0x100005412,0", "EPERM"),
    ],
)
async def test_27_31_32_38_dangerous_system_calls_are_refused(
    sandbox: Sandbox, name: str, number: int, arguments: str, expected: str
) -> None:
    """On x86-64, whose numbers these are."""
    if await value(sandbox, "import platform; platform.machine()") != "'x86_64'":
        pytest.skip("these are the numbers of x86-64")
    assert await value(sandbox, f"{SYSCALL}call({number}, {arguments})") == repr(expected), name


async def test_28_37_40_it_runs_without_any_right(sandbox: Sandbox) -> None:
    status = await value(
        sandbox,
        "[l.split()[1] for l in open('/proc/self/status') "
        "if l.startswith(('CapEff', 'CapBnd', 'CapPrm'))]",
    )
    assert status == repr(["0" * 16] * 3)
    assert await value(sandbox, PRCTL.format(GET_NO_NEW_PRIVS)) == "1"
    find = "import subprocess; subprocess.run('find / -xdev -perm /6000 -type f', shell=True, "
    assert (await run(sandbox, find + "capture_output=True).stdout", 120)).value == "b''"
    groups = "os.getuid() > 9999 and set(os.getgroups()) <= {os.getgid()}"
    assert await value(sandbox, f"import os; {groups}") == "True"


async def test_37_there_is_no_device_but_those_that_hold_nothing(sandbox: Sandbox) -> None:
    allowed = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue",
               "fd", "stdin", "stdout", "stderr", "core", "console"}  # fmt: skip
    devices = await value(sandbox, "import os; sorted(os.listdir('/dev'))")
    assert set(eval(devices or "")) <= allowed


async def test_37_none_can_be_made(sandbox: Sandbox) -> None:
    device = "import os, stat; os.mknod('device', 0o600 | stat.S_IFBLK, os.makedev(8, 0))"
    refused = await run(sandbox, device)
    assert refused.error is not None
    assert refused.error.name == "PermissionError"


async def test_28_33_our_filter_is_in_force(sandbox: Sandbox) -> None:
    assert await value(sandbox, PRCTL.format(GET_SECCOMP)) == "2"


@pytest.mark.parametrize("name", ["environ", "maps", "mem"])
async def test_25_29_the_supervisors_files_in_proc_cannot_be_read(
    sandbox: Sandbox, name: str
) -> None:
    execution = await run(sandbox, f"open('/proc/1/{name}', 'rb').read()")
    assert execution.error is not None
    assert execution.error.name == "PermissionError"


async def test_29_the_supervisors_descriptors_and_memory_are_out_of_reach(sandbox: Sandbox) -> None:
    """Neither to read, nor to forge frames."""
    code = (
        "import os\n"
        "def reach(pid):\n"
        "    try: return os.listdir(f'/proc/{pid}/fd')\n"
        "    except PermissionError: return 'refused'\n"
        "me = os.getpid()\n"
        "sorted({reach(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != me})"
    )
    assert await value(sandbox, code) == "['refused']"


async def test_29_forged_frames_hurt_only_their_own_interpreter(
    sandbox: Sandbox, neighbour: Sandbox
) -> None:
    """Garbage and false frames on every descriptor of the worker, also for executions to come: it
    shares its memory with the code, so that it is a reset after which it is to be believed."""
    garbage = (
        "import os\nfor fd in range(3, 64):\n"
        "    try: os.write(fd, b'\\xff' * 5000)\n    except OSError: pass"
    )
    assert (await run(sandbox, garbage)).status == "died"
    assert await value(sandbox, "6 * 7") == "42"
    forged = (
        "import os, struct, json\n"
        "h = json.dumps({'status': 'ok', 'files': [{'path': '../../etc/passwd'}]}).encode()\n"
        "for id in range(200):\n"
        "    for kind in (0x81, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0xc0, 0x04):\n"
        "        data = struct.pack('!IBIH', 7 + len(h), kind, id, len(h)) + h\n"
        "        for fd in range(3, 10):\n"
        "            try: os.write(fd, data)\n"
        "            except OSError: pass\n"
    )
    execution = await run(sandbox, forged)
    assert all(".." not in file.path for file in execution.files)
    await sandbox.reset()
    assert await value(sandbox, "6 * 7") == "42"
    assert await value(neighbour, "marker") == "'untouched'"
