"""How an attack is run, and what it may come to."""

from __future__ import annotations

from dataclasses import dataclass

from lap_sandbox.base import Execution, Sandbox

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
    """The value of `code`, which must end well."""
    execution = await run(sandbox, code)
    assert execution.status == "ok", (execution.notice, execution.error)
    return execution.value


@dataclass(frozen=True)
class Attack:
    """One case of the catalogue: its number, its code, and how it may end."""

    number: int
    name: str
    code: str
    statuses: tuple[str, ...]
    says: str = ""
    """Part of what is printed, the value, the error or the notice."""
    timeout: float = 20

    @property
    def id(self) -> str:
        return f"{self.number:02}-{self.name}"


async def attempt(attack: Attack, sandbox: Sandbox) -> Execution:
    """Run it: it ends as it may, says what it must, within the limits on output, and costs no
    files."""
    execution = await run(sandbox, attack.code, attack.timeout)
    assert execution.status in attack.statuses, (execution.status, execution.notice)
    told = [execution.stdout, execution.value, execution.notice, execution.stderr]
    if execution.error is not None:
        told.append(execution.error.traceback)
    assert attack.says in "\n".join(text or "" for text in told), told
    assert len(execution.stdout) + len(execution.stderr) < 700 * 1024
    assert not execution.files_lost
    return execution
