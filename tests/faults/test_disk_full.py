"""A home on a disk that is full: said in words, and nothing that was under way is lost."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from lap_runtimes.testing import Gate, ScriptedRuntime, say

from lap_mcp.control.services import NewPrompt
from lap_mcp.control.sessions import Sessions
from lap_mcp.errors import StoreError
from lap_mcp.model import LOCAL
from lap_mcp.store.blobs import BlobStore
from tests.control.conftest import ME, Agents, House

pytestmark = pytest.mark.anyio


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 3 MB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root: run the tests as root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> Path:
    """Take every byte that is left."""
    filler = folder / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (1 << 16, 1 << 12, 1):
            with contextlib.suppress(OSError):
                while file.write(b"x" * size) == size:
                    pass
    return filler


async def prompt_again_and_again(sessions: Sessions) -> None:
    for _ in range(200):
        await sessions.prompt(ME, "helper", NewPrompt(text="x" * 20_000))


async def test_a_prompt_to_a_full_store_is_refused_in_words_and_works_again_later(
    small_disk: Path,
) -> None:
    agents = Agents()
    agents.add(ScriptedRuntime(lambda turn: say("ok")))
    house = House(small_disk / "lap.db", BlobStore(small_disk / "blobs"), small_disk / "blobs")
    async with house.server(agents) as sessions:
        filler = await anyio.to_thread.run_sync(fill, small_disk)
        with pytest.raises(StoreError, match="full"):
            await prompt_again_and_again(sessions)
        await anyio.Path(filler).unlink()

        accepted = await sessions.prompt(ME, "helper", NewPrompt(text="now"))
        turn = await sessions.wait(LOCAL, accepted.session.id, accepted.turn.id, timeout=30)

    assert turn.outcome == "completed"


async def test_a_turn_whose_store_fills_up_goes_on_when_there_is_room(small_disk: Path) -> None:
    agents = Agents()
    runtime = ScriptedRuntime(
        [[*say("before", outcome=False), Gate("full"), *say("y" * 40_000, message_id="m2")]]
    )
    agents.add(runtime)
    house = House(small_disk / "lap.db", BlobStore(small_disk / "blobs"), small_disk / "blobs")
    async with house.server(agents) as sessions:
        accepted = await sessions.prompt(ME, "helper", NewPrompt(text="go"))
        await runtime.reached("full")
        filler = await anyio.to_thread.run_sync(fill, small_disk)
        runtime.release("full")
        early = await sessions.wait(LOCAL, accepted.session.id, accepted.turn.id, timeout=2)
        await anyio.Path(filler).unlink()
        turn = await sessions.wait(LOCAL, accepted.session.id, accepted.turn.id, timeout=30)
        text = (await sessions.content(LOCAL, accepted.session.id, accepted.turn.id)).text
        events = await sessions.events(LOCAL, accepted.session.id)

    assert early.outcome == "running"
    assert turn.outcome == "completed"
    assert text == "before\n\n" + "y" * 40_000
    assert [event.seq for event in events] == list(range(1, len(events) + 1))
    assert json.dumps([event.type for event in events]).count("agent.message") == 2
