"""The whole of it for real: `lap-mcp serve`, its store, a Docker sandbox, the official client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from anthropic import AsyncAnthropic

from lap_mcp.app import Program
from lap_mcp.config import Surroundings
from lap_mcp.hosting import serve_http
from tests.anthropic_front.messaging import ALL, PYTHON, SHELL, UPSTREAM_KEY
from tests.anthropic_front.upstream import Say, Upstream, bash, edit, playing, python
from tests.waiting import eventually_async

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

KEY = "a-key-of-sufficient-length-for-this"
CSV = b"region,amount\nnorth,10\nsouth,20\nnorth,30\n"
ANALYSIS = """
import pandas as pd, matplotlib.pyplot as plt
frame = pd.read_csv("/mnt/data/sales.csv")
frame.groupby("region").amount.sum().plot.bar()
plt.show()
print("rows", len(frame))
int(frame.amount.sum())
"""


@asynccontextmanager
async def serving(upstream: Upstream, folder: Path) -> AsyncIterator[AsyncAnthropic]:
    """Our program in this process, with everything real but the model."""
    async with playing(upstream), anyio.create_task_group() as tasks:
        config = folder / "lap.toml"
        config.write_text(
            f'[models.m]\napi = "anthropic"\nbase_url = "{upstream.url}"\n'
            'api_key = "env:UPSTREAM"\n[server]\nport = 0\n'
        )
        config.chmod(0o600)
        environ = {"LAP_HOME": str(folder / "home"), "UPSTREAM": UPSTREAM_KEY}
        here = Surroundings(environ=environ, home=folder, folder=folder)
        program = Program(here=here, option=str(config))
        address: list[str] = []

        async def run() -> None:
            config = await anyio.to_thread.run_sync(program.read)
            await serve_http(program, config.require(), KEY, address.append)

        tasks.start_soon(run)
        await eventually_async(lambda: bool(address), within=60)
        url = address[0].removesuffix("/mcp")
        async with AsyncAnthropic(base_url=url, api_key=KEY, max_retries=0) as client:
            yield client
        tasks.cancel_scope.cancel()


async def ask(client: AsyncAnthropic, tool: Any, content: Any = "go", **more: Any) -> Any:
    """The accumulated stream."""
    messages: Any = [{"role": "user", "content": content}]
    asked: dict[str, Any] = {"model": "m", "max_tokens": 100, "messages": messages, **more}
    async with client.beta.messages.stream(**asked, tools=[tool]) as stream:
        return await stream.get_final_message()


def results(message: Any) -> list[Any]:
    return [block.content for block in message.content if block.type.endswith("_tool_result")]


async def test_an_upload_is_analysed_and_its_figure_downloaded(tmp_path: Path) -> None:
    upstream = Upstream([Say("I look"), python(ANALYSIS)], [Say("60")])
    async with serving(upstream, tmp_path) as client:
        files = client.beta.files
        upload = await files.upload(file=("sales.csv", CSV, "text/csv"))
        content = [
            {"type": "text", "text": "analyse"},
            {"type": "container_upload", "file_id": upload.id},
        ]
        message = await ask(client, PYTHON, content)
        (result,) = results(message)
        assert (result.stdout, result.stderr, result.return_code) == ("rows 3\n60\n", "", 0)
        (figure,) = [part.file_id for part in result.content]
        png = await (await files.download(figure)).read()
        assert png.startswith(b"\x89PNG")
        listed = await files.list(scope_id=message.container.id)
        assert {each.id for each in listed.data} >= {figure}
        assert (await files.delete(figure)).id == figure
    seen = upstream.asked[1]["messages"][-1]["content"][0]["content"]
    assert seen[0]["text"] == "rows 3\n60"
    assert seen[1]["source"]["media_type"] == "image/png"


async def test_bash_and_the_editor_work_on_the_same_files_and_a_container_keeps_them(
    tmp_path: Path,
) -> None:
    upstream = Upstream(
        [
            edit("create", "/mnt/data/a.txt", file_text="one\ntwo\nthree\n"),
            edit("str_replace", "/mnt/data/a.txt", old_str="two", new_str="zwei"),
            edit("insert", "/mnt/data/a.txt", insert_line=1, insert_text="neu\n"),
            edit("view", "/mnt/data/a.txt", view_range=[2, 3]),
            bash("wc -l < a.txt; echo careful >&2; exit 3"),
        ],
        [Say("done")],
        [bash("cat a.txt; nc -z 1.1.1.1 53 || echo no network"), edit("view", "/mnt/data")],
        [edit("view", "/mnt/data/none.txt"), edit("create", "/etc/x", file_text="x")],
        [edit("str_replace", "/mnt/data/a.txt", old_str="nowhere", new_str="x")],
        [Say("kept")],
    )
    async with serving(upstream, tmp_path) as client:
        first = await ask(client, SHELL)
        create, replace, insert, view, shell = results(first)
        assert create.is_file_update is False
        assert replace.lines is not None
        assert "+zwei" in replace.lines
        assert insert.type == "text_editor_code_execution_str_replace_result"
        assert (view.content, view.start_line, view.total_lines) == ("neu\nzwei", 2, 4)
        assert (shell.stdout, shell.stderr, shell.return_code) == ("4\n", "careful\n", 3)
        again = await ask(client, SHELL, container=first.container.id)
        assert again.container.id == first.container.id
        cat, folder, missing, outside, nowhere = results(again)
        assert cat.stdout == "one\nneu\nzwei\nthree\nno network\n"
        assert "a.txt" in folder.content
        assert missing.error_code == "file_not_found"
        assert outside.type == "text_editor_code_execution_tool_result_error"
        assert nowhere.error_code == "invalid_tool_input"


async def test_python_of_the_newest_version_keeps_its_state_beside_bash(tmp_path: Path) -> None:
    upstream = Upstream(
        [python("x = 41; open('b.txt', 'w').write('b')")],
        [bash("cat /mnt/data/b.txt")],
        [python("print(x + 1)\n1 / 0")],
        [Say("ok")],
    )
    async with serving(upstream, tmp_path) as client:
        _, shell, failed = results(await ask(client, ALL))
    assert shell.stdout == "b"
    assert (failed.stdout, failed.return_code) == ("42\n", 1)
    assert "ZeroDivisionError" in failed.stderr
