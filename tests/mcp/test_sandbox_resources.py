"""Files of sandboxes as resources: in pages, and large ones in parts."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from mcp.shared.exceptions import MCPError

from lap_mcp.mcp_server.resources import MAX_READ
from tests.mcp.scripted import World
from tests.mcp.scripted_sandboxes import ScriptedBox
from tests.mcp.serving import ALICE, BOB_KEY, served

pytestmark = pytest.mark.anyio

BOX = "sbx_" + "a" * 32
LARGE = bytes(range(256)) * (MAX_READ // 256 + 10)


def world() -> World:
    made = World()
    files = {f"f{number:04}.txt": b"x" for number in range(1200)}
    files |= {"deep/ä b.txt": "grün".encode(), "large.bin": LARGE}
    made.sandboxes.boxes[BOX] = ScriptedBox(BOX, ALICE.id, files)
    return made


async def read(client: Any, uri: str) -> Any:
    return (await client.read_resource(uri)).contents[0]


async def test_a_listing_comes_in_pages_until_all_was_listed() -> None:
    async with served(world()) as s, s.client() as client:
        found: list[str] = []
        uri: str | None = f"lap://sandboxes/{BOX}/files"
        pages = 0
        while uri is not None:
            page = json.loads((await read(client, uri)).text)
            found += [file["path"] for file in page["files"]]
            uri = page["next"]
            pages += 1
    assert len(found) == len(set(found)) == 1202
    assert pages == 3


async def test_a_large_file_is_refused_whole_and_read_in_parts() -> None:
    uri = f"lap://sandboxes/{BOX}/files/large.bin"
    async with served(world()) as s, s.client() as client:
        with pytest.raises(MCPError, match="offset=0"):
            await read(client, uri)
        whole, start = b"", f"{uri}?offset=0"
        while start:
            part = await read(client, start)
            whole += base64.b64decode(part.blob)
            meta = part.meta["lap-mcp/part"]
            start = meta["next"]
    assert whole == LARGE
    assert meta["size"] == len(LARGE)


async def test_small_files_are_read_as_before_and_an_offset_past_the_end_is_empty() -> None:
    uri = f"lap://sandboxes/{BOX}/files/deep/%C3%A4%20b.txt"
    async with served(world()) as s, s.client() as client:
        assert (await read(client, uri)).text == "grün"
        beyond = await read(client, f"{uri}?offset=99")
    assert (beyond.blob, beyond.meta["lap-mcp/part"]["next"]) == ("", None)


@pytest.mark.parametrize(
    "rest", ["/files", "/files?after=a", "/files/large.bin", "/files/large.bin?offset=0"]
)
async def test_another_principal_finds_none_of_it(rest: str) -> None:
    async with served(world()) as s, s.client(key=BOB_KEY) as client:
        with pytest.raises(MCPError) as foreign:
            await read(client, f"lap://sandboxes/{BOX}{rest}")
        with pytest.raises(MCPError) as missing:
            await read(client, f"lap://sandboxes/sbx_{'0' * 32}{rest}")
    assert str(foreign.value).replace(BOX, "X") == str(missing.value).replace(
        "sbx_" + "0" * 32, "X"
    )
