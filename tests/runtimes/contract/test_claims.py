"""The table of capabilities, as proven: each claim has the tests of the contract that hold it, each
configuration of the table runs under them, and what one does not claim is refused before anything
is sent, and said in the description of its agents' tools."""

from __future__ import annotations

from dataclasses import asdict, fields
from functools import cache

import anyio
import pytest
from lap_runtimes.base import Capabilities, Runtime
from lap_runtimes.errors import Unsupported

from lap_mcp.mcp_server.agent_tools import definition
from lap_mcp.model import Agent
from tests.runtimes.cases import CASES
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.contract import test_contract, test_denials, test_faults, test_refusals
from tests.runtimes.contract.test_refusals import unclaimed
from tests.runtimes.test_readme import CONFIGURED, configured

pytestmark = pytest.mark.anyio

CONTRACT = {
    name: module
    for module in (test_contract, test_denials, test_faults, test_refusals)
    for name in vars(module)
    if name.startswith("test_")
}
REFUSED = "test_what_is_not_claimed_is_refused_in_words_before_anything_is_sent"
ATTACHED = (
    "test_attaching_gives_what_an_undisturbed_run_gives",
    "test_another_process_takes_a_turn_over",
)
ANSWERED = (
    "test_a_question_stops_the_turn_and_its_answer_goes_on",
    "test_yes_and_no_reach_the_agent_or_are_refused_in_words",
)
CONTINUED = ("test_a_second_turn_continues_the_session",)

PROOF: dict[tuple[str, object], tuple[str, ...]] = {
    ("discover", True): ("test_lists_its_agents_where_it_claims_to",),
    ("discover", False): (REFUSED,),
    ("stream", True): ("test_streams_while_the_agent_works_where_it_claims_to",),
    ("stream", False): ("test_a_turn_streams_its_text_and_ends",),
    ("answer", "in_stream"): ANSWERED,
    ("answer", "resume"): ANSWERED,
    ("answer", "none"): (REFUSED,),
    ("conversation", "runtime"): (*CONTINUED, "test_two_sessions_at_once_do_not_mix"),
    ("conversation", "caller"): CONTINUED,
    ("conversation", "none"): CONTINUED,
    ("attach", "cursor"): ATTACHED,
    ("attach", "history"): ATTACHED,
    ("attach", "none"): (REFUSED,),
    ("cancel", "remote"): ("test_cancel_ends_the_work_at_the_runtime",),
    ("cancel", "disconnect"): (
        "test_closing_the_stream_cancels_where_nothing_else_does",
        REFUSED,
    ),
    ("cancel", "none"): (REFUSED,),
    ("on_disconnect", "continues"): (
        "test_leaving_closes_the_connection_at_once_and_cancels_nothing",
    ),
    ("on_disconnect", "aborts"): ("test_leaving_ends_the_work_where_it_says_so",),
    ("on_disconnect", "unknown"): (),
    ("idempotent_start", True): (
        "test_a_start_that_is_repeated_is_the_same_start_where_it_says_so",
    ),
    ("idempotent_start", False): (),
    ("process_bound", True): ("test_leaving_ends_the_work_where_it_says_so",),
    ("process_bound", False): (),
    ("files_in", True): ("test_files_go_in_or_are_refused_before_anything_is_sent",),
    ("files_in", False): ("test_files_go_in_or_are_refused_before_anything_is_sent", REFUSED),
    ("files_out", True): ("test_files_that_the_agent_makes_arrive_with_their_bytes",),
    ("files_out", False): (),
    ("usage", True): ("test_a_turn_streams_its_text_and_ends",),
    ("usage", False): (),
    ("steer", True): (),
    ("steer", False): (REFUSED,),
}
"""The tests that hold a claim, over every case that makes it.  Empty: there is nothing to call, or
(`steer`) nobody claims it."""

ELSEWHERE = {
    "`bedrock_agentcore`, an OAuth token": "the case agentcore-oauth, which names its agent and "
    "so can list it",
    '`http`, `answer.form = "json"`, polled': "the case http-polled, which has a session and a "
    "call that cancels beside",
    '`http`, `answer.form = "sse"`, everything configured': "the case http-sse; that its server "
    "takes a repeated start for the same is the word of its owner",
    "`cursor`": "the cases cursor and cursor-plain, which differ in usage alone and in files alone",
    "`cursor`, `usage = true`, `artifacts = false`": "the same two",
    "`n8n`, with a key, `waits = true`": "the case n8n-webhook, which does not stream",
    "`n8n`, `stream = false`, `remembers = false`": "the case n8n-webhook, which has a key: "
    "without one a workflow that fails says nothing of why",
}
"""Configurations of the table that no case has to the letter, and what runs in their place."""


@cache
def cases_claim() -> dict[str, Capabilities]:
    """What each case claims."""

    async def claims() -> dict[str, Capabilities]:
        found = {}
        for case in CASES:
            async with case.bench() as bench:
                found[case.id] = bench.runtime.capabilities
        return found

    return anyio.run(claims)


def runtime_of(row: str) -> Runtime:
    made: Runtime = configured(row)
    return made


def test_every_claim_that_somebody_makes_has_its_proof() -> None:
    assert {name for name, _ in PROOF} == {field.name for field in fields(Capabilities)}
    made = {claim for row in CONFIGURED for claim in asdict(runtime_of(row).capabilities).items()}
    assert made <= set(PROOF)
    assert ("steer", True) not in made
    for tests in PROOF.values():
        assert set(tests) <= set(CONTRACT)


def test_every_claim_is_made_by_a_case_and_so_run() -> None:
    run = {claim for able in cases_claim().values() for claim in asdict(able).items()}
    for row in CONFIGURED:
        claimed = set(asdict(runtime_of(row).capabilities).items())
        assert claimed <= run, row


@pytest.mark.parametrize("row", CONFIGURED)
def test_a_configuration_of_the_table_is_a_case_or_says_what_stands_for_it(row: str) -> None:
    runtime = runtime_of(row)
    kinds = {case.id: case.kind for case in CASES}
    same = [
        case
        for case, able in cases_claim().items()
        if kinds[case] == runtime.kind and able == runtime.capabilities
    ]
    assert bool(same) != (row in ELSEWHERE)
    if row in ELSEWHERE:
        # Each claim of it is made by a case of its kind all the same.
        claims = {
            claim
            for case, able in cases_claim().items()
            if kinds[case] == runtime.kind
            for claim in asdict(able).items()
        }
        odd = set(asdict(runtime.capabilities).items()) - claims
        assert odd <= {("discover", False), ("idempotent_start", True), ("conversation", "none")}


@pytest.fixture
def runtime(row: str) -> Runtime:
    # Not on the loop: making the first of a kind reads files.
    return runtime_of(row)


@pytest.mark.parametrize("row", CONFIGURED)
async def test_what_a_configuration_does_not_claim_is_refused_unsent(
    row: str, runtime: Runtime, make_turn: MakeTurn
) -> None:
    """Its address leads nowhere: whatever is sent fails, and not as `Unsupported`."""
    try:
        for name, ask in unclaimed(runtime, make_turn).items():
            with anyio.fail_after(30), pytest.raises(Unsupported) as refused:
                await ask()
            assert refused.value.message, name
            assert not refused.value.sent, name
    finally:
        await runtime.aclose()


WORDS = {
    "Each call stands alone": lambda able: able.conversation == "none",
    "It takes no files": lambda able: not able.files_in,
    "It may work on when it is cancelled": lambda able: able.cancel == "none",
    "its answer is lost": lambda able: able.attach == "none",
}


@pytest.mark.parametrize("row", CONFIGURED)
def test_the_description_of_its_agents_tools_says_what_it_cannot_do(row: str) -> None:
    able = runtime_of(row).capabilities
    tool = definition(Agent(name="helper", runtime="r", ref="x", description="Helps."), able)
    for words, lacking in WORDS.items():
        assert (words in str(tool.description)) == lacking(able), words
    offered = tool.input_schema["properties"]
    assert ("session" in offered) == (able.conversation != "none")
    assert ("files" in offered) == able.files_in
