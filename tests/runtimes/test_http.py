"""The HTTP layer keeps the credential at its origin, whatever a server answers, and translates
every foreign error."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import ProtocolError, Rejected, RuntimeFailure, Unavailable
from lap_runtimes.http import FOREIGN, HTTP, foreign_errors
from lap_runtimes.http_errors import error_words, retry_after
from lap_runtimes.origin import OriginRules, is_public, origin_of
from pydantic import ValidationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.canary import canary
from tests.runtimes.serving import address, listening, serving
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio

TOKEN = canary("bearer")


def config(url: str, **more: Any) -> HTTPRuntimeConfig:
    context = {"resolve_secret": lambda reference: TOKEN}
    settings = {"url": url, "auth": {"bearer": "env:TOKEN"}, **more}
    return HTTPRuntimeConfig.model_validate(settings, context=context)


@asynccontextmanager
async def connected(url: str, **options: Any) -> AsyncIterator[HTTP]:
    http = HTTP(config(url, **options))
    try:
        with anyio.fail_after(15):
            yield http
    finally:
        await http.aclose()


class Recorder:
    """Answers every path with what the test put there, and keeps what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.answers = answers
        route = Route("/{path:path}", self.answer, methods=["GET", "POST", "OPTIONS"])
        self.app = Starlette(routes=[route])

    async def answer(self, request: Request) -> Response:
        path = request.path_params["path"]
        self.seen.append((request.method, path, dict(request.headers)))
        found = self.answers.get(path, JSONResponse({"path": path}))
        return found.pop(0) if isinstance(found, list) else found


@contextmanager
def two_servers(**answers: Any) -> Any:
    """Ours, and another origin that records what reaches it."""
    other = Recorder()
    with serving(other.app) as elsewhere:
        made = {key: value(elsewhere) for key, value in answers.items()}
        ours = Recorder(**made)
        with serving(ours.app) as url:
            yield url, ours, elsewhere, other


async def test_the_credential_goes_to_the_configured_origin() -> None:
    ours = Recorder()
    with serving(ours.app) as url:
        async with connected(f"{url}/base", headers={"X-Team": "blue"}) as http:
            assert await http.json("GET", http.url("x")) == {"path": "base/x"}
    (_, _, headers) = ours.seen[0]
    assert headers["authorization"] == f"Bearer {TOKEN}"
    assert headers["x-team"] == "blue"


@pytest.mark.parametrize("secret", ["", " \n", "a\nb", "tök\u00ebn", "a\x00b"])
def test_a_secret_that_cannot_be_sent_is_refused_without_being_shown(secret: str) -> None:
    context = {"resolve_secret": lambda reference: secret}
    for auth in ({"bearer": "env:T"}, {"header": {"X-Key": "env:T"}}):
        settings = {"url": "https://a.example", "auth": auth}
        with pytest.raises(ValidationError) as refused:
            HTTPRuntimeConfig.model_validate(settings, context=context)
        assert "the secret" in str(refused.value)
        assert len(secret.strip()) < 2 or secret not in str(refused.value)


def test_the_line_end_of_a_secret_file_is_not_sent() -> None:
    made = HTTPRuntimeConfig.model_validate(
        {"url": "https://a.example", "auth": {"bearer": "file:T"}},
        context={"resolve_secret": lambda reference: f"{TOKEN}\n"},
    )
    assert made.auth.bearer is not None
    assert made.auth.bearer.get_secret_value() == TOKEN


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "a.example"}, "not an http or https address"),
        ({"url": "ftp://a.example"}, "not an http or https address"),
        ({"url": "https://me:secret@a.example"}, "use auth"),
        ({"url": "https://a.example", "allow_origins": ["b.example"]}, "allow_origins"),
        ({"url": "https://a.example", "headers": {"X": "a\nb"}}, "cannot be sent"),
    ],
)
def test_a_wrong_address_is_named_when_the_configuration_is_read(
    settings: dict[str, Any], words: str
) -> None:
    with pytest.raises(ValidationError, match=words):
        HTTPRuntimeConfig.model_validate(settings)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_origin_is_refused_and_nothing_reaches_it(status: int) -> None:
    with two_servers(go=lambda to: RedirectResponse(f"{to}/x", status)) as (url, _, to, other):
        async with connected(url) as http:
            for method in ("GET", "POST"):
                with pytest.raises(Rejected) as refused:
                    await http.json(method, http.url("go"), json={"a": 1})
                assert origin_of(to) in refused.value.message or "final address" in str(refused)
    assert other.seen == []


async def test_an_allowed_origin_is_followed_to_without_the_credential() -> None:
    with two_servers(go=lambda to: RedirectResponse(f"{to}/x", 307)) as (url, _, to, other):
        async with connected(url, allow_origins=[to]) as http:
            assert await http.json("POST", http.url("go"), json={"a": 1}) == {"path": "x"}
    (method, _, headers) = other.seen[0]
    assert method == "POST"
    assert "authorization" not in headers
    assert TOKEN not in str(headers)


async def test_a_redirect_within_the_origin_keeps_the_credential() -> None:
    ours = Recorder(go=RedirectResponse("/there", 307))
    with serving(ours.app) as url:
        async with connected(url) as http:
            assert await http.json("POST", http.url("go"), json={}) == {"path": "there"}
    assert ours.seen[1][2]["authorization"] == f"Bearer {TOKEN}"


async def test_endless_redirects_end() -> None:
    ours = Recorder(go=RedirectResponse("/go", 307))
    with serving(ours.app) as url:
        async with connected(url) as http:
            with pytest.raises(ProtocolError):
                await http.json("GET", http.url("go"))


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest", "http://localhost:1/", "file:///etc/passwd", "http://[::1]/"],
)
async def test_learnt_addresses_that_are_not_public_are_refused(target: str) -> None:
    ours = Recorder(go=RedirectResponse(target, 302))
    with serving(ours.app) as url:
        async with connected(url, allow_origins=["*"]) as http:
            with pytest.raises((Rejected, Unavailable)) as refused:
                await http.download(http.url("go"), whence="its file")
            assert not refused.value.sent
    assert len(ours.seen) == 1


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "0.0.0.0",
        "100.64.0.1", "224.0.0.1", "255.255.255.255", "::1", "::", "fe80::1%eth0", "fd00::1",
        "ff02::1", "::ffff:127.0.0.1", "64:ff9b::7f00:1", "2002:7f00:1::",
    ],
)  # fmt: skip
def test_private_addresses_are_not_public_in_any_form(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700:4700::1111", "::ffff:8.8.8.8"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize(
    ("url", "standing"),
    [
        ("https://a.example/x", "home"),
        ("HTTPS://A.EXAMPLE:443/x", "home"),
        ("https://a.example./x", "home"),
        ("https://b.example", "named"),
    ],
)
def test_an_origin_is_the_same_however_it_is_written(url: str, standing: str) -> None:
    rules = OriginRules.of("https://a.example/v1", ["https://b.example:443/any"])
    assert rules.standing(url, whence="a card") == standing


@pytest.mark.parametrize(
    "url",
    [
        "http://a.example", "https://a.example:8443", "https://a.example@evil.example/",
        "https://evil.example\\@a.example/", "https://a.example.evil.example", "ftp://a.example",
        "javascript:alert(1)", "//evil.example", "", "https://", "https://a.example /x",
        "https://a.example:99999/",
    ],
)  # fmt: skip
def test_other_origins_and_tricks_are_refused_in_words(url: str) -> None:
    rules = OriginRules.of("https://a.example/v1")
    with pytest.raises(Rejected) as refused:
        rules.standing(url, whence="its agent card")
    assert "its agent card" in refused.value.message
    assert not refused.value.sent


def test_every_foreign_error_is_translated() -> None:
    """Each exception that httpx2 has comes out as one of ours, in words, with its cause."""
    foreign = [
        each
        for each in vars(httpx2).values()
        if isinstance(each, type) and issubclass(each, Exception)
    ]
    assert len(foreign) > 20
    for cls in foreign:
        try:
            error = cls("why")
        except TypeError:
            error = cls.__new__(cls)
        with pytest.raises(RuntimeFailure) as ours, foreign_errors("https://a.example"):
            raise error
        assert ours.value.__cause__ is error
        assert "https://a.example" in ours.value.message
    assert all(issubclass(ours, RuntimeFailure) for _, ours, _ in FOREIGN)


@pytest.mark.parametrize(
    ("error", "sent"),
    [(httpx2.ConnectError, False), (httpx2.ConnectTimeout, False), (httpx2.ReadError, True)],
)
def test_what_never_left_says_so(error: type[Exception], sent: bool) -> None:
    with pytest.raises(Unavailable) as failure, foreign_errors("x"):
        raise error("why")
    assert failure.value.sent is sent


@pytest.mark.parametrize(
    ("status", "kind", "sent"),
    [
        (400, "invalid", False), (401, "auth", False), (403, "auth", False),
        (404, "not_found", False), (409, "conflict", False), (410, "gone", False),
        (422, "invalid", False), (424, "failed", True), (429, "rate_limited", False),
        (500, "failed", True), (503, "overloaded", True), (529, "overloaded", True),
    ],
)  # fmt: skip
async def test_an_error_status_is_rejected_in_the_runtimes_words(
    status: int, kind: str, sent: bool
) -> None:
    headers = {"retry-after": "77", "x-request-id": "req_1"}
    body = {"error": {"message": f"no more ink, {TOKEN}"}}
    ours = Recorder(x=JSONResponse(body, status_code=status, headers=headers))
    with serving(ours.app) as url:
        async with connected(url) as http:
            with pytest.raises(Rejected) as rejected:
                await http.json("POST", http.url("x"), json={})
    failure = rejected.value
    assert (failure.kind, failure.status, failure.sent) == (kind, status, sent)
    assert (failure.retry_after, failure.request_id) == (77.0, "req_1")
    assert "no more ink" in failure.message
    assert TOKEN not in failure.message


async def test_reading_waits_out_a_short_retry_after_and_starting_work_does_not() -> None:
    def busy() -> Response:
        return JSONResponse({}, status_code=429, headers={"retry-after-ms": "5"})

    ours = Recorder(x=[busy(), JSONResponse({"ok": 1})], y=[busy(), JSONResponse({"ok": 1})])
    with serving(ours.app) as url:
        async with connected(url) as http:
            assert await http.json("GET", http.url("x")) == {"ok": 1}
            with pytest.raises(Rejected):
                await http.json("POST", http.url("y"), json={})
    assert [path for _, path, _ in ours.seen] == ["x", "x", "y"]


async def test_reading_is_tried_again_when_nobody_answered() -> None:
    """The server comes up only after the first attempt was refused."""
    listener = listening()
    port = listener.getsockname()[1]
    url = address(listener)
    listener.close()
    async with connected(url) as http, anyio.create_task_group() as tasks:
        answers: list[Any] = []

        async def ask() -> None:
            answers.append(await http.json("GET", http.url("x")))

        with pytest.raises(Unavailable) as failure:
            await http.json("POST", http.url("x"))
        assert not failure.value.sent
        tasks.start_soon(ask)
        await anyio.sleep(0.05)
        with serving(Recorder().app, socket.create_server(("127.0.0.1", port))):
            await eventually_async(lambda: answers)
    assert answers == [{"path": "x"}]


async def test_an_answer_that_is_too_large_or_no_json_is_refused_in_words() -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 65536
            await anyio.lowlevel.checkpoint()

    ours = Recorder(big=StreamingResponse(endless()), text=Response("<html>"))
    with serving(ours.app) as url:
        async with connected(url) as http:
            with pytest.raises(ProtocolError, match="larger"):
                await http.download(http.url("big"), whence="a file", limit=1_000_000)
            with pytest.raises(ProtocolError, match="JSON"):
                await http.json("GET", http.url("text"))


async def test_a_request_that_only_asks_has_a_deadline() -> None:
    async def silent() -> AsyncIterator[bytes]:
        await anyio.sleep_forever()
        yield b""

    ours = Recorder(x=StreamingResponse(silent()))
    with serving(ours.app) as url:
        async with connected(url) as http:
            with pytest.raises(Unavailable, match="no answer"):
                await http.json("POST", http.url("x"), deadline=0.2)


async def test_a_missing_ca_file_is_named() -> None:
    async with connected("https://127.0.0.1:1", ca_file="/nowhere/ca.pem") as http:
        with pytest.raises(Unavailable, match="/nowhere/ca.pem") as failure:
            await http.json("POST", http.url("x"))
        assert not failure.value.sent


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "12"}, 12.0),
        ({"retry-after-ms": "1500"}, 1.5),
        ({"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, 0.0),
        ({"retry-after": "soon"}, None),
    ],
)
def test_retry_after_is_read_in_each_of_its_forms(
    headers: dict[str, str], seconds: float | None
) -> None:
    assert retry_after(headers) == seconds


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"error":{"message":"a"}}', "a"),
        (b'{"error":"b"}', "b"),
        (b'{"detail":[{"msg":"c"},{"msg":"d"}]}', "c; d"),
        (b'{"message":"e","code":1}', "e"),
        (b"plain\x00\x1b words", "plain words"),
        (b"<html>", ""),
        (b"[]", ""),
        (b"\xff\xfe", "\ufffd\ufffd"),
    ],
)
def test_the_words_of_an_error_are_found_in_each_usual_shape(body: bytes, words: str) -> None:
    assert error_words(body) == words
