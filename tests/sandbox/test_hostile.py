"""Code that attacks: what it tries fails or is bounded, the next execution works, and a neighbour
notices nothing.  The numbers are those of the catalogue in `sandbox/README.md`."""

from __future__ import annotations

from dataclasses import dataclass

import anyio
import pytest
from lap_sandbox.base import Execution, Sandbox
from lap_sandbox.errors import BadPath, LimitReached, SandboxError

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

SYSCALL = """
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
def call(number, *arguments):
    ctypes.set_errno(0)
    result = libc.syscall(ctypes.c_long(number), *[ctypes.c_long(a) for a in arguments])
    return errno.errorcode.get(ctypes.get_errno(), "?") if result == -1 else "allowed"
"""


async def run(sandbox: Sandbox, code: str, timeout: float = 30) -> Execution:
    return await sandbox.execute(code, timeout=timeout)


async def value(sandbox: Sandbox, code: str) -> str | None:
    execution = await run(sandbox, code)
    assert execution.status == "ok", (execution.notice, execution.error)
    return execution.value


async def works(*sandboxes: Sandbox) -> None:
    for sandbox in sandboxes:
        assert await value(sandbox, "6 * 7") == "42"


@dataclass(frozen=True)
class Attack:
    number: int
    name: str
    code: str
    statuses: tuple[str, ...]
    says: str = ""
    """Part of what is printed, the value, the error or the notice."""
    timeout: float = 20


ATTACKS = [
    Attack(3, "ignored-signals", "import signal; signal.signal(2, signal.SIG_IGN)\nwhile 1: pass",
           ("timeout",), "lost", 0.3),
    Attack(4, "catches-everything",
           "import time\nwhile 1:\n    try:\n        while 1: time.sleep(0.01)\n"
           "    except BaseException: pass", ("timeout",), "lost", 0.3),
    Attack(5, "fork-bomb", "import os\nwhile True: os.fork()", ("error", "timeout"),
           "", 3),
    Attack(7, "threads", "import threading, time\n"
           "for _ in range(100_000): threading.Thread(target=time.sleep, args=(1,)).start()",
           ("error",), "can't start new thread"),
    Attack(8, "memory", "x = bytearray(10 << 30)", ("out_of_memory", "error"), "memory"),
    Attack(9, "memory-of-children",
           "import subprocess, sys\n"
           "subprocess.run([sys.executable, '-c', 'x = b\"x\" * (700 << 20)']).returncode",
           ("ok", "out_of_memory"), "memory"),
    Attack(10, "disk", "f = open('big', 'wb')\nfor _ in range(9):\n    open(f'big{_}', 'wb')"
           ".write(bytes(16 << 20))", ("error",), "No space left"),
    Attack(11, "many-files", "for n in range(10**6): open(f'f{n}', 'w').close()", ("error",),
           "No space left"),
    Attack(12, "sparse-file", "open('s', 'wb').truncate(1 << 40)", ("error",), "File too large"),
    Attack(13, "shared-memory", "open('/dev/shm/x', 'wb').write(bytes(80 << 20))", ("error",),
           ""),
    Attack(14, "system-files", "open('/opt/lap/lib/x', 'w')", ("error",), "Read-only"),
    Attack(15, "flood", "for _ in range(100): print('x' * (10 << 20))", ("ok", "timeout"),
           "bytes left out"),
    Attack(16, "long-line", "print('x' * (100 << 20), end='')", ("ok",), "bytes left out"),
    Attack(19, "repr-raises", "class R:\n    def __repr__(self): raise ValueError\nR()", ("ok",),
           "repr() raised ValueError"),
    Attack(19, "repr-huge", "class R:\n    def __repr__(self): return 'x' * (64 << 20)\nR()",
           ("ok",), "characters in all"),
    Attack(19, "repr-endless", "class R:\n    def __repr__(self):\n        while 1: pass\nR()",
           ("timeout",), "", 0.3),
    Attack(20, "crash", "import ctypes; ctypes.string_at(0)", ("died",), "signal 11"),
    Attack(20, "deep-literal", "import ast; ast.literal_eval('(' * 10**6)", ("error",), ""),
    Attack(21, "descriptors", "import os\nx = [os.open('/dev/null', 0) for _ in range(10**6)]",
           ("error",), "Too many open files"),
    Attack(23, "input", "input()", ("error",), "EOFError"),
    Attack(30, "kills-pid-1", "import os; os.kill(1, 9); os.kill(1, 2); os.kill(1, 15); 'alive'",
           ("ok",), "alive"),
    Attack(30, "kills-all", "import os; os.kill(-1, 9)", ("died", "ok"), ""),
    Attack(39, "noexec", "import shutil, subprocess\nshutil.copy('/bin/true', 't')\n"
           "import os; os.chmod('t', 0o755); subprocess.run(['./t'])", ("error",),
           "PermissionError"),
    Attack(41, "internet", "import socket; socket.create_connection(('1.1.1.1', 80), 1)",
           ("error",), "Address family not supported"),
    Attack(42, "web", "import urllib.request as u; u.urlopen('http://169.254.169.254/', timeout=2)",
           ("error",), ""),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda a: f"{a.number}-{a.name}")
async def test_an_attack_is_bounded_and_the_next_execution_works(
    attack: Attack, sandbox: Sandbox
) -> None:
    execution = await run(sandbox, attack.code, attack.timeout)
    assert execution.status in attack.statuses, execution.notice
    told = [execution.stdout, execution.value, execution.notice, execution.stderr]
    if execution.error is not None:
        told.append(execution.error.traceback)
    assert attack.says in "\n".join(text or "" for text in told)
    assert len(execution.stdout) + len(execution.stderr) < 700 * 1024
    assert not execution.files_lost
    for file in await sandbox.list():
        await sandbox.delete(file.path)
    await works(sandbox)


async def test_a_neighbour_notices_nothing(sandbox: Sandbox, neighbour: Sandbox) -> None:
    await run(neighbour, "x = 'mine'")
    for code in ("import os\nwhile True: os.fork()", "x = bytearray(10 << 30)"):
        await run(sandbox, code, 2)
        assert await value(neighbour, "x") == "'mine'"


async def test_a_daemon_does_not_outlive_its_cell(sandbox: Sandbox) -> None:
    """6: a double fork with a session of its own."""
    code = (
        "import os, time\n"
        "if os.fork() == 0:\n"
        "    os.setsid()\n"
        "    if os.fork() == 0:\n"
        "        while True: time.sleep(0.01); open('alive', 'w').write(str(time.time()))\n"
        "    os._exit(0)\n"
        "os.wait();"
    )
    await run(sandbox, code)
    left = "import os; sum(p.isdigit() for p in os.listdir('/proc'))"
    for _ in range(500):  # it was killed; dying takes a moment
        if await value(sandbox, left) == "3":
            return
        await anyio.sleep(0.02)
    pytest.fail("it lives")


async def test_figures_are_bounded_in_number_and_size(sandbox: Sandbox) -> None:
    """18"""
    many = await run(sandbox, "import matplotlib.pyplot as plt\nfor _ in range(40): plt.figure()")
    assert (len(many.outputs), many.outputs_dropped) == (16, 24)
    huge = await run(sandbox, "plt.figure(figsize=(200, 200)); plt.plot([1]);", 60)
    assert huge.status == "ok"
    assert all(len(output.data) <= 5 << 20 for output in huge.outputs)


async def test_nothing_secret_is_in_the_environment_or_in_proc(sandbox: Sandbox) -> None:
    """25, 58, 60"""
    names = await value(sandbox, "import os; sorted(os.environ)")
    expected = ["HOME", "HOSTNAME", "LANG", "LOGNAME", "MPLBACKEND", "MPLCONFIGDIR",
                "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PATH", "PYTHONDONTWRITEBYTECODE",
                "USER"]  # fmt: skip
    assert names == repr(expected)
    for path in ("/etc/shadow", "/proc/1/environ", "/proc/1/mem", "/proc/1/maps"):
        execution = await run(sandbox, f"open('{path}', 'rb').read()")
        assert execution.error is not None, path
        assert execution.error.name == "PermissionError", path
    assert await value(sandbox, "import socket; socket.gethostname()") == "'sandbox'"


async def test_the_supervisors_descriptors_and_memory_are_out_of_reach(sandbox: Sandbox) -> None:
    """29: neither to read, nor to forge frames."""
    code = (
        "import os\n"
        "def reach(pid):\n"
        "    try: return os.listdir(f'/proc/{pid}/fd')\n"
        "    except PermissionError: return 'refused'\n"
        "me = os.getpid()\n"
        "sorted({reach(p) for p in os.listdir('/proc') if p.isdigit() and int(p) != me})"
    )
    assert await value(sandbox, code) == "['refused']"


async def test_forged_frames_hurt_only_their_own_execution(
    sandbox: Sandbox, neighbour: Sandbox
) -> None:
    """29: garbage and false frames on every descriptor of the worker."""
    await run(neighbour, "x = 1")
    garbage = (
        "import os\nfor fd in range(3, 64):\n"
        "    try: os.write(fd, b'\\xff' * 5000)\n    except OSError: pass"
    )
    assert (await run(sandbox, garbage)).status == "died"
    await works(sandbox)
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
    if not sandbox.alive:  # closed by the host for what it was sent
        return
    await works(sandbox)
    assert await value(neighbour, "x") == "1"


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
async def test_dangerous_system_calls_are_refused(
    sandbox: Sandbox, name: str, number: int, arguments: str, expected: str
) -> None:
    """27, 32, 38, on x86-64, whose numbers these are."""
    if await value(sandbox, "import platform; platform.machine()") != "'x86_64'":
        pytest.skip("these are the numbers of x86-64")
    assert await value(sandbox, f"{SYSCALL}call({number}, {arguments})") == repr(expected), name


async def test_only_local_sockets_can_be_made(sandbox: Sandbox) -> None:
    """33, 34, 41: AF_ALG, AF_VSOCK, AF_NETLINK, AF_PACKET, AF_INET and AF_INET6."""
    code = (
        "import socket\n"
        "def attempt(family, kind=socket.SOCK_STREAM):\n"
        "    try: socket.socket(family, kind).close(); return 'made'\n"
        "    except OSError as e: return e.errno\n"
        "[attempt(f) for f in (1, 2, 10, 16, 17, 38, 40)], attempt(2, 3)"
    )
    assert await value(sandbox, code) == "(['made', 97, 97, 97, 97, 97, 97], 97)"


async def test_it_runs_without_any_right(sandbox: Sandbox) -> None:
    """28, 37, 40"""
    status = await value(
        sandbox,
        "[l.split()[1] for l in open('/proc/self/status') "
        "if l.startswith(('CapEff', 'CapBnd', 'CapPrm', 'NoNewPrivs', 'Seccomp:'))]",
    )
    zero = "0" * 16
    assert status == repr([zero, zero, zero, "1", "2"])
    found = "import subprocess; subprocess.run('find / -xdev -perm /6000 -type f', shell=True, "
    assert await value(sandbox, found + "capture_output=True).stdout") == "b''"
    allowed = {"null", "zero", "full", "random", "urandom", "tty", "ptmx", "pts", "shm", "mqueue",
               "fd", "stdin", "stdout", "stderr", "core", "console"}  # fmt: skip
    devices = await value(sandbox, "import os; sorted(os.listdir('/dev'))")
    assert set(eval(devices or "")) <= allowed
    groups = "os.getuid() > 9999 and set(os.getgroups()) <= {os.getgid()}"
    assert await value(sandbox, groups) == "True"
    device = "import stat; os.mknod('device', 0o600 | stat.S_IFBLK, os.makedev(8, 0))"
    refused = await run(sandbox, device)
    assert refused.error is not None
    assert refused.error.name == "PermissionError"


@pytest.mark.parametrize(
    "path",
    ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger", "/sys/fs/cgroup/memory.max",
     "/sys/fs/cgroup/memory/release_agent", "/etc/passwd", "/dev/mem"],
)  # fmt: skip
async def test_the_systems_own_files_cannot_be_written(sandbox: Sandbox, path: str) -> None:
    """26, 36"""
    execution = await run(sandbox, f"open('{path}', 'w').write('x')")
    assert execution.status == "error"


async def test_what_is_no_regular_file_cannot_be_fetched(sandbox: Sandbox) -> None:
    """45"""
    await run(
        sandbox,
        "import os, socket\nos.symlink('/etc/passwd', 'link'); os.symlink('/', 'root')\n"
        "os.mkfifo('fifo'); os.mkdir('folder'); os.symlink('/proc/self/environ', 'env')\n"
        "s = socket.socket(socket.AF_UNIX); s.bind('sock')",
    )
    for path in ("link", "fifo", "folder", "env", "sock", "root/etc/passwd"):
        with pytest.raises(BadPath):
            await sandbox.get(path)
    assert list(await sandbox.list()) == []
    with pytest.raises(BadPath):
        await sandbox.put("root/tmp/x", b"")


async def test_a_fetched_file_never_leaks_while_it_is_swapped(sandbox: Sandbox) -> None:
    """46: file and link change places while the host reads."""
    code = (
        "import os, threading\nopen('real', 'w').write('mine')\n"
        "def swap():\n"
        "    while True:\n"
        "        try:\n"
        "            os.symlink('/etc/passwd', 't'); os.rename('t', 'x')\n"
        "            open('u', 'w').write('mine'); os.rename('u', 'x')\n"
        "        except OSError: pass\n"
        "threading.Thread(target=swap, daemon=True).start()"
    )
    await run(sandbox, code)
    seen: set[bytes] = set()
    for _ in range(300):
        try:
            seen.add(await sandbox.get("x"))
        except SandboxError:
            continue
    assert seen <= {b"mine", b""}


async def test_a_listing_of_very_many_files_ends(sandbox: Sandbox) -> None:
    """11, 49: more than the quota allows, with names that would move a cursor."""
    await run(
        sandbox,
        "import os\nos.mkdir('many')\nopen('many/a\\x1b[2Jb\\nc', 'w').close()\n"
        "try:\n    for n in range(10**6): open(f'many/{n}', 'w').close()\nexcept OSError: pass",
    )
    found = await sandbox.list(limit=5000)
    assert 1000 < len(found) < 2000
    assert "many/a\\x1b[2Jb\\nc" in {file.path for file in found}
    with pytest.raises(LimitReached):
        await sandbox.put("one-more", b"x")
    await run(sandbox, "import shutil; shutil.rmtree('many')")
    await works(sandbox)


async def test_a_growing_file_is_read_up_to_the_size_it_had(sandbox: Sandbox) -> None:
    """48"""
    code = (
        "import threading\nf = open('grows', 'ab', 0)\nf.write(b'x' * 1000)\n"
        "def grow():\n    while True: f.write(b'y' * 100)\n"
        "threading.Thread(target=grow, daemon=True).start()"
    )
    await run(sandbox, code)
    for _ in range(5):
        try:
            assert (await sandbox.get("grows")).startswith(b"x" * 1000)
        except LimitReached:
            break


async def test_a_monkeypatched_interpreter_harms_only_itself(sandbox: Sandbox) -> None:
    """57"""
    code = (
        "import sys, builtins, json, struct, os\n"
        "json.dumps = lambda *a, **k: 1/0\nstruct.pack = None\nsys.settrace(lambda *a: 1/0)\n"
        "for name in list(sys.modules):\n"
        "    if 'lap' in name: sys.modules.pop(name).__dict__.clear()\n"
        "builtins.len = lambda x: 5"
    )
    await run(sandbox, code, 3)
    await sandbox.reset()
    await works(sandbox)


async def test_a_reset_leaves_no_state_behind(sandbox: Sandbox) -> None:
    """59"""
    await run(sandbox, "import builtins, threading\nx = 1; builtins.y = 2")
    await sandbox.reset()
    assert await value(sandbox, "import builtins; hasattr(builtins, 'y'), 'x' in dir()") == (
        "(False, False)"
    )
