"""A request that is signed, or gets a token that expires: only where it goes home, when it is
final, and without the credential coming back in an error."""

from __future__ import annotations

import json
from typing import Any

import anyio
import pytest
from lap_runtimes.authorizing import REMEMBERED, Issued, Outgoing, Proof
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import Rejected
from lap_runtimes.http import HTTP
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from tests.canary import canary
from tests.runtimes.serving import serving

pytestmark = pytest.mark.anyio

TOKEN = canary("bearer")


class Signer:
    def __init__(self) -> None:
        self.asked: list[Outgoing] = []

    async def authorize(self, request: Outgoing) -> Proof:
        self.asked.append(request)
        number = len(self.asked)
        return Proof(secret={"authorization": f"Sig {TOKEN}-{number}"}, plain={"x-date": "today"})


def server(seen: list[Any]) -> Starlette:
    async def take(request: Request) -> Response:
        seen.append((request, await request.body()))
        if where := request.query_params.get("to"):
            return RedirectResponse(where, 307)
        if request.url.path == "/refuse":
            given = request.headers["authorization"]
            return JSONResponse({"message": f"{given} of today is wrong"}, status_code=403)
        return JSONResponse({})

    return Starlette(routes=[Route("/{path:path}", take, methods=["GET", "POST"])])


async def reach(url: str, signer: Signer, path: str, **options: Any) -> Any:
    http = HTTP(HTTPRuntimeConfig(url=url, **options), signer)
    try:
        with anyio.fail_after(15):
            return await http.json("POST", http.url(path), json={"a": "ü"}, params={"q": "1 2"})
    finally:
        await http.aclose()


async def test_what_is_signed_is_what_arrives() -> None:
    seen: list[Any] = []
    signer = Signer()
    with serving(server(seen)) as url:
        await reach(url, signer, "runtimes/arn%3Aaws/x", headers={"X-Fixed": "1"})
    (asked,), ((request, body),) = signer.asked, seen
    raw = request.scope["raw_path"].decode()
    assert asked.url == f"{url}{raw}?{request.scope['query_string'].decode()}"
    assert "arn%3Aaws" in raw
    assert (asked.method, asked.content) == ("POST", body)
    assert json.loads(body) == {"a": "ü"}
    arrived = dict(request.headers)
    assert asked.headers.items() <= arrived.items()
    assert (asked.headers["x-fixed"], asked.headers["host"]) == ("1", arrived["host"])
    assert arrived["authorization"] == f"Sig {TOKEN}-1"
    assert arrived["x-date"] == "today"


async def test_a_redirect_to_another_origin_is_neither_signed_nor_told_the_credential() -> None:
    seen: list[Any] = []
    signer = Signer()
    with serving(server([])) as url, serving(server(seen)) as other:
        await reach(url, signer, f"x?to={other}/there", allow_origins=[other])
    assert len(signer.asked) == 1
    assert "authorization" not in seen[0][0].headers


async def test_a_redirect_at_home_is_signed_anew() -> None:
    seen: list[Any] = []
    signer = Signer()
    with serving(server(seen)) as url:
        await reach(url, signer, f"x?to={url}/there")
    assert [request.headers["authorization"][-2:] for request, _ in seen] == ["-1", "-2"]


async def test_an_echoed_credential_is_not_shown_and_its_plain_part_is() -> None:
    with serving(server([])) as url, pytest.raises(Rejected) as refusal:
        await reach(url, Signer(), "refuse")
    assert TOKEN not in str(refusal.value)
    assert "today" in str(refusal.value)


def test_only_the_newest_credentials_are_remembered() -> None:
    issued = Issued()
    for number in range(REMEMBERED + 3):
        issued.remember(Proof(secret={"authorization": f"token {number}"}))
        issued.remember(Proof(secret={"authorization": f"token {number}"}))
    assert issued.values() == tuple(f"token {n}" for n in range(3, REMEMBERED + 3))
