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
    with pytest.raises(LookupError, match=r"'a2b'.*a2a, .*http, .*openai_responses"):
        load("a2b")


OLD_AGENT = """
from lap_runtimes.a2a_card import Card
from lap_runtimes.a2a_client import peer_of
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import Rejected
from lap_runtimes.http import HTTP
http = HTTP(HTTPRuntimeConfig(url="http://127.0.0.1:1"))
found = {"name": "old", "url": "http://127.0.0.1:1", "protocolVersion": "0.3.0"}
try: peer_of(Card(found, http.rules, base=http.base, endpoint=None), http)
except Rejected as exc: print(exc.message)
"""


def test_a_missing_extra_says_exactly_what_to_install() -> None:
    said = run(BARE + OLD_AGENT)
    assert "A2A 0.3.0" in said
    assert "pip install 'lap-mcp[a2a]'" in said


@pytest.mark.parametrize("kind", ["a2a", "litellm", "http", "openai_responses"])
def test_a_kind_is_there_without_the_extras(kind: str) -> None:
    assert run(f"{BARE}\nprint(kinds.load({kind!r}).kind)").strip() == kind


def test_importing_the_contract_imports_no_client() -> None:
    code = "import sys, lap_runtimes.base, lap_runtimes.kinds, lap_runtimes.testing\n"
    said = run(code + "print(*sys.modules)").split()
    assert not {"a2a", "httpx", "httpx2", "google.protobuf", "pydantic"} & set(said)
