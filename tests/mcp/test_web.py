"""Who may come in over HTTP: keys, hosts, web pages, sizes, and the end of the server."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import AsyncIterator
from typing import Any

import anyio
import httpx2
import mcp.types as t
import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from lap_mcp.gate import Gate, Inflight
from lap_mcp.mcp_server.event_store import Budget, SessionEvents
from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.options import FaceOptions
from lap_mcp.web import HttpOptions, build_app, keys, listen, serve
from tests.mcp.scripted import World
from tests.mcp.serving import ALICE_KEY, BOB_KEY, KEYS, Served, last_line, served, text, until

pytestmark = pytest.mark.anyio

PATHS = ("/mcp", "/healthz", "/readyz", "/v1/responses", "/")
GOOD = {"Authorization": f"Bearer {ALICE_KEY}"}
INITIALIZE = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "t", "version": "1"},
    },
}


class Reached(Exception):
    """A handler was reached."""


@pytest.fixture
async def gate() -> AsyncIterator[tuple[httpx2.AsyncClient, list[str]]]:
    """The gate alone, in front of an app that notes what reaches it."""
    reached: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(f"{scope['method']} {scope['path']}")
        body = (await receive()).get("body", b"")
        await PlainTextResponse(f"{len(body)}")(scope, receive, send)

    options = HttpOptions(authenticate=keys(KEYS), max_body=1000)
    wrapped = Gate(app, options=options, stopping=lambda: False, seen=Inflight())
    transport = httpx2.ASGITransport(app=wrapped)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8700") as client:
        yield client, reached


WEB_PAGES: dict[str, tuple[str, dict[str, str]]] = {
    "simple post": (
        "POST",
        {"Origin": "https://evil.example", "Content-Type": "text/plain"},
    ),
    "form post": (
        "POST",
        {"Origin": "https://evil.example", "Content-Type": "application/x-www-form-urlencoded"},
    ),
    "null origin": ("POST", {"Origin": "null", "Content-Type": "text/plain"}),
    "preflight": (
        "OPTIONS",
        {
            "Origin": "https://evil.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        },
    ),
    "rebinding": ("POST", {"Host": "evil.example:8700"}),
    "rebinding, same origin": (
        "GET",
        {"Host": "evil.example:8700", "Origin": "http://evil.example:8700"},
    ),
    "loopback origin": ("POST", {"Origin": "http://localhost:3000"}),
    "image": ("GET", {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}),
    "other port": ("GET", {"Sec-Fetch-Site": "same-site"}),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("page", WEB_PAGES)
@pytest.mark.parametrize("key", [{}, GOOD], ids=["without key", "with key"])
async def test_no_request_of_a_web_page_reaches_a_handler(
    gate: tuple[httpx2.AsyncClient, list[str]], page: str, path: str, key: dict[str, str]
) -> None:
    client, reached = gate
    method, headers = WEB_PAGES[page]
    response = await client.request(method, path, headers={**headers, **key})
    assert response.status_code in (403, 421)
    assert reached == []
    assert not any(name.startswith("access-control") for name in response.headers)


@pytest.mark.parametrize("path", ["/mcp", "/v1/responses", "/", "/healthz/x", "//healthz"])
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Basic {b64encode(ALICE_KEY.encode()).decode()}"},
        {"Authorization": ALICE_KEY},
        {"X-Api-Key": ALICE_KEY},
        {"Cookie": f"key={ALICE_KEY}"},
    ],
)
async def test_nothing_is_reached_without_a_key(
    gate: tuple[httpx2.AsyncClient, list[str]], path: str, headers: dict[str, str]
) -> None:
    client, reached = gate
    for method in ("GET", "POST", "DELETE", "PUT", "OPTIONS", "HEAD"):
        response = await client.request(method, path, headers=headers)
        assert response.status_code == 401
        assert response.headers["www-authenticate"].startswith("Bearer")
    assert reached == []


async def test_two_keys_or_two_hosts_are_none(
    gate: tuple[httpx2.AsyncClient, list[str]],
) -> None:
    client, reached = gate
    twice = [("Authorization", f"Bearer {ALICE_KEY}"), ("Authorization", f"Bearer {BOB_KEY}")]
    assert (await client.post("/mcp", headers=twice)).status_code == 401
    assert reached == []


@pytest.mark.parametrize("host", ["127.0.0.1:8700", "localhost", "[::1]:8700", "LOCALHOST:1"])
async def test_the_machines_own_names_are_served(
    gate: tuple[httpx2.AsyncClient, list[str]], host: str
) -> None:
    client, reached = gate
    assert (await client.get("/mcp", headers={**GOOD, "Host": host})).status_code == 200
    assert reached == ["GET /mcp"]


@pytest.mark.parametrize(
    "host", ["", "localhost.evil.example", "127.0.0.1.evil.example", "evil:80:80", "localhost:x"]
)
async def test_other_names_are_not(gate: tuple[httpx2.AsyncClient, list[str]], host: str) -> None:
    client, reached = gate
    assert (await client.get("/mcp", headers={**GOOD, "Host": host})).status_code == 421
    assert reached == []


async def test_a_body_over_the_limit_is_refused_declared_or_not(
    gate: tuple[httpx2.AsyncClient, list[str]],
) -> None:
    client, reached = gate

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield b"x" * 300

    assert (await client.post("/mcp", headers=GOOD, content=b"x" * 1001)).status_code == 413
    assert (await client.post("/mcp", headers=GOOD, content=chunks())).status_code == 413
    assert reached == []
    assert (await client.post("/mcp", headers=GOOD, content=b"x" * 1000)).text == "1000"


async def test_a_route_of_another_face_gets_the_principal_of_the_key() -> None:
    seen: list[Any] = []

    async def handler(request: Request) -> PlainTextResponse:
        seen.append(request.scope["lap.principal"].id)
        return PlainTextResponse("ok")

    world = World()
    face = Face(world.services, FaceOptions(transport="http"))
    http = build_app(
        face, HttpOptions(authenticate=keys(KEYS)), [Route("/v1/x", handler, methods=["POST"])]
    )
    transport = httpx2.ASGITransport(app=http.app)
    async with httpx2.AsyncClient(transport=transport, base_url="http://localhost") as client:
        assert (await client.post("/v1/x")).status_code == 401
        assert (await client.post("/v1/x", headers=GOOD)).status_code == 200
    assert seen == ["key:alice"]


async def test_health_needs_no_key_and_readiness_says_why_not() -> None:
    async with served() as s, httpx2.AsyncClient() as client:
        base = s.url.removesuffix("/mcp")
        assert (await client.get(f"{base}/healthz")).json() == {"status": "ok"}
        assert (await client.get(f"{base}/readyz")).status_code == 200
        assert s.world.opened == 0
        s.face.stop()
        refused = await client.get(f"{base}/readyz")
        assert refused.status_code == 503
        assert "stopping" in refused.json()["error"]
        assert (await client.post(s.url, headers=GOOD, json=INITIALIZE)).status_code == 503


async def test_a_session_is_only_its_principals() -> None:
    """A handshake-era session id is no key."""
    async with served() as s, httpx2.AsyncClient() as client:
        accept = {"Accept": "application/json, text/event-stream"}
        opened = await client.post(s.url, headers={**GOOD, **accept}, json=INITIALIZE)
        session = {"Mcp-Session-Id": opened.headers["mcp-session-id"]}
        bob = {"Authorization": f"Bearer {BOB_KEY}", **accept, **session}
        ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
        assert (await client.post(s.url, headers=bob, json=ping)).status_code == 404
        mine = await client.post(s.url, headers={**GOOD, **accept, **session}, json=ping)
        assert mine.status_code == 200


async def test_a_cut_stream_is_replayed_to_its_own_session_and_to_no_other() -> None:
    accept = {"Accept": "application/json, text/event-stream"}
    async with served() as s, httpx2.AsyncClient() as client:

        async def opened(key: str) -> dict[str, str]:
            headers = {"Authorization": f"Bearer {key}", **accept}
            answer = await client.post(s.url, headers=headers, json=INITIALIZE)
            session = {"Mcp-Session-Id": answer.headers["mcp-session-id"]}
            headers |= {**session, "Mcp-Protocol-Version": "2025-11-25"}
            done = {"jsonrpc": "2.0", "method": "notifications/initialized"}
            await client.post(s.url, headers=headers, json=done)
            return headers

        alice, other, bob = (
            await opened(ALICE_KEY),
            await opened(ALICE_KEY),
            await opened(BOB_KEY),
        )
        params = {"name": "echo", "arguments": {"prompt": "for alice only"}}
        call = {"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": params}
        answer = await client.post(s.url, headers=alice, json=call)
        assert "for alice only" in answer.text
        first = next(line[4:] for line in answer.text.splitlines() if line.startswith("id: "))
        assert first.startswith("7/")

        async def replayed(headers: dict[str, str]) -> str:
            found = ""
            with anyio.move_on_after(1.5):
                resume = {**headers, "Last-Event-ID": first}
                async with client.stream("GET", s.url, headers=resume) as stream:
                    async for line in stream.aiter_lines():
                        found += line
                        if "for alice only" in found:
                            break
            return found

        assert "for alice only" in await replayed(alice)
        assert "for alice only" not in await replayed(other)
        assert "for alice only" not in await replayed(bob)


async def test_what_is_kept_for_replay_is_bounded_and_given_back() -> None:
    budget = Budget(limit=50_000)
    stores = [SessionEvents(budget) for _ in range(3)]
    message = t.JSONRPCNotification(jsonrpc="2.0", method="x", params={"text": "y" * 1000})
    for number in range(300):
        for store in stores:
            await store.store_event(str(number), message)
            assert budget.used <= budget.limit
    for store in stores:
        store.close()
    assert budget.used == 0


async def test_a_server_that_ends_lets_held_calls_answer_and_closes_streams() -> None:
    world = World()
    face = Face(world.services, FaceOptions(transport="http", grace=0.2))
    http = build_app(face, HttpOptions(authenticate=keys(KEYS)))
    socket = listen("127.0.0.1", 0)
    s = Served(world, face, http, f"http://127.0.0.1:{socket.getsockname()[1]}/mcp")
    answers: list[Any] = []
    async with world.running(), anyio.create_task_group() as group:
        serving = anyio.CancelScope()

        async def run() -> None:
            with serving:
                await serve(http, [socket])

        async def call() -> None:
            answers.append(await client.call_tool("slow", {"prompt": "60"}))

        group.start_soon(run)
        async with s.client() as client, s.client("legacy") as standing:
            await standing.list_tools()
            await client.list_tools()
            async with anyio.create_task_group() as calls, client.listen(tools_list_changed=True):
                calls.start_soon(call)
                await until(lambda: world.sessions.running == 1)
                with anyio.fail_after(15):
                    serving.cancel()
                    await until(lambda: bool(answers), within=15)
        assert "running" in last_line(answers[0])
        assert "get_session" in text(answers[0])
        assert face.tasks.running == 0


async def test_every_key_is_its_own_principal() -> None:
    authenticate = keys(KEYS)
    assert authenticate(ALICE_KEY) == KEYS[ALICE_KEY]
    assert authenticate(BOB_KEY) == KEYS[BOB_KEY]
    for wrong in ("", ALICE_KEY[:-1], f"{ALICE_KEY} ", ALICE_KEY.upper(), "\udcff"):
        assert authenticate(wrong) is None
