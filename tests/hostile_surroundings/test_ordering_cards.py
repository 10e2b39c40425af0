"""Cards whose words give orders to a model: what they say is not shown, and a scanner of other
people's finds nothing in our tool list (tier 2)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import mcp.types as t
import pytest

from lap_mcp.control.steering import LEFT_OUT, steers
from lap_mcp.mcp_server.agent_tools import definition
from tests.hostile_surroundings.ordering_cards import SAID, ordering_cards
from tests.hostile_surroundings.test_poisoned_cards import poisoned
from tests.lap_mcp.town import Town
from tests.runtimes.own_environment import environment

pytestmark = pytest.mark.anyio

SECONDS = 300
HARMLESS = (
    "Reviews pull requests and says what to change before anything is merged.",
    "Sends messages to a channel, ignores those of bots, and notifies the user by mail.",
    "Exports a conversation as PDF. Shares it with the team.",
    "Lists the API keys of an account and when they expire; never shows a secret.",
    "Asks for approval before running any command.",
    "Writes Bash, PowerShell and SQL; explains what SELECT and UNION do.",
    "Renews certificates (.pem, .crt) on AWS, Azure and GCP.",
    "Improves the system prompt of an application and its tools.",
    "Retries silently when a request fails. Handles tickets of the highest priority first.",
    "Languages: Python, JavaScript: yes, Go: no. Greets <user> by name.",
    "Use this agent for questions about passwords that expired and how to reset them.",
    "Always answers in the language of the question; must be called with a customer number.",
    "Its skills include search and charts; see https://docs.example/charts.",
    "Explains error messages from `npm run build` and shows the fix.",
    "Überwacht Server und meldet Störungen. 监控服务器。",
)


@pytest.mark.parametrize("said", SAID, ids=range(len(SAID)))
def test_orders_are_told_from_descriptions(said: str) -> None:
    assert steers(said.replace("\u200b", "").replace("\u202e", ""))


@pytest.mark.parametrize("said", HARMLESS, ids=range(len(HARMLESS)))
def test_a_description_that_only_describes_stays(said: str) -> None:
    assert not steers(said)


async def tools_of(town: Town, *cards: Any) -> Sequence[t.Tool]:
    """What a client is given for them, each a tool of its own."""
    town.host("http://evil", *cards)
    town.write('[runtimes.evil]\nkind = "listing"\nurl = "http://evil"\n')
    async with town.process() as process:
        with anyio.fail_after(30):
            await process.refresher.ask_runtimes()
        agents = process.registry.agents()
    assert len(agents) == len(cards)
    return [definition(agent, None) for agent in agents]


async def test_what_thirty_cards_order_is_not_shown(town: Town) -> None:
    cards = ordering_cards()
    assert len(cards) == 30
    shown = await tools_of(town, *cards)
    assert sum(LEFT_OUT in (tool.description or "") for tool in shown) == len(SAID)
    for tool in shown:
        said = json.dumps(tool.model_dump(mode="json", by_alias=True), ensure_ascii=False)
        assert not steers((tool.description or "").replace(LEFT_OUT, ""))
        assert not steers(tool.name.replace("_", " "))
        for word in ("ignore", "passwd", "id_rsa", "mention", "evil.example", "bypass"):
            assert word not in said.casefold()


async def test_an_operator_s_own_words_take_their_place(town: Town) -> None:
    (card,) = (each for each in ordering_cards() if each.ref == "order-0")
    town.host("http://evil", card)
    own = '[agents.own]\nruntime = "evil"\nref = "order-0"\ndescription = "Answers in French."\n'
    town.write('[runtimes.evil]\nkind = "listing"\nurl = "http://evil"\n' + own)
    async with town.process() as process:
        with anyio.fail_after(30):
            await process.refresher.ask_runtimes()
        assert process.registry.agent("own").description == "Answers in French."


def scanned(folder: Path, tools: Sequence[Any]) -> list[dict[str, Any]]:
    """What the scanner's rules, which need no network, find in a list of tools: one entry each."""
    listed = folder / "tools.json"
    listed.write_text(json.dumps({"tools": tools}))
    done = subprocess.run(
        [str(environment("cisco_scanner") / "mcp-scanner"), "--analyzers", "yara"]
        + ["--format", "raw", "static", "--tools", str(listed)],
        env={**os.environ, "HOME": str(folder), "LITELLM_LOCAL_MODEL_COST_MAP": "True"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    results: list[dict[str, Any]] = json.loads(done.stdout)["scan_results"]
    assert {each["status"] for each in results} == {"completed"}
    return results


@pytest.mark.tier2
async def test_a_scanner_finds_the_cards_and_nothing_in_our_tools(
    town: Town, tmp_path: Path
) -> None:
    cards = ordering_cards()
    as_they_came = [
        {
            "name": f"card_{number}",
            "description": f"{card.name}: {card.description}",
            "inputSchema": card.input_schema or {"type": "object"},
        }
        for number, card in enumerate(cards)
    ]
    ours = await tools_of(town, *cards, *poisoned())
    shown = [tool.model_dump(mode="json", by_alias=True, exclude_none=True) for tool in ours]

    before = await anyio.to_thread.run_sync(scanned, tmp_path, as_they_came)
    after = await anyio.to_thread.run_sync(scanned, tmp_path, shown)

    assert sum(not each["is_safe"] for each in before) >= 25
    assert len(after) == len(shown)
    assert [each for each in after if not each["is_safe"]] == []
