"""What is not ours passes unchanged; who may not come in reaches nothing; who goes leaves nothing
(a thousand aborted streams)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import httpx2
import openai
import pytest
from pydantic import SecretStr

from lap_mcp.config import ModelTable
from lap_mcp.openai_front.wire import ApiError
from tests.canary import keep
from tests.openai_front.fronting import BOB_KEY, TOOL, UPSTREAM_KEY, fronted
from tests.openai_front.model import Break, Call, Code, Hang, Model, Say, Status
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio

ODD: dict[str, Any] = {
    "model": "gpt-test",
    "input": "go",
    "future_option": {"x": [1, None]},
    "tools": [{"type": "web_search"}, {"type": "mcp", "server_label": "x"}],
}
PATHS = ["responses", "chat/completions", "containers", "files", "models", "responses/x/cancel"]


async def test_a_request_without_our_tool_goes_on_byte_for_byte(tmp_path: Path) -> None:
    async with fronted(Model([Say("hi")]), tmp_path) as f:
        answer = await f.raw().post("/responses", json=ODD)
    assert f.model.asked == [ODD]
    assert answer.json()["future_field"] == {"kept": True}
    assert answer.headers["x-request-id"] == "req_1"


@pytest.mark.parametrize("path", ["responses", "chat/completions"])
async def test_a_stream_without_our_tool_is_the_upstreams_own(tmp_path: Path, path: str) -> None:
    body = {"model": "gpt-test", "input": "go", "messages": [], "stream": True}
    model = Model([Say("hi")], [Say("hi")])
    async with fronted(model, tmp_path) as f:
        ours = await f.raw().post(f"/{path}", json=body)
        async with httpx2.AsyncClient() as direct:
            theirs = await direct.post(f"{model.url}/{path}", json=body)
    numbers = [json.loads(line[6:]) for line in ours.text.splitlines() if line[:7] == "data: {"]
    assert len(numbers) >= 3
    assert len(ours.content) == pytest.approx(len(theirs.content), abs=12)
    assert ours.headers["content-type"] == theirs.headers["content-type"]


async def test_headers_that_mean_something_go_both_ways_and_keys_do_not(tmp_path: Path) -> None:
    sent = {
        "idempotency-key": "once",
        "x-client-request-id": "mine",
        "traceparent": "00-1-2-01",
        "cookie": "a=b",
        "openai-organization": "theirs",
    }
    async with fronted(Model([Say("hi")]), tmp_path) as f:
        client = f.raw()
        answer = await client.post("/responses", json={**ODD, "stream": True}, headers=sent)
    (got,) = f.model.headers
    assert {key: got.get(key) for key in ("idempotency-key", "traceparent")} == {
        "idempotency-key": "once",
        "traceparent": "00-1-2-01",
    }
    assert "cookie" not in got
    assert "openai-organization" not in got
    assert got["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert answer.headers["openai-processing-ms"] == "7"
    assert "set-cookie" not in answer.headers
    keep(answer.text)


async def test_the_upstreams_key_reaches_nobody_even_where_the_upstream_echoes_it(
    tmp_path: Path,
) -> None:
    echo = Status(401, {"error": {"message": f"Incorrect API key provided: {UPSTREAM_KEY}"}})
    async with fronted(Model(echo, echo, echo), tmp_path) as f:
        client = f.raw()
        answers = [
            await client.post("/responses", json=ODD),
            await client.post("/responses", json={**ODD, "tools": [TOOL]}),
            await client.post("/chat/completions", json={"model": "gpt-test", "messages": []}),
        ]
    for answer in answers:
        assert answer.status_code == 401
        assert UPSTREAM_KEY not in answer.text
        assert "Incorrect API key provided: [secret]" in answer.text
        keep(answer.text)


async def test_a_key_that_an_upstream_says_in_its_stream_is_not_stored(tmp_path: Path) -> None:
    model = Model([Code("say 1")], [Say(f"the key is {UPSTREAM_KEY}")])
    async with fronted(model, tmp_path) as f:
        client = f.client()
        answer = await client.responses.create(model="gpt-test", input="go", tools=[TOOL])  # type: ignore[list-item]
        kept = await client.responses.retrieve(answer.id)
    assert kept.output_text == "the key is [secret]"


@pytest.mark.parametrize("status", [400, 404, 429, 500, 503])
async def test_an_upstreams_error_keeps_its_status_headers_and_body(
    tmp_path: Path, status: int
) -> None:
    body = {"error": {"message": "m", "type": "t", "param": "p", "code": "c"}, "odd": 1}
    refusal = Status(status, body, {"retry-after-ms": "20", "x-odd": "kept"})
    async with fronted(Model(refusal), tmp_path) as f:
        answer = await f.raw().post("/responses", json=ODD)
    assert (answer.status_code, answer.json()) == (status, body)
    assert answer.headers["x-odd"] == "kept"
    assert answer.headers["retry-after-ms"] == "20"


async def test_half_an_answer_does_not_look_like_a_whole_one(tmp_path: Path) -> None:
    async with fronted(Model([Say("hi"), Break()]), tmp_path) as f:
        with pytest.raises(httpx2.RemoteProtocolError):
            await f.raw().post("/responses", json={**ODD, "stream": True})


async def test_ids_and_paths_that_are_not_ours_are_the_upstreams(tmp_path: Path) -> None:
    async with fronted(Model(), tmp_path) as f:
        client = f.client()
        found = await client.responses.retrieve("resp_theirs")
        await client.responses.delete("resp_theirs")
        for odd in ("..%2fadmin", "a%3fb", "%2e%2e"):
            answer = await f.raw().get(f"/responses/{odd}")
            assert answer.status_code in (404, 405)
    assert found.to_dict()["id"] == "theirs"
    assert [path for path in f.model.paths] == [
        "GET /v1/responses/resp_theirs",
        "DELETE /v1/responses/resp_theirs",
    ]


# Which model ----------------------------------------------------------------------------------


async def test_names_aliases_patterns_and_the_default(tmp_path: Path) -> None:
    def tables(url: str) -> dict[str, dict[str, Any]]:
        return {
            "exact": {"base_url": url, "model": "theirs", "aliases": ["fast", "gpt-4*"]},
            "gpt-4o*": {"base_url": url, "headers": {"x-table": "longer"}},
            "rest": {"base_url": url, "default": True, "model": "fallback"},
        }

    asked = ["exact", "fast", "gpt-4.1", "gpt-4o-mini", "anything/else"]
    async with fronted(Model(*[[Say("x")]] * 5), tmp_path, tables=tables) as f:
        for name in asked:
            await f.raw().post("/responses", json={"model": name, "input": "go"})
        listed = [model.id async for model in f.client().models.list()]
        assert (await f.client().models.retrieve("fast")).id == "fast"
    assert [body["model"] for body in f.model.asked] == [
        "theirs",
        "theirs",
        "theirs",
        "gpt-4o-mini",
        "fallback",
    ]
    assert [name for name in listed if not name.startswith("agent/")] == ["exact", "fast", "rest"]
    assert any(name.startswith("agent/") for name in listed)


@pytest.mark.parametrize("model", ["none-such", "", None, 5])
async def test_an_unknown_model_is_an_error_in_words(tmp_path: Path, model: Any) -> None:
    async with fronted(Model(), tmp_path) as f:
        answer = await f.raw().post("/responses", json={"model": model, "input": "x"})
    assert answer.status_code in (400, 404)
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


# Who may come in ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": ""}, 401),
        ({"Origin": "https://evil.example"}, 403),
        ({"Host": "evil.example"}, 421),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
    ],
)
async def test_no_route_is_open_to_web_pages_or_without_the_key(
    tmp_path: Path, path: str, headers: dict[str, str], status: int
) -> None:
    async with fronted(Model(), tmp_path) as f:
        for method in ("GET", "POST", "DELETE", "OPTIONS"):
            answer = await f.raw().request(method, f"/{path}", headers=headers)
            assert answer.status_code == status
            assert answer.json()["error"]["message"]
            assert "access-control-allow-origin" not in answer.headers
    assert f.model.paths == []


async def test_what_belongs_to_somebody_else_is_not_there(tmp_path: Path) -> None:
    model = Model([Code("write a.csv 1")], [Say("x")])
    tables = ["a", "b"]
    async with fronted(
        model, tmp_path, tables=lambda url: {name: {"base_url": url} for name in tables}
    ) as f:
        alice, bob = f.client(), f.client(BOB_KEY)
        mine = await alice.responses.create(model="a", input="go", tools=[TOOL])  # type: ignore[list-item]
        container_id = mine.output[0].container_id  # type: ignore[union-attr]
        file = (await alice.containers.files.list(container_id)).data[0]
        upload = await alice.files.create(file=("a.csv", b"1"), purpose="user_data")
        tries = [
            lambda: bob.responses.retrieve(mine.id),
            lambda: bob.responses.delete(mine.id),
            lambda: bob.containers.retrieve(container_id),
            lambda: bob.containers.delete(container_id),
            lambda: bob.containers.files.list(container_id),
            lambda: bob.containers.files.retrieve(file.id, container_id=container_id),
            lambda: bob.containers.files.content.retrieve(file.id, container_id=container_id),
            lambda: bob.files.retrieve(upload.id),
            lambda: bob.files.content(upload.id),
            lambda: bob.files.delete(upload.id),
            lambda: bob.containers.create(name="x", file_ids=[upload.id]),
            lambda: bob.responses.create(
                model="a",
                input="go",
                tools=[{"type": "code_interpreter", "container": container_id}],
            ),
        ]
        for attempt in tries:
            with pytest.raises(openai.NotFoundError):
                await attempt()  # type: ignore[no-untyped-call]
        assert (await bob.containers.list()).data == []
        assert (await bob.files.list()).data == []
        assert (await alice.files.retrieve(upload.id)).id == upload.id


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{", b"\xff", b"5", b'{"model": ' + b"[" * 100_000, b"null"]
)
async def test_a_body_that_is_no_request_is_refused_in_words(tmp_path: Path, body: bytes) -> None:
    async with fronted(Model(), tmp_path) as f:
        for path in ("responses", "chat/completions", "containers"):
            answer = await f.raw().post(
                f"/{path}", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 400
            assert "body" in answer.json()["error"]["message"].lower()


# Who goes -------------------------------------------------------------------------------------


async def hang_up(url: str, key: str, body: dict[str, Any], heard: bytes, when: Any = None) -> None:
    """Send a request, wait until `heard` came and `when` is so, and close."""
    host, _, port = url.removeprefix("http://").partition(":")
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/responses HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    stream = await anyio.connect_tcp(host, int(port))
    async with stream:
        await stream.send(head.encode() + data)
        seen = b""
        while heard not in seen:
            seen += await stream.receive()
        if when is not None:
            await eventually_async(when)


@pytest.mark.parametrize("api", ["responses", "chat"])
async def test_a_client_that_goes_closes_the_upstream_and_interrupts_the_code(
    tmp_path: Path, api: str
) -> None:
    model = Model([Code("forever")], [Say("never")])
    body = {"model": "gpt-test", "input": "go", "tools": [TOOL], "stream": True}
    async with fronted(model, tmp_path, api=api) as f:
        with anyio.fail_after(30):
            await hang_up(
                f.url, _key(), body, b"call.interpreting" if api == "responses" else b"created",
                lambda: f.launcher.sandboxes and f.launcher.sandboxes[0].running,
            )  # fmt: skip
        await eventually_async(lambda: f.launcher.sandboxes[0].interrupts == 1)
        await eventually_async(lambda: model.open == 0)
        assert len(model.asked) == 1
        assert f.launcher.sandboxes[0].alive


@pytest.mark.parametrize("tools", [[TOOL], []])
async def test_a_client_that_goes_while_the_model_writes_closes_the_upstream(
    tmp_path: Path, tools: list[Any]
) -> None:
    model = Model([Say("hello"), Hang()])
    body = {"model": "gpt-test", "input": "go", "tools": tools, "stream": True}
    async with fronted(model, tmp_path) as f:
        with anyio.fail_after(30):
            await hang_up(f.url, _key(), body, b"lo")
        await eventually_async(lambda: model.open == 0)


async def test_a_client_that_waits_for_a_whole_answer_and_goes_ends_the_work_too(
    tmp_path: Path,
) -> None:
    model = Model([Code("forever")])
    body = {"model": "gpt-test", "input": "go", "tools": [TOOL]}
    async with fronted(model, tmp_path) as f:
        client = f.raw()
        with anyio.move_on_after(30) as scope:
            async with anyio.create_task_group() as tasks:

                async def leave() -> None:
                    await eventually_async(lambda: bool(f.launcher.sandboxes))
                    await eventually_async(lambda: f.launcher.sandboxes[0].running)
                    scope.cancel()

                tasks.start_soon(leave)
                await client.post("/responses", json=body)
        await client.aclose()
        await eventually_async(lambda: f.launcher.sandboxes[0].interrupts == 1)
        await eventually_async(lambda: model.open == 0)


async def test_a_thousand_aborted_streams_leave_nothing_behind(tmp_path: Path) -> None:
    model = Model([Say("hello"), Call("x"), Hang()], endless=True)
    intercepted = {"model": "gpt-test", "input": "go", "tools": [TOOL], "stream": True}
    relayed = {**intercepted, "tools": []}
    async with fronted(model, tmp_path) as f:
        await _abort(f.url, [intercepted, relayed], 40)
        await eventually_async(lambda: model.open == 0)
        before = len(anyio.get_running_tasks())
        await _abort(f.url, [intercepted, relayed], 1000)
        await eventually_async(lambda: model.open == 0)
        await eventually_async(lambda: len(anyio.get_running_tasks()) <= before + 5)
        assert f.http.inflight.count == 0
        assert f.launcher.sandboxes == []
        models = f.http  # the face still serves
        assert models is not None
        assert (await f.raw().get("/models")).status_code == 200
    assert len(model.asked) == 1040


async def _abort(url: str, bodies: list[dict[str, Any]], times: int) -> None:
    limiter = anyio.Semaphore(25)

    async def one(number: int) -> None:
        async with limiter:
            with anyio.fail_after(60):
                await hang_up(url, _key(), bodies[number % len(bodies)], b"lo")

    async with anyio.create_task_group() as tasks:
        for number in range(times):
            tasks.start_soon(one, number)


def _key() -> str:
    from tests.openai_front.fronting import ALICE_KEY

    return ALICE_KEY


async def test_no_path_leads_elsewhere_on_the_upstream(tmp_path: Path) -> None:
    """The upstream would obey: the request has the operator's key."""
    async with fronted(Model(), tmp_path) as f:
        host, _, port = f.url.removeprefix("http://").partition(":")
        for path in (
            "responses/../files",
            "responses/%2e%2e/files",
            "responses/a%3fb",
            "responses//x",
        ):
            stream = await anyio.connect_tcp(host, int(port))
            head = f"POST /v1/{path} HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 2\r\n"
            async with stream:
                await stream.send(f"{head}Authorization: Bearer {_key()}\r\n\r\n{{}}".encode())
                assert (await stream.receive())[9:12] in (b"404", b"400")
        compact = {"model": "gpt-test", "input": "x"}
        assert (await f.raw().post("/responses/compact", json=compact)).status_code == 200
    assert f.model.paths == ["POST /v1/responses/compact"]


@pytest.mark.parametrize("odd", ["\ud800", "\u0000", "\u202e", "x" * 5000])
async def test_text_that_no_database_holds_breaks_nothing(tmp_path: Path, odd: str) -> None:
    model = Model([Code(f"say {odd}")], [Say("x")])
    body = {"model": "gpt-test", "input": odd, "tools": [TOOL], "metadata": {"a": odd}}
    async with fronted(model, tmp_path) as f:
        client = f.raw()

        async def post(path: str, value: Any) -> httpx2.Response:
            return await client.post(
                path, content=json.dumps(value), headers={"content-type": "application/json"}
            )

        answer = await post("/responses", body)
        assert answer.status_code == 200
        assert (await client.get(f"/responses/{answer.json()['id']}")).status_code == 200
        made = await post("/containers", {"name": odd[:300]})
        assert made.status_code == 200
        for wrong in (
            {**body, "previous_response_id": odd},
            {**body, "tools": [{**TOOL, "container": {"type": "auto", "file_ids": [odd]}}]},
            {**body, "tools": [{**TOOL, "container": odd}]},
            {**body, "input": [{"type": "code_interpreter_call", "id": odd, "container_id": odd}]},
            {**body, "model": odd},
        ):
            model.script = [[Say("x")]]
            assert (await post("/responses", wrong)).status_code in (200, 400, 404)


async def test_a_compressed_answer_is_passed_on_as_compressed(tmp_path: Path) -> None:
    import gzip

    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    from tests.openai_front.model import served

    async def squeezed(_: Any) -> Response:
        headers = {"content-encoding": "gzip", "content-type": "application/json"}
        return Response(gzip.compress(b'{"id": "r"}'), headers=headers)

    app = Starlette(routes=[Route("/v1/responses", squeezed, methods=["POST"])])
    async with (
        served(app) as url,
        fronted(Model(), tmp_path, tables=lambda _: {"z": {"base_url": f"{url}/v1"}}) as f,
    ):
        answer = await f.raw().post("/responses", json={"model": "z", "input": "x"})
    assert answer.json() == {"id": "r"}


async def test_behind_a_proxy_the_general_client_does_the_same(tmp_path: Path) -> None:
    from lap_mcp.front_parts.models import is_proxied
    from lap_mcp.front_parts.upstream import Refused, Upstream
    from tests.openai_front.model import playing

    refusal = Status(429, {"error": {"message": UPSTREAM_KEY}}, {"retry-after": "3"})
    async with playing(Model([Say("hi")], refusal, [Say("hi"), Hang()])) as model:
        table = ModelTable.model_validate(
            {"base_url": model.url, "api_key": "env:X", "silence": 0.3},
            context={"resolve_secret": lambda _: SecretStr(UPSTREAM_KEY)},
        )
        upstream = Upstream("m", table, proxied=True)
        assert upstream.direct is None
        assert not is_proxied(model.url)
        async with upstream.events("responses", ODD, {}) as events:
            kinds = [event["type"] async for event in events if "type" in event]
        with pytest.raises(Refused) as caught:
            async with upstream.send("POST", "responses", json.dumps(ODD).encode(), {}):
                pass

        async def hear() -> None:
            async with upstream.events("responses", {**ODD, "stream": True}, {}) as events:
                async for _ in events:
                    pass

        with pytest.raises(ApiError, match=r"nothing for 0\.3 s"):
            await hear()
        await upstream.aclose()
        await eventually_async(lambda: model.open == 0)
    assert kinds == []
    assert caught.value.retry_after == 3.0
    assert UPSTREAM_KEY.encode() not in caught.value.body
    assert model.headers[0]["authorization"] == f"Bearer {UPSTREAM_KEY}"
