"""Cases 44 to 49: files whose names, kinds and changes are attacks."""

from __future__ import annotations

import pytest
from lap_sandbox.base import Sandbox
from lap_sandbox.errors import BadPath, LimitReached, SandboxError

from tests.hostile.attacks import run, value

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    "name",
    ["../../x", "/etc/x", "a\0b", "..", ".", "", "a/../../x", "a//b", "x" * 300, "a/" * 40 + "b",
     "safe\u202efdp.exe", "a\x1b[2Jb", "a\nb", "\ud800", "zero\u200bwidth"],
)  # fmt: skip
async def test_44_a_name_that_misleads_is_refused(sandbox: Sandbox, name: str) -> None:
    with pytest.raises(BadPath):
        await sandbox.put(name, b"x")
    assert list(await sandbox.list()) == []


async def test_44_a_name_that_another_system_reserves_is_a_name(sandbox: Sandbox) -> None:
    await sandbox.put("CON", b"x")
    assert await sandbox.get("CON") == b"x"


async def test_45_what_is_no_regular_file_cannot_be_fetched(sandbox: Sandbox) -> None:
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


async def test_46_a_fetched_file_never_leaks_while_it_is_swapped(sandbox: Sandbox) -> None:
    """File and link change places while the host reads."""
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


async def test_47_an_archive_is_unpacked_by_nobody_but_the_code_and_within_its_quota(
    sandbox: Sandbox,
) -> None:
    """A bomb of zeros, a link that leads out with a file through it, and a device."""
    bomb = (
        "import io, zipfile\nwith zipfile.ZipFile('bomb.zip', 'w', zipfile.ZIP_DEFLATED) as z:\n"
        "    z.writestr('zeros', bytes(200 << 20))\n"
        "zipfile.ZipFile('bomb.zip').extractall('out')"
    )
    stopped = await run(sandbox, bomb, 60)
    assert stopped.status == "error"
    assert stopped.error is not None
    assert "File too large" in stopped.error.value or "No space" in stopped.error.value
    links = (
        "import io, tarfile\nwith tarfile.open('links.tar', 'w') as t:\n"
        "    link = tarfile.TarInfo('out/etc'); link.type = tarfile.SYMTYPE\n"
        "    link.linkname = '/etc'; t.addfile(link)\n"
        "    hard = tarfile.TarInfo('out/hard'); hard.type = tarfile.LNKTYPE\n"
        "    hard.linkname = '/etc/passwd'; t.addfile(hard)\n"
        "try: tarfile.open('links.tar').extractall('.')\nexcept OSError as e: print(e)"
    )
    await run(sandbox, links)
    for path in ("out/etc/passwd", "out/hard", "out/etc"):
        with pytest.raises(SandboxError):
            await sandbox.get(path)


async def test_48_a_growing_file_is_read_up_to_the_size_it_had(sandbox: Sandbox) -> None:
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


async def test_48_a_shrinking_file_is_read_without_an_end_to_wait_for(sandbox: Sandbox) -> None:
    code = (
        "import threading, os\nf = open('shrinks', 'wb', 0)\n"
        "def shrink():\n    while True:\n        f.truncate(4 << 20); f.truncate(0)\n"
        "threading.Thread(target=shrink, daemon=True).start()"
    )
    await run(sandbox, code)
    for _ in range(20):
        assert set(await sandbox.get("shrinks")) <= {0}


async def test_49_names_are_escaped_where_they_are_reported(sandbox: Sandbox) -> None:
    code = "open('a\\x1b]0;title\\x07\\u202e\\n.txt', 'w').close(); open(b'\\xff', 'w').close()"
    execution = await run(sandbox, code)
    for path in [file.path for file in (*execution.files, *await sandbox.list())]:
        assert path.isprintable()
        path.encode()
    assert len(execution.files) == 2
    gone = "import os; [os.unlink(n) for n in os.listdir(b'.') if os.path.isfile(n)];"
    assert await value(sandbox, gone) is None


async def test_44_names_that_are_long_on_the_wire_cost_neither_the_cell_nor_the_listing(
    sandbox: Sandbox,
) -> None:
    code = (
        "import os, shutil\nname = '\\U0001f600' * 60\ndeep = '/'.join([name] * 15)\n"
        "os.makedirs(deep)\nfor n in range(9): open(f'{deep}/{n}', 'w').close()\n'made'"
    )
    execution = await run(sandbox, code)
    assert (execution.status, execution.value) == ("ok", "'made'")
    assert len(execution.files) + execution.files_more >= 1
    assert len(await sandbox.list()) == 9
    assert await value(sandbox, "shutil.rmtree(name)") is None
