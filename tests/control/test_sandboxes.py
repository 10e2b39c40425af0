"""Which sandbox a call means, whose it is, and when it ends; with scripted sandboxes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

import anyio
import pytest
from lap_sandbox.base import Preparation
from lap_sandbox.testing import Scripted, ScriptedLauncher

from lap_mcp.control.polling import eventually
from lap_mcp.control.prompt_files import GivenFile
from lap_mcp.control.sandboxes import Sandboxes, SandboxLimits
from lap_mcp.control.services import FileInput
from lap_mcp.errors import Invalid, LimitReached, NotFound, Unavailable
from lap_mcp.model import LOCAL, Principal

pytestmark = pytest.mark.anyio

OTHER = Principal(id="key:other", kind="key")


async def read(principal: Principal, given: Sequence[FileInput]) -> Sequence[GivenFile]:
    return [GivenFile(entry.name, "text/plain", entry.data or b"") for entry in given]


@pytest.fixture
def launcher() -> ScriptedLauncher:
    return ScriptedLauncher()


@pytest.fixture
async def sandboxes(launcher: ScriptedLauncher) -> AsyncIterator[Sandboxes]:
    await launcher.prepare()
    limits = SandboxLimits(open=3, per_principal=2)
    async with Sandboxes(launcher, limits).running(read) as running:
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

    open_now = {view.id for view in await sandboxes.list(LOCAL)}
    assert open_now == {first.sandbox_id, third.sandbox_id}
    assert second.sandbox_id not in open_now


async def test_when_all_are_busy_the_limit_is_named(launcher: ScriptedLauncher) -> None:
    launcher.script = lambda code: Scripted(endless=True)
    await launcher.prepare()
    limits = SandboxLimits(per_principal=1)
    async with (
        Sandboxes(launcher, limits).running(read) as sandboxes,
        anyio.create_task_group() as tasks,
    ):
        tasks.start_soon(lambda: sandboxes.run(LOCAL, "loop", timeout=60))

        async def busy() -> bool:
            return any(view.busy for view in await sandboxes.list(LOCAL))

        assert await eventually(busy, 5)
        with pytest.raises(LimitReached, match="per_principal"):
            await sandboxes.run(LOCAL, "x")
        tasks.cancel_scope.cancel()


async def test_while_the_image_is_built_the_answer_comes_at_once_and_says_how_far(
    launcher: ScriptedLauncher,
) -> None:
    launcher.standing = Preparation(ready=False, words="step 4 of 11", fraction=0.3)
    async with Sandboxes(launcher).running(read) as sandboxes:
        with anyio.fail_after(2), pytest.raises(Unavailable, match=r"step 4 of 11 \(30%\)"):
            await sandboxes.run(LOCAL, "x")


async def test_leaving_a_connection_closes_its_sandbox(
    sandboxes: Sandboxes, launcher: ScriptedLauncher
) -> None:
    await sandboxes.run(LOCAL, "x", scope="a")

    await sandboxes.release("a")

    assert await sandboxes.list(LOCAL) == []


async def test_a_sandbox_that_died_is_said_and_the_connection_gets_a_new_one(
    sandboxes: Sandboxes, launcher: ScriptedLauncher
) -> None:
    first = await sandboxes.run(LOCAL, "x", scope="a")
    launcher.sandboxes[-1].script = lambda code: Scripted(dies=True)

    with pytest.raises(Unavailable, match="ended"):
        await sandboxes.run(LOCAL, "boom", scope="a")
    again = await sandboxes.run(LOCAL, "x", scope="a")

    assert again.fresh
    assert again.sandbox_id != first.sandbox_id


async def test_a_timeout_out_of_range_is_refused_in_words(sandboxes: Sandboxes) -> None:
    with pytest.raises(Invalid, match="240"):
        await sandboxes.run(LOCAL, "x", timeout=1000)
