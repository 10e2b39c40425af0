"""Sandboxes that are kept, on a real engine: containers that are killed, memory that runs out."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
import pytest

from lap_mcp.control.polling import eventually
from lap_mcp.control.sandboxes import Sandboxes, SandboxLimits
from lap_mcp.control.services import SandboxRun
from lap_mcp.errors import Unavailable
from lap_mcp.model import LOCAL
from lap_mcp.store.blobs import BlobStore
from lap_mcp.store.database import open_database
from tests.control.sandbox_home import read
from tests.sandbox.conftest import MakeLauncher
from tests.sandbox.engine_view import containers_of
from tests.sandbox.pool import SMALL

pytestmark = [pytest.mark.anyio, pytest.mark.docker]


@dataclass
class Server:
    sandboxes: Sandboxes
    instance: str

    async def run(self, code: str, sandbox_id: str | None = None, **options: bool) -> SandboxRun:
        return await self.sandboxes.run(LOCAL, code, sandbox_id=sandbox_id, **options)

    async def busy(self) -> bool:
        return (await self.sandboxes.list(LOCAL))[0].busy

    async def kill_containers(self) -> None:
        """As an engine that is restarted does."""
        for container in containers_of(self.instance):
            command = ["docker", "kill", container]
            await anyio.to_thread.run_sync(lambda: subprocess.run(command, capture_output=True))  # noqa: B023


@pytest.fixture
async def server(
    make_launcher: MakeLauncher, instance: str, tmp_path: Path
) -> AsyncIterator[Server]:
    database = await open_database(tmp_path / "lap.db")
    limits = SandboxLimits(sandbox=SMALL)
    sandboxes = Sandboxes(await make_launcher(), database, BlobStore(tmp_path / "blobs"), limits)
    async with sandboxes.running(read) as running:
        yield Server(running, instance)
    await database.aclose()


async def test_a_killed_container_comes_back_with_its_files_and_by_replay_with_its_variables(
    server: Server,
) -> None:
    first = await server.run(
        "import os\nx = 20\nos.makedirs('deep/er')\nopen('deep/er/ä b', 'w').write('kept')"
    )
    assert first.not_kept == {}
    await server.kill_containers()

    back = await server.run("print(open('deep/er/ä b').read())\nx", first.sandbox_id)
    assert back.execution.stdout == "kept\n"
    assert back.execution.error is not None
    assert back.execution.error.name == "NameError"
    again = await server.run("x + 22", first.sandbox_id, replay=True)

    assert back.reopened
    assert "Replayed 1 recorded cell with the same results" in again.notes[-1]
    assert again.execution.value == "42"


async def test_a_container_that_is_killed_under_the_code_costs_the_code_only(
    server: Server,
) -> None:
    first = await server.run("open('a.txt', 'w').write('kept')")
    failures: list[Exception] = []

    async def sleep() -> None:
        try:
            run = await server.run("import time\ntime.sleep(30)", first.sandbox_id)
        except Unavailable as error:
            failures.append(error)
        else:
            assert run.execution.status == "died"

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(sleep)
        assert await eventually(server.busy, 20)
        await server.kill_containers()

    back = await server.run("open('a.txt').read()", first.sandbox_id)
    assert back.execution.value == "'kept'"


async def test_files_are_there_again_when_memory_ran_out(server: Server) -> None:
    first = await server.run("open('a.txt', 'w').write('kept'); 1")
    worn = await server.run(
        "b = bytearray(4 << 30)\nfor i in range(0, len(b), 4096): b[i] = 1", first.sandbox_id
    )
    back = await server.run("open('a.txt').read()", first.sandbox_id)

    assert worn.execution.status in ("error", "out_of_memory", "died")
    assert back.execution.value == "'kept'"


async def test_names_that_hide_something_are_refused_and_others_come_through(
    server: Server,
) -> None:
    code = (
        "for n in ('a\\nb', 'a\\u202etxt', '数据 1.csv', '-x', ' lead'):\n    open(n, 'w').write(n)"
    )
    first = await server.run(code)

    assert sorted(first.not_kept) == ["a\\nb", "a\\u202etxt"]
    await server.kill_containers()
    back = await server.run("import os\nsorted(os.listdir())", first.sandbox_id)
    assert back.execution.value == "[' lead', '-x', '数据 1.csv']"


async def test_a_file_that_is_written_on_while_it_is_kept_is_kept_whole_in_the_end(
    server: Server,
) -> None:
    code = """
import os, threading, time
def write():
    for n in range(200):
        with open('log.bin', 'ab') as f:
            f.write(bytes([n]) * 20_000)
        time.sleep(0.005)
thread = threading.Thread(target=write)
thread.start()
time.sleep(0.05)
"""
    first = await server.run(code)
    done = await server.run("thread.join(); os.path.getsize('log.bin')", first.sandbox_id)
    kept = await server.sandboxes.file(LOCAL, first.sandbox_id, "log.bin")

    assert done.execution.value == "4000000"
    assert kept == b"".join(bytes([n]) * 20_000 for n in range(200))


async def test_very_many_files_stall_nothing(server: Server) -> None:
    code = "for n in range(1200):\n    open(f'f{n:05}', 'w').write(str(n))"
    first = await server.run(code)
    listed = await server.sandboxes.files(LOCAL, first.sandbox_id, after="f00099", limit=3)
    after = await server.run("1 + 1", first.sandbox_id)

    assert first.execution.files_more
    assert [info.path for info in listed] == ["f00100", "f00101", "f00102"]
    assert after.execution.value == "2"
