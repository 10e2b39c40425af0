"""What a fresh attacker tried on containers, files and the relay."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from lap_mcp.anthropic_front import usage as anthropic_usage
from lap_mcp.openai_front import usage as openai_usage
from tests.openai_front.fronting import TOOL, fronted
from tests.openai_front.model import Code, Model, Say
from tests.openai_front.test_connections import peer
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio


async def test_two_uploads_of_one_name_are_both_there_and_the_model_knows_which(
    tmp_path: Path,
) -> None:
    async with fronted(Model([Code("say 1")], [Say("done")]), tmp_path) as f:
        files = f.client().files
        one = await files.create(file=("data.csv", b"first"), purpose="user_data")
        two = await files.create(file=("data.csv", b"second"), purpose="user_data")
        given = [{"type": "input_file", "file_id": each.id} for each in (one, two)]
        asked: Any = [{"role": "user", "content": given}]
        await f.client().responses.create(model="gpt-test", input=asked, tools=[TOOL])  # type: ignore[list-item]
        placed = f.launcher.sandboxes[0].files
        told = f.model.asked[0]["input"][0]["content"]
    assert placed["data.csv"][0] == b"first"
    assert placed[f"{two.id}-data.csv"][0] == b"second"
    assert [part["text"] for part in told] == [
        "[The file /mnt/data/data.csv]",
        f"[The file /mnt/data/{two.id}-data.csv]",
    ]


async def test_whoever_leaves_at_the_last_event_finds_the_response_stored(tmp_path: Path) -> None:
    """It was stored behind that event, so that a client that was quick lost it."""
    turns: Any = [[Code("say 1")], [Say("done")]] * 20
    body: Any = {"model": "gpt-test", "input": "go", "tools": [TOOL], "stream": True}
    async with fronted(Model(*turns), tmp_path) as f:
        for _ in range(20):
            async with await f.client().responses.create(**body) as stream:
                async for event in stream:
                    if event.type == "response.completed":
                        break
            found = await f.raw().get(f"/responses/{event.response.id}")
            assert found.json()["status"] == "completed"


async def test_code_that_waits_for_a_container_that_is_deleted_opens_no_other(
    tmp_path: Path,
) -> None:
    """Its sandbox would have no owner any more."""
    turns: Any = [[Code("forever")], [Code("say 2")], [Say("gone")], [Say("gone")]]
    async with fronted(Model(*turns), tmp_path) as f:
        container = await f.client().containers.create(name="x")
        body: Any = {
            "model": "gpt-test",
            "input": "go",
            "tools": [{"type": "code_interpreter", "container": container.id}],
            "include": ["code_interpreter_call.outputs"],
        }
        answers: list[Any] = []

        async def one() -> None:
            answers.append(await f.client().responses.create(**body))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            await eventually_async(lambda: f.launcher.sandboxes and f.launcher.sandboxes[0].running)
            tasks.start_soon(f.client().containers.delete, container.id)
            await eventually_async(lambda: len(f.model.asked) == 1)
            tasks.start_soon(one)
            await eventually_async(lambda: len(f.model.asked) == 2)
            await f.launcher.sandboxes[0].interrupt()
        assert len(f.launcher.sandboxes) == 1
    texts = [answer.output[0].outputs[0].logs for answer in answers]
    assert any("not found" in text for text in texts)


@pytest.mark.parametrize("digits", ["9" * 5000, "9" * 25])
async def test_no_number_is_too_long_to_be_refused_in_words(tmp_path: Path, digits: str) -> None:
    async with fronted(Model([Code("forever")]), tmp_path) as f:
        raw = f.raw()
        form = {
            "purpose": "user_data",
            "expires_after[anchor]": "created_at",
            "expires_after[seconds]": digits,
        }
        answer = await raw.post("/files", data=form, files={"file": ("a", b"1")})
        assert answer.status_code == 400
        body = {"model": "gpt-test", "input": "go", "tools": [TOOL], "background": True}
        begun = (await raw.post("/responses", json=body)).json()["id"]
        query = {"stream": "true", "starting_after": digits}
        assert (await raw.get(f"/responses/{begun}", params=query)).status_code == 400


HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


async def test_an_answer_to_head_has_no_body_whatever_its_encoding_says() -> None:
    async def answer(there: Any, reader: Any, writer: Any) -> None:
        while True:
            await there.heard(reader)
            writer.write(HEAD)

    async with peer(answer) as (there, connections):
        for _ in range(2):
            with anyio.fail_after(30):
                reply = await connections.request("HEAD", "/", [(b"host", b"h")], None)
                assert [piece async for piece in reply.chunks()] == []
                await reply.aclose()
        assert there.connections == 1


@pytest.mark.parametrize(
    ("body", "again"),
    [
        (HEAD + b"2\r\nhi\r\n0\r\n\r\n", True),
        (HEAD + b"2\r\nhi\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n", False),
        (
            HEAD.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n") + b"2\r\nhi\r\n0\r\n\r\n",
            False,
        ),
    ],
)
async def test_a_connection_is_used_again_only_behind_a_whole_body(
    body: bytes, again: bool
) -> None:
    async def answer(there: Any, reader: Any, writer: Any) -> None:
        while True:
            await there.heard(reader)
            writer.write(body)

    async with peer(answer) as (there, connections):
        for _ in range(2):
            reply = await connections.request("POST", "/", [(b"host", b"h")], b"{}")
            assert b"".join([piece async for piece in reply.chunks()]) == b"hi"
            await reply.aclose()
        assert there.connections == (1 if again else 2)


@pytest.mark.parametrize(
    "added", [openai_usage.added, anthropic_usage.added], ids=["openai", "anthropic"]
)
def test_usage_that_nests_without_end_is_summed_without_failing(added: Any) -> None:
    deep: Any = {"n": 1}
    for _ in range(5000):
        deep = {"n": 1, "d": deep}
    assert added(deep, deep)["d"]["d"]["n"] == 2
