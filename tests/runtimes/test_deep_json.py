"""JSON of a peer that nests deeper than Python reads is an error in words like any other that is
wrong: `json.loads` raises `RecursionError` for it, which is no `ValueError`."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest
from lap_runtimes import a2a_legacy
from lap_runtimes.cursor_fold import RunFold as CursorFold
from lap_runtimes.errors import ProtocolError, RuntimeFailure
from lap_runtimes.managed import parsed
from lap_runtimes.responses_fold import ResponseFold
from lap_runtimes.snowflake_fold import RunFold as SnowflakeFold
from starlette.responses import Response

from tests.runtimes.bench import adapter_of
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.serving import serving
from tests.runtimes.test_http import Recorder
from tests.runtimes.vendors import reaching, read

pytestmark = pytest.mark.anyio

ROOT = Path(__file__).parents[2]
PEERS = [
    "runtimes/lap_runtimes",
    "lap_mcp/front_parts",
    "lap_mcp/openai_front",
    "lap_mcp/anthropic_front",
]
FLAT = {"partial_json.py"}
"""Reads one string or number at a time."""
DEEP = "[" * 100_000
KINDS = ["a2a", "cursor", "elastic", "gemini", "langgraph", "opencode"]
for _kind in KINDS:
    adapter_of(_kind)  # imported here, and not on an event loop


def _is_loads(node: ast.AST) -> bool:
    """Also where it is given on, to a thread."""
    return isinstance(node, ast.Attribute) and node.attr == "loads"


def _guards(node: ast.Try) -> bool:
    caught = " ".join(ast.unparse(each.type) for each in node.handlers if each.type is not None)
    return "RecursionError" in caught


def _unguarded(node: ast.AST, guarded: bool = False) -> Iterator[int]:
    if _is_loads(node) and not guarded:
        yield getattr(node, "lineno", 0)
    for child in ast.iter_child_nodes(node):
        inside = isinstance(node, ast.Try) and child in node.body and _guards(node)
        yield from _unguarded(child, guarded or inside)


def test_whoever_parses_what_a_peer_sent_expects_it_to_nest_too_deep() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for folder in PEERS
        for path in sorted((ROOT / folder).rglob("*.py"))
        if path.name not in FLAT
        for line in _unguarded(ast.parse(path.read_text()))
    ]
    assert found == []


@pytest.mark.parametrize(
    "feed",
    [
        lambda: parsed(DEEP),
        lambda: ResponseFold("trn_1", {}, cursors=True, after=None).feed("x", DEEP),
        lambda: CursorFold({"agent": "bc-1", "run": "r"}).feed("assistant", "1", DEEP),
        lambda: SnowflakeFold({"turn": "t"}).feed("response", DEEP),
    ],
    ids=["managed", "responses", "cursor", "snowflake"],
)
def test_an_event_that_nests_too_deep_is_a_protocol_error(feed: Callable[[], Any]) -> None:
    with pytest.raises(ProtocolError, match="not JSON"):
        feed()


def test_what_the_sdk_of_older_a2a_agents_parses_is_translated_too() -> None:
    with pytest.raises(ProtocolError, match="does not speak A2A"), a2a_legacy.foreign_errors("x"):
        json.loads(DEEP)


@pytest.mark.parametrize("status", [200, 400])
@pytest.mark.parametrize("kind", KINDS)
async def test_an_adapter_answers_it_within_its_contract(
    kind: str, status: int, make_turn: MakeTurn
) -> None:
    class Deep(Recorder):
        async def answer(self, request: Any) -> Response:
            return Response(DEEP, status, media_type="application/json")

    with serving(Deep().app) as url:
        async with reaching(kind, url) as ours:
            with anyio.fail_after(30), pytest.raises(RuntimeFailure):
                await ours.agents()
            with anyio.fail_after(30), pytest.raises(RuntimeFailure):
                await read(ours.start(make_turn("hello", agent="x")))
