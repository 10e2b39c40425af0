"""Containers and files, with the official client."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.openai_front.fronting import PNG, TOOL, Clock, fronted
from tests.openai_front.model import Code, Model, Say

pytestmark = pytest.mark.anyio


async def test_a_container_lives_as_openais_does(tmp_path: Path) -> None:
    clock = Clock()
    async with fronted(Model(), tmp_path, clock=clock) as f:
        containers = f.client().containers
        made = await containers.create(
            name="mine",
            memory_limit="4g",
            expires_after={"anchor": "last_active_at", "minutes": 5},
        )
        assert (made.object, made.status, made.name) == ("container", "running", "mine")
        assert made.memory_limit == "4g"
        assert made.network_policy is not None
        assert made.network_policy.type == "disabled"
        clock.offset += 200
        await containers.retrieve(made.id)
        clock.offset += 200
        assert (await containers.retrieve(made.id)).status == "running"
        clock.offset += 400
        assert (await containers.retrieve(made.id)).status == "expired"
        await containers.delete(made.id)
        with pytest.raises(openai.NotFoundError):
            await containers.retrieve(made.id)


async def test_lists_come_in_pages_in_both_orders(tmp_path: Path) -> None:
    async with fronted(Model(), tmp_path) as f:
        containers = f.client().containers
        made = [(await containers.create(name=f"c{n}")).id for n in range(5)]
        newest = [c.id async for c in containers.list(limit=2)]
        oldest = [c.id async for c in containers.list(limit=2, order="asc")]
        named = [c.name async for c in containers.list(extra_query={"name": "c3"})]
        page = await f.raw().get("/containers?limit=2")
    assert sorted(newest) == sorted(oldest) == sorted(made)
    assert newest == list(reversed(oldest))
    assert named == ["c3"]
    assert page.json()["has_more"] is True
    assert page.json()["last_id"] == page.json()["data"][-1]["id"]


async def test_files_in_a_container_are_put_listed_read_and_deleted(tmp_path: Path) -> None:
    model = Model([Code("say 1")], [Say("x")])
    async with fronted(model, tmp_path) as f:
        client = f.client()
        container = await client.containers.create(name="x")
        files = client.containers.files
        first = await files.create(container.id, file=("a b.csv", b"1,2"))
        upload = await client.files.create(file=("b.csv", b"3,4"), purpose="user_data")
        second = await files.create(container.id, file_id=upload.id)
        assert (first.path, first.source, first.bytes) == ("/mnt/data/a b.csv", "user", 3)
        assert second.path == "/mnt/data/b.csv"
        listed = [file.id async for file in files.list(container.id)]
        assert sorted(listed) == sorted([first.id, second.id])
        content = await files.content.retrieve(first.id, container_id=container.id)
        assert content.read() == b"1,2"
        assert "attachment" in content.response.headers["content-disposition"]
        tool: Any = {"type": "code_interpreter", "container": container.id}
        await client.responses.create(model="gpt-test", input="go", tools=[tool])
        box = f.launcher.sandboxes[0]
        assert {name: data for name, (data, _) in box.files.items()} == {
            "a b.csv": b"1,2",
            "b.csv": b"3,4",
        }
        assert f"{upload.id}-b.csv" in box.executed[0]
        await files.create(container.id, file=("late.csv", b"5"))
        assert box.files["late.csv"][0] == b"5"
        await files.delete(first.id, container_id=container.id)
        assert "a b.csv" not in box.files
        with pytest.raises(openai.NotFoundError):
            await files.retrieve(first.id, container_id=container.id)


async def test_what_code_makes_and_shows_can_be_downloaded_also_after_the_sandbox_is_gone(
    tmp_path: Path,
) -> None:
    model = Model([Code("write out.csv 9\nplot")], [Say("[o](sandbox:/mnt/data/out.csv)")])
    async with fronted(model, tmp_path) as f:
        client = f.client()
        answer: Any = await client.responses.create(model="gpt-test", input="x", tools=[TOOL])  # type: ignore[list-item]
        await f.launcher.sandboxes[0].close()
        link, figure = answer.output[1].content[0].annotations
        files = client.containers.files
        for citation, expected in ((link, b"9"), (figure, PNG)):
            content = await files.content.retrieve(
                citation.file_id, container_id=citation.container_id
            )
            assert content.read() == expected
        listed = await files.list(link.container_id)
    assert sorted(file.source for file in listed.data) == ["assistant", "assistant"]
    assert figure.filename == f"{figure.file_id}.png"
    assert (figure.start_index, figure.end_index) == (0, 0)
    text = answer.output_text
    assert text[link.start_index : link.end_index] == "sandbox:/mnt/data/out.csv"


async def test_a_file_that_code_changes_keeps_its_id_and_one_it_removes_is_gone(
    tmp_path: Path,
) -> None:
    model = Model(
        [Code("write a.csv 1")], [Say("x")], [Code("write a.csv 22")], [Say("x")],
        [Code("say gone")], [Say("[a](sandbox:/mnt/data/a.csv)")],
    )  # fmt: skip
    async with fronted(model, tmp_path) as f:
        client = f.client()
        first: Any = await client.responses.create(model="gpt-test", input="x", tools=[TOOL])  # type: ignore[list-item]
        container_id = first.output[0].container_id
        tool: Any = {"type": "code_interpreter", "container": container_id}
        before = (await client.containers.files.list(container_id)).data
        await client.responses.create(model="gpt-test", input="x", tools=[tool])
        after = (await client.containers.files.list(container_id)).data
        assert [file.id for file in before] == [file.id for file in after]
        assert after[0].bytes == 2
        del f.launcher.sandboxes[0].files["a.csv"]
        last: Any = await client.responses.create(model="gpt-test", input="x", tools=[tool])
        assert (await client.containers.files.list(container_id)).data == []
        assert last.output[1].content[0].annotations == []


async def test_files_of_a_request_are_in_the_container_and_named_to_the_model(
    tmp_path: Path,
) -> None:
    model = Model([Code("say 1")], [Say("x")])
    async with fronted(model, tmp_path) as f:
        client = f.client()
        by_tool = await client.files.create(file=("tool.csv", b"1"), purpose="assistants")
        by_input = await client.files.create(file=("in.csv", b"2"), purpose="user_data")
        tool: Any = {
            "type": "code_interpreter",
            "container": {"type": "auto", "file_ids": [by_tool.id]},
        }
        parts: list[Any] = [
            {"type": "input_file", "file_id": by_input.id},
            {"type": "input_file", "filename": "inline.csv", "file_data": "data:;base64,Mw=="},
            {"type": "input_text", "text": "look"},
        ]
        given: Any = [{"role": "user", "content": parts}]
        await client.responses.create(model="gpt-test", input=given, tools=[tool])
    box = f.launcher.sandboxes[0]
    assert {name: data for name, (data, _) in box.files.items()} == {
        "tool.csv": b"1",
        "in.csv": b"2",
        "inline.csv": b"3",
    }
    sent = json.dumps(model.asked[0])
    assert by_input.id not in sent
    assert "/mnt/data/in.csv" in sent
    assert "/mnt/data/inline.csv" in sent


async def test_a_picture_of_ours_is_shown_to_the_model_as_data(tmp_path: Path) -> None:
    model = Model([Say("nice")])
    async with fronted(model, tmp_path) as f:
        client = f.client()
        upload = await client.files.create(file=("a.png", PNG), purpose="vision")
        part: Any = {"type": "input_image", "file_id": upload.id, "detail": "low"}
        given: Any = [{"role": "user", "content": [part]}]
        await client.responses.create(model="gpt-test", input=given)
    (part,) = model.asked[0]["input"][0]["content"]
    assert part["image_url"].startswith("data:image/png;base64,iVBOR")
    assert "file_id" not in part


async def test_uploads_are_listed_read_expire_and_are_deleted(tmp_path: Path) -> None:
    clock = Clock()
    async with fronted(Model(), tmp_path, clock=clock) as f:
        files = f.client().files
        kept = await files.create(file=("a.csv", b"1,2"), purpose="user_data")
        short = await files.create(
            file=("b.csv", b"3"),
            purpose="assistants",
            expires_after={"anchor": "created_at", "seconds": 3600},
        )
        assert (kept.object, kept.filename, kept.bytes) == ("file", "a.csv", 3)
        assert kept.status == "processed"
        assert short.expires_at == short.created_at + 3600
        assert [file.id async for file in files.list(purpose="assistants")] == [short.id]
        assert (await files.content(kept.id)).read() == b"1,2"
        clock.offset += 3700
        with pytest.raises(openai.NotFoundError):
            await files.retrieve(short.id)
        assert (await files.delete(kept.id)).deleted
        with pytest.raises(openai.NotFoundError):
            await files.content(kept.id)


@pytest.mark.parametrize("name", ["../../x", "/etc/x", "a\\b", "CON", "x" * 300, "..", ".hidden"])
async def test_a_hostile_name_is_made_plain(tmp_path: Path, name: str) -> None:
    async with fronted(Model(), tmp_path) as f:
        client = f.client()
        container = await client.containers.create(name="x")
        file = await client.containers.files.create(container.id, file=(name, b"1"))
    path = file.path.removeprefix("/mnt/data/")
    assert "/" not in path
    assert not path.startswith(".")
    assert 0 < len(path) <= 200


async def test_too_large_an_upload_is_refused_in_words(tmp_path: Path) -> None:
    async with fronted(Model(), tmp_path) as f:
        client = f.client()
        container = await client.containers.create(name="x")
        big = b"x" * (1024 * 1024 + 1)
        with pytest.raises(openai.APIStatusError) as caught:
            await client.files.create(file=("a", big), purpose="user_data")
        assert "is the limit" in caught.value.message
        with pytest.raises(openai.APIStatusError) as caught:
            await client.containers.files.create(container.id, file=("a", big))
        assert caught.value.status_code == 413


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "name is required"),
        ({"name": "x", "network_policy": {"type": "allowlist"}}, "no network"),
        ({"name": "x", "memory_limit": "2g"}, "memory_limit"),
        ({"name": "x", "memory_limit": "16g"}, "at most 4g"),
        ({"name": "x", "expires_after": {"anchor": "created_at", "minutes": 5}}, "expires_after"),
        ({"name": "x", "expires_after": {"anchor": "last_active_at", "minutes": 0}}, "minutes"),
        ({"name": "x", "skills": [{"type": "x"}]}, "no skills"),
        ({"name": "x", "file_ids": ["file-none"]}, "No such File"),
    ],
)
async def test_a_container_that_cannot_be_made_is_refused_in_words(
    tmp_path: Path, body: dict[str, Any], words: str
) -> None:
    async with fronted(Model(), tmp_path) as f:
        answer = await f.raw().post("/containers", json=body)
        assert answer.status_code in (400, 404)
        assert words in answer.json()["error"]["message"]
        assert (await f.client().containers.list()).data == []
