"""Every promise of docs/sandbox.md names the tests that hold it, and they exist."""

from __future__ import annotations

import ast
import re

from tests.capabilities import ROOT

TEXT = (ROOT / "docs" / "sandbox.md").read_text(encoding="utf-8")
PLACES = ("tests/hostile", "tests/sandbox", "tests/sandbox/bubblewrap")


def _tests_of(file: str) -> set[str]:
    found = [path for place in PLACES if (path := ROOT / place / file).is_file()]
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in found]
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {node.name for tree in trees for node in tree.body if isinstance(node, kinds)}


def test_every_promise_names_a_test_that_exists() -> None:
    table = TEXT.partition("## What is promised")[2].partition("\n## ")[0]
    promises = [line for line in table.splitlines() if line.startswith("| ")][1:]
    assert len(promises) > 15
    for line in promises:
        named = re.findall(r"`(test_\w+\.py)(?:::(\w+))?`", line.rsplit("|", 2)[1])
        assert named, f"no test holds: {line}"
        for file, test in named:
            known = _tests_of(file)
            assert known, f"{file} does not exist"
            assert not test or test in known, f"{file} has no {test}"
