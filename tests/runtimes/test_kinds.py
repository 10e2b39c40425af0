"""Kinds are found by entry point and imported only when they are used."""

from __future__ import annotations

import subprocess
import sys

import pytest
from lap_runtimes.kinds import load

from tests.capabilities import ROOT

BARE = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("a2a", "httpx", "google"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Hidden())
from lap_runtimes import kinds
"""


def run(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "runtimes",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", ["a2a", "openai_responses", "http"])
def test_a_kind_is_its_class(kind: str) -> None:
    assert load(kind).kind == kind


def test_an_unknown_kind_lists_the_known_ones() -> None:
    with pytest.raises(
        LookupError, match=r"'a2b'.*a2a, acp, http, mcp, openai_responses, opencode"
    ):
        load("a2b")


def test_a_missing_extra_says_exactly_what_to_install() -> None:
    said = run(f"{BARE}\ntry: kinds.load('a2a')\nexcept ImportError as exc: print(exc.args[0])")
    assert "pip install 'lap-mcp[a2a]'" in said


def test_the_other_kinds_work_without_the_extra() -> None:
    assert run(f"{BARE}\nprint(kinds.load('http').kind, kinds.load('openai_responses').kind)")


def test_importing_the_contract_imports_no_client() -> None:
    code = "import sys, lap_runtimes.base, lap_runtimes.kinds, lap_runtimes.testing\n"
    said = run(code + "print(*sys.modules)").split()
    assert not {"a2a", "httpx", "httpx2", "google.protobuf", "pydantic"} & set(said)
