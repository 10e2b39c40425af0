"""The whole of it for real: `lap-mcp serve`, its store, a Docker sandbox, the official client."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from openai import AsyncOpenAI

from lap_mcp.app import Program
from lap_mcp.config import Surroundings
from lap_mcp.hosting import serve_http
from tests.openai_front.fronting import TOOL, UPSTREAM_KEY
from tests.openai_front.model import Code, Model, Say, playing
from tests.waiting import eventually_async

pytestmark = [pytest.mark.anyio, pytest.mark.docker]

KEY = "a-key-of-sufficient-length-for-this"
ANALYSIS = """
import pandas as pd, matplotlib.pyplot as plt
frame = pd.read_csv("/mnt/data/sales.csv")
frame.groupby("region").amount.sum().plot.bar()
plt.show()
frame.describe().to_csv("/mnt/data/summary.csv")
int(frame.amount.sum())
"""


@asynccontextmanager
async def serving(model: Model, folder: Path) -> AsyncIterator[AsyncOpenAI]:
    """Our program in this process, with everything real but the model."""
    async with playing(model), anyio.create_task_group() as tasks:
        config = folder / "lap.toml"
        config.write_text(
            f'[models.m]\nbase_url = "{model.url}"\napi_key = "env:UPSTREAM"\n[server]\nport = 0\n'
            "[openai]\nlive_output = true\n"
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
        async with AsyncOpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0) as client:
            yield client
        tasks.cancel_scope.cancel()


async def test_a_csv_is_analysed_plotted_and_its_results_downloaded(tmp_path: Path) -> None:
    """Uploads are there under both names; the sandbox may go, its files stay."""
    model = Model(
        [Code(ANALYSIS)],
        [Say("The sum is 60: [summary](sandbox:/mnt/data/summary.csv)")],
        [Code("import os; print(sorted(os.listdir('/mnt/data'))); frame.shape")],
        [Say("kept")],
        [Code("open('/mnt/data/summary.csv').read()[:8]")],
        [Say("restored")],
    )
    include: list[Any] = ["code_interpreter_call.outputs"]
    async with serving(model, tmp_path) as client:
        csv = b"region,amount\nnorth,10\nsouth,20\nnorth,30\n"
        upload = await client.files.create(file=("sales.csv", csv), purpose="user_data")
        tool: Any = {
            "type": "code_interpreter",
            "container": {"type": "auto", "file_ids": [upload.id]},
        }
        first: Any = await client.responses.create(
            model="m", input="analyse", tools=[tool], include=include
        )
        image, logs = first.output[0].outputs
        assert base64.b64decode(image.url.partition(",")[2]).startswith(b"\x89PNG")
        assert logs.logs.endswith("60")
        link, figure = first.output[1].content[0].annotations
        content = await client.containers.files.content.retrieve(
            link.file_id, container_id=link.container_id
        )
        assert b"mean" in content.read()
        assert figure.filename.endswith(".png")
        second: Any = await client.responses.create(
            model="m",
            input="more",
            previous_response_id=first.id,
            tools=[TOOL],
            include=include,  # type: ignore[list-item]
        )
        listed = second.output[0].outputs[0].logs
        assert f"'{upload.id}-sales.csv'" in listed
        assert "'sales.csv'" in listed
        assert listed.endswith("(3, 2)")
    async with serving(model, tmp_path) as client:
        third: Any = await client.responses.create(
            model="m",
            input="again",
            previous_response_id=second.id,
            tools=[TOOL],
            include=include,  # type: ignore[list-item]
        )
    assert "amount" in third.output[0].outputs[0].logs
    assert third.output[0].container_id == first.output[0].container_id
    assert "variables and imports are gone" in str(model.asked[5])


async def test_output_comes_live_and_a_client_that_goes_interrupts_the_code(
    tmp_path: Path,
) -> None:
    code = "import time\nfor n in range(1000):\n    print(n, flush=True); time.sleep(0.05)"
    model = Model([Code(code)], [Code("print('free', n < 999)")], [Say("x")])
    async with serving(model, tmp_path) as client:
        container = await client.containers.create(name="x")
        tool: Any = {"type": "code_interpreter", "container": container.id}
        stream = await client.responses.create(model="m", input="x", tools=[tool], stream=True)
        async with stream:
            async for event in stream:
                if "output.delta" in event.type:
                    break
        with anyio.fail_after(30):
            after: Any = await client.responses.create(
                model="m", input="x", tools=[tool], include=["code_interpreter_call.outputs"]
            )
    assert after.output[0].outputs[0].logs == "free True"
