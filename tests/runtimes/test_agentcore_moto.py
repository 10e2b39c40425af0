"""The control plane as moto, a server of other people's, has it (tier 2): its agents are listed."""

from __future__ import annotations

from pathlib import Path

import anyio
import boto3
import pytest
from lap_runtimes.bedrock_agentcore import BedrockAgentCoreRuntime

from tests.canary import canary
from tests.runtimes.own_environment import environment, free_port, started

pytestmark = [pytest.mark.anyio, pytest.mark.tier2]

REGION = "us-east-1"


def create(url: str, *names: str) -> None:
    client = boto3.client(
        "bedrock-agentcore-control",
        region_name=REGION,
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key=canary("bedrock_agentcore"),
    )
    image = {"containerConfiguration": {"containerUri": "123456789012.dkr.ecr.example/a:1"}}
    try:
        for name in names:
            client.create_agent_runtime(
                agentRuntimeName=name,
                description=f"says {name}",
                agentRuntimeArtifact=image,
                roleArn="arn:aws:iam::123456789012:role/agents",
                networkConfiguration={"networkMode": "PUBLIC"},
                protocolConfiguration={"serverProtocol": "MCP" if name == "tools" else "HTTP"},
            )
    finally:
        client.close()


async def test_agents_are_listed_over_its_pages_but_for_those_of_another_protocol(
    tmp_path: Path,
) -> None:
    programs, port = environment("moto"), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(programs / "moto_server"), "-H", "127.0.0.1", "-p", str(port)]
    with started(command, folder=tmp_path, ready=url):
        create(url, "words", "numbers", "tools")
        context = {"resolve_secret": lambda reference: canary("bedrock_agentcore")}
        keys = {"access_key_id": "env:ID", "secret_access_key": "env:KEY"}
        kind = BedrockAgentCoreRuntime
        settings = {"region": REGION, "url": url, "aws": keys}
        runtime = kind(kind.Config.model_validate(settings, context=context))
        try:
            with anyio.fail_after(30):
                assert "AgentCore in us-east-1" in await runtime.check()
                found = {agent.name: agent for agent in await runtime.agents()}
        finally:
            await runtime.aclose()
    assert set(found) == {"words", "numbers"}
    assert found["words"].description == "says words"
    assert found["words"].ref.startswith("arn:aws:bedrock-agentcore:us-east-1:")
