"""Signed links: one version of one file, for five minutes, to save and not to show."""

from __future__ import annotations

import os
import string
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import anyio
import anyio.to_thread
import httpx2
import pytest

from lap_mcp.control.signed_links import SECONDS, SignedLinks, link_key
from lap_mcp.downloads import download_route
from lap_mcp.errors import ConfigError
from lap_mcp.mcp_server.face import Face
from lap_mcp.mcp_server.options import FaceOptions
from lap_mcp.store.blobs import BlobStore
from lap_mcp.web import HttpOptions, build_app, keys, listen, serve
from tests.mcp.scripted import World
from tests.mcp.serving import ALICE_KEY, KEYS, _http_client, text

pytestmark = pytest.mark.anyio

DATA = bytes(range(256)) * 10_000


@dataclass
class Clock:
    at: float = 1_000_000.0

    def now(self) -> float:
        return self.at


@dataclass
class Server:
    links: SignedLinks
    blobs: BlobStore
    clock: Clock
    base: str
    world: World = field(default_factory=World)

    async def get(self, url: str, method: str = "GET", **headers: str) -> httpx2.Response:
        async with httpx2.AsyncClient() as http:
            return await http.request(method, url, headers=headers)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    clock, blobs = Clock(), BlobStore(tmp_path / "blobs")
    sock = listen("127.0.0.1", 0)
    base = f"http://127.0.0.1:{sock.getsockname()[1]}"
    key = await anyio.to_thread.run_sync(link_key, tmp_path)
    links = SignedLinks(blobs, key, base, clock)
    world = World()
    face = Face(world.services, FaceOptions(transport="http", link=links.link))
    http = build_app(face, HttpOptions(authenticate=keys(KEYS)), [download_route(links)])
    async with world.running(), anyio.create_task_group() as group:
        group.start_soon(serve, http, [sock])
        yield Server(links, blobs, clock, base, world)
        group.cancel_scope.cancel()


async def test_whoever_has_the_link_may_save_the_file_without_a_key(server: Server) -> None:
    link = server.links.link(await server.blobs.put(DATA), "plots/Größe; x.html")

    found = await server.get(link)
    head = await server.get(link, "HEAD")

    assert found.status_code == 200
    assert found.content == DATA
    assert found.headers["content-type"] == "application/octet-stream"
    name = "Gr%C3%B6%C3%9Fe%3B%20x.html"
    assert found.headers["content-disposition"] == f"attachment; filename*=UTF-8''{name}"
    assert found.headers["x-content-type-options"] == "nosniff"
    assert found.headers["cache-control"] == "private, no-store"
    assert "sandbox" in found.headers["content-security-policy"]
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(DATA))


async def test_a_link_ends_after_five_minutes(server: Server) -> None:
    link = server.links.link(await server.blobs.put(DATA), "a")
    server.clock.at += SECONDS
    assert (await server.get(link)).status_code == 200
    server.clock.at += 1
    assert (await server.get(link)).status_code == 404


async def test_a_link_that_was_changed_anywhere_opens_nothing(server: Server) -> None:
    sha256 = await server.blobs.put(b"secret")
    link = server.links.link(sha256, "a.txt")
    start = len(f"{server.base}/files/")
    refused = set()
    for place in range(start, len(link), 3):
        other = "A" if link[place] != "A" else "B"
        changed = f"{link[:place]}{other}{link[place + 1 :]}"
        answer = await server.get(changed)
        refused.add((answer.status_code, answer.text))
    for token in ("", "x", sha256, "A" * 2000, link[start:] + "A", "%00", "é"):
        answer = await server.get(f"{server.base}/files/{token}")
        assert answer.status_code == 404
    for last in string.ascii_letters + string.digits + "-_":
        if last != link[-1]:
            answer = await server.get(link[:-1] + last)
            refused.add((answer.status_code, answer.text))
    assert len(refused) == 1
    assert refused.pop()[0] == 404


async def test_another_servers_key_signs_nothing_here(server: Server, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    sha256 = await server.blobs.put(b"secret")
    key = await anyio.to_thread.run_sync(link_key, other)
    theirs = SignedLinks(server.blobs, key, server.base, server.clock)
    assert (await server.get(theirs.link(sha256, "a"))).status_code == 404


async def test_the_gate_is_open_for_that_and_nothing_else(server: Server) -> None:
    link = server.links.link(await server.blobs.put(DATA), "a")

    assert (await server.get(link, "POST")).status_code == 401
    assert (await server.get(link, "DELETE")).status_code == 401
    assert (await server.get(link, Host="evil.example")).status_code == 421
    assert (await server.get(link, Origin="https://evil.example")).status_code == 403
    assert (await server.get(link, **{"Sec-Fetch-Site": "cross-site"})).status_code == 403
    assert (await server.get(f"{server.base}/mcp")).status_code == 401
    assert (await server.get(f"{server.base}/files")).status_code == 401
    raw = httpx2.URL(server.base).copy_with(raw_path=b"/files/../mcp")
    async with httpx2.AsyncClient() as http:
        assert (await http.get(raw)).status_code in (401, 404)


async def test_a_file_whose_bytes_are_gone_is_not_there(server: Server) -> None:
    sha256 = await server.blobs.put(DATA)
    link = server.links.link(sha256, "a")
    await server.blobs.discard([sha256], time.time() + 60)
    assert (await server.get(link)).status_code == 404


async def test_an_answer_of_the_http_server_has_a_link_for_each_kept_file(server: Server) -> None:
    plain = server.world.sandboxes.run
    sha256 = await server.blobs.put(b"kept")

    async def run(*args: object, **kwargs: object) -> object:
        done = await plain(*args, **kwargs)  # type: ignore[arg-type]
        return replace(done, versions={"a.txt": sha256})

    server.world.sandboxes.run = run  # type: ignore[method-assign,assignment]
    async with _http_client(f"{server.base}/mcp", "auto", ALICE_KEY, {}) as client:
        shown = text(await client.call_tool("code_interpreter", {"code": "write a.txt kept"}))

    link = next(word for word in shown.split() if word.startswith(f"{server.base}/files/"))
    assert (await server.get(link)).content == b"kept"


def test_the_key_is_a_file_of_its_owner_alone_and_stays(tmp_path: Path) -> None:
    key = link_key(tmp_path)
    file = tmp_path / "links.key"

    assert link_key(tmp_path) == key
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["links.key"]
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="no secret"):
        link_key(tmp_path)
    file.unlink()
    file.symlink_to("/etc/hostname")
    with pytest.raises(ConfigError):
        link_key(tmp_path)
    file.unlink()
    os.mkfifo(file, 0o600)
    with pytest.raises(ConfigError):
        link_key(tmp_path)
