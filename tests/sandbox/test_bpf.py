"""The seccomp filter is what the profile says, on every machine there is a table for."""

from __future__ import annotations

import platform
import re
import struct
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lap_sandbox import bpf, seccomp
from lap_sandbox.syscalls import NUMBERS

PROFILE = seccomp.profile()
FILTERS = {machine: bpf.filter_for(PROFILE, machine) for machine in bpf.MACHINES}
NAMES = {m: {number: name for name, number in table.items()} for m, table in NUMBERS.items()}
ALLOWED = "allow"
MASK = (1 << 64) - 1


def run(program: bytes, machine: int, number: int, arguments: tuple[int, ...]) -> str | int:
    """What the kernel's interpreter of classic BPF would return: `allow`, or an errno."""
    data = struct.pack("<iIQ6Q", number, machine, 0, *arguments)
    at = accumulator = 0
    while True:
        code, if_true, if_false, value = struct.unpack_from("<HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, value)
        elif code == 0x54:
            accumulator &= value
        elif code == 0x05:
            at += value
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        elif code == 0x35:
            at += if_true if accumulator >= value else if_false
        elif code == 0x06:
            return ALLOWED if value == 0x7FFF0000 else value & 0xFFFF
        else:
            raise AssertionError(f"an instruction that was not expected: {code:#x}")


def said(name: str | None, arguments: tuple[int, ...]) -> str | int:
    """What the engine's JSON means, read by itself."""
    for rule in PROFILE["syscalls"]:
        if name in rule["names"] and all(holds(a, arguments) for a in rule.get("args") or ()):
            return ALLOWED if rule["action"] == "SCMP_ACT_ALLOW" else int(rule["errnoRet"])
    return int(PROFILE["defaultErrnoRet"])


def holds(rule: dict[str, Any], arguments: tuple[int, ...]) -> bool:
    value = arguments[rule["index"]]
    if rule["op"] == "SCMP_CMP_MASKED_EQ":
        return value & rule["value"] == rule["valueTwo"]
    return (value == rule["value"]) is (rule["op"] == "SCMP_CMP_EQ")


INTERESTING = [
    0, 1, 2, 38, 40, 0x10000000, 0x7E020080, 0x5401, 0x5412, 0x100005412, 0x100000001,
    0xFFFFFFFF, MASK, seccomp.AF_UNIX | 1 << 32, 0x541B,
]  # fmt: skip


@pytest.mark.parametrize("machine", sorted(bpf.MACHINES))
def test_the_filter_decides_as_the_profile_for_every_call(machine: str) -> None:
    program = FILTERS[machine]
    for number in range(-1, 1024):
        name = NAMES[machine].get(number)
        for value in INTERESTING:
            arguments = (value,) * 6
            found = run(program, bpf.MACHINES[machine], number, arguments)
            assert found == said(name, arguments), (number, name, hex(value))


@given(
    machine=st.sampled_from(sorted(bpf.MACHINES)),
    name=st.sampled_from(
        ["socket", "socketpair", "clone", "clone3", "ioctl", "personality", "prlimit64"]
    ),
    arguments=st.tuples(
        *[st.one_of(st.sampled_from(INTERESTING), st.integers(0, MASK)) for _ in range(6)]
    ),
)
def test_calls_with_conditions_are_decided_by_their_whole_arguments(
    machine: str, name: str, arguments: tuple[int, ...]
) -> None:
    number = NUMBERS[machine][name]
    found = run(FILTERS[machine], bpf.MACHINES[machine], number, arguments)
    assert found == said(name, arguments)


@pytest.mark.parametrize("machine", sorted(bpf.MACHINES))
def test_calls_of_another_architecture_are_refused(machine: str) -> None:
    """32-bit calls and x32 have other numbers: `read` there is something else here."""
    others = {0x40000003, 0x40000028, *bpf.MACHINES.values()} - {bpf.MACHINES[machine]}
    for other in others:
        assert run(FILTERS[machine], other, NUMBERS[machine]["read"], (0,) * 6) == seccomp.EPERM
    x32 = 0x40000000 | NUMBERS[machine]["read"]
    assert run(FILTERS[machine], bpf.MACHINES[machine], x32, (0,) * 6) == seccomp.EPERM


def test_every_call_of_the_profile_has_a_number_somewhere() -> None:
    """A name that was misspelt would be refused in silence."""
    named = {name for rule in PROFILE["syscalls"] for name in rule["names"]}
    assert named == set(NUMBERS["x86_64"])
    assert set(NUMBERS["aarch64"]) < named
    for table in NUMBERS.values():
        assert len(set(table.values())) == len(table)


HEADER = Path("/usr/include/x86_64-linux-gnu/asm/unistd_64.h")


@pytest.mark.skipif(not HEADER.exists(), reason="no kernel headers (apt install linux-libc-dev)")
def test_the_numbers_are_those_of_the_kernels_headers() -> None:
    found = re.findall(r"#define __NR_(\w+) (\d+)", HEADER.read_text())
    kernel = {name: int(number) for name, number in found}
    ours = NUMBERS["x86_64"]
    assert {name: ours[name] for name in ours if name in kernel} == {
        name: kernel[name] for name in ours if name in kernel
    }


def test_a_rule_that_has_no_translation_is_refused() -> None:
    for change in ({"action": "SCMP_ACT_TRACE"}, {"args": [{"index": 0, "value": 1, "op": "GT"}]}):
        rule = {"names": ["read"], "action": "SCMP_ACT_ALLOW", **change}
        with pytest.raises(ValueError, match="the filter has no"):
            bpf.filter_for({**PROFILE, "syscalls": [rule]}, "x86_64")
    with pytest.raises(ValueError, match="riscv64"):
        bpf.filter_for(PROFILE, "riscv64")


LOADED = """
import ctypes, socket, subprocess, sys, threading
sys.path.insert(0, sys.argv[1])
from lap_sandbox import bpf, seccomp
class Program(ctypes.Structure):
    _fields_ = [("n", ctypes.c_ushort), ("p", ctypes.c_void_p)]
data = bpf.filter_for(seccomp.profile(), sys.argv[2])
buffer = ctypes.create_string_buffer(data, len(data))
program = Program(len(data) // 8, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(program)) == 0, ctypes.get_errno()
def made(family, kind=socket.SOCK_STREAM):
    try:
        socket.socket(family, kind).close()
    except OSError as error:
        return error.errno
    return 0
assert [made(f) for f in (1, 2, 10, 16, 17, 40)] == [0, 97, 97, 97, 97, 97]
assert made(38, socket.SOCK_SEQPACKET) == 97
assert libc.unshare(0x10000000) == -1 and ctypes.get_errno() == 1
assert libc.ptrace(0, 0, 0, 0) == -1 and ctypes.get_errno() == 1
thread = threading.Thread(target=lambda: None); thread.start(); thread.join()
print(subprocess.run(["echo", "works"], capture_output=True, text=True).stdout)
"""


@pytest.mark.skipif(
    not sys.platform.startswith("linux") or platform.machine() not in bpf.MACHINES,
    reason="needs Linux on x86_64 or aarch64",
)
def test_the_kernel_takes_it_and_programs_still_work() -> None:
    folder = str(Path(bpf.__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(LOADED), folder, platform.machine()],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout == "works\n\n", done.stderr
