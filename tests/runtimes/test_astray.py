"""Requests that go astray: whatever a runtime answers, nothing of ours goes where the operator's
file does not say, and the refusal names where it would have gone and what is configured."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import urlsplit

import anyio
import pytest
from lap_runtimes.base import AgentInfo, Done, Message
from lap_runtimes.config import Auth, HTTPRuntimeConfig
from lap_runtimes.errors import Rejected, RuntimeFailure, Unavailable
from lap_runtimes.files import FileLink, fetched
from lap_runtimes.http import HTTP
from pydantic import SecretStr

from lap_mcp.control.answering import check
from lap_mcp.control.cleaning import clean_words
from lap_mcp.control.services import NewAnswer
from lap_mcp.errors import Invalid
from lap_mcp.mcp_server.arguments import Checker
from lap_mcp.model import Question
from tests.canary import canary
from tests.runtimes.bench import Case
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.contract.test_faults import SERVED, faulty
from tests.runtimes.reading import read
from tests.runtimes.serving import serving
from tests.runtimes.test_a2a import Fake, card, reaching

pytestmark = pytest.mark.anyio

ASTRAY = {
    "another port": "http://127.0.0.1:{port}/x",
    "IPv4 in IPv6": "http://[::ffff:127.0.0.1]:{port}/x",
    "decimal": "http://2130706433:{port}/x",
    "hexadecimal": "http://0x7f000001:{port}/x",
    "octal": "http://0177.0.0.1:{port}/x",
    "short": "http://127.1:{port}/x",
    "unspecified": "http://0.0.0.0:{port}/x",
    "a name of loopback": "http://localhost:{port}/x",
    "link-local": "http://169.254.169.254/latest/meta-data/",
    "link-local, IPv6": "http://[fe80::1]/x",
}
"""Where a redirect, a card or a file leads.  Most of them reach the catcher, if they are followed.
"""


class Catcher:
    """Stands where nothing may come: counts what does, and keeps its headers."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        self.seen.append(f"{scope['path']} {scope['headers']}")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})


@contextmanager
def catching() -> Iterator[tuple[Catcher, int]]:
    catcher = Catcher()
    with serving(catcher) as url:
        yield catcher, urlsplit(url).port or 0


def targets(port: int) -> list[str]:
    return [target.format(port=port) for target in ASTRAY.values()]


def named(words: str, home: str, target: str) -> bool:
    """Both are named: what is configured, and where it would have gone."""
    return urlsplit(home).netloc in words and (urlsplit(target).hostname or "") in words


@pytest.mark.parametrize("case", SERVED, ids=lambda case: case.id)
@pytest.mark.parametrize("status", [302, 307])
async def test_a_redirect_away_is_refused_by_every_kind_with_both_origins_named(
    case: Case, status: int, make_turn: MakeTurn
) -> None:
    """Neither the prompt nor the credential arrives, whichever way the address is written."""
    with catching() as (catcher, port):
        async with faulty(case) as (bench, faults):
            for target in targets(port):
                faults.refuse = (status, {"location": target}, b"")
                words = ""
                try:
                    events = await read(bench.runtime.start(make_turn("hello")))
                except RuntimeFailure as failure:
                    words = failure.message
                else:
                    assert isinstance(events[-1], Done)
                    assert events[-1].outcome == "failed"
                    words = events[-1].error or ""
                assert named(words, faults.url, target), (target, words)
                assert canary(case.slot or case.kind) not in words
    assert catcher.seen == []


def client(url: str, *allow: str) -> HTTP:
    auth = Auth.model_construct(bearer=SecretStr(canary("a2a")), header={})
    config = HTTPRuntimeConfig.model_construct(
        url=url, auth=auth, headers={}, allow_origins=allow, ca_file=None, connect_timeout=5.0
    )
    return HTTP(config)


@asynccontextmanager
async def home(*allow: str):
    """A runtime's own address and a client for it."""
    with serving(Catcher()) as url:
        http = client(url, *allow)
        try:
            yield url, http
        finally:
            await http.aclose()


async def test_a_file_that_lies_elsewhere_is_named_and_not_fetched() -> None:
    """The one function by which every adapter follows a link to a file."""
    with catching() as (catcher, port):
        async with home() as (url, http):
            for target in targets(port):
                link = FileLink(file_id="f", name="a.csv", media_type="", url=target)
                event = await fetched(http, link)
                assert isinstance(event, Message), target
                assert "not fetched" in event.text
                assert named(event.text, url, target), (target, event.text)
    assert catcher.seen == []


async def test_any_public_address_is_not_any_address() -> None:
    """With `allow_origins = ["*"]` what an answer leads to is looked up before it is gone to."""
    with catching() as (catcher, port):
        async with home("*") as (_, http):
            for target in targets(port):
                with pytest.raises((Rejected, Unavailable)) as refused:
                    await http.download(target, whence="the agent's file")
                assert not refused.value.sent, target
    assert catcher.seen == []


async def test_an_agent_card_that_points_elsewhere_is_refused(make_turn: MakeTurn) -> None:
    with catching() as (catcher, port):
        for target in targets(port):
            fake = Fake(card(target))
            with serving(fake.app) as url:
                async with reaching(url) as ours:
                    with pytest.raises(RuntimeFailure) as refused:
                        await read(ours.start(make_turn("x")))
            assert "card" in refused.value.message
            assert named(refused.value.message, url, target), refused.value.message
            assert fake.seen == []
    assert catcher.seen == []


class Resolver:
    """Names as an attacker's server gives them: another answer each time."""

    def __init__(self, *answers: list[str]) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.connected: list[str] = []

    async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> list[Any]:
        name = host.decode() if isinstance(host, bytes) else str(host)
        self.asked.append(name)
        found = self.answers.pop(0) if self.answers else ["127.0.0.1"]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (each, port))
            for each in found
        ]

    async def create_connection(self, _: Any, host: Any = None, *__: Any, **___: Any) -> Any:
        self.connected.append(str(host))
        raise ConnectionRefusedError("nothing is gone to in this test")


@pytest.fixture
def rebinding(monkeypatch: pytest.MonkeyPatch):
    """Puts the machine's resolver and its connections, not ours, in the hands of the test."""

    def use(*answers: list[str]) -> Resolver:
        resolver = Resolver(*answers)
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", resolver.getaddrinfo)
        monkeypatch.setattr(loop, "create_connection", resolver.create_connection)
        return resolver

    return use


async def test_a_name_that_resolves_anew_is_connected_to_where_it_was_checked(rebinding) -> None:
    """Public when it is looked up, loopback when it would be looked up again."""
    resolver = rebinding(["93.184.215.14"], ["127.0.0.1"], ["127.0.0.1"])
    http = client("http://127.0.0.1:1", "*")
    with pytest.raises(Unavailable):
        await http.download("http://rebinding.example/key", whence="the agent's file")
    await http.aclose()

    assert resolver.asked.count("rebinding.example") == 1
    assert resolver.connected
    assert set(resolver.connected) == {"93.184.215.14"}


@pytest.mark.parametrize(
    "answer", [["93.184.215.14", "127.0.0.1"], ["169.254.169.254"], ["10.0.0.7"], []]
)
async def test_a_name_of_which_one_address_is_not_public_is_refused(
    rebinding, answer: list[str]
) -> None:
    resolver = rebinding(answer)
    http = client("http://127.0.0.1:1", "*")
    with pytest.raises(Rejected, match="not a public address"):
        await http.download("http://mixed.example/key", whence="the agent's file")
    await http.aclose()

    assert resolver.connected == []


REMOTE = "http://127.0.0.1:{port}/schema"


async def test_a_reference_in_an_input_schema_is_dropped_and_never_fetched() -> None:
    with catching() as (catcher, port):
        remote = REMOTE.format(port=port)
        schema = {"type": "object", "properties": {"q": {"$ref": remote}}}
        cleaned = clean_words(AgentInfo(ref="a", name="a", input_schema=schema)).input_schema
        checker = await anyio.to_thread.run_sync(Checker, schema)
        said = await anyio.to_thread.run_sync(checker.problem, {"q": "x"})

    assert cleaned is not None
    assert remote not in str(cleaned)
    assert remote in said
    assert catcher.seen == []


async def test_a_reference_in_the_schema_of_a_question_is_never_fetched() -> None:
    """An agent asks for input with a schema of its own; what can be checked of it is."""
    with catching() as (catcher, port):
        remote = REMOTE.format(port=port)
        schema = {"type": "object", "properties": {"q": {"$ref": remote}, "n": {"type": "integer"}}}
        answer = NewAnswer(data={"q": "x"})
        await anyio.to_thread.run_sync(check, question(schema), answer)
        local = {"type": "object", "properties": {"n": {"type": "integer"}}}
        with pytest.raises(Invalid, match="does not fit"):
            check(question(local), NewAnswer(data={"n": "many"}))
        check(question({"type": "nonsense"}), NewAnswer(data={"n": 1}))
    assert catcher.seen == []


def question(schema: dict[str, Any]) -> Question:
    return Question(
        id="qst_1",
        session_id="ses_1",
        turn_id="trn_1",
        native_id="q",
        kind="input",
        text="?",
        status="open",
        schema=schema,
        asked_at=0.0,
        expires_at=1.0,
    )
