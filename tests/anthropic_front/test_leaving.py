"""Who goes leaves nothing: a thousand aborted streams.  And the example runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.anthropic_front.messaging import ALICE_KEY, ALL, serving
from tests.anthropic_front.upstream import Call, Hang, Say, Upstream, bash, python
from tests.capabilities import ROOT
from tests.openai_front.fronting import language
from tests.waiting import eventually_async

pytestmark = pytest.mark.anyio


async def hang_up(url: str, body: dict[str, Any], heard: bytes) -> None:
    """Send a request, wait until `heard` came, and close."""
    host, _, port = url.removeprefix("http://").partition(":")
    data = json.dumps(body).encode()
    head = (
        f"POST /v1/messages HTTP/1.1\r\nHost: {host}:{port}\r\nX-Api-Key: {ALICE_KEY}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
    )
    async with await anyio.connect_tcp(host, int(port)) as stream:
        await stream.send(head.encode() + data)
        seen = b""
        while heard not in seen:
            seen += await stream.receive()


async def abort(url: str, bodies: list[dict[str, Any]], times: int) -> None:
    limiter = anyio.Semaphore(25)

    async def one(number: int) -> None:
        async with limiter:
            with anyio.fail_after(60):
                await hang_up(url, bodies[number % len(bodies)], b'"hel"')

    async with anyio.create_task_group() as tasks:
        for number in range(times):
            tasks.start_soon(one, number)


async def test_a_thousand_aborted_streams_leave_nothing_behind(tmp_path: Path) -> None:
    upstream = Upstream([Say("hello"), Call("x", {}), Hang()], endless=True)
    messages = [{"role": "user", "content": "go"}]
    plain: dict[str, Any] = {"model": "claude-test", "max_tokens": 9, "messages": messages}
    relayed = {**plain, "stream": True}
    intercepted = {**relayed, "tools": [ALL]}
    async with serving(upstream, tmp_path) as f:
        await abort(f.url, [intercepted, relayed], 40)
        await eventually_async(lambda: upstream.open == 0)
        before = len(anyio.get_running_tasks())
        await abort(f.url, [intercepted, relayed], 1000)
        await eventually_async(lambda: upstream.open == 0)
        await eventually_async(lambda: len(anyio.get_running_tasks()) <= before + 5)
        assert f.launcher.sandboxes == []
        assert [model.id async for model in f.client().models.list()] == ["claude-test"]
    assert len(upstream.asked) == 1040


async def test_a_client_that_goes_while_code_runs_ends_it_each_time(tmp_path: Path) -> None:
    upstream = Upstream([python("forever")], endless=True)
    messages = [{"role": "user", "content": "go"}]
    body: dict[str, Any] = {"model": "claude-test", "max_tokens": 9, "messages": messages}
    async with serving(upstream, tmp_path, run=language) as f:
        boxes = f.launcher.sandboxes
        for number in range(5):
            with anyio.fail_after(60):
                async with anyio.create_task_group() as tasks:
                    scope = anyio.CancelScope()

                    async def ask(scope: anyio.CancelScope = scope) -> None:
                        with scope:
                            await f.client().messages.create(**body, tools=[ALL])  # type: ignore[list-item]

                    tasks.start_soon(ask)
                    await eventually_async(
                        lambda number=number: len(boxes) > number and boxes[number].running  # type: ignore[misc]
                    )
                    scope.cancel()
            await eventually_async(lambda number=number: boxes[number].interrupts == 1)  # type: ignore[misc]
        await eventually_async(lambda: upstream.open == 0)


async def test_the_example_runs_and_saves_what_code_made(tmp_path: Path) -> None:
    upstream = Upstream([Say("I look"), bash("python3 plot.py")], [Say("see monthly.csv")])
    example = ROOT / "examples" / "anthropic_sdk" / "analysis.py"

    def run(code: str) -> Any:
        return language("plot\nwrite monthly.csv 1,2")

    async with serving(upstream, tmp_path, run=run) as f:
        environ = {"ANTHROPIC_BASE_URL": f.url, "ANTHROPIC_API_KEY": ALICE_KEY, "PATH": ""}
        with anyio.fail_after(60):
            done = await anyio.run_process(
                [sys.executable, str(example), "claude-test"], cwd=tmp_path, env=environ
            )
    assert b"see monthly.csv" in done.stdout
    assert b"saved monthly.csv" in done.stdout
    assert (tmp_path / "monthly.csv").read_bytes() == b"1,2"
    assert sum(entry.name.endswith(".png") for entry in os.scandir(tmp_path)) == 1
    assert f.launcher.sandboxes[0].files["sales.csv"][0].startswith(b"month,region")
