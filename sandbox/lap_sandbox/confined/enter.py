"""Entry of PID 1 in a sandbox without an engine: takes away what bubblewrap left, then hands over
to the supervisor.  Standard library only.

`enter.py SETTINGS ARGUMENT…`: `SETTINGS` is JSON, `uid` to become (null where we are nobody
already) and `limits` by the names of `resource`; the arguments are the supervisor's.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG = 1
CAPABILITY_VERSION = 0x20080522
NOBODY = 65_534
WRITABLE = ("/mnt/data", "/tmp", "/dev/shm")
_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def become(uid: int) -> None:
    """Give up root, for a uid that nothing else on this machine has."""
    for place in WRITABLE:
        os.chmod(place, 0o700)  # noqa: PTH101
        os.chown(place, uid, uid)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # A new uid forgets whose death it was to follow.
    _checked(_libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "PR_SET_PDEATHSIG")


def drop_capabilities() -> None:
    """Also those that a program would inherit."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(none)), "capset")


def limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        _, most = resource.getrlimit(number)
        least = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(number, (least, least))


def main() -> None:
    settings = json.loads(sys.argv[1])
    os.umask(0o022)
    if settings["uid"] is not None:
        become(settings["uid"])
    drop_capabilities()
    limit(settings["limits"])
    # A user namespace cannot drop the user's groups; there all show as nobody's.
    allowed = {os.getgid()} if settings["uid"] is not None else {os.getgid(), NOBODY}
    if 0 in os.getresuid() + os.getresgid() or not set(os.getgroups()) <= allowed:
        sys.exit("this still has root's uid or a group: it must not go on")
    del sys.argv[1]
    sys.path.insert(0, "/opt/lap/lib")
    from lap_sandbox.runner import supervisor

    supervisor.main()


main()
