"""What holds on every engine, whoever made it and whoever runs it."""

from __future__ import annotations

from lap_sandbox.base import Sandbox


async def value(sandbox: Sandbox, code: str) -> str | None:
    execution = await sandbox.execute(code, timeout=60)
    assert execution.status == "ok", execution
    return execution.value


async def confines(box: Sandbox, other: Sandbox) -> None:
    """No rights, no network, no uid in common, nothing written elsewhere, no endless forking."""
    status = "dict(line.split(':\\t', 1) for line in open('/proc/self/status').read().splitlines())"
    rights = f"s = {status}\ns['Seccomp'], s['NoNewPrivs'], int(s['CapEff'], 16)"
    assert await value(box, rights) == "('2', '1', 0)"
    uid = "import os; os.getuid()"
    uids = {await value(box, uid), await value(other, uid)}
    assert len(uids) == 2
    assert "0" not in uids
    for refused in (
        "import socket; socket.socket()",
        "open('/opt/lap/lib/x', 'w')",
        "open('/mnt/data/big', 'wb').write(bytes(80 << 20))",
        "import os; [os.fork() or os.read(os.pipe()[0], 1) for _ in range(1000)]",
    ):
        assert (await box.execute(refused, timeout=60)).error is not None, refused
    await box.reset()


async def runs(box: Sandbox) -> None:
    """Files and state are kept, what does not end is stopped, memory is bounded."""
    await box.put("folder/f", b"kept")
    assert await value(box, "import pandas; x = open('folder/f').read(); x") == "'kept'"
    assert (await box.execute("while True: pass", timeout=1)).status == "timeout"
    assert await value(box, "x") == "'kept'"
    full = await box.execute("y = bytearray(2 << 30)", timeout=60)
    assert full.status in ("out_of_memory", "error")
    printed = await box.execute("print('x' * 10_000)", timeout=60)
    assert printed.stdout_left is not None
    assert len(await box.get(printed.stdout_left.path)) == 10_001
    assert await box.get("folder/f") == b"kept"
