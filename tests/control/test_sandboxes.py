"""Which sandbox a call means, whose it is, and when it ends; with scripted sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest
from lap_sandbox.base import Preparation
from lap_sandbox.testing import Scripted, ScriptedLauncher

from lap_mcp.control.polling import eventually
from lap_mcp.control.sandboxes import Sandboxes, SandboxLimits
from lap_mcp.control.services import FileInput
from lap_mcp.errors import Invalid, LimitReached, NotFound, Unavailable
from lap_mcp.model import LOCAL, Principal
from tests.control.sandbox_home import SandboxHome

pytestmark = pytest.mark.anyio

OTHER = Principal(id="key:other", kind="key")


@pytest.fixture
def launcher() -> ScriptedLauncher:
    return ScriptedLauncher()


@pytest.fixture
def home(tmp_path: Path) -> SandboxHome:
    return SandboxHome(tmp_path / "lap.db", tmp_path / "blobs")


@pytest.fixture
async def sandboxes(launcher: ScriptedLauncher, home: SandboxHome) -> AsyncIterator[Sandboxes]:
    limits = SandboxLimits(open=3, per_principal=2)
    async with home.server(launcher, limits) as running:
        yield running


async def test_a_connection_keeps_its_default_sandbox(sandboxes: Sandboxes) -> None:
    first = await sandboxes.run(LOCAL, "x = 1", scope="a")
    again = await sandboxes.run(LOCAL, "x", scope="a")
    other = await sandboxes.run(LOCAL, "x", scope="b")

    assert (first.fresh, again.fresh, other.fresh) == (True, False, True)
    assert first.sandbox_id == again.sandbox_id != other.sandbox_id


async def test_a_call_without_a_connection_gets_a_new_one_and_can_come_back(
    sandboxes: Sandboxes,
) -> None:
    first = await sandboxes.run(LOCAL, "x = 1")
    other = await sandboxes.run(LOCAL, "x = 1")
    back = await sandboxes.run(LOCAL, "x", sandbox_id=first.sandbox_id)

    assert first.sandbox_id != other.sandbox_id
    assert back.sandbox_id == first.sandbox_id
    assert not back.fresh


async def test_a_foreign_sandbox_is_as_missing_as_a_missing_one(sandboxes: Sandboxes) -> None:
    run = await sandboxes.run(LOCAL, "x = 1")

    with pytest.raises(NotFound) as foreign:
        await sandboxes.run(OTHER, "x", sandbox_id=run.sandbox_id)
    with pytest.raises(NotFound) as missing:
        await sandboxes.run(OTHER, "x", sandbox_id="sbx_" + "0" * 32)

    assert str(foreign.value).replace(run.sandbox_id, "X") == str(missing.value).replace(
        "sbx_" + "0" * 32, "X"
    )


async def test_files_are_placed_before_the_code_runs_and_read_by_address(
    sandboxes: Sandboxes,
) -> None:
    run = await sandboxes.run(LOCAL, "x", files=[FileInput(name="a.csv", data=b"1,2")])

    assert run.placed == ["a.csv"]
    assert await sandboxes.file(LOCAL, run.sandbox_id, "a.csv") == b"1,2"
    with pytest.raises(NotFound):
        await sandboxes.file(LOCAL, run.sandbox_id, "nothing.csv")


async def test_the_oldest_idle_sandbox_makes_room(sandboxes: Sandboxes) -> None:
    first = await sandboxes.run(LOCAL, "x")
    second = await sandboxes.run(LOCAL, "x")
    await sandboxes.run(LOCAL, "x", sandbox_id=first.sandbox_id)

    third = await sandboxes.run(LOCAL, "x")

    open_now = {view.id for view in await sandboxes.list(LOCAL) if view.open}
    assert open_now == {first.sandbox_id, third.sandbox_id}
    assert second.sandbox_id not in open_now


async def test_when_all_are_busy_the_limit_is_named_and_when_to_try_again(
    launcher: ScriptedLauncher, home: SandboxHome
) -> None:
    launcher.script = lambda code: Scripted(endless=True)
    limits = SandboxLimits(per_principal=1)
    async with (
        home.server(launcher, limits) as sandboxes,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(lambda: sandboxes.run(LOCAL, "loop", timeout=60))

        async def busy() -> bool:
            return any(view.busy for view in await sandboxes.list(LOCAL))

        assert await eventually(busy, 5)
        with pytest.raises(LimitReached, match=r"per_principal.* Try again in \d+ s\."):
            await sandboxes.run(LOCAL, "x")
        tasks.cancel_scope.cancel()


async def test_while_the_image_is_built_the_answer_comes_at_once_and_says_how_far(
    launcher: ScriptedLauncher, home: SandboxHome
) -> None:
    launcher.standing = Preparation(ready=False, words="step 4 of 11", fraction=0.3)
    async with home.server(launcher) as sandboxes:
        with anyio.fail_after(2), pytest.raises(Unavailable, match=r"step 4 of 11 \(30%\)"):
            await sandboxes.run(LOCAL, "x")


async def test_leaving_a_connection_closes_its_sandbox(
    sandboxes: Sandboxes, launcher: ScriptedLauncher
) -> None:
    await sandboxes.run(LOCAL, "x", scope="a")

    await sandboxes.release("a")

    assert [view.open for view in await sandboxes.list(LOCAL)] == [False]
    assert [sandbox.alive for sandbox in launcher.sandboxes] == [False]


async def test_a_timeout_out_of_range_is_refused_in_words(sandboxes: Sandboxes) -> None:
    with pytest.raises(Invalid, match="240"):
        await sandboxes.run(LOCAL, "x", timeout=1000)


async def test_many_that_open_at_once_are_never_more_than_the_limit(
    launcher: ScriptedLauncher, home: SandboxHome
) -> None:
    """The launcher refuses a third: nobody may come as far as that."""
    launcher.max_sandboxes = 2
    ended: list[str] = []

    async def one(server: Sandboxes) -> None:
        try:
            ended.append((await server.run(LOCAL, "x")).sandbox_id)
        except LimitReached as error:
            ended.append(str(error))

    async with home.server(launcher, SandboxLimits(per_principal=2)) as server:
        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(one, server)
        assert len(ended) == 8
        assert all(end.startswith("sbx_") or "sandbox.per_principal" in end for end in ended)
        assert any(end.startswith("sbx_") for end in ended)
        # All of them can be used again, whoever gave up a container.
        for view in await server.list(LOCAL):
            await server.run(LOCAL, "x", sandbox_id=view.id)


async def test_one_principal_fills_its_own_places_and_leaves_others_theirs(
    launcher: ScriptedLauncher, home: SandboxHome
) -> None:
    async with home.server(launcher, SandboxLimits(open=3, per_principal=2)) as server:
        theirs = await server.run(OTHER, "x")
        for _ in range(5):
            await server.run(LOCAL, "x")

        assert [view.open for view in await server.list(OTHER)] == [True]
        assert (await server.list(OTHER))[0].id == theirs.sandbox_id
        assert sum(view.open for view in await server.list(LOCAL)) == 2
