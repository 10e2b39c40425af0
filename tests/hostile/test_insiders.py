"""Cases from 61: not of the catalogue.  Code that knows how the runner works."""

from __future__ import annotations

import contextlib

import pytest
from lap_sandbox.base import Sandbox
from lap_sandbox.errors import BadPath, NotFound, SandboxError

from tests.hostile.attacks import Attack, attempt, run, value

pytestmark = pytest.mark.anyio

ATTACKS = [
    Attack(61, "stops-itself", "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)",
           ("timeout",), "lost", 0.3),
    Attack(62, "closes-its-channel", "import os; os.closerange(3, 1024)", ("died",), "ended"),
    Attack(63, "leaves-its-channel-to-a-child",
           "import os, time\nif os.fork() == 0:\n    while True: time.sleep(1)\nos._exit(0)",
           ("died",), "exit code 0"),
    Attack(64, "takes-its-own-limits",
           "import resource as r\nfor what in (r.RLIMIT_NOFILE, r.RLIMIT_FSIZE, r.RLIMIT_STACK):\n"
           "    r.setrlimit(what, (0, 0))\nopen('/dev/null')", ("error", "died")),
    Attack(65, "kills-the-zygote",
           "import os\nfor pid in sorted(int(p) for p in os.listdir('/proc') if p.isdigit()):\n"
           "    if pid not in (1, os.getpid()): os.kill(pid, 9)\n'alive'", ("ok",), "alive"),
    Attack(66, "fills-tmp", "open('/tmp/x', 'wb').write(bytes(40 << 20))", ("error",), "No space"),
    Attack(67, "becomes-another-program", "import os; os.execv('/bin/sleep', ['sleep', '600'])",
           ("timeout", "died"), "lost", 0.5),
    Attack(68, "changes-its-process-group",
           "import os\npid = os.fork()\nif pid == 0:\n    os.setpgid(0, 0)\n"
           "    while True: pass\nos.waitpid(pid, 0)", ("timeout",), "", 0.5),
    Attack(69, "floods-with-displays",
           "class R:\n    def _repr_html_(self): return 'x' * (4 << 20)\n"
           "for _ in range(100): display(R())", ("ok", "died"), ""),
    Attack(70, "poisons-the-streams",
           "import sys\nclass S:\n    def write(self, *a): raise OSError\n"
           "    def flush(self): raise OSError\nsys.stdout = sys.stderr = S()\nprint('x')",
           ("error",), "OSError"),
    Attack(71, "deletes-its-streams", "import sys\ndel sys.stdout, sys.stderr\n1/0", ("error",),
           "ZeroDivisionError"),
    Attack(72, "closes-its-streams", "import os; os.close(1); os.close(2); print('x')",
           ("error", "ok", "died")),
    Attack(73, "hooks-everything",
           "import sys, builtins\nsys.setprofile(lambda *a: None); sys.settrace(lambda *a: None)\n"
           "sys.excepthook = sys.displayhook = builtins.print = None\n1/0", ("error",),
           "ZeroDivisionError"),
    Attack(74, "raises-what-is-no-error",
           "class E(BaseException):\n    def __str__(self): raise E\n    __repr__ = __str__\n"
           "raise E", ("error",), "cannot be shown"),
    Attack(75, "swallows-the-exit", "import os, signal\n"
           "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 65))\nwhile True: pass",
           ("timeout",), "lost", 0.3),
    Attack(76, "a-crowd-of-children", "import subprocess\n"
           "kept = [subprocess.Popen(['sleep', '600']) for _ in range(60)]", ("ok",)),
    Attack(77, "endless-display",
           "class R:\n    def _repr_html_(self):\n        while True: pass\nR()", ("timeout",), "",
           0.3),
    Attack(78, "eats-while-it-is-interrupted",
           "x = []\ntry:\n    while True: pass\n"
           "except KeyboardInterrupt:\n    while True: x.append(bytes(1 << 20))",
           ("timeout", "out_of_memory", "error"), "", 0.3),
    Attack(88, "takes-the-limits-of-others",
           "import os, resource\ntaken = []\n"
           "for pid in sorted(int(p) for p in os.listdir('/proc') if p.isdigit()):\n"
           "    try: resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, 3)); taken.append(pid)\n"
           "    except PermissionError: pass\ntaken", ("ok",), "[]"),
]  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.id)
async def test_it_harms_nobody_else(attack: Attack, sandbox: Sandbox) -> None:
    await attempt(attack, sandbox)


async def test_79_a_name_like_that_of_an_upload_under_way_is_left_alone(sandbox: Sandbox) -> None:
    await run(sandbox, "import os\nfor n in range(99): os.symlink('/etc/passwd', f'.lap-put-{n}')")
    await sandbox.put("given", b"mine")
    assert await sandbox.get("given") == b"mine"
    assert await value(sandbox, "open('given').read()") == "'mine'"


async def test_80_a_folder_that_is_swapped_for_a_link_never_takes_an_upload_out(
    sandbox: Sandbox,
) -> None:
    code = (
        "import os, threading\nos.mkdir('real'); os.mkdir('/tmp/out')\n"
        "def swap():\n    while True:\n        try:\n"
        "            os.rename('real', 'aside'); os.symlink('/tmp/out', 'real')\n"
        "            os.unlink('real'); os.rename('aside', 'real')\n"
        "        except OSError: pass\n"
        "threading.Thread(target=swap, daemon=True).start()"
    )
    await run(sandbox, code)
    for number in range(100):
        with contextlib.suppress(BadPath, NotFound):
            await sandbox.put(f"real/{number}", b"x")
    assert await value(sandbox, "os.listdir('/tmp/out')") == "[]"


async def test_81_what_a_thread_prints_after_its_cell_belongs_to_no_later_error(
    sandbox: Sandbox,
) -> None:
    await run(
        sandbox,
        "import threading, time\ndef late():\n    time.sleep(0.2); print('late')\n"
        "t = threading.Thread(target=late); t.start()",
    )
    after = await run(sandbox, "t.join(); 1")
    assert (after.status, after.value) == ("ok", "1")


FORGED = """
import json, os, struct, sys
frame, id = sys._getframe(), 0
while frame is not None:
    here = frame.f_locals
    id = here["id"] if type(here.get("id")) is int and "code" in here else id
    frame = frame.f_back
head = json.dumps({"files": [{"path": "../../etc/passwd", "size": 1, "modified": 1}]}).encode()
done = struct.pack("!IBIH", 7 + len(head), 0x87, id, len(head)) + head

for fd in os.listdir("/proc/1/fd") if os.access("/proc/1/fd", os.R_OK) else ():
    try: out = os.open(f"/proc/1/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK)
    except OSError: continue
    try: os.write(out, ATTACK)
    except OSError: pass
"""


@pytest.mark.parametrize("attack", ["done", "done * 2", "b'\\xff' * 5000"])
async def test_87_who_speaks_in_the_supervisors_name_harms_only_himself(
    sandbox: Sandbox, neighbour: Sandbox, attack: str
) -> None:
    """Where its descriptors can be reached, as they can under gVisor of 2022: what the host reads
    is hostile to it whoever wrote it."""
    with contextlib.suppress(SandboxError):
        forged = await run(sandbox, FORGED.replace("ATTACK", attack))
        assert forged.status in ("ok", "died", "error")
        for file in forged.files:
            with pytest.raises(SandboxError):
                await sandbox.get(file.path)
    await sandbox.close()  # what speaks for it need not make sense any more
    assert await value(neighbour, "marker") == "'untouched'"
