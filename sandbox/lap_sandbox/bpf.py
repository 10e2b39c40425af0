"""The seccomp profile as a filter for the kernel: a small assembler, and what it is fed with.

`seccomp.py` is the only source of the rules: an engine gets them as JSON, and here they become a
program of classic BPF, for launchers without an engine.  Formats: the kernel's
`Documentation/userspace-api/seccomp_filter.rst`, `linux/filter.h`, `linux/seccomp.h`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lap_sandbox.syscalls import NUMBERS

LOAD, AND, JUMP, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x54, 0x05, 0x15, 0x35, 0x06
"""`BPF_LD|W|ABS`, `BPF_ALU|AND|K`, `BPF_JMP|JA`, `…|JEQ|K`, `…|JGE|K`, `BPF_RET|K`."""
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
NUMBER_AT, MACHINE_AT, ARGUMENTS_AT = 0, 4, 16
"""Offsets in `struct seccomp_data`; both machines are little-endian."""
MACHINES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""`AUDIT_ARCH_…` of each machine."""
X32 = 0x40000000
"""Set in the numbers of x86_64's 32-bit pointer calls, which no table has."""
MOST_INSTRUCTIONS = 4096
_INSTRUCTION = struct.Struct("<HBBI")


@dataclass
class Program:
    """Instructions whose jumps name labels.  A conditional jump reaches 255 instructions only, so
    each steps over an unconditional one, which reaches everything."""

    _instructions: list[tuple[int, int, int, int | str]] = field(default_factory=list)
    _labels: dict[str, int] = field(default_factory=dict)

    def label(self, name: str) -> None:
        self._labels[name] = len(self._instructions)

    def load(self, offset: int) -> None:
        self._instructions.append((LOAD, 0, 0, offset))

    def mask(self, bits: int) -> None:
        self._instructions.append((AND, 0, 0, bits))

    def go(self, to: str) -> None:
        self._instructions.append((JUMP, 0, 0, to))

    def go_if(self, kind: int, value: int, to: str) -> None:
        self._instructions.append((kind, 0, 1, value))
        self.go(to)

    def go_unless_equal(self, value: int, to: str) -> None:
        self._instructions.append((JUMP_IF_EQUAL, 1, 0, value))
        self.go(to)

    def end(self, action: int) -> None:
        self._instructions.append((RETURN, 0, 0, action))

    def assemble(self) -> bytes:
        """`struct sock_filter` for `struct sock_filter`."""
        if len(self._instructions) > MOST_INSTRUCTIONS:
            raise ValueError(f"{len(self._instructions)} instructions are more than a filter has")
        found = bytearray()
        for at, (code, if_true, if_false, value) in enumerate(self._instructions):
            number = self._labels[value] - at - 1 if isinstance(value, str) else value
            found += _INSTRUCTION.pack(code, if_true, if_false, number)
        return bytes(found)


def _action(rule: Mapping[str, Any], default: int) -> int:
    if rule["action"] == "SCMP_ACT_ALLOW":
        return ALLOW
    if rule["action"] != "SCMP_ACT_ERRNO":
        raise ValueError(f"the filter has no action {rule['action']}")
    return ERRNO | int(rule.get("errnoRet", default))


def filter_for(profile: Mapping[str, Any], machine: str) -> bytes:
    """The program that does on `machine` what an engine does with `profile`.

    The first rule for a call whose conditions hold decides it.

    Raises:
        ValueError: no table for this machine, or a rule that has no translation.
    """
    if machine not in MACHINES:
        raise ValueError(f"there is no table of system calls for {machine}")
    numbers = NUMBERS[machine]
    default = int(profile["defaultErrnoRet"])
    rules: dict[int, list[Mapping[str, Any]]] = {}
    for rule in profile["syscalls"]:
        for name in rule["names"]:
            if name in numbers:
                rules.setdefault(numbers[name], []).append(rule)
    program = Program()
    program.load(MACHINE_AT)
    program.go_unless_equal(MACHINES[machine], "refuse")
    program.load(NUMBER_AT)
    program.go_if(JUMP_IF_AT_LEAST, X32, "refuse")
    runs = _runs(rules, default)
    _search(program, runs)
    for first, target in runs:
        if isinstance(target, str) and target.startswith("call "):
            _call(program, rules[first], target, default)
    program.label("allow")
    program.end(ALLOW)
    program.label("refuse")
    program.end(ERRNO | default)
    return program.assemble()


Run = tuple[int, str]
"""The first number of a run of calls with the same fate, and the label of that."""


def _runs(rules: Mapping[int, Sequence[Mapping[str, Any]]], default: int) -> list[Run]:
    """Runs that cover all numbers from 0 on, in order."""
    runs: list[Run] = [(0, "refuse")]

    def add(number: int, target: str) -> None:
        if runs[-1][0] == number:
            runs.pop()
        if not runs or runs[-1][1] != target:
            runs.append((number, target))

    for number in sorted(rules):
        first = rules[number][0]
        plain = not first.get("args") and _action(first, default) == ALLOW
        add(number, "allow" if plain else f"call {number}")
        add(number + 1, "refuse")
    return runs


def _search(program: Program, runs: Sequence[Run], name: str = "search") -> None:
    """A binary search for the run that a number is in: eight comparisons, not three hundred."""
    program.label(name)
    if len(runs) == 1:
        program.go(runs[0][1])
        return
    middle = len(runs) // 2
    program.go_if(JUMP_IF_AT_LEAST, runs[middle][0], f"{name}+")
    _search(program, runs[:middle], f"{name}-")
    _search(program, runs[middle:], f"{name}+")


def _call(program: Program, rules: Iterable[Mapping[str, Any]], label: str, default: int) -> None:
    program.label(label)
    for number, rule in enumerate(rules):
        after = f"{label} after {number}"
        for argument in rule.get("args") or ():
            _compare(program, argument, after)
        program.end(_action(rule, default))
        program.label(after)
    program.end(ERRNO | default)


def _compare(program: Program, argument: Mapping[str, Any], otherwise: str) -> None:
    """Go on where the argument is as the rule wants it, else to `otherwise`."""
    mask, wanted = (1 << 64) - 1, argument["value"]
    if argument["op"] == "SCMP_CMP_MASKED_EQ":
        mask, wanted = argument["value"], argument["valueTwo"]
    elif argument["op"] not in ("SCMP_CMP_EQ", "SCMP_CMP_NE"):
        raise ValueError(f"the filter has no comparison {argument['op']}")
    differs = f"{otherwise} differs {argument['index']}"
    equal = argument["op"] != "SCMP_CMP_NE"
    for half in (0, 1):
        bits = mask >> (32 * half) & 0xFFFFFFFF
        if not bits:
            continue
        program.load(ARGUMENTS_AT + 8 * argument["index"] + 4 * half)
        if bits != 0xFFFFFFFF:
            program.mask(bits)
        value = wanted >> (32 * half) & 0xFFFFFFFF
        program.go_unless_equal(value, otherwise if equal else differs)
    if not equal:
        program.go(otherwise)
        program.label(differs)
