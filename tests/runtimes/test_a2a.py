"""What is A2A's own: cards that lie or attack, messages without a task, files by address, agents
that speak on the way, and the shared rules of the SDK's HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import httpx
import pytest
from a2a.utils import errors as foreign
from a2a.utils.errors import A2AError
from lap_runtimes.a2a import A2AConfig, A2ARuntime
from lap_runtimes.a2a_client import ERRORS
from lap_runtimes.a2a_fold import TaskFold
from lap_runtimes.a2a_legacy import FOREIGN, foreign_errors
from lap_runtimes.base import Answer, Asked, Done, Event, File, Message, MessageDelta, Progress
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.canary import canary
from tests.runtimes.cases import CASES, example_agent
from tests.runtimes.conftest import MakeTurn
from tests.runtimes.serving import address, listening, proxied, serving

pytestmark = pytest.mark.anyio

TOKEN = canary("a2a")
WRONG = canary("wrong-a2a")
CARD = ".well-known/agent-card.json"


def runtime(url: str, *, token: str = TOKEN, **settings: Any) -> A2ARuntime:
    context = {"resolve_secret": lambda reference: token}
    made = {"url": url, "auth": {"bearer": "env:TOKEN"}, **settings}
    return A2ARuntime(A2AConfig.model_validate(made, context=context))


@asynccontextmanager
async def reaching(url: str, **settings: Any) -> AsyncIterator[A2ARuntime]:
    made = runtime(url, **settings)
    try:
        with anyio.fail_after(15):
            yield made
    finally:
        await made.aclose()


async def read(stream: Any) -> list[Event]:
    async with stream as events:
        return [event async for event in events]


def card(url: str, **more: Any) -> dict[str, Any]:
    interface = {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": "1.0"}
    made = {"name": "x", "description": "d", "version": "1", "skills": []}
    return {
        **made,
        "capabilities": {"streaming": True},
        "supportedInterfaces": [interface],
        **more,
    }


class Fake:
    """A server whose card and answers a test writes by hand."""

    def __init__(self, found: Any, rpc: Callable[[Any], Response] | None = None) -> None:
        self.card = found
        self.seen: list[dict[str, str]] = []
        self._rpc = rpc
        self.app = Starlette(
            routes=[
                Route(f"/{CARD}", self.give_card),
                Route("/{path:path}", self.answer, methods=["GET", "POST"]),
            ]
        )

    async def give_card(self, request: Request) -> Response:
        return self.card if isinstance(self.card, Response) else JSONResponse(self.card)

    async def answer(self, request: Request) -> Response:
        self.seen.append(dict(request.headers))
        body = await request.json() if request.method == "POST" else {}
        return self._rpc(body) if self._rpc else JSONResponse({})


def stream_of(body: Any, *results: dict[str, Any]) -> Response:
    async def frames() -> AsyncIterator[bytes]:
        for result in results:
            found = JSONResponse({"jsonrpc": "2.0", "id": body["id"], **result}).body
            yield b"data: " + bytes(found) + b"\n\n"

    return StreamingResponse(frames(), media_type="text/event-stream")


async def test_the_credential_reaches_the_agent_and_a_wrong_one_is_named() -> None:
    listener = listening()
    app = example_agent().build(address(listener), token=TOKEN)
    with serving(app, listener) as url:
        async with reaching(url) as ours:
            await ours.check()
            with pytest.raises(Rejected) as missing:
                await ours.cancel({"task": "none", "agent": "nowhere.json"})
            assert missing.value.kind == "not_found"
        async with reaching(url, token=WRONG) as ours:
            with pytest.raises(Rejected) as refused:
                await ours.cancel({"task": "none"})
            assert refused.value.kind == "auth"
            assert WRONG not in refused.value.message


@pytest.mark.parametrize(
    "where",
    [
        "http://169.254.169.254/", "http://localhost:{port}/", "http://[::1]:{port}/",
        "http://127.0.0.1:1/", "https://127.0.0.1:{port}/", "file:///etc/passwd",
        "http://127.0.0.1:{port}@evil.example/", "http://evil.example\\@127.0.0.1:{port}/",
        "javascript:alert(1)", "//evil.example/", "http://2130706433:{port}/", "gopher://x",
    ],
)  # fmt: skip
async def test_a_card_that_leads_elsewhere_is_refused_and_nothing_is_sent(
    where: str, make_turn: MakeTurn
) -> None:
    listener = listening()
    port = listener.getsockname()[1]
    fake = Fake(card(where.format(port=port)))
    with serving(fake.app, listener) as url:
        async with reaching(url) as ours:
            for call in (ours.check(), ours.agents(), read(ours.start(make_turn("x")))):
                with pytest.raises(RuntimeFailure) as refused:
                    await call
                assert "card" in refused.value.message
    assert fake.seen == []


async def test_an_allowed_origin_is_called_without_the_credential(make_turn: MakeTurn) -> None:
    other_listener = listening()
    other = Fake({}, lambda body: stream_of(body, {"result": {"message": _message("hello")}}))
    with serving(other.app, other_listener) as elsewhere:
        fake = Fake(card(elsewhere))
        with serving(fake.app) as url:
            async with reaching(url, allow_origins=[elsewhere]) as ours:
                events = await read(ours.start(make_turn("x")))
    assert [e.text for e in events if isinstance(e, Message)] == ["hello"]
    assert fake.seen == []
    assert "authorization" not in other.seen[0]
    assert TOKEN not in str(other.seen)


def _message(text: str) -> dict[str, Any]:
    return {"messageId": "m1", "contextId": "c1", "role": "ROLE_AGENT", "parts": [{"text": text}]}


async def test_a_configured_endpoint_replaces_what_the_card_says(make_turn: MakeTurn) -> None:
    fake = Fake(
        card("http://0.0.0.0:9999/"),
        lambda body: stream_of(body, {"result": {"message": _message("hello")}}),
    )
    with serving(fake.app) as url:
        async with reaching(url, endpoint=f"{url}/rpc") as ours:
            events = await read(ours.start(make_turn("x")))
    assert isinstance(events[-1], Done)
    assert fake.seen[0]["authorization"] == f"Bearer {TOKEN}"


@pytest.mark.parametrize("status", [302, 307])
async def test_an_agent_that_redirects_does_not_get_the_credential_elsewhere(
    status: int, make_turn: MakeTurn
) -> None:
    """The same rules hold in the HTTP that the SDK uses."""
    other = Fake({})
    with serving(other.app) as elsewhere:
        listener = listening()
        there = RedirectResponse(f"{elsewhere}/x", status)
        fake = Fake(card(address(listener)), lambda body: there)
        with serving(fake.app, listener) as url:
            async with reaching(url) as ours:
                with pytest.raises(Rejected):
                    await read(ours.start(make_turn("x")))
    assert other.seen == []


@pytest.mark.parametrize(
    "found",
    [
        [], "words", {}, {"name": 5}, {"supportedInterfaces": 3}, card("x", capabilities=5),
        card("", supportedInterfaces=[]), card("", supportedInterfaces=[{"url": None}]),
        card("http://x", supportedInterfaces=[{"url": "x", "protocolBinding": "GRPC"}]),
        card("http://x", supportedInterfaces=[{"url": {"a": 1}, "protocolBinding": "JSONRPC"}]),
    ],
)  # fmt: skip
async def test_what_is_no_card_is_refused_in_words(found: Any) -> None:
    with serving(Fake(found).app) as url:
        async with reaching(url) as ours:
            with pytest.raises(RuntimeFailure) as refused:
                await ours.agents()
            assert url in refused.value.message


@pytest.mark.parametrize(
    "results",
    [
        [{"result": "words"}], [{"result": {"task": 5}}], [{"nothing": 1}], [{"error": "no"}],
        [{"result": {"task": {"id": "t" * 9000, "status": {"state": "TASK_STATE_WORKING"}}}}],
    ],
)  # fmt: skip
async def test_what_is_no_a2a_is_a_protocol_error(
    results: list[dict[str, Any]], make_turn: MakeTurn
) -> None:
    listener = listening()
    fake = Fake(card(address(listener)), lambda body: stream_of(body, *results))
    with serving(fake.app, listener) as url:
        async with reaching(url) as ours:
            with pytest.raises(ProtocolError):
                await read(ours.start(make_turn("x")))


async def test_an_error_inside_a_200_stream_is_the_agents_no(make_turn: MakeTurn) -> None:
    error = {"error": {"code": -32603, "message": "out of ink"}}
    task = {"id": "t1", "contextId": "c1", "status": {"state": "TASK_STATE_WORKING"}}
    listener = listening()
    fake = Fake(
        card(address(listener)), lambda body: stream_of(body, {"result": {"task": task}}, error)
    )
    with serving(fake.app, listener) as url:
        async with reaching(url) as ours:
            with pytest.raises(Rejected, match="out of ink"):
                await read(ours.start(make_turn("x")))


def test_errors_have_the_codes_and_reasons_of_the_sdk() -> None:
    theirs = {
        foreign.A2A_ERROR_REASONS[each]: code
        for each, code in foreign.JSON_RPC_ERROR_CODE_MAP.items()
        if each in foreign.A2A_ERROR_REASONS
    }
    assert theirs.items() <= {name: code for name, (code, _) in ERRORS.items()}.items()


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_a_tenant_of_the_card_is_named_in_each_call(
    binding: str, make_turn: MakeTurn
) -> None:
    asked: list[Any] = []

    async def answer(request: Request) -> Response:
        asked.append((request.url.path, await request.json()))
        found: dict[str, Any] = {"message": _message("hello")}
        if binding == "JSONRPC":
            found = {"jsonrpc": "2.0", "id": 1, "result": found}
        return JSONResponse(found)

    listener = listening()
    interface = {
        "url": address(listener), "protocolBinding": binding, "protocolVersion": "1.0",
        "tenant": "acme",
    }  # fmt: skip
    fake = Fake(card("", supportedInterfaces=[interface]))
    fake.app.routes[1] = Route("/{path:path}", answer, methods=["POST"])
    with serving(fake.app, listener) as url:
        async with reaching(url) as ours:
            events = await read(ours.start(make_turn("x")))
    assert isinstance(events[-1], Done)
    ((path, body),) = asked
    tenant = body["params"]["tenant"] if binding == "JSONRPC" else path.split("/")[1]
    assert tenant == "acme"


def test_every_error_of_the_sdk_is_translated() -> None:
    named = {each for each, _ in FOREIGN}
    theirs = {
        each
        for each in vars(foreign).values()
        if isinstance(each, type) and issubclass(each, A2AError) and each is not A2AError
    }
    assert theirs <= named
    for error in (*(each("why") for each in theirs), httpx.ReadError("why"), KeyError("why")):
        with pytest.raises(RuntimeFailure, match="why"), foreign_errors("there"):
            raise error


async def test_a_file_by_address_comes_with_its_bytes_or_says_why_not(
    make_turn: MakeTurn,
) -> None:
    def rpc(body: Any) -> Response:
        if not body:
            return Response(b"the bytes", media_type="text/csv")
        parts = [
            {"url": f"{url}/files/a.csv", "filename": "../../a.csv"},
            {"url": "http://169.254.169.254/key", "filename": "key"},
        ]
        return stream_of(body, {"result": {"message": {**_message(""), "parts": parts}}})

    listener = listening()
    url = address(listener)
    fake = Fake(card(url), rpc)
    with serving(fake.app, listener):
        async with reaching(url) as ours:
            events = await read(ours.start(make_turn("x")))
    (file,) = [event for event in events if isinstance(event, File)]
    assert (file.name, file.data, file.media_type) == ("a.csv", b"the bytes", "text/csv")
    (words,) = [event for event in events if isinstance(event, Message)]
    assert "169.254.169.254" in words.text
    assert "not fetched" in words.text
    assert not any(event.more for event in events), "one of them had to be waited for"


async def test_an_answer_that_came_too_late_follows_the_task_as_it_is(
    make_turn: MakeTurn,
) -> None:
    """A person signed in elsewhere, and the task went on without our answer."""
    listener = listening()
    with serving(example_agent().build(address(listener)), listener) as url:
        async with reaching(url) as ours, reaching(url) as elsewhere:
            asked = await read(ours.start(make_turn("login")))
            ref = asked[-1].ref
            (question,) = [event.question for event in asked if isinstance(event, Asked)]
            assert question.kind == "auth"
            assert question.url == "https://login.example.com/device"
            answers = [Answer(question_id=question.id, text="done")]
            first = await read(elsewhere.start(make_turn(answers=answers, ref=ref)))
            again = await read(ours.start(make_turn(answers=answers, ref=ref)))
    texts = [[e.text for e in events if isinstance(e, Message)] for events in (first, again)]
    assert texts == [["signed in: done"], ["signed in: done"]]


async def test_turns_that_are_read_to_their_end_share_a_connection(make_turn: MakeTurn) -> None:
    listener = listening()
    url = address(listener)
    with serving(example_agent().build(url, token=TOKEN)) as direct:
        async with proxied(direct, listener) as proxy, reaching(url) as ours:
            for _ in range(3):
                events = await read(ours.start(make_turn("hello")))
                assert isinstance(events[-1], Done)
                assert [event.more for event in events[-2:]] == [True, False]
            assert proxy.accepted == 1


async def test_so_do_turns_that_are_left_at_their_end(make_turn: MakeTurn) -> None:
    """As the engine leaves them, which has stored it by then."""
    listener = listening()
    url = address(listener)
    with serving(example_agent().build(url, token=TOKEN)) as direct:
        async with proxied(direct, listener) as proxy, reaching(url) as ours:
            for _ in range(3):
                async with ours.start(make_turn("hello")) as events:
                    async for event in events:
                        if isinstance(event, Done):
                            break
            assert proxy.accepted == 1


async def test_a_stream_that_stays_open_after_its_end_holds_up_nothing(make_turn: MakeTurn) -> None:
    async def frames(body: Any) -> AsyncIterator[bytes]:
        found = {"jsonrpc": "2.0", "id": body["id"], "result": {"message": _message("hello")}}
        yield b"data: " + bytes(JSONResponse(found).body) + b"\n\n"
        await anyio.sleep(60)

    def rpc(body: Any) -> Response:
        return StreamingResponse(frames(body), media_type="text/event-stream")

    listener = listening()
    fake = Fake(card(address(listener)), rpc)
    with serving(fake.app, listener) as url:
        async with reaching(url) as ours:
            events = await read(ours.start(make_turn("x")))
    assert isinstance(events[-1], Done)


# The fold alone


def fold(*responses: dict[str, Any], ref: dict[str, Any] | None = None, whole: bool = False) -> Any:
    made = TaskFold("trn_1", ref or {}, whole=whole)
    return [event for response in responses for event in made.feed(response)], made


def status(state: str, text: str | None = None, message_id: str = "s1") -> dict[str, Any]:
    found: dict[str, Any] = {"state": f"TASK_STATE_{state}"}
    if text is not None:
        parts = [{"text": text}]
        found["message"] = {"messageId": message_id, "role": "ROLE_AGENT", "parts": parts}
    return found


def task(state: str, **more: Any) -> dict[str, Any]:
    return {"task": {"id": "t", "contextId": "c", "status": status(state), **more}}


def update(state: str, text: str | None = None, message_id: str = "s1") -> dict[str, Any]:
    found = status(state, text, message_id)
    return {"statusUpdate": {"taskId": "t", "contextId": "c", "status": found}}


def chunk(text: str, **more: Any) -> dict[str, Any]:
    artifact = {"artifactId": "a", "parts": [{"text": text}]}
    return {"artifactUpdate": {"taskId": "t", "contextId": "c", "artifact": artifact, **more}}


def texts_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Message)]


def test_words_on_the_way_are_progress_unless_nothing_else_is_said() -> None:
    spoken, _ = fold(
        task("WORKING"), update("WORKING", "thinking"), update("COMPLETED", "42", "s2")
    )
    assert [e.text for e in spoken if isinstance(e, Progress)] == ["thinking"]
    assert texts_of(spoken) == ["42"]
    silent, _ = fold(task("WORKING"), update("WORKING", "only this"), update("COMPLETED"))
    assert texts_of(silent) == ["only this"]
    history = [
        {"messageId": "trn_1", "role": "ROLE_USER", "parts": [{"text": "q"}]},
        status("WORKING", "only this")["message"],
    ]
    again, _ = fold(task("COMPLETED", history=history), whole=True)
    assert [e for e in again if isinstance(e, Message)] == [
        e for e in silent if isinstance(e, Message)
    ]


def test_a_final_word_that_repeats_the_artifact_is_not_said_twice() -> None:
    events, _ = fold(task("WORKING"), chunk("42"), update("COMPLETED", "42"))
    assert texts_of(events) == ["42"]


def test_a_replaced_artifact_ends_as_its_last_content() -> None:
    events, _ = fold(task("WORKING"), chunk("draft"), chunk("final"), update("COMPLETED"))
    assert texts_of(events) == ["final"]


def test_chunks_that_a_replay_repeats_are_corrected_by_the_looked_up_task() -> None:
    seen, made = fold(
        task("WORKING", artifacts=[{"artifactId": "a", "parts": [{"text": "one"}]}]),
        chunk("one", append=True),
        update("COMPLETED"),
        whole=True,
    )
    assert made.wants_task
    assert not made.finished
    looked = task("COMPLETED", artifacts=[{"artifactId": "a", "parts": [{"text": "one"}]}])
    rest = made.feed(looked)
    assert texts_of(seen) == []
    assert texts_of(rest) == ["one"]
    undisturbed, _ = fold(
        task("WORKING"), chunk("o"), chunk("ne", append=True), update("COMPLETED")
    )
    assert [e.id for e in rest if isinstance(e, Message)] == [
        e.id for e in undisturbed if isinstance(e, Message)
    ]


def test_thousands_of_chunks_are_folded_in_linear_time() -> None:
    made = TaskFold("trn_1", {})
    made.feed(task("WORKING"))
    made.feed(chunk("x"))
    for _ in range(20_000):
        (event,) = made.feed(chunk("word ", append=True))
        assert isinstance(event, MessageDelta)
    assert len(texts_of(made.feed(update("COMPLETED")))[0]) == 100_001


def test_another_tasks_events_are_not_ours() -> None:
    events, made = fold(task("WORKING"))
    stranger = {"statusUpdate": {"taskId": "other", "status": status("COMPLETED")}}
    made.feed(stranger)
    assert not made.finished


@pytest.mark.parametrize(
    ("state", "outcome"),
    [("FAILED", "failed"), ("REJECTED", "failed"), ("CANCELED", "cancelled")],
)
def test_each_end_is_named(state: str, outcome: str) -> None:
    events, _ = fold(task("WORKING"), update(state, "no ink"))
    assert isinstance(events[-1], Done)
    assert events[-1].outcome == outcome
    assert outcome != "failed" or "no ink" in (events[-1].error or "")


def test_chunks_of_one_file_become_one_file() -> None:
    parts = [{"raw": "YWI=", "filename": "f.bin"}, {"raw": "Y2Q=", "filename": "f.bin"}]
    other = [{"raw": "ZWY=", "filename": "g.bin"}]
    artifact = {"artifactId": "a", "parts": [*parts, *other]}
    events, _ = fold(task("COMPLETED", artifacts=[artifact]))
    files = [(e.name, e.data) for e in events if isinstance(e, File)]
    assert files == [("f.bin", b"abcd"), ("g.bin", b"ef")]


@pytest.mark.parametrize("case_id", ["a2a-jsonrpc", "a2a-rest"])
async def test_turns_one_after_another_use_one_connection(
    case_id: str, make_turn: MakeTurn
) -> None:
    """A stream is read to its end, which comes right after the turn's: left before it, its
    connection would have to be closed."""
    case = next(case for case in CASES if case.id == case_id)
    async with case.bench() as bench:
        for _ in range(5):
            await read(bench.runtime.start(make_turn("hello")))
        assert bench.proxy.accepted == 1
