"""Programs of other makers, unmodified, running their own code-interpreter path against us."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from agents import (
    Agent,
    CodeInterpreterTool,
    OpenAIResponsesModel,
    RunConfig,
    Runner,
    function_tool,
)

from tests.capabilities import ROOT
from tests.conformance import suite
from tests.openai_front.fronting import ALICE_KEY, TOOL, fronted
from tests.openai_front.model import Call, Code, Model, Say, Think

pytestmark = pytest.mark.anyio

OUTPUTS = "code_interpreter_call.outputs"
QUIET = RunConfig(tracing_disabled=True)


@function_tool
def get_weather() -> str:
    """The weather."""
    return "sunny"


def agent(f: Any, *more: Any) -> Any:
    config: Any = {"type": "code_interpreter", "container": {"type": "auto"}}
    return Agent(
        name="analyst",
        instructions="compute",
        model=OpenAIResponsesModel("gpt-test", f.client()),
        tools=[CodeInterpreterTool(tool_config=config), *more],
    )


@pytest.mark.parametrize("api", ["responses", "chat"])
@pytest.mark.parametrize("live", [True, False])
async def test_openai_agents_runs_its_code_interpreter_path(
    tmp_path: Path, api: str, live: bool
) -> None:
    """Also with our live output in its stream; and with its own function in the same turn."""
    model = Model(
        [Think("hm"), Code("say 42\nwrite a.csv 1"), Call("get_weather")],
        [Code("say 43")],
        [Say("42, see [a](sandbox:/mnt/data/a.csv)")],
    )
    async with fronted(model, tmp_path, api=api, settings={"live_output": live}) as f:
        run = Runner.run_streamed(agent(f, get_weather), "what is it?", run_config=QUIET)
        kinds = [
            event.data.type
            async for event in run.stream_events()
            if event.type == "raw_response_event"
        ]
    assert run.final_output == "42, see [a](sandbox:/mnt/data/a.csv)"
    ran = [i.raw_item for i in run.new_items if i.type == "tool_call_item"]
    codes = [getattr(item, "code", None) for item in ran]
    assert [code for code in codes if code] == ["say 42\nwrite a.csv 1", "say 43"]
    assert "response.code_interpreter_call_code.delta" in kinds
    assert ("response.code_interpreter_call.output.delta" in kinds) == live
    assert "sunny" in json.dumps(model.asked[1])
    assert len(f.launcher.sandboxes) == 1


async def test_openai_agents_goes_on_with_a_conversation_of_its_own(tmp_path: Path) -> None:
    """It sends every item back itself."""
    model = Model([Code("say one")], [Say("1")], [Code("say two")], [Say("2")])
    async with fronted(model, tmp_path) as f:
        first = await Runner.run(agent(f), "one", run_config=QUIET)
        given: Any = [*first.to_input_list(), {"role": "user", "content": "two"}]
        second = await Runner.run(agent(f), given, run_config=QUIET)
    assert (first.final_output, second.final_output) == ("1", "2")
    assert len(f.launcher.sandboxes) == 1
    assert "one" in json.dumps(model.asked[2])


SCRIPT = """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: process.argv[2], apiKey: process.argv[3], maxRetries: 0 });
const tools = [{ type: "code_interpreter", container: { type: "auto" } }];
const include = ["code_interpreter_call.outputs"];
const whole = await client.responses.create({ model: "gpt-test", input: "go", tools, include });
const stream = client.responses.stream({ model: "gpt-test", input: "go", tools, include });
const kinds = [];
stream.on("event", (event) => kinds.push(event.type));
const final = await stream.finalResponse();
const call = whole.output.find((item) => item.type === "code_interpreter_call");
const files = [];
for await (const file of client.containers.files.list(call.container_id)) files.push(file.path);
console.log(JSON.stringify({ text: whole.output_text, same: final.output_text, kinds, files,
  outputs: call.outputs }));
"""


@pytest.mark.conformance
async def test_the_official_npm_client_reads_every_answer(tmp_path: Path) -> None:
    """Its stream helper refuses events that it does not know, so there are none by default."""
    (tmp_path / "node_modules").symlink_to(suite.CACHE / "node_modules")
    script = tmp_path / "client.mjs"
    script.write_text(SCRIPT)
    run = [str(suite.node()), "--preserve-symlinks", "--preserve-symlinks-main", str(script)]
    turns: list[Any] = [[Code("say hi\nwrite a.csv 1")], [Say("see [a](sandbox:/mnt/data/a.csv)")]]
    async with fronted(Model(*turns, *turns), tmp_path) as f:
        with anyio.fail_after(60):
            done = await anyio.run_process(
                [*run, f"{f.url}/v1", ALICE_KEY], check=False, stderr=subprocess.PIPE
            )
    assert done.returncode == 0, done.stderr.decode()
    said = json.loads(done.stdout)
    assert said["text"] == said["same"] == "see [a](sandbox:/mnt/data/a.csv)"
    assert said["files"] == ["/mnt/data/a.csv"]
    assert said["outputs"] == [{"type": "logs", "logs": "hi"}]
    assert "response.code_interpreter_call.interpreting" in said["kinds"]


async def test_the_official_python_client_bears_our_live_output(tmp_path: Path) -> None:
    async with fronted(
        Model([Code("say hi")], [Say("x")]), tmp_path, settings={"live_output": True}
    ) as f:
        stream = f.client().responses.stream(model="gpt-test", input="go", tools=[TOOL])  # type: ignore[list-item]
        async with stream as events:
            told = [e async for e in events if "output.delta" in e.type]
            final = await events.get_final_response()
    assert [event.delta for event in told] == ["hi\n"]  # type: ignore[union-attr]
    assert final.output_text == "x"


async def test_the_example_runs_and_saves_what_the_answer_links(tmp_path: Path) -> None:
    model = Model(
        [Code("say 42\nplot\nwrite monthly.csv 1,2")],
        [Say("see [totals](sandbox:/mnt/data/monthly.csv)")],
    )
    example = ROOT / "examples" / "openai_sdk" / "analysis.py"
    async with fronted(model, tmp_path) as f:
        environ = {"OPENAI_BASE_URL": f"{f.url}/v1", "OPENAI_API_KEY": ALICE_KEY, "PATH": ""}
        with anyio.fail_after(60):
            done = await anyio.run_process(
                [sys.executable, str(example), "gpt-test"], cwd=tmp_path, env=environ
            )
    assert b"saved monthly.csv" in done.stdout
    assert (tmp_path / "monthly.csv").read_bytes() == b"1,2"
    assert sum(entry.name.endswith(".png") for entry in os.scandir(tmp_path)) == 1
    assert f.launcher.sandboxes[0].files["sales.csv"][0].startswith(b"month,region")
