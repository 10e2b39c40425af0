"""Entry of PID 1 in a sandbox without an engine: does what bubblewrap has no words for, takes every
right away, then hands over to the supervisor.  Standard library only.

`enter.py SETTINGS ARGUMENT…`: the arguments are the supervisor's; `SETTINGS` is JSON:
`uid` to become (null where we are nobody already), `limits` by the names of `resource`, `folders`
with `size` and `files` of each, and `filter`, the descriptor of the seccomp filter.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import signal
import sys

PR_SET_PDEATHSIG, PR_SET_SECCOMP, PR_CAPBSET_DROP, PR_GET_NO_NEW_PRIVS = 1, 22, 24, 39
SECCOMP_MODE_FILTER = 2
MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 2, 4, 8, 32
CAPABILITY_VERSION = 0x20080522
CAPABILITIES = 64
MOST_INSTRUCTIONS = 4096
NOBODY = 65_534

_libc = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    """`struct sock_fprog`"""

    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def _checked(result: int, what: str) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def bound_folders(folders: dict[str, dict[str, int]]) -> None:
    """Nothing in them is executed, and they hold so many files."""
    for place, most in folders.items():
        flags = MS_REMOUNT | MS_NOSUID | MS_NODEV | MS_NOEXEC
        options = f"size={most['size']},nr_inodes={most['files']}".encode()
        _checked(_libc.mount(b"tmpfs", place.encode(), b"tmpfs", flags, options), place)


def become(uid: int, folders: dict[str, dict[str, int]]) -> None:
    """Give up root, for a uid that nothing else on this machine has."""
    for place in folders:
        os.chmod(place, 0o700)  # noqa: PTH101
        os.chown(place, uid, uid)
    os.setgroups([])
    os.setresgid(uid, uid, uid)
    os.setresuid(uid, uid, uid)
    # A new uid forgets whose death it was to follow.
    _checked(_libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0), "PR_SET_PDEATHSIG")


def drop_bounding_set() -> None:
    """What no program started from here can get any more; the kernel knows fewer than we try."""
    for number in range(CAPABILITIES):
        _libc.prctl(PR_CAPBSET_DROP, number, 0, 0, 0)


def drop_capabilities() -> None:
    """All of them, also those that a program would inherit."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    _checked(_libc.capset(ctypes.byref(header), ctypes.byref(none)), "capset")


def limit(limits: dict[str, int]) -> None:
    for name, value in limits.items():
        number = getattr(resource, f"RLIMIT_{name.upper()}")
        _, most = resource.getrlimit(number)
        least = value if most == resource.RLIM_INFINITY else min(value, most)
        resource.setrlimit(number, (least, least))


def load_filter(descriptor: int) -> None:
    """The last step: from here on only the calls of `seccomp.py` are left, and of what the server
    has open only the standard streams."""
    data = os.read(descriptor, MOST_INSTRUCTIONS * 8)
    for number in [int(name) for name in os.listdir("/proc/self/fd")]:  # noqa: PTH208
        if number > 2:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(number)
    buffer = ctypes.create_string_buffer(data, len(data))
    program = _Program(len(data) // 8, ctypes.addressof(buffer))
    _checked(
        _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0), "seccomp"
    )


def refuse_rights(root_before: bool) -> None:
    """End here rather than run anything with a right that should be gone."""
    # A user namespace cannot drop the user's groups; there all show as nobody's.
    allowed = {os.getgid()} if root_before else {os.getgid(), NOBODY}
    with open("/proc/self/status") as file:  # noqa: PTH123
        status = dict(line.split(":\t", 1) for line in file.read().splitlines() if ":\t" in line)
    rights = [
        status[name].strip("0") for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")
    ]
    if (
        0 in os.getresuid() + os.getresgid()
        or not set(os.getgroups()) <= allowed
        or any(rights)
        or _libc.prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) != 1
    ):
        sys.exit("this still has a right, root's uid or a group: it must not go on")


def main() -> None:
    settings = json.loads(sys.argv[1])
    os.umask(0o022)
    os.environ.pop("PWD", None)
    bound_folders(settings["folders"])
    drop_bounding_set()
    if settings["uid"] is not None:
        become(settings["uid"], settings["folders"])
    drop_capabilities()
    limit(settings["limits"])
    refuse_rights(settings["uid"] is not None)
    load_filter(settings["filter"])
    del sys.argv[1]
    sys.path.insert(0, "/opt/lap/lib")
    from lap_sandbox.runner import supervisor

    supervisor.main()


main()
