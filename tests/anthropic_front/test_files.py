"""Files and containers as Anthropic's clients know them; who may come in, and whose is what."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anthropic
import pytest

from tests.anthropic_front.messaging import ALICE_KEY, BOB_KEY, PYTHON, Served, serving
from tests.anthropic_front.upstream import Hang, Say, Upstream, python
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio


async def ask(f: Served, content: Any, key: str = ALICE_KEY, **more: Any) -> Any:
    return await f.client(key).beta.messages.create(
        model="claude-test",
        max_tokens=9,
        messages=[{"role": "user", "content": content}],
        tools=[PYTHON],  # type: ignore[list-item]
        **more,
    )


async def test_an_upload_is_in_the_sandbox_and_what_code_writes_is_downloaded(
    tmp_path: Path,
) -> None:
    upstream = Upstream([python("write out.csv a,b")], [Say("done")])
    async with serving(upstream, tmp_path) as f:
        files = f.client().beta.files
        file = await files.upload(file=("data.csv", b"x\n1\n", "text/csv"))
        assert (file.type, file.filename, file.size_bytes) == ("file", "data.csv", 4)
        assert (await files.retrieve_metadata(file.id)).mime_type == "text/csv"
        assert [each.id async for each in files.list()] == [file.id]
        upload = {"type": "container_upload", "file_id": file.id}
        message = await ask(f, [{"type": "text", "text": "go"}, upload])
        sandbox = f.launcher.sandboxes[0]
        assert sandbox.files["data.csv"][0] == b"x\n1\n"
        made = message.content[1].content.content[0]
        assert made.type == "code_execution_output"
        assert await (await files.download(made.file_id)).read() == b"a,b"
        assert (await files.retrieve_metadata(made.file_id)).filename == "out.csv"
        assert (await files.delete(made.file_id)).type == "file_deleted"
        assert (await files.delete(file.id)).id == file.id
        with pytest.raises(anthropic.NotFoundError):
            await files.retrieve_metadata(file.id)
        with pytest.raises(anthropic.NotFoundError, match="file_id"):
            await ask(f, [upload])
    given = upstream.asked[0]["messages"][0]["content"][1]
    assert given["type"] == "text"
    assert "/mnt/data/data.csv" in given["text"]


async def test_a_list_of_files_is_paged(tmp_path: Path) -> None:
    async with serving(Upstream(), tmp_path) as f:
        files = f.client().beta.files
        made = [await files.upload(file=(f"{n}.txt", b"x")) for n in range(3)]
        listed = [each.id async for each in files.list(limit=2)]
    assert sorted(listed) == sorted(each.id for each in made)


async def test_files_are_listed_by_id_and_by_container(tmp_path: Path) -> None:
    upstream = Upstream([python("write a.txt 1")], [Say("ok")])
    async with serving(upstream, tmp_path) as f:
        files = f.client().beta.files
        made = [(await files.upload(file=(f"{n}.txt", b"x"))).id for n in range(3)]
        listed = await files.list(ids=[made[2], "file_nobody", made[0], made[2]])
        assert [each.id for each in listed.data] == [made[2], made[0]]
        message = await ask(f, "go")
        scope = await files.list(scope_id=message.container.id)
        assert [each.filename for each in scope.data] == ["a.txt"]
        assert [each async for each in files.list(scope_id="ses_nobody")] == []
        assert [e async for e in f.client(BOB_KEY).beta.files.list(ids=made)] == []
        theirs = f.client(BOB_KEY).beta.files.list(scope_id=message.container.id)
        assert [each async for each in theirs] == []
        for wrong in ({"ids": made, "limit": 2}, {"ids": [str(n) for n in range(101)]}):
            with pytest.raises(anthropic.BadRequestError, match="ids"):
                await files.list(**wrong)  # type: ignore[arg-type]


async def test_an_upload_expires_when_its_client_said_so(tmp_path: Path) -> None:
    async with serving(Upstream(), tmp_path) as f:
        files = f.client().beta.files
        file: Any = await files.upload(file=("a.txt", b"x"), expires_in_seconds=3600)
        assert (file.expires_at - file.created_at).total_seconds() == 3600
        for wrong in (3599, 7_776_001):
            with pytest.raises(anthropic.BadRequestError, match="expires_in_seconds"):
                await files.upload(file=("a.txt", b"x"), expires_in_seconds=wrong)


async def test_nothing_that_a_client_says_is_taken_and_ignored(tmp_path: Path) -> None:
    """What is not served is refused in words, on every route."""
    async with serving(Upstream(), tmp_path) as f:
        client = f.client()
        for doing in (
            client.beta.files.list(extra_query={"purpose": "x"}),
            client.models.list(extra_query={"order": "asc"}),
            client.beta.files.upload(file=("a", b"x"), extra_query={"purpose": "x"}),
            client.beta.files.upload(file=("a", b"x"), extra_body={"purpose": "x"}),
        ):
            with pytest.raises(anthropic.BadRequestError, match="there is no such"):
                await doing
        headers = {"anthropic-workspace-id": "wrkspc_1"}
        for path in ("/v1/messages", "/v1/files"):
            with pytest.raises(anthropic.BadRequestError, match="anthropic-workspace-id"):
                await client.post(path, body={}, cast_to=object, options={"headers": headers})
        assert (await client.models.list(limit=1)).data[0].id == "claude-test"
        assert (await client.models.list(after_id="claude-test")).data == []
        assert (await client.models.list(lifecycle=["retired"])).data == []
        with pytest.raises(anthropic.BadRequestError, match="limit"):
            await client.models.list(limit=0)
    assert f.upstream.asked == []


async def test_a_container_is_used_again_with_its_files(tmp_path: Path) -> None:
    upstream = Upstream([python("write a.txt 1")], [Say("ok")], [python("say 2")], [Say("ok")])
    async with serving(upstream, tmp_path) as f:
        first = (await ask(f, "go")).container
        again = await ask(f, "go", container=first.id)
        assert again.container.id == first.id
        assert len(f.launcher.sandboxes) == 1
        assert again.container.expires_at >= first.expires_at
        assert (await f.openai().containers.retrieve(first.id)).id == first.id


async def test_nobody_reaches_what_is_somebody_elses(tmp_path: Path) -> None:
    upstream = Upstream([python("write a.txt 1")], [Say("ok")])
    async with serving(upstream, tmp_path) as f:
        message = await ask(f, "go")
        theirs = message.content[0 + 1].content.content[0].file_id
        bob = f.client(BOB_KEY)
        upload = {"type": "container_upload", "file_id": theirs}
        for doing in (
            bob.beta.files.download(theirs),
            bob.beta.files.delete(theirs),
            ask(f, "go", BOB_KEY, container=message.container.id),
            ask(f, [upload], BOB_KEY),
        ):
            with pytest.raises(anthropic.NotFoundError):
                await doing
    assert len(upstream.asked) == 2


async def test_both_vendors_clients_see_the_same_files_each_in_its_own_shape(
    tmp_path: Path,
) -> None:
    async with serving(Upstream([Say("read")]), tmp_path) as f:
        client, other = f.client(), f.openai()
        file = await other.files.create(file=("a.txt", b"hello"), purpose="user_data")
        assert (await client.beta.files.retrieve_metadata(file.id)).size_bytes == 5
        assert (await other.files.retrieve(file.id)).object == "file"
        assert [each.id async for each in client.models.list()] == ["claude-test"]
        assert all(each.id.startswith("agent/") for each in (await other.models.list()).data)
        document = {"type": "document", "source": {"type": "file", "file_id": file.id}}
        await client.beta.messages.create(
            model="claude-test",
            max_tokens=9,
            messages=[{"role": "user", "content": [document]}],  # type: ignore[list-item]
        )
    source = f.upstream.asked[0]["messages"][0]["content"][0]["source"]
    assert source == {"type": "text", "media_type": "text/plain", "data": "hello"}


@pytest.mark.parametrize("key", ["", "wrong"])
async def test_without_the_key_nothing_is_reached_and_the_refusal_is_in_anthropics_shape(
    key: str, tmp_path: Path
) -> None:
    body = {"model": "claude-test", "max_tokens": 1, "messages": []}
    headers = {"anthropic-version": "2023-06-01"} | ({"x-api-key": key} if key else {})
    async with serving(Upstream(), tmp_path) as f:
        for method, path in (("POST", "messages"), ("GET", "files"), ("GET", "models")):
            answer = await f.raw(**headers).request(method, path, json=body)
            assert answer.status_code == 401
            assert answer.json()["error"]["type"] == "authentication_error"
        bearer = f.raw(authorization=f"Bearer {ALICE_KEY}", **headers)
        assert (await bearer.get("files")).status_code == 200
        # Beside a wrong bearer, a right x-api-key lets nobody in; nor does it anywhere else.
        both = f.raw(**{**headers, "authorization": "Bearer no", "x-api-key": ALICE_KEY})
        assert (await both.get("files")).status_code == 401
        elsewhere = f.raw(**{"x-api-key": ALICE_KEY})
        assert (await elsewhere.get("files")).status_code == 401
        assert (await elsewhere.get("containers")).status_code == 401
        page = f.raw(**{"x-api-key": ALICE_KEY, "origin": "https://evil.example"})
        assert (await page.post("messages", json=body)).status_code == 403
    assert not f.upstream.asked


async def test_a_client_that_goes_away_ends_the_upstream_and_the_code(tmp_path: Path) -> None:
    async with serving(Upstream([Say("a"), Hang()], [python("forever")]), tmp_path) as f:
        for opened in ("upstream", "sandbox"):
            stream = await f.client().beta.messages.create(
                model="claude-test",
                max_tokens=9,
                messages=[{"role": "user", "content": "go"}],
                tools=[PYTHON],  # type: ignore[list-item]
                stream=True,
            )
            async for event in stream:
                if event.type == "message_delta" or event.type == "content_block_stop":
                    break
                if opened == "upstream" and event.type == "content_block_delta":
                    break
            await stream.close()
            await eventually_async(lambda: f.upstream.open == 0)
        assert len(f.upstream.asked) == 2


async def test_a_sandbox_that_cannot_be_had_is_the_outcome_of_the_call(tmp_path: Path) -> None:
    async with serving(Upstream([python("say 1")], [Say("sorry")]), tmp_path) as f:
        f.launcher.max_sandboxes = 0
        message = await ask(f, "go")
    assert message.content[1].content.error_code in ("too_many_requests", "unavailable")
    assert message.content[2].text == "sorry"
