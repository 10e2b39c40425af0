"""What one answer of a runtime may not do to others, to our own process, or to a prompt."""

from __future__ import annotations

import anyio
import pytest
from lap_runtimes.authorizing import Outgoing, Proof
from lap_runtimes.config import HTTPRuntimeConfig
from lap_runtimes.errors import ProtocolError, Rejected
from lap_runtimes.http import HTTP
from lap_runtimes.http_errors import error_words
from starlette.responses import JSONResponse, RedirectResponse, Response

from tests.canary import canary
from tests.runtimes.serving import serving
from tests.runtimes.test_http import Recorder, connected

pytestmark = pytest.mark.anyio

DEEP = b"[" * 100_000
TOKEN = canary("bearer")


class Issuer:
    async def authorize(self, request: Outgoing) -> Proof:
        secret = {"authorization": f"Bearer {TOKEN}", "x-signature": f"{TOKEN}-signed"}
        return Proof(secret=secret, once=("x-signature",))


async def test_a_cookie_of_one_answer_is_not_sent_with_the_next_request() -> None:
    answer = JSONResponse({}, headers={"set-cookie": "session=of-somebody; Path=/"})
    ours = Recorder(one=answer)
    with serving(ours.app) as url:
        async with connected(url) as http:
            await http.json("GET", http.url("one"))
            await http.json("GET", http.url("two"))
    assert [path for _, path, _ in ours.seen] == ["one", "two"]
    assert all("cookie" not in headers for _, _, headers in ours.seen)


@pytest.mark.parametrize("status", [200, 400])
async def test_json_that_nests_too_deep_is_an_error_of_the_contract(status: int) -> None:
    ours = Recorder(deep=Response(DEEP, status, media_type="application/json"))
    with serving(ours.app) as url:
        async with connected(url) as http:
            with pytest.raises((ProtocolError, Rejected)) as refused:
                await http.json("GET", http.url("deep"))
    assert (refused.type is Rejected) == (status == 400)


def test_the_words_of_an_error_that_nests_too_deep_are_cut_and_not_looked_for() -> None:
    assert error_words(DEEP).startswith("[[[")
    assert error_words(b"[" * 900 + b'"a"' + b"]" * 900)


async def test_a_credential_that_is_issued_is_told_whoever_scrubs() -> None:
    learnt: list[str] = []
    ours = Recorder(a=JSONResponse({}), b=JSONResponse({}))
    with serving(ours.app) as url:
        config = HTTPRuntimeConfig.model_validate(
            {"url": url}, context={"learn_secret": learnt.append}
        )
        http = HTTP(config.model_copy(update={"headers": {"X-A": "b"}}), Issuer())
        with anyio.fail_after(15):
            await http.json("GET", http.url("a"))
            await http.json("GET", http.url("b"))
        await http.aclose()
    assert learnt == [TOKEN], "once, without its scheme; a signature of one request is none"


async def test_the_words_about_an_answer_that_is_no_json_do_not_show_the_credential() -> None:
    text = f"{'x' * 190}{TOKEN} was your token"
    ours = Recorder(text=Response(text), plain=Response(f"hello {TOKEN}"))
    with serving(ours.app) as url:
        async with connected(url) as http:
            for path in ("text", "plain"):
                with pytest.raises(ProtocolError, match="JSON") as refused:
                    await http.json("GET", http.url(path))
                assert TOKEN[:10] not in refused.value.message


@pytest.mark.parametrize("status", [307, 308])
async def test_a_prompt_is_not_carried_to_an_address_that_only_a_star_allows(status: int) -> None:
    # A public address, to which nothing may be sent.
    ours = Recorder(go=RedirectResponse("https://192.0.43.10/x", status))
    with serving(ours.app) as url:
        async with connected(url, allow_origins=["*"]) as http:
            with pytest.raises(Rejected) as refused:
                await http.json("POST", http.url("go"), json={"prompt": "private"})
    assert not refused.value.sent
    assert "allow_origins" in refused.value.message
