"""The table of traps names a test for each, and every test it names exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROW = re.compile(r"^\| (\d+) \| .+? \| (`.+`) \|$", re.MULTILINE)
NAMED = re.compile(r"`([\w./]+\.py)::(\w+)`")


def rows(heading: str) -> list[tuple[int, list[tuple[str, str]]]]:
    text = (HERE / "README.md").read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [(int(number), NAMED.findall(tests)) for number, tests in ROW.findall(text)]


@pytest.mark.parametrize(("heading", "count"), [("Traps", 14), ("Defects", 13)])
def test_every_trap_has_a_test_that_exists(heading: str, count: int) -> None:
    found = rows(heading)
    assert [number for number, _ in found] == list(range(1, count + 1))
    for number, named in found:
        assert named, f"{heading} {number} names no test"
        for file, name in named:
            tree = ast.parse((HERE / file).read_text())
            known = {
                n.name for n in tree.body if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
            }
            assert name in known, f"{file} has no {name}"
